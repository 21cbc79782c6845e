//! What was sent to a peer and must not be shown, in messages about its answers.
//!
//! An error page may repeat the request in any spelling, so text is not searched and cut: once a request
//! has carried a secret, nothing the peer says in free text is shown. Host names are the exception,
//! since a failure without one is of no use; those with a known secret in them are hidden.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::header::HeaderMap;
use url::Url;

use crate::datafile::shorten;

/// Shorter values are not secrets: every text contains a `1`.
const SHORTEST: usize = 4;

/// The secrets that were sent, as they were sent and percent-decoded, in lower case.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds the secrets of a URL: user information, also as it is sent, and the values of its query.
    pub(super) fn add(&mut self, url: &Url) {
        self.note(url.username());
        self.note(url.password().unwrap_or(""));
        for pair in url.query().unwrap_or("").split('&') {
            self.note(pair.split_once('=').map_or(pair, |(_, value)| value));
        }
        if let Some(credentials) = basic(url) {
            self.note(&credentials);
        }
    }

    /// Adds the values of headers, without the scheme of credentials.
    pub(super) fn add_headers(&mut self, headers: &HeaderMap) {
        for value in headers.values() {
            let value = String::from_utf8_lossy(value.as_bytes());
            match value.split_once(' ') {
                Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphabetic()) => {
                    self.note(rest);
                }
                _ => self.note(&value),
            }
        }
    }

    fn note(&mut self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        let decoded = percent_decode_str(secret).decode_utf8_lossy();
        for form in [secret.to_lowercase(), decoded.to_lowercase()] {
            if !self.0.contains(&form) {
                self.0.push(form);
            }
        }
    }

    /// Returns whether any secret was sent.
    pub(super) fn were_sent(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns whether `text` contains a secret in a form known here.
    pub(super) fn are_in(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        self.0.iter().any(|secret| lower.contains(secret.as_str()))
    }

    /// Returns the beginning of what a peer said, or only `…` if a secret was sent.
    pub(super) fn show(&self, text: &str) -> String {
        match self.were_sent() {
            true => "…".to_owned(),
            false => shorten(text),
        }
    }
}

/// Returns the credentials that are sent for the user information of a URL, without their scheme.
pub(super) fn basic(url: &Url) -> Option<String> {
    if !crate::dial::has_credentials(url) {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or("")));
    Some(STANDARD.encode(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_was_sent_in_its_usual_forms() {
        let mut secrets = Secrets::default();
        assert!(!secrets.were_sent());
        assert_eq!(secrets.show("free text"), "free text");
        let url = "https://user:PWSECRET@h/p?e=1&Signature=TOP%2FSECRET%2BSIG%3D&n=3600";
        secrets.add(&Url::parse(url).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer HDRTOKEN-abc".parse().unwrap());
        secrets.add_headers(&headers);
        for text in [
            "TOP%2FSECRET%2BSIG%3D",
            "a top/secret+sig= b",
            "pwsecret.example",
            "hdrtoken-abc",
            "dXNlcjpQV1NFQ1JFVA==",
        ] {
            assert!(secrets.are_in(text), "{text}");
        }
        assert!(!secrets.are_in("cdn.example:443"));
        assert_eq!(secrets.show("free text"), "…");
    }

    #[test]
    fn a_url_without_values_carries_no_secret() {
        let mut secrets = Secrets::default();
        secrets.add(&Url::parse("https://h/p/a.zip?v=1").unwrap());
        assert!(!secrets.were_sent());
    }
}
