//! Compares published trees with their manifests, on demand and regularly in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::worker::{Status, Worker};
use super::{Config, Keep};
use crate::datafile::Key;
use crate::publish;
use crate::publish::check::{Depth, Report};
use crate::store::{self, releases};

/// How the verification of a version ended.
#[derive(Debug)]
pub enum Verification {
    /// The tree is what its manifest says.
    Whole(Report),
    /// It is not.
    Damaged(Report),
    /// It could not be compared.
    Failed(publish::Error),
}

/// Verifies everything that is published, again and again, at the configured rate, and heals what
/// is damaged.
pub(super) struct Scrub {
    keep: Arc<Keep>,
    config: watch::Receiver<Arc<Config>>,
    /// When the last round ended.
    last: Instant,
}

impl Scrub {
    pub(super) fn new(keep: Arc<Keep>) -> Self {
        Self {
            config: keep.config.follow(),
            keep,
            last: Instant::now(),
        }
    }
}

impl Worker for Scrub {
    const NAME: &'static str = "scrub";

    async fn due(&mut self) {
        loop {
            let every = self.keep.config.now().scrub_every;
            tokio::select! {
                _ = self.config.changed() => {}
                () = tokio::time::sleep_until(self.last + every), if !every.is_zero() => return,
            }
        }
    }

    async fn work(
        &mut self,
        status: &Status,
        stop: &CancellationToken,
    ) -> Result<(), store::Error> {
        let scrubbed = self.keep.scrub(status, stop).await;
        self.last = Instant::now();
        let (versions, damaged) = scrubbed?;
        tracing::info!(
            event = "scrubbed",
            versions,
            damaged,
            "compared what is published with its manifests"
        );
        Ok(())
    }
}

impl Keep {
    async fn scrub(
        &self,
        status: &Status,
        stop: &CancellationToken,
    ) -> Result<(usize, usize), store::Error> {
        let rows = self
            .store
            .read(|r| releases::list(r, None, None, 0, u32::MAX))
            .await?;
        let (mut versions, mut damaged) = (0, 0);
        for row in &rows {
            if stop.is_cancelled() {
                break;
            }
            status.progress(versions, rows.len());
            let rate = Some(self.config.now().scrub_rate);
            let verification = self.verify(&row.key, rate, stop).await?;
            versions += 1;
            if matches!(verification, Verification::Damaged(_)) {
                damaged += 1;
                self.heal(&row.key).await?;
            }
        }
        Ok((versions, damaged))
    }

    /// Verifies a published tree against its manifest, reading at most `rate` bytes per second, and
    /// records the result. Breaks off when `stop` is cancelled.
    pub async fn verify(
        &self,
        key: &Key,
        rate: Option<u64>,
        stop: &CancellationToken,
    ) -> Result<Verification, store::Error> {
        let verification = self.compare(key, Depth::Bytes, rate, stop).await?;
        let damage = match &verification {
            Verification::Whole(_) => None,
            Verification::Damaged(report) => Some(summary(report)),
            Verification::Failed(_) => return Ok(verification),
        };
        self.mark(key, damage).await?;
        self.settle(&key.app, &key.name).await?;
        Ok(verification)
    }

    /// As [`Keep::verify`], without reading the files: damage that is found is recorded, but
    /// finding none proves nothing.
    pub(super) async fn glance(
        &self,
        key: &Key,
        stop: &CancellationToken,
    ) -> Result<Verification, store::Error> {
        let verification = self.compare(key, Depth::Stat, None, stop).await?;
        if let Verification::Damaged(report) = &verification {
            self.mark(key, Some(summary(report))).await?;
        }
        self.settle(&key.app, &key.name).await?;
        Ok(verification)
    }

    async fn compare(
        &self,
        key: &Key,
        depth: Depth,
        rate: Option<u64>,
        stop: &CancellationToken,
    ) -> Result<Verification, store::Error> {
        let (key, stop) = (key.clone(), stop.clone());
        self.on_disk(move |publisher| {
            let mut pace = Pace::new(rate);
            let compared = publisher.verify(&key, depth, &mut |bytes| {
                pace.take(bytes);
                !stop.is_cancelled()
            });
            match compared {
                Ok(report) if report.damaged == 0 => Verification::Whole(report),
                Ok(report) => Verification::Damaged(report),
                Err(error) => Verification::Failed(error),
            }
        })
        .await
    }

    pub(super) async fn mark(&self, key: &Key, damage: Option<String>) -> Result<(), store::Error> {
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
}

fn summary(report: &Report) -> String {
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

/// Keeps a reader under a rate.
struct Pace {
    rate: Option<u64>,
    started: std::time::Instant,
    taken: u64,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            started: std::time::Instant::now(),
            taken: 0,
        }
    }

    fn take(&mut self, bytes: u64) {
        self.taken += bytes;
        if let Some(rate) = self.rate.filter(|r| *r > 0) {
            let due = Duration::from_millis(self.taken.saturating_mul(1000) / rate);
            std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        }
    }
}
