//! The partial file: bytes as received, kept so that a restart resumes where this process stopped.
//!
//! `<name>.partial` holds the bytes and `<name>.meta` identifies their content: by digests and size if the
//! push states a digest, whatever the URL; otherwise by the URL. The `.meta` also holds a checksum of the
//! bytes before and after the last write, which is compared while they are read again: a damaged part is
//! fetched anew even where no digest is stated. Nothing is synced. Calls block.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crc32fast::Hasher as Crc;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::range::Validator;
use crate::datafile::{Content, SourceUrl};
use crate::sys::durable::{self, Error, at};

/// Bytes per write: writes cost, and a small file may be complete before the first one.
const PIECE: usize = 1 << 20;
/// A `.meta` file is a multiple of this long.
const META_BLOCK: usize = 512;
/// The bytes may be a customer's data.
const MODE: u32 = 0o600;

/// Identifies the content of a partial file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What the push states.
    content: Content,
    /// SHA-256 of the URL if no digest is stated: then nothing else distinguishes contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

impl Identity {
    #[must_use]
    pub fn new(content: &Content, url: &SourceUrl) -> Self {
        let stated = content.md5.is_some() || content.sha256.is_some();
        Self {
            content: *content,
            url: (!stated).then(|| hex::encode(sha2::Sha256::digest(url.expose()))),
        }
    }

    /// Returns a file name unique to this identity.
    #[must_use]
    pub fn name(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        hex::encode(&sha2::Sha256::digest(text)[..16])
    }
}

/// The `.meta` file. Fields are only ever added; if it cannot be read, the fetch starts over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    #[serde(flatten)]
    identity: Identity,
    #[serde(default)]
    validator: Option<Validator>,
    /// Before and after the last write.
    #[serde(default)]
    sums: [Sum; 2],
}

/// The length of a partial file and the CRC-32 of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Sum {
    length: u64,
    crc: u32,
}

/// An open partial file. Dropping it keeps the bytes.
#[derive(Debug)]
pub struct Spool {
    partial: PathBuf,
    meta_path: PathBuf,
    file: File,
    meta: Meta,
    /// The `.meta` file, once there is one.
    meta_file: Option<File>,
    /// The checksum of what was read again.
    read: Crc,
    /// What was written.
    sum: Sum,
    buffer: Vec<u8>,
    /// Whether the files were moved or removed.
    gone: bool,
}

/// Returns whether the bytes at `partial` are of a push that states a digest. A later push can use no
/// others: nothing proves that they are the beginning of its archive.
#[must_use]
pub fn is_proven(partial: &Path) -> bool {
    read_meta(&partial.with_extension("meta")).is_some_and(|(meta, _)| meta.identity.url.is_none())
}

impl Spool {
    /// Opens the partial file `name` in `dir` for the content `identity`. Bytes of other content are
    /// discarded.
    pub fn open(dir: &Path, name: &str, identity: &Identity) -> Result<Self, Error> {
        let partial = dir.join(format!("{name}.partial"));
        let meta_path = dir.join(format!("{name}.meta"));
        let kept = read_meta(&meta_path).filter(|(meta, _)| meta.identity == *identity);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .open(&partial)
            .map_err(at("open", &partial))?;
        let found = file.metadata().map_err(at("stat", &partial))?.len();
        let sums = kept
            .as_ref()
            .map_or([Sum::default(); 2], |(meta, _)| meta.sums);
        let reached = sums.into_iter().rev().find(|sum| sum.length <= found);
        let sum = reached.unwrap_or_default();
        // What a kill or a failed write left of the last write. Only if there is something: ext4 flushes a
        // file at close once it was truncated to zero.
        if found > sum.length {
            file.set_len(sum.length).map_err(at("truncate", &partial))?;
        }
        let (meta, meta_file) = kept.unzip();
        Ok(Self {
            meta: meta.unwrap_or_else(|| Meta {
                identity: identity.clone(),
                validator: None,
                sums: [sum; 2],
            }),
            partial,
            meta_path,
            file,
            meta_file,
            read: Crc::new(),
            sum,
            buffer: Vec::new(),
            gone: false,
        })
    }

    /// Returns the number of bytes, including those not yet written.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.sum.length + self.buffer.len() as u64
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the validator of the object that the bytes are from.
    #[must_use]
    pub fn validator(&self) -> Option<&Validator> {
        self.meta.validator.as_ref()
    }

    /// Stores the validator of the object that the bytes are from. For another object call [`Spool::reset`]
    /// first.
    pub fn set_validator(&mut self, validator: Option<&Validator>) -> Result<(), Error> {
        if self.meta.validator.as_ref() == validator {
            return Ok(());
        }
        self.meta.validator = validator.cloned();
        match self.meta_file {
            Some(_) => self.write_meta(),
            None => Ok(()),
        }
    }

    /// Takes bytes that were read again, in order.
    pub fn read_again(&mut self, bytes: &[u8]) {
        self.read.update(bytes);
    }

    /// Returns whether all bytes so far are as they were written; call it once they were read again.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.read.clone().finalize() == self.sum.crc
    }

    /// Appends bytes; they are written in large pieces.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.buffer.is_empty() && bytes.len() >= PIECE {
            return self.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
        result
    }

    /// Returns another handle at the first byte, after writing what is buffered.
    pub fn reader(&mut self) -> Result<File, Error> {
        self.flush()?;
        self.read = Crc::new();
        File::open(&self.partial).map_err(at("open", &self.partial))
    }

    /// Returns the file. What is buffered is not in it yet.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Discards all bytes and their validator.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.buffer.clear();
        self.sum = Sum::default();
        self.read = Crc::new();
        self.file
            .set_len(0)
            .map_err(at("truncate", &self.partial))?;
        self.meta.sums = [self.sum; 2];
        self.set_validator(None)
    }

    /// Removes the files.
    pub fn discard(mut self) -> Result<(), Error> {
        self.gone = true;
        remove(&self.partial)?;
        remove(&self.meta_path)
    }

    /// Moves the file to `to`. The caller syncs it and the directory.
    pub fn persist(mut self, to: &Path) -> Result<(), Error> {
        self.flush()?;
        durable::rename(&self.partial, to)?;
        self.gone = true;
        remove(&self.meta_path)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut crc = Crc::new_with_initial_len(self.sum.crc, self.sum.length);
        crc.update(bytes);
        let after = Sum {
            length: self.sum.length + bytes.len() as u64,
            crc: crc.finalize(),
        };
        self.meta.sums = [self.sum, after];
        // Before the bytes: their content is always identified.
        self.write_meta()?;
        self.file
            .write_all(bytes)
            .map_err(at("write", &self.partial))?;
        self.sum = after;
        Ok(())
    }

    /// Creates the `.meta` file, or writes it anew in its place: a text of less than a block is never torn
    /// by a kill, and one that a power failure tears cannot be read.
    fn write_meta(&mut self) -> Result<(), Error> {
        let mut text = serde_json::to_vec(&self.meta)
            .map_err(|e| at("encode", &self.meta_path)(io::Error::other(e)))?;
        text.resize(text.len().next_multiple_of(META_BLOCK), b' ');
        if let Some(file) = &self.meta_file {
            let long = file.metadata().map_or(0, |m| m.len());
            let long = usize::try_from(long).unwrap_or_default();
            text.resize(text.len().max(long), b' ');
            return file
                .write_all_at(&text, 0)
                .map_err(at("write", &self.meta_path));
        }
        let temporary = durable::temporary_sibling(&self.meta_path);
        let result = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&text).map(|()| file))
            .map_err(at("write", &temporary))
            .and_then(|file| durable::rename(&temporary, &self.meta_path).map(|()| file));
        match result {
            Ok(file) => {
                self.meta_file = Some(file);
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.gone {
            let _ = self.flush();
        }
    }
}

/// Opens a `.meta` file that can be read.
fn read_meta(path: &Path) -> Option<(Meta, File)> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let mut text = Vec::new();
    (&file).read_to_end(&mut text).ok()?;
    Some((serde_json::from_slice(&text).ok()?, file))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafile::Md5;
    use std::os::unix::fs::PermissionsExt;

    fn url(text: &str) -> SourceUrl {
        SourceUrl::parse(text).unwrap()
    }

    fn identity(md5: Option<u8>, size: u64, at: &str) -> Identity {
        let content = Content {
            size: Some(size),
            md5: md5.map(|b| Md5::parse(&hex::encode([b; 16])).unwrap()),
            sha256: None,
        };
        Identity::new(&content, &url(at))
    }

    fn validator(etag: &str) -> Validator {
        Validator {
            host: "h:80".to_owned(),
            etag: Some(etag.to_owned()),
            last_modified: None,
        }
    }

    #[test]
    fn resumes_for_the_same_content_and_starts_over_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let open = |identity: &Identity| Spool::open(dir.path(), "7", identity).unwrap();
        let one = identity(Some(1), 10, "http://h/a?sign=SECRET");
        let mut spool = open(&one);
        spool.set_validator(Some(&validator("\"v1\""))).unwrap();
        spool.append(b"01234").unwrap();
        assert_eq!(spool.len(), 5);
        drop(spool);
        let meta = fs::read_to_string(dir.path().join("7.meta")).unwrap();
        assert!(!meta.contains("SECRET") && !meta.contains("http"), "{meta}");
        let mode = |name: &str| {
            fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(
            (mode("7.meta") & 0o777, mode("7.partial") & 0o777),
            (MODE, MODE)
        );
        // A fresh signed URL for the same content.
        let mut spool = open(&identity(Some(1), 10, "http://other/b?sign=NEW"));
        assert_eq!(spool.len(), 5);
        assert_eq!(spool.validator(), Some(&validator("\"v1\"")));
        let mut text = String::new();
        spool.read_again(b"01234");
        assert!(spool.is_intact());
        spool.append(b"56789").unwrap();
        spool.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "0123456789");
        drop(spool);
        // Another size, another digest.
        assert!(open(&identity(Some(1), 11, "http://h/a")).is_empty());
        let mut spool = open(&identity(Some(2), 11, "http://h/a"));
        assert!(spool.is_empty() && spool.validator().is_none());
        spool.append(b"x").unwrap();
        drop(spool);
        assert_eq!(open(&identity(Some(2), 11, "http://h/a")).len(), 1);
    }

    #[test]
    fn bytes_that_changed_are_noticed_and_those_without_a_checksum_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let one = identity(None, 10, "http://h/a");
        let open = || Spool::open(dir.path(), "7", &one).unwrap();
        let partial = dir.path().join("7.partial");
        let mut spool = open();
        spool.append(b"01234").unwrap();
        spool.flush().unwrap();
        // Killed in the middle of a write.
        spool.append(b"torn").unwrap();
        spool.flush().unwrap();
        spool.file.set_len(7).unwrap();
        drop(spool);
        let mut spool = open();
        assert_eq!(
            (spool.len(), fs::read(&partial).unwrap()),
            (5, b"01234".to_vec())
        );
        spool.read_again(b"01");
        spool.read_again(b"234");
        assert!(spool.is_intact());
        spool.append(b"56789").unwrap();
        drop(spool);
        let mut spool = open();
        spool.read_again(b"0123456789");
        assert!(spool.is_intact());
        drop(spool);
        fs::write(&partial, b"0123x56789").unwrap();
        let mut spool = open();
        spool.read_again(b"0123x56789");
        assert!(!spool.is_intact());
        drop(spool);
        fs::write(&partial, b"0123").unwrap();
        assert!(open().is_empty());
    }

    #[test]
    fn without_a_digest_only_the_same_url_resumes() {
        let dir = tempfile::tempdir().unwrap();
        let a = identity(None, 10, "http://h/a?sign=1");
        let b = identity(None, 10, "http://h/a?sign=2");
        let mut spool = Spool::open(dir.path(), "7", &a).unwrap();
        spool.append(b"x").unwrap();
        drop(spool);
        assert_eq!(Spool::open(dir.path(), "7", &a).unwrap().len(), 1);
        assert!(Spool::open(dir.path(), "7", &b).unwrap().is_empty());
        assert_ne!(a.name(), b.name());
    }

    #[test]
    fn bytes_without_a_readable_meta_are_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let one = identity(Some(1), 10, "http://h/a");
        for meta in [None, Some(""), Some("{}"), Some("{\"content\":")] {
            fs::write(dir.path().join("7.partial"), b"stale").unwrap();
            let _ = fs::remove_file(dir.path().join("7.meta"));
            if let Some(text) = meta {
                fs::write(dir.path().join("7.meta"), text).unwrap();
            }
            assert!(
                Spool::open(dir.path(), "7", &one).unwrap().is_empty(),
                "{meta:?}"
            );
        }
    }

    #[test]
    fn writes_in_large_pieces_and_moves_or_removes_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let one = identity(Some(1), 10, "http://h/a");
        let on_disk = |name: &str| fs::metadata(dir.path().join(name)).map(|m| m.len()).ok();
        let mut spool = Spool::open(dir.path(), "7", &one).unwrap();
        spool.append(&[1; 1000]).unwrap();
        assert_eq!((on_disk("7.partial"), on_disk("7.meta")), (Some(0), None));
        spool.append(&vec![2; PIECE]).unwrap();
        assert_eq!(on_disk("7.partial"), Some(PIECE as u64 + 1000));
        spool.append(&[3; 10]).unwrap();
        spool.reset().unwrap();
        assert_eq!((spool.len(), on_disk("7.partial")), (0, Some(0)));
        spool.append(b"good").unwrap();
        spool.persist(&dir.path().join("kept")).unwrap();
        assert_eq!(fs::read(dir.path().join("kept")).unwrap(), b"good");
        assert_eq!((on_disk("7.partial"), on_disk("7.meta")), (None, None));
        let mut spool = Spool::open(dir.path(), "8", &one).unwrap();
        spool.append(b"x").unwrap();
        spool.flush().unwrap();
        spool.discard().unwrap();
        assert_eq!((on_disk("8.partial"), on_disk("8.meta")), (None, None));
    }
}
