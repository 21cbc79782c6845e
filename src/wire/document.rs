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
//! a bad URL is an error that names its position, and nothing of the document is taken.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::json::show;
use super::push::{self, Item, MAX_ITEMS, Push, Stated};
use super::strategy::Strategy;
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

    /// Parses a document. With `base`, `file:` URLs and paths relative to it are sources too.
    pub fn parse(text: &str, base: Option<&Path>) -> Result<Push, DocumentError> {
        Self::parse_from(text, base.map_or(Sources::Remote, Sources::Beside))
    }

    /// Parses a document that may name `sources`.
    pub fn parse_from(text: &str, sources: Sources<'_>) -> Result<Push, DocumentError> {
        if text.len() > MAX_DOCUMENT {
            let what = format!(
                "has {} bytes, at most {MAX_DOCUMENT} are allowed",
                text.len()
            );
            return Err(wrong("", what));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|e| wrong("", format!("not JSON: {e}")))?;
        read_document(&value, sources)
    }
}

fn wrong(place: impl Into<String>, what: impl Into<String>) -> DocumentError {
    DocumentError {
        place: place.into(),
        what: what.into(),
    }
}

fn read_document(value: &Value, sources: Sources<'_>) -> Result<Push, DocumentError> {
    let document = object("", value, &DOCUMENT_KEYS)?;
    let app = AppId::parse(text("AppId", document.get("AppId"))?)
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
        .collect::<Result<Vec<_>, _>>()?;
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

fn read_item(
    place: &str,
    value: &Value,
    app: &AppId,
    sources: Sources<'_>,
) -> Result<Item, DocumentError> {
    let item = object(place, value, &ITEM_KEYS)?;
    let at = |key: &str| format!("{place}.{key}");
    let checked =
        |key: &'static str| move |e: Invalid| wrong(format!("{place}.{key}"), e.to_string());
    let field = |key: &str| item.get(key).unwrap_or(&Value::Null);
    let name = text(&at("name"), item.get("name"))?;
    let version = text(&at("version"), item.get("version"))?;
    let url = source(text(&at("url"), item.get("url"))?, sources).map_err(checked("url"))?;
    let file = DataFile {
        key: Key {
            app: app.clone(),
            name: DataName::parse(name).map_err(checked("name"))?,
            version: DataVersion::parse(version).map_err(checked("version"))?,
        },
        archive_type: archive_type(field("archiveType"), &url).map_err(checked("archiveType"))?,
        size: push::size(field("size")).map_err(checked("size"))?,
        md5: push::digest("md5", field("md5")).map_err(checked("md5"))?,
        sha256: push::digest("sha256", field("sha256")).map_err(checked("sha256"))?,
        url,
        timeout: timeout(field("timeout")).map_err(checked("timeout"))?,
    };
    Ok(Item {
        name: name.to_owned(),
        version: version.to_owned(),
        file: Ok(file),
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

fn text<'a>(place: &str, value: Option<&'a Value>) -> Result<&'a str, DocumentError> {
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
fn archive_type(value: &Value, url: &SourceUrl) -> Result<ArchiveType, Invalid> {
    match value {
        Value::Null => ArchiveType::from_file_name(url.url().path()).ok_or(Invalid::ArchiveType {
            found: "missing, and the url's file name does not show it".to_owned(),
        }),
        stated => push::archive_type(stated),
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

    #[test]
    fn takes_relative_paths_only_beside_a_document() {
        let push = PushDocument::parse(GOOD, Some(Path::new("/base"))).unwrap();
        assert_eq!((push.app.as_str(), push.items.len()), ("app", 2));
        assert!(push.strategy.unwrap().selects("y"));
        let b = push.items[1].file.as_ref().unwrap();
        assert_eq!(b.url.expose(), "file:///base/b/c.tar.gz");
        assert_eq!(b.archive_type, ArchiveType::TarGz);
        for sources in [Sources::Remote, Sources::Local] {
            let error = PushDocument::parse_from(GOOD, sources).unwrap_err();
            assert_eq!(error.place, "Data[1].url");
        }
    }

    #[test]
    fn takes_file_urls_from_local_senders_only() {
        let text = r#"{"AppId":"a","Data":[{"name":"n","version":"1","url":"file:///x.zip"}]}"#;
        assert!(PushDocument::parse_from(text, Sources::Local).is_ok());
        assert!(PushDocument::parse_from(text, Sources::Remote).is_err());
    }

    #[test]
    fn reads_back_what_it_writes() {
        let push = PushDocument::parse(GOOD, Some(Path::new("/base"))).unwrap();
        let files: Vec<DataFile> = push.items.iter().flat_map(|i| i.file.clone()).collect();
        let written = serde_json::to_string(&PushDocument::new(push.app, &files)).unwrap();
        let again = PushDocument::parse_from(&written, Sources::Local).unwrap();
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
            let error = PushDocument::parse(&text, Some(Path::new("/base"))).unwrap_err();
            assert!(error.to_string().starts_with(want), "{error} / {want}");
        }
        for (text, want) in [
            ("[]", "an array, expected an object"),
            ("{\"AppId\":\"a\"}", "Data: missing"),
            ("{\"AppId\":\"a\",\"Data\":[]}", "Data: the array is empty"),
            (
                "{\"AppId\":\"a\",\"Data\":\"[]\"}",
                "Data: \"[]\", expected",
            ),
            (
                "{\"AppId\":\"a\",\"Data\":[[]]}",
                "Data[0]: an array, expected an object",
            ),
        ] {
            let error = PushDocument::parse(text, None).unwrap_err();
            assert!(error.to_string().starts_with(want), "{error} / {want}");
        }
    }
}
