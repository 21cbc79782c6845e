//! The inbox of push documents.
//!
//! A document in `inbox/new` is accepted as soon as it can be parsed, and stays there until its
//! files have ended. Then it moves to `done` or `failed`, next to a file with the result of each
//! file. What is not a document stays where it is, and is reported.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch as state};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::document::{Document, Parts, Turn, digest};
use super::entries::{self, Entries};
use super::kernel::{Change, watch};
use crate::intake::Intake;
use crate::shown::model;
use crate::store::{Store, documents};
use crate::sys::{Chain, durable};
use crate::wire::PushDocument;
use crate::wire::document::{DocumentError, Sources};

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

/// The same, after a writer has closed it. Also how long an entry that is not a document may still
/// be renamed before it is reported.
const CLOSED_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two scans while a document is unreadable.
const SCAN_AGAIN: Duration = Duration::from_millis(500);
/// Most ignored entries that are named at once.
const NAMED: usize = 5;

/// The inbox of push documents.
pub struct Inbox {
    config: Config,
    parts: Arc<Parts>,
}

/// What was seen in `new`.
#[derive(Default)]
struct Seen {
    documents: HashMap<PathBuf, Waiting>,
    /// Ends when the document that was taken last has been admitted.
    last: Option<oneshot::Receiver<()>>,
    /// Entries that are not documents: since when, and whether they were reported.
    ignored: HashMap<PathBuf, (Instant, bool)>,
}

/// A document in `new`.
struct Waiting {
    /// Whether a writer was seen to close it.
    closed: bool,
    /// Its last change, and since when it was seen unchanged.
    modified: Option<SystemTime>,
    since: Instant,
    /// Its digest, once it is being processed.
    taken: Option<String>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            closed: false,
            modified: None,
            since: Instant::now(),
            taken: None,
        }
    }
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
        let parts = Arc::new(Parts {
            dir,
            intake,
            store,
            state: state::Sender::default(),
        });
        Ok(Self { config, parts })
    }

    /// Returns what is in the inbox, kept up to date.
    #[must_use]
    pub fn state(&self) -> state::Receiver<model::Inbox> {
        self.parts.state.subscribe()
    }

    /// Accepts documents until `drain`.
    pub async fn run(self: Arc<Self>, drain: CancellationToken) {
        let new = self.parts.dir.join("new");
        let (sender, mut changes) = mpsc::channel(256);
        // Without reports of the kernel, the regular scan is enough.
        let _watcher = watch(&new, sender)
            .inspect_err(|error| tracing::warn!(event = "watch-failed", path = %new.display(), %error, "cannot watch the inbox; it is only scanned regularly"));
        self.parts.changed(|state| *state = model::Inbox::default());
        let mut seen = Seen::default();
        let mut running = JoinSet::new();
        let mut pending = self.scan(&mut seen, &mut running);
        self.forget_ended(&seen);
        loop {
            let again = if pending {
                SCAN_AGAIN
            } else {
                self.config.look_every
            };
            tokio::select! {
                () = drain.cancelled() => return,
                Some(change) = changes.recv() => {
                    if let Change::Closed(path) = change {
                        seen.documents.entry(path).or_default().closed = true;
                    }
                }
                Some(ended) = running.join_next() => {
                    let more = std::iter::from_fn(|| running.try_join_next());
                    for ended in std::iter::once(ended).chain(more) {
                        // What is left of a document that panicked, only a new scan can tell.
                        let path = ended.unwrap_or_else(|e| resume_unwind(e.into_panic()));
                        seen.documents.remove(&path);
                    }
                    self.forget_ended(&seen);
                }
                () = tokio::time::sleep(again) => {}
            }
            pending = self.scan(&mut seen, &mut running);
        }
    }

    /// Accepts every readable document; returns whether to scan again soon.
    fn scan(&self, seen: &mut Seen, running: &mut JoinSet<PathBuf>) -> bool {
        let entries = entries::list(&self.parts.dir.join("new"));
        let mut pending = false;
        let found: HashSet<&PathBuf> = entries.documents.iter().collect();
        seen.documents
            .retain(|path, waiting| waiting.taken.is_some() || found.contains(path));
        for path in &entries.documents {
            let waiting = seen.documents.entry(path.clone()).or_default();
            if waiting.taken.is_some() {
                continue;
            }
            let Some(document) = self.read(path, waiting) else {
                pending = true;
                continue;
            };
            waiting.taken = Some(document.digest.clone());
            let parts = Arc::clone(&self.parts);
            let (ended, next) = oneshot::channel();
            let turn = Turn {
                before: seen.last.replace(next),
                ended,
            };
            running.spawn(async move {
                let path = document.path.clone();
                document.take(&parts, turn).await;
                path
            });
        }
        let unreported = self.report_ignored(&entries, seen);
        let taken = seen.documents.values().filter(|w| w.taken.is_some());
        let in_progress = taken.count() as u64;
        self.parts.changed(|state| state.in_progress = in_progress);
        pending || unreported
    }

    /// Reads a document. `None` while it may still be completed.
    fn read(&self, path: &Path, waiting: &mut Waiting) -> Option<Document> {
        let (digest, parsed) = match entries::read(path) {
            Ok(bytes) => (digest(&bytes), PushDocument::parse(&bytes, Sources::Remote)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                let unreadable = DocumentError {
                    place: String::new(),
                    what: format!("cannot be read: {error}"),
                    unreadable: true,
                };
                (String::new(), Err(unreadable))
            }
        };
        let unreadable = parsed.as_ref().is_err_and(|error| error.unreadable);
        if unreadable && !self.is_late(path, waiting) {
            return None;
        }
        Some(Document {
            path: path.to_owned(),
            digest,
            parsed,
        })
    }

    /// Returns whether nobody is expected to complete a document any more.
    fn is_late(&self, path: &Path, waiting: &mut Waiting) -> bool {
        let modified = fs::metadata(path).and_then(|m| m.modified()).ok();
        if modified != waiting.modified {
            waiting.modified = modified;
            waiting.since = Instant::now();
        }
        waiting.since.elapsed()
            > if waiting.closed {
                CLOSED_PATIENCE
            } else {
                self.config.patience
            }
    }

    /// Reports entries that are not documents: each once in the log, all of them in the status.
    /// Returns whether some are too new to be reported.
    fn report_ignored(&self, entries: &Entries, seen: &mut Seen) -> bool {
        let found: HashSet<&PathBuf> = entries.ignored.iter().map(|(path, _)| path).collect();
        seen.ignored.retain(|path, _| found.contains(path));
        let mut unreported = false;
        let mut reported = Vec::new();
        for (path, why) in &entries.ignored {
            let entry = seen.ignored.entry(path.clone());
            let (since, is_reported) = entry.or_insert((Instant::now(), false));
            if !*is_reported && since.elapsed() >= CLOSED_PATIENCE {
                *is_reported = true;
                reported.push((path, *why));
            }
            unreported |= !*is_reported;
        }
        if !reported.is_empty() {
            let names = named(reported.iter().copied());
            tracing::warn!(event = "inbox-ignored", dir = %self.parts.dir.join("new").display(), count = reported.len(), first = names.join(", "), "the inbox takes plain files whose names end in `.json`; these entries are ignored");
        }
        let first = named(entries.ignored.iter().map(|(path, why)| (path, *why)));
        self.parts.changed(|state| {
            state.ignored = entries.ignored.len() as u64;
            state.ignored_first = first;
        });
        unreported
    }

    /// Forgets the admitted documents that are no longer in `new`.
    fn forget_ended(&self, seen: &Seen) {
        let taken = seen.documents.values().filter_map(|w| w.taken.clone());
        let digests: Vec<String> = taken.collect();
        let forgotten = self
            .parts
            .store
            .write_soon(move |tx| documents::retain(tx, &digests));
        if let Err(error) = forgotten {
            tracing::debug!(error = %Chain(&error), "documents are forgotten later");
        }
    }
}

fn named<'a>(entries: impl Iterator<Item = (&'a PathBuf, &'static str)>) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().display().to_string();
    let named = entries.map(|(path, why)| format!("`{}` ({why})", name(path)));
    named.take(NAMED).collect()
}
