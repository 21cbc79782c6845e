//! `edgepush archive`: what a release engineer does before pushing. `check` unpacks with the same
//! code as a push, and `pack` makes an archive that every agent accepts.

mod pack;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::exit::{self, Error as Ended, Exit};
use super::out::{Out, Paint};
use crate::datafile::ArchiveType;
use crate::sys::Chain;
use crate::sys::units::show_bytes;
use crate::unpack::{self, Config, Error, Limits, NameEncoding, Options, Target, Tree};

use pack::PackArgs;

/// The subcommands of `edgepush archive`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check whether a push would accept an archive, and show what is wrong and where
    Check(CheckArgs),
    /// Pack a directory into an archive that every agent accepts, the same bytes each time
    Pack(PackArgs),
}

impl Command {
    pub(super) fn run(self, out: &mut Out) -> Result<Exit, Ended> {
        match self {
            Self::Check(args) => check(&args, out),
            Self::Pack(args) => pack::pack(&args, out),
        }
        .map_err(|error| Ended::new(exit::FAILED, error))
    }
}

/// Arguments of `archive check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The archive
    file: PathBuf,
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type,
          help = format!("Its type: {}; detected from its first bytes if not given", ArchiveType::choices()))]
    archive_type: Option<ArchiveType>,
    /// Unpack into this directory, which must be empty or not exist; it is left empty when the
    /// archive is refused
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Set a limit, such as max_entries=1000; repeatable
    #[arg(long = "limit", value_name = "KEY=VALUE", value_parser = parse_limit)]
    limits: Vec<(String, u64)>,
    /// Encoding of zip names that are not marked as UTF-8: auto, utf-8, cp437 or gbk
    #[arg(long, value_name = "ENCODING", default_value = "auto", value_parser = parse_encoding)]
    zip_name_encoding: NameEncoding,
}

fn parse_type(text: &str) -> Result<ArchiveType, String> {
    match text {
        "gz" => Ok(ArchiveType::TarGz),
        _ => ArchiveType::parse(text).map_err(|e| e.to_string()),
    }
}

fn parse_limit(text: &str) -> Result<(String, u64), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    if !Limits::KEYS.contains(&key) {
        let keys = Limits::KEYS.join(", ");
        return Err(format!("unknown limit `{key}`, expected one of {keys}"));
    }
    let value = crate::sys::units::parse_bytes(value).map_err(|e| e.to_string())?;
    Ok((key.to_owned(), value))
}

fn parse_encoding(text: &str) -> Result<NameEncoding, String> {
    serde_json::from_value(text.into())
        .map_err(|_| format!("`{text}` is none of auto, utf-8, cp437, gbk"))
}

/// Checks an archive and prints the result.
fn check(args: &CheckArgs, out: &mut Out) -> anyhow::Result<Exit> {
    let mut file = open(&args.file)?;
    let archive_type = match args.archive_type {
        Some(archive_type) => archive_type,
        None => recognise(&mut file, &args.file)?,
    };
    let mut options = Options::new(&Config {
        zip_name_encoding: args.zip_name_encoding,
        ..Config::default()
    });
    for (key, value) in &args.limits {
        options.limits.set(key, *value);
    }
    let into = args.into.as_deref().map(Into::open).transpose()?;
    let target = match &into {
        Some(into) => Target::Directory(File::open(&into.path)?.into()),
        None => Target::Check,
    };
    if let Some(into) = &into {
        options.sandbox = Some(into.path.as_path().into());
    }
    let result = unpack_apart(file, archive_type, target, &options);
    if let Some(into) = into {
        into.close(result.is_ok())?;
    }
    match result {
        Ok(tree) => {
            accepted(out, args, archive_type, &tree)?;
            Ok(exit::DONE)
        }
        Err(error) => {
            refused(out, args, archive_type, &error)?;
            Ok(exit::FAILED)
        }
    }
}

/// Opens an archive. Anything but a regular file is refused: a FIFO or device could block or never
/// end.
fn open(path: &Path) -> anyhow::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .with_context(|| format!("open `{}`", path.display()))?;
    let metadata = file
        .metadata()
        .with_context(|| format!("inspect `{}`", path.display()))?;
    if !metadata.is_file() {
        bail!("`{}` is not a regular file", path.display());
    }
    Ok(file)
}

/// Unpacks on a thread of its own, since a sandbox confines its thread for good.
fn unpack_apart(
    file: File,
    archive_type: ArchiveType,
    target: Target,
    options: &Options,
) -> Result<Tree, Error> {
    let work = || unpack::unpack(archive_type, &file, target, options);
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Detects the type of an archive from its first bytes.
fn recognise(file: &mut File, path: &Path) -> anyhow::Result<ArchiveType> {
    let mut start = [0; 512];
    let mut len = 0;
    while len < start.len() {
        match file.read(&mut start[len..])? {
            0 => break,
            n => len += n,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(match &start[..len] {
        [0x1f, 0x8b, ..] => ArchiveType::TarGz,
        [b'P', b'K', 3 | 5, 4 | 6, ..] => ArchiveType::Zip,
        start if start.get(257..262) == Some(b"ustar") => ArchiveType::Tar,
        _ => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ArchiveType::from_file_name(&name).unwrap_or(ArchiveType::Tar)
        }
    })
}

/// The directory to unpack into: private while the work lasts.
struct Into {
    path: PathBuf,
    made: bool,
}

impl Into {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let made = match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e).with_context(|| format!("make `{}`", path.display())),
        };
        let mut entries =
            fs::read_dir(path).with_context(|| format!("read `{}`", path.display()))?;
        if entries.next().is_some() {
            bail!("`{}` is not empty", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            made,
        })
    }

    fn close(self, accepted: bool) -> anyhow::Result<()> {
        match (self.made, accepted) {
            (true, true) => fs::set_permissions(&self.path, PermissionsExt::from_mode(0o755))
                .with_context(|| format!("set the mode of `{}`", self.path.display())),
            (true, false) => fs::remove_dir(&self.path)
                .with_context(|| format!("remove `{}`", self.path.display())),
            (false, _) => Ok(()),
        }
    }
}

fn accepted(
    out: &mut Out,
    args: &CheckArgs,
    archive_type: ArchiveType,
    tree: &Tree,
) -> std::io::Result<()> {
    let entries = tree.entries.len();
    if out.json {
        return out.json_line(&serde_json::json!({
            "verdict": "accept", "type": archive_type, "entries": entries, "files": tree.files, "bytes": tree.bytes,
        }));
    }
    let good = out.paint(Paint::Good, "good");
    out.line(format!(
        "{}: {good} {archive_type}, {entries} entries, {} files, {}",
        args.file.display(),
        tree.files,
        show_bytes(tree.bytes)
    ))
}

fn refused(
    out: &mut Out,
    args: &CheckArgs,
    archive_type: ArchiveType,
    error: &Error,
) -> std::io::Result<()> {
    let (kind, message) = (error.kind(), Chain(error).to_string());
    if out.json {
        return out.json_line(&serde_json::json!({
            "verdict": "reject", "type": archive_type, "kind": kind.name, "class": kind.class, "entry": error.entry(),
            "limit": error.limit(), "expected": error.expected(), "found": error.found(), "message": message,
            "help": kind.help,
        }));
    }
    let bad = out.paint(Paint::Bad, kind.name);
    out.line(format!(
        "{}: refused as {archive_type}: {bad}\n  {message}\n  {}",
        args.file.display(),
        kind.help
    ))
}
