//! `edgepush doctor`: checks the host, and reports what is wrong and what to do about it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, printable};
use super::{Global, reach};
use crate::client::Client;
use crate::config::Config;
use crate::sys::secret::{SHORT, Secret};
use crate::sys::units::show_bytes;
use crate::sys::{Chain, ground, space};

/// Free space below which a node will soon refuse pushes.
const LOW_SPACE: u64 = 1 << 30;
/// Free inodes below which a node will soon refuse pushes.
const LOW_INODES: u64 = 10_000;
/// Open files that a busy agent needs.
const LOW_FILES: u64 = 4_096;

/// How long the agent may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Doubtful,
    Bad,
}

/// One check and its result.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    text: String,
}

fn finding(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    let text = text.into();
    Finding {
        what,
        verdict,
        text,
    }
}

/// Runs the command, which fails if any check is bad.
pub(super) fn run(global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let sources = global.sources();
    let mut found = Vec::new();
    match sources.load() {
        Ok(loaded) => {
            let from = match &sources.file {
                Some(file) => file.display().to_string(),
                None => "no file; the defaults apply".to_owned(),
            };
            match super::config::at_start(&loaded).first() {
                Some(problem) => {
                    found.push(finding("configuration", Verdict::Bad, problem.to_string()))
                }
                None => found.push(finding("configuration", Verdict::Good, from)),
            }
            examine(&loaded.config, &mut found);
        }
        Err(error) => {
            let text = Chain(&error).to_string();
            found.push(finding("configuration", Verdict::Bad, text));
        }
    }
    show(&found, out)?;
    let bad = found.iter().any(|f| f.verdict == Verdict::Bad);
    Ok(if bad { exit::FAILED } else { exit::DONE })
}

fn examine(config: &Config, found: &mut Vec<Finding>) {
    found.extend(unit(&config.data_dir));
    found.extend([
        directory(&config.data_dir),
        file_system(&config.data_dir),
        parts(&config.data_dir),
        free_space(&config.data_dir),
        socket(&config.listen.socket),
        open_files(),
    ]);
    found.extend(short_secrets(config));
    found.extend(agent(&config.listen.socket));
}

/// Returns the access keys whose secret can be guessed, as far as this user may read it.
fn short_secrets(config: &Config) -> impl Iterator<Item = Finding> {
    let is_short = |path: &Path| Secret::read(path).is_ok_and(|secret| secret.is_short());
    let keys = config.api.access_keys.iter();
    let short = keys.filter(move |key| is_short(&key.secret_file));
    short.map(|key| {
        let text = format!(
            "the secret of access key `{}` is easily guessed: use {SHORT} bytes or more",
            key.id
        );
        finding("access key", Verdict::Doubtful, text)
    })
}

/// Returns what the agent says of itself and of what it has found on its disk, if it runs.
fn agent(path: &Path) -> Vec<Finding> {
    let ask = async {
        let client = Client::new(path)?;
        Ok(tokio::time::timeout(PATIENCE, client.status()).await)
    };
    let status = match UnixStream::connect(path).map(|_| reach::block_on(ask)) {
        Ok(Ok(Ok(Ok(status)))) => status,
        Ok(Ok(Err(_))) => {
            let text = format!("the agent does not answer within {} s", PATIENCE.as_secs());
            return vec![finding("agent", Verdict::Bad, text)];
        }
        Ok(Ok(Ok(Err(error)))) => {
            let text = Chain(&error).to_string();
            return vec![finding("agent", Verdict::Bad, text)];
        }
        Ok(Err(_)) | Err(_) => return Vec::new(),
    };
    let state = match status.state.as_str() {
        "ready" => finding("state", Verdict::Good, "ready"),
        other => finding("state", Verdict::Bad, other),
    };
    let found = status.findings.iter().map(|found| {
        let text = format!("{}: {}", found.on, found.text);
        finding("found", Verdict::Doubtful, text)
    });
    std::iter::once(state).chain(found).collect()
}

fn show(found: &[Finding], out: &mut Out) -> Result<(), Error> {
    if out.json {
        return Ok(out.json(&found)?);
    }
    for line in found {
        let (mark, paint) = match line.verdict {
            Verdict::Good => ("ok", Paint::Good),
            Verdict::Doubtful => ("warn", Paint::Busy),
            Verdict::Bad => ("bad", Paint::Bad),
        };
        let mark = out.paint(paint, &format!("{mark:<4}"));
        out.line(format!(
            "{mark}  {:<15}  {}",
            line.what,
            printable(&line.text)
        ))?;
    }
    Ok(())
}

/// Returns the nearest existing directory above `path`, which the agent's first start makes.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|p| p.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn directory(path: &Path) -> Finding {
    use rustix::fs::{Access, access};
    let what = "data directory";
    let there = existing(path);
    let shown = path.display();
    if access(&there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let there = there.display();
        let text =
            format!("{shown}: this user may not write to {there}; run this as the agent's user");
        return finding(what, Verdict::Doubtful, text);
    }
    let made = if path.exists() {
        ""
    } else {
        ", created at the first start"
    };
    finding(what, Verdict::Good, format!("{shown}{made}"))
}

/// Tells file systems that were crash-tested from those that are known to lose data, or untested.
fn file_system(path: &Path) -> Finding {
    let what = "file system";
    let there = existing(path);
    let kind = match rustix::fs::statfs(&there) {
        Ok(stat) => stat.f_type,
        Err(error) => return finding(what, Verdict::Bad, format!("{}: {error}", there.display())),
    };
    let (verdict, text) = match kind {
        0xef53 => (Verdict::Good, "ext4"),
        0x5846_5342 => (Verdict::Good, "xfs"),
        0x9123_683e => (
            Verdict::Doubtful,
            "btrfs: not tested against power failures",
        ),
        0xf2f5_2010 => (Verdict::Doubtful, "f2fs: not tested against power failures"),
        0x2fc1_2fc1 => (Verdict::Doubtful, "zfs: not tested against power failures"),
        0x794c_7630 => (
            Verdict::Doubtful,
            "overlayfs: give the data directory a volume of its own",
        ),
        0x0102_1994 => (
            Verdict::Doubtful,
            "tmpfs: everything is lost when the machine restarts",
        ),
        0x6969 => (
            Verdict::Bad,
            "nfs: renames and syncs are not reliable; use a local disk",
        ),
        0x6573_5546 => (Verdict::Doubtful, "fuse: syncs may not be reliable"),
        _ => (
            Verdict::Doubtful,
            "unknown file system: not tested against power failures",
        ),
    };
    finding(what, verdict, text)
}

/// A rename is atomic only inside one file system, and needs its directories.
fn parts(root: &Path) -> Finding {
    let what = "its parts";
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let found = ground::inspect(&root);
    // Whether this user may write is a finding of its own.
    let wrong: Vec<_> = found
        .into_iter()
        .filter(|text| Some(text) != ground::unwritable(&root).as_ref())
        .collect();
    match wrong.is_empty() {
        true => finding(what, Verdict::Good, "directories on one file system"),
        false => finding(what, Verdict::Bad, wrong.join("; ")),
    }
}

/// The places of the shipped unit and of what is added to it.
const UNITS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];

/// Tells whether the installed unit lets the agent write to its data directory.
fn unit(data_dir: &Path) -> Option<Finding> {
    let read = |dir: &str| std::fs::read_to_string(Path::new(dir).join("edgepush.service")).ok();
    let mut text = UNITS.iter().copied().find_map(read)?;
    for dir in UNITS {
        let added = std::fs::read_dir(Path::new(dir).join("edgepush.service.d"));
        for file in added.into_iter().flatten().flatten() {
            text.push('\n');
            text.push_str(&std::fs::read_to_string(file.path()).unwrap_or_default());
        }
    }
    let text = closed_to(&text, data_dir)?;
    Some(finding("unit", Verdict::Bad, text))
}

/// Returns that a unit makes `data_dir` read-only for the agent.
fn closed_to(unit: &str, data_dir: &Path) -> Option<String> {
    let values = |key: &str| -> Vec<String> {
        let lines = unit
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        let values = lines.flat_map(str::split_whitespace);
        values
            .map(|value| value.trim_start_matches(['-', '+']).to_owned())
            .collect()
    };
    if !values("ProtectSystem=").contains(&"strict".to_owned()) {
        return None;
    }
    let state = values("StateDirectory=")
        .into_iter()
        .map(|dir| Path::new("/var/lib").join(dir));
    let mut open = state.chain(values("ReadWritePaths=").into_iter().map(PathBuf::from));
    (!open.any(|dir| data_dir.starts_with(dir))).then(|| {
        let dir = data_dir.display();
        format!("edgepush.service makes {dir} read-only for the agent: add `ReadWritePaths={dir}` (systemctl edit edgepush)")
    })
}

fn free_space(path: &Path) -> Finding {
    let what = "free space";
    let there = existing(path);
    match space::free(&there) {
        Err(error) => finding(what, Verdict::Bad, error.to_string()),
        Ok(free) => {
            let low = free.bytes < LOW_SPACE || free.inodes < LOW_INODES;
            let inodes = match free.inodes {
                u64::MAX => "inodes not counted".to_owned(),
                n => format!("{n} inodes free"),
            };
            let text = format!(
                "{} of {} free, {inodes}",
                show_bytes(free.bytes),
                show_bytes(free.total)
            );
            finding(
                what,
                if low {
                    Verdict::Doubtful
                } else {
                    Verdict::Good
                },
                text,
            )
        }
    }
}

fn socket(path: &Path) -> Finding {
    use std::io::ErrorKind;
    let what = "agent";
    let shown = path.display();
    match UnixStream::connect(path) {
        Ok(_) => finding(what, Verdict::Good, format!("listens on {shown}")),
        Err(e) if e.kind() == ErrorKind::NotFound => finding(
            what,
            Verdict::Doubtful,
            format!("not running: no socket at {shown}"),
        ),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            let text = format!("not running: nothing listens on {shown}");
            finding(what, Verdict::Doubtful, text)
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            let text = format!("{shown}: this user may not open it; join the group of the socket");
            finding(what, Verdict::Doubtful, text)
        }
        Err(e) => finding(what, Verdict::Bad, format!("{shown}: {e}")),
    }
}

fn open_files() -> Finding {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < LOW_FILES {
        let text =
            format!("{limit}; a busy agent needs {LOW_FILES}: raise LimitNOFILE= or `ulimit -n`");
        return finding("open files", Verdict::Doubtful, text);
    }
    finding("open files", Verdict::Good, limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn tells_a_running_agent_from_a_stale_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(socket(&path).text.contains("no socket"));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(socket(&path).verdict, Verdict::Good);
        drop(listener);
        assert!(socket(&path).text.contains("nothing listens"));
    }

    #[test]
    fn a_unit_has_to_open_the_data_directory() {
        let shipped = include_str!("../../systemd/edgepush.service");
        let (usual, other) = (Path::new("/var/lib/edgepush"), Path::new("/srv/edge"));
        assert_eq!(closed_to(shipped, usual), None);
        assert!(
            closed_to(shipped, other)
                .unwrap()
                .contains("ReadWritePaths=/srv/edge")
        );
        let opened = format!("{shipped}\n[Service]\nReadWritePaths=/srv/edge\n");
        assert_eq!(closed_to(&opened, other), None);
    }

    #[test]
    fn looks_at_a_directory_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        assert_eq!(existing(&missing), dir.path());
        assert!(directory(&missing).text.contains("first start"));
        assert_eq!(parts(&missing).verdict, Verdict::Good);
        assert_ne!(free_space(&missing).verdict, Verdict::Bad);
    }
}
