//! The endpoint's HTTP answers: the contract's bodies with their headers.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::wire::envelope::{self, CONTENT_TYPE};
use crate::wire::errors::{Code, Refusal};

/// Returns a new request id: an upper-case UUID.
pub(super) fn request_id() -> String {
    let mut buffer = uuid::Uuid::encode_buffer();
    uuid::Uuid::new_v4()
        .hyphenated()
        .encode_upper(&mut buffer)
        .to_owned()
}

/// Makes an answer with a body of the contract.
pub(super) fn answer<B>(status: StatusCode, request_id: &str, body: B) -> hyper::Response<B> {
    let mut answer = hyper::Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-acs-request-id", id);
    }
    answer
}

/// Makes the answer to a call that is refused.
pub(super) fn error(refusal: &Refusal, request_id: &str, host: &str) -> Response {
    error_text(refusal, request_id, host).map(Body::from)
}

fn error_text(refusal: &Refusal, request_id: &str, host: &str) -> hyper::Response<String> {
    let status =
        StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = envelope::error_answer(request_id, host, refusal);
    answer(status, request_id, body)
}

/// Makes the answer to a request that is refused before it is a call.
#[must_use]
pub fn refused(refusal: &Refusal, headers: &HeaderMap) -> Response {
    error(refusal, &request_id(), host(headers))
}

/// Makes the answer to a request that is no HTTP, or too long for a head: see
/// [`crate::http::Unreadable`].
#[must_use]
pub fn unreadable(status: StatusCode) -> hyper::Response<String> {
    let code = match status {
        StatusCode::URI_TOO_LONG => Code::UriTooLong,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Code::HeadTooLarge,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::BadRequest,
    };
    error_text(&code.into(), &request_id(), "")
}

/// Answers a path where there is nothing.
pub async fn not_found(headers: HeaderMap) -> Response {
    refused(&Code::ActionNotFound.into(), &headers)
}

pub(super) fn host(headers: &HeaderMap) -> &str {
    headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_answered_so_that_the_vendors_clients_can_read_it() {
        for (status, code) in [
            (StatusCode::URI_TOO_LONG, "RequestUriTooLong"),
            (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "RequestHeadTooLarge",
            ),
            (StatusCode::BAD_REQUEST, "BadRequest"),
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        ] {
            let answer = unreadable(status);
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["content-type"], CONTENT_TYPE);
            let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
            assert_eq!(body["Code"], code);
            assert_eq!(body["RequestId"].as_str().unwrap().len(), 36);
            assert!(!body["Message"].as_str().unwrap().is_empty());
        }
    }
}
