//! The inbox of push documents.
//!
//! A document in `inbox/new` is accepted as soon as it can be parsed, and stays there until its
//! files have ended: after a crash it is accepted again, which is harmless, since a repeated push
//! starts nothing twice. Then it moves to `done` or `failed`, next to a file with the result of
//! each file.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::kernel::{Change, watch};
use crate::intake::Intake;
use crate::job::{JobId, JobState};
use crate::store::{self, Store, jobs};
use crate::sys::{Chain, durable};
use crate::wire::PushDocument;
use crate::wire::document::MAX_DOCUMENT;
use crate::wire::push::Via;

/// Whether and how the inbox is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether documents in `inbox/new` below the data directory are accepted.
    pub inbox: bool,
    /// Time between two scans of the inbox, in addition to what the kernel reports.
    #[serde(with = "crate::sys::units::duration")]
    pub look_every: Duration,
    /// How long an unreadable document may still be completed, if no writer was seen to close it.
    #[serde(with = "crate::sys::units::duration")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inbox: true,
            look_every: Duration::from_secs(30),
            patience: Duration::from_secs(60),
        }
    }
}

/// The same, after a writer has closed it.
const CLOSED_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two scans while a document is unreadable.
const SCAN_AGAIN: Duration = Duration::from_millis(500);

/// The inbox of push documents.
pub struct Inbox {
    dir: PathBuf,
    config: Config,
    intake: Arc<Intake>,
    store: Store,
}

/// A document in `new`.
#[derive(Default)]
struct Waiting {
    closed: bool,
    taken: bool,
}

impl Inbox {
    /// Opens the inbox below `root`, and creates its directories.
    pub fn open(
        root: &Path,
        config: Config,
        intake: Arc<Intake>,
        store: Store,
    ) -> Result<Self, durable::Error> {
        let dir = root.join("inbox");
        for sub in ["new", "done", "failed"] {
            durable::create_dir_all(&dir.join(sub))?;
        }
        Ok(Self {
            dir,
            config,
            intake,
            store,
        })
    }

    /// Accepts documents until `drain`.
    pub async fn run(self, drain: CancellationToken) {
        let inbox = Arc::new(self);
        let new = inbox.dir.join("new");
        let (sender, mut changes) = mpsc::channel(256);
        // Without reports of the kernel, the regular scan is enough.
        let _watcher = watch(&new, sender)
            .inspect_err(|error| tracing::warn!(event = "watch-failed", path = %new.display(), %error, "cannot watch the inbox; it is only scanned regularly"));
        let mut waiting: HashMap<PathBuf, Waiting> = HashMap::new();
        let mut documents = JoinSet::new();
        loop {
            let pending = inbox.scan(&mut waiting, &mut documents);
            let again = if pending {
                SCAN_AGAIN
            } else {
                inbox.config.look_every
            };
            tokio::select! {
                () = drain.cancelled() => return,
                Some(change) = changes.recv() => {
                    if let Change::Closed(path) = change {
                        waiting.entry(path).or_default().closed = true;
                    }
                }
                Some(ended) = documents.join_next() => {
                    if let Ok(path) = ended {
                        waiting.remove(&path);
                    }
                }
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Accepts every readable document; returns whether some are not readable yet.
    fn scan(
        self: &Arc<Self>,
        waiting: &mut HashMap<PathBuf, Waiting>,
        documents: &mut JoinSet<PathBuf>,
    ) -> bool {
        let mut pending = false;
        let paths = list(&self.dir.join("new"));
        waiting.retain(|path, w| w.taken || paths.contains(path));
        for path in paths {
            let state = waiting.entry(path.clone()).or_default();
            if state.taken {
                continue;
            }
            match read(&path) {
                Ok(text) => {
                    let parsed = PushDocument::parse(&text, None);
                    let broken_off =
                        parsed.is_err() && serde_json::from_str::<Value>(&text).is_err();
                    if broken_off && !self.is_late(&path, state.closed) {
                        pending = true;
                        continue;
                    }
                    state.taken = true;
                    let inbox = Arc::clone(self);
                    documents.spawn(async move {
                        inbox.take(&path, parsed).await;
                        path
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    state.taken = true;
                    self.end(
                        &path,
                        false,
                        &json!({ "error": format!("read the document: {error}") }),
                    );
                }
            }
        }
        pending
    }

    fn is_late(&self, path: &Path, closed: bool) -> bool {
        let modified = fs::metadata(path)
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let age = modified.elapsed().unwrap_or_default();
        age > if closed {
            CLOSED_PATIENCE
        } else {
            self.config.patience
        }
    }

    async fn take(
        &self,
        path: &Path,
        parsed: Result<crate::wire::push::Push, crate::wire::document::DocumentError>,
    ) {
        let push = match parsed {
            Ok(push) => push,
            Err(error) => {
                tracing::warn!(event = "inbox-refused", path = %path.display(), %error, "a push document was refused");
                return self.end(path, false, &json!({ "error": error.to_string() }));
            }
        };
        tracing::info!(event = "inbox-taken", path = %path.display(), app = %push.app, files = push.items.len(), "accepted a push document");
        let answers = match self.intake.admit(push, Via::Inbox).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::warn!(event = "inbox-refused", path = %path.display(), error = %Chain(&error), "a push document was refused");
                return self.end(path, false, &json!({ "error": Chain(&error).to_string() }));
            }
        };
        let mut files = Vec::with_capacity(answers.len());
        let mut good = true;
        for answer in answers {
            let row = match answer.job {
                Some(job) => self.ended(job).await,
                None => None,
            };
            good &= match (&row, answer.code) {
                (Some(row), _) => row.state == JobState::Succeeded,
                (None, code) => code == crate::wire::status::ResultCode::AlreadyPublished,
            };
            files.push(json!({
                "name": answer.name,
                "version": answer.version,
                "code": answer.code.code(),
                "message": answer.descrip,
                "job": answer.job,
                "state": row.as_ref().map(|r| r.state),
                "failure": row.as_ref().and_then(|r| r.failure.clone()),
            }));
        }
        self.end(path, good, &json!({ "files": files }));
    }

    /// Waits until a job has ended.
    async fn ended(&self, job: JobId) -> Option<crate::shown::File> {
        let mut wake = self.store.wake(store::JOBS);
        loop {
            match self.store.read(move |r| jobs::get(r, job)).await {
                Ok(Some(row)) if !row.state.is_final() => {}
                Ok(row) => return row,
                Err(_) => return None,
            }
            if wake.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Moves a document to `done` or `failed`, with its result next to it.
    fn end(&self, path: &Path, good: bool, result: &Value) {
        let to = self.dir.join(if good { "done" } else { "failed" });
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let stem = name.strip_suffix(".json").unwrap_or(&name);
        let moved = durable::write_file(
            &to.join(format!("{stem}.result.json")),
            format!("{result:#}\n").as_bytes(),
            0o640,
        )
        .and_then(|()| durable::rename(path, &to.join(&name)))
        .and_then(|()| durable::sync_dir(&to));
        if let Err(error) = moved {
            tracing::error!(event = "inbox-stuck", path = %path.display(), error = %Chain(&error), "could not move a push document out of `new`");
        }
    }
}

/// Returns the documents in a directory: plain `*.json` files whose name does not begin with a dot.
fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_file()))
        .filter(|e| {
            e.file_name()
                .to_str()
                .is_some_and(|n| n.ends_with(".json") && !n.starts_with('.'))
        })
        .map(|e| e.path())
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    fs::File::open(path)?
        .take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut text)?;
    if text.len() > MAX_DOCUMENT {
        return Err(std::io::Error::other(format!(
            "the document is larger than {MAX_DOCUMENT} bytes"
        )));
    }
    String::from_utf8(text).map_err(|_| std::io::Error::other("the document is not UTF-8"))
}
