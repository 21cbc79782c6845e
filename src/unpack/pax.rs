//! The records of a pax extended header, `LENGTH KEY=VALUE\n`, split by their stated length only. A
//! value may contain newlines and whole lines that look like records; parsers that split on
//! newlines have been exploited that way.

use super::error::{Reason, Refusal, escape};
use crate::datafile::tree::Mtime;

/// What one header's records say about the next member.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) sparse: Option<PaxSparse>,
}

/// The `GNU.sparse.*` records, in the three versions that GNU tar has written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) blocks: Option<u64>,
    /// Alternating offsets and lengths, of versions 0.0 and 0.1.
    pub(super) map: Vec<u64>,
    /// Version 1.0: the map precedes the data.
    pub(super) map_in_data: bool,
    major: Option<u64>,
    minor: Option<u64>,
}

/// Parses the records of a header for one member.
pub(super) fn parse(payload: &[u8]) -> Result<Pax, Refusal> {
    let mut pax = Pax::default();
    for record in Records(payload) {
        let (key, value) = record?;
        pax.set(key, value)?;
    }
    if let Some(sparse) = &mut pax.sparse {
        sparse.finish()?;
    }
    Ok(pax)
}

/// Checks the records of a global header, which must not change the name, size or position of any
/// member.
pub(super) fn check_global(payload: &[u8]) -> Result<(), Refusal> {
    for record in Records(payload) {
        let (key, _) = record?;
        let unsafe_key = matches!(key, b"path" | b"linkpath" | b"size")
            || key.starts_with(b"GNU.sparse.")
            || key == b"SCHILY.realsize";
        if unsafe_key {
            return Err(Refusal::new(
                Reason::PaxGlobalUnsafe,
                format!("a global header sets `{}`", escape(key)),
            ));
        }
    }
    Ok(())
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match key {
            b"path" => {
                if value.is_empty() {
                    return Err(Refusal::new(Reason::PathEmpty, "the pax path is empty"));
                }
                once(&mut self.path, key, no_nul(key, value)?.to_vec())
            }
            b"linkpath" => {
                not_empty(key, value)?;
                once(&mut self.link, key, no_nul(key, value)?.to_vec())
            }
            b"size" => {
                not_empty(key, value)?;
                let size = decimal(value)
                    .filter(|size| *size <= i64::MAX as u64)
                    .ok_or_else(|| {
                        Refusal::new(
                            Reason::SizeInvalid,
                            format!("the pax size is `{}`", escape(value)),
                        )
                    })?;
                once(&mut self.size, key, size)
            }
            b"mtime" => {
                self.mtime = time(value).or(self.mtime);
                Ok(())
            }
            b"SCHILY.realsize" => Err(Refusal::new(
                Reason::SparseUnsupported,
                "a star sparse file",
            )),
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(name) => self.sparse.get_or_insert_default().set(name, value),
                None => Ok(()),
            },
        }
    }
}

impl PaxSparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let number = || {
            decimal(value)
                .filter(|n| *n <= i64::MAX as u64)
                .ok_or_else(|| {
                    invalid(format!(
                        "`GNU.sparse.{}` is `{}`",
                        escape(key),
                        escape(value)
                    ))
                })
        };
        match key {
            b"name" => {
                if value.is_empty() {
                    return Err(Refusal::new(Reason::PathEmpty, "the sparse name is empty"));
                }
                once(&mut self.name, key, no_nul(key, value)?.to_vec())
            }
            b"size" | b"realsize" => once(&mut self.real_size, key, number()?),
            b"numblocks" => once(&mut self.blocks, key, number()?),
            b"major" => once(&mut self.major, key, number()?),
            b"minor" => once(&mut self.minor, key, number()?),
            b"offset" | b"numbytes" => {
                if (self.map.len() % 2 == 1) != (key == b"numbytes") {
                    return Err(invalid("the sparse map's offsets and lengths do not pair"));
                }
                self.map.push(number()?);
                Ok(())
            }
            b"map" => {
                if !self.map.is_empty() {
                    return Err(invalid("the sparse map is given twice"));
                }
                self.map = value
                    .split(|b| *b == b',')
                    .map(|n| decimal(n).filter(|n| *n <= i64::MAX as u64))
                    .collect::<Option<_>>()
                    .ok_or_else(|| {
                        invalid("the sparse map contains something other than a number")
                    })?;
                Ok(())
            }
            _ => Err(unsupported(format!(
                "`GNU.sparse.{}` is not known",
                escape(key)
            ))),
        }
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        match (self.major, self.minor) {
            (None, None) | (Some(0), Some(0 | 1)) => {}
            (Some(1), Some(0)) if self.map.is_empty() => self.map_in_data = true,
            (Some(1), Some(0)) => return Err(invalid("the sparse map is given twice")),
            _ => return Err(unsupported("a sparse format of an unknown version")),
        }
        if self.map.len() % 2 == 1 {
            return Err(invalid("the sparse map's offsets and lengths do not pair"));
        }
        let pairs = self.map.len() as u64 / 2;
        if !self.map_in_data && self.blocks.is_some_and(|blocks| blocks != pairs) {
            return Err(invalid(
                "the sparse map has another number of pieces than stated",
            ));
        }
        if self.real_size.is_none() {
            return Err(invalid("the sparse file's real size is missing"));
        }
        Ok(())
    }
}

/// Iterates over the records of a payload.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split_record(self.0);
        // After a malformed record the next one cannot be located, so the iteration ends.
        self.0 = record.map_or(&[], |(_, _, rest)| rest);
        Some(record.map(|(key, value, _)| (key, value)).ok_or_else(|| {
            Refusal::new(
                Reason::PaxMalformed,
                "a record of the extended header is not well-formed",
            )
        }))
    }
}

fn split_record(payload: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = payload.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&payload[..space])?).ok()?;
    if len <= space + 1 || len > payload.len() {
        return None;
    }
    let (record, rest) = payload.split_at(len);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

/// Parses a number made of decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Parses seconds with an optional fraction, such as `-1.5`; `None` for anything else.
fn time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = fraction
        .iter()
        .map(|digit| u32::from(digit - b'0'))
        .chain(std::iter::repeat(0))
        .take(9)
        .fold(0, |nanos, digit| nanos * 10 + digit);
    Some(match (negative, nanos) {
        (false, _) => Mtime { secs, nanos },
        (true, 0) => Mtime { secs: -secs, nanos },
        (true, _) => Mtime {
            secs: -secs - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

fn once<T>(slot: &mut Option<T>, key: &[u8], value: T) -> Result<(), Refusal> {
    if slot.replace(value).is_some() {
        return Err(Refusal::new(
            Reason::ExtAmbiguous,
            format!("the extended header sets `{}` twice", escape(key)),
        ));
    }
    Ok(())
}

fn not_empty(key: &[u8], value: &[u8]) -> Result<(), Refusal> {
    if value.is_empty() {
        return Err(Refusal::new(
            Reason::PaxMalformed,
            format!("the pax record `{}` is empty", escape(key)),
        ));
    }
    Ok(())
}

fn no_nul<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Refusal> {
    if value.contains(&0) {
        return Err(Refusal::new(
            Reason::PathNul,
            format!("the pax record `{}` contains a NUL byte", escape(key)),
        ));
    }
    Ok(value)
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::SparseInvalid, detail)
}

fn unsupported(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::SparseUnsupported, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> String {
        let body = key.len() + value.len() + 3;
        let len = (body..)
            .find(|len| len.to_string().len() + body == *len)
            .unwrap();
        format!("{len} {key}={value}\n")
    }

    fn reason(payload: &str) -> Reason {
        parse(payload.as_bytes()).unwrap_err().reason
    }

    #[test]
    fn records_are_cut_by_their_length_alone() {
        let injected = format!("x\n{}y", record("path", "injected"));
        let payload = [
            record("SCHILY.xattr.user.a", "x\ny=\n"),
            record("comment", &injected),
            record("size", "12"),
            record("path", "a=b\n"),
        ]
        .concat();
        let pax = parse(payload.as_bytes()).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a=b\n"[..]));
        assert_eq!(pax.size, Some(12));
    }

    #[test]
    fn malformed_records_are_refused() {
        for payload in [
            "99 path=a\n",
            "0 path=a\n",
            "11 path=abcX",
            "path=a\n",
            " 9 path=a\n",
            "-9 path=a\n",
            "9 =value\n",
            "8 pathab\n",
            "10 pa\0h=a\n",
            "5 \n",
            "9 path=a\n\0\0\0",
            "99999999999999999999999 path=a\n",
        ] {
            assert_eq!(reason(payload), Reason::PaxMalformed, "{payload:?}");
        }
    }

    #[test]
    fn names_and_sizes_are_stated_once_and_well() {
        let twice = [record("path", "a"), record("path", "b")].concat();
        assert_eq!(reason(&twice), Reason::ExtAmbiguous);
        assert_eq!(reason(&record("path", "")), Reason::PathEmpty);
        assert_eq!(reason(&record("linkpath", "")), Reason::PaxMalformed);
        assert_eq!(reason(&record("path", "a\0b")), Reason::PathNul);
        assert_eq!(reason(&record("linkpath", "a\0")), Reason::PathNul);
        for size in [
            "-1",
            "0x200",
            "+5",
            " 5",
            "5 ",
            "1.0",
            "9223372036854775808",
        ] {
            assert_eq!(reason(&record("size", size)), Reason::SizeInvalid, "{size}");
        }
    }

    #[test]
    fn a_global_header_may_say_harmless_things_only() {
        check_global(record("comment", "0123").as_bytes()).unwrap();
        for key in ["path", "linkpath", "size", "GNU.sparse.name"] {
            let refusal = check_global(record(key, "1").as_bytes()).unwrap_err();
            assert_eq!(refusal.reason, Reason::PaxGlobalUnsafe, "{key}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_be_negative() {
        let mtime = |secs, nanos| Some(Mtime { secs, nanos });
        for (text, want) in [
            ("1.5", mtime(1, 500_000_000)),
            ("-1.5", mtime(-2, 500_000_000)),
            ("-1", mtime(-1, 0)),
            ("7.1234567899", mtime(7, 123_456_789)),
            ("x", None),
            ("", None),
            ("1.x", None),
        ] {
            assert_eq!(time(text.as_bytes()), want, "{text}");
        }
    }
}
