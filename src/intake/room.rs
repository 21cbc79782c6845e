//! How many more files may wait or run: a pusher cannot fill the queue that others need.

use super::{Config, error::TOO_MANY_OPEN};
use crate::admission::Verdict;
use crate::datafile::AppId;
use crate::store::{self, Tx, jobs};

/// The room that is left for one push.
pub(super) struct Room {
    left_of_app: u64,
    left: u64,
    max_of_app: u64,
    max: u64,
}

impl Room {
    pub(super) fn look(tx: &Tx<'_>, app: &AppId, config: &Config) -> Result<Self, store::Error> {
        let (max_of_app, max) = (config.max_open_jobs_per_app, config.max_open_jobs);
        let (open_of_app, open) = jobs::open_counts(tx, app)?;
        Ok(Self {
            left_of_app: max_of_app.saturating_sub(open_of_app),
            left: max.saturating_sub(open),
            max_of_app,
            max,
        })
    }

    /// Refuses what would be accepted beyond the limits.
    pub(super) fn bound<R, J>(&mut self, verdict: Verdict<R, J>) -> Verdict<R, J> {
        if !matches!(verdict, Verdict::Accept { .. }) {
            return verdict;
        }
        let full = match (self.left_of_app, self.left) {
            (0, _) => (
                "of this application ",
                self.max_of_app,
                "max_open_jobs_per_app",
            ),
            (_, 0) => ("", self.max, "max_open_jobs"),
            _ => {
                self.left_of_app -= 1;
                self.left -= 1;
                return verdict;
            }
        };
        let (whose, max, key) = full;
        let text = format!(
            "{max} files {whose}are waiting or being pushed already, the most that are accepted (intake.{key}); push again later."
        );
        Verdict::Refused(&TOO_MANY_OPEN, text)
    }
}
