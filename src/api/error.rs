//! Errors of the store, over HTTP.

use crate::store;
use crate::sys::Chain;

pub(super) use crate::http::{ApiError, json};

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        if error.is_unavailable() {
            Self::unavailable(Chain(&error))
        } else {
            Self::internal(&error)
        }
    }
}
