//! The status page: one document that loads nothing from other hosts.

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("page.html");

/// Nothing is loaded from other hosts, and nobody may frame the page. Script and style are inline,
/// hence `unsafe-inline`; names and messages enter the document as text only.
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
