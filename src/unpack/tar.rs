//! Walks a tar as its bytes arrive: headers, extended headers, members, and the end mark. Each
//! member is checked against the model first and only then sent to the sink.

use std::io::BufRead;

use super::Options;
use super::block::{Stream, cut};
use super::error::{Error, Reason, Refusal};
use super::header::{BLOCK, Header, Type};
use super::limits::Meter;
use super::links;
use super::member::{Member, Pending, ambiguous, no_content};
use super::path::EntryPath;
use super::pax::{self};
use super::sink::Sink;
use super::sparse::{MapReader, Sparse, push_old_pairs};
use super::tree::{Duplicates, Model};

/// The walk over one archive.
pub(super) struct Walk<'a, R> {
    stream: Stream<'a, R>,
    options: &'a Options,
    meter: Meter,
    pub(super) model: Model,
    pending: Pending,
}

impl<'a, R: BufRead> Walk<'a, R> {
    pub(super) fn new(stream: Stream<'a, R>, options: &'a Options) -> Self {
        Self {
            stream,
            options,
            meter: Meter::default(),
            model: options.model(Duplicates::LastWins),
            pending: Pending::default(),
        }
    }

    /// Returns the model and frees the stream's blocks: the tree needs the memory.
    pub(super) fn into_model(self) -> Model {
        self.model
    }

    /// Reads the archive to its end.
    pub(super) fn run(&mut self, sink: &mut Sink<'_, '_>) -> Result<(), Error> {
        loop {
            let first = self.stream.offset() == 0;
            let Some(header) = self.stream.header()? else {
                if first {
                    return Err(Refusal::new(Reason::NotAnArchive, "the file is empty").into());
                }
                // Many writers omit the end mark; a cut inside a member would have failed by now.
                self.pending.check_empty()?;
                break;
            };
            if header.is_zero() {
                self.end()?;
                break;
            }
            header.check().map_err(|refusal| match first {
                true => refusal,
                false => Refusal {
                    reason: Reason::Checksum,
                    ..refusal
                },
            })?;
            let name = header.name();
            self.take(header, sink).map_err(|e| e.at(&name))?;
            if self.stream.is_drained() {
                sink.flush(self.stream.is_long());
            }
        }
        links::check(&self.model)?;
        Ok(())
    }

    /// Checks what follows a first block of zeros: the end of the file, or a second such block and
    /// then anything. Readers disagree about a member after a lone one, so it is refused.
    fn end(&mut self) -> Result<(), Error> {
        self.pending.check_empty()?;
        match self.stream.header()? {
            None => Ok(()),
            Some(second) if second.is_zero() => self.stream.drain(),
            Some(hidden) => {
                let refusal = Refusal::new(Reason::TarEof, "something follows a lone end mark");
                Err(match hidden.check() {
                    Ok(()) => refusal.at(&hidden.name()),
                    Err(_) => refusal,
                }
                .into())
            }
        }
    }

    fn take(&mut self, header: Header, sink: &mut Sink<'_, '_>) -> Result<(), Error> {
        // The size first: without it the next header cannot be located.
        header.size()?;
        let kind = header.kind()?;
        match kind {
            Type::LongName => {
                let name = self.long(&header)?;
                self.pending.set_name(name)
            }
            Type::LongLink => {
                let link = self.long(&header)?;
                self.pending.set_link(link)
            }
            Type::Pax => {
                let payload = self.extended(&header)?;
                self.pending.set_pax(pax::parse(&payload)?)
            }
            Type::PaxGlobal => {
                let payload = self.extended(&header)?;
                pax::check_global(&payload)?;
                self.pending.check_none("a global header")
            }
            Type::Label => {
                no_content(header.size()?)?;
                self.pending.check_none("a volume label")
            }
            Type::File | Type::HardLink | Type::Symlink | Type::Dir | Type::Sparse => {
                let member = std::mem::take(&mut self.pending).member(header, kind)?;
                let name = member.name.clone();
                self.member(member, sink).map_err(|e| e.at(&name))
            }
        }
    }

    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = self.extended_size(header)?;
        self.stream.payload(size)
    }

    fn extended_size(&self, header: &Header) -> Result<u64, Refusal> {
        let size = header.size()?;
        let most = self.options.limits.max_meta_bytes;
        if size > most {
            return Err(Refusal::limit(
                Reason::ExtTooBig,
                "max_meta_bytes",
                most,
                size,
            ));
        }
        Ok(size)
    }

    /// Reads a GNU long name or link target up to its closing NUL; other bytes after it are
    /// refused, since they could hide something. Some writers omit the NUL, and GNU tar then looks
    /// for one in the padding.
    fn long(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = self.extended_size(header)?;
        let mut name = self.stream.payload(size.next_multiple_of(BLOCK as u64))?;
        let padding = name.split_off(usize::try_from(size).unwrap_or(name.len()));
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        if end == name.len() && padding.first().is_some_and(|b| *b != 0) {
            let refusal = ambiguous("a long name without a NUL continues beyond its length");
            return Err(refusal.at(&name).into());
        }
        if name[end..].iter().any(|b| *b != 0) {
            let refusal = Refusal::new(Reason::PathNul, "bytes follow a NUL in a long name");
            return Err(refusal.at(&name).into());
        }
        name.truncate(end);
        Ok(name)
    }

    fn member(&mut self, member: Member, sink: &mut Sink<'_, '_>) -> Result<(), Error> {
        let limits = &self.options.limits;
        self.meter.add_entry(limits)?;
        self.model.pay(&self.options.cancel)?;
        let path = EntryPath::parse(&member.name, limits)?;
        match member.kind {
            Type::Dir => self.directory(&path, &member, sink),
            Type::Symlink => {
                no_content(member.stored)?;
                let plan = self.model.add_symlink(&path, &member.link, member.mtime)?;
                sink.symlink(&self.model, plan, path.into_bytes())
            }
            Type::HardLink => {
                no_content(member.stored)?;
                let target = self.hard_link_target(&member.link)?;
                let plan = self.model.add_hard_link(&path, &target)?;
                sink.link(&self.model, plan, target.as_bytes(), path.into_bytes())
            }
            Type::File | Type::Sparse if path.directory_like => {
                if member.stored > 0 || member.kind == Type::Sparse || member.sparse.is_some() {
                    let detail = "a file with content and the name of a directory";
                    return Err(Refusal::new(Reason::TypeConflict, detail).into());
                }
                self.directory(&path, &member, sink)
            }
            Type::File | Type::Sparse => match self.sparse_map(&member)? {
                Some(sparse) => self.sparse_file(path, &member, &sparse, sink),
                None => self.file(path, &member, sink),
            },
            // Handled before they become members.
            Type::LongName | Type::LongLink | Type::Pax | Type::PaxGlobal | Type::Label => Ok(()),
        }
    }

    fn directory(
        &mut self,
        path: &EntryPath,
        member: &Member,
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), Error> {
        no_content(member.stored)?;
        self.model
            .add_dir(path, member.header.mode(0o755), member.mtime)?;
        sink.dirs(&self.model)
    }

    fn hard_link_target(&self, link: &[u8]) -> Result<EntryPath, Refusal> {
        EntryPath::parse(link, &self.options.limits).map_err(|refusal| match refusal.reason {
            Reason::PathAbsolute | Reason::PathDotdot => Refusal::new(
                Reason::HardlinkEscape,
                format!("a hard link to `{}`", super::error::escape(link)),
            ),
            Reason::PathEmpty => Refusal::new(Reason::HardlinkMissing, "a hard link to nothing"),
            _ => refusal,
        })
    }

    fn file(
        &mut self,
        path: EntryPath,
        member: &Member,
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), Error> {
        let size = member.stored;
        self.meter.add_file(size, &self.options.limits)?;
        let mode = member.header.mode(0o644);
        let plan = self.model.add_file(&path, size, mode, member.mtime)?;
        sink.create(&self.model, plan, path.into_bytes(), size, member.mtime)?;
        self.copy(size, sink)?;
        self.stream.skip_padding(size)
    }

    /// Copies the next `len` bytes to the sink.
    fn copy(&mut self, len: u64, sink: &mut Sink<'_, '_>) -> Result<(), Error> {
        let mut rest = len;
        while rest > 0 {
            let slice = self
                .stream
                .take(rest)?
                .ok_or_else(|| cut("ends inside a file"))?;
            rest -= slice.len() as u64;
            sink.data(slice)?;
            if self.stream.is_drained() {
                sink.flush(self.stream.is_long());
            }
        }
        Ok(())
    }

    /// Reads the map of a sparse file, wherever its format keeps it; `None` for an ordinary file.
    fn sparse_map(&mut self, member: &Member) -> Result<Option<Sparse>, Error> {
        match (&member.sparse, member.kind) {
            (None, Type::Sparse) => self.old_map(member).map(Some),
            (None, _) => Ok(None),
            (Some(_), Type::Sparse) => {
                Err(Refusal::new(Reason::SparseInvalid, "the sparse file has two maps").into())
            }
            (Some(pax), _) => {
                let real_size = pax.real_size.unwrap_or(0);
                if !pax.map_in_data {
                    return Ok(Some(Sparse::new(&pax.map, real_size, member.stored)?));
                }
                self.meter_of_map(real_size)?;
                let (map, read) = self.map_in_data(member.stored)?;
                Ok(Some(Sparse::new(&map, real_size, member.stored - read)?))
            }
        }
    }

    /// Refuses a file over the size limits before its map is read.
    fn meter_of_map(&self, real_size: u64) -> Result<(), Refusal> {
        Meter::default().add_file(real_size, &self.options.limits)
    }

    fn old_map(&mut self, member: &Member) -> Result<Sparse, Error> {
        let (pairs, mut more, real_size) = member.header.sparse();
        let real_size = real_size.ok_or_else(|| {
            Refusal::new(
                Reason::SparseInvalid,
                "the sparse file's real size is not a number",
            )
        })?;
        self.meter_of_map(real_size)?;
        let mut map = Vec::new();
        let mut ended = push_old_pairs(pairs, &mut map)?;
        while more {
            let block = self.stream.payload(BLOCK as u64)?;
            self.check_map_len(map.len() as u64 * 12)?;
            if !ended {
                ended = push_old_pairs(&block[..504], &mut map)?;
            }
            more = block[504] != 0;
        }
        Ok(Sparse::new(&map, real_size, member.stored)?)
    }

    fn map_in_data(&mut self, stored: u64) -> Result<(Vec<u64>, u64), Error> {
        let mut reader = MapReader::default();
        let mut read = 0;
        loop {
            if read + BLOCK as u64 > stored {
                return Err(Refusal::new(
                    Reason::SparseInvalid,
                    "the sparse file's map does not end",
                )
                .into());
            }
            self.check_map_len(read)?;
            let block = self.stream.payload(BLOCK as u64)?;
            read += BLOCK as u64;
            if let Some(map) = reader.push(&block)? {
                return Ok((map, read));
            }
        }
    }

    fn check_map_len(&self, len: u64) -> Result<(), Refusal> {
        let most = self.options.limits.max_meta_bytes;
        if len > most {
            return Err(Refusal::limit(
                Reason::ExtTooBig,
                "max_meta_bytes",
                most,
                len,
            ));
        }
        Ok(())
    }

    /// Writes a sparse file: its ranges, and holes between them.
    fn sparse_file(
        &mut self,
        path: EntryPath,
        member: &Member,
        sparse: &Sparse,
        sink: &mut Sink<'_, '_>,
    ) -> Result<(), Error> {
        let size = sparse.real_size;
        self.meter.add_file(size, &self.options.limits)?;
        let stored = sparse.pieces.iter().map(|(_, len)| len).sum();
        self.stream.check_holes(size - stored, stored)?;
        let mode = member.header.mode(0o644);
        let plan = self.model.add_file(&path, size, mode, member.mtime)?;
        sink.create(&self.model, plan, path.into_bytes(), size, member.mtime)?;
        let (mut at, mut copied) = (0, 0);
        for (offset, len) in &sparse.pieces {
            if *offset > at {
                sink.hole(offset - at)?;
            }
            self.copy(*len, sink)?;
            copied += len;
            at = offset + len;
        }
        if size > at {
            sink.hole(size - at)?;
        }
        self.stream.add_holes(size - copied)?;
        self.stream.skip_padding(copied)
    }
}
