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
    self, Activated, Canceled, Collected, Events, NodeStatus, Outbox, Pin, Push, Pushed, Readiness,
    Releases, Removed, Replay, Replayed, Retried, Verified, WhatToVerify, WhichJob, WhichName,
    WhichVersion,
};
use crate::shown::{Event, File, Files};

/// Time limit for a connection to the agent.
const CONNECT: Duration = Duration::from_secs(5);
/// Time limit for a response that needs no work on trees.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest line of an event stream, in bytes.
const MAX_LINE: usize = 4 << 20;

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the socket.
    #[error("cannot reach the agent at `{}`", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: reqwest::Error,
    },
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 409: it conflicts with the present state.
    #[error("{0}")]
    Conflict(String),
    /// The agent refused or failed.
    #[error("{message} ({code})")]
    Other { code: String, message: String },
    /// The response cannot be parsed.
    #[error("cannot parse the agent's answer to `{request}`")]
    Answer {
        /// The path of the request.
        request: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Which files a list shows. Absent fields do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesQuery {
    pub app: Option<String>,
    pub name: Option<String>,
    pub version: Option<String>,
    /// One state, or several separated by commas.
    pub state: Option<String>,
    pub limit: Option<u64>,
    /// How many to skip.
    pub offset: Option<u64>,
    /// Newest first, instead of in the order of first pushes.
    pub newest: bool,
}

/// Which events are followed. Absent fields do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsQuery {
    /// Starts after this event; absent means from now on.
    pub after: Option<i64>,
    pub app: Option<String>,
    pub name: Option<String>,
    pub version: Option<String>,
    pub job: Option<JobId>,
}

/// A client of the agent.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// Makes a client of the agent at `socket`. It connects at the first request.
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

    /// Returns the state of the node.
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        self.get(url("/v1/status", &[])).await
    }

    /// Returns whether the node accepts pushes, and why not.
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

    /// Returns the jobs of a push.
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

    /// Returns every stored job of a job's file, oldest first.
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

    /// Follows events until the agent or the caller stops.
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

    /// Returns the versions on the disk, however many: the agent answers with a page at a time.
    pub async fn releases(&self, app: Option<&str>, name: Option<&str>) -> Result<Releases, Error> {
        let [app, name] = [app, name].map(|text| text.map(str::to_owned));
        let mut all = Releases {
            releases: Vec::new(),
        };
        loop {
            let offset = Some(all.releases.len()).filter(|n| *n > 0);
            let offset = offset.map(|n| n.to_string());
            let query = [
                ("app", app.clone()),
                ("name", name.clone()),
                ("offset", offset),
            ];
            let page: Releases = self.get(url("/v1/releases", &query)).await?;
            let last = page.releases.len() < model::MOST_LISTED;
            all.releases.extend(page.releases);
            if last {
                return Ok(all);
            }
        }
    }

    /// Makes a version live, and waits until it is.
    pub async fn activate(&self, key: Key) -> Result<Activated, Error> {
        self.post("/v1/activate", &which(key)).await
    }

    /// Makes the previous good version of a name live, and waits until it is.
    pub async fn rollback(&self, name: &WhichName) -> Result<Activated, Error> {
        self.post("/v1/rollback", name).await
    }

    /// Cancels a job.
    pub async fn cancel(&self, job: &WhichJob) -> Result<Canceled, Error> {
        self.post("/v1/cancel", job).await
    }

    /// Starts the next attempt of a waiting job now.
    pub async fn retry(&self, job: &WhichJob) -> Result<Retried, Error> {
        self.post("/v1/retry", job).await
    }

    /// Pins or unpins a version.
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

    /// Applies retention, and waits for the end.
    pub async fn collect(&self) -> Result<Collected, Error> {
        self.work("/v1/gc", &serde_json::json!({})).await
    }

    /// Compares trees with their manifests, and waits for the end.
    pub async fn verify(&self, what: &WhatToVerify) -> Result<Verified, Error> {
        self.work("/v1/verify", what).await
    }

    /// Returns endpoints and callbacks, newest first: those in `state` (`pending`, `delivered`,
    /// `dead`), or all.
    pub async fn outbox(&self, state: Option<&str>, limit: Option<u64>) -> Result<Outbox, Error> {
        let state = state.map(str::to_owned);
        let limit = limit.map(|n| n.to_string());
        self.get(url("/v1/outbox", &[("state", state), ("limit", limit)]))
            .await
    }

    /// Sends callbacks again that were given up.
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

    /// As [`Client::post`], without a time limit, since reading large trees takes long.
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
    /// Waits for the next event. None when the agent has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // Every event is one `data:` line, which includes its id. Comments are keep-alives.
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

/// Returns the URL of a path with its query. Its host is never resolved.
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

/// Returns `text` encoded as one path segment.
fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
