//! The sockets of the agent: those of the service manager, or those of the configuration.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::{TcpListener, UnixListener};

use super::Error;
use crate::api;
use crate::config::Config;
use crate::sys::durable;
use crate::sys::systemd::{self, Socket};

/// Takes the sockets of the service manager. Only once, and before there are threads: they are
/// named in the environment.
pub(super) fn inherited() -> Result<Vec<Socket>, Error> {
    systemd::take_listeners().map_err(at("a socket of the service manager"))
}

/// Returns the listeners: of the sockets that were inherited, else of the configuration.
pub(super) async fn listen(
    config: &Config,
    inherited: Vec<Socket>,
) -> Result<api::Listeners, Error> {
    let mut listeners = api::Listeners {
        tcp: None,
        unix: None,
    };
    for socket in inherited {
        match socket {
            Socket::Tcp(tcp) => {
                let opened = tcp
                    .set_nonblocking(true)
                    .and_then(|()| TcpListener::from_std(tcp));
                listeners.tcp = Some(opened.map_err(at("the inherited TCP socket"))?);
            }
            Socket::Unix(unix) => {
                let opened = unix
                    .set_nonblocking(true)
                    .and_then(|()| UnixListener::from_std(unix));
                listeners.unix = Some(opened.map_err(at("the inherited unix socket"))?);
            }
        }
    }
    if listeners.tcp.is_none()
        && let Some(address) = config.listen.http
    {
        listeners.tcp = Some(
            TcpListener::bind(address)
                .await
                .map_err(at(&address.to_string()))?,
        );
    }
    if listeners.unix.is_none() {
        listeners.unix = Some(bind_unix(&config.listen.socket)?);
    }
    Ok(listeners)
}

fn at(address: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Listen {
        address: address.to_owned(),
        source,
    }
}

/// Opens the socket of the native API. A stale socket file is replaced: the lock on the data
/// directory proves that no other agent runs here.
fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let shown = path.display().to_string();
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        durable::create_dir_all(parent)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let taken = std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another process listens there",
        );
        return Err(at(&shown)(taken));
    }
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(durable::at("remove", path))?;
    }
    let listener = UnixListener::bind(path).map_err(at(&shown))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(durable::at("set mode of", path))?;
    Ok(listener)
}
