-- What lists and status count, kept by the database itself: counting what is there takes longer with every version.
CREATE TABLE file_counts (
    app TEXT NOT NULL,
    state TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (app, state)
) STRICT, WITHOUT ROWID;
INSERT INTO file_counts (app, state, n) SELECT app, state, count(*) FROM files GROUP BY app, state;
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
INSERT INTO release_counts (app, names, versions, bytes)
    SELECT app, count(DISTINCT name), count(*), sum(bytes) FROM releases GROUP BY app;
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

-- Lists by state, newest first.
DROP INDEX files_by_state;
CREATE INDEX files_by_state ON files (state, job);

-- When the next of the jobs that were put off is due; those that were not are found by jobs_queued.
CREATE INDEX jobs_put_off ON jobs (not_before) WHERE state = 'queued' AND not_before > 0;
