//! Used signature nonces: a signed request is accepted only once, even across restarts. They are stored as
//! digests of one length, and expired ones are deleted in small batches.

use rusqlite::params;
use sha2::{Digest, Sha256};

use super::error::Error;
use super::sql::{Reader, Tx};

/// At most this many expired nonces are deleted per request, so that no single request pays for a
/// burst.
const CLEARED: u32 = 32;

/// Records a nonce of an access key until `expires_ms`; false if it was used before. Call it only
/// after verifying the signature, or forged requests would use up the nonces of real ones.
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
        params![access_key, stored(nonce), expires_ms],
    )?;
    Ok(added == 1)
}

/// Returns whether a nonce of an access key was used before.
pub fn is_used(
    reader: &Reader<'_>,
    access_key: &str,
    nonce: &str,
    now_ms: i64,
) -> Result<bool, Error> {
    let found = reader.number(
        "look up a nonce",
        "SELECT count(*) FROM nonces WHERE access_key = ?1 AND nonce = ?2 AND expires >= ?3",
        params![access_key, stored(nonce), now_ms],
    )?;
    Ok(found > 0)
}

fn stored(nonce: &str) -> String {
    hex::encode(&Sha256::digest(nonce)[..16])
}

/// Deletes all expired nonces.
pub(super) fn expire(tx: &Tx<'_>) -> Result<usize, Error> {
    tx.run(
        "clear expired nonces",
        "DELETE FROM nonces WHERE expires < ?1",
        [tx.now_ms()],
    )
}
