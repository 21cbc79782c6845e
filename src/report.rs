//! From the outbox to signed callbacks: at least once, in order per file.
