//! A file of this host as the source.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::super::Event;
use super::super::error::{Cause, Error};
use super::super::local::Local;
use super::super::phase::Phase;
use super::super::policy::Denied;
use super::{Source, State};

impl Source {
    pub(super) async fn open_local(&mut self, path: PathBuf) -> Result<Option<Event>, Error> {
        self.host = path.display().to_string();
        if !self.request.allow_local {
            return Err(self.error(Denied::local_file().into()));
        }
        self.request.attempts.fetch_add(1, Ordering::Relaxed);
        let (local, found) = Local::open(path, self.position)
            .await
            .map_err(|cause| self.error(cause))?;
        if let Some(expected) = self.request.size
            && expected != found
        {
            return Err(self.error(Cause::WrongLength {
                expected,
                found,
                page: None,
            }));
        }
        self.within_limit(found)?;
        self.total = Some(found);
        self.phase = Phase::Body;
        self.state = State::Local(local);
        Ok(None)
    }

    pub(super) async fn read_local(&mut self) -> Result<Event, Error> {
        let State::Local(local) = &mut self.state else {
            return Err(self.error(Cause::Over));
        };
        let bytes = match local.read().await {
            Ok(bytes) => bytes,
            Err(cause) => return Err(self.error(cause)),
        };
        self.within_limit(self.position + bytes.len() as u64)?;
        self.position += bytes.len() as u64;
        if !bytes.is_empty() {
            return Ok(Event::Bytes(bytes));
        }
        // A file that grows or shrinks while it is read fails the check of its size later.
        self.total = Some(self.position);
        self.state = State::End;
        Ok(Event::End)
    }
}
