//! The way from the walker to the disk. A small archive is written where it is read; a longer one by threads of its own,
//! each with directories of its own, so that they never wait for each other's directory.

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
use super::tree::{FilePlan, LinkPlan, Model, Mtime, NodeKind};
use super::write::{self, Create, Modes, Step, Writer};
use crate::datafile::Sha256;

/// Most threads that write one tree.
const MAX_LANES: usize = 4;
/// Batches that wait for one thread.
const DEPTH: usize = 6;
/// Steps of one batch, and times that they change the directory: each change keeps a descriptor open.
const MAX_STEPS: usize = 256;
const MAX_TURNS: usize = 8;

/// Where the walker sends what it finds: to the disk, or nowhere.
pub(super) enum Sink<'scope, 'env> {
    /// The archive is only checked.
    Check,
    /// The tree is written.
    Disk(Box<Lanes<'scope, 'env>>),
}

/// A tree that is being written.
pub(super) struct Lanes<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    options: &'env Options,
    stop: &'env Stop,
    modes: Modes,
    dirs: Dirs,
    /// How many nodes of the model have been looked at: those before are on the disk.
    made: u32,
    /// The writer, as long as there are no threads.
    inline: Option<Writer<'env>>,
    lanes: Vec<Lane<'scope>>,
    /// Which lane writes into a directory, by its node; 0 until another is chosen.
    lane_of: Vec<u8>,
    current: usize,
    /// Links between directories have made the order matter: everything goes through lane 0.
    single: bool,
    /// The mode that each directory was made with, by its node.
    made_with: Vec<u32>,
    /// What threads that have ended wrote.
    digests: Vec<(u32, Sha256)>,
}

struct Lane<'scope> {
    sender: SyncSender<Vec<Step>>,
    batch: Vec<Step>,
    turns: usize,
    last_dir: u32,
    bytes: u64,
    thread: ScopedJoinHandle<'scope, Vec<(u32, Sha256)>>,
}

impl<'scope, 'env> Lanes<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        root: Arc<OwnedFd>,
        options: &'env Options,
        stop: &'env Stop,
    ) -> Self {
        let how = Beneath::probe(root.as_fd());
        let modes = Modes::probe(root.as_fd());
        Self {
            scope,
            options,
            stop,
            modes,
            dirs: Dirs::new(root, how),
            made: 1,
            inline: Some(Writer::new(options, modes)),
            lanes: Vec::new(),
            lane_of: Vec::new(),
            current: 0,
            single: false,
            made_with: vec![0],
            digests: Vec::new(),
        }
    }

    /// Goes over to threads, if they are wanted: the archive is longer than one block.
    pub(super) fn widen(&mut self) {
        if self.lanes.is_empty() && self.options.writers > 0 {
            // What has been written so far, and a file that is half-way, stays with the first lane.
            for _ in 0..self.options.writers.min(MAX_LANES) {
                let writer = self.inline.take();
                let writer = writer.unwrap_or_else(|| Writer::new(self.options, self.modes));
                if let Err(e) = self.spawn(writer) {
                    self.stop.fail(write::thread_failed(e));
                    return;
                }
            }
        }
    }

    fn spawn(&mut self, writer: Writer<'env>) -> std::io::Result<()> {
        let (sender, receiver) = sync_channel(DEPTH);
        let stop = self.stop;
        let thread = thread::Builder::new()
            .name("unpack-write".to_owned())
            .spawn_scoped(self.scope, move || work(writer, &receiver, stop))?;
        self.lanes.push(Lane {
            sender,
            batch: Vec::new(),
            turns: 0,
            last_dir: u32::MAX,
            bytes: 0,
            thread,
        });
        Ok(())
    }

    /// Makes the directories that the model has gained.
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

    fn push(&mut self, dir: u32, bytes: u64, step: Step) -> Result<(), Error> {
        if let Some(writer) = &mut self.inline {
            return writer.step(step);
        }
        self.current = self.lane_for(dir);
        let Some(lane) = self.lanes.get_mut(self.current) else {
            return Ok(());
        };
        lane.bytes += bytes;
        if lane.last_dir != dir {
            lane.last_dir = dir;
            lane.turns += 1;
        }
        lane.batch.push(step);
        if lane.batch.len() >= MAX_STEPS || lane.turns >= MAX_TURNS {
            lane.send();
        }
        Ok(())
    }

    /// Chooses the lane of a directory when it is first written into: the one that has had the least to do.
    fn lane_for(&mut self, dir: u32) -> usize {
        if self.single || self.lanes.len() < 2 {
            return 0;
        }
        let dir = dir as usize;
        if self.lane_of.len() <= dir {
            self.lane_of.resize(dir + 1, u8::MAX);
        }
        if self.lane_of[dir] == u8::MAX {
            let least = (0..self.lanes.len()).min_by_key(|i| self.lanes[*i].bytes);
            self.lane_of[dir] = least.unwrap_or(0) as u8;
        }
        usize::from(self.lane_of[dir])
    }

    /// Hands over what has gathered.
    fn flush(&mut self) {
        if let Some(writer) = &mut self.inline {
            writer.report();
        }
        for lane in &mut self.lanes {
            lane.send();
        }
    }

    /// Waits for all lanes but the first, which does all work from here on, in the order of the archive.
    fn narrow(&mut self) -> Result<(), Error> {
        self.single = true;
        while self.lanes.len() > 1 {
            let Some(lane) = self.lanes.pop() else {
                break;
            };
            self.digests.extend(lane.join()?);
        }
        self.current = 0;
        Ok(())
    }
}

impl Lane<'_> {
    fn send(&mut self) {
        if !self.batch.is_empty() {
            self.turns = 0;
            self.last_dir = u32::MAX;
            // A lane only ends before its sender when it has panicked, which `join` tells.
            let _ = self.sender.send(std::mem::take(&mut self.batch));
        }
    }

    fn join(mut self) -> Result<Vec<(u32, Sha256)>, Error> {
        self.send();
        drop(self.sender);
        self.thread
            .join()
            .map_err(|_| write::thread_failed(std::io::Error::other("a writing thread panicked")))
    }
}

/// The life of a writing thread. After a failure it goes on to take batches, so that nobody waits for it.
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
    /// Creates a file of the model; its bytes follow by [`Sink::data`] and [`Sink::hole`].
    pub(super) fn create(
        &mut self,
        model: &Model,
        plan: FilePlan,
        path: Vec<u8>,
        size: u64,
        mtime: Mtime,
    ) -> Result<(), Error> {
        let Self::Disk(lanes) = self else {
            return Ok(());
        };
        lanes.follow(model)?;
        let dir = lanes.dirs.get(model, plan.dir)?;
        let create = Create {
            dir,
            path,
            plan,
            size,
            mtime,
        };
        lanes.push(plan.dir, size, Step::Create(create))
    }

    /// Appends bytes to the file that was created last.
    pub(super) fn data(&mut self, slice: Slice) -> Result<(), Error> {
        self.append(Step::Data(slice))
    }

    /// Appends zero bytes to the file that was created last.
    pub(super) fn hole(&mut self, len: u64) -> Result<(), Error> {
        self.append(Step::Hole(len))
    }

    fn append(&mut self, step: Step) -> Result<(), Error> {
        let Self::Disk(lanes) = self else {
            return Ok(());
        };
        if let Some(writer) = &mut lanes.inline {
            return writer.step(step);
        }
        if let Some(lane) = lanes.lanes.get_mut(lanes.current) {
            lane.batch.push(step);
        }
        Ok(())
    }

    /// Makes a hard link of the model.
    pub(super) fn link(
        &mut self,
        model: &Model,
        plan: LinkPlan,
        from: &[u8],
        path: Vec<u8>,
    ) -> Result<(), Error> {
        let Self::Disk(lanes) = self else {
            return Ok(());
        };
        lanes.narrow()?;
        lanes.follow(model)?;
        let step = Step::Link {
            from_dir: lanes.dirs.get(model, plan.from_dir)?,
            from: split_last(from).1.to_vec(),
            dir: lanes.dirs.get(model, plan.dir)?,
            path,
            replaces: plan.replaces,
        };
        lanes.push(plan.dir, 0, step)
    }

    /// Notes a symbolic link of the model, which is made at the end; a file of its name goes now.
    pub(super) fn symlink(
        &mut self,
        model: &Model,
        plan: FilePlan,
        path: Vec<u8>,
    ) -> Result<(), Error> {
        let Self::Disk(lanes) = self else {
            return Ok(());
        };
        lanes.follow(model)?;
        if plan.replaces {
            let dir = lanes.dirs.get(model, plan.dir)?;
            lanes.push(plan.dir, 0, Step::Remove { dir, path })?;
        }
        Ok(())
    }

    /// Makes the directories of the model.
    pub(super) fn dirs(&mut self, model: &Model) -> Result<(), Error> {
        match self {
            Self::Check => Ok(()),
            Self::Disk(lanes) => lanes.follow(model),
        }
    }

    /// Hands over what has gathered; with `long` it is worth while to have threads.
    pub(super) fn flush(&mut self, long: bool) {
        if let Self::Disk(lanes) = self {
            if long {
                lanes.widen();
            }
            lanes.flush();
        }
    }

    /// Waits for the writers and writes what comes last. With `complete` false, it only waits.
    pub(super) fn close(self, model: &mut Model, complete: bool) -> Result<(), Error> {
        let Self::Disk(mut lanes) = self else {
            return Ok(());
        };
        let mut digests = std::mem::take(&mut lanes.digests);
        if let Some(mut writer) = lanes.inline.take() {
            writer.report();
            digests.append(&mut writer.digests);
        }
        // All are waited for, also when one has panicked.
        let joined: Vec<_> = std::mem::take(&mut lanes.lanes)
            .into_iter()
            .map(Lane::join)
            .collect();
        for joined in joined {
            digests.extend(joined?);
        }
        if let Some(failure) = lanes.stop.take_failure() {
            return Err(failure);
        }
        if !complete {
            return Ok(());
        }
        if lanes.stop.is_set() {
            return Err(Error::Canceled);
        }
        for (content, sha256) in digests {
            model.set_digest(content, sha256);
        }
        lanes.follow(model)?;
        finish(model, &mut lanes.dirs, lanes.modes, &lanes.made_with)
    }
}
