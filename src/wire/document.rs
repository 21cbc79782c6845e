//! The push document: what `apply`, the inbox and `POST /v1/pushes` take, and what `edgepush push`
//! makes.
//!
//! ```json
//! {"AppId":"app","Data":[{"name":"maps","version":"1.0","archiveType":"tar.gz","md5":"..","url":"https://.."}],
//!  "PushStrategy":{"name":"ScheduleToRegionId","parameters":{"operator":"In","values":["cn-wuxi-5"]}}}
//! ```
//!
//! The keys are the contract's, so that what works here works there. Unlike the wire, which must
//! ignore what it does not know, a document is written by a person: an unknown key, a wrong type or
//! a bad URL is an error that names its position. In an element it stays with that [`Item`], and
//! the others go on; anywhere else nothing of the document is taken.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::json::{self, show};
use super::push::{self, Item, MAX_ITEMS, Push, Stated};
use super::strategy::Strategy;
use super::text;
use crate::datafile::{
    AppId, ArchiveType, DEFAULT_TIMEOUT, DataFile, DataName, DataVersion, Invalid, Key,
    MAX_TIMEOUT, SourceUrl,
};

/// Largest document, in bytes.
pub const MAX_DOCUMENT: usize = 8 << 20;

const DOCUMENT_KEYS: [&str; 3] = ["AppId", "Data", "PushStrategy"];
const ITEM_KEYS: [&str; 8] = [
    "name",
    "version",
    "size",
    "archiveType",
    "md5",
    "sha256",
    "url",
    "timeout",
];

/// A push document to be written. Reading one gives a [`Push`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PushDocument {
    app_id: AppId,
    data: Vec<Stated>,
}

/// Which sources a document may name.
#[derive(Debug, Clone, Copy)]
pub enum Sources<'a> {
    /// `http` and `https` only.
    Remote,
    /// Also absolute `file:` URLs.
    Local,
    /// Also `file:` URLs, and paths relative to this directory.
    Beside(&'a Path),
}

/// A mistake in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// Where, such as `Data[2].url`; empty for the document as a whole.
    pub place: String,
    /// What, with what was expected.
    pub what: String,
    /// Whether it is not JSON at all: it may be a document that is not completely written yet.
    pub unreadable: bool,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.as_str() {
            "" => f.write_str(&self.what),
            place => write!(f, "{place}: {}", self.what),
        }
    }
}

impl std::error::Error for DocumentError {}

impl PushDocument {
    /// Makes the document that pushes `files` for `app`. It holds the whole URLs, secrets included.
    #[must_use]
    pub fn new(app: AppId, files: &[DataFile]) -> Self {
        let data = files.iter().map(Stated::from).collect();
        Self { app_id: app, data }
    }

    /// Parses a document that may name `sources`.
    pub fn parse(bytes: &[u8], sources: Sources<'_>) -> Result<Push, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            let what = format!("more than {MAX_DOCUMENT} bytes");
            return Err(wrong("", what));
        }
        let unreadable = |what| DocumentError {
            unreadable: true,
            ..wrong("", what)
        };
        let text = text::read(bytes).map_err(unreadable)?;
        json::check_keys(text.as_bytes()).map_err(|e| unreadable(format!("not JSON: {e}")))?;
        let value: Value =
            serde_json::from_str(text).map_err(|e| unreadable(format!("not JSON: {e}")))?;
        read_document(&value, sources)
    }
}

fn wrong(place: impl Into<String>, what: impl Into<String>) -> DocumentError {
    DocumentError {
        place: place.into(),
        what: what.into(),
        unreadable: false,
    }
}

fn read_document(value: &Value, sources: Sources<'_>) -> Result<Push, DocumentError> {
    let document = object("", value, &DOCUMENT_KEYS)?;
    let app = AppId::parse(required("AppId", document.get("AppId"))?)
        .map_err(|e| wrong("AppId", e.to_string()))?;
    let data = match document.get("Data") {
        Some(Value::Array(data)) if data.len() > MAX_ITEMS => {
            return Err(wrong("Data", format!("more than {MAX_ITEMS} elements")));
        }
        Some(Value::Array(data)) if !data.is_empty() => data,
        Some(Value::Array(_)) => return Err(wrong("Data", "the array is empty")),
        Some(other) => {
            let what = format!("{}, expected an array of objects", show(other));
            return Err(wrong("Data", what));
        }
        None => return Err(wrong("Data", "missing")),
    };
    let items = data
        .iter()
        .enumerate()
        .map(|(n, item)| read_item(&format!("Data[{n}]"), item, &app, sources))
        .collect();
    let strategy = match document.get("PushStrategy") {
        None | Some(Value::Null) => None,
        Some(value) => {
            Some(Strategy::from_value(value).map_err(|e| wrong("PushStrategy", e.to_string()))?)
        }
    };
    Ok(Push {
        app,
        items,
        strategy,
    })
}

/// Reads an element. One without a name or version has an empty one, and cannot be pushed.
fn read_item(place: &str, value: &Value, app: &AppId, sources: Sources<'_>) -> Item {
    let stated = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    Item {
        name: stated("name").to_owned(),
        version: stated("version").to_owned(),
        file: read_file(place, value, app, sources).map_err(|error| Invalid::Element {
            place: error.place,
            what: error.what,
        }),
    }
}

fn read_file(
    place: &str,
    value: &Value,
    app: &AppId,
    sources: Sources<'_>,
) -> Result<DataFile, DocumentError> {
    let item = object(place, value, &ITEM_KEYS)?;
    let at = |key: &str| format!("{place}.{key}");
    let checked =
        |key: &'static str| move |e: Invalid| wrong(format!("{place}.{key}"), e.to_string());
    let field = |key: &str| item.get(key).unwrap_or(&Value::Null);
    let name = required(&at("name"), item.get("name"))?;
    let version = required(&at("version"), item.get("version"))?;
    let url = source(required(&at("url"), item.get("url"))?, sources).map_err(checked("url"))?;
    Ok(DataFile {
        key: Key {
            app: app.clone(),
            name: DataName::parse(name).map_err(checked("name"))?,
            version: DataVersion::parse(version).map_err(checked("version"))?,
        },
        archive_type: archive_type(&at("archiveType"), field("archiveType"), &url)?,
        size: push::size(field("size")).map_err(checked("size"))?,
        md5: push::digest("md5", field("md5")).map_err(checked("md5"))?,
        sha256: push::digest("sha256", field("sha256")).map_err(checked("sha256"))?,
        url,
        timeout: timeout(field("timeout")).map_err(checked("timeout"))?,
    })
}

/// Returns the object at `place`, all of whose keys are known.
fn object<'a>(
    place: &str,
    value: &'a Value,
    known: &[&str],
) -> Result<&'a Map<String, Value>, DocumentError> {
    let Value::Object(map) = value else {
        let what = format!("{}, expected an object", show(value));
        return Err(wrong(place, what));
    };
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(map),
        Some(key) => Err(wrong(place, unknown_key(key, known))),
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let lower = key.to_lowercase();
    let near = known
        .iter()
        .map(|k| (strsim::jaro_winkler(&lower, &k.to_lowercase()), k))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let shown = crate::datafile::shorten(key);
    match near {
        Some((_, near)) => format!("unknown key `{shown}`, did you mean `{near}`?"),
        None => format!(
            "unknown key `{shown}`, expected one of {}",
            known.join(", ")
        ),
    }
}

fn required<'a>(place: &str, value: Option<&'a Value>) -> Result<&'a str, DocumentError> {
    match value {
        Some(Value::String(text)) if text.trim().is_empty() => Err(wrong(place, "blank")),
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(wrong(place, "missing")),
        Some(other) => Err(wrong(place, format!("{}, expected a string", show(other)))),
    }
}

fn source(text: &str, sources: Sources<'_>) -> Result<SourceUrl, Invalid> {
    match sources {
        Sources::Remote => SourceUrl::parse(text),
        // Nothing is relative to the sender's directory here: the agent does not know it.
        Sources::Local if text.starts_with("file:///") => {
            SourceUrl::parse_local(text, Path::new("/"))
        }
        Sources::Local => SourceUrl::parse(text),
        Sources::Beside(base) => SourceUrl::parse_local(text, base),
    }
}

/// A document may leave the type to the source's file name.
fn archive_type(place: &str, value: &Value, url: &SourceUrl) -> Result<ArchiveType, DocumentError> {
    match value {
        Value::Null => ArchiveType::from_file_name(url.url().path())
            .ok_or_else(|| wrong(place, "missing, and the url's file name does not show it")),
        stated => push::archive_type(stated).map_err(|e| wrong(place, e.to_string())),
    }
}

fn timeout(value: &Value) -> Result<Duration, Invalid> {
    match value.as_u64().map(Duration::from_secs) {
        None if value.is_null() => Ok(DEFAULT_TIMEOUT),
        Some(limit) if !limit.is_zero() && limit <= MAX_TIMEOUT => Ok(limit),
        _ => Err(Invalid::Number {
            what: "timeout",
            found: show(value),
            expected: "1 to 604800 seconds",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"AppId":"app","Data":[
        {"name":"a","version":"1","size":5,"archiveType":"zip","md5":"d41d8cd98f00b204e9800998ecf8427e","url":"http://h/a","timeout":9},
        {"name":"b","version":"2","url":"b/c.tar.gz"}],
        "PushStrategy":{"name":"ScheduleToRegionId","parameters":{"operator":"NotIn","values":["x"]}}}"#;

    /// Parses with sources next to `/base`.
    fn parse(text: &str) -> Result<Push, DocumentError> {
        PushDocument::parse(text.as_bytes(), Sources::Beside(Path::new("/base")))
    }

    /// Returns the first mistake of the document, or of its elements.
    fn first_mistake(text: &str) -> String {
        match parse(text) {
            Err(error) => error.to_string(),
            Ok(push) => {
                let mut files = push.items.into_iter().map(|item| item.file);
                files.find_map(Result::err).unwrap().to_string()
            }
        }
    }

    #[test]
    fn takes_relative_paths_only_beside_a_document() {
        let push = parse(GOOD).unwrap();
        assert_eq!((push.app.as_str(), push.items.len()), ("app", 2));
        assert!(push.strategy.unwrap().selects("y"));
        let b = push.items[1].file.as_ref().unwrap();
        assert_eq!(b.url.expose(), "file:///base/b/c.tar.gz");
        assert_eq!(b.archive_type, ArchiveType::TarGz);
        for sources in [Sources::Remote, Sources::Local] {
            let push = PushDocument::parse(GOOD.as_bytes(), sources).unwrap();
            assert!(push.items[0].file.is_ok());
            let error = push.items[1].file.as_ref().unwrap_err().to_string();
            assert!(error.starts_with("Data[1].url: "), "{error}");
        }
    }

    #[test]
    fn takes_file_urls_from_local_senders_only() {
        let text = br#"{"AppId":"a","Data":[{"name":"n","version":"1","url":"file:///x.zip"}]}"#;
        let file = |sources| {
            let push = PushDocument::parse(text, sources).unwrap();
            push.items.into_iter().next().unwrap().file
        };
        assert!(file(Sources::Local).is_ok());
        assert!(file(Sources::Remote).is_err());
    }

    #[test]
    fn reads_back_what_it_writes() {
        let push = parse(GOOD).unwrap();
        let files: Vec<DataFile> = push.items.iter().flat_map(|i| i.file.clone()).collect();
        let written = serde_json::to_string(&PushDocument::new(push.app, &files)).unwrap();
        let again = PushDocument::parse(written.as_bytes(), Sources::Local).unwrap();
        let again: Vec<DataFile> = again.items.into_iter().flat_map(|i| i.file).collect();
        assert_eq!(again, files);
    }

    #[test]
    fn names_the_place_of_what_is_wrong() {
        for (from, to, want) in [
            (
                "\"AppId\"",
                "\"appid\"",
                "unknown key `appid`, did you mean `AppId`?",
            ),
            ("\"AppId\":\"app\",", "", "AppId: missing"),
            ("\"app\"", "\" \"", "AppId: blank"),
            ("\"app\"", "3", "AppId: 3, expected a string"),
            ("\"md5\"", "\"mdfive\"", "Data[0]: unknown key `mdfive`"),
            (
                "\"archiveType\"",
                "\"archivType\"",
                "Data[0]: unknown key `archivType`, did you mean `archiveType`?",
            ),
            ("\"d41d8", "\"zz1d8", "Data[0].md5: md5 is `zz1d8"),
            (
                "\"size\":5",
                "\"size\":\"5\"",
                "Data[0].size: size is \"5\"",
            ),
            (
                "\"timeout\":9",
                "\"timeout\":0",
                "Data[0].timeout: timeout is 0",
            ),
            ("c.tar.gz", "c", "Data[1].archiveType: "),
            (
                "\"name\":\"b\"",
                "\"name\":\"b,b\"",
                "Data[1].name: name holds a comma",
            ),
            (
                "http://h/a",
                "ftp://h/a",
                "Data[0].url: url is not usable: scheme `ftp`",
            ),
            ("NotIn", "Not", "PushStrategy: operator is `Not`"),
            ("\"Data\":[", "\"Data\":3,\"x\":[", "unknown key `x`"),
            ("{\"AppId\"", "[{\"AppId\"", "not JSON: "),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replacen(from, to, 1);
            let error = first_mistake(&text);
            assert!(error.starts_with(want), "{error} / {want}");
        }
        for (text, want) in [
            ("[]", "an array, expected an object"),
            ("{\"AppId\":\"a\"}", "Data: missing"),
            ("{\"AppId\":\"a\",\"Data\":[]}", "Data: the array is empty"),
            (
                "{\"AppId\":\"a\",\"Data\":\"[]\"}",
                "Data: \"[]\", expected",
            ),
        ] {
            let error = PushDocument::parse(text.as_bytes(), Sources::Remote).unwrap_err();
            assert!(error.to_string().starts_with(want), "{error} / {want}");
        }
    }

    #[test]
    fn keeps_what_is_wrong_with_an_element_at_that_element() {
        let url = r#""url":"http://h/x""#;
        for (bad, name, want) in [
            ("[]", "", "Data[1]: an array, expected an object"),
            ("null", "", "Data[1]: null, expected an object"),
            (r#"{"version":"1",URL}"#, "", "Data[1].name: missing"),
            (r#"{"name":"n",URL}"#, "n", "Data[1].version: missing"),
            (
                r#"{"name":"n","version":"1",URL}"#,
                "n",
                "Data[1].archiveType: missing, and the url's file name does not show it",
            ),
        ] {
            let bad = bad.replace("URL", url);
            let text = GOOD.replacen("},", &format!("}},{bad},"), 1);
            let push = parse(&text).unwrap();
            assert_eq!(push.items.iter().filter(|i| i.file.is_ok()).count(), 2);
            assert_eq!(push.items[1].name, name);
            let error = push.items[1].file.as_ref().unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn what_may_still_be_completed_is_told_apart() {
        let unreadable = |bytes: &[u8]| {
            PushDocument::parse(bytes, Sources::Remote)
                .unwrap_err()
                .unreadable
        };
        assert!(unreadable(&GOOD.as_bytes()[..GOOD.len() - 1]));
        assert!(unreadable(b"{\"AppId\":\"\xc3"));
        assert!(unreadable(b""));
        assert!(!unreadable(b"{}"));
    }
}
