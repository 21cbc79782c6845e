//! Parts of a file: whether an object is the same as before, and whether a 206 is the part asked for.

use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_RANGE, DATE, ETAG, HeaderMap, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use crate::datafile::shorten;

/// A modification time is a strong validator only if it was this old (RFC 9110 §8.8.2.2).
const SETTLED_SECONDS: i64 = 60;

/// Identifies an object at an origin; stored with the partial file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Validator {
    /// Host and port; another host may have another ETag for the same content.
    pub host: String,
    /// Strong or weak.
    pub etag: Option<String>,
    /// Only if it is strong.
    pub last_modified: Option<String>,
}

impl Validator {
    /// Reads the headers of a response.
    pub(super) fn of(headers: &HeaderMap, host: &str) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let seconds = |text: &str| rfc2822::parse(text).ok().map(|z| z.timestamp().as_second());
        let last_modified = text(LAST_MODIFIED).filter(|modified| {
            let age = seconds(modified).zip(text(DATE).and_then(seconds));
            age.is_some_and(|(modified, date)| date - modified >= SETTLED_SECONDS)
        });
        let validator = Self {
            host: host.to_owned(),
            etag: text(ETAG).map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
        };
        (validator.etag.is_some() || validator.last_modified.is_some()).then_some(validator)
    }

    /// Returns the value of If-Range for `host`.
    pub(super) fn if_range(&self, host: &str) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        strong
            .or(self.last_modified.as_deref())
            .filter(|_| self.host == host)
    }

    /// Returns whether a response is from another object: both validators are known and differ. Not every
    /// server that sends parts honours If-Range.
    pub(super) fn contradicts(&self, now: &Self) -> bool {
        if self.host != now.host {
            return false;
        }
        match (&self.etag, &now.etag) {
            (Some(before), Some(now)) => before != now,
            _ => {
                let both = self.last_modified.as_ref().zip(now.last_modified.as_ref());
                both.is_some_and(|(before, now)| before != now)
            }
        }
    }
}

/// A parsed Content-Range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// First byte and the byte after the last; `None` in a 416.
    pub(super) part: Option<(u64, u64)>,
    /// Length of the whole, unless it is `*`.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// Reads the headers of a response; `Err` is the text that cannot be parsed, shortened.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut values = headers.get_all(CONTENT_RANGE).iter();
        let text = values.next().and_then(|v| v.to_str().ok()).unwrap_or("");
        match Self::parse(text) {
            Some(range) if values.next().is_none() => Ok(range),
            _ => Err(shorten(text)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |t: &str| -> Option<u64> {
            (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse().ok())?
        };
        let (part, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let total = match total {
            "*" => None,
            digits => Some(number(digits)?),
        };
        if part == "*" {
            return Some(Self { part: None, total });
        }
        let (first, last) = part.split_once('-')?;
        let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
        let sound = first < end && total.is_none_or(|t| end <= t);
        sound.then_some(Self {
            part: Some((first, end)),
            total,
        })
    }
}

/// What a 206 has to match.
pub(super) struct Expected<'a> {
    /// The first byte that was asked for.
    pub(super) start: u64,
    /// Length of the file, if known.
    pub(super) total: Option<u64>,
    /// Content-Length of the response.
    pub(super) length: Option<u64>,
    /// Whether the request had a condition, which proves the part to be from the same object.
    pub(super) conditional: bool,
    /// The validators before and now, if both are known.
    pub(super) validator: Option<(&'a Validator, &'a Validator)>,
}

/// Why a part cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    OtherObject,
    /// Of a file of another length than known.
    OtherLength,
    /// What the origin sent instead of the part.
    Wrong(&'static str),
}

impl Expected<'_> {
    /// Returns where the part ends, and the length of the file if the response states it.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(u64, Option<u64>), Unusable> {
        if self
            .validator
            .is_some_and(|(before, now)| before.contradicts(now))
        {
            return Err(Unusable::OtherObject);
        }
        let wrong = |what| Err(Unusable::Wrong(what));
        let Ok(ContentRange {
            part: Some((start, end)),
            total,
        }) = ContentRange::of(headers)
        else {
            return wrong("a part without a usable Content-Range");
        };
        if start != self.start {
            return wrong("another part than asked for");
        }
        if self.length.is_some_and(|n| n != end - start) {
            return wrong("a part of another length than it says");
        }
        match (total, self.total) {
            (Some(found), Some(known)) if found != known => Err(Unusable::OtherLength),
            // Without a condition, the same length is the only sign of the same object.
            (None, _) if !self.conditional => wrong("a part of a file of unknown length"),
            (None, Some(known)) if end > known => wrong("a part beyond the end"),
            _ => Ok((end, total)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges_strictly() {
        let range = |text| ContentRange::parse(text).map(|r| (r.part, r.total));
        assert_eq!(range("bytes 5-9/10"), Some((Some((5, 10)), Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((Some((5, 10)), None)));
        assert_eq!(range("bytes */10"), Some((None, Some(10))));
        for bad in [
            "",
            "5-9/10",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes -5-9/10",
            "bytes +5-9/10",
            "bytes 5-/10",
            "bytes 5-9/",
            "bytes 0-18446744073709551615/*",
            "items 5-9/10",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    fn validator(headers: &[(&'static str, &'static str)]) -> Option<Validator> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Validator::of(&map, "h:80")
    }

    #[test]
    fn only_strong_validators_make_a_condition() {
        const OLD: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:51:37 GMT");
        const SAME: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:38 GMT");
        let condition = |headers: &[_]| {
            let validator = validator(headers)?;
            validator.if_range("h:80").map(str::to_owned)
        };
        assert_eq!(condition(&[("etag", "\"a\"")]).as_deref(), Some("\"a\""));
        assert_eq!(condition(&[("etag", "W/\"a\"")]), None);
        assert_eq!(condition(&[OLD, DATE]).as_deref(), Some(OLD.1));
        assert_eq!(
            condition(&[("etag", "W/\"a\""), OLD, DATE]).as_deref(),
            Some(OLD.1)
        );
        assert_eq!(condition(&[OLD, SAME]), None);
        assert_eq!(condition(&[OLD]), None);
        assert_eq!(condition(&[]), None);
        assert_eq!(
            validator(&[("etag", "\"a\"")])
                .unwrap()
                .if_range("other:80"),
            None
        );
    }

    #[test]
    fn notices_another_object() {
        let a = validator(&[("etag", "\"a\"")]).unwrap();
        let b = validator(&[("etag", "\"b\"")]).unwrap();
        assert!(a.contradicts(&b) && !a.contradicts(&a));
        let elsewhere = Validator {
            host: "other:80".to_owned(),
            ..b
        };
        assert!(!a.contradicts(&elsewhere));
    }
}
