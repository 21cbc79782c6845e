//! Used signature nonces: a signed request is accepted once, across restarts too.

use rusqlite::params;

use super::error::Error;
use super::sql::Tx;

/// Expired nonces that one request clears away at most, so that none pays for a burst of others.
const CLEARED: u32 = 32;

/// Remembers a nonce of an access key until `expires_ms`; false if it was used before. Call it only
/// after the signature was found right, or forged requests would burn the nonces of real ones.
pub fn remember(
    tx: &Tx<'_>,
    access_key: &str,
    nonce: &str,
    expires_ms: i64,
) -> Result<bool, Error> {
    tx.run(
        "clear expired nonces",
        "DELETE FROM nonces WHERE (access_key, nonce) IN
         (SELECT access_key, nonce FROM nonces WHERE expires < ?1 ORDER BY expires LIMIT ?2)",
        params![tx.now_ms(), CLEARED],
    )?;
    let added = tx.run(
        "remember a nonce",
        "INSERT INTO nonces (access_key, nonce, expires) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![access_key, nonce, expires_ms],
    )?;
    Ok(added == 1)
}

/// Clears every expired nonce.
pub(super) fn expire(tx: &Tx<'_>) -> Result<usize, Error> {
    tx.run(
        "clear expired nonces",
        "DELETE FROM nonces WHERE expires < ?1",
        [tx.now_ms()],
    )
}
