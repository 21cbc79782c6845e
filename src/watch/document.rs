//! One document of the inbox, from its admission to its result.
//!
//! It is recorded by the digest of its bytes in the transaction that makes its jobs. Whoever finds
//! it in `new` afterwards, such as the next start, waits for those jobs instead of admitting it
//! again, however long its result cannot be written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{oneshot, watch};

use super::entries;
use crate::intake::{self, Intake};
use crate::job::{JobId, JobState};
use crate::shown::File;
use crate::shown::model::{self, Answer, Verdict};
use crate::store::{self, Store, documents, jobs};
use crate::sys::{Chain, durable, pauses, tasks};
use crate::wire::document::DocumentError;
use crate::wire::push::{Push, Via};

/// Returns the digest by which a document is known.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// What documents need: the directory of the inbox, where they are admitted and recorded, and what
/// the status shows of them.
pub(super) struct Parts {
    pub(super) dir: PathBuf,
    pub(super) intake: Arc<Intake>,
    pub(super) store: Store,
    pub(super) state: watch::Sender<model::Inbox>,
}

impl Parts {
    pub(super) fn changed(&self, change: impl FnOnce(&mut model::Inbox)) {
        self.state.send_modify(change);
    }
}

/// A document's turn to be admitted: after the one before, so that an older version is never accepted
/// after a newer one because the database was full for a while.
pub(super) struct Turn {
    /// Ends when the document before has been admitted or refused.
    pub(super) before: Option<oneshot::Receiver<()>>,
    /// Dropped when this one has.
    pub(super) ended: oneshot::Sender<()>,
}

/// A readable document, or one that will never be.
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    pub(super) parsed: Result<Push, DocumentError>,
}

impl Document {
    /// Takes a document to its end: admits it unless it was, waits for its jobs, and moves it to
    /// `done` or `failed` next to its result.
    pub(super) async fn take(self, parts: &Parts, turn: Turn) {
        let ended = tasks::guarded("document", self.result(parts, turn)).await;
        let (good, result) = ended.unwrap_or_else(|tasks::Panicked| {
            let why =
                "the agent's own work on the document panicked; its files may have been accepted";
            (false, json!({ "error": why }))
        });
        self.end(parts, good, &result).await;
    }

    /// Admits a document and waits for its jobs. Returns whether every file is published, and the
    /// result.
    async fn result(&self, parts: &Parts, turn: Turn) -> (bool, Value) {
        if let Some(before) = turn.before {
            let _ = before.await;
        }
        let admitted = match &self.parsed {
            Ok(push) => {
                let admitted = self.admit(parts, push).await;
                admitted.map_err(|error| Chain(&error).to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        drop(turn.ended);
        match admitted {
            Ok(answers) => results(parts, answers).await,
            Err(error) => {
                tracing::warn!(event = "inbox-refused", path = %self.path.display(), error, "refused a push document");
                (false, json!({ "error": error }))
            }
        }
    }

    /// Returns the answers to the elements, which are on the disk. Waits for as long as nothing can
    /// be recorded.
    async fn admit(&self, parts: &Parts, push: &Push) -> Result<Vec<Answer>, intake::Error> {
        let mut failures = 0;
        loop {
            match self.admit_now(parts, push).await {
                Ok(Some(answers)) => return Ok(answers),
                // Another file with the same content was admitted at this moment.
                Ok(None) => {}
                Err(intake::Error::Unavailable(error)) => {
                    if failures == 0 {
                        tracing::warn!(event = "inbox-waits", path = %self.path.display(), error = %Chain(&error), "a push document cannot be recorded yet; retrying");
                    }
                    pause(&mut failures).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn admit_now(
        &self,
        parts: &Parts,
        push: &Push,
    ) -> Result<Option<Vec<Answer>>, intake::Error> {
        let digest = self.digest.clone();
        // In the queue of writes: what was queued before may forget an earlier document.
        let known = parts.store.write(move |tx| documents::answers(tx, &digest));
        if let Some(answers) = known.await? {
            tracing::info!(event = "inbox-resumed", path = %self.path.display(), files = answers.len(), "a push document was accepted before; waiting for its files");
            return Ok(Some(answers));
        }
        let (asked, recorded) = (self.digest.clone(), self.digest.clone());
        let admitted = parts.intake.admit_with(
            push.clone(),
            Via::Inbox,
            move |tx| Ok(documents::answers(tx, &asked)?.is_none()),
            move |tx, answers| documents::record(tx, &recorded, &shown(answers)),
        );
        let answers = admitted.await?.map(|answers| shown(&answers));
        if answers.is_some() {
            tracing::info!(event = "inbox-taken", path = %self.path.display(), app = %push.app, files = push.items.len(), "accepted a push document");
        }
        Ok(answers)
    }

    /// Moves the document to `done` or `failed`, with its result next to it, as soon as the disk
    /// lets it.
    async fn end(&self, parts: &Parts, good: bool, result: &Value) {
        let to = parts.dir.join(if good { "done" } else { "failed" });
        let mut failures = 0;
        while let Err(error) = self.move_to(&to, result) {
            if failures == 0 {
                tracing::error!(event = "inbox-stuck", path = %self.path.display(), error = %Chain(&error), "cannot move a push document out of `new`; retrying");
                parts.changed(|state| state.stuck += 1);
            }
            pause(&mut failures).await;
        }
        if failures > 0 {
            parts.changed(|state| state.stuck -= 1);
        }
    }

    fn move_to(&self, to: &Path, result: &Value) -> Result<(), durable::Error> {
        let (Some(name), Some(stem)) = (self.path.file_name(), self.path.file_stem()) else {
            return Ok(());
        };
        let result_name = format!("{}.result.json", stem.display());
        let text = format!("{result:#}\n");
        durable::write_file(&to.join(result_name), text.as_bytes(), 0o640)?;
        // Somebody has removed it, or written another document over it, which is yet to be taken.
        if entries::read(&self.path).is_ok_and(|bytes| digest(&bytes) != self.digest)
            || !self.path.exists()
        {
            return Ok(());
        }
        durable::rename(&self.path, &to.join(name))?;
        durable::sync_dir(to)
    }
}

fn shown(answers: &[intake::Answer]) -> Vec<Answer> {
    answers.iter().cloned().map(Answer::from).collect()
}

/// Waits until the jobs of a document have ended. Returns whether every file is published, and the
/// result of each.
async fn results(parts: &Parts, answers: Vec<Answer>) -> (bool, Value) {
    let mut files = Vec::with_capacity(answers.len());
    let mut good = true;
    for answer in answers {
        let row = match answer.job {
            Some(job) => ended(parts, job).await,
            None => None,
        };
        good &= match &row {
            Some(row) => row.state == JobState::Succeeded,
            None => answer.result == Verdict::AlreadyPublished,
        };
        files.push(json!({
            "name": answer.name,
            "version": answer.version,
            "code": answer.code,
            "message": answer.message,
            "refusal": answer.refusal,
            "job": answer.job,
            "state": row.as_ref().map(|r| r.state),
            "failure": row.and_then(|r| r.failure),
        }));
    }
    (good, json!({ "files": files }))
}

/// Waits until a job has ended; `None` if it is no longer remembered.
async fn ended(parts: &Parts, job: JobId) -> Option<File> {
    let mut wake = parts.store.wake(store::JOBS);
    let mut failures = 0;
    loop {
        match parts.store.read(move |r| jobs::get(r, job)).await {
            Ok(Some(row)) if !row.state.is_final() => {
                // The sender lives as long as the store.
                let _ = wake.changed().await;
            }
            Ok(row) => return row,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "cannot read a job; retrying");
                pause(&mut failures).await;
            }
        }
    }
}

/// Pauses before the next attempt, longer with each failure.
async fn pause(failures: &mut u32) {
    tokio::time::sleep(pauses::DISK.after(*failures)).await;
    *failures = failures.saturating_add(1);
}
