//! Unpacks archives into an empty private directory, or only checks them.
//!
//! A member's name is parsed into a safe path ([`path`]), the [`tree`] model decides whether it can
//! exist, and only then is it written, through descriptors ([`dirs`], [`mod@write`]). [`tar`] walks
//! a tar, plain or gzipped ([`gzip`]), as its bytes arrive; [`zip`] reads a zip by its directory.
//! Nothing is published here, and a refused archive leaves nothing behind. The rules and their
//! reasons are in `docs/archives.md`.

mod block;
mod dirs;
mod error;
mod finish;
mod gzip;
mod header;
mod limits;
mod links;
mod member;
mod memory;
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
pub use memory::Memory;
use memory::Share;
pub use tree::Tree;
use tree::{Duplicates, Model};

use block::Stream;
use sink::{Disk, Sink};
use stop::Stop;

/// Read size for archives on disk.
const READ_BYTES: usize = 256 << 10;

/// Encoding of zip names that are not marked as UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameEncoding {
    /// What the format says, code page 437, except for valid UTF-8 in a zip made on Unix.
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

/// The node's settings for unpacking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub limits: Limits,
    /// Permission bits removed from every published file and directory, in octal. A directory
    /// always keeps `u+rwx`.
    #[serde(with = "octal")]
    pub umask: u32,
    /// Encoding of zip names that are not marked as UTF-8: `auto`, `utf-8`, `cp437` or `gbk`.
    pub zip_name_encoding: NameEncoding,
    /// Whether Landlock confines the unpacking threads to the state directory, if the kernel has
    /// it.
    pub sandbox: bool,
    /// Overrides of `zip_name_encoding` per application, from `[apps]`.
    #[serde(skip)]
    pub apps_zip_name_encoding: BTreeMap<AppId, NameEncoding>,
}

impl Config {
    /// Returns the encoding of names in the zips of `app` that are not marked as UTF-8.
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

/// Called with the number of files and bytes written since the last call.
pub type OnWritten = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Settings for unpacking one archive.
#[derive(Clone)]
pub struct Options {
    pub limits: Limits,
    /// Permission bits removed from every file and directory. A directory always keeps `u+rwx`.
    pub umask: u32,
    /// Encoding of zip names that are not marked as UTF-8.
    pub zip_name_encoding: NameEncoding,
    /// Whether a long archive may use a second thread: to write a tar, or to share a zip's entries.
    pub threads: bool,
    /// Memory shared with the other archives that are being unpacked.
    pub spare_blocks: Arc<SpareBlocks>,
    /// Memory for the entries of all archives; unbounded if there is none.
    pub memory: Option<Arc<Memory>>,
    /// Whether to wait while other archives have that memory, instead of failing with
    /// [`Error::Crowded`].
    pub waits: bool,
    /// Progress callback, called from the writing threads.
    pub on_written: Option<OnWritten>,
    /// Set by the caller to stop the work, which then fails with [`Error::Canceled`].
    pub cancel: Arc<AtomicBool>,
    /// The only directory that the unpacking threads may write to, enforced by Landlock if the
    /// kernel has it. The calling thread stays confined for good, so give this work a thread of its
    /// own.
    pub sandbox: Option<Arc<Path>>,
    /// Whether the tree is to keep what it inherits from its directory: the entries of a default
    /// ACL, and the group of a set-group-ID directory. Modes may then differ from the archive's.
    pub inherits: bool,
}

impl Options {
    /// Makes the options for `config`, without progress callback and sandbox.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            limits: config.limits.clone(),
            umask: config.umask,
            zip_name_encoding: config.zip_name_encoding,
            threads: true,
            spare_blocks: Arc::new(SpareBlocks::for_archives(1)),
            memory: None,
            waits: true,
            on_written: None,
            cancel: Arc::default(),
            sandbox: None,
            inherits: false,
        }
    }
}

impl Options {
    /// Makes the model of a tree that is empty so far.
    fn model(&self, duplicates: Duplicates) -> Model {
        let memory = self.memory.as_ref();
        let share = memory.map(|memory| Share::new(memory, self.waits));
        Model::new(&self.limits, self.umask, duplicates).within(share)
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

/// Where the tree is written.
#[derive(Debug)]
pub enum Target {
    /// Into this directory, which must be empty and private. After an error it is empty again.
    Directory(OwnedFd),
    /// Nowhere: everything is checked except what depends on the disk, and nothing is hashed.
    Check,
}

/// Unpacks the archive in `file`, which is complete and positioned at its start.
///
/// Blocks. Verify the digest of a zip first: its directory is at the end of the file, so it cannot
/// be checked as it arrives.
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

/// Unpacks an archive while its bytes arrive; only for types that [can be
/// streamed](ArchiveType::is_streamable).
///
/// Blocks on `input` and on the disk, and holds at most a few MiB, however large the archive. A
/// good archive is read to the end of `input`; a bad one only up to its first flaw.
pub fn unpack_stream(
    archive_type: ArchiveType,
    input: impl BufRead,
    target: Target,
    options: &Options,
) -> Result<Tree, Error> {
    confine(options);
    let stop = Stop::new(&options.cancel);
    let spare = &options.spare_blocks;
    let gzip = match archive_type {
        ArchiveType::TarGz => true,
        // A zip in a stream fails as a tar that it is not.
        ArchiveType::Tar | ArchiveType::Zip => false,
    };
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
            // A failed writer stops the walk, whose own error then is only "canceled".
            (Err(Error::Canceled), Err(failure)) => Err(failure),
            (Err(error), _) => Err(error),
            (Ok(()), closed) => closed,
        }
    });
    settle(result, &root)?;
    Ok(walk.into_model().into_tree())
}

/// Confines this thread, and so the threads it starts, to the sandbox.
fn confine(options: &Options) {
    if let Some(sandbox) = &options.sandbox {
        let status = landlock::restrict_thread(&[sandbox]);
        tracing::debug!(%status, "sandbox of the unpacking threads");
    }
}

/// Empties `root` if the work failed.
fn settle<T>(result: Result<T, Error>, root: &OwnedFd) -> Result<T, Error> {
    result.map_err(|error| {
        let error = write::explain(error, root.as_fd());
        if let Err(left) = clear(root.as_fd()) {
            tracing::warn!(error = %left, "could not remove all of a refused archive");
        }
        error
    })
}

/// Serde for permission bits, as octal text such as `"0022"`.
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
                    "`{text}` is not a umask, expected octal digits such as \"0022\""
                ))
            })
    }
}
