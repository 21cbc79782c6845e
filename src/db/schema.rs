//! Creates, opens and migrates the database, and sets up its connections.
//!
//! `user_version` grows with each migration that has run. A migration never changes after a release,
//! only new ones are added; an older program refuses a newer database instead of guessing.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi};

use super::Setup;
use super::error::{Error, fault_of};
use crate::sys::durable;
use crate::sys::failpoint::{Bug, is_seeded};
use crate::sys::failure::Fault;

/// Prepared statements cached per connection.
const STATEMENTS: usize = 256;

/// Opens the database for its only writer: created if missing, checked and migrated. An existing
/// database of the current version is opened without writing to it, because the disk may be full. The owner marks it as in use with its first change.
pub(super) fn open_writer(path: &Path, setup: &Setup) -> Result<Connection, Error> {
    prepare_file(path)?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(open_error("open", path))?;
    tune(&conn).map_err(open_error("open", path))?;
    let version = recognise(&conn, path, setup)?;
    set_up(&conn, path, version)?;
    if version != 0 {
        check_after_unclean_end(&conn, path)?;
    }
    migrate(&conn, path, setup, version)?;
    Ok(conn)
}

/// Opens a read-only connection.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(open_error("open", path))?;
    tune(&conn).map_err(open_error("open", path))?;
    Ok(conn)
}

/// Sets a value in the `meta` table.
pub(crate) fn set_meta(conn: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([key, value])
    .map(drop)
}

fn open_error<'a>(
    verb: &'static str,
    path: &'a Path,
) -> impl FnOnce(rusqlite::Error) -> Error + 'a {
    move |source| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            Error::Damaged {
                path: path.to_owned(),
                what: source.to_string(),
            }
        }
        _ if fault_of(&source) == Some(Fault::NoSpace) => Error::Full,
        // The log's index (shared-memory file) cannot grow.
        _ if source.sqlite_extended_error_code() == Some(ffi::SQLITE_IOERR_SHMSIZE) => Error::Full,
        _ => Error::Open {
            verb,
            path: path.to_owned(),
            source: Arc::new(source),
        },
    }
}

/// Creates the file before SQLite does, so that neither it nor its log is ever readable by others:
/// it holds source URLs.
fn prepare_file(path: &Path) -> Result<(), Error> {
    let fail = |e| Error::Prepare(Arc::new(e));
    let parent = path.parent().unwrap_or(Path::new("."));
    durable::create_dir_all(parent).map_err(fail)?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => durable::sync_parent(path).map_err(fail),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path)
                .map_err(durable::at("inspect", path))
                .map_err(fail)?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))
                    .map_err(durable::at("set the mode of", path))
                    .map_err(fail)?;
            }
            Ok(())
        }
        Err(e) => Err(fail(durable::at("create", path)(e))),
    }
}

/// Applies the settings common to all connections.
fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without this setting, plans depend on bound values wherever a partial index might serve, so
    // SQLite recompiles a cached statement for every value, which costs more than running it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // The owner checkpoints when it closes. The log files are kept: if the disk is full at the next
    // start, there would be no space to create them again.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.pragma_update(None, "busy_timeout", 5000)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    // In KiB. Anything else is in the kernel's cache, one system call away.
    conn.pragma_update(None, "cache_size", -1024)?;
    conn.pragma_update(None, "trusted_schema", false)
}

/// Returns the schema version of an edgepush database, 0 for an empty one.
fn recognise(conn: &Connection, path: &Path, setup: &Setup) -> Result<i64, Error> {
    let number = |pragma: &str| {
        conn.pragma_query_value(None, pragma, |r| r.get::<_, i64>(0))
            .map_err(open_error("open", path))
    };
    let (id, version) = (number("application_id")?, number("user_version")?);
    let objects: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))
        .map_err(open_error("open", path))?;
    let empty = id == 0 && version == 0 && objects == 0;
    if id != setup.application_id && !empty {
        return Err(Error::Foreign {
            path: path.to_owned(),
            found: id,
        });
    }
    if (1..setup.first).contains(&version) {
        return Err(Error::Damaged {
            path: path.to_owned(),
            what: format!("its schema is version {version}, of a development version of edgepush"),
        });
    }
    let known = setup.newest();
    if version > known {
        return Err(Error::Newer {
            path: path.to_owned(),
            found: version,
            known,
        });
    }
    Ok(version)
}

/// Applies the writer's settings. The owner runs checkpoints itself, because SQLite's automatic
/// ones would hide a failed sync.
fn set_up(conn: &Connection, path: &Path, version: i64) -> Result<(), Error> {
    let fail = open_error("set up", path);
    let work = || -> rusqlite::Result<String> {
        if version == 0 {
            conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        let mode = conn.pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0))?;
        let synchronous = if is_seeded(Bug::NormalSync) {
            "NORMAL"
        } else {
            "FULL"
        };
        conn.pragma_update(None, "synchronous", synchronous)?;
        conn.pragma_update(None, "secure_delete", true)?;
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        conn.pragma_update(None, "journal_size_limit", 16 << 20)?;
        // Savepoint rollback data stays in memory: it is about as much as a transaction changes,
        // and writing it to a file took a quarter of the writer's time. The changed pages of a
        // burst stay in memory as well.
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        conn.pragma_update(None, "cache_size", -4096)?;
        Ok(mode)
    };
    let mode = work().map_err(fail)?;
    if mode.eq_ignore_ascii_case("wal") {
        Ok(())
    } else {
        Err(Error::Row {
            what: "the journal mode; the file system cannot hold the database",
            found: mode,
        })
    }
}

fn check_after_unclean_end(conn: &Connection, path: &Path) -> Result<(), Error> {
    // Before the first change there is no mark, and a run that ended then is just as much in doubt.
    let clean: Option<String> = conn
        .query_row("SELECT value FROM meta WHERE key = 'clean'", [], |r| {
            r.get(0)
        })
        .optional()
        .map_err(open_error("read", path))?;
    if clean.as_deref() == Some("1") {
        return Ok(());
    }
    tracing::info!(path = %path.display(), "the last run did not end cleanly: checking the database");
    let found: String = conn
        .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
        .map_err(open_error("check", path))?;
    if found == "ok" {
        return Ok(());
    }
    Err(Error::Damaged {
        path: path.to_owned(),
        what: found,
    })
}

fn migrate(conn: &Connection, path: &Path, setup: &Setup, from: i64) -> Result<(), Error> {
    for (version, sql) in (setup.first..)
        .zip(setup.migrations)
        .filter(|(v, _)| *v > from)
    {
        let script = format!(
            "BEGIN IMMEDIATE; {sql}; PRAGMA application_id = {}; PRAGMA user_version = {version}; COMMIT;",
            setup.application_id
        );
        conn.execute_batch(&script)
            .map_err(open_error("migrate", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::OutboxBounds;
    use super::*;

    const SETUP: Setup = Setup {
        application_id: 7,
        first: 2,
        migrations: &[super::super::TABLES],
        readers: 1,
        outbox: OutboxBounds {
            pending: 10,
            settled: 10,
            droppable: &[],
        },
    };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_a_private_wal_database_that_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/edgepush.db");
        let conn = open_writer(&path, &SETUP).unwrap();
        let pragma = |p| {
            conn.pragma_query_value(None, p, |r| r.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(pragma("application_id"), SETUP.application_id);
        assert_eq!(pragma("user_version"), SETUP.newest());
        assert_eq!(pragma("synchronous"), 2, "FULL");
        assert_eq!(pragma("foreign_keys"), 1);
        assert_eq!(pragma("secure_delete"), 1);
        assert_eq!(pragma("auto_vacuum"), 2, "INCREMENTAL");
        assert_eq!(pragma("wal_autocheckpoint"), 0);
        assert_eq!(pragma("temp_store"), 2, "MEMORY");
        let reader = open_reader(&path).unwrap();
        for conn in [&conn, &reader] {
            let stable = conn.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG);
            assert!(stable.unwrap(), "plans are kept");
        }
        let noop = conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |r| {
            Ok((r.get(1)?, r.get(2)?))
        });
        let (frames, copied): (i64, i64) = noop.unwrap();
        assert!(frames > 0 && copied == 0, "{frames} {copied}");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
        let error = open_reader(&path)
            .unwrap()
            .execute("DELETE FROM meta", [])
            .unwrap_err();
        assert_eq!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::ReadOnly)
        );
    }

    #[test]
    fn narrows_the_mode_of_a_file_that_others_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edgepush.db");
        drop(open_writer(&path, &SETUP).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        drop(open_writer(&path, &SETUP).unwrap());
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn refuses_newer_foreign_and_damaged_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edgepush.db");
        let conn = open_writer(&path, &SETUP).unwrap();
        conn.pragma_update(None, "user_version", SETUP.newest() + 1)
            .unwrap();
        drop(conn);
        assert!(
            matches!(open_writer(&path, &SETUP), Err(Error::Newer { found, .. }) if found == SETUP.newest() + 1)
        );

        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "user_version", SETUP.first - 1)
            .unwrap();
        drop(conn);
        let refused = open_writer(&path, &SETUP).unwrap_err().to_string();
        assert!(refused.contains("recover"), "{refused}");

        let path = dir.path().join("foreign.db");
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TABLE t (x); PRAGMA application_id = 8;")
            .unwrap();
        drop(other);
        assert!(matches!(
            open_writer(&path, &SETUP),
            Err(Error::Foreign { found: 8, .. })
        ));

        let path = dir.path().join("noise.db");
        fs::write(&path, vec![0x5a; 8192]).unwrap();
        assert!(matches!(
            open_writer(&path, &SETUP),
            Err(Error::Damaged { .. })
        ));
    }

    #[test]
    fn checks_the_pages_only_after_an_unclean_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edgepush.db");
        let conn = open_writer(&path, &SETUP).unwrap();
        conn.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO nonces (access_key, nonce, expires) SELECT 'a', 'n' || i, i FROM n;
             PRAGMA wal_checkpoint(TRUNCATE);",
        )
        .unwrap();
        let root: u64 = conn
            .query_row(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'nonces_by_expiry'",
                [],
                |r| r.get(0),
            )
            .unwrap();
        drop(conn);
        // Damage an index: nothing reads it while opening, so only the check can find it.
        let mut bytes = fs::read(&path).unwrap();
        let at = usize::try_from(root - 1).unwrap() * 4096;
        bytes[at + 8..at + 4096].fill(0xff);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(
            open_writer(&path, &SETUP),
            Err(Error::Damaged { .. })
        ));
    }
}
