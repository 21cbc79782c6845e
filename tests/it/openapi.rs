//! `docs/openapi.json` describes what is there: every route and no other, and answers as they are.

use std::collections::BTreeSet;

use edgepush::datafile::ArchiveType;
use serde_json::{Value, json};

use crate::support::served::{Served, failed, key};

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap()
}

#[test]
fn every_route_is_described_and_no_other() {
    let source = include_str!("../../src/api/routes.rs");
    let flat: String = source.split_whitespace().collect();
    let mut routes: BTreeSet<(String, String)> = BTreeSet::new();
    for part in flat.split(".route(\"").skip(1) {
        let (path, rest) = part.split_once("\",").unwrap();
        let call = rest.split('(').next().unwrap();
        let method = call.rsplit("::").next().unwrap();
        if path != "/" {
            routes.insert((path.to_owned(), method.to_owned()));
        }
    }
    let document = document();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(routes, described);
}

/// Checks that `value` is as `schema` says: what must be there is there, and nothing is there that is not described.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{place}: no schema {name}");
        return check(document, schema, value, place);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let choice = if value.is_null() { 1 } else { 0 };
        return check(document, &choices[choice], value, place);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match &schema["type"] {
        Value::Null => {}
        Value::String(wanted) => assert_eq!(kind, wanted, "{place}"),
        wanted => assert!(wanted.as_array().unwrap().contains(&json!(kind)), "{place}"),
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{place}: {value}");
    }
    match value {
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                check(document, &schema["items"], item, &format!("{place}[{n}]"));
            }
        }
        Value::Object(map) if schema["properties"].is_object() => {
            for required in schema["required"].as_array().unwrap() {
                let required = required.as_str().unwrap();
                assert!(map.contains_key(required), "{place} has no {required}");
            }
            for (name, value) in map {
                let schema = &schema["properties"][name];
                assert!(schema.is_object(), "{place}.{name} is not described");
                check(document, schema, value, &format!("{place}.{name}"));
            }
        }
        _ => {}
    }
}

/// Returns the calls whose answer is of this type, as (method, path).
fn described(document: &Value, kind: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            if call["responses"]["200"]["content"][kind].is_object() {
                found.insert((method.clone(), path.clone()));
            }
        }
    }
    found
}

#[test]
fn texts_are_of_the_type_that_is_described() {
    let served = Served::new("", "");
    let document = document();
    for kind in ["text/plain", "text/plain; version=0.0.4", "text/html"] {
        let calls = described(&document, kind);
        assert!(!calls.is_empty(), "{kind}");
        for (method, path) in calls {
            let answer = served.unix(&method.to_uppercase(), &path, None);
            let want = format!("content-type: {kind}");
            let head = answer.head.to_lowercase();
            assert!(head.contains(&want), "{path}: {head}");
        }
    }
}

#[test]
fn archive_types_are_those_that_can_be_unpacked() {
    let document = document();
    let all: Vec<&str> = ArchiveType::ALL.iter().map(|t| t.as_str()).collect();
    let mut found = 0;
    for schema in document["components"]["schemas"]
        .as_object()
        .unwrap()
        .values()
    {
        for name in ["archiveType", "archive_type"] {
            for place in [
                &schema["properties"][name],
                &schema["properties"]["Data"]["items"]["properties"][name],
            ] {
                if place.is_object() {
                    assert_eq!(place["enum"], json!(all));
                    found += 1;
                }
            }
        }
    }
    assert_eq!(found, 2);
    let page = include_str!("../../docs/archives.md");
    assert!(all.iter().all(|name| page.contains(&format!("`{name}`"))));
}

#[test]
fn answers_are_as_described() {
    let served = Served::new("", "");
    let document = document();
    let item = |name: &str| json!({"name": name, "version": "1", "archiveType": "zip", "url": "http://h/x"});
    let mut newer = item("d");
    newer["version"] = json!("2");
    let push =
        json!({"AppId": "app-1", "Data": [item("a"), item("b"), item("c"), item("d"), newer]});
    let pushed = served.unix("POST", "/v1/pushes", Some(&push)).json();
    let id = pushed["push"].as_str().unwrap().to_owned();
    served.publish(&key("app-1", "a", "1"), b"archive");
    served.publish(&key("app-1", "d", "1"), b"archive");
    served.publish(&key("app-1", "d", "2"), b"archive");
    let b = served.job(&key("app-1", "b", "1"));
    served.end(b, failed("no"));
    let version = json!({"app": "app-1", "name": "a", "version": "1"});
    let mut pin = version.clone();
    pin["pinned"] = json!(true);
    let c = served.job(&key("app-1", "c", "1"));
    let d = json!({"app": "app-1", "name": "d"});
    served.flip_once_asked();
    let mut left = described(&document, "application/json");
    for (method, path, target, body) in [
        ("POST", "/v1/pushes", "/v1/pushes".to_owned(), Some(push)),
        ("GET", "/readyz", "/readyz?verbose=1".to_owned(), None),
        ("GET", "/v1/status", "/v1/status".to_owned(), None),
        ("GET", "/v1/pushes/{id}", format!("/v1/pushes/{id}"), None),
        ("GET", "/v1/files", "/v1/files".to_owned(), None),
        ("GET", "/v1/files/{id}", format!("/v1/files/{b}"), None),
        (
            "GET",
            "/v1/files/{id}/history",
            format!("/v1/files/{b}/history"),
            None,
        ),
        (
            "GET",
            "/v1/files/{id}/events",
            format!("/v1/files/{b}/events?all=true"),
            None,
        ),
        ("GET", "/v1/releases", "/v1/releases".to_owned(), None),
        ("GET", "/v1/activations", "/v1/activations".to_owned(), None),
        (
            "POST",
            "/v1/activate",
            "/v1/activate".to_owned(),
            Some(version),
        ),
        ("POST", "/v1/rollback", "/v1/rollback".to_owned(), Some(d)),
        ("POST", "/v1/pin", "/v1/pin".to_owned(), Some(pin)),
        (
            "POST",
            "/v1/retry",
            "/v1/retry".to_owned(),
            Some(json!({"job": c})),
        ),
        (
            "POST",
            "/v1/cancel",
            "/v1/cancel".to_owned(),
            Some(json!({"job": c})),
        ),
        ("GET", "/v1/outbox", "/v1/outbox".to_owned(), None),
        (
            "POST",
            "/v1/outbox/replay",
            "/v1/outbox/replay".to_owned(),
            Some(json!({})),
        ),
        ("POST", "/v1/gc", "/v1/gc".to_owned(), None),
        (
            "POST",
            "/v1/verify",
            "/v1/verify".to_owned(),
            Some(json!({"app": "app-1", "heal": true})),
        ),
        (
            "DELETE",
            "/v1/releases",
            "/v1/releases?app=app-1&name=d&version=2".to_owned(),
            None,
        ),
    ] {
        let answer = served.unix(method, &target, body.as_ref());
        assert_eq!(answer.status, 200, "{method} {target}");
        let described = &document["paths"][path][method.to_lowercase()];
        let schema = &described["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path}");
        check(&document, schema, &answer.json(), path);
        if let Some(body) = &body {
            let schema = &described["requestBody"]["content"]["application/json"]["schema"];
            check(&document, schema, body, &format!("the body of {path}"));
        }
        left.remove(&(method.to_lowercase(), path.to_owned()));
    }
    assert!(left.is_empty(), "not asked: {left:?}");
    let missing = served.unix("GET", "/v1/files/999", None);
    assert_eq!(missing.status, 404);
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    check(&document, &problem, &missing.json(), "problem");
}
