//! Why an archive was not unpacked: each reason is a row of [`KINDS`], and each error names one.
//!
//! A refusal is about the archive and is the same on every node; other errors are about this node
//! or its input. Member names are untrusted bytes: they are shown escaped and shortened, never raw.

use std::fmt;
use std::io;

use crate::sys::failure::{Class, Fault, Kind, Retry};

/// Bytes of a member's name that a message shows at most.
const SHOWN: usize = 300;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $help:literal,)*) => {
        /// Why an archive is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $help] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of [`KINDS`].
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the reason's row of [`KINDS`].
            #[must_use]
            pub fn kind(self) -> &'static Kind {
                &KINDS[self as usize]
            }
        }

        /// Every way in which unpacking can fail, besides [`FAULTS`](crate::sys::failure::FAULTS).
        pub const KINDS: &[Kind] = &[
            $(Kind { name: $name, class: Class::Content, retry: Retry::Fatal, help: $help },)*
            CANCELED, INPUT,
        ];
    };
}

reasons! {
    PathAbsolute "path-absolute" "A member's name begins with a slash or a drive; pack with relative names.",
    PathDotdot "path-dotdot" "A member's name contains `..`; pack from inside the directory, with plain names.",
    PathEmpty "path-empty" "A member has no name, or its name is the root itself; pack it again.",
    PathNul "path-nul" "A member's name contains a NUL byte, after which something may be hidden; pack it again with another tool.",
    PathTooLong "path-too-long" "A name or link target is longer than the file system allows, or than `max_path_bytes` or `max_component_bytes`.",
    PathTooDeep "path-too-deep" "A member lies deeper than `max_depth` directories; flatten the tree or raise the limit.",
    PathConflict "path-conflict" "One name is used for a directory and for something else; pack a tree that can exist.",
    ParentSymlink "parent-symlink" "A member would be placed through a symbolic link; pack the real directory.",
    SymlinkAbsolute "symlink-absolute" "A symbolic link points to an absolute path; make it relative and keep it inside the archive.",
    SymlinkEscape "symlink-escape" "A symbolic link leads out of the archive's tree; keep its target inside.",
    SymlinkEmpty "symlink-empty" "A symbolic link has no target; pack it again.",
    SymlinkLoop "symlink-loop" "Symbolic links form a loop or too long a chain; remove one.",
    HardlinkEscape "hardlink-escape" "A hard link names a file outside the archive; pack the file itself.",
    HardlinkMissing "hardlink-missing" "A hard link names a file that does not precede it in the archive; pack the whole tree at once.",
    HardlinkBadTarget "hardlink-bad-target" "A hard link names itself, something other than a regular file, or a path through a symbolic link; pack with `--hard-dereference`.",
    SpecialFile "special-file" "The archive holds a device, FIFO or socket; leave it out.",
    UnknownType "unknown-type" "A member is of a type that only one tool knows (multi-volume, incremental, vendor); pack with plain `tar`.",
    TypeConflict "type-conflict" "A member's name says directory, but its type or content says otherwise; pack it again with another tool.",
    SizeConflict "size-conflict" "A directory or link claims to have content, and readers disagree about what follows; pack it again with another tool.",
    SizeInvalid "size-invalid" "A member's size is negative, too large or not a number; the archive is damaged or forged.",
    Checksum "checksum" "A header's checksum is wrong; the archive is damaged, so pack or upload it again.",
    PaxMalformed "pax-malformed" "An extended header is not well-formed; the archive is damaged or forged.",
    PaxGlobalUnsafe "pax-global-unsafe" "A global header sets names or sizes of all members, and readers disagree about it; pack without one.",
    ExtAmbiguous "ext-ambiguous" "A member has two long names or sizes, and readers choose differently; pack it again with another tool.",
    ExtDangling "ext-dangling" "The archive ends after an extended header, without its member; it is cut off or forged.",
    ExtTooBig "ext-too-big" "An extended header is longer than `max_meta_bytes`; leave such attributes out or raise the limit.",
    SparseInvalid "sparse-invalid" "A sparse file's map contradicts itself; pack without `--sparse`.",
    SparseUnsupported "sparse-unsupported" "A sparse file has an unknown format; pack without `--sparse`.",
    Truncated "truncated" "The archive ends too early; it was cut off when it was made or uploaded.",
    TarEof "tar-eof" "Members follow an end mark, and only some readers show them; pack it again.",
    NotAnArchive "not-an-archive" "The file is not an archive of the stated type; check `archiveType`, and whether the file is an error page.",
    GzipHeader "gzip-header" "The gzip header is wrong; the file is damaged or not gzip.",
    GzipCrc "gzip-crc" "The gzip checksum does not match its content; the file is damaged, so pack or upload it again.",
    GzipData "gzip-data" "The compressed data is not valid; the file is damaged, so pack or upload it again.",
    GzipTrailing "gzip-trailing" "Other bytes follow the end of the gzip data; something was appended to the file.",
    ZipEocd "zip-eocd" "The end record of the zip is missing or contradicts itself; the file is cut off or damaged.",
    ZipCd "zip-cd" "The directory of the zip is not well-formed; the file is damaged or forged.",
    ZipLocal "zip-local" "An entry of the zip's directory does not lead to a local header; the file is damaged or forged.",
    ZipMismatch "zip-mismatch" "The zip describes one entry in two ways, and readers choose differently; pack it again with another tool.",
    ZipOverlap "zip-overlap" "Entries of the zip share bytes; this is how bombs are made, so it is refused.",
    ZipUnlisted "zip-unlisted" "The zip holds an entry that its directory does not list; pack it again instead of editing it.",
    ZipEncrypted "zip-encrypted" "The zip is encrypted; pack it without a password.",
    ZipMethod "zip-method" "The zip uses a compression other than stored or deflate; pack it with one of these.",
    ZipCrc "zip-crc" "An entry's checksum does not match its content; the file is damaged, so pack or upload it again.",
    ZipSize "zip-size" "An entry's content is longer or shorter than the zip says; the file is damaged or forged.",
    ZipData "zip-data" "An entry's compressed data is not valid; the file is damaged, so pack or upload it again.",
    ZipExtra "zip-extra" "An extra field of the zip is not well-formed; pack it again with another tool.",
    ZipMultidisk "zip-multidisk" "The zip is split over several disks; pack it in one piece.",
    ZipPrefix "zip-prefix" "Bytes precede the zip, as in a self-extracting file; push the plain zip.",
    ZipTrailing "zip-trailing" "Bytes follow the end of the zip; something was appended to the file.",
    ZipAmbiguous "zip-ambiguous" "The zip has more than one end record, and readers choose differently; pack it again.",
    NameEncoding "name-encoding" "A name is not valid in the encoding that the zip or `zip_name_encoding` states.",
    DuplicateName "duplicate-name" "Two entries of the zip have the same name, and readers choose differently; pack it again.",
    LimitEntries "limit-entries" "The archive has more members than `max_entries`, or a zip directory over `max_zip_directory_bytes`; split it or raise the limit.",
    LimitFile "limit-file" "A file is larger than `max_file_bytes`; raise the limit if that is intended.",
    LimitTotal "limit-total" "The files together are larger than `max_total_bytes` or than the free space of the disk.",
    LimitRatio "limit-ratio" "The archive expands by more than `max_ratio` to one; it looks like a bomb. Raise the limit if that is intended.",
}

const CANCELED: Kind = Kind {
    name: "canceled",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "The work was stopped by an operator or by a shutdown.",
};
const INPUT: Kind = Kind {
    name: "input",
    class: Class::Device,
    retry: Retry::Transient,
    help: "The archive could not be read to its end; the cause says why.",
};

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not acceptable; nothing of it is left on disk.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The archive's bytes could not be read; the source is the reader's own error, unchanged.
    #[error("read the archive")]
    Input(#[source] io::Error),
    /// This node could not write a member.
    #[error("{verb} `{entry}`")]
    Disk {
        why: DiskError,
        /// The operation that failed, such as `create`.
        verb: &'static str,
        /// The member it failed for, escaped.
        entry: String,
        #[source]
        source: io::Error,
    },
    /// The caller stopped the work.
    #[error("stopped before the archive was unpacked")]
    Canceled,
    /// Other archives have the memory for entries: unpack it again when it has arrived.
    #[error("other archives have the memory for its entries")]
    Crowded,
}

/// Whose fault a disk error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// This node lacks something, such as space.
    Fault(Fault),
    /// The file system accepts fewer names than the limits allow: its `NAME_MAX` is smaller, or it
    /// folds case.
    Name(Reason),
}

/// What is wrong with an archive, and where.
#[derive(Debug)]
pub struct Refusal {
    pub reason: Reason,
    /// The offending member, escaped.
    pub entry: Option<String>,
    /// What is wrong, for people.
    pub detail: String,
    /// The configuration key of the limit that was exceeded.
    pub limit: Option<&'static str>,
    pub expected: Option<String>,
    pub found: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(entry) = &self.entry {
            write!(f, "`{entry}`: ")?;
        }
        f.write_str(&self.detail)?;
        if let (Some(expected), Some(found)) = (&self.expected, &self.found) {
            write!(f, ", expected {expected}, found {found}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " (limit `{limit}`)")?;
        }
        Ok(())
    }
}

impl Refusal {
    /// Makes a refusal that names no member yet.
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            entry: None,
            detail: detail.into(),
            limit: None,
            expected: None,
            found: None,
        }
    }

    /// Makes a refusal for a limit: its configuration key, the maximum, and the value found.
    pub(super) fn limit(
        reason: Reason,
        key: &'static str,
        most: u64,
        found: impl fmt::Display,
    ) -> Self {
        Self {
            limit: Some(key),
            expected: Some(format!("at most {most}")),
            found: Some(found.to_string()),
            ..Self::new(reason, reason.limit_text())
        }
    }

    /// Adds the expected and the found value.
    pub(super) fn values(mut self, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        self.expected = Some(expected.to_string());
        self.found = Some(found.to_string());
        self
    }

    /// Names the offending member, unless one is named already.
    pub(super) fn at(mut self, name: &[u8]) -> Self {
        self.entry.get_or_insert_with(|| escape(name));
        self
    }
}

impl Reason {
    fn limit_text(self) -> &'static str {
        match self {
            Self::LimitEntries => "too many members",
            Self::LimitFile => "the file is too large",
            Self::LimitTotal => "the files together are too large",
            Self::LimitRatio => "expands too much",
            Self::PathTooLong => "the name is too long",
            Self::PathTooDeep => "is nested too deeply",
            Self::ExtTooBig => "the extended header is too long",
            _ => "over a limit",
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl Error {
    /// Returns the row of [`KINDS`] for this error.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::Refused(refusal) => refusal.reason.kind(),
            Self::Input(_) => &INPUT,
            Self::Disk { why, .. } => match why {
                DiskError::Fault(fault) => fault.kind(),
                DiskError::Name(reason) => reason.kind(),
            },
            Self::Canceled | Self::Crowded => &CANCELED,
        }
    }

    /// Returns the offending member, escaped.
    #[must_use]
    pub fn entry(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.entry.as_deref(),
            Self::Disk { entry, .. } => Some(entry),
            Self::Input(_) | Self::Canceled | Self::Crowded => None,
        }
    }

    /// Returns the configuration key of the limit that was exceeded.
    #[must_use]
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => refusal.limit,
            Self::Input(_) | Self::Disk { .. } | Self::Canceled | Self::Crowded => None,
        }
    }

    /// Returns the expected value, for errors that compare values.
    #[must_use]
    pub fn expected(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.expected.as_deref(),
            Self::Input(_) | Self::Disk { .. } | Self::Canceled | Self::Crowded => None,
        }
    }

    /// Returns the value found instead of [`Error::expected`].
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.found.as_deref(),
            Self::Input(_) | Self::Disk { .. } | Self::Canceled | Self::Crowded => None,
        }
    }

    /// Names the offending member of a refusal, unless it names one already.
    pub(super) fn at(self, name: &[u8]) -> Self {
        match self {
            Self::Refused(refusal) => Self::Refused(Box::new(refusal.at(name))),
            other => other,
        }
    }

    /// Makes the error of a system call: `verb` failed for the member `entry`.
    pub(super) fn disk(verb: &'static str, entry: &[u8], source: io::Error) -> Self {
        use rustix::io::Errno;
        let why = match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NAMETOOLONG) => DiskError::Name(Reason::PathTooLong),
            Some(Errno::EXIST) => DiskError::Name(Reason::PathConflict),
            _ => DiskError::Fault(Fault::of(&source)),
        };
        Self::Disk {
            why,
            verb,
            entry: escape(entry),
            source,
        }
    }

    /// Turns "no space" into "no inodes", for a file system that has space but no inodes left.
    pub(super) fn out_of_inodes(mut self) -> Self {
        if let Self::Disk { why, .. } = &mut self {
            *why = DiskError::Fault(Fault::NoInodes);
        }
        self
    }

    /// Returns what this node lacks, if that is the cause.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Disk {
                why: DiskError::Fault(fault),
                ..
            } => Some(*fault),
            Self::Disk { .. }
            | Self::Refused(_)
            | Self::Input(_)
            | Self::Canceled
            | Self::Crowded => None,
        }
    }

    /// Returns whether the bytes are not a readable archive. Damaged bytes or the wrong file look
    /// the same, so the digest decides which error to report.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        let Self::Refused(refusal) = self else {
            return false;
        };
        matches!(
            refusal.reason,
            Reason::NotAnArchive
                | Reason::Truncated
                | Reason::Checksum
                | Reason::TarEof
                | Reason::PaxMalformed
                | Reason::GzipHeader
                | Reason::GzipCrc
                | Reason::GzipData
                | Reason::GzipTrailing
        )
    }
}

/// Renders an untrusted name for a message: printable characters as they are, everything else
/// escaped, shortened to 300 bytes.
#[must_use]
pub fn escape(name: &[u8]) -> String {
    let shown = &name[..name.len().min(SHOWN)];
    let mut out = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => out.push(c),
                _ => out.extend(c.escape_debug()),
            }
        }
        // A character cut in two by the shortening is not an invalid byte of the name.
        let cut = name.len() > SHOWN && out.len() + 4 > SHOWN && chunk.invalid().len() > 1;
        if !cut {
            for byte in chunk.invalid() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
    }
    if name.len() > SHOWN {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_row() {
        for reason in Reason::ALL {
            assert_eq!(reason.kind().class, Class::Content, "{reason:?}");
            let name = format!("{reason:?}")
                .chars()
                .flat_map(|c| {
                    let dash = c.is_ascii_uppercase().then_some('-');
                    dash.into_iter().chain([c.to_ascii_lowercase()])
                })
                .collect::<String>();
            assert_eq!(name.trim_start_matches('-'), reason.kind().name);
        }
        let mut names: Vec<_> = KINDS.iter().map(|k| k.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
    }

    #[test]
    fn names_are_shown_without_a_raw_byte() {
        for (name, shown) in [
            (&b"plain name"[..], "plain name"),
            (b"esc\x1b[31m\n", "esc\\u{1b}[31m\\n"),
            (b"caf\xe9", "caf\\xe9"),
            (b"a\\b", "a\\\\b"),
            (b"it's", "it's"),
            ("你\u{202e}txt".as_bytes(), "你\\u{202e}txt"),
        ] {
            assert_eq!(escape(name), shown);
        }
        assert!(escape(&[b'x'; 5000]).len() < 310);
    }

    #[test]
    fn errors_of_the_disk_blame_the_node_or_the_name() {
        use rustix::io::Errno;
        for (errno, name) in [
            (Errno::NOSPC, "no-space"),
            (Errno::NAMETOOLONG, "path-too-long"),
        ] {
            let error = Error::disk("create", b"x", errno.into());
            assert_eq!(error.kind().name, name);
        }
        let error = Error::disk("create", b"x", Errno::NOSPC.into()).out_of_inodes();
        assert_eq!(error.kind().name, "no-inodes");
    }
}
