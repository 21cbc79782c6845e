//! Verification of what is published, on demand and in the background, and healing of what is found damaged.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Runner;
use crate::datafile::Key;
use crate::deliver::{Damage, Damaged, Depth, Stop, Verification};
use crate::job::{Failure, Stage};
use crate::store::{self, jobs, releases};
use crate::sys::Chain;

/// What became of a damaged version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healed {
    /// It is whole again.
    Done,
    /// Its archive is not here any more, or not as it was received.
    NoArchive,
    /// A push of it is at work, which heals it.
    Busy,
    /// It is gone, or found whole, meanwhile.
    Unneeded,
    /// It could not be unpacked or put into its place.
    Failed(Failure),
}

impl Runner {
    /// Looks through everything that is published, again and again, at the configured rate, until `drain`.
    pub(super) async fn scrub(self: std::sync::Arc<Self>, drain: CancellationToken) {
        let mut changed = self.config.follow();
        let mut last = Instant::now();
        loop {
            let every = self.config.now().scrub_every;
            tokio::select! {
                () = drain.cancelled() => return,
                _ = changed.changed() => continue,
                () = tokio::time::sleep_until(last + every), if !every.is_zero() => {}
            }
            match self.scrub_once(&drain).await {
                Ok((versions, damaged)) => {
                    tracing::info!(
                        event = "scrubbed",
                        versions,
                        damaged,
                        "compared what is published with its manifests"
                    );
                }
                Err(error) => {
                    tracing::warn!(event = "scrub-failed", error = %Chain(&error), "could not look through what is published");
                }
            }
            last = Instant::now();
        }
    }

    async fn scrub_once(&self, drain: &CancellationToken) -> Result<(usize, usize), store::Error> {
        let rows = self
            .store
            .read(|r| releases::list(r, None, None, 0, u32::MAX))
            .await?;
        let (mut versions, mut damaged) = (0, 0);
        for row in rows {
            if drain.is_cancelled() {
                break;
            }
            let verification = self
                .verify(&row.key, Some(self.config.now().scrub_rate), drain)
                .await?;
            versions += 1;
            if matches!(verification, Verification::Damaged(_)) {
                damaged += 1;
                self.heal(&row.key).await?;
            }
        }
        Ok((versions, damaged))
    }

    /// Verifies a published tree against its manifest, reading at most `rate` bytes a second, and notes what it finds.
    /// Breaks off when `stop` is cancelled.
    pub async fn verify(
        &self,
        key: &Key,
        rate: Option<u64>,
        stop: &CancellationToken,
    ) -> Result<Verification, store::Error> {
        let verification = self.compare(key, Depth::Bytes, rate, stop).await;
        let damage = match &verification {
            Verification::Whole(_) => None,
            Verification::Damaged(report) => Some(summary(report)),
            Verification::Failed(_) => return Ok(verification),
        };
        self.mark(key, damage).await?;
        self.check_link(&key.app, &key.name).await?;
        Ok(verification)
    }

    /// As [`Runner::verify`], without reading the files: what is found is noted, and that nothing is found proves nothing.
    pub async fn glance(
        &self,
        key: &Key,
        stop: &CancellationToken,
    ) -> Result<Verification, store::Error> {
        let verification = self.compare(key, Depth::Stat, None, stop).await;
        if let Verification::Damaged(report) = &verification {
            self.mark(key, Some(summary(report))).await?;
        }
        self.check_link(&key.app, &key.name).await?;
        Ok(verification)
    }

    async fn compare(
        &self,
        key: &Key,
        depth: Depth,
        rate: Option<u64>,
        stop: &CancellationToken,
    ) -> Verification {
        match self.road.verify(key, depth, rate, stop.clone()).await {
            Ok(verification) => verification,
            Err(stop) => Verification::Failed(stop.into_failure(Stage::Publish)),
        }
    }

    async fn mark(&self, key: &Key, damage: Option<String>) -> Result<(), store::Error> {
        let marked = key.clone();
        let what = damage.clone();
        let changed = self
            .store
            .write(move |tx| releases::mark_damaged(tx, &marked, what.as_deref()))
            .await?;
        if let (Some(what), true) = (&damage, changed) {
            tracing::error!(event = "damaged", data = %key, what, "a published version differs from its manifest");
        }
        Ok(())
    }

    /// Makes a damaged version whole from its kept archive, without any download.
    pub async fn heal(&self, key: &Key) -> Result<Healed, store::Error> {
        let healed = self.try_to_heal(key).await?;
        match &healed {
            Healed::Done => {
                tracing::info!(event = "healed", data = %key, "unpacked a damaged version again from its kept archive");
            }
            Healed::NoArchive => {
                tracing::error!(event = "not-healed", data = %key, "there is no sound archive of a damaged version; push it again to heal it");
            }
            Healed::Failed(failure) => {
                tracing::error!(event = "not-healed", data = %key, error = failure.message, "could not heal a damaged version; push it again to heal it");
            }
            Healed::Busy | Healed::Unneeded => {}
        }
        Ok(healed)
    }

    async fn try_to_heal(&self, key: &Key) -> Result<Healed, store::Error> {
        let damage = match self.damage_of(key).await? {
            Ok(damage) => damage,
            Err(why_not) => return Ok(why_not),
        };
        // Not in the name's turn yet: a rollback away from the damage must not wait for this.
        let rebuilt = match self.road.rebuild(damage).await {
            Ok(Some(rebuilt)) => rebuilt,
            Ok(None) => return Ok(Healed::NoArchive),
            Err(stop) => return Ok(failed(stop)),
        };
        let _turn = self.names.lock(key).await;
        if let Err(why_not) = self.damage_of(key).await? {
            return Ok(why_not);
        }
        if let Err(stop) = self.road.replace(rebuilt).await {
            return Ok(failed(stop));
        }
        let key = key.clone();
        self.store
            .write(move |tx| releases::mark_damaged(tx, &key, None))
            .await?;
        Ok(Healed::Done)
    }

    async fn damage_of(&self, key: &Key) -> Result<Result<Damage, Healed>, store::Error> {
        let key = key.clone();
        self.store
            .read(move |r| {
                let Some(release) = releases::get(r, &key)?.filter(|row| row.damage.is_some())
                else {
                    return Ok(Err(Healed::Unneeded));
                };
                if jobs::open_content(r, &key)?.is_some() {
                    return Ok(Err(Healed::Busy));
                }
                let Some(job) = jobs::get(r, release.job)? else {
                    return Ok(Err(Healed::NoArchive));
                };
                Ok(Ok(Damage {
                    key,
                    archive_type: job.archive_type,
                    content: release.content,
                    bytes: release.bytes,
                    job: release.job.0,
                    accepted_ms: job.accepted_ms,
                }))
            })
            .await
    }
}

fn failed(stop: Stop) -> Healed {
    Healed::Failed(stop.into_failure(Stage::Publish))
}

fn summary(report: &Damaged) -> String {
    let first = report.damage.first().map_or_else(String::new, |d| {
        let path = if d.path.is_empty() { "." } else { &d.path };
        format!(
            ", first: `{path}` {}: expected {}, found {}",
            d.what, d.expected, d.found
        )
    });
    let differences = match report.damaged {
        1 => "1 difference".to_owned(),
        n => format!("{n} differences"),
    };
    format!("{differences} from the manifest{first}")
}
