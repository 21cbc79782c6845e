//! The stream of events (`text/event-stream`), for browsers and the command line.
//!
//! A follower that names the last event it has seen first gets everything after it. One that is too
//! slow for the live stream is served from the table until it has caught up, and misses nothing
//! that is still stored.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::error::ApiError;
use crate::http::Peer;
use crate::job::JobId;
use crate::shown::Event;
use crate::store::{self, Store, events};

/// Most followers at once on each listener.
const FOLLOWERS: usize = 64;
/// Most followers at once from one address.
const PER_ADDRESS: usize = 16;
/// Time between two keep-alive comments on a silent stream.
const PULSE: Duration = Duration::from_secs(15);
/// Events read from the table at once.
const PAGE: u32 = 500;

/// How many followers each client has; those of the unix socket count as one client without an
/// address, and never wait for the others.
#[derive(Debug, Clone, Default)]
pub(super) struct Followers(Arc<Mutex<HashMap<Option<IpAddr>, usize>>>);

/// The place of one follower, until it is dropped.
struct Place {
    client: Option<IpAddr>,
    followers: Followers,
}

impl Followers {
    fn take(&self, peer: Peer) -> Result<Place, ApiError> {
        let client = peer.client();
        let mut counts = self.lock();
        let of_client = counts.get(&client).copied().unwrap_or(0);
        let same_listener = counts
            .iter()
            .filter(|(of, _)| of.is_some() == client.is_some());
        let of_listener: usize = same_listener.map(|(_, count)| count).sum();
        if of_listener >= FOLLOWERS {
            return Err(ApiError::unavailable("too many followers of events"));
        }
        if client.is_some() && of_client >= PER_ADDRESS {
            let why = "too many followers of events from this address";
            return Err(ApiError::too_many(why));
        }
        *counts.entry(client).or_default() += 1;
        let followers = self.clone();
        Ok(Place { client, followers })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.followers.lock();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
        }
        counts.retain(|_, count| *count > 0);
    }
}

/// Which events are followed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<i64>,
    app: Option<String>,
    name: Option<String>,
    version: Option<String>,
    job: Option<JobId>,
}

impl EventsQuery {
    fn wants(&self, row: &Event) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|text| Some(text) == found)
        };
        let key = row.key.as_ref();
        same(&self.app, key.map(|k| k.app.as_str()))
            && same(&self.name, key.map(|k| k.name.as_str()))
            && same(&self.version, key.map(|k| k.version.as_str()))
            && self.job.is_none_or(|job| Some(job) == row.job)
    }
}

/// Follows events.
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let place = api.followers.take(peer)?;
    let live = api.deps.store.subscribe();
    let last_seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok())
        .or(query.after);
    let after = match last_seen {
        Some(id) => id,
        None => newest(&api.deps.store).await?,
    };
    let follower = Follower {
        store: api.deps.store.clone(),
        live,
        after,
        // Events between the last one seen and the subscription are in the table.
        behind: last_seen.is_some(),
        query,
        ready: VecDeque::new(),
        draining: api.draining.clone(),
        _place: place,
    };
    Ok(Sse::new(follower.stream())
        .keep_alive(KeepAlive::new().interval(PULSE))
        .into_response())
}

async fn newest(store: &Store) -> Result<i64, store::Error> {
    let rows = store.read(|reader| events::newest(reader, 1)).await?;
    Ok(rows.last().map_or(0, |row| row.id))
}

struct Follower {
    store: Store,
    live: Receiver<Arc<Event>>,
    after: i64,
    behind: bool,
    query: EventsQuery,
    ready: VecDeque<sse::Event>,
    draining: CancellationToken,
    _place: Place,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.behind {
                self.read_on().await?;
                continue;
            }
            let received = tokio::select! {
                received = self.live.recv() => received,
                () = self.draining.cancelled() => return None,
            };
            match received {
                Ok(row) => self.take(&row),
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Reads the next events from the table. The live stream continues where it ends.
    async fn read_on(&mut self) -> Option<()> {
        let after = self.after;
        let read = self.store.read(move |r| events::since(r, after, PAGE));
        let rows = read.await.ok()?;
        self.behind = rows.len() == PAGE as usize;
        for row in &rows {
            self.take(row);
        }
        Some(())
    }

    fn take(&mut self, row: &Event) {
        // An event from the table may arrive again over the live stream.
        if row.id <= self.after {
            return;
        }
        self.after = row.id;
        if self.query.wants(row) {
            let text = serde_json::to_string(row).unwrap_or_default();
            let event = sse::Event::default().id(row.id.to_string()).data(text);
            self.ready.push_back(event);
        }
    }
}
