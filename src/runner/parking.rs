//! Slow files whose places others wait for: they are set aside, and resume where they stopped.

use std::time::Duration;

use super::places::{Crowded, Scope};
use super::{Runner, Running, Why};
use crate::job::{JobId, Stage};
use crate::progress::Progress;
use crate::store::jobs::Turn;

/// How long a file keeps its place, however slow it is.
const KEEPS_PLACE: Duration = Duration::from_secs(30);
/// Bytes per second below which a file is slow.
const SLOW: u64 = 64 << 10;
/// How long a file may be without bytes before it is slow.
const FIRST: Duration = Duration::from_millis(500);

impl Runner {
    /// Stops slow files whose places others wait for, the slowest first, one for each turn that
    /// waits. They resume where they stopped.
    pub(super) fn park_slow(&self, crowded: &[Crowded]) {
        let mut slow = self.slow();
        let mut parked = Vec::new();
        for waiting in crowded {
            let found = slow.iter().position(|(_, turn, _)| match waiting.scope {
                Scope::All => true,
                Scope::App => turn.app == waiting.turn.app,
                Scope::Origin => turn.origin == waiting.turn.origin,
                // A place becomes free as soon as one of its files is slow.
                Scope::Fast => false,
            });
            if let Some(n) = found {
                parked.push(slow.remove(n).0);
            }
        }
        self.stop(&parked, Why::Parked);
    }

    /// Returns the files that are slow and may be parked, the slowest first.
    fn slow(&self) -> Vec<(JobId, Turn, u64)> {
        let mut slow: Vec<_> = self
            .lock()
            .iter()
            .filter(|(_, running)| {
                running.why == Why::Drain && running.since.elapsed() >= KEEPS_PLACE
            })
            .filter_map(|(id, running)| {
                let progress = self.board.progress(*id)?;
                let rate = slow_rate(running, &progress)?;
                progress
                    .is_resumable()
                    .then(|| (*id, running.turn.clone(), rate))
            })
            .collect();
        slow.sort_by_key(|(.., rate)| *rate);
        slow
    }

    /// Returns whether a file waits for its origin.
    pub(super) fn is_slow(&self, id: JobId, running: &Running) -> bool {
        running.since.elapsed() >= FIRST
            && self
                .board
                .progress(id)
                .is_some_and(|progress| slow_rate(running, &progress).is_some())
    }
}

/// Returns how many bytes a second a file brings, if they are few.
fn slow_rate(running: &Running, progress: &Progress) -> Option<u64> {
    let now = progress.snapshot();
    let bytes = now.fetched.saturating_sub(running.fetched);
    let millis = u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let rate = bytes.saturating_mul(1000) / millis.max(1);
    (now.stage == Stage::Fetch && rate < SLOW).then_some(rate)
}
