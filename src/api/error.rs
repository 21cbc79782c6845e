//! The one place where errors become HTTP: in the contract's shape at the ENS endpoint, in ours at the native API.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::command::Denied;
use super::model::Problem;
use crate::store;
use crate::sys::Chain;
use crate::wire::envelope::{self, CONTENT_TYPE};
use crate::wire::errors::{Code, Refusal};

/// A fresh request id: an upper-case UUID.
pub(super) fn request_id() -> String {
    let mut buffer = uuid::Uuid::encode_buffer();
    uuid::Uuid::new_v4()
        .hyphenated()
        .encode_upper(&mut buffer)
        .to_owned()
}

/// Makes an answer of the ENS endpoint.
pub(super) fn ens_answer(status: StatusCode, request_id: &str, body: String) -> Response {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-acs-request-id", id);
    }
    answer
}

/// Makes the ENS endpoint's answer to a call that is refused.
pub(super) fn ens_error(refusal: &Refusal, request_id: &str, host: &str) -> Response {
    let status =
        StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ens_answer(
        status,
        request_id,
        envelope::error_answer(request_id, host, refusal),
    )
}

/// Turns an error of the store into a refusal; the cause goes to the log.
pub(super) fn unavailable(error: &store::Error) -> Refusal {
    tracing::error!(event = "store_error", error = %Chain(error), "a call could not be answered");
    match error.is_unavailable() {
        true => Code::Unavailable.into(),
        false => Code::Internal.into(),
    }
}

/// Writes out the whole answer to a request that could not be read at all.
pub(super) fn raw_answer(code: Code) -> Vec<u8> {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let id = request_id();
    let body = envelope::error_answer(&id, "", &code.into());
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\nx-acs-request-id: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What the native API says when it cannot do what is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl ToString) -> Self {
        Self {
            status,
            code,
            message: message.to_string(),
        }
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// There is no such thing.
    pub(super) fn not_found(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// There is such a path, but not by this method.
    pub(super) fn method_not_allowed(message: impl ToString) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "bad-request", message)
    }

    /// It cannot be done as things stand.
    pub(super) fn conflict(message: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// The asker may not know this.
    pub(super) fn forbidden(message: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Draining, overloaded, or not ready yet.
    pub(super) fn unavailable(message: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// Something is wrong on this side; the cause goes to the log.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let chain = Chain(error);
        tracing::error!(event = "request_failed", error = %chain, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", chain)
    }
}

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

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, "bad-request", refusal.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            code: self.code.to_owned(),
            message: self.message,
        };
        json(self.status, &problem)
    }
}

/// Makes an answer of the native API.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_string(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
