//! The parameters of a call: the pairs of its query and of its form body together, decoded.
//!
//! Values stay bytes until they are asked for, because signatures are made over bytes. A blank value counts as absent, a
//! name given twice is refused, and so is what is no UTF-8.

use std::borrow::Cow;
use std::collections::HashSet;

use super::errors::{Code, Refusal};

/// Most pairs of one call; no action has more than a dozen parameters, clients add as many of their own.
const MAX_PAIRS: usize = 500;

/// One name and its value, percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// All parameters of one call.
#[derive(Default)]
pub struct Parameters {
    pairs: Vec<Pair>,
    in_query: usize,
}

impl Parameters {
    /// Reads the pairs of a query string and of a form body; either may be empty.
    pub fn read(query: &str, form: &[u8]) -> Result<Self, Refusal> {
        let mut pairs = read_pairs(query.as_bytes())?;
        let in_query = pairs.len();
        pairs.extend(read_pairs(form)?);
        Ok(Self { pairs, in_query })
    }

    /// Returns the value of `name`, or `None` when it is absent or blank.
    pub fn optional(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        let mut found = self
            .pairs
            .iter()
            .filter(|pair| pair.name == name.as_bytes());
        let Some(pair) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(Refusal::parameter(name, "It is given twice."));
        }
        let value = std::str::from_utf8(&pair.value)
            .map_err(|_| Refusal::parameter(name, "It is not UTF-8."))?;
        Ok(Some(value).filter(|text| !text.is_empty()))
    }

    /// Returns the value of `name`, which must not be blank.
    pub fn required(&self, name: &'static str) -> Result<&str, Refusal> {
        self.optional(name)?
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| Code::Missing(name).into())
    }

    /// Returns the value of `name` as a number of at most nine digits.
    pub fn integer(&self, name: &'static str) -> Result<Option<u32>, Refusal> {
        let Some(text) = self.optional(name)? else {
            return Ok(None);
        };
        let digits = text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Some(number)),
            _ => Err(Refusal::parameter(
                name,
                "It is no whole number of at most nine digits.",
            )),
        }
    }

    /// Returns the comma-separated values of `name`, or `None` when it is absent.
    pub fn list(&self, name: &'static str) -> Result<Option<Vec<String>>, Refusal> {
        let text = self.optional(name)?;
        Ok(text.map(|text| {
            let values = text.split(',').filter(|value| !value.is_empty());
            values.map(str::to_owned).collect()
        }))
    }

    /// Refuses what no action can take: an answer in XML, and a name that is given twice.
    pub fn check_common(&self) -> Result<(), Refusal> {
        self.check_names()?;
        match self.optional("Format")? {
            Some(format) if !format.eq_ignore_ascii_case("json") => {
                Err(Refusal::parameter("Format", "Answers are JSON."))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a name that is given twice, whether anyone asks for it or not: two readers could see two values.
    fn check_names(&self) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        match self.pairs.iter().find(|pair| !seen.insert(&pair.name)) {
            None => Ok(()),
            Some(pair) => Err(Refusal::parameter(
                shown_name(&pair.name),
                "It is given twice.",
            )),
        }
    }

    /// Returns the pairs of the query alone.
    pub(super) fn query(&self) -> &[Pair] {
        &self.pairs[..self.in_query]
    }

    /// Returns the pairs of query and form.
    pub(super) fn all(&self) -> &[Pair] {
        &self.pairs
    }
}

fn read_pairs(text: &[u8]) -> Result<Vec<Pair>, Refusal> {
    let mut pairs = Vec::new();
    for piece in text.split(|b| *b == b'&').filter(|piece| !piece.is_empty()) {
        if pairs.len() == MAX_PAIRS {
            let detail = format!("There are more than {MAX_PAIRS} parameters.");
            return Err(Refusal::parameter("", detail));
        }
        let end = piece.iter().position(|b| *b == b'=');
        let (name, value) = match end {
            Some(end) => (&piece[..end], &piece[end + 1..]),
            None => (piece, &[][..]),
        };
        pairs.push(Pair {
            name: decode(name),
            value: decode(value),
        });
    }
    Ok(pairs)
}

/// Decodes `%XX` and `+`; an escape that is none stays as it is.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            _ => out.push(*first),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Returns a client's own parameter name as it may stand in a code: letters and digits, not too many.
fn shown_name(name: &[u8]) -> Cow<'static, str> {
    let plain = name
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    match std::str::from_utf8(name) {
        Ok(text) if plain && text.len() <= 64 => Cow::Owned(text.to_owned()),
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        result.unwrap_err().code.name().into_owned()
    }

    #[test]
    fn reads_query_and_form_together() {
        let p = Parameters::read("A=a+b%20c&B=&C&&D=%C3%BC%zz%4", b"E=*~'()%2b=x").unwrap();
        assert_eq!(p.optional("A").unwrap(), Some("a b c"));
        assert_eq!(p.optional("B").unwrap(), None);
        assert_eq!(p.optional("C").unwrap(), None);
        assert_eq!(p.optional("D").unwrap(), Some("ü%zz%4"));
        assert_eq!(p.optional("E").unwrap(), Some("*~'()+=x"));
        assert_eq!(p.optional("F").unwrap(), None);
        assert_eq!((p.query().len(), p.all().len()), (4, 5));
        p.check_common().unwrap();
    }

    #[test]
    fn answers_in_json_or_not_at_all() {
        let check = |query: &str| Parameters::read(query, b"").unwrap().check_common();
        for good in ["Format=JSON", "Format=json", "Format=", ""] {
            check(good).unwrap();
        }
        assert_eq!(code(check("Format=XML")), "InvalidParameter.Format");
    }

    #[test]
    fn refuses_names_given_twice_and_bytes_that_are_no_text() {
        let p = Parameters::read("A=1", b"A=2&B=%FF&x%20y=1&x%20y=1").unwrap();
        assert_eq!(code(p.optional("A")), "InvalidParameter.A");
        assert_eq!(code(p.optional("B")), "InvalidParameter.B");
        assert_eq!(code(p.check_common()), "InvalidParameter.A");
        let p = Parameters::read("x%20y=1&x%20y=1", b"").unwrap();
        assert_eq!(code(p.check_common()), "InvalidParameter");
        let many = "a&".repeat(MAX_PAIRS + 1);
        assert_eq!(
            code(Parameters::read(&many, b"").map(|_| ())),
            "InvalidParameter"
        );
    }

    #[test]
    fn numbers_and_lists_are_strict() {
        let p = Parameters::read("n=12&m=-1&o=1234567890&p=x&q=%2B1&l=a,,b&k=+", b"").unwrap();
        assert_eq!(p.integer("n").unwrap(), Some(12));
        assert_eq!(p.integer("none").unwrap(), None);
        for name in ["m", "o", "p", "q"] {
            assert_eq!(code(p.integer(name)), format!("InvalidParameter.{name}"));
        }
        assert_eq!(p.list("l").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(code(p.required("k")), "Missingk");
        assert_eq!(code(p.required("z")), "Missingz");
    }
}
