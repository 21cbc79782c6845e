//! What errors of the store and of the agent are over HTTP.

use super::command::Denied;
use crate::store;
use crate::sys::Chain;

pub(super) use crate::http::{ApiError, json};

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match error.is_unavailable() {
            true => Self::unavailable(Chain(&error)),
            false => Self::internal(&error),
        }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match &denied {
            Denied::NotFound(_) => Self::not_found(&denied),
            Denied::Conflict(_) => Self::conflict(&denied),
            Denied::Failed(_) => Self::internal(&denied),
        }
    }
}
