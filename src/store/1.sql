-- The node's tables. Times are milliseconds since the epoch.

-- One row per (application, name, version) that was ever pushed, in order of first pushes.
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
CREATE INDEX files_by_state ON files (state, job);

-- The id is the order of acceptance. Operators' requests take numbers from the same sequence.
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    app TEXT NOT NULL DEFAULT '',   -- of a job that was pushed: the file's, for turns between applications
    origin TEXT NOT NULL DEFAULT '', -- host and port of its URL, for turns between origins
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
    spent_ms INTEGER NOT NULL DEFAULT 0, -- how much of it earlier starts have used
    activate INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'retrying', 'running', 'succeeded', 'failed', 'canceled')),
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
    failure TEXT,                   -- of the last attempt, or of the job once it has ended
    published TEXT,
    progress_at INTEGER,            -- when progress was last reported, by the uptime clock
    CHECK ((state IN ('queued', 'retrying', 'running')) = (url IS NOT NULL)),
    CHECK ((state IN ('queued', 'retrying', 'running')) = (finished IS NULL))
) STRICT;
CREATE INDEX jobs_by_file ON jobs (file, id);
CREATE INDEX jobs_by_push ON jobs (push, id);
CREATE INDEX jobs_waiting ON jobs (id) WHERE state IN ('queued', 'retrying');
CREATE INDEX jobs_running ON jobs (id) WHERE state = 'running';
-- Finds the delayed jobs by due time; those due at once are found by jobs_waiting.
CREATE INDEX jobs_put_off ON jobs (not_before) WHERE state IN ('queued', 'retrying') AND not_before > 0;
-- Applications and origins take turns: finds those with waiting jobs, and the next job of each.
CREATE INDEX jobs_by_turn ON jobs (app, origin, not_before, id) WHERE state IN ('queued', 'retrying');
CREATE INDEX jobs_by_size ON jobs (app, origin, size, id) WHERE state IN ('queued', 'retrying');
CREATE UNIQUE INDEX jobs_open ON jobs (file) WHERE state IN ('queued', 'retrying', 'running');

CREATE TRIGGER jobs_final BEFORE UPDATE OF state ON jobs
WHEN OLD.state IN ('succeeded', 'failed', 'canceled')
BEGIN SELECT RAISE(ABORT, 'a final state is never left'); END;

-- The complete versions on disk.
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

-- Every change of the live version: requested (`done` is null), then done or refused.
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

-- The timeline, for people and for `watch`.
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

-- Counters for lists and status, maintained by triggers: counting rows would take longer with
-- every version.
CREATE TABLE file_counts (
    app TEXT NOT NULL,
    state TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (app, state)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER files_in AFTER INSERT ON files
BEGIN
    INSERT INTO file_counts (app, state, n) VALUES (NEW.app, NEW.state, 1)
        ON CONFLICT (app, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER files_out AFTER DELETE ON files
BEGIN
    UPDATE file_counts SET n = n - 1 WHERE app = OLD.app AND state = OLD.state;
    DELETE FROM file_counts WHERE app = OLD.app AND n = 0;
END;
CREATE TRIGGER files_moved AFTER UPDATE OF state ON files WHEN OLD.state <> NEW.state
BEGIN
    UPDATE file_counts SET n = n - 1 WHERE app = OLD.app AND state = OLD.state;
    INSERT INTO file_counts (app, state, n) VALUES (NEW.app, NEW.state, 1)
        ON CONFLICT (app, state) DO UPDATE SET n = n + 1;
END;

CREATE TABLE release_counts (
    app TEXT NOT NULL PRIMARY KEY,
    names INTEGER NOT NULL,
    versions INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER releases_in AFTER INSERT ON releases
BEGIN
    INSERT INTO release_counts (app, names, versions, bytes) VALUES (NEW.app, 0, 0, 0) ON CONFLICT (app) DO NOTHING;
    UPDATE release_counts SET versions = versions + 1, bytes = bytes + NEW.bytes, names = names + NOT EXISTS (
        SELECT 1 FROM releases r WHERE r.app = NEW.app AND r.name = NEW.name AND r.version <> NEW.version)
        WHERE app = NEW.app;
END;
CREATE TRIGGER releases_out AFTER DELETE ON releases
BEGIN
    UPDATE release_counts SET versions = versions - 1, bytes = bytes - OLD.bytes, names = names - NOT EXISTS (
        SELECT 1 FROM releases r WHERE r.app = OLD.app AND r.name = OLD.name)
        WHERE app = OLD.app;
    DELETE FROM release_counts WHERE app = OLD.app AND versions = 0;
END;
CREATE TRIGGER releases_moved AFTER UPDATE OF bytes ON releases WHEN OLD.bytes <> NEW.bytes
BEGIN UPDATE release_counts SET bytes = bytes + NEW.bytes - OLD.bytes WHERE app = NEW.app; END;

-- Documents of the inbox that were admitted and still lie in `inbox/new`, by the SHA-256 of their
-- bytes, with the answer to each element: none is ever admitted twice.
CREATE TABLE documents (
    digest TEXT PRIMARY KEY,
    answers TEXT NOT NULL
) STRICT, WITHOUT ROWID;
