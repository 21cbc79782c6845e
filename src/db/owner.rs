//! The one thread that writes. It takes all queued work, runs it in one transaction with a
//! savepoint per piece, commits once, and only then answers: an acknowledged write is on disk.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::schema;
use super::shared::Shared;
use super::sql::{Effects, Reader, Tx};
use super::{SAVE_UPTIME_MS, Setup};
use crate::sys::failpoint::{self, Bug, is_seeded};
use crate::sys::failure::Fault;
use crate::sys::{Chain, durable};

/// Maximum pieces of work in one transaction.
const GROUP: usize = 256;
/// Write-ahead log frames from which a checkpoint is worth its syncs.
const CHECKPOINT_FRAMES: i64 = 1000;

/// A command to the owner.
pub(super) enum Command {
    Work(Box<dyn Work>),
    /// Close cleanly, then confirm.
    Close(oneshot::Sender<()>),
}

/// One piece of work: run in a transaction, answered once the outcome of the commit is known.
pub(super) trait Work: Send {
    /// Runs the closure and stores its result.
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), Error>;
    /// Sends the result to the caller.
    fn answer(self: Box<Self>, fate: Result<(), Error>);
}

/// A closure, and the caller waiting for its result.
pub(super) struct Call<F, T> {
    closure: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Call<F, T> {
    pub(super) fn new(closure: F, reply: oneshot::Sender<Result<T, Error>>) -> Self {
        Self {
            closure: Some(closure),
            value: None,
            reply,
        }
    }
}

impl<F, T> Work for Call<F, T>
where
    F: FnOnce(&Tx<'_>) -> Result<T, Error> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), Error> {
        let closure = self.closure.take().ok_or(Error::Panicked)?;
        self.value = Some(closure(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, fate: Result<(), Error>) {
        let Self { value, reply, .. } = *self;
        // The caller may have stopped waiting; the work was done all the same.
        let _ = reply.send(fate.and_then(|()| value.ok_or(Error::Panicked)));
    }
}

/// The owner of the writing connection.
pub(super) struct Owner {
    conn: Connection,
    path: PathBuf,
    queue: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    setup: Arc<Setup>,
    uptime_saved_ms: Cell<i64>,
    /// Whether the in-use mark is written. It is written with the first change: until then the file
    /// is still cleanly closed.
    marked: Cell<bool>,
    /// Whether the last write found the disk full.
    full: Cell<bool>,
    /// Row changes before the current transaction.
    changes_before: Cell<u64>,
}

impl Owner {
    pub(super) fn new(
        conn: Connection,
        path: PathBuf,
        queue: mpsc::Receiver<Command>,
        shared: Arc<Shared>,
        setup: Arc<Setup>,
    ) -> Self {
        Self {
            conn,
            path,
            queue,
            uptime_saved_ms: Cell::new(shared.uptime_ms()),
            marked: Cell::new(false),
            full: Cell::new(false),
            changes_before: Cell::new(0),
            shared,
            setup,
        }
    }

    /// Works until the database is closed or every handle is gone, then closes it cleanly.
    pub(super) fn run(mut self) {
        let mut waiting_for_close = None;
        while let Some(first) = self.queue.blocking_recv() {
            let (group, close) = self.take_group(first);
            self.shared.enter();
            self.shared.check_place();
            self.commit_group(group);
            failpoint::panic_in("store-commit");
            self.checkpoint();
            self.shared.leave();
            if close.is_some() {
                waiting_for_close = close;
                break;
            }
        }
        self.queue.close();
        let Self {
            conn,
            queue,
            shared,
            ..
        } = self;
        close_in_order(conn, &shared);
        // Callers still in the queue get `Closed` from their dropped channel.
        drop(queue);
        if let Some(reply) = waiting_for_close {
            let _ = reply.send(());
        }
    }

    fn take_group(&mut self, first: Command) -> (Vec<Box<dyn Work>>, Option<oneshot::Sender<()>>) {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Work(work) => group.push(work),
                Command::Close(reply) => return (group, Some(reply)),
            }
            next = if group.len() < GROUP {
                self.queue.try_recv().ok()
            } else {
                None
            };
        }
        (group, None)
    }

    fn commit_group(&self, mut group: Vec<Box<dyn Work>>) {
        while !group.is_empty() {
            group = self.commit_some(group);
        }
    }

    /// Runs a group in one transaction and answers it. Returns the pieces that were not run,
    /// because SQLite ended the transaction during an earlier one.
    fn commit_some(&self, group: Vec<Box<dyn Work>>) -> Vec<Box<dyn Work>> {
        if let Some(why) = self.shared.failure() {
            answer_all(group, &Error::Failed { why });
            return Vec::new();
        }
        if let Err(error) = self.execute("begin a transaction", "BEGIN IMMEDIATE") {
            answer_all(group, &self.judge(error));
            return Vec::new();
        }
        self.changes_before.set(self.conn.total_changes());
        let mut effects = Effects::default();
        let (mut done, mut undone) = (Vec::new(), Vec::new());
        let mut rest = group.into_iter();
        while let Some(mut work) = rest.next() {
            match self.run_one(work.as_mut(), &mut effects) {
                Ok(()) => done.push(work),
                Err(error) => {
                    let error = self.judge(error);
                    let ended = self.conn.is_autocommit() || self.shared.failure().is_some();
                    undone.push((work, error.clone()));
                    if ended {
                        // A full disk rolls back the whole transaction, including the pieces that
                        // succeeded.
                        self.roll_back();
                        undone.extend(done.into_iter().map(|w| (w, error.clone())));
                        answer_each(undone);
                        return rest.collect();
                    }
                }
            }
        }
        self.end_group(done, undone, effects);
        Vec::new()
    }

    fn end_group(
        &self,
        mut done: Vec<Box<dyn Work>>,
        undone: Vec<(Box<dyn Work>, Error)>,
        effects: Effects,
    ) {
        let nothing = done.is_empty();
        if is_seeded(Bug::AnswerBeforeCommit) {
            done.drain(..).for_each(|work| work.answer(Ok(())));
        }
        let fate = if nothing {
            self.roll_back();
            Ok(())
        } else {
            self.commit()
        };
        answer_each(undone);
        match fate {
            Ok(()) => {
                self.shared.count(done.len());
                self.shared.tell(effects);
                for work in done {
                    work.answer(Ok(()));
                }
            }
            Err(error) => answer_all(done, &error),
        }
    }

    fn run_one(&self, work: &mut dyn Work, effects: &mut Effects) -> Result<(), Error> {
        self.execute("begin a piece of work", "SAVEPOINT piece")?;
        let reader = Reader::new(&self.conn, self.shared.uptime_ms());
        let tx = Tx::new(reader, self.shared.clock.now_ms(), &self.setup.outbox);
        let result =
            catch_unwind(AssertUnwindSafe(|| work.run(&tx))).unwrap_or(Err(Error::Panicked));
        match result {
            Ok(()) => {
                self.execute("end a piece of work", "RELEASE piece")?;
                effects.merge(tx.into_effects());
                Ok(())
            }
            Err(error) => {
                if !self.conn.is_autocommit() {
                    self.execute("roll back a piece of work", "ROLLBACK TO piece")?;
                    self.execute("roll back a piece of work", "RELEASE piece")?;
                }
                Err(error)
            }
        }
    }

    /// Commits. A failed commit is never retried: how much of it reached the disk is unknown, and
    /// only recovery may read it.
    fn commit(&self) -> Result<(), Error> {
        let marks = self.mark_in_use();
        self.save_uptime();
        if self.conn.is_autocommit() {
            return Err(Error::Full);
        }
        let Err(error) = self.execute("commit", "COMMIT") else {
            if marks {
                self.marked.set(true);
            }
            if self.has_changes() {
                self.shared.refused(None);
            }
            return Ok(());
        };
        self.roll_back();
        let error = self.judge(error);
        if !matches!(error, Error::Full | Error::ReadOnly | Error::Failed { .. }) {
            return Err(self.fail(&error));
        }
        Err(error)
    }

    /// Returns whether the current transaction has changed anything.
    fn has_changes(&self) -> bool {
        self.conn.total_changes() != self.changes_before.get()
    }

    /// Marks the database as in use, within the transaction that first changes it. Returns whether
    /// it did; the mark is valid once that transaction is committed.
    fn mark_in_use(&self) -> bool {
        if self.marked.get() || !self.has_changes() {
            return false;
        }
        // If this fails, a full disk has ended the transaction, and the caller notices that.
        schema::set_meta(&self.conn, "clean", "0")
            .inspect_err(|error| tracing::debug!(%error, "mark the database as in use"))
            .is_ok()
    }

    /// Saves the uptime clock from time to time, in a transaction that is written anyway. Losing a
    /// minute of it does no harm.
    fn save_uptime(&self) {
        let now = self.shared.uptime_ms();
        if now - self.uptime_saved_ms.get() < SAVE_UPTIME_MS {
            return;
        }
        match schema::set_meta(&self.conn, "uptime_ms", &now.to_string()) {
            Ok(()) => self.uptime_saved_ms.set(now),
            Err(error) => tracing::debug!(%error, "save the uptime"),
        }
    }

    fn roll_back(&self) {
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(error) = self.execute("roll back", "ROLLBACK") {
            self.fail(&error);
        }
    }

    /// Turns an error of the disk into a permanent failure of the database, returns every other
    /// error unchanged, and remembers that the disk refuses writes.
    fn judge(&self, error: Error) -> Error {
        let judged = self.judge_device(error);
        if matches!(judged, Error::Full | Error::ReadOnly) {
            self.shared.refused(Some(&judged));
        }
        if matches!(judged, Error::Full) {
            self.full.set(true);
            self.shared.reserve.give_up();
        }
        judged
    }

    fn judge_device(&self, error: Error) -> Error {
        if !error.is_device() {
            return error;
        }
        if error.is_refused_write() && is_read_only(&self.path) {
            return Error::ReadOnly;
        }
        self.fail(&error)
    }

    fn fail(&self, error: &Error) -> Error {
        let why = self.shared.fail(&Chain(error).to_string());
        Error::Failed { why }
    }

    fn execute(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.execute([]))
            .map(drop)
            .map_err(Error::sql(what))
    }

    /// Copies the write-ahead log into the database once it has grown. A sync that fails here is as
    /// final as one in a commit.
    fn checkpoint(&self) {
        // A checkpoint lets the log be overwritten from its start, so it takes no more space.
        let is_wanted = |n| n >= CHECKPOINT_FRAMES || (self.full.take() && n > 0);
        if self.shared.failure().is_some() || self.frames("NOOP").is_ok_and(|n| !is_wanted(n)) {
            return;
        }
        match self.frames("PASSIVE") {
            Ok(_) | Err(Error::Full | Error::ReadOnly) => {}
            Err(error) => {
                if !matches!(
                    self.judge(error.clone()),
                    Error::ReadOnly | Error::Failed { .. }
                ) {
                    tracing::warn!(error = %Chain(&error), "checkpoint");
                }
            }
        }
    }

    fn frames(&self, mode: &str) -> Result<i64, Error> {
        self.conn
            .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
            .and_then(|mut s| s.query_row([], |r| r.get(1)))
            .map_err(Error::sql("checkpoint"))
    }
}

fn answer_all(group: Vec<Box<dyn Work>>, error: &Error) {
    for work in group {
        work.answer(Err(error.clone()));
    }
}

fn answer_each(undone: Vec<(Box<dyn Work>, Error)>) {
    for (work, error) in undone {
        work.answer(Err(error));
    }
}

/// Returns whether the file system of `path` is read-only, by creating a file: a file system that
/// the kernel remounted read-only after an error does not show it in its flags.
fn is_read_only(path: &Path) -> bool {
    let probe = durable::temporary_sibling(path);
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    match made {
        Ok(_) => {
            let _ = fs::remove_file(&probe);
            false
        }
        Err(error) => Fault::of(&error) == Fault::ReadOnly,
    }
}

/// Copies the log into the database and marks it as cleanly closed, so that the next start need not
/// check it.
fn close_in_order(conn: Connection, shared: &Shared) {
    shared.closed.store(true, Ordering::Release);
    if shared.failure().is_some() {
        return;
    }
    let result = schema::set_meta(&conn, "uptime_ms", &shared.uptime_ms().to_string())
        .and_then(|()| schema::set_meta(&conn, "clean", "1"))
        .and_then(|()| {
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| {
                r.get::<_, i64>(0)
            })
        })
        .map(drop)
        .and_then(|()| conn.close().map_err(|(_, e)| e));
    if let Err(error) = result {
        tracing::warn!(error = %error, "close the database cleanly");
    }
}
