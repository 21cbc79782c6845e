//! The client of the native API, over the agent's unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::datafile::Key;
use crate::http::Problem;
use crate::job::JobId;
use crate::shown::model::{
    Activated, Canceled, Collected, Events, NodeStatus, Outbox, Pin, Push, Pushed, Readiness,
    Releases, Removed, Replay, Replayed, Retried, Verified, WhatToVerify, WhichJob, WhichName,
    WhichVersion,
};
use crate::shown::{Event, File, Files};

/// How long an agent may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer what needs no work on trees.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest line of an event stream.
const MAX_LINE: usize = 4 << 20;

/// Why the agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("cannot reach the agent at `{}`", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: reqwest::Error,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done as things stand.
    #[error("{0}")]
    Conflict(String),
    /// The agent refused or failed.
    #[error("{message} ({code})")]
    Other {
        /// The agent's word for it.
        code: String,
        /// Why.
        message: String,
    },
    /// The answer is not one that this program understands.
    #[error("cannot parse the agent's answer to `{request}`")]
    Answer {
        /// What was asked.
        request: String,
        /// What was wrong with the answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Which files a list shows; what is absent does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesQuery {
    /// Of this application.
    pub app: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// With this version.
    pub version: Option<String>,
    /// In this state, or several separated by commas.
    pub state: Option<String>,
    /// At most this many.
    pub limit: Option<u64>,
    /// Without the first so many.
    pub offset: Option<u64>,
    /// Newest first instead of in the order of first pushes.
    pub newest: bool,
}

/// Which events are followed; what is absent does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsQuery {
    /// After this event; absent means from now on.
    pub after: Option<i64>,
    /// Of this application.
    pub app: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// With this version.
    pub version: Option<String>,
    /// Of this job.
    pub job: Option<JobId>,
}

/// A connection to the agent.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// Makes a client of the agent at `socket`. Nothing is connected yet.
    pub fn new(socket: &Path) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .build()
            .map_err(|e| unreachable(socket, e))?;
        Ok(Self {
            http,
            socket: socket.to_owned(),
        })
    }

    /// Returns the node at a glance.
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        self.get(url("/v1/status", &[])).await
    }

    /// Returns whether the node takes pushes, and why not.
    pub async fn readiness(&self) -> Result<Readiness, Error> {
        let target = url("/readyz", &[("verbose", Some("1".to_owned()))]);
        let answer = self.send(self.http.get(target.clone()), ANSWER).await?;
        self.read(&target, answer).await
    }

    /// Sends a push document.
    pub async fn push(&self, document: String) -> Result<Pushed, Error> {
        let target = url("/v1/pushes", &[]);
        let request = self
            .http
            .post(target.clone())
            .header("content-type", "application/json")
            .body(document);
        self.ask(&target, request, ANSWER).await
    }

    /// Returns how a push stands.
    pub async fn push_state(&self, id: &str) -> Result<Push, Error> {
        self.get(url(&format!("/v1/pushes/{}", segment(id)), &[]))
            .await
    }

    /// Returns files by their latest job.
    pub async fn files(&self, query: &FilesQuery) -> Result<Files, Error> {
        let q = query.clone();
        let target = url(
            "/v1/files",
            &[
                ("app", q.app),
                ("name", q.name),
                ("version", q.version),
                ("state", q.state),
                ("limit", q.limit.map(|n| n.to_string())),
                ("offset", q.offset.map(|n| n.to_string())),
                ("newest", q.newest.then(|| "true".to_owned())),
            ],
        );
        self.get(target).await
    }

    /// Returns the latest job of a file.
    pub async fn latest(&self, key: &Key) -> Result<File, Error> {
        let query = FilesQuery {
            app: Some(key.app.to_string()),
            name: Some(key.name.to_string()),
            version: Some(key.version.to_string()),
            ..FilesQuery::default()
        };
        let mut found = self.files(&query).await?.files;
        let missing = || Error::NotFound(format!("{key} was never pushed here"));
        found.pop().ok_or_else(missing)
    }

    /// Returns a job.
    pub async fn file(&self, id: JobId) -> Result<File, Error> {
        self.get(url(&format!("/v1/files/{id}"), &[])).await
    }

    /// Returns every job of a job's file that is remembered, oldest first.
    pub async fn history(&self, id: JobId) -> Result<Files, Error> {
        self.get(url(&format!("/v1/files/{id}/history"), &[])).await
    }

    /// Returns the timeline of a job; with `all`, of every job of its file.
    pub async fn events_of(&self, id: JobId, all: bool) -> Result<Vec<Event>, Error> {
        let target = url(
            &format!("/v1/files/{id}/events"),
            &[("all", all.then(|| "true".to_owned()))],
        );
        Ok(self.get::<Events>(target).await?.events)
    }

    /// Follows events as they happen, until the agent or the caller ends.
    pub async fn follow(&self, query: &EventsQuery) -> Result<Follow, Error> {
        let q = query.clone();
        let target = url(
            "/v1/events",
            &[
                ("after", q.after.map(|n| n.to_string())),
                ("app", q.app),
                ("name", q.name),
                ("version", q.version),
                ("job", q.job.map(|n| n.to_string())),
            ],
        );
        let request = self
            .http
            .get(target.clone())
            .header("accept", "text/event-stream");
        let answer = request
            .send()
            .await
            .map_err(|e| unreachable(&self.socket, e))?;
        if !answer.status().is_success() {
            return Err(self.problem(&target, answer).await);
        }
        Ok(Follow {
            answer,
            buffer: Vec::new(),
            socket: self.socket.clone(),
        })
    }

    /// Returns the versions on the disk.
    pub async fn releases(&self, app: Option<&str>, name: Option<&str>) -> Result<Releases, Error> {
        let [app, name] = [app, name].map(|text| text.map(str::to_owned));
        self.get(url("/v1/releases", &[("app", app), ("name", name)]))
            .await
    }

    /// Makes a version live, and waits until it is.
    pub async fn activate(&self, key: Key) -> Result<Activated, Error> {
        self.post("/v1/activate", &which(key)).await
    }

    /// Goes back to the previous good version of a name, and waits until it is live.
    pub async fn rollback(&self, name: &WhichName) -> Result<Activated, Error> {
        self.post("/v1/rollback", name).await
    }

    /// Ends a job.
    pub async fn cancel(&self, job: &WhichJob) -> Result<Canceled, Error> {
        self.post("/v1/cancel", job).await
    }

    /// Makes a waiting job due now.
    pub async fn retry(&self, job: &WhichJob) -> Result<Retried, Error> {
        self.post("/v1/retry", job).await
    }

    /// Keeps a version from retention, or gives it back.
    pub async fn pin(&self, pin: &Pin) -> Result<Releases, Error> {
        self.post("/v1/pin", pin).await
    }

    /// Removes a version from the disk.
    pub async fn remove(&self, key: &Key) -> Result<Removed, Error> {
        let target = url(
            "/v1/releases",
            &[
                ("app", Some(key.app.to_string())),
                ("name", Some(key.name.to_string())),
                ("version", Some(key.version.to_string())),
            ],
        );
        self.ask(&target, self.http.delete(target.clone()), Duration::MAX)
            .await
    }

    /// Runs retention now, and waits for its end.
    pub async fn collect(&self) -> Result<Collected, Error> {
        self.work("/v1/gc", &serde_json::json!({})).await
    }

    /// Compares trees with their manifests, and waits for the end.
    pub async fn verify(&self, what: &WhatToVerify) -> Result<Verified, Error> {
        self.work("/v1/verify", what).await
    }

    /// Returns who is told, and callbacks, newest first: those in `state` (`pending`, `delivered`, `dead`), or all.
    pub async fn outbox(&self, state: Option<&str>, limit: Option<u64>) -> Result<Outbox, Error> {
        let state = state.map(str::to_owned);
        let limit = limit.map(|n| n.to_string());
        self.get(url("/v1/outbox", &[("state", state), ("limit", limit)]))
            .await
    }

    /// Sends callbacks that were given up once more.
    pub async fn replay(&self, which: &Replay) -> Result<Replayed, Error> {
        self.post("/v1/outbox/replay", which).await
    }

    async fn get<T: DeserializeOwned>(&self, target: Url) -> Result<T, Error> {
        self.ask(&target, self.http.get(target.clone()), ANSWER)
            .await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let target = url(path, &[]);
        let request = self.http.post(target.clone()).json(body);
        self.ask(&target, request, ANSWER).await
    }

    /// As [`Client::post`], for what takes as long as the trees are big.
    async fn work<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let target = url(path, &[]);
        let request = self.http.post(target.clone()).json(body);
        self.ask(&target, request, Duration::MAX).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        target: &Url,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<T, Error> {
        let answer = self.send(request, patience).await?;
        if !answer.status().is_success() {
            return Err(self.problem(target, answer).await);
        }
        self.read(target, answer).await
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<reqwest::Response, Error> {
        let request = match patience {
            Duration::MAX => request,
            patience => request.timeout(patience),
        };
        request
            .send()
            .await
            .map_err(|e| unreachable(&self.socket, e))
    }

    async fn read<T: DeserializeOwned>(
        &self,
        target: &Url,
        answer: reqwest::Response,
    ) -> Result<T, Error> {
        let text = answer
            .bytes()
            .await
            .map_err(|e| unreachable(&self.socket, e))?;
        serde_json::from_slice(&text).map_err(|e| not_understood(target.path(), e))
    }

    async fn problem(&self, target: &Url, answer: reqwest::Response) -> Error {
        let status = answer.status();
        let problem: Problem = match self.read(target, answer).await {
            Ok(problem) => problem,
            Err(error) => return error,
        };
        match status.as_u16() {
            404 => Error::NotFound(problem.message),
            409 => Error::Conflict(problem.message),
            _ => Error::Other {
                code: problem.code,
                message: problem.message,
            },
        }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Follow {
    answer: reqwest::Response,
    buffer: Vec<u8>,
    socket: PathBuf,
}

impl Follow {
    /// Waits for the next event; none when the agent has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // Every event is one `data:` line; the `id:` is in it as well, and comments keep the line open.
                if let Some(data) = line.strip_prefix(b"data:") {
                    return serde_json::from_slice(data)
                        .map(Some)
                        .map_err(|e| not_understood("/v1/events", e));
                }
            }
            let chunk = self
                .answer
                .chunk()
                .await
                .map_err(|e| unreachable(&self.socket, e))?;
            match chunk {
                Some(chunk) if self.buffer.len() + chunk.len() <= MAX_LINE => {
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(_) => return Err(not_understood("/v1/events", "a line without an end")),
                None => return Ok(None),
            }
        }
    }
}

fn which(key: Key) -> WhichVersion {
    WhichVersion {
        app: key.app,
        name: key.name,
        version: key.version,
    }
}

fn unreachable(socket: &Path, error: reqwest::Error) -> Error {
    Error::Unreachable {
        socket: socket.to_owned(),
        source: error.without_url(),
    }
}

fn not_understood(
    request: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Answer {
        request: request.to_owned(),
        source: source.into(),
    }
}

/// Returns the URL of a path with its query; the host is there for the form only.
fn url(path: &str, query: &[(&str, Option<String>)]) -> Url {
    let mut url = Url::parse("http://edgepush/").expect("a constant URL");
    url.set_path(path);
    for (name, value) in query {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url
}

/// Returns `text` as one segment of a path.
fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
