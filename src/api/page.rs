//! The status page: one document without anything from elsewhere, for a person with a browser on the node.

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("page.html");

/// Nothing is loaded from elsewhere and nobody may frame it. The page has its script and style in it, hence `unsafe-inline`;
/// it puts names and messages into the document as text only.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Sends the page.
pub(super) async fn status() -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_writes_text_only() {
        for banned in [
            "http://",
            "https://",
            "//cdn",
            "src=",
            "innerHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!PAGE.contains(banned), "{banned}");
        }
    }
}
