//! What an answer looks like, to explain bytes that are not the file: an error page, a login page of a network, the
//! text that comes with a status.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};

use super::redact::Secrets;
use crate::datafile::shorten;

/// So much of a page is kept to explain it.
const KEPT: usize = 1024;
/// So much of it is shown.
const SHOWN: usize = 160;

/// What a whole answer looks like, to explain bytes that are not the file.
#[derive(Default)]
pub(super) struct Looks {
    content_type: Option<String>,
    beginning: Vec<u8>,
}

impl Looks {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            content_type: Some(header(headers, CONTENT_TYPE)).filter(|t| !t.is_empty()),
            beginning: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.beginning.len());
        self.beginning
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Tells whether more would not be kept.
    pub(super) fn is_full(&self) -> bool {
        self.beginning.len() >= KEPT
    }

    /// Returns how many bytes are kept.
    pub(super) fn kept(&self) -> u64 {
        self.beginning.len() as u64
    }

    fn is_page(&self) -> bool {
        let kind = self
            .content_type
            .as_deref()
            .unwrap_or("")
            .to_ascii_lowercase();
        let told = ["text/", "html", "json", "xml"]
            .iter()
            .any(|k| kind.contains(k));
        let first = self.beginning.iter().find(|b| !b.is_ascii_whitespace());
        let shown = matches!(first, Some(b'<' | b'{')) && !self.beginning.contains(&0);
        told || shown
    }

    pub(super) fn describe(&self, secrets: &Secrets) -> Option<String> {
        if !self.is_page() {
            return None;
        }
        let kind = match &self.content_type {
            Some(kind) => format!("content type `{}`", secrets.hide(kind)),
            None => "no content type".to_owned(),
        };
        Some(match self.text(secrets) {
            Some(text) => format!("{kind}, {text}"),
            None => kind,
        })
    }

    /// Returns the beginning where it is text. Secrets go before it is cut: half of one is still too much.
    pub(super) fn text(&self, secrets: &Secrets) -> Option<String> {
        let text = String::from_utf8_lossy(&self.beginning);
        // What was kept may end in the middle of a character.
        let text = text.trim_end_matches('\u{fffd}');
        let clean = secrets.hide(text);
        let words: Vec<&str> = clean.split_whitespace().collect();
        let line: String = words
            .join(" ")
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        let is_text = !line.is_empty() && !line.contains('\u{fffd}');
        let shown: String = line.chars().take(SHOWN).collect();
        let more = if shown.len() < line.len() { "…" } else { "" };
        is_text.then(|| format!("body starts with `{shown}{more}`"))
    }
}

/// Returns a header as a short text that can be shown once it is cleaned.
pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> String {
    let value = headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    shorten(value)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn tells_a_page_from_an_archive() {
        let describe = |kind: Option<&str>, body: &[u8]| {
            let mut looks = Looks {
                content_type: kind.map(str::to_owned),
                ..Looks::default()
            };
            looks.note(body);
            let mut secrets = Secrets::default();
            secrets.add(&Url::parse("http://h/?sign=SECRET").unwrap());
            looks.describe(&secrets)
        };
        assert_eq!(
            describe(Some("text/html"), b"<html>\n sign=SECRET"),
            Some("content type `text/html`, body starts with `<html> …`".to_owned())
        );
        assert_eq!(
            describe(None, b" {\"error\": 1}"),
            Some("no content type, body starts with `{\"error\": 1}`".to_owned())
        );
        assert_eq!(
            describe(Some("application/octet-stream"), b"PK\x03\x04"),
            None
        );
        assert_eq!(
            describe(Some("text/plain"), &[0x1f, 0x8b, 0xff]),
            Some("content type `text/plain`".to_owned())
        );
    }
}
