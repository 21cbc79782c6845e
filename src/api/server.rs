//! The listeners: accepts connections, bounds their number, and lets them end in peace.
//!
//! When all places are taken, the connection that has been idle longest makes room. So a crowd of silent clients never
//! keeps a good one out, and what is at work is never cut.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{self, Patience, Phase};

/// How long the requests at work may take once the listener has been told to end.
const GRACE: Duration = Duration::from_secs(8);
/// How long to wait before accepting again after the system refused, for want of file descriptors mostly.
const BREATH: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Someone who may open the unix socket, with their user id where the system tells.
    Local(Option<u32>),
    /// An address.
    Address(SocketAddr),
}

impl Peer {
    /// Tells whether the other end has come through the unix socket.
    pub(super) fn is_local(self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Returns who asks, for the timeline and the audit log.
    pub(super) fn actor(self) -> String {
        match self {
            Self::Local(Some(uid)) => format!("operator (uid {uid})"),
            Self::Local(None) => "operator".to_owned(),
            Self::Address(address) => address.ip().to_string(),
        }
    }

    /// Tells whether the other end is on this machine.
    pub(super) fn is_on_this_machine(self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Address(address) => address.ip().to_canonical().is_loopback(),
        }
    }
}

/// What accepts connections: a TCP or a unix socket.
pub(super) trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Waits for the next connection.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        // Answers are written in one piece; waiting for more only delays them.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::Address(address)))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        Ok((stream, Peer::Local(uid)))
    }
}

/// Accepts connections until `drain`, then waits for the requests at work.
pub(super) async fn run<L: Listener>(
    listener: L,
    router: Router,
    places: usize,
    patience: Patience,
    drain: CancellationToken,
) {
    let places = Places::new(places);
    let mut connections = JoinSet::new();
    while let Some((stream, peer, place)) = next(&listener, &places, &drain).await {
        let serve = connection::serve(
            stream,
            router.clone().layer(Extension(peer)),
            patience,
            Arc::clone(&place.entry.phase),
            place.entry.evicted.clone(),
            drain.clone(),
        );
        connections.spawn(async move {
            serve.await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        warn!(
            event = "connections_cut",
            left = connections.len(),
            "requests outlived the drain"
        );
        connections.shutdown().await;
    }
}

async fn next<L: Listener>(
    listener: &L,
    places: &Places,
    drain: &CancellationToken,
) -> Option<(L::Stream, Peer, Place)> {
    let connect = async {
        loop {
            let place = places.take().await;
            match listener.next().await {
                Ok((stream, peer)) => return (stream, peer, place),
                Err(error) => {
                    warn!(event = "accept_failed", %error, "cannot accept a connection");
                    places.make_room(0);
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = drain.cancelled() => None,
        connected = connect => Some(connected),
    }
}

/// The places for connections, and who sits on them, in order of arrival.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    /// So many are kept free where idle connections can make room, so that a crowd is let in without waiting for each.
    reserve: usize,
    taken: Arc<Mutex<BTreeMap<u64, Arc<Entry>>>>,
}

struct Entry {
    phase: Arc<Phase>,
    evicted: CancellationToken,
}

/// A place that is given back when it is dropped.
struct Place {
    entry: Arc<Entry>,
    number: u64,
    places: Places,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new(count: usize) -> Self {
        let count = count.max(2);
        Self {
            free: Arc::new(Semaphore::new(count)),
            reserve: (count / 16).max(1),
            taken: Arc::default(),
        }
    }

    /// Waits for a free place, making room if there is none.
    async fn take(&self) -> Place {
        loop {
            let permit = Arc::clone(&self.free).acquire_owned();
            self.make_room(self.free.available_permits());
            // Whoever was idle a moment ago may be busy now, and the other way round: look again soon.
            if let Ok(Ok(permit)) = tokio::time::timeout(BREATH, permit).await {
                return self.sit(permit);
            }
        }
    }

    fn sit(&self, permit: OwnedSemaphorePermit) -> Place {
        let entry = Arc::new(Entry {
            phase: Arc::default(),
            evicted: CancellationToken::new(),
        });
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.last_key_value().map_or(0, |(last, _)| last + 1);
        taken.insert(number, Arc::clone(&entry));
        drop(taken);
        Place {
            entry,
            number,
            places: self.clone(),
            _permit: permit,
        }
    }

    /// Tells the longest idle connections to go until, with those that are going already, the reserve is `free` again.
    fn make_room(&self, free: usize) {
        if free >= self.reserve {
            return;
        }
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let going = taken.values().filter(|e| e.evicted.is_cancelled()).count();
        taken
            .values()
            .filter(|entry| entry.phase.is_idle() && !entry.evicted.is_cancelled())
            .take(self.reserve.saturating_sub(free + going))
            .for_each(|entry| entry.evicted.cancel());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
