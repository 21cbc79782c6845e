//! Carries the tree from the walker to the disk. A short archive is written by the thread that
//! reads it, a longer one by a thread of its own so that reading and writing overlap. A second
//! writing thread gained nothing (0.93 to 1.08 of the time).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::Options;
use super::block::Slice;
use super::dirs::{Beneath, Dirs};
use super::error::Error;
use super::finish::finish;
use super::path::split_last;
use super::stop::Stop;
use super::tree::{FilePlan, LinkPlan, Model, NodeKind};
use super::write::{self, Create, Modes, Step, Writer};
use crate::datafile::Sha256;
use crate::datafile::tree::Mtime;

/// Batches queued for the writing thread.
const DEPTH: usize = 6;
/// Steps of one batch, and how often they may change the directory: each change keeps a descriptor
/// open.
const MAX_STEPS: usize = 256;
const MAX_TURNS: usize = 8;

/// The destination of what the walker finds.
pub(super) enum Sink<'scope, 'env> {
    /// Nowhere: the archive is only checked.
    Check,
    Disk(Box<Disk<'scope, 'env>>),
}

/// A tree being written.
pub(super) struct Disk<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    options: &'env Options,
    stop: &'env Stop,
    modes: Modes,
    dirs: Dirs,
    /// Nodes of the model before this one are on the disk.
    made: u32,
    /// The mode each directory was created with, by node.
    made_with: Vec<u32>,
    /// `None` if the thread could not be started, which has stopped the work.
    output: Option<Output<'scope, 'env>>,
}

/// The thread that writes.
enum Output<'scope, 'env> {
    /// The reading thread.
    Here(Box<Writer<'env>>),
    Thread(WriterThread<'scope>),
}

struct WriterThread<'scope> {
    sender: SyncSender<Vec<Step>>,
    batch: Vec<Step>,
    turns: usize,
    last_dir: u32,
    thread: ScopedJoinHandle<'scope, Vec<(u32, Sha256)>>,
}

impl<'scope, 'env> Disk<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        root: Arc<OwnedFd>,
        options: &'env Options,
        stop: &'env Stop,
    ) -> Self {
        let how = Beneath::probe(root.as_fd());
        let modes = Modes::probe(root.as_fd(), options.inherits);
        Self {
            scope,
            options,
            stop,
            modes,
            dirs: Dirs::new(root, how),
            made: 1,
            made_with: vec![0],
            output: Some(Output::Here(Box::new(Writer::new(options, modes)))),
        }
    }

    /// Moves the writer, with a half-written file if there is one, to a thread of its own if the
    /// options allow it.
    fn start_thread(&mut self) {
        if !self.options.threads {
            return;
        }
        let is_here = |output: &mut Output<'_, '_>| matches!(output, Output::Here(_));
        let Some(Output::Here(writer)) = self.output.take_if(is_here) else {
            return;
        };
        let (sender, receiver) = sync_channel(DEPTH);
        let stop = self.stop;
        let spawned = thread::Builder::new()
            .name("unpack-write".to_owned())
            .spawn_scoped(self.scope, move || work(*writer, &receiver, stop));
        match spawned {
            Ok(thread) => {
                self.output = Some(Output::Thread(WriterThread {
                    sender,
                    batch: Vec::new(),
                    turns: 0,
                    last_dir: u32::MAX,
                    thread,
                }));
            }
            Err(error) => self.stop.fail(write::thread_failed(error)),
        }
    }

    /// Creates the directories added to the model since the last call.
    fn follow(&mut self, model: &Model) -> Result<(), Error> {
        while (self.made as usize) < model.nodes().len() {
            let id = self.made;
            let mut with = 0;
            if let NodeKind::Dir { mode, .. } = model.node(id).kind {
                self.dirs.make(model, id)?;
                with = mode;
            }
            self.made_with.push(with);
            self.made += 1;
        }
        Ok(())
    }

    /// Runs or queues a step in the directory `dir`.
    fn step(&mut self, dir: u32, step: Step) -> Result<(), Error> {
        match &mut self.output {
            Some(Output::Here(writer)) => return writer.step(step),
            Some(Output::Thread(thread)) => thread.push(dir, step),
            None => {}
        }
        Ok(())
    }

    /// Runs or queues a step for the file created last.
    fn append(&mut self, step: Step) -> Result<(), Error> {
        match &mut self.output {
            Some(Output::Here(writer)) => return writer.step(step),
            Some(Output::Thread(thread)) => thread.batch.push(step),
            None => {}
        }
        Ok(())
    }

    /// Sends the queued steps to the writing thread, or reports progress if there is none.
    fn flush(&mut self) {
        match &mut self.output {
            Some(Output::Here(writer)) => writer.report(),
            Some(Output::Thread(thread)) => thread.send(),
            None => {}
        }
    }

    /// Waits for the writer; returns the digests of what it wrote.
    fn join(&mut self) -> Result<Vec<(u32, Sha256)>, Error> {
        match self.output.take() {
            Some(Output::Here(mut writer)) => {
                writer.report();
                Ok(writer.digests)
            }
            Some(Output::Thread(thread)) => thread.join(),
            None => Ok(Vec::new()),
        }
    }
}

impl WriterThread<'_> {
    fn push(&mut self, dir: u32, step: Step) {
        if self.last_dir != dir {
            self.last_dir = dir;
            self.turns += 1;
        }
        self.batch.push(step);
        if self.batch.len() >= MAX_STEPS || self.turns >= MAX_TURNS {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.batch.is_empty() {
            self.turns = 0;
            self.last_dir = u32::MAX;
            // The receiver is gone only if the thread has panicked, which `join` reports.
            let _ = self.sender.send(std::mem::take(&mut self.batch));
        }
    }

    fn join(mut self) -> Result<Vec<(u32, Sha256)>, Error> {
        self.send();
        drop(self.sender);
        self.thread
            .join()
            .map_err(|_| write::thread_failed(std::io::Error::other("the writing thread panicked")))
    }
}

/// The writing thread. After a failure it keeps receiving batches, so that the sender never blocks.
fn work(mut writer: Writer<'_>, receiver: &Receiver<Vec<Step>>, stop: &Stop) -> Vec<(u32, Sha256)> {
    for batch in receiver {
        for step in batch {
            if stop.is_set() {
                break;
            }
            if let Err(e) = writer.step(step) {
                stop.fail(e);
            }
        }
        writer.report();
    }
    writer.digests
}

impl Sink<'_, '_> {
    /// Creates a file; its bytes follow through [`Sink::data`] and [`Sink::hole`].
    pub(super) fn create(
        &mut self,
        model: &Model,
        plan: FilePlan,
        path: Vec<u8>,
        size: u64,
        mtime: Mtime,
    ) -> Result<(), Error> {
        let Self::Disk(disk) = self else {
            return Ok(());
        };
        disk.follow(model)?;
        let dir = disk.dirs.get(model, plan.dir)?;
        let create = Create {
            dir,
            path,
            plan,
            size,
            mtime,
        };
        disk.step(plan.dir, Step::Create(create))
    }

    /// Appends bytes to the file created last.
    pub(super) fn data(&mut self, slice: Slice) -> Result<(), Error> {
        self.append(Step::Data(slice))
    }

    /// Appends zero bytes to the file created last.
    pub(super) fn hole(&mut self, len: u64) -> Result<(), Error> {
        self.append(Step::Hole(len))
    }

    fn append(&mut self, step: Step) -> Result<(), Error> {
        match self {
            Self::Check => Ok(()),
            Self::Disk(disk) => disk.append(step),
        }
    }

    /// Creates a hard link.
    pub(super) fn link(
        &mut self,
        model: &Model,
        plan: LinkPlan,
        from: &[u8],
        path: Vec<u8>,
    ) -> Result<(), Error> {
        let Self::Disk(disk) = self else {
            return Ok(());
        };
        disk.follow(model)?;
        let step = Step::Link {
            from_dir: disk.dirs.get(model, plan.from_dir)?,
            from: split_last(from).1.to_vec(),
            dir: disk.dirs.get(model, plan.dir)?,
            path,
            replaces: plan.replaces,
        };
        disk.step(plan.dir, step)
    }

    /// Makes way for a symbolic link, which is itself created at the end: a file it replaces is
    /// removed now.
    pub(super) fn symlink(
        &mut self,
        model: &Model,
        plan: FilePlan,
        path: Vec<u8>,
    ) -> Result<(), Error> {
        let Self::Disk(disk) = self else {
            return Ok(());
        };
        disk.follow(model)?;
        if plan.replaces {
            let dir = disk.dirs.get(model, plan.dir)?;
            disk.step(plan.dir, Step::Remove { dir, path })?;
        }
        Ok(())
    }

    /// Creates the directories added to the model since the last call.
    pub(super) fn dirs(&mut self, model: &Model) -> Result<(), Error> {
        match self {
            Self::Check => Ok(()),
            Self::Disk(disk) => disk.follow(model),
        }
    }

    /// Sends the queued steps; with `long`, the archive is worth a thread of its own.
    pub(super) fn flush(&mut self, long: bool) {
        if let Self::Disk(disk) = self {
            if long {
                disk.start_thread();
            }
            disk.flush();
        }
    }

    /// Waits for the writer, then writes symbolic links and the attributes of directories. With
    /// `complete` false, it only waits.
    pub(super) fn close(self, model: &mut Model, complete: bool) -> Result<(), Error> {
        let Self::Disk(mut disk) = self else {
            return Ok(());
        };
        let digests = disk.join()?;
        if let Some(failure) = disk.stop.take_failure() {
            return Err(failure);
        }
        if !complete {
            return Ok(());
        }
        if disk.stop.is_set() {
            return Err(Error::Canceled);
        }
        for (content, sha256) in digests {
            model.set_digest(content, sha256);
        }
        disk.follow(model)?;
        finish(model, &mut disk.dirs, disk.modes, &disk.made_with)
    }
}
