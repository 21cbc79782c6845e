//! The endpoints that callbacks go to, and how each is doing.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::Topic;
use super::error::Error;
use super::sql::{self, Reader, Tx};

/// A configured receiver of callbacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Identifies the endpoint; its rows refer to it.
    pub name: String,
    /// Scheme, host and port, for display.
    pub target: String,
    /// Event types it receives; empty for all.
    pub types: Vec<String>,
}

/// The state of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub name: String,
    /// Scheme, host and port of its URL.
    pub target: String,
    /// Event types it receives; empty for all. Not sent.
    #[serde(skip)]
    pub types: Vec<String>,
    /// Whether the receiver answered 410 Gone.
    pub disabled: bool,
    /// Since when it has been working, failing or disabled. Not sent.
    #[serde(skip)]
    pub since_ms: i64,
    /// Consecutive failures.
    pub failures: u32,
    /// Nothing is sent before this wall-clock time. Not sent.
    #[serde(skip)]
    pub not_before_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub last_success_ms: Option<i64>,
    pub pending: u64,
    /// Callbacks that were given up.
    pub dead: u64,
}

/// Replaces the table of endpoints with the configured ones, all enabled. Pending callbacks of
/// endpoints that are no longer configured become dead letters.
pub fn register(tx: &Tx<'_>, endpoints: &[Endpoint]) -> Result<(), Error> {
    let names: Vec<&str> = endpoints.iter().map(|e| e.name.as_str()).collect();
    let names = sql::to_json("endpoint names", &names)?;
    tx.run(
        "drop endpoints",
        "DELETE FROM endpoints WHERE name NOT IN (SELECT value FROM json_each(?1))",
        [&names],
    )?;
    tx.run(
        "give callbacks up",
        "UPDATE outbox SET state = 'dead', settled = ?1, next_at = NULL,
                           last_error = 'the endpoint is no longer configured'
         WHERE state = 'pending' AND endpoint NOT IN (SELECT name FROM endpoints)
           AND endpoint NOT IN (SELECT value FROM json_each(?2))",
        params![tx.now_ms(), names],
    )?;
    for endpoint in endpoints {
        tx.run(
            "enter an endpoint",
            "INSERT INTO endpoints (name, target, types, since) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET target = excluded.target, types = excluded.types,
                 since = iif(state = 'active', since, excluded.since), state = 'active'",
            params![
                endpoint.name,
                endpoint.target,
                sql::to_json("endpoint types", &endpoint.types)?,
                tx.now_ms(),
            ],
        )?;
    }
    tx.touch(Topic::OUTBOX);
    Ok(())
}

/// Returns whether any endpoint wants callbacks of this type.
pub fn is_wanted(reader: &Reader<'_>, kind: &str) -> Result<bool, Error> {
    let wanted = reader.number(
        "find an endpoint",
        "SELECT EXISTS (SELECT 1 FROM endpoints e WHERE e.types = '[]' OR ?1 IN (SELECT value FROM json_each(e.types)))",
        [kind],
    )?;
    Ok(wanted == 1)
}

/// Records that an endpoint fails; nothing is sent to it before `not_before_ms` of the wall clock.
pub fn endpoint_failed(
    tx: &Tx<'_>,
    name: &str,
    error: &str,
    not_before_ms: i64,
) -> Result<(), Error> {
    tx.run(
        "record that an endpoint fails",
        "UPDATE endpoints SET since = iif(failures = 0, ?2, since), failures = failures + 1, last_error = ?3,
                              not_before = ?4
         WHERE name = ?1",
        params![name, tx.now_ms(), error, not_before_ms],
    )
    .map(drop)
}

/// Stops sending to an endpoint until it is registered again.
pub fn disable(tx: &Tx<'_>, name: &str, error: &str) -> Result<(), Error> {
    tx.run(
        "disable an endpoint",
        "UPDATE endpoints SET state = 'disabled', since = ?2, last_error = ?3 WHERE name = ?1",
        params![name, tx.now_ms(), error],
    )
    .map(drop)
}

/// Makes due the callbacks that were delayed only because their endpoint failed; it works again.
pub fn endpoint_recovered(tx: &Tx<'_>, name: &str) -> Result<(), Error> {
    tx.run(
        "make callbacks due",
        "UPDATE outbox SET next_at = ?2 WHERE state = 'pending' AND endpoint = ?1 AND next_at > ?2 AND refused = 0",
        params![name, tx.uptime_ms()],
    )?;
    tx.touch(Topic::OUTBOX);
    Ok(())
}

/// Returns every endpoint with its state.
pub fn list(reader: &Reader<'_>) -> Result<Vec<EndpointStatus>, Error> {
    // `state <> 'pending'` is redundant, but needed for the partial index `outbox_settled`.
    reader.many(
        "list endpoints",
        "SELECT e.*,
                (SELECT count(*) FROM outbox o WHERE o.state = 'pending' AND o.endpoint = e.name) AS pending,
                (SELECT count(*) FROM outbox o WHERE o.state = 'dead' AND o.state <> 'pending' AND o.endpoint = e.name) AS dead
         FROM endpoints e ORDER BY e.name",
        [],
        |r| {
            Ok(EndpointStatus {
                name: r.get("name")?,
                target: r.get("target")?,
                types: sql::json(r, "types")?.unwrap_or_default(),
                disabled: r.get::<_, String>("state")? == "disabled",
                since_ms: r.get("since")?,
                failures: r.get("failures")?,
                not_before_ms: r.get("not_before")?,
                last_error: r.get("last_error")?,
                last_success_ms: r.get("last_success")?,
                pending: r.get("pending")?,
                dead: r.get("dead")?,
            })
        },
    )
}
