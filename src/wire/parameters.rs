//! The parameters of a call: the pairs of its query and of its form body together, decoded when
//! they arrive and encoded when they are sent.
//!
//! Values stay bytes until they are read, because signatures cover bytes. A blank value counts as
//! absent; a name that occurs twice and text that is not UTF-8 are refused.

use std::borrow::Cow;
use std::collections::HashSet;

use super::encode::encode_into;
use super::errors::{Code, Refusal};

/// Most pairs of one call; no action has more than a dozen parameters, clients add as many of their
/// own.
const MAX_PAIRS: usize = 500;
/// Most bytes of decoded names and values: a `Data` of 8 MiB, and 1 MiB for the rest.
const MAX_DECODED: usize = 9 << 20;

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
        let mut reader = FormReader::default();
        reader.push(form)?;
        Self::with_form(query, reader)
    }

    /// Reads the pairs of a query string, and takes those of a form body that was read before.
    pub fn with_form(query: &str, form: FormReader) -> Result<Self, Refusal> {
        let mut reader = FormReader::default();
        reader.push(query.as_bytes())?;
        let mut pairs = reader.finish()?;
        let in_query = pairs.len();
        pairs.extend(form.finish()?);
        Ok(Self { pairs, in_query })
    }

    /// Adds a parameter that is going to be sent.
    pub fn add(&mut self, name: &str, value: &str) {
        self.pairs.push(Pair {
            name: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
        });
    }

    /// Writes all pairs as `name=value&..`, for a form body or a query.
    #[must_use]
    pub fn write(&self) -> String {
        let mut text = Vec::with_capacity(2 * self.length());
        for pair in &self.pairs {
            if !text.is_empty() {
                text.push(b'&');
            }
            encode_into(&pair.name, &mut text);
            text.push(b'=');
            encode_into(&pair.value, &mut text);
        }
        String::from_utf8(text).expect("percent-encoding leaves ASCII")
    }

    /// Returns how many bytes of names and values there are.
    #[must_use]
    pub fn length(&self) -> usize {
        let pairs = self.pairs.iter();
        pairs.map(|pair| pair.name.len() + pair.value.len()).sum()
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
            return Err(Refusal::parameter(name, "It occurs twice."));
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
                "Expected a whole number of at most nine digits.",
            )),
        }
    }

    /// Returns the comma-separated values of `name`; none when it is absent or holds nothing but
    /// commas.
    pub fn list(&self, name: &'static str) -> Result<Vec<String>, Refusal> {
        let text = self.optional(name)?.unwrap_or("");
        let values = text.split(',').filter(|value| !value.is_empty());
        Ok(values.map(str::to_owned).collect())
    }

    /// Refuses what no action accepts: answers in XML, and a name that occurs twice.
    pub fn check_common(&self) -> Result<(), Refusal> {
        self.check_names()?;
        match self.optional("Format")? {
            Some(format) if !format.eq_ignore_ascii_case("json") => {
                Err(Refusal::parameter("Format", "Answers are JSON."))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a name that occurs twice, even one that is never read: two readers could see two
    /// values.
    fn check_names(&self) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        match self.pairs.iter().find(|pair| !seen.insert(&pair.name)) {
            None => Ok(()),
            Some(pair) => Err(Refusal::parameter(
                shown_name(&pair.name),
                "It occurs twice.",
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

/// Decodes `name=value&..` while it arrives: `%XX` and `+`; an invalid escape stays as it is. What
/// is kept is the decoded text only, since a body may be three times as long.
#[derive(Default)]
pub struct FormReader {
    pairs: Vec<Pair>,
    name: Vec<u8>,
    value: Option<Vec<u8>>,
    /// The digit after a `%`, once it is here.
    escape: Option<Option<u8>>,
    decoded: usize,
}

impl FormReader {
    /// Adds the next bytes; they may be split anywhere.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let plain = match self.escape {
                None => rest.iter().position(|b| b"%+&=".contains(b)),
                Some(_) => Some(0),
            };
            match plain.unwrap_or(rest.len()) {
                0 => {
                    self.take(*first)?;
                    rest = &rest[1..];
                }
                run => {
                    self.keep(&rest[..run]);
                    rest = &rest[run..];
                }
            }
        }
        if self.decoded > MAX_DECODED {
            let detail = format!("Parameters have more than {MAX_DECODED} bytes.");
            return Err(Refusal::because(Code::TooLarge, detail));
        }
        Ok(())
    }

    /// Returns the value of a pair that has arrived whole.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().find(|pair| pair.name == name.as_bytes());
        pair.and_then(|pair| std::str::from_utf8(&pair.value).ok())
    }

    fn take(&mut self, byte: u8) -> Result<(), Refusal> {
        match self.escape.take() {
            None => self.take_plain(byte)?,
            Some(None) if digit(byte).is_some() => self.escape = Some(Some(byte)),
            Some(None) => {
                self.keep(b"%");
                self.take_plain(byte)?;
            }
            Some(Some(high)) => match (digit(high), digit(byte)) {
                (Some(h), Some(low)) => self.keep(&[h << 4 | low]),
                _ => {
                    self.keep(b"%");
                    self.keep(&[high]);
                    self.take_plain(byte)?;
                }
            },
        }
        Ok(())
    }

    fn take_plain(&mut self, byte: u8) -> Result<(), Refusal> {
        match byte {
            b'%' => self.escape = Some(None),
            b'+' => self.keep(b" "),
            b'&' => self.end_pair()?,
            b'=' if self.value.is_none() => self.value = Some(Vec::new()),
            other => self.keep(&[other]),
        }
        Ok(())
    }

    fn keep(&mut self, text: &[u8]) {
        self.decoded += text.len();
        let kept = self.value.as_mut().unwrap_or(&mut self.name);
        kept.extend_from_slice(text);
    }

    fn end_pair(&mut self) -> Result<(), Refusal> {
        let name = std::mem::take(&mut self.name);
        let value = self.value.take();
        if name.is_empty() && value.is_none() {
            return Ok(());
        }
        if self.pairs.len() == MAX_PAIRS {
            let detail = format!("There are more than {MAX_PAIRS} parameters.");
            return Err(Refusal::parameter("", detail));
        }
        let value = value.unwrap_or_default();
        self.pairs.push(Pair { name, value });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Pair>, Refusal> {
        match self.escape.take() {
            None => {}
            Some(None) => self.keep(b"%"),
            Some(Some(high)) => {
                self.keep(b"%");
                self.keep(&[high]);
            }
        }
        self.end_pair()?;
        Ok(self.pairs)
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Returns a client's own parameter name as it may stand in a code: letters and digits, not too
/// many.
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
    fn what_is_written_reads_the_same() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let mut written = Parameters::default();
            for n in 0..random.usize(1..6) {
                let length = random.usize(0..20);
                let value: String = (0..length).map(|_| random.char(..)).collect();
                written.add(&format!("P{n}{}", random.char(..)), &value);
            }
            let text = written.write();
            assert!(text.is_ascii());
            assert_eq!(
                Parameters::read("", text.as_bytes()).unwrap().pairs,
                written.pairs
            );
            assert_eq!(Parameters::read(&text, b"").unwrap().pairs, written.pairs);
        }
    }

    #[test]
    fn a_form_cut_anywhere_reads_the_same() {
        let form = b"a=%41%4&%4g=%%41+&c=%C3%BC&=x&d%3D==%&e=%e";
        let whole = Parameters::read("", form).unwrap();
        for cut in 0..form.len() {
            let mut reader = FormReader::default();
            reader.push(&form[..cut]).unwrap();
            reader.push(&form[cut..]).unwrap();
            assert_eq!(reader.finish().unwrap(), whole.pairs, "{cut}");
        }
        let texts: Vec<(String, String)> = whole
            .pairs
            .iter()
            .map(|p| {
                [&p.name, &p.value]
                    .map(|t| String::from_utf8(t.clone()).unwrap())
                    .into()
            })
            .collect();
        let want = [
            ("a", "A%4"),
            ("%4g", "%A "),
            ("c", "ü"),
            ("", "x"),
            ("d=", "=%"),
            ("e", "%e"),
        ];
        assert_eq!(texts, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn refuses_more_text_than_a_push_can_need() {
        let mut reader = FormReader::default();
        reader.push(b"Data=").unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            reader.push(&chunk).unwrap();
        }
        let last = (0..2).try_for_each(|_| reader.push(&chunk));
        assert_eq!(code(last), "RequestTooLarge");
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
        assert_eq!(p.list("l").unwrap(), ["a", "b"]);
        assert!(p.list("none").unwrap().is_empty());
        assert_eq!(code(p.required("k")), "Missingk");
        assert_eq!(code(p.required("z")), "Missingz");
    }
}
