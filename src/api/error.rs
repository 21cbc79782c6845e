//! What errors of the store and of the agent are over HTTP.

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
