//! Admits a push: already there, in flight, refused, or a new job, committed before the caller is answered.
//!
//! Every way in ends here. A push is decided and written in one piece: either all its elements got their answers and the
//! accepted ones their jobs, or nobody knows of it. Deciding looks at what is published and at what is running, never at
//! an origin: the answer does not wait for the network. The rules are the contract's (docs/ens.md §3).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::datafile::{AppId, Content, DataFile, DataName, Invalid, Key, Sha256};
use crate::job::JobId;
use crate::store::activations::{self, Reason, Request, Requested};
use crate::store::jobs::{self, NewJob};
use crate::store::releases::{self, ReleaseRow};
use crate::store::{self, Store, Tx};
use crate::sys::failure::{Class, Kind, Retry};
use crate::sys::only::Only;
use crate::wire::push::Via;
use crate::wire::push::{Item, MAX_ITEMS, Push};
use crate::wire::status::ResultCode;

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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: "local".to_owned(),
            apps: Only::Any,
            activate: Activate::Auto,
            apps_activate: BTreeMap::new(),
            max_items: MAX_ITEMS,
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

/// Why a whole push is not taken. Nothing of it was written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The application is none of the known.
    #[error("AppId `{app}` is not known here")]
    UnknownApp {
        /// The application.
        app: AppId,
    },
    /// The strategy does not select the region of this node.
    #[error("the strategy does not select this node's region `{region}`")]
    NotSelected {
        /// This node's region.
        region: String,
    },
    /// The push has more elements than are taken at once.
    #[error("the push has {count} elements, at most {max} are taken at once (intake.max_items)")]
    TooMany {
        /// How many it has.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// The push cannot be recorded now: the disk is full, or the agent is stopping. Push again later.
    #[error("record the push")]
    Unavailable(#[source] store::Error),
    /// The push cannot be recorded.
    #[error("record the push")]
    Store(#[source] store::Error),
}

/// The intake's refusals by stable name: of a push, and of one element.
pub const KINDS: &[Kind] = &[
    UNKNOWN_APP,
    NOT_SELECTED,
    TOO_MANY,
    INVALID_ITEM,
    VERSION_CONFLICT,
    DENIED,
];

const UNKNOWN_APP: Kind = Kind {
    name: "unknown-app",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Add the application to `intake.apps`, or push under an application that is there.",
};
const NOT_SELECTED: Kind = Kind {
    name: "region-not-selected",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "The push strategy names other regions than `intake.region` of this node.",
};
const TOO_MANY: Kind = Kind {
    name: "too-many-elements",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "Split the push, or raise `intake.max_items`.",
};
const INVALID_ITEM: Kind = Kind {
    name: "invalid-element",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "An element of the push has a value that cannot be used; its message says which.",
};
const VERSION_CONFLICT: Kind = Kind {
    name: "version-conflict",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "A published version never changes: push the new content as a new version.",
};
const DENIED: Kind = Kind {
    name: "source-denied",
    class: Class::Policy,
    retry: Retry::Fatal,
    help: "This node's configuration forbids to fetch this element; its message says why.",
};

impl Error {
    /// Returns the row of [`KINDS`], or of the store's, that this error belongs to.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::UnknownApp { .. } => &UNKNOWN_APP,
            Self::NotSelected { .. } => &NOT_SELECTED,
            Self::TooMany { .. } => &TOO_MANY,
            Self::Unavailable(source) | Self::Store(source) => source.kind(),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        if error.is_unavailable() {
            Self::Unavailable(error)
        } else {
            Self::Store(error)
        }
    }
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

/// Decides whether a file may be fetched by this node's policy; the text of a refusal is for the pusher.
type Check = dyn Fn(&DataFile) -> Result<(), String> + Send + Sync;
/// Is told of a file that is published already.
type Repeated = dyn Fn(&DataFile, Via) + Send + Sync;
/// Reads a kept archive and returns its size and digests.
type Digests = dyn Fn(&Key) -> Option<Content> + Send + Sync;

/// The door of the store for pushes.
pub struct Intake {
    store: Store,
    config: RwLock<Arc<Config>>,
    check: Box<Check>,
    digests: Arc<Digests>,
    repeated: Arc<Repeated>,
}

impl Intake {
    /// Makes an intake into `store`; `check` is asked before a file is accepted to be fetched.
    pub fn new(
        store: Store,
        config: Config,
        check: impl Fn(&DataFile) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            store,
            config: RwLock::new(Arc::new(config)),
            check: Box::new(check),
            digests: Arc::new(|_| None),
            repeated: Arc::new(|_, _| {}),
        }
    }

    /// Asks `digests` for the content of a kept archive whose SHA-256 is not on record when a push states one. It blocks.
    #[must_use]
    pub fn with_digests(
        mut self,
        digests: impl Fn(&Key) -> Option<Content> + Send + Sync + 'static,
    ) -> Self {
        self.digests = Arc::new(digests);
        self
    }

    /// Tells `repeated` of every file that is pushed and published already. It must not block.
    #[must_use]
    pub fn with_repeated(
        mut self,
        repeated: impl Fn(&DataFile, Via) + Send + Sync + 'static,
    ) -> Self {
        self.repeated = Arc::new(repeated);
        self
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

    /// Tells whether an application may be pushed and asked for.
    #[must_use]
    pub fn knows(&self, app: &AppId) -> bool {
        self.config().apps.holds(app)
    }

    /// Admits a push: one answer per element, in their order, after everything accepted is on the disk.
    pub async fn admit(&self, push: Push, via: Via) -> Result<Vec<Answer>, Error> {
        let answers = self.admit_if(push, via, |_| Ok(true)).await?;
        Ok(answers.unwrap_or_default())
    }

    /// As [`Intake::admit`], but only if `first` says so, in the same piece of writing: it and what is accepted are on the
    /// disk together, and waited for once. `None` if it does not.
    pub async fn admit_if(
        &self,
        push: Push,
        via: Via,
        first: impl FnOnce(&Tx<'_>) -> Result<bool, store::Error> + Send + 'static,
    ) -> Result<Option<Vec<Answer>>, Error> {
        let config = self.config();
        self.check_push(&push, &config)?;
        let app = push.app.clone();
        let elements: Vec<Element> = push
            .items
            .into_iter()
            .map(|item| Element::new(item, &*self.check))
            .collect();
        self.learn_digests(&elements).await?;
        let admission = Admission {
            push: uuid::Uuid::new_v4().to_string(),
            via,
            activate: config.activate_of(&app) == Activate::Auto,
            repeated: Arc::clone(&self.repeated),
        };
        let answers = self
            .store
            .write(move |tx| match first(tx)? {
                true => admission.decide_all(tx, elements).map(Some),
                false => Ok(None),
            })
            .await?;
        if let Some(answers) = &answers {
            log(&app, via, answers);
        }
        Ok(answers)
    }

    /// Finds out the SHA-256 of published archives that this push states one for and that arrived without: only their
    /// bytes can tell whether the pushed content is another.
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
        let digests = Arc::clone(&self.digests);
        let learn = move || -> Vec<(Key, Sha256)> {
            let learnt = unknown.into_iter().filter_map(|row| {
                let found = digests(&row.key)?;
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

/// An element of the push with what can be told without the store.
struct Element {
    name: String,
    version: String,
    file: Result<DataFile, Invalid>,
    /// Why policy forbids to fetch it; it counts only if it would have to be fetched.
    denied: Option<String>,
}

impl Element {
    fn new(item: Item, check: &Check) -> Self {
        let Item {
            name,
            version,
            file,
        } = item;
        let denied = file.as_ref().ok().and_then(|f| check(f).err());
        Self {
            name,
            version,
            file,
            denied,
        }
    }
}

/// What an element gets.
enum Verdict {
    Accepted(JobId, &'static str),
    Published(ReleaseRow),
    InProgress(JobId),
    Refused(&'static Kind, String),
}

/// What all elements of a push have in common.
struct Admission {
    push: String,
    via: Via,
    activate: bool,
    repeated: Arc<Repeated>,
}

impl Admission {
    fn decide_all(&self, tx: &Tx<'_>, elements: Vec<Element>) -> Result<Vec<Answer>, store::Error> {
        let mut verdicts = Vec::with_capacity(elements.len());
        // Several versions of one name in one push: the last of them is the one that shall be live.
        let mut last: HashMap<DataName, usize> = HashMap::new();
        for (index, element) in elements.iter().enumerate() {
            let verdict = self.decide(tx, element)?;
            if let (Ok(file), false) = (&element.file, matches!(verdict, Verdict::Refused(..))) {
                last.insert(file.key.name.clone(), index);
            }
            verdicts.push(verdict);
        }
        let last: HashSet<usize> = last.into_values().collect();
        let decided = elements.into_iter().zip(verdicts).enumerate();
        decided
            .map(|(i, (element, verdict))| self.answer(tx, element, verdict, last.contains(&i)))
            .collect()
    }

    fn decide(&self, tx: &Tx<'_>, element: &Element) -> Result<Verdict, store::Error> {
        let file = match &element.file {
            Ok(file) => file,
            Err(invalid) => {
                let text = format!("This element cannot be pushed: {invalid}.");
                return Ok(Verdict::Refused(&INVALID_ITEM, text));
            }
        };
        let release = releases::get(tx, &file.key)?;
        if let Some(text) = release.as_ref().and_then(|r| {
            conflict(file, &r.content, "published").or_else(|| unproven(file, &r.content))
        }) {
            return Ok(Verdict::Refused(&VERSION_CONFLICT, text));
        }
        if let Some((job, content)) = jobs::open_content(tx, &file.key)? {
            return self.decide_open(tx, file, job, &content);
        }
        match release {
            Some(release) if release.damage.is_none() => {
                (self.repeated)(file, self.via);
                Ok(Verdict::Published(release))
            }
            Some(_) => self.accept(
                tx,
                element,
                file,
                " It repairs the published version, which was found damaged.",
            ),
            None => self.accept(tx, element, file, ""),
        }
    }

    fn decide_open(
        &self,
        tx: &Tx<'_>,
        file: &DataFile,
        job: JobId,
        content: &Content,
    ) -> Result<Verdict, store::Error> {
        if let Some(text) = conflict(file, content, "being pushed") {
            return Ok(Verdict::Refused(&VERSION_CONFLICT, text));
        }
        if self.activate {
            activations::renew_turn(tx, &file.key, job)?;
        }
        Ok(Verdict::InProgress(job))
    }

    fn accept(
        &self,
        tx: &Tx<'_>,
        element: &Element,
        file: &DataFile,
        note: &'static str,
    ) -> Result<Verdict, store::Error> {
        if let Some(why) = &element.denied {
            let text = format!("This node's policy forbids it: {why}.");
            return Ok(Verdict::Refused(&DENIED, text));
        }
        let new = NewJob {
            file,
            push: &self.push,
            via: self.via,
            activate: self.activate,
        };
        Ok(Verdict::Accepted(jobs::insert(tx, &new)?, note))
    }

    fn answer(
        &self,
        tx: &Tx<'_>,
        element: Element,
        verdict: Verdict,
        is_last: bool,
    ) -> Result<Answer, store::Error> {
        let (code, descrip, refusal, job) = match verdict {
            Verdict::Accepted(job, note) => {
                let text = format!("Success: accepted, and now being pushed.{note}");
                (ResultCode::Accepted, text, None, Some(job))
            }
            Verdict::Published(release) => {
                let text = self.make_live(tx, &release, is_last)?;
                (ResultCode::AlreadyPublished, text, None, Some(release.job))
            }
            Verdict::InProgress(job) => {
                let text = format!("This version is being pushed already, as job {job}.");
                (ResultCode::InProgress, text, None, Some(job))
            }
            Verdict::Refused(kind, text) => (ResultCode::Refused, text, Some(kind.name), None),
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

    /// Flips back to a published version that is pushed again, unless a later element of this push wants another.
    fn make_live(
        &self,
        tx: &Tx<'_>,
        release: &ReleaseRow,
        is_last: bool,
    ) -> Result<String, store::Error> {
        if !self.activate || !is_last {
            return Ok(if release.live {
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
            Requested::AlreadyLive(_) => "Success: this version is published and live.".to_owned(),
            Requested::Unknown | Requested::Damaged | Requested::NothingBefore => {
                "Success: this version is published, but not live.".to_owned()
            }
        })
    }
}

/// Returns what to answer when `file` states other content than what is `known` under its key.
fn conflict(file: &DataFile, known: &Content, how: &str) -> Option<String> {
    let (what, theirs, stated) = file.difference(known)?;
    Some(format!(
        "This version is {how} with other content: {how} {what} {theirs}, pushed {what} {stated}; push a new version."
    ))
}

/// Returns what to answer when `file` states a SHA-256 and nothing else, and that of the published archive is not known
/// and cannot be found out any more: an answer that it is the same would be a guess.
fn unproven(file: &DataFile, known: &Content) -> Option<String> {
    let proven = file.sha256.is_none() || known.sha256.is_some() || file.md5.is_some();
    (!proven).then(|| {
        "This version is published, but the sha256 of its archive is not on record: state its md5, or push a new version."
            .to_owned()
    })
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
