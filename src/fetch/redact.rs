//! Decides whether what a peer said may be shown. An error page may repeat the request, and spell it as it likes: with
//! escapes of URLs, HTML or JSON, in Base64, in other case, in pieces. So nothing is cut out of a text; a text in which a
//! piece of a secret is found is not shown at all.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use reqwest::header::HeaderMap;
use url::Url;

use crate::datafile::shorten;

/// Shorter values are no secrets: every text has a `1`.
const SHORTEST: usize = 4;
/// So many letters and digits in a row that are also in a secret give it away.
const WINDOW: usize = 6;
/// Shorter runs of Base64 or hexadecimal digits hold no piece of a secret.
const ENCODED: usize = 8;

/// What was sent to a peer and must not be shown.
#[derive(Default)]
pub(super) struct Secrets {
    known: HashSet<String>,
    /// Every piece of [`WINDOW`] letters and digits of each secret, without case.
    windows: HashSet<String>,
    /// Secrets with fewer of them, decoded, without case.
    short: Vec<String>,
}

impl Secrets {
    /// Notes the secrets of a URL: user information, as it is sent also, and the values in its query.
    pub(super) fn add(&mut self, url: &Url) {
        let (user, password) = (url.username(), url.password().unwrap_or(""));
        self.note(user);
        self.note(password);
        for pair in url.query().unwrap_or("").split('&') {
            self.note(pair.split_once('=').map_or(pair, |(_, value)| value));
        }
        if let Some(credentials) = basic(url) {
            self.note(&credentials);
        }
    }

    /// Notes the values of headers. A scheme before the credentials is none.
    pub(super) fn add_headers(&mut self, headers: &HeaderMap) {
        for value in headers.values() {
            let value = String::from_utf8_lossy(value.as_bytes());
            match value.split_once(' ') {
                Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphabetic()) => {
                    self.note(rest);
                    if scheme.eq_ignore_ascii_case("basic") {
                        let pair = unbase64(rest.trim());
                        pair.split(':').for_each(|part| self.note(part));
                    }
                }
                _ => self.note(&value),
            }
        }
    }

    fn note(&mut self, secret: &str) {
        if secret.len() < SHORTEST || !self.known.insert(secret.to_owned()) {
            return;
        }
        for form in decodings(secret) {
            let plain = plain(&form);
            if plain.len() >= WINDOW {
                self.windows
                    .extend(plain.windows(WINDOW).map(String::from_iter));
            } else if form.len() >= SHORTEST {
                self.short.push(form.to_lowercase());
            }
        }
    }

    /// Tells whether a piece of a secret is in `text`, however it is spelt.
    pub(super) fn are_in(&self, text: &str) -> bool {
        if self.known.is_empty() {
            return false;
        }
        decodings(text).iter().any(|form| {
            self.are_plainly_in(form)
                || base64_in(form)
                    .iter()
                    .chain(&hex_in(form))
                    .flat_map(|inner| decodings(inner))
                    .any(|inner| self.are_plainly_in(&inner))
        })
    }

    fn are_plainly_in(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        self.short.iter().any(|secret| has_word(&lower, secret))
            || plain(text)
                .windows(WINDOW)
                .any(|window| self.windows.contains(&String::from_iter(window)))
    }

    /// Returns the beginning of `text`, or only `…` where it holds a secret.
    pub(super) fn show(&self, text: &str) -> String {
        if self.are_in(text) {
            "…".to_owned()
        } else {
            shorten(text)
        }
    }
}

/// Returns the credentials that are sent for the user information of a URL, without their scheme.
pub(super) fn basic(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair = percent_decode(url.username());
    pair.push(b':');
    pair.extend(percent_decode(url.password().unwrap_or("")));
    Some(general_purpose::STANDARD.encode(pair))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match escaped(tail, 2) {
            Some(byte) if *first == b'%' => {
                out.push(byte as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Reads `digits` hexadecimal digits.
fn escaped(text: &[u8], digits: usize) -> Option<u32> {
    let text = text.get(..digits)?;
    let is_hex = text.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_hex)?;
    u32::from_str_radix(text, 16).ok()
}

/// Returns the letters and digits, without case.
fn plain(text: &str) -> Vec<char> {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// Tells whether `word` is in `text`, and is not just a part of a longer word.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// Returns `text`, and what it becomes when its escapes are taken out, once and again until there are none.
fn decodings(text: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    let mut next = decode(text);
    // Each escape becomes shorter, so this ends.
    while all.last() != Some(&next) {
        let after = decode(&next);
        all.push(std::mem::replace(&mut next, after));
    }
    all
}

/// Takes one layer of escapes out: `%2F`, `\/`, `\u002f`, `\x2f`, `&#47;`, `&#x2F;`, `&amp;`.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (found, taken) = match first {
            b'%' => (escaped(tail, 2), 2),
            b'\\' => backslash(tail),
            b'&' => entity(tail),
            _ => (None, 0),
        };
        match found {
            // As in a URL these are bytes, of which several may be one character.
            Some(byte @ 0..=0xff) if *first == b'%' => out.push(byte as u8),
            Some(code) => {
                let c = char::from_u32(code).unwrap_or(' ');
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            None => out.push(*first),
        }
        rest = if found.is_some() {
            &tail[taken..]
        } else {
            tail
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn backslash(tail: &[u8]) -> (Option<u32>, usize) {
    match tail {
        [b'u', digits @ ..] if escaped(digits, 4).is_some() => (escaped(digits, 4), 5),
        [b'x', digits @ ..] if escaped(digits, 2).is_some() => (escaped(digits, 2), 3),
        [b'n' | b'r' | b't' | b'b' | b'f', ..] => (Some(u32::from(b' ')), 1),
        [c, ..] if c.is_ascii_punctuation() => (Some(u32::from(*c)), 1),
        _ => (None, 0),
    }
}

fn entity(tail: &[u8]) -> (Option<u32>, usize) {
    let length = |is: fn(&u8) -> bool, from: usize| {
        let rest = tail.get(from..).unwrap_or(&[]);
        rest.iter().take(8).take_while(|b| is(b)).count()
    };
    let number = |from: usize, length: usize, radix| {
        let text = std::str::from_utf8(tail.get(from..from + length)?).ok()?;
        u32::from_str_radix(text, radix).ok()
    };
    let (found, end) = match tail {
        [b'#', b'x' | b'X', ..] => {
            let digits = length(u8::is_ascii_hexdigit, 2);
            (number(2, digits, 16), 2 + digits)
        }
        [b'#', ..] => {
            let digits = length(u8::is_ascii_digit, 1);
            (number(1, digits, 10), 1 + digits)
        }
        _ => {
            let letters = length(u8::is_ascii_alphabetic, 0);
            let c = match &tail[..letters] {
                b"amp" => b'&',
                // Whatever the others stand for is neither letter nor digit.
                _ => b' ',
            };
            let is_named = letters > 0 && tail.get(letters) == Some(&b';');
            (is_named.then_some(u32::from(c)), letters)
        }
    };
    (found, end + usize::from(tail.get(end) == Some(&b';')))
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn unbase64(text: &str) -> String {
    let text = text.trim_end_matches('=');
    // One digit more than whole bytes take stands for nothing.
    let text = &text[..text.len() - usize::from(text.len() % 4 == 1)];
    LENIENT.decode(text).map_or_else(
        |_| String::new(),
        |b| String::from_utf8_lossy(&b).into_owned(),
    )
}

/// Returns what runs of Base64 stand for, wherever in the run it begins.
fn base64_in(text: &str) -> Vec<String> {
    let text = text.replace('-', "+").replace('_', "/");
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '+' || c == '/'))
        .filter(|run| run.len() >= ENCODED)
        .flat_map(|run| (0..4).map(|from| unbase64(&run[from..])))
        .collect()
}

/// Returns what runs of hexadecimal digits stand for, spaced or not.
fn hex_in(text: &str) -> Vec<String> {
    let digits: String = plain(text).into_iter().collect();
    digits
        .split(|c: char| !c.is_ascii_hexdigit())
        .filter(|run| run.len() >= ENCODED)
        .flat_map(|run| (0..2).map(|from| &run[from..]))
        .filter_map(|run| hex::decode(&run[..run.len() / 2 * 2]).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_page_repeats_however_it_is_spelt() {
        let mut secrets = Secrets::default();
        let url =
            "https://user:PWSECRET@h/p?e=1&Signature=TOP%2FSECRET%2BSIG%3D&t=a%2Fb%2Fc&n=3600";
        secrets.add(&Url::parse(url).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(
            "authorization",
            "Bearer HDRTOKEN-abc/def+1".parse().unwrap(),
        );
        secrets.add_headers(&headers);
        for page in [
            url,
            "you sent Bearer HDRTOKEN-abc/def+1 ok",
            "hdrtoken-abc%2fdef%2b1",
            "the end of it is ABC/DEF+1",
            "Basic dXNlcjpQV1NFQ1JFVA==",
            "dXNlcjpQV1NFQ1JFVA",
            "dxnlcjpqv1nfq1jfva==",
            "x/dXNlcjpQV1NFQ1JFVA",
            r"TOP\/SECRET+SIG=",
            r"TOP\u002FSECRET\u002bSIG",
            "TOP&#x2F;SECRET&#43;SIG=",
            "TOP&amp;#47;SECRET",
            "TOP%252FSECRET%252BSIG%253D",
            "top/secret+sig=",
            "'TOP/SEC'…",
            "T O P / S E C",
            "54 4f 50 2f 53 45 43 52 45 54",
            "544f502f534543",
            "VE9QL1NFQ1JFVA",
            "<a>a/b/c</a>",
            "A%2FB%2FC",
            "of user: denied",
            "<Expires>3600</Expires>",
        ] {
            assert!(secrets.are_in(page), "{page}");
            assert_eq!(secrets.show(page), "…");
        }
        for page in [
            "",
            "nothing here, bearer of a token",
            "<Code>SignatureDoesNotMatch</Code> at 2026-01-01T00:00:00Z",
            "users may not; 13600 of them",
            "100% of \\ it & more &; %zz &#; \\u12",
        ] {
            assert!(!secrets.are_in(page), "{page}");
        }
        assert!(!Secrets::default().are_in(url));
    }

    #[test]
    fn what_basic_stands_for_is_secret_too() {
        let mut secrets = Secrets::default();
        let mut headers = HeaderMap::new();
        headers.insert(
            "authorization",
            "Basic dXNlcjpQV1NFQ1JFVA==".parse().unwrap(),
        );
        secrets.add_headers(&headers);
        for page in ["PWSECRET", "dXNlcjpQV1NFQ1JFVA==", "user"] {
            assert!(secrets.are_in(page), "{page}");
        }
    }
}
