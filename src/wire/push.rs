//! The request `PushApplicationData`, and the elements of its `Data`.
//!
//! There are two kinds of mistakes. What cannot be answered element by element (no JSON, no array,
//! an element without a name) fails the whole call, and nothing of it is taken. What is wrong with
//! one file only (its URL, its digest) stays with that [`Item`], and the others go on.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::datafile::{
    AppId, ArchiveType, DEFAULT_TIMEOUT, DataFile, DataName, DataVersion, Digest, Invalid, Key,
    MAX_TIMEOUT, SourceUrl,
};

use super::describe;
use super::errors::Refusal;
use super::json::show;
use super::parameters::Parameters;
use super::strategy::Strategy;
use super::text;

/// Most elements of one `Data`. More are refused before they take memory.
pub const MAX_ITEMS: usize = 20_000;

/// One push, from any source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    pub app: AppId,
    /// In the order of `Data`.
    pub items: Vec<Item>,
    /// Absent: every region.
    pub strategy: Option<Strategy>,
}

impl Push {
    /// Reads the parameters of `PushApplicationData`. Whether the strategy selects a region that
    /// exists is the caller's to judge.
    pub fn read(parameters: &Parameters) -> Result<Self, Refusal> {
        let app = describe::app(parameters)?;
        let items = parse_data(&app, parameters.required("Data")?)
            .map_err(|e| Refusal::parameter("Data", e))?;
        let strategy = parameters
            .optional("PushStrategy")?
            .map(Strategy::parse)
            .transpose()
            .map_err(|e| Refusal::parameter("PushStrategy", e))?;
        // Documented as having no effect; it must be a number all the same.
        parameters.integer("Timeout")?;
        Ok(Self {
            app,
            items,
            strategy,
        })
    }

    /// Writes the parameters of the push. Elements that cannot be pushed are left out.
    #[must_use]
    pub fn write(&self) -> Parameters {
        let files = self.items.iter().filter_map(|item| item.file.as_ref().ok());
        let data: Vec<Stated> = files.map(Stated::from).collect();
        let data = serde_json::to_string(&data).expect("strings and numbers have a JSON form");
        let mut parameters = Parameters::default();
        parameters.add("AppId", self.app.as_str());
        parameters.add("Data", &data);
        if let Some(strategy) = &self.strategy {
            parameters.add("PushStrategy", &strategy.write());
        }
        parameters
    }
}

/// The source of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The ENS endpoint.
    Ens,
    /// The native API, usually the command line.
    Api,
    /// A document in the inbox.
    Inbox,
    /// `edgepush apply` in one process.
    Apply,
    /// None: found on disk when the database was rebuilt.
    Recover,
}

impl Via {
    /// Returns the stable lower-case name, as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ens => "ens",
            Self::Api => "api",
            Self::Inbox => "inbox",
            Self::Apply => "apply",
            Self::Recover => "recover",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One element of `Data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub version: String,
    /// The file, or why it cannot be pushed.
    pub file: Result<DataFile, Invalid>,
}

/// An element of `Data` as it is written. It holds the whole URL, secrets included.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stated {
    name: DataName,
    version: DataVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    archive_type: ArchiveType,
    #[serde(skip_serializing_if = "Option::is_none")]
    md5: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    url: String,
    timeout: u64,
}

impl From<&DataFile> for Stated {
    fn from(file: &DataFile) -> Self {
        Self {
            name: file.key.name.clone(),
            version: file.key.version.clone(),
            size: file.size,
            archive_type: file.archive_type,
            md5: file.md5.map(|d| d.to_string()),
            sha256: file.sha256.map(|d| d.to_string()),
            url: file.url.expose().to_owned(),
            timeout: file.timeout.as_secs(),
        }
    }
}

/// Why a whole `Data` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DataError(String);

/// Parses the `Data` of `PushApplicationData`: a JSON array of objects, each with a `name` and a
/// `version`.
///
/// Unknown keys are ignored, as the contract demands.
pub fn parse_data(app: &AppId, json: &str) -> Result<Vec<Item>, DataError> {
    let mut reader = serde_json::Deserializer::from_str(text::without_mark(json));
    let items = reader
        .deserialize_any(Elements(app))
        .and_then(|items| reader.end().map(|()| items))
        .map_err(|e| DataError(e.to_string()))?;
    if items.is_empty() {
        return Err(DataError("the array is empty".to_owned()));
    }
    Ok(items)
}

/// Reads the array element by element, so that a request body full of brackets never becomes a tree
/// in memory.
struct Elements<'a>(&'a AppId);

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<Item>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Object(element)) = seq.next_element()? {
            if items.len() == MAX_ITEMS {
                return Err(de::Error::custom(format!("more than {MAX_ITEMS} elements")));
            }
            let item = element
                .into_item(self.0)
                .map_err(|what| de::Error::custom(format!("element {}: {what}", items.len())))?;
            items.push(item);
        }
        Ok(items)
    }
}

/// An element that must be a JSON object: a derived struct would also take an array of values in
/// its field order.
struct Object(Element);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with name, version, archiveType and url")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
                Element::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_any(ObjectVisitor)
    }
}

/// The keys of an element that mean something. Each may hold any JSON: what it should hold is
/// judged per file.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Element {
    pub(super) name: Value,
    pub(super) version: Value,
    pub(super) size: Value,
    pub(super) archive_type: Value,
    pub(super) md5: Value,
    pub(super) sha256: Value,
    pub(super) url: Value,
    pub(super) timeout: Value,
}

impl Element {
    fn into_item(self, app: &AppId) -> Result<Item, String> {
        let name = required_text("name", &self.name)?;
        let version = required_text("version", &self.version)?;
        Ok(Item {
            file: self.file(app, &name, &version),
            name,
            version,
        })
    }

    fn file(&self, app: &AppId, name: &str, version: &str) -> Result<DataFile, Invalid> {
        Ok(DataFile {
            key: Key {
                app: app.clone(),
                name: DataName::parse(name)?,
                version: DataVersion::parse(version)?,
            },
            archive_type: archive_type(&self.archive_type)?,
            size: size(&self.size)?,
            md5: digest("md5", &self.md5)?,
            sha256: digest("sha256", &self.sha256)?,
            url: SourceUrl::parse(url_text(&self.url)?)?,
            timeout: timeout(&self.timeout)?,
        })
    }
}

fn required_text(what: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.trim().is_empty() => Err(format!("{what} is blank")),
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(format!("{what} is missing")),
        other => Err(format!("{what} is {}, expected a string", show(other))),
    }
}

pub(super) fn archive_type(value: &Value) -> Result<ArchiveType, Invalid> {
    match value {
        Value::String(text) => ArchiveType::parse(text),
        Value::Null => Err(Invalid::Blank {
            what: "archiveType",
        }),
        other => Err(Invalid::ArchiveType { found: show(other) }),
    }
}

pub(super) fn size(value: &Value) -> Result<Option<u64>, Invalid> {
    if value.is_null() {
        return Ok(None);
    }
    // SQLite and file offsets count with a sign.
    let whole = value.as_u64().filter(|n| (1..1 << 63).contains(n));
    whole.map(Some).ok_or_else(|| Invalid::Number {
        what: "size",
        found: show(value),
        expected: "the archive's length in bytes as a whole number",
    })
}

/// A digest that is blank or absent states nothing (docs/ens.md §3).
pub(super) fn digest<const N: usize>(
    what: &'static str,
    value: &Value,
) -> Result<Option<Digest<N>>, Invalid> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Digest::parse(text).map(Some),
        other => Err(Invalid::Digest {
            what,
            found: show(other),
            digits: 2 * N,
        }),
    }
}

pub(super) fn url_text(value: &Value) -> Result<&str, Invalid> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Err(Invalid::Blank { what: "url" }),
        _ => Err(Invalid::Url {
            why: "not a string".to_owned(),
        }),
    }
}

/// The unit is not documented; taken as seconds. 0 states nothing, and what is out of reach means
/// "as long as you may": a client that counts in milliseconds must not be refused for that.
fn timeout(value: &Value) -> Result<Duration, Invalid> {
    match (value, value.as_u64()) {
        (Value::Null, _) | (_, Some(0)) => Ok(DEFAULT_TIMEOUT),
        (_, Some(seconds)) => Ok(Duration::from_secs(seconds).min(MAX_TIMEOUT)),
        (other, None) => Err(Invalid::Number {
            what: "timeout",
            found: show(other),
            expected: "a whole number of seconds",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"name":"a/b","version":"1.0","size":3,"archiveType":"zip","md5":"","url":"http://h/x","timeout":60,"more":[{}]}"#;

    fn parse(json: &str) -> Result<Vec<Item>, DataError> {
        parse_data(&AppId::parse("app-1").unwrap(), json)
    }

    /// Returns [`GOOD`] with `key` set to `value`.
    fn with(key: &str, value: &str) -> String {
        let mut element: serde_json::Map<String, Value> = serde_json::from_str(GOOD).unwrap();
        element.insert(key.to_owned(), serde_json::from_str(value).unwrap());
        serde_json::to_string(&[element]).unwrap()
    }

    fn file(key: &str, value: &str) -> Result<DataFile, Invalid> {
        parse(&with(key, value)).unwrap().remove(0).file
    }

    #[test]
    fn takes_a_good_element_whole() {
        let item = parse(&format!("\u{feff}[{GOOD}]")).unwrap().remove(0);
        assert_eq!((item.name.as_str(), item.version.as_str()), ("a/b", "1.0"));
        let file = item.file.unwrap();
        assert_eq!(file.key.to_string(), "app-1/a/b@1.0");
        assert_eq!(file.archive_type, ArchiveType::Zip);
        assert_eq!((file.size, file.md5, file.sha256), (Some(3), None, None));
        assert_eq!(file.url.expose(), "http://h/x");
        assert_eq!(file.timeout, Duration::from_secs(60));
    }

    #[test]
    fn reads_back_what_it_writes() {
        let md5 = "d41d8cd98f00b204e9800998ecf8427e";
        let more = format!(
            r#"{{"name":"ü &=+%","version":"2","archiveType":"tar.gz","md5":"{md5}","url":"https://u:p@h/x?a=%20&b=+"}}"#
        );
        let items = parse(&format!("[{GOOD},{more}]")).unwrap();
        let strategy =
            r#"{"name":"ScheduleToRegionId","parameters":{"operator":"NotIn","values":["x","y"]}}"#;
        let push = Push {
            app: AppId::parse("app-1").unwrap(),
            items,
            strategy: Some(Strategy::parse(strategy).unwrap()),
        };
        let sent = push.write().write();
        let received = Parameters::read("", sent.as_bytes()).unwrap();
        assert_eq!(Push::read(&received), Ok(push));
    }

    #[test]
    fn refuses_the_whole_call_when_an_element_cannot_be_named() {
        for bad in [
            "",
            "not json",
            "{}",
            "[]",
            "\"x\"",
            "null",
            "[1]",
            "[null]",
            "[[\"n\",\"1\",3,\"zip\",\"\",\"\",\"http://h/x\",1]]",
            "[{}]",
            "[{\"version\":\"1.0\"}]",
            "[{\"name\":\"n\"}]",
            "[{\"name\":\"\",\"version\":\"1\"}]",
            "[{\"name\":\"n\",\"version\":\" \"}]",
            "[{\"name\":\"n\",\"version\":1}]",
            "[{\"name\":\"n\",\"name\":\"m\",\"version\":\"1\"}]",
            "[{\"name\":\"n\",\"version\":\"1\"}] x",
            "[{\"name\":\"n\",\"version\":\"1\"}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let error = parse(&format!("[{GOOD},{{\"name\":\"n\"}}]")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("element 1: version is missing"),
            "{error}"
        );
    }

    #[test]
    fn reads_the_parameters_of_a_call() {
        let read = |query: &str| {
            Push::read(&Parameters::read(query, b"").unwrap())
                .map_err(|e| e.code.name().into_owned())
        };
        let good = format!("AppId=a&Data=[{GOOD}]");
        let push = read(&format!("{good}&PushStrategy=&Timeout=9")).unwrap();
        assert_eq!((push.items.len(), push.strategy), (1, None));
        for (query, code) in [
            ("", "MissingAppId"),
            ("AppId=a", "MissingData"),
            ("AppId=a&Data=[]", "InvalidParameter.Data"),
            (
                &format!("{good}&PushStrategy={{"),
                "InvalidParameter.PushStrategy",
            ),
            (&format!("{good}&Timeout=x"), "InvalidParameter.Timeout"),
        ] {
            assert_eq!(read(query), Err(code.to_owned()));
        }
    }

    #[test]
    fn refuses_more_elements_than_allowed_before_they_take_memory() {
        let element = r#"{"name":"n","version":"1"}"#;
        let many = vec![element; MAX_ITEMS + 1].join(",");
        assert!(parse(&format!("[{many}]")).is_err());
    }

    #[test]
    fn keeps_what_is_wrong_with_one_file_at_that_file() {
        for (key, value) in [
            ("name", "\"a,b\""),
            ("name", "\"a\\u0000b\""),
            ("version", "\"1,0\""),
            ("archiveType", "\"rar\""),
            ("archiveType", "null"),
            ("archiveType", "7"),
            ("url", "\"ftp://h/x\""),
            ("url", "\"file:///etc/passwd\""),
            ("url", "\"\""),
            ("url", "null"),
            ("url", "{}"),
            ("md5", "\"zz\""),
            ("md5", "12"),
            ("sha256", "\"00\""),
            ("size", "0"),
            ("size", "-1"),
            ("size", "1.5"),
            ("size", "\"3\""),
            ("size", "9223372036854775808"),
            ("timeout", "\"60\""),
            ("timeout", "-1"),
        ] {
            assert!(file(key, value).is_err(), "{key}: {value}");
        }
        let long = format!("\"{}\"", "n".repeat(2000));
        assert!(matches!(file("name", &long), Err(Invalid::TooLong { .. })));
    }

    #[test]
    fn takes_every_way_of_stating_nothing() {
        assert_eq!(file("size", "null").unwrap().size, None);
        assert_eq!(file("md5", "null").unwrap().md5, None);
        assert_eq!(file("sha256", "\"\"").unwrap().sha256, None);
        assert_eq!(file("timeout", "0").unwrap().timeout, DEFAULT_TIMEOUT);
        assert_eq!(file("timeout", "null").unwrap().timeout, DEFAULT_TIMEOUT);
        assert_eq!(file("timeout", "99999999999").unwrap().timeout, MAX_TIMEOUT);
        let md5 = file("md5", "\"D41D8CD98F00B204E9800998ECF8427E\"")
            .unwrap()
            .md5;
        assert_eq!(md5.unwrap().to_string(), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
