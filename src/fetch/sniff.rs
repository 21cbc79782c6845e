//! Body sniffing: recognises an error page, a login page of a network, or the text of an error status,
//! to explain bytes that are not the file.

use reqwest::header::{CONTENT_TYPE, HeaderMap};

use super::secrets::Secrets;

/// Bytes of a body that are kept to explain it.
const KEPT: usize = 1024;
/// Characters of it that are shown.
const SHOWN: usize = 160;
/// Content types that are shown even if the request carried a secret.
const PAGES: [&str; 6] = [
    "application/json",
    "application/xml",
    "text/html",
    "text/javascript",
    "text/plain",
    "text/xml",
];

/// A body that looks like a page in place of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its content type, which anyone may be told.
    pub kind: String,
    /// Its beginning. Only for the operator of this node: a push may name a service that only this
    /// node can reach, and its sender must not read that service's response.
    pub text: Option<String>,
}

/// The beginning of a body, and its content type.
#[derive(Default)]
pub(super) struct Sniff {
    content_type: Option<String>,
    beginning: Vec<u8>,
}

impl Sniff {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        Self {
            content_type: content_type
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
            beginning: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, bytes: &[u8]) {
        let left = KEPT.saturating_sub(self.beginning.len());
        self.beginning
            .extend_from_slice(&bytes[..bytes.len().min(left)]);
    }

    /// Returns whether more would not be kept.
    pub(super) fn is_full(&self) -> bool {
        self.beginning.len() >= KEPT
    }

    /// Returns how many bytes are kept.
    pub(super) fn kept(&self) -> u64 {
        self.beginning.len() as u64
    }

    fn is_page(&self) -> bool {
        let kind = self.content_type.as_deref().unwrap_or("");
        let kind = kind.to_ascii_lowercase();
        let declared = ["text/", "html", "json", "xml"]
            .iter()
            .any(|k| kind.contains(k));
        let first = self.beginning.iter().find(|b| !b.is_ascii_whitespace());
        let looks_so = matches!(first, Some(b'<' | b'{')) && !self.beginning.contains(&0);
        declared || looks_so
    }

    /// Describes the body if it looks like a page, without anything that may repeat a secret.
    pub(super) fn describe(&self, secrets: &Secrets) -> Option<Page> {
        self.is_page().then(|| Page {
            kind: self.kind(secrets),
            text: self.text(secrets),
        })
    }

    fn kind(&self, secrets: &Secrets) -> String {
        let Some(kind) = self.content_type.as_deref() else {
            return "no content type".to_owned();
        };
        let essence = kind.split(';').next().unwrap_or("").trim();
        let shown = match PAGES.iter().find(|p| essence.eq_ignore_ascii_case(p)) {
            Some(page) if secrets.were_sent() => (*page).to_owned(),
            _ => secrets.show(kind),
        };
        format!("content type `{shown}`")
    }

    /// Returns the beginning if it is text. If the request carried a secret, that may be repeated in it:
    /// then only the code of an object store's error document is shown.
    pub(super) fn text(&self, secrets: &Secrets) -> Option<String> {
        let text = String::from_utf8_lossy(&self.beginning);
        // The kept bytes may end in the middle of a character.
        let text = text.trim_end_matches('\u{fffd}');
        if secrets.were_sent() {
            let code = error_code(text).filter(|code| !secrets.are_in(code))?;
            return Some(format!("code `{code}`"));
        }
        let line = one_line(text);
        let is_text = !line.is_empty() && !line.contains('\u{fffd}');
        is_text.then(|| format!("body starts with `{}`", cut(&line)))
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    line.chars().filter(|c| !c.is_control()).collect()
}

fn cut(line: &str) -> String {
    let shown: String = line.chars().take(SHOWN).collect();
    let more = if shown.len() < line.len() { "…" } else { "" };
    format!("{shown}{more}")
}

/// Returns the content of the element `Code`, if it is one word such as `AccessDenied`.
fn error_code(text: &str) -> Option<&str> {
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    let allowed = |b: u8| b.is_ascii_alphabetic() || b == b'.';
    let is_word = !code.is_empty() && code.len() <= 64 && code.bytes().all(allowed);
    is_word.then_some(code)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn describe(kind: Option<&str>, body: &[u8], url: &str) -> Option<String> {
        let mut sniff = Sniff {
            content_type: kind.map(str::to_owned),
            ..Sniff::default()
        };
        sniff.note(body);
        let mut secrets = Secrets::default();
        secrets.add(&Url::parse(url).unwrap());
        let page = sniff.describe(&secrets)?;
        let text = page.text.map(|text| format!(", {text}"));
        Some(page.kind + &text.unwrap_or_default())
    }

    #[test]
    fn distinguishes_a_page_from_an_archive() {
        let described = |kind, body| describe(kind, body, "http://h/f");
        let page = described(Some("text/html"), b"<html>\n Log in");
        assert_eq!(
            page.as_deref(),
            Some("content type `text/html`, body starts with `<html> Log in`")
        );
        let page = described(None, b" {\"error\": 1}");
        assert_eq!(
            page.as_deref(),
            Some("no content type, body starts with `{\"error\": 1}`")
        );
        let archive = described(Some("application/octet-stream"), b"PK\x03\x04");
        assert_eq!(archive, None);
        let bytes = described(Some("text/plain"), &[0x1f, 0x8b, 0xff]);
        assert_eq!(bytes.as_deref(), Some("content type `text/plain`"));
    }

    #[test]
    fn shows_only_the_code_after_a_secret_was_sent() {
        let described = |kind, body| describe(Some(kind), body, "http://h/?sign=SECRET").unwrap();
        let denied = b"<Code>Denied</Code><Message>It has expired</Message>";
        for (kind, body, want) in [
            (
                "text/xml",
                &denied[..],
                "content type `text/xml`, code `Denied`",
            ),
            (
                "text/html; x=y",
                b"<html> Log in",
                "content type `text/html`",
            ),
            ("text/SECRET", b"<Code>a b</Code>", "content type `…`"),
            (
                "text/xml",
                b"<Code>SECRET</Code>",
                "content type `text/xml`",
            ),
        ] {
            assert_eq!(described(kind, body), want);
        }
    }
}
