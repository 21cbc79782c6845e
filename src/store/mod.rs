//! What the node knows, in SQLite: jobs, releases, events, outbox, nonces. One owner thread, group commit.
