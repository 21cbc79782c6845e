//! How a JSON value of the wrong type is shown in a message.

use serde_json::Value;

use crate::datafile::shorten;

/// Shows a JSON value of the wrong type, shortened.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("\"{}\"", shorten(text)),
        other => shorten(&other.to_string()),
    }
}
