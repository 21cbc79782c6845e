//! `edgepush archive pack`: packs a directory into an archive that every agent accepts, with the
//! same bytes on every machine: sorted names, no owners, times in whole seconds, modes reduced to
//! what is published.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use zip::write::SimpleFileOptions;

use super::{Out, unpack_apart};
use crate::cli::exit::{self, Exit};
use crate::cli::log;
use crate::datafile::{ArchiveType, Content};
use crate::sys::{Chain, durable};
use crate::unpack::{Config, Options, Target};
use crate::verify;

/// Arguments of `archive pack`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PackArgs {
    /// The directory to pack; its own name is not part of the archive
    dir: PathBuf,
    #[arg(help = format!("The archive to write; its name decides the type: {}", ArchiveType::all_endings()))]
    out: PathBuf,
    /// Set the time of every entry, in seconds since the epoch
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", value_parser = parse_epoch)]
    mtime: Option<Epoch>,
}

/// A time in seconds; `None` if the variable is empty.
#[derive(Debug, Clone, Copy)]
struct Epoch(Option<u64>);

fn parse_epoch(text: &str) -> Result<Epoch, std::num::ParseIntError> {
    if text.is_empty() {
        return Ok(Epoch(None));
    }
    text.parse().map(|seconds| Epoch(Some(seconds)))
}

/// An entry below the directory.
struct Found {
    /// Its path below the directory, with slashes.
    name: Vec<u8>,
    path: PathBuf,
    kind: Kind,
    mode: u32,
    mtime: u64,
    size: u64,
}

enum Kind {
    Dir,
    File,
    Link(PathBuf),
}

/// Packs a directory and prints what a push has to state about the archive; as JSON, the item
/// without `version` and `url`.
pub(super) fn pack(args: &PackArgs, out: &mut Out) -> anyhow::Result<Exit> {
    let name = args.out.file_name().unwrap_or_default().to_string_lossy();
    let Some(archive_type) = ArchiveType::from_file_name(&name) else {
        bail!(
            "the name `{name}` shows no archive type, expected {} at its end",
            ArchiveType::all_endings()
        );
    };
    check_apart(&args.dir, &args.out)?;
    let mut found = Vec::new();
    walk(&args.dir, &[], &mut found)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(Epoch(Some(mtime))) = args.mtime {
        found.iter_mut().for_each(|entry| entry.mtime = mtime);
    }
    let temporary = durable::temporary_sibling(&args.out);
    let written = write(&temporary, archive_type, &found)
        .and_then(|()| accept(&temporary, archive_type))
        .and_then(|()| Ok(verify::measure(File::open(&temporary)?)?))
        .and_then(|content| {
            durable::rename(&temporary, &args.out)?;
            Ok(content)
        });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    say(out, archive_type, &name, &written?)?;
    Ok(exit::DONE)
}

/// Refuses an output file inside the packed directory: the next run would pack it too.
fn check_apart(dir: &Path, out: &Path) -> anyhow::Result<()> {
    let dir_there = dir
        .canonicalize()
        .with_context(|| format!("open `{}`", dir.display()))?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = parent
        .canonicalize()
        .with_context(|| format!("open `{}`", parent.display()))?;
    if parent.starts_with(&dir_there) {
        bail!(
            "`{}` lies inside `{}`, so the next run would pack it too: write it elsewhere",
            out.display(),
            dir.display()
        );
    }
    Ok(())
}

/// Checks the archive with the code of a push. A refusal by every agent is an error; an exceeded
/// limit, which a node may have raised, is only a warning.
fn accept(path: &Path, archive_type: ArchiveType) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    let options = Options::new(&Config::default());
    let Err(error) = unpack_apart(file, archive_type, Target::Check, &options) else {
        return Ok(());
    };
    let (kind, message) = (error.kind(), Chain(&error).to_string());
    if error.limit().is_none() {
        bail!(
            "no agent accepts this tree as {archive_type}: {}: {message}\n  {}",
            kind.name,
            kind.help
        );
    }
    let text = format!(
        "an agent with default limits refuses it: {}: {message}",
        kind.name
    );
    log::print(&format!("edgepush: {text}\n  {}", kind.help));
    Ok(())
}

fn say(out: &mut Out, archive_type: ArchiveType, name: &str, content: &Content) -> io::Result<()> {
    let size = content.size.unwrap_or(0);
    let md5 = content.md5.map_or_else(String::new, |d| d.to_string());
    let sha256 = content.sha256.map_or_else(String::new, |d| d.to_string());
    if out.json {
        return out.json_line(&serde_json::json!({
            "name": name, "size": size, "archiveType": archive_type, "md5": md5, "sha256": sha256,
        }));
    }
    out.line(format!(
        "name         {name}\nsize         {size}\narchiveType  {archive_type}\nmd5          {md5}\nsha256       {sha256}"
    ))
}

fn walk(dir: &Path, below: &[u8], found: &mut Vec<Found>) -> anyhow::Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("read `{}`", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read `{}`", dir.display()))?;
        let path = entry.path();
        let metadata = entry
            .metadata()
            .with_context(|| format!("inspect `{}`", path.display()))?;
        let mut name = below.to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(entry.file_name().as_bytes());
        let kind = if metadata.is_dir() {
            walk(&path, &name, found)?;
            Kind::Dir
        } else if metadata.is_file() {
            Kind::File
        } else if metadata.is_symlink() {
            Kind::Link(fs::read_link(&path)?)
        } else {
            bail!(
                "`{}` is a device, FIFO or socket, which no agent accepts",
                path.display()
            );
        };
        found.push(Found {
            kind,
            mode: metadata.permissions().mode() & 0o777,
            mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
            size: metadata.size(),
            name,
            path,
        });
    }
    Ok(())
}

fn write(path: &Path, archive_type: ArchiveType, found: &[Found]) -> anyhow::Result<()> {
    let file = File::create_new(path).with_context(|| format!("create `{}`", path.display()))?;
    let out = BufWriter::with_capacity(256 * 1024, file);
    let out = match archive_type {
        ArchiveType::Tar => write_tar(out, found)?,
        // The library's own builder writes no time and no system into the header.
        ArchiveType::TarGz => {
            let gzip = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            write_tar(gzip, found)?.finish()?
        }
        ArchiveType::Zip => write_zip(out, found)?,
    };
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
        .with_context(|| format!("sync `{}`", path.display()))
}

fn write_tar<W: Write>(out: W, found: &[Found]) -> anyhow::Result<W> {
    let mut builder = tar::Builder::new(out);
    for entry in found {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(entry.mtime);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let name = Path::new(std::ffi::OsStr::from_bytes(&entry.name));
        let packed = match &entry.kind {
            Kind::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, name, io::empty())
            }
            Kind::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                // Written as it is if it fits: the library would rewrite `a/.` as `a`.
                match header.set_link_name_literal(target.as_os_str().as_bytes()) {
                    Ok(()) => builder.append_data(&mut header, name, io::empty()),
                    Err(_) => builder.append_link(&mut header, name, target),
                }
            }
            Kind::File => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(entry.size);
                builder.append_data(&mut header, name, open_exact(entry)?)
            }
        };
        packed.with_context(|| format!("pack `{}`", entry.path.display()))?;
    }
    Ok(builder.into_inner()?)
}

fn write_zip<W: Write + Seek>(out: W, found: &[Found]) -> anyhow::Result<W> {
    let mut writer = zip::ZipWriter::new(out);
    for entry in found {
        let name = std::str::from_utf8(&entry.name).with_context(|| {
            format!(
                "`{}` is not UTF-8, which a zip cannot hold",
                entry.path.display()
            )
        })?;
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .unix_permissions(entry.mode)
            .large_file(entry.size >= u64::from(u32::MAX))
            .last_modified_time(zip_time(entry.mtime));
        let packed = match &entry.kind {
            // With its slash: the library adds none after a backslash.
            Kind::Dir => writer.add_directory(format!("{name}/"), options),
            Kind::Link(target) => {
                let target = target
                    .to_str()
                    .with_context(|| format!("the target of `{name}` is not UTF-8"))?;
                writer.add_symlink(name, target, options)
            }
            Kind::File => writer.start_file(name, options),
        };
        packed.with_context(|| format!("pack `{}`", entry.path.display()))?;
        if let Kind::File = entry.kind {
            io::copy(&mut open_exact(entry)?, &mut writer)
                .with_context(|| format!("pack `{}`", entry.path.display()))?;
        }
    }
    Ok(writer.finish()?)
}

/// Opens a file to pack at the size seen before: growth is cut off, shrinking is an error.
fn open_exact(entry: &Found) -> anyhow::Result<impl Read> {
    let file =
        File::open(&entry.path).with_context(|| format!("open `{}`", entry.path.display()))?;
    Ok(file.take(entry.size))
}

/// Converts seconds since the epoch to a zip time in UTC; times that a zip cannot hold become its
/// earliest day.
fn zip_time(seconds: u64) -> zip::DateTime {
    let first = zip::DateTime::default();
    let Ok(time) = i64::try_from(seconds)
        .map_err(|_| ())
        .and_then(|s| jiff::Timestamp::from_second(s).map_err(|_| ()))
    else {
        return first;
    };
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let part = |value: i8| u8::try_from(value).unwrap_or(0);
    u16::try_from(time.year())
        .ok()
        .and_then(|year| {
            zip::DateTime::from_date_and_time(
                year,
                part(time.month()),
                part(time.day()),
                part(time.hour()),
                part(time.minute()),
                part(time.second()),
            )
            .ok()
        })
        .unwrap_or(first)
}
