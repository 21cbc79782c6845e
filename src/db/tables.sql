-- The tables that every role has. Times are milliseconds since the epoch, except `born` and
-- `next_at` of the outbox, which use the uptime clock.

CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Receivers of callbacks, and the state of delivery to each.
CREATE TABLE endpoints (
    name TEXT NOT NULL PRIMARY KEY,
    target TEXT NOT NULL,           -- scheme, host and port
    types TEXT NOT NULL,            -- a JSON array of event types, empty for all
    state TEXT NOT NULL DEFAULT 'active',
    since INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    last_success INTEGER
) STRICT, WITHOUT ROWID;

-- One row per event and endpoint. `next_at` is null while an earlier row of the same endpoint and
-- order key is pending.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    webhook_id TEXT NOT NULL,
    type TEXT NOT NULL,
    order_key INTEGER,              -- rows of one key are delivered in order; null for those that need none
    data TEXT NOT NULL,
    created INTEGER NOT NULL,
    born INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER,
    refused INTEGER NOT NULL DEFAULT 0, -- the receiver answers, but does not want this one
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    settled INTEGER,
    last_error TEXT,
    CHECK ((state = 'pending') = (settled IS NULL))
) STRICT;
CREATE INDEX outbox_due ON outbox (endpoint, next_at, id) WHERE state = 'pending' AND next_at IS NOT NULL;
CREATE INDEX outbox_order ON outbox (endpoint, order_key, id) WHERE state = 'pending';
CREATE INDEX outbox_by_type ON outbox (type, id) WHERE state = 'pending';
CREATE INDEX outbox_by_order ON outbox (order_key, type) WHERE state = 'pending';
CREATE INDEX outbox_pending ON outbox (id) WHERE state = 'pending';
CREATE INDEX outbox_settled ON outbox (state, id) WHERE state <> 'pending';

-- The number of pending rows, maintained by triggers, so that enforcing the limit needs no counting.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters (name, n) VALUES ('outbox', 0);
CREATE TRIGGER outbox_in AFTER INSERT ON outbox WHEN NEW.state = 'pending'
BEGIN UPDATE counters SET n = n + 1 WHERE name = 'outbox'; END;
CREATE TRIGGER outbox_out AFTER DELETE ON outbox WHEN OLD.state = 'pending'
BEGIN UPDATE counters SET n = n - 1 WHERE name = 'outbox'; END;
CREATE TRIGGER outbox_moved AFTER UPDATE OF state ON outbox WHEN (OLD.state = 'pending') <> (NEW.state = 'pending')
BEGIN UPDATE counters SET n = n + iif(NEW.state = 'pending', 1, -1) WHERE name = 'outbox'; END;

CREATE TABLE nonces (
    access_key TEXT NOT NULL,
    nonce TEXT NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (access_key, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_by_expiry ON nonces (expires);
