//! A file of this host as a source, for push documents of its operator.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::Cause;
use crate::sys::durable::at;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// An open file, or a read of it in progress on a blocking thread.
pub(super) struct Local {
    path: PathBuf,
    state: State,
}

enum State {
    Open(File),
    Reading(JoinHandle<(File, io::Result<Bytes>)>),
    Lost,
}

impl Local {
    /// Opens `path` at `offset`; also returns the length of the file.
    pub(super) async fn open(path: PathBuf, offset: u64) -> Result<(Self, u64), Cause> {
        let opening = tokio::task::spawn_blocking(move || {
            open(&path, offset).map(|(file, length)| {
                let state = State::Open(file);
                (Self { path, state }, length)
            })
        });
        opening.await.unwrap_or_else(|e| {
            let source = io::Error::other(e.to_string());
            Err(Cause::Local(at("open", Path::new(""))(source)))
        })
    }

    /// Returns the next bytes, none at the end. May be dropped and called again.
    pub(super) async fn read(&mut self) -> Result<Bytes, Cause> {
        if let State::Open(_) = self.state
            && let State::Open(file) = std::mem::replace(&mut self.state, State::Lost)
        {
            self.state = State::Reading(tokio::task::spawn_blocking(move || read(file)));
        }
        let result = match &mut self.state {
            State::Reading(reading) => match reading.await {
                Ok((file, result)) => {
                    self.state = State::Open(file);
                    result
                }
                Err(e) => {
                    self.state = State::Lost;
                    Err(io::Error::other(e.to_string()))
                }
            },
            State::Open(_) | State::Lost => Err(io::Error::other("file is not open")),
        };
        result.map_err(|e| Cause::Local(at("read", &self.path)(e)))
    }
}

fn open(path: &Path, offset: u64) -> Result<(File, u64), Cause> {
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| Cause::Local(at("open", path)(source));
    let no_wait = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = File::options()
        .read(true)
        // A named pipe would otherwise block the thread until someone writes.
        .custom_flags(no_wait)
        .open(path)
        .map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(Cause::NotAFile {
            path: path.display().to_string(),
        });
    }
    file.seek(SeekFrom::Start(offset)).map_err(fail)?;
    Ok((file, meta.len()))
}

fn read(mut file: File) -> (File, io::Result<Bytes>) {
    let mut buffer = Vec::with_capacity(PIECE);
    let result = (&mut file)
        .take(PIECE as u64)
        .read_to_end(&mut buffer)
        .map(|_| buffer.into());
    (file, result)
}
