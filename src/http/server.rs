//! The listeners: accept connections, bound their number, and drain them.
//!
//! One semaphore bounds the connections of a listener; a client beyond that waits in the kernel's
//! backlog. A silent client keeps its connection no longer than the time limit of a request head,
//! and no request in progress is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{self, Settings};
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
    let free = Arc::new(Semaphore::new(settings.connections.max(2)));
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            accepted = accept(&listener, &free) => accepted,
        };
        let router = router.clone().layer(Extension(peer));
        let served = connection::serve(stream, router, settings, drain.clone());
        connections.spawn(async move {
            // A panic ends this connection alone.
            let _ = tasks::guarded("connection", served).await;
            drop(permit);
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

/// Waits for a free slot, then for a connection.
async fn accept<L: Listener>(
    listener: &L,
    free: &Arc<Semaphore>,
) -> (L::Stream, Peer, OwnedSemaphorePermit) {
    let permit = Arc::clone(free).acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    loop {
        match listener.next().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                warn!(event = "accept_failed", %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
