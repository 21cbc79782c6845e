//! Unpacks a complete zip by its directory, which every local header has to confirm.
//!
//! Everything is decided before the disk is touched: the directory is read, each local header
//! compared, every name added to the model, every limit checked. Only then are the contents
//! extracted, in parallel.

mod bytes;
mod directory;
mod end;
mod extract;
mod local;
mod names;
mod record;

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use directory::Directory;
use extract::{Content, Job, Shared};
use record::{Method, Record};

use super::dirs::{Beneath, Dirs};
use super::error::{Error, Reason, Refusal};
use super::finish::finish;
use super::limits::{MAX_TARGET, Meter};
use super::links;
use super::path::EntryPath;
use super::stop::Stop;
use super::tree::{Duplicates, Model, Tree};
use super::write::Modes;
use super::{Options, Target, settle};

/// The file type bits of a Unix mode, and their values.
const KIND: u32 = 0o170_000;
const KIND_NONE: u32 = 0;
const KIND_FILE: u32 = 0o100_000;
const KIND_DIR: u32 = 0o040_000;
const KIND_LINK: u32 = 0o120_000;
/// DOS attributes.
const DOS_LABEL: u32 = 0x08;
const DOS_DIRECTORY: u32 = 0x10;

/// What an entry becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Dir,
    Link,
}

/// Unpacks the zip in `file`.
pub(super) fn unpack(file: &File, target: Target, options: &Options) -> Result<Tree, Error> {
    let len = file.metadata().map_err(Error::Input)?.len();
    if len == 0 {
        return Err(Refusal::new(Reason::NotAnArchive, "the file is empty").into());
    }
    let bytes = Bytes { file, len };
    let stop = Stop::new(&options.cancel);
    let directory = directory::read(&bytes, &options.limits)?;
    let data = check_locals(&bytes, &directory)?;
    let mut plan = Plan {
        options,
        meter: Meter::default(),
        model: options.model(Duplicates::Refused),
        content: Content::new(&bytes, &stop),
        jobs: Vec::new(),
        sizes: (0, 0),
    };
    for (record, data) in directory.records.iter().zip(data) {
        plan.add(record, data).map_err(|e| e.at(&record.raw_name))?;
    }
    links::check(&plan.model)?;
    let Plan {
        mut model,
        jobs,
        content,
        ..
    } = plan;
    drop(content);
    let mut shared = Shared {
        bytes: &bytes,
        jobs,
        model: &model,
        options,
        stop: &stop,
        root: None,
    };
    let Target::Directory(root) = target else {
        return extract::run(&shared).map(|_| model.into_tree());
    };
    let root = Arc::new(root);
    shared.root = Some(Arc::clone(&root));
    let result = extract::run(&shared).and_then(|digests| {
        let mut dirs = Dirs::new(Arc::clone(&root), Beneath::probe(root.as_fd()));
        finish(
            &model,
            &mut dirs,
            Modes::probe(root.as_fd(), options.inherits),
            &[],
        )?;
        Ok(digests)
    });
    // Free what the tree was built from: the tree needs the memory.
    drop(shared);
    drop(directory);
    for (content, sha256) in settle(result, &root)? {
        model.set_digest(content, sha256);
    }
    Ok(model.into_tree())
}

/// Compares every local header with the directory, in file order, and checks the bytes between
/// them. Returns the offset of each entry's data, in directory order.
fn check_locals(bytes: &Bytes<'_>, directory: &Directory) -> Result<Vec<u64>, Error> {
    let records = &directory.records;
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|i| records[*i].offset);
    let mut data = vec![0; records.len()];
    for (at, i) in order.iter().enumerate() {
        let next = order
            .get(at + 1)
            .map_or(directory.start, |next| records[*next].offset);
        let record = &records[*i];
        data[*i] = local::check(bytes, record, next.min(directory.start))
            .map_err(|e| e.at(&record.raw_name))?;
    }
    let first = order
        .first()
        .map_or(directory.start, |i| records[*i].offset);
    local::check_prefix(bytes, first)?;
    Ok(data)
}

struct Plan<'a> {
    options: &'a Options,
    meter: Meter,
    model: Model,
    content: Content<'a>,
    jobs: Vec<Job<'a>>,
    /// Compressed and uncompressed bytes of all entries so far.
    sizes: (u64, u64),
}

impl<'a> Plan<'a> {
    fn add(&mut self, record: &'a Record, data: u64) -> Result<(), Error> {
        let limits = &self.options.limits;
        self.meter.add_entry(limits)?;
        self.model.pay(&self.options.cancel)?;
        let name = names::decode(
            &record.raw_name,
            record.unicode.as_deref(),
            record.flags,
            record.host,
            self.options.zip_name_encoding,
        )?;
        let name = names::separate(name, record.host)?;
        let path = EntryPath::parse(&name, limits)?;
        let (kind, mode) = kind(record, path.directory_like)?;
        self.meter.add_file(record.size, limits)?;
        self.check_ratio(record)?;
        if record.method == Method::Stored && record.size != record.stored {
            let detail = "the entry is stored, but its two sizes differ";
            return Err(Refusal::new(Reason::ZipSize, detail)
                .values(record.size, record.stored)
                .into());
        }
        match kind {
            Kind::Dir => {
                if record.size > 0 {
                    let detail = "a directory with content";
                    return Err(Refusal::new(Reason::TypeConflict, detail).into());
                }
                // It may claim to be empty and not be: verify it like a file.
                self.content.read(record, data, &mut |_| Ok(()))?;
                self.model.add_dir(&path, mode, record.mtime)?;
            }
            Kind::Link => {
                let target = self.read_target(record, data)?;
                self.model.add_symlink(&path, &target, record.mtime)?;
            }
            Kind::File => {
                let plan = self
                    .model
                    .add_file(&path, record.size, mode, record.mtime)?;
                self.jobs.push(Job {
                    record,
                    data,
                    path: path.into_bytes(),
                    plan,
                });
            }
        }
        Ok(())
    }

    /// Checks the ratio of this entry and of all so far. The stated sizes suffice, since extraction
    /// enforces them.
    fn check_ratio(&mut self, record: &Record) -> Result<(), Refusal> {
        let limits = &self.options.limits;
        limits.check_ratio(record.stored, record.size)?;
        self.sizes.0 = self.sizes.0.saturating_add(record.stored);
        self.sizes.1 = self.sizes.1.saturating_add(record.size);
        limits.check_ratio(self.sizes.0, self.sizes.1)
    }

    fn read_target(&mut self, record: &Record, data: u64) -> Result<Vec<u8>, Error> {
        if record.size > MAX_TARGET as u64 {
            return Err(Refusal::limit(
                Reason::PathTooLong,
                "max_path_bytes",
                MAX_TARGET as u64,
                record.size,
            )
            .into());
        }
        let mut target = Vec::new();
        self.content.read(record, data, &mut |bytes| {
            target.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(target)
    }
}

/// Determines an entry's kind and permission bits from its name and its Unix mode, which have to
/// agree.
fn kind(record: &Record, directory_like: bool) -> Result<(Kind, u32), Refusal> {
    if names::is_windows(record.host) {
        // Some readers trust the name and make a file, others the attribute and make a directory.
        if record.attributes & DOS_DIRECTORY != 0 && !directory_like {
            return Err(Refusal::new(
                Reason::PathConflict,
                "the attributes say directory, but the name has no trailing slash",
            ));
        }
        // Some readers skip a volume label, others make a file of it.
        if record.attributes & DOS_LABEL != 0 {
            return Err(Refusal::new(Reason::UnknownType, "a volume label"));
        }
    }
    let mode = match names::is_unix(record.host) {
        true => record.attributes >> 16,
        false => 0,
    };
    let kind = match mode & KIND {
        KIND_NONE | KIND_FILE if !directory_like => Kind::File,
        KIND_NONE | KIND_FILE | KIND_DIR if directory_like => Kind::Dir,
        KIND_LINK if !directory_like => Kind::Link,
        KIND_FILE | KIND_DIR | KIND_LINK => {
            return Err(Refusal::new(
                Reason::TypeConflict,
                "the name and the mode disagree about whether this is a directory",
            ));
        }
        _ => {
            return Err(Refusal::new(
                Reason::SpecialFile,
                "a device, FIFO or socket",
            ));
        }
    };
    let bits = match (mode, kind) {
        (0, Kind::Dir) => 0o755,
        (0, Kind::File | Kind::Link) => 0o644,
        (mode, _) => mode & 0o777,
    };
    Ok((kind, bits))
}
