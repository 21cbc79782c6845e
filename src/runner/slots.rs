//! Which jobs may start: the free slots, and the work found by one poll of the store.

use std::collections::HashSet;

use crate::job::{Job, JobId};
use crate::shown::Activation;
use crate::store::{self, activations, jobs};

/// Work found by one poll of the store.
pub(super) struct Poll {
    pub(super) canceled: Vec<JobId>,
    pub(super) flips: Vec<Activation>,
    pub(super) is_due: bool,
    /// When the next job is due, in milliseconds since the epoch, unless one is due now.
    pub(super) next: Option<i64>,
}

impl Poll {
    pub(super) fn take(
        reader: &store::Reader<'_>,
        now_ms: i64,
        slots: &Slots,
    ) -> Result<Self, store::Error> {
        let is_due = !slots.due(reader, now_ms, 1)?.is_empty();
        // Not needed without a free slot, and known if a job is due.
        let next = match slots {
            _ if is_due => None,
            Slots { free: 1.., .. } => jobs::next_due_ms(reader)?,
            Slots { small: 1.., .. } => jobs::next_small_ms(reader, slots.small_bytes)?,
            _ => None,
        };
        Ok(Self {
            canceled: jobs::to_cancel(reader)?,
            flips: activations::pending(reader)?,
            is_due,
            next,
        })
    }
}

/// The free slots.
pub(super) struct Slots {
    pub(super) free: usize,
    /// Free slots that only small files take.
    pub(super) small: usize,
    /// Largest size of a small file.
    pub(super) small_bytes: u64,
    /// The jobs that are running.
    pub(super) taken: HashSet<JobId>,
}

impl Slots {
    pub(super) fn is_full(&self) -> bool {
        self.free == 0 && self.small == 0
    }

    /// Returns at most `most` jobs that may start now, each with whether it takes a slot for small
    /// files.
    pub(super) fn due(
        &self,
        reader: &store::Reader<'_>,
        now_ms: i64,
        most: usize,
    ) -> Result<Vec<(Job, bool)>, store::Error> {
        let mut due = Vec::new();
        if self.free > 0 {
            due = jobs::due(reader, now_ms, self.free.min(most), &self.taken)?;
        }
        let first = due.len();
        // While ordinary slots are free, every due job already got one.
        let small = self.small.min(most - first);
        if first == self.free && small > 0 {
            let taken = self.taken.iter().copied();
            let taken = taken.chain(due.iter().map(|job| job.id)).collect();
            due.extend(jobs::due_small(
                reader,
                self.small_bytes,
                now_ms,
                small,
                &taken,
            )?);
        }
        let is_small = (0..).map(|n| n >= first);
        Ok(due.into_iter().zip(is_small).collect())
    }
}
