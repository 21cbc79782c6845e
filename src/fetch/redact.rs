//! Cleans what an origin said before it is shown: an error page may repeat the URL that was asked for, signature and all.

use url::Url;

/// Shorter values are no secrets, and hiding every `1` would make a text unreadable.
const SHORTEST: usize = 4;
/// So much of a secret is enough to recognise it by, should it be cut off.
const ENOUGH: usize = 12;

/// Texts that must not be shown.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Notes the secrets of a URL: user information, query and each value in it, as written and decoded.
    pub(super) fn add(&mut self, url: &Url) {
        let mut found: Vec<String> = vec![url.username().to_owned()];
        found.extend(url.password().map(str::to_owned));
        found.extend(url.query().map(str::to_owned));
        for pair in url.query().unwrap_or("").split('&') {
            found.extend(pair.split_once('=').map(|(_, value)| value.to_owned()));
        }
        found.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
        found.retain(|text| text.len() >= SHORTEST && !self.0.contains(text));
        self.0.append(&mut found);
        // The longest first: a part of it may be a secret too.
        self.0.sort_by_key(|text| std::cmp::Reverse(text.len()));
        self.0.dedup();
    }

    /// Returns `text` with every secret in it replaced.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            let known: String = secret.chars().take(ENOUGH).collect();
            let mut from = 0;
            while let Some(at) = text[from..].find(&known).map(|n| n + from) {
                let shared = text[at..]
                    .char_indices()
                    .zip(secret.chars())
                    .take_while(|((_, a), b)| a == b)
                    .last()
                    .map_or(0, |((n, c), _)| n + c.len_utf8());
                text.replace_range(at..at + shared, "…");
                from = at + '…'.len_utf8();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_what_a_page_repeats() {
        let mut secrets = Secrets::default();
        let url = "https://user:pass%20word@h/p?e=1&sign=SECRET&t=a%2Fb%2Fc&x=0123456789abcdefghi";
        secrets.add(&Url::parse(url).unwrap());
        for (page, want) in [
            ("sign=SECRET!", "sign=…!"),
            ("e=1&amp;sign=SECRET", "e=1&amp;sign=…"),
            ("<a>a/b/c</a>", "<a>…</a>"),
            ("user", "…"),
            ("x 0123456789abcd", "x …"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(secrets.hide(page), want);
        }
        let hidden = secrets.hide(url);
        assert!(
            !hidden.contains("SECRET") && !hidden.contains("pass"),
            "{hidden}"
        );
    }
}
