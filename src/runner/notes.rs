//! Progress notes of a run, written to the job's timeline and the log.

use crate::deliver::Note;
use crate::job::{EventKind, JobId, Stage};
use crate::store::{Store, events};

/// Writes a run's notes into the timeline, in their order, without delaying the run.
pub(super) struct Notes {
    store: Store,
    job: JobId,
}

impl Notes {
    pub(super) fn new(store: Store, job: JobId) -> Self {
        Self { store, job }
    }

    pub(super) fn take(&self, note: Note) {
        log(&note);
        let Some(entry) = Entry::of(note) else {
            return;
        };
        let job = self.job;
        let written = self
            .store
            .write_soon(move |tx| events::add(tx, job, entry.note()));
        if let Err(error) = written {
            tracing::debug!(error = %crate::sys::Chain(&error), "could not write the timeline");
        }
    }
}

fn log(note: &Note) {
    match note {
        Note::Retrying {
            attempt,
            wait,
            failure,
        } => tracing::warn!(
            event = "retrying",
            kind = failure.kind,
            attempt,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            error = failure.in_full(),
            "the source failed; retrying"
        ),
        Note::Refetching(failure) => tracing::warn!(
            event = "refetching",
            kind = failure.kind,
            error = failure.in_full(),
            "the bytes may be corrupt; fetching them again from zero"
        ),
        Note::Stage(_) | Note::Resumed(_) | Note::Restarted(_) => {}
    }
}

/// A note as the timeline has it.
struct Entry {
    kind: EventKind,
    message: String,
    stage: Stage,
    attempt: Option<u32>,
    bytes: Option<u64>,
}

impl Entry {
    fn new(kind: EventKind, stage: Stage, message: String) -> Self {
        Self {
            kind,
            message,
            stage,
            attempt: None,
            bytes: None,
        }
    }

    fn of(note: Note) -> Option<Self> {
        Some(match note {
            // The stages of a healthy run pass in milliseconds: the board shows them, and the
            // timeline has the outcome.
            Note::Stage(_) => return None,
            Note::Resumed(bytes) => {
                let message = "resumes after the bytes that are already here".to_owned();
                Self {
                    bytes: Some(bytes),
                    ..Self::new(EventKind::Resumed, Stage::Fetch, message)
                }
            }
            Note::Retrying {
                attempt,
                wait,
                failure,
            } => {
                let wait = wait.as_secs_f64();
                let message = format!("{}; next attempt in {wait:.1} s", failure.message);
                Self {
                    attempt: Some(attempt),
                    ..Self::new(EventKind::Retrying, failure.stage, message)
                }
            }
            Note::Restarted(why) => Self::new(
                EventKind::Restarted,
                Stage::Fetch,
                format!("starts again from zero: {why}"),
            ),
            Note::Refetching(failure) => {
                let message = format!("{}; fetching again from zero", failure.message);
                Self::new(EventKind::Refetching, failure.stage, message)
            }
        })
    }

    fn note(&self) -> events::Note<'_> {
        let mut note = events::Note::new(self.kind.clone(), &self.message).stage(self.stage);
        if let Some(attempt) = self.attempt {
            note = note.attempt(attempt);
        }
        if let Some(bytes) = self.bytes {
            note = note.bytes(bytes);
        }
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tx;
    use crate::store::testing::{Bench, file};

    /// A note taken before another write comes before it in the timeline.
    #[tokio::test]
    async fn the_timeline_keeps_the_order_of_the_notes() {
        let bench = Bench::new();
        let job = bench.accept(file("a", "1")).await;
        let notes = Notes::new(bench.store.clone(), job);
        for bytes in 1..=3 {
            notes.take(Note::Resumed(bytes));
        }
        let ended =
            move |tx: &Tx<'_>| events::add(tx, job, events::Note::new(EventKind::Failed, ""));
        bench.store.write(ended).await.unwrap();
        let read = bench.store.read(move |r| events::of_job(r, job, 0, 100));
        let rows = read.await.unwrap();
        let noted: Vec<_> = rows.iter().map(|e| (e.kind.clone(), e.bytes)).collect();
        let resumed = |bytes| (EventKind::Resumed, Some(bytes));
        assert_eq!(
            noted[noted.len() - 4..],
            [
                resumed(1),
                resumed(2),
                resumed(3),
                (EventKind::Failed, None)
            ]
        );
    }
}
