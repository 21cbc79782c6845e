//! Admits a push: already there, in flight, refused, or a new job, committed before the caller is
//! answered.
//!
//! Every push ends here, from whichever source. It is decided and recorded in one transaction:
//! either all its elements have answers and the accepted ones their jobs, or nothing of it is
//! recorded. The rules are in [`admission`].

mod error;
mod repeated;
mod room;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::admission::{self, Denial, Element, Published, Verdict};
use crate::datafile::{AppId, Content, DataFile, Key, Sha256};
use crate::job::JobId;
use crate::job::Reason;
use crate::shown::{Release, model};
use crate::store::activations::{self, Request, Requested};
use crate::store::jobs::{self, NewJob};
use crate::store::releases;
use crate::store::{self, Store, Tx};
use crate::sys::only::Only;
use crate::wire::push::{MAX_ITEMS, Push, Via};
use crate::wire::status::ResultCode;

pub use error::{Error, KINDS};
pub use repeated::Repeated;
use room::Room;

/// What is admitted, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The region of this node: a push whose strategy does not select it is refused.
    pub region: String,
    /// The applications that may be pushed: "any", or a list of their ids.
    pub apps: Only<AppId>,
    /// "auto": a pushed version becomes live. "manual": it waits for `edgepush activate`.
    pub activate: Activate,
    /// `activate` of single applications, from `[apps]`.
    #[serde(skip)]
    pub apps_activate: BTreeMap<AppId, Activate>,
    /// Most elements of one push.
    pub max_items: usize,
    /// Most files that wait or run, of all applications.
    pub max_open_jobs: u64,
    /// Most files of one application that wait or run.
    pub max_open_jobs_per_app: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: "local".to_owned(),
            apps: Only::Any,
            activate: Activate::Auto,
            apps_activate: BTreeMap::new(),
            max_items: MAX_ITEMS,
            max_open_jobs: 200_000,
            max_open_jobs_per_app: 100_000,
        }
    }
}

impl Config {
    /// Returns when a pushed version of `app` becomes live.
    #[must_use]
    pub fn activate_of(&self, app: &AppId) -> Activate {
        *self.apps_activate.get(app).unwrap_or(&self.activate)
    }
}

/// When a pushed version becomes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activate {
    /// When it is published.
    Auto,
    /// When an operator says so.
    Manual,
}

/// The answer to one element of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name as stated.
    pub name: String,
    /// The version as stated.
    pub version: String,
    /// The contract's code.
    pub code: ResultCode,
    /// A sentence for people.
    pub descrip: String,
    /// Why it was refused, for programs: a name of [`KINDS`].
    pub refusal: Option<&'static str>,
    /// The job that publishes it or has published it.
    pub job: Option<JobId>,
    /// The id of the push that this answer belongs to.
    pub push: String,
}

impl From<Answer> for model::Answer {
    fn from(answer: Answer) -> Self {
        Self {
            name: answer.name,
            version: answer.version,
            code: answer.code.code(),
            result: answer.code.into(),
            message: answer.descrip,
            refusal: answer.refusal.map(str::to_owned),
            job: answer.job,
        }
    }
}

/// What the intake asks of the node that it admits for.
pub trait Site: Send + Sync + 'static {
    /// Decides whether this node's policy lets a file be fetched.
    fn check(&self, file: &DataFile) -> Result<(), Denial>;

    /// Reads a kept archive for its size and digests. Blocks.
    fn archive_content(&self, key: &Key) -> Option<Content>;

    /// Tells whether readers see this version at `current`. Blocks.
    fn is_current(&self, key: &Key) -> bool;
}

/// The door of the store for pushes.
pub struct Intake {
    store: Store,
    config: RwLock<Arc<Config>>,
    site: Arc<dyn Site>,
    repeated: Arc<Repeated>,
}

impl Intake {
    /// Makes an intake into `store`.
    pub fn new(store: Store, config: Config, site: impl Site) -> Self {
        Self {
            store,
            config: RwLock::new(Arc::new(config)),
            site: Arc::new(site),
            repeated: Arc::default(),
        }
    }

    /// Returns the files that were pushed again although they are published.
    #[must_use]
    pub fn repeated(&self) -> &Repeated {
        &self.repeated
    }

    /// Takes a changed configuration; pushes that are being admitted keep the old one.
    pub fn reload(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Returns the configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the region of this node.
    #[must_use]
    pub fn region(&self) -> String {
        self.config().region.clone()
    }

    /// Returns whether an application may be pushed and queried.
    #[must_use]
    pub fn knows(&self, app: &AppId) -> bool {
        self.config().apps.holds(app)
    }

    /// Admits a push: one answer per element, in their order, after everything accepted is on the
    /// disk.
    pub async fn admit(&self, push: Push, via: Via) -> Result<Vec<Answer>, Error> {
        let answers = self.admit_with(push, via, |_| Ok(true), |_, _| Ok(()));
        Ok(answers.await?.unwrap_or_default())
    }

    /// As [`Intake::admit`], but only if `first` says so, and with `then` for the answers, in the
    /// same piece of writing: they and what is accepted are on the disk together, and waited for
    /// once. `None` if `first` says no.
    pub async fn admit_with(
        &self,
        push: Push,
        via: Via,
        first: impl FnOnce(&Tx<'_>) -> Result<bool, store::Error> + Send + 'static,
        then: impl FnOnce(&Tx<'_>, &[Answer]) -> Result<(), store::Error> + Send + 'static,
    ) -> Result<Option<Vec<Answer>>, Error> {
        let config = self.config();
        self.check_push(&push, &config)?;
        let app = push.app.clone();
        let push_app = app.clone();
        let elements: Vec<Element> = push
            .items
            .into_iter()
            .map(|item| Element::new(item, |file| self.site.check(file)))
            .collect();
        self.learn_digests(&elements).await?;
        let admission = Admission {
            push: uuid::Uuid::new_v4().to_string(),
            via,
            activate: config.activate_of(&app) == Activate::Auto,
            repeated: Arc::clone(&self.repeated),
            site: Arc::clone(&self.site),
            config,
        };
        let answers = self
            .store
            .write(move |tx| {
                if !first(tx)? {
                    return Ok(None);
                }
                let answers = admission.decide_all(tx, &push_app, elements)?;
                then(tx, &answers)?;
                Ok(Some(answers))
            })
            .await?;
        if let Some(answers) = &answers {
            log(&app, via, answers);
        }
        Ok(answers)
    }

    /// Computes the SHA-256 of published archives for which this push states one and that came
    /// without: only the bytes can show whether the pushed content differs.
    async fn learn_digests(&self, elements: &[Element]) -> Result<(), Error> {
        let stating = elements
            .iter()
            .filter_map(|e| e.file.as_ref().ok())
            .filter(|f| f.sha256.is_some());
        let keys: Vec<Key> = stating.map(|f| f.key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let unknown = self
            .store
            .read(move |reader| {
                let mut unknown = Vec::new();
                for key in keys {
                    if let Some(row) = releases::get(reader, &key)?
                        && row.content.sha256.is_none()
                    {
                        unknown.push(row);
                    }
                }
                Ok(unknown)
            })
            .await?;
        if unknown.is_empty() {
            return Ok(());
        }
        let site = Arc::clone(&self.site);
        let learn = move || -> Vec<(Key, Sha256)> {
            let learnt = unknown.into_iter().filter_map(|row| {
                let found = site.archive_content(&row.key)?;
                // An archive that was damaged since says nothing about what was published.
                let same = row.content.md5.is_none_or(|md5| found.md5 == Some(md5));
                Some((row.key, found.sha256.filter(|_| same)?))
            });
            learnt.collect()
        };
        let learnt = tokio::task::spawn_blocking(learn).await.unwrap_or_default();
        self.store
            .write(move |tx| {
                learnt
                    .iter()
                    .try_for_each(|(key, sha256)| releases::learn_sha256(tx, key, *sha256))
            })
            .await?;
        Ok(())
    }

    fn check_push(&self, push: &Push, config: &Config) -> Result<(), Error> {
        if !self.knows(&push.app) {
            return Err(Error::UnknownApp {
                app: push.app.clone(),
            });
        }
        if push.items.len() > config.max_items {
            return Err(Error::TooMany {
                count: push.items.len(),
                max: config.max_items,
            });
        }
        match &push.strategy {
            Some(strategy) if !strategy.selects(&config.region) => Err(Error::NotSelected {
                region: config.region.clone(),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// What all elements of a push have in common.
struct Admission {
    push: String,
    via: Via,
    activate: bool,
    repeated: Arc<Repeated>,
    site: Arc<dyn Site>,
    config: Arc<Config>,
}

/// What became of an element, once what is accepted has a job.
type Decided = Verdict<Release, JobId>;

impl Admission {
    fn decide_all(
        &self,
        tx: &Tx<'_>,
        app: &AppId,
        elements: Vec<Element>,
    ) -> Result<Vec<Answer>, store::Error> {
        let mut room = Room::look(tx, app, &self.config)?;
        let mut jobs = Vec::with_capacity(elements.len());
        let mut verdicts = Vec::with_capacity(elements.len());
        for element in &elements {
            let verdict = room.bound(admission::decide(tx, element)?);
            jobs.push(self.carry_out(tx, element, &verdict)?);
            verdicts.push(verdict);
        }
        let last = admission::last_of_each_name(&elements, &verdicts);
        let decided = elements.into_iter().zip(verdicts).zip(jobs).enumerate();
        decided
            .map(|(i, ((element, verdict), job))| {
                self.answer(tx, element, verdict, job, last.contains(&i))
            })
            .collect()
    }

    /// Does what a verdict asks for, and returns the job that publishes the element or has
    /// published it.
    fn carry_out(
        &self,
        tx: &Tx<'_>,
        element: &Element,
        verdict: &Decided,
    ) -> Result<Option<JobId>, store::Error> {
        let Ok(file) = &element.file else {
            return Ok(None);
        };
        match verdict {
            Verdict::Accept { .. } => {
                let new = NewJob {
                    file,
                    push: &self.push,
                    via: self.via,
                    activate: self.activate,
                };
                jobs::insert(tx, &new).map(Some)
            }
            Verdict::Published(release) => {
                self.repeated.note(file, self.via);
                Ok(Some(release.job))
            }
            Verdict::InProgress(job) => {
                if self.activate {
                    activations::renew_turn(tx, &file.key, *job)?;
                }
                Ok(Some(*job))
            }
            Verdict::Refused(..) => Ok(None),
        }
    }

    fn answer(
        &self,
        tx: &Tx<'_>,
        element: Element,
        verdict: Decided,
        job: Option<JobId>,
        is_last: bool,
    ) -> Result<Answer, store::Error> {
        let (code, descrip, refusal) = match verdict {
            Verdict::Accept { repairs } => {
                let note = match repairs {
                    true => " It repairs the published version, which was found damaged.",
                    false => "",
                };
                let text = format!("Success: accepted, and now being pushed.{note}");
                (ResultCode::Accepted, text, None)
            }
            Verdict::Published(release) => {
                let text = self.make_live(tx, &release, is_last)?;
                (ResultCode::AlreadyPublished, text, None)
            }
            Verdict::InProgress(job) => {
                let text = format!("This version is being pushed already, as job {job}.");
                (ResultCode::InProgress, text, None)
            }
            Verdict::Refused(kind, text) => (ResultCode::Refused, text, Some(kind.name)),
        };
        Ok(Answer {
            name: element.name,
            version: element.version,
            code,
            descrip,
            refusal,
            job,
            push: self.push.clone(),
        })
    }

    /// Flips back to a published version that is pushed again, unless a later element of this push
    /// wants another.
    fn make_live(
        &self,
        tx: &Tx<'_>,
        release: &Release,
        is_last: bool,
    ) -> Result<String, store::Error> {
        let is_current = release.live && self.site.is_current(&release.key);
        if !self.activate || !is_last {
            return Ok(if is_current {
                "Success: this version is published and live.".to_owned()
            } else {
                "Success: this version is published, but not live.".to_owned()
            });
        }
        let request = Request {
            key: &release.key,
            reason: Reason::Repush,
            actor: self.via.as_str(),
            job: Some(release.job),
        };
        Ok(match activations::request(tx, &request)? {
            Requested::Waiting(..) => {
                "Success: this version is published and becomes live again.".to_owned()
            }
            Requested::AlreadyLive(_) if !is_current => {
                activations::request_link(tx, &request)?;
                "Success: this version is published; `current` leads elsewhere and is restored."
                    .to_owned()
            }
            Requested::AlreadyLive(_) => "Success: this version is published and live.".to_owned(),
            Requested::Unknown | Requested::Damaged | Requested::NothingBefore => {
                "Success: this version is published, but not live.".to_owned()
            }
        })
    }
}

impl admission::Known for Tx<'_> {
    type Release = Release;
    type Job = JobId;
    type Error = store::Error;

    fn published(&self, key: &Key) -> Result<Option<Published<Release>>, store::Error> {
        let release = releases::get(self, key)?;
        Ok(release.map(|release| Published {
            content: release.content,
            is_damaged: release.damage.is_some(),
            release,
        }))
    }

    fn open(&self, key: &Key) -> Result<Option<(JobId, Content)>, store::Error> {
        jobs::open_content(self, key)
    }
}

fn log(app: &AppId, via: Via, answers: &[Answer]) {
    let count = |code| answers.iter().filter(|a| a.code == code).count();
    let (accepted, refused) = (count(ResultCode::Accepted), count(ResultCode::Refused));
    let published = count(ResultCode::AlreadyPublished);
    let in_progress = count(ResultCode::InProgress);
    let push = answers.first().map_or("", |a| a.push.as_str());
    if accepted + refused == 0 {
        tracing::debug!(event = "push", %app, via = via.as_str(), published, in_progress, "nothing new in a push");
        return;
    }
    tracing::info!(event = "push", %app, push, via = via.as_str(), accepted, published, in_progress, refused, "took a push");
}

#[cfg(test)]
mod tests;
