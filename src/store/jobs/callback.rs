//! The callback about a job: a subset of what the API shows of it, written in the transaction that
//! changes the job.

use serde_json::{Value, json};

use super::super::Error;
use super::super::Tx;
use super::rows;
use crate::db;
use crate::db::{endpoints, outbox};
use crate::job::{Failure, JobId};
use crate::shown::File;
use crate::wire::status::ResultCode;
use crate::wire::time::stamp;

/// Writes a callback with a job's current state.
pub(super) fn report(
    tx: &Tx<'_>,
    file: i64,
    id: JobId,
    kind: &'static str,
    code: ResultCode,
) -> Result<(), Error> {
    if !endpoints::is_wanted(tx, kind)? {
        return Ok(());
    }
    let Some(row) = rows::get(tx, id)? else {
        return Ok(());
    };
    outbox::enqueue(tx, kind, Some(file), &body(&row, code)?)
}

/// Fields of [`File`] that a callback omits: they matter only on the node, or are reported in
/// another form.
const NOT_REPORTED: [&str; 10] = [
    "id",
    "stated",
    "timeout_ms",
    "activate",
    "not_before_ms",
    "cancel_requested",
    "updated_ms",
    "written",
    "published",
    "release",
];

/// Returns the `data` of a callback about a job: the job as shown, with formatted time stamps and
/// flattened content. [`crate::report`] documents it.
fn body(file: &File, code: ResultCode) -> Result<Value, Error> {
    let content = file.published.as_ref().map_or(file.stated, |p| p.content);
    let mut body = db::to_value("callback", file)?;
    let failure = file.failure.as_ref().map(Failure::for_others);
    body["failure"] = db::to_value("callback", &failure)?;
    if let Value::Object(fields) = &mut body {
        for field in NOT_REPORTED {
            fields.remove(field);
        }
        for time in ["accepted", "started", "finished"] {
            let ms = fields.remove(&format!("{time}_ms"));
            let at = ms.and_then(|ms| ms.as_i64()).map(stamp);
            fields.insert(format!("{time}_at"), json!(at));
        }
    }
    body["job"] = json!(file.id);
    body["bytes"] = json!(file.written);
    body["result_code"] = json!(code.code());
    body["size"] = json!(content.size);
    body["md5"] = json!(content.md5);
    body["sha256"] = json!(content.sha256);
    body["activated"] = json!(file.published.as_ref().map(|p| p.activated));
    let took = |end: i64| (end - file.accepted_ms).max(0);
    body["duration_ms"] = json!(file.finished_ms.map(took));
    Ok(body)
}
