//! What an answer looks like, to explain bytes that are not the file: an error page, a login page of a network, the
//! text that comes with a status.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};

use super::redact::Secrets;

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
            content_type: Some(header(headers, CONTENT_TYPE).to_owned()).filter(|t| !t.is_empty()),
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
            Some(kind) => format!("content type `{}`", secrets.show(kind)),
            None => "no content type".to_owned(),
        };
        Some(match self.text(secrets) {
            Some(text) => format!("{kind}, {text}"),
            None => kind,
        })
    }

    /// Returns the beginning where it is text. One that repeats what was sent is not shown; of the error document of an
    /// object store its code and message may still be.
    pub(super) fn text(&self, secrets: &Secrets) -> Option<String> {
        let text = String::from_utf8_lossy(&self.beginning);
        // What was kept may end in the middle of a character.
        let text = text.trim_end_matches('\u{fffd}');
        let line = one_line(text);
        if line.is_empty() || line.contains('\u{fffd}') {
            return None;
        }
        // All that was kept is looked at before it is cut: half of a secret is still too much.
        if !secrets.are_in(text) {
            return Some(format!("body starts with `{}`", cut(&line)));
        }
        let mut said = String::new();
        if let Some(code) = field(text, "Code", "code").filter(|code| is_word(code))
            && !secrets.are_in(code)
        {
            said.push_str(&format!("code `{code}`, "));
        }
        if let Some(message) = field(text, "Message", "message")
            && !secrets.are_in(message)
        {
            said.push_str(&format!("message `{}`, ", cut(&one_line(message))));
        }
        Some(format!("{said}body not shown: it repeats what was sent"))
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

fn is_word(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed)
}

/// Returns the content of an element of XML, or of a text in JSON, that is whole and has nothing in it but text.
fn field<'a>(text: &'a str, tag: &str, key: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let element = || {
        let (content, _) = text.split_once(&open)?.1.split_once(&close)?;
        (!content.contains('<')).then_some(content)
    };
    let string = || {
        let (_, rest) = text.split_once(&format!("\"{key}\""))?;
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        let (content, _) = rest.strip_prefix('"')?.split_once('"')?;
        (!content.contains('\\')).then_some(content)
    };
    element().or_else(string).filter(|text| !text.is_empty())
}

/// Returns a header, which is to be checked for secrets before it is shown.
pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("")
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
            Some("content type `text/html`, body not shown: it repeats what was sent".to_owned())
        );
        assert_eq!(
            describe(Some("text/html"), b"<html>\n Log in"),
            Some("content type `text/html`, body starts with `<html> Log in`".to_owned())
        );
        let shown = [
            (
                "<Code>Denied</Code><Message>It has expired</Message><S>SECRET</S>",
                "code `Denied`, message `It has expired`, ",
            ),
            (
                "<Code>Denied</Code><Message>No SECRET</Message>",
                "code `Denied`, ",
            ),
            ("<Code>SECRET</Code><Message>a<b>c</b></Message>", ""),
            (
                "{\"code\" : \"Denied\", \"message\": \"no\", \"s\": \"SECRET\"}",
                "code `Denied`, message `no`, ",
            ),
            ("{\"code\": \"a b\", \"message\": \"SEC\\u0052ET\"}", ""),
        ];
        for (page, said) in shown {
            let want =
                format!("content type `text/xml`, {said}body not shown: it repeats what was sent");
            assert_eq!(describe(Some("text/xml"), page.as_bytes()), Some(want));
        }
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
