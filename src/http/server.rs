//! The listeners: accept connections, bound their number, and drain them.
//!
//! Each listener has its own places: see [`places`](super::places). A silent client keeps its
//! connection no longer than the time limit of a request head.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{self, Settings};
use super::places::Places;
use crate::sys::tasks;

/// Time limit for the requests in progress once the listener is drained.
const GRACE: Duration = Duration::from_secs(8);
/// Pause before accepting again after the system refused, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The client of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A client of the unix socket, with its user id where the system knows it.
    Local(Option<u32>),
    /// A client over TCP.
    Address(SocketAddr),
}

impl Peer {
    /// Returns whether the client came through the unix socket.
    #[must_use]
    pub fn is_local(self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Returns the client as timeline and audit log show it.
    #[must_use]
    pub fn actor(self) -> String {
        match self {
            Self::Local(Some(uid)) => format!("operator (uid {uid})"),
            Self::Local(None) => "operator".to_owned(),
            Self::Address(address) => address.ip().to_string(),
        }
    }

    /// Returns what counts as one client: an IPv4 address, or the network that an IPv6 host can choose
    /// its address from. `None` for the unix socket.
    #[must_use]
    pub fn client(self) -> Option<IpAddr> {
        match self {
            Self::Local(_) => None,
            Self::Address(address) => Some(match address.ip().to_canonical() {
                IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
                v4 @ IpAddr::V4(_) => v4,
            }),
        }
    }

    /// Returns whether the client is on this machine.
    #[must_use]
    pub fn is_on_this_machine(self) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Address(address) => address.ip().to_canonical().is_loopback(),
        }
    }
}

/// A listening TCP or unix socket.
pub trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Waits for the next connection.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        // A response is written in one piece; waiting for more to send only delays it.
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

/// Accepts connections until `drain`, then waits for the requests in progress.
pub async fn serve<L: Listener>(
    listener: L,
    router: Router,
    settings: Settings,
    drain: CancellationToken,
) {
    let places = Places::new(settings.connections, settings.bodies.clone());
    let mut connections = JoinSet::new();
    for id in 0.. {
        let accepted = async {
            let (stream, peer) = accept(&listener).await;
            (stream, peer, Arc::new(places.take(id, peer.client()).await))
        };
        let (stream, peer, place) = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            accepted = accepted => accepted,
        };
        let bodies = settings.bodies.clone().of(peer.client());
        let router = router
            .clone()
            .layer(Extension(peer))
            .layer(Extension(bodies));
        let mine = Arc::clone(&place);
        let served = connection::serve(stream, router, settings.clone(), mine, drain.clone());
        connections.spawn(async move {
            tokio::select! {
                // A panic ends this connection alone.
                _ = tasks::guarded("connection", served) => {}
                () = place.lost() => {}
            }
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

/// Waits for a connection.
async fn accept<L: Listener>(listener: &L) -> (L::Stream, Peer) {
    loop {
        match listener.next().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(event = "accept_failed", %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
