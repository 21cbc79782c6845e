//! Documents of the inbox that were admitted and still lie in `inbox/new`, by the digest of their
//! bytes. A document is recorded together with its jobs, so that it is never admitted twice, and is
//! forgotten once its file has left `new`.

use super::{Error, Reader, Tx};
use crate::db::{json, to_json};
use crate::shown::model::Answer;

/// Records a document with the answers to its elements.
pub fn record(tx: &Tx<'_>, digest: &str, answers: &[Answer]) -> Result<(), Error> {
    tx.run(
        "record a document",
        "INSERT INTO documents (digest, answers) VALUES (?1, ?2)",
        [digest, &to_json("answers", &answers)?],
    )?;
    Ok(())
}

/// Returns the answers to the elements of a document, if it was admitted.
pub fn answers(reader: &Reader<'_>, digest: &str) -> Result<Option<Vec<Answer>>, Error> {
    let found = reader.one(
        "find a document",
        "SELECT answers FROM documents WHERE digest = ?1",
        [digest],
        |row| json(row, "answers"),
    )?;
    Ok(found.flatten())
}

/// Forgets all documents but these.
pub fn retain(tx: &Tx<'_>, digests: &[String]) -> Result<(), Error> {
    tx.run(
        "forget documents",
        "DELETE FROM documents WHERE digest NOT IN (SELECT value FROM json_each(?1))",
        [to_json("digests", &digests)?],
    )?;
    Ok(())
}
