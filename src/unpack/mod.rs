//! Archives become trees: everything good exactly, everything hostile not at all.
//!
//! A member's name is parsed into a path that is safe ([`path`]), the [`tree`] model decides whether it can be, and only
//! then is it written, by descriptors ([`dirs`], [`mod@write`]). [`tar`] walks a tar as its bytes arrive, out of a gzip
//! ([`gzip`]) or plain; [`zip`] reads a zip by its directory. Nothing is published from here, and nothing is left behind
//! when an archive is refused. What is accepted and why is in `docs/archives.md`.

mod block;
mod dirs;
mod error;
mod finish;
mod gzip;
mod header;
mod limits;
mod links;
mod path;
mod pax;
mod sink;
mod sparse;
mod stop;
mod tar;
mod tree;
mod write;
mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::datafile::{AppId, ArchiveType};
use crate::sys::landlock;

pub use crate::sys::beneath::clear;
pub use block::SpareBlocks;
pub use error::{Error, KINDS, Reason, Refusal, escape};
pub use limits::Limits;
pub use tree::{Entry, EntryKind, Mtime, Tree};

use block::Stream;
use sink::{Disk, Sink};
use stop::Stop;

/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;

/// How names in a zip are read that do not say that they are UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameEncoding {
    /// UTF-8 if a Unix system made the zip and they are valid, else code page 437, as the format says.
    #[default]
    Auto,
    /// UTF-8; anything else is refused.
    #[serde(rename = "utf-8")]
    Utf8,
    /// Code page 437, the format's own.
    Cp437,
    /// GBK, for zips made by old Chinese Windows tools.
    Gbk,
}

/// How archives are unpacked on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What an archive may hold at most.
    pub limits: Limits,
    /// Permission bits that no published file or directory has, as an octal text. A directory always keeps `u+rwx`.
    #[serde(with = "octal")]
    pub umask: u32,
    /// How names in a zip are read that do not say that they are UTF-8: `auto`, `utf-8`, `cp437` or `gbk`.
    pub zip_name_encoding: NameEncoding,
    /// Whether threads that unpack are confined by Landlock to the state directory, where the kernel can.
    pub sandbox: bool,
    /// `zip_name_encoding` of single applications, from `[apps]`.
    #[serde(skip)]
    pub apps_zip_name_encoding: BTreeMap<AppId, NameEncoding>,
}

impl Config {
    /// Returns how names in the zips of `app` are read that do not say that they are UTF-8.
    #[must_use]
    pub fn zip_name_encoding_of(&self, app: &AppId) -> NameEncoding {
        let of_app = self.apps_zip_name_encoding.get(app);
        *of_app.unwrap_or(&self.zip_name_encoding)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            umask: 0o022,
            zip_name_encoding: NameEncoding::Auto,
            sandbox: true,
            apps_zip_name_encoding: BTreeMap::new(),
        }
    }
}

/// What is called with files and bytes that were written since the last call.
pub type OnWritten = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// How one archive is unpacked.
#[derive(Clone)]
pub struct Options {
    /// What it may hold at most.
    pub limits: Limits,
    /// Permission bits that no file or directory gets. A directory always keeps `u+rwx`.
    pub umask: u32,
    /// How names in a zip are read that do not say that they are UTF-8.
    pub zip_name_encoding: NameEncoding,
    /// Whether a long archive may have a second thread: one that writes a tar, or one that unpacks a
    /// zip as the first does.
    pub threads: bool,
    /// Memory that this archive shares with others that are unpacked at the same time.
    pub spare_blocks: Arc<SpareBlocks>,
    /// Told how much was written; called from the writing threads.
    pub on_written: Option<OnWritten>,
    /// Set from outside to stop the work, which then fails with [`Error::Canceled`].
    pub cancel: Arc<AtomicBool>,
    /// The directory outside of which the threads at work may write nothing, if the kernel can see to it. The thread that
    /// calls stays confined for good, so it has to be one made for this work.
    pub sandbox: Option<Arc<Path>>,
}

impl Options {
    /// Makes the options that `config` stands for, with digests, without a listener or a sandbox.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            limits: config.limits.clone(),
            umask: config.umask,
            zip_name_encoding: config.zip_name_encoding,
            threads: true,
            spare_blocks: Arc::new(SpareBlocks::for_archives(1)),
            on_written: None,
            cancel: Arc::default(),
            sandbox: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("limits", &self.limits)
            .field("umask", &self.umask)
            .field("zip_name_encoding", &self.zip_name_encoding)
            .field("threads", &self.threads)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

/// Where a tree goes.
#[derive(Debug)]
pub enum Target {
    /// Into this directory, which is empty and private. After an error it is empty again.
    Directory(OwnedFd),
    /// Nowhere: everything is checked but what only the disk can tell, and nothing is hashed.
    Check,
}

/// Unpacks the archive in `file`, which is complete and read from its start.
///
/// Blocks. A zip should have been verified before: its directory is at the end of the file.
pub fn unpack(
    archive_type: ArchiveType,
    file: &File,
    target: Target,
    options: &Options,
) -> Result<Tree, Error> {
    match archive_type {
        ArchiveType::Zip => {
            confine(options);
            zip::unpack(file, target, options)
        }
        ArchiveType::TarGz | ArchiveType::Tar => {
            let input = BufReader::with_capacity(READ_BYTES, file);
            unpack_stream(archive_type, input, target, options)
        }
    }
}

/// Unpacks an archive while its bytes arrive; only for types that
/// [can be streamed](ArchiveType::is_streamable).
///
/// Blocks, on `input` and on the disk; at most a few MiB are held, whatever the archive. Reads
/// `input` to its very end when the archive is good, and stops at the first thing wrong.
pub fn unpack_stream(
    archive_type: ArchiveType,
    input: impl BufRead,
    target: Target,
    options: &Options,
) -> Result<Tree, Error> {
    confine(options);
    let stop = Stop::new(&options.cancel);
    let spare = &options.spare_blocks;
    let gzip = archive_type == ArchiveType::TarGz;
    let stream = Stream::new(input, gzip, &options.limits, spare, &stop);
    let mut walk = tar::Walk::new(stream, options);
    let root = match target {
        Target::Check => {
            walk.run(&mut Sink::Check)?;
            return Ok(walk.into_model().into_tree());
        }
        Target::Directory(root) => Arc::new(root),
    };
    let result = thread::scope(|scope| {
        let disk = Disk::new(scope, Arc::clone(&root), options, &stop);
        let mut sink = Sink::Disk(Box::new(disk));
        let walked = walk.run(&mut sink);
        let closed = sink.close(&mut walk.model, walked.is_ok());
        match (walked, closed) {
            // A failed writer stops the walk, which then only knows that it was stopped.
            (Err(Error::Canceled), Err(failure)) => Err(failure),
            (Err(error), _) => Err(error),
            (Ok(()), closed) => closed,
        }
    });
    settle(result, &root)?;
    Ok(walk.into_model().into_tree())
}

/// Confines this thread, and so those it starts, to the sandbox.
fn confine(options: &Options) {
    if let Some(sandbox) = &options.sandbox {
        let status = landlock::restrict_thread(&[sandbox]);
        tracing::debug!(%status, "sandbox of the unpacking threads");
    }
}

/// Leaves nothing in `root` if the work failed.
fn settle<T>(result: Result<T, Error>, root: &OwnedFd) -> Result<T, Error> {
    result.map_err(|error| {
        let error = write::explain(error, root.as_fd());
        if let Err(left) = clear(root.as_fd()) {
            tracing::warn!(error = %left, "could not remove all of a refused archive");
        }
        error
    })
}

/// Serde for permission bits, as an octal text such as `"0022"`.
mod octal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bits: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{bits:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|bits| *bits <= 0o777)
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "`{text}` is no umask, expected octal digits such as \"0022\""
                ))
            })
    }
}
