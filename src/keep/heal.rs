//! Repairs damaged versions from their kept archives, without any download.

use super::Keep;
use crate::datafile::Key;
use crate::deliver::{Damage, Stop};
use crate::job::{Failure, Stage};
use crate::store::{self, jobs, releases};

/// How the repair of a damaged version ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healed {
    /// It is whole again.
    Done,
    /// Its archive is not here any more, or not as it was received.
    NoArchive,
    /// A job of it is open, which repairs it.
    Busy,
    /// It was removed, or found whole, meanwhile.
    Unneeded,
    /// It could not be unpacked or put into its place.
    Failed(Failure),
}

impl Keep {
    /// Repairs a damaged version from its kept archive.
    pub async fn heal(&self, key: &Key) -> Result<Healed, store::Error> {
        let healed = self.try_to_heal(key).await?;
        match &healed {
            Healed::Done => {
                tracing::info!(event = "healed", data = %key, "repaired a damaged version from its kept archive");
                // Where its tree was gone, `current` may lead to it again.
                self.settle(&key.app, &key.name).await?;
            }
            Healed::NoArchive => {
                tracing::error!(event = "not-healed", data = %key, "a damaged version has no sound archive; push it again to repair it");
            }
            Healed::Failed(failure) => {
                tracing::error!(event = "not-healed", data = %key, error = failure.message, "could not repair a damaged version; push it again to repair it");
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
        // The name is not locked yet: a rollback away from the damage must not wait for this.
        let rebuilt = match self.road.rebuild(damage).await {
            Ok(Some(rebuilt)) => rebuilt,
            Ok(None) => return Ok(Healed::NoArchive),
            Err(stop) => return Ok(failed(stop)),
        };
        let _lock = self.publisher.lock(key).await;
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
