//! The way from a command to the agent: which socket, how to wait, and what each failure means for the exit code.

use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::Global;
use super::exit::{self, Error};
use crate::api::client::{self, Client};
use crate::config::{self, Listen};

/// Runs one command's conversation with the agent to its end.
pub(super) fn ask<T, F>(global: &Global, talk: impl FnOnce(Client) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let client = Client::new(&socket(global)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(talk(client))
}

/// Returns the socket of the agent: the flag's, else the configured one. Who may use the agent may not be the one who
/// may read its configuration; then the usual socket is the best guess.
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
