//! Callbacks pending delivery, written in the same transaction as the change they report: one row
//! per event and endpoint, settled when the receiver accepts it or when it is given up.
//!
//! Of the rows of one endpoint and order key, only the first has a due time (`next_at`); the next
//! row gets one when the first is settled. That preserves their order and makes finding due rows
//! one index step, however many are pending. Due times use the uptime clock
//! ([`Reader::uptime_ms`]): a jump of the wall clock neither loses nor speeds up a retry, and a
//! node that was off for a week still delivers.

use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Topic;
use super::error::Error;
use super::sql::{self, Reader, Tx};

/// Rows examined per call of [`expire`].
const EXPIRE_AT_ONCE: u32 = 500;
/// Settled rows are trimmed once per this many settlements.
const TRIM_EVERY: i64 = 256;

/// A callback that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The row id.
    pub id: i64,
    pub endpoint: String,
    /// The same on every attempt, so that the receiver recognises repeats.
    pub webhook_id: String,
    /// The event type.
    pub kind: String,
    /// Messages with the same key are delivered one after the other.
    pub order_key: Option<i64>,
    /// The `data` of the body.
    pub data: Value,
    /// When the event happened, by the wall clock.
    pub created_ms: i64,
    /// When the row was written, by the uptime clock.
    pub born_ms: i64,
    /// Attempts made so far.
    pub attempts: u32,
}

/// A callback as shown: pending, delivered, or dead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Callback {
    pub id: i64,
    pub endpoint: String,
    /// The same on every attempt.
    pub webhook_id: String,
    /// The event type, such as `edgepush.file.published`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    pub attempts: u32,
    pub created_ms: i64,
    /// When it was delivered or given up.
    pub settled_ms: Option<i64>,
    /// `None` while an earlier callback with the same order key is pending.
    pub due_in_ms: Option<i64>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The job it reports, taken from its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<i64>,
    /// The `data` of the body. Not shown in lists.
    #[serde(skip)]
    pub data: Value,
}

/// Makes all pending callbacks due and restores their order. Called when the agent starts.
pub fn begin(tx: &Tx<'_>) -> Result<(), Error> {
    tx.run(
        "make callbacks due",
        "UPDATE outbox SET next_at = iif(
             order_key IS NOT NULL AND EXISTS (SELECT 1 FROM outbox e WHERE e.state = 'pending' AND e.endpoint = outbox.endpoint
                                          AND e.order_key = outbox.order_key AND e.id < outbox.id), NULL, ?1)
         WHERE state = 'pending'",
        [tx.uptime_ms()],
    )?;
    tx.touch(Topic::OUTBOX);
    Ok(())
}

/// Writes a callback for every endpoint that wants it.
pub fn enqueue(
    tx: &Tx<'_>,
    kind: &'static str,
    order_key: Option<i64>,
    data: &Value,
) -> Result<(), Error> {
    // As the webhook specification recommends: unique, and without a dot.
    let webhook_id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let added = tx.run(
        "write a callback",
        "INSERT INTO outbox (endpoint, webhook_id, type, order_key, data, created, born, next_at)
         SELECT e.name, ?1, ?2, ?3, ?4, ?5, ?6,
                iif(EXISTS (SELECT 1 FROM outbox o WHERE o.state = 'pending' AND o.endpoint = e.name
                                                          AND o.order_key = ?3),
                    NULL, ?6)
         FROM endpoints e WHERE e.types = '[]' OR ?2 IN (SELECT value FROM json_each(e.types))",
        params![
            webhook_id,
            kind,
            order_key,
            sql::to_json("callback", data)?,
            tx.now_ms(),
            tx.uptime_ms(),
        ],
    )?;
    if added > 0 {
        tx.touch(Topic::OUTBOX);
        bound(tx)?;
    }
    Ok(())
}

/// Drops the pending callbacks of one type and order key; a newer one replaces them.
pub fn drop_pending(tx: &Tx<'_>, order_key: i64, kind: &'static str) -> Result<(), Error> {
    let dropped = tx.many(
        "drop old callbacks",
        "DELETE FROM outbox WHERE state = 'pending' AND order_key = ?1 AND type = ?2
         RETURNING endpoint, order_key",
        params![order_key, kind],
        place,
    )?;
    promote_all(tx, dropped)
}

/// Returns the due callbacks of an endpoint, longest overdue first.
pub fn due(reader: &Reader<'_>, endpoint: &str, limit: usize) -> Result<Vec<Message>, Error> {
    reader.many(
        "find due callbacks",
        "SELECT * FROM outbox WHERE state = 'pending' AND endpoint = ?1 AND next_at <= ?2 ORDER BY next_at, id LIMIT ?3",
        params![endpoint, reader.uptime_ms(), i64::try_from(limit).unwrap_or(i64::MAX)],
        read_message,
    )
}

/// Returns when the next callback of an endpoint becomes due, by the uptime clock.
pub fn next_due_ms(reader: &Reader<'_>, endpoint: &str) -> Result<Option<i64>, Error> {
    let next = reader.one(
        "find the next due callback",
        "SELECT min(next_at) FROM outbox WHERE state = 'pending' AND endpoint = ?1 AND next_at > ?2",
        params![endpoint, reader.uptime_ms()],
        |r| r.get::<_, Option<i64>>(0),
    )?;
    Ok(next.flatten())
}

/// Records that a callback was delivered and that its endpoint works. Returns false if the callback
/// was dropped or settled in the meantime.
pub fn delivered(tx: &Tx<'_>, message: &Message) -> Result<bool, Error> {
    tx.run(
        "record that an endpoint works",
        "UPDATE endpoints SET since = iif(failures > 0, ?2, since), failures = 0, not_before = 0, last_success = ?2
         WHERE name = ?1",
        params![message.endpoint, tx.now_ms()],
    )?;
    let settled = settle(tx, message, "delivered", None)?;
    if message.id % TRIM_EVERY == 0 {
        trim_settled(tx)?;
    }
    Ok(settled)
}

/// Gives up a callback: it becomes a dead letter.
pub fn give_up(tx: &Tx<'_>, message: &Message, why: &str) -> Result<bool, Error> {
    settle(tx, message, "dead", Some(why))
}

/// Settles a row. A callback that was given up while it was being sent, but did arrive, counts as
/// delivered.
fn settle(tx: &Tx<'_>, message: &Message, state: &str, error: Option<&str>) -> Result<bool, Error> {
    let changed = tx.run(
        "settle a callback",
        "UPDATE outbox SET state = ?2, settled = ?3, attempts = attempts + 1, next_at = NULL, last_error = ?4
         WHERE id = ?1 AND (state = 'pending' OR (state = 'dead' AND ?2 = 'delivered'))",
        params![message.id, state, tx.now_ms(), error],
    )?;
    promote(tx, &message.endpoint, message.order_key)?;
    Ok(changed == 1)
}

/// Records a failed attempt and its next due time by the uptime clock. `refused` means that the
/// receiver is up but rejects this callback: it then waits its full delay even if others get
/// through.
pub fn postpone(
    tx: &Tx<'_>,
    message: &Message,
    error: &str,
    next_at_ms: i64,
    refused: bool,
) -> Result<(), Error> {
    tx.run(
        "postpone a callback",
        "UPDATE outbox SET attempts = attempts + 1, next_at = ?2, refused = ?3, last_error = ?4
         WHERE id = ?1 AND state = 'pending'",
        params![message.id, next_at_ms, refused, error],
    )
    .map(drop)
}

/// Gives up callbacks pending for longer than `keep_ms` by the uptime clock; returns how many.
pub fn expire(tx: &Tx<'_>, keep_ms: i64) -> Result<usize, Error> {
    let expired = tx.many(
        "give up old callbacks",
        "UPDATE outbox SET state = 'dead', settled = ?2, next_at = NULL,
                           last_error = 'not delivered in time' || coalesce('; last: ' || last_error, '')
         WHERE id IN (SELECT id FROM outbox WHERE state = 'pending' ORDER BY id LIMIT ?3) AND born < ?1
         RETURNING endpoint, order_key",
        params![tx.uptime_ms().saturating_sub(keep_ms), tx.now_ms(), EXPIRE_AT_ONCE],
        place,
    )?;
    let count = expired.len();
    promote_all(tx, expired)?;
    Ok(count)
}

/// Sends a dead or delivered callback again under its old id; without an `id`, all dead ones.
/// Returns how many.
pub fn replay(tx: &Tx<'_>, id: Option<i64>) -> Result<usize, Error> {
    let places = tx.many(
        "replay callbacks",
        "UPDATE outbox SET state = 'pending', settled = NULL, attempts = 0, refused = 0, born = ?2, next_at = ?2
         WHERE ((?1 IS NULL AND state = 'dead') OR (id = ?1 AND state <> 'pending'))
           AND endpoint IN (SELECT name FROM endpoints)
         RETURNING endpoint, order_key",
        params![id, tx.uptime_ms()],
        place,
    )?;
    let count = places.len();
    for (endpoint, order_key) in places {
        tx.run(
            "put callbacks in order",
            "UPDATE outbox SET next_at = NULL WHERE state = 'pending' AND endpoint = ?1 AND order_key = ?2
             AND id > (SELECT min(id) FROM outbox WHERE state = 'pending' AND endpoint = ?1 AND order_key = ?2)",
            params![endpoint, order_key],
        )?;
    }
    tx.touch(Topic::OUTBOX);
    Ok(count)
}

/// Selects the callbacks of a list; `None` does not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `pending`, `delivered` or `dead`.
    pub state: Option<String>,
    pub endpoint: Option<String>,
    /// Only rows after this one.
    pub after: i64,
    /// Otherwise oldest first.
    pub newest_first: bool,
}

/// Lists callbacks, oldest first unless the filter says otherwise.
pub fn list(reader: &Reader<'_>, filter: &Filter, limit: u32) -> Result<Vec<Callback>, Error> {
    let uptime = reader.uptime_ms();
    let order = match filter.newest_first {
        true => "DESC",
        false => "ASC",
    };
    let sql = format!(
        "SELECT * FROM outbox
         WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR endpoint = ?2) AND id > ?3
         ORDER BY id {order} LIMIT ?4"
    );
    reader.many(
        "list callbacks",
        &sql,
        params![filter.state, filter.endpoint, filter.after, limit],
        |r| read_row(r, uptime),
    )
}

/// Returns how many callbacks are pending.
pub fn pending(reader: &Reader<'_>) -> Result<u64, Error> {
    let n = reader.number(
        "count callbacks",
        "SELECT n FROM counters WHERE name = 'outbox'",
        [],
    )?;
    Ok(u64::try_from(n).unwrap_or(0))
}

/// Deletes the oldest settled callbacks beyond the limit.
pub(super) fn trim_settled(tx: &Tx<'_>) -> Result<(), Error> {
    for state in ["delivered", "dead"] {
        // `state <> 'pending'` is redundant, but needed for the partial index `outbox_settled`.
        tx.run(
            "forget settled callbacks",
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE state = ?1 AND state <> 'pending'
             ORDER BY id DESC LIMIT -1 OFFSET ?2)",
            params![state, tx.bounds().settled],
        )?;
    }
    Ok(())
}

/// Enforces the limit on pending callbacks: the oldest progress is dropped first, then the oldest
/// `accepted`; after that, the oldest become dead letters.
fn bound(tx: &Tx<'_>) -> Result<(), Error> {
    let over = |tx: &Tx<'_>| -> Result<i64, Error> {
        let waiting = i64::try_from(pending(tx)?).unwrap_or(i64::MAX);
        Ok(waiting - i64::from(tx.bounds().pending))
    };
    for kind in tx.bounds().droppable {
        let over = over(tx)?;
        if over <= 0 {
            return Ok(());
        }
        let dropped = tx.many(
            "drop the oldest callbacks",
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE state = 'pending' AND type = ?1
             ORDER BY id LIMIT ?2) RETURNING endpoint, order_key",
            params![kind, over],
            place,
        )?;
        promote_all(tx, dropped)?;
    }
    let over = over(tx)?;
    if over <= 0 {
        return Ok(());
    }
    let dropped = tx.many(
        "give up the oldest callbacks",
        "UPDATE outbox SET state = 'dead', settled = ?2, next_at = NULL, last_error = 'too many callbacks were pending'
         WHERE id IN (SELECT id FROM outbox WHERE state = 'pending' ORDER BY id LIMIT ?1) RETURNING endpoint, order_key",
        params![over, tx.now_ms()],
        place,
    )?;
    promote_all(tx, dropped)
}

type Place = (String, Option<i64>);

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok((row.get("endpoint")?, row.get("order_key")?))
}

fn promote_all(tx: &Tx<'_>, places: Vec<Place>) -> Result<(), Error> {
    for (endpoint, order_key) in places {
        promote(tx, &endpoint, order_key)?;
    }
    Ok(())
}

/// Makes the first pending row of an order key due, if it has no due time yet.
fn promote(tx: &Tx<'_>, endpoint: &str, order_key: Option<i64>) -> Result<(), Error> {
    let changed = tx.run(
        "make the next callback due",
        "UPDATE outbox SET next_at = ?3 WHERE next_at IS NULL
         AND id = (SELECT min(id) FROM outbox WHERE state = 'pending' AND endpoint = ?1 AND order_key = ?2)",
        params![endpoint, order_key, tx.uptime_ms()],
    )?;
    if changed > 0 {
        tx.touch(Topic::OUTBOX);
    }
    Ok(())
}

fn read_message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: row.get("id")?,
        endpoint: row.get("endpoint")?,
        webhook_id: row.get("webhook_id")?,
        kind: row.get("type")?,
        order_key: row.get("order_key")?,
        data: sql::json(row, "data")?.unwrap_or(Value::Null),
        created_ms: row.get("created")?,
        born_ms: row.get("born")?,
        attempts: row.get("attempts")?,
    })
}

fn read_row(row: &Row<'_>, uptime_ms: i64) -> rusqlite::Result<Callback> {
    let data: Value = sql::json(row, "data")?.unwrap_or_default();
    let next_at: Option<i64> = row.get("next_at")?;
    Ok(Callback {
        id: row.get("id")?,
        endpoint: row.get("endpoint")?,
        webhook_id: row.get("webhook_id")?,
        kind: row.get("type")?,
        state: row.get("state")?,
        attempts: row.get("attempts")?,
        created_ms: row.get("created")?,
        settled_ms: row.get("settled")?,
        due_in_ms: next_at.map(|at| (at - uptime_ms).max(0)),
        last_error: row.get("last_error")?,
        job: data["job"].as_i64(),
        data,
    })
}
