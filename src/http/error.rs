//! Errors as HTTP responses: a status, a stable code, and a sentence.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::body::BodyError;
use crate::sys::Chain;

/// The body of an answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name for programs: `bad-request`, `not-found`, `conflict`, `forbidden`,
    /// `unavailable` or `internal`.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
}

/// Why a request cannot be answered as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
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
    pub fn bad_request(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// It does not exist.
    pub fn not_found(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// The path exists, but does not take this method.
    pub fn method_not_allowed(message: impl ToString) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "bad-request", message)
    }

    /// The current state forbids it.
    pub fn conflict(message: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// The client may not do or see this.
    pub fn forbidden(message: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Draining, overloaded, or not ready yet.
    pub fn unavailable(message: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// One client has more than its share.
    pub fn too_many(message: impl ToString) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "unavailable", message)
    }

    /// A failure on this side; the cause is logged.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let chain = Chain(error);
        tracing::error!(event = "request_failed", error = %chain, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", chain)
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken => StatusCode::BAD_REQUEST,
            BodyError::Busy => return Self::unavailable(error),
        };
        Self::new(status, "bad-request", error)
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

/// Makes a JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_string(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
