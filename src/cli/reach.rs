//! How a command reaches the agent: which socket, and which exit code each failure has.

use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::Global;
use super::exit::{self, Error};
use crate::client::{self, Client};
use crate::config::{self, Listen};

/// Runs the requests of one command.
pub(super) fn ask<T, F>(global: &Global, talk: impl FnOnce(Client) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    block_on(talk(Client::new(&socket(global)?)?))
}

/// Runs a conversation to its end.
pub(super) fn block_on<T>(talk: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(talk)
}

/// Returns the socket of the agent: that of the flag, else the configured one. A user who may use
/// the agent but not read its configuration gets the default socket.
pub(super) fn socket(global: &Global) -> Result<PathBuf, Error> {
    if let Some(socket) = &global.socket {
        return Ok(socket.clone());
    }
    match global.sources().load() {
        Ok(loaded) => Ok(loaded.config.listen.socket),
        Err(config::Error::Read { source, .. })
            if source.kind() == ErrorKind::PermissionDenied && global.config.is_none() =>
        {
            Ok(Listen::default().socket)
        }
        Err(error) => Err(error.into()),
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        let exit = match &error {
            client::Error::Unreachable { .. } => exit::UNREACHABLE,
            client::Error::NotFound(_) => exit::NOT_FOUND,
            client::Error::Conflict(_) => exit::CONFLICT,
            client::Error::Other { .. } | client::Error::Answer { .. } => exit::FAILED,
        };
        Self::new(exit, error)
    }
}
