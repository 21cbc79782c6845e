-- Times are milliseconds since the epoch, except `born` and `next_at` of the outbox, which are by the uptime clock.

CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per (application, name, version) that was ever pushed, in the order of first pushes.
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    job INTEGER,                    -- the latest job of this key
    state TEXT NOT NULL,            -- and its state, for lists by state
    UNIQUE (app, name, version)
) STRICT;
CREATE INDEX files_by_app ON files (app, id);
CREATE INDEX files_by_state ON files (state, id);

-- The id is the order of acceptance. Operators' requests take numbers from the same sequence.
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    push TEXT NOT NULL,             -- the same for all files of one push
    seq INTEGER NOT NULL DEFAULT 0, -- its turn to become live: its id, or later when pushed again while running
    via TEXT NOT NULL,
    archive_type TEXT NOT NULL,
    size INTEGER,
    md5 TEXT,
    sha256 TEXT,
    url TEXT,                       -- secret, kept only while needed
    source TEXT NOT NULL,           -- the part of it that may be shown
    timeout_ms INTEGER NOT NULL,
    activate INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    stage TEXT,
    starts INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL,
    started INTEGER,
    updated INTEGER NOT NULL,
    finished INTEGER,
    received INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    fetched INTEGER NOT NULL DEFAULT 0,
    files INTEGER NOT NULL DEFAULT 0,
    written INTEGER NOT NULL DEFAULT 0,
    failure TEXT,
    published TEXT,
    progress_at INTEGER,            -- when progress was last reported, by the uptime clock
    CHECK ((state IN ('queued', 'running')) = (url IS NOT NULL)),
    CHECK ((state IN ('queued', 'running')) = (finished IS NULL))
) STRICT;
CREATE INDEX jobs_by_file ON jobs (file, id);
CREATE INDEX jobs_by_push ON jobs (push, id);
CREATE INDEX jobs_queued ON jobs (id) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (id) WHERE state = 'running';
CREATE UNIQUE INDEX jobs_open ON jobs (file) WHERE state IN ('queued', 'running');

CREATE TRIGGER jobs_final BEFORE UPDATE OF state ON jobs
WHEN OLD.state IN ('succeeded', 'failed', 'canceled')
BEGIN SELECT RAISE(ABORT, 'a final state is never left'); END;

-- The versions that are on the disk, whole.
CREATE TABLE releases (
    file INTEGER PRIMARY KEY REFERENCES files (id),
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    job INTEGER NOT NULL,
    size INTEGER,
    md5 TEXT,
    sha256 TEXT,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    published INTEGER NOT NULL,
    activated INTEGER,
    live INTEGER NOT NULL DEFAULT 0,
    pinned INTEGER NOT NULL DEFAULT 0,
    damage TEXT,                    -- what `verify` found, null while whole
    before INTEGER,                 -- the file that was live before this one became live: where rollback goes
    download TEXT NOT NULL          -- the path of its archive, whose digests cannot be turned back into a name
) STRICT;
CREATE UNIQUE INDEX releases_by_key ON releases (app, name, version);
CREATE INDEX releases_by_download ON releases (download);
CREATE UNIQUE INDEX releases_live ON releases (app, name) WHERE live = 1;
CREATE INDEX releases_by_age ON releases (app, name, published, file);
CREATE INDEX releases_by_before ON releases (before) WHERE before IS NOT NULL;

-- Every change of what is live: asked for (`done` is null), then done or refused.
CREATE TABLE activations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    from_version TEXT,
    to_version TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    job INTEGER,
    seq INTEGER NOT NULL,
    requested INTEGER NOT NULL,
    done INTEGER,
    error TEXT
) STRICT;
CREATE INDEX activations_by_name ON activations (app, name, seq);
CREATE INDEX activations_pending ON activations (id) WHERE done IS NULL;

-- What happened, for people and for `watch`.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ts INTEGER NOT NULL,
    file INTEGER REFERENCES files (id) ON DELETE CASCADE,
    job INTEGER REFERENCES jobs (id) ON DELETE CASCADE,
    type TEXT NOT NULL,
    stage TEXT,
    attempt INTEGER,
    bytes INTEGER,
    message TEXT NOT NULL,
    data TEXT
) STRICT;
CREATE INDEX events_by_job ON events (job, id) WHERE job IS NOT NULL;
CREATE INDEX events_by_file ON events (file, id);

-- Who is told, and how that goes.
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

-- One row per event and endpoint. `next_at` is null while an earlier row of the same endpoint and file is not settled.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    webhook_id TEXT NOT NULL,
    type TEXT NOT NULL,
    file INTEGER,
    job INTEGER,
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
CREATE INDEX outbox_order ON outbox (endpoint, file, id) WHERE state = 'pending';
CREATE INDEX outbox_by_type ON outbox (type, id) WHERE state = 'pending';
CREATE INDEX outbox_by_job ON outbox (job, id) WHERE state = 'pending';
CREATE INDEX outbox_pending ON outbox (id) WHERE state = 'pending';
CREATE INDEX outbox_settled ON outbox (state, id) WHERE state <> 'pending';

-- How many rows wait, kept by the database itself, so that the bound costs no counting.
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
