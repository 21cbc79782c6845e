//! The body of a call: its form pairs and its digest, computed as it arrives; the body itself is
//! not buffered.

use axum::body::Body;
use hyper::http::request;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::keys::Keys;
use crate::http::body::{Bodies, BodyError, Chunks};
use crate::wire::errors::{Code, Refusal};
use crate::wire::parameters::FormReader;
use crate::wire::sign;

/// Longest form body as it is sent: a `Data` of 8 MiB may be three times as long there.
const MAX_FORM: usize = 28 << 20;

/// The content of a body, and the slot that a large one holds.
pub(super) struct Form {
    pub(super) reader: FormReader,
    pub(super) sha256: [u8; 32],
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// Who may send a large body: whoever names a key that exists.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) keys: &'a Keys,
    pub(super) may_be_unsigned: bool,
}

impl Sender<'_> {
    /// Returns whether the sender is known, as far as the request has arrived; refuses a key that
    /// does not exist. The signature is checked when all of it is here.
    fn is_known(self, parts: &request::Parts, reader: &FormReader) -> Result<bool, Refusal> {
        if self.may_be_unsigned {
            return Ok(true);
        }
        let query = parts.uri.query().unwrap_or("");
        match sign::claimed_key(&parts.headers, query, reader) {
            Some(id) => self.keys.find(&id).map(|_| true),
            None => Ok(false),
        }
    }
}

/// Reads a body, as pairs if it is a form; any other body is only hashed.
pub(super) async fn read(
    parts: &request::Parts,
    body: Body,
    bodies: &Bodies,
    sender: Sender<'_>,
) -> Result<Form, Refusal> {
    let is_form = parts
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let kind = value.split(';').next().unwrap_or("").trim();
            kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    let mut chunks = Chunks::new(body, MAX_FORM, bodies);
    let mut reader = FormReader::default();
    let mut sha256 = Sha256::new();
    let mut is_known = false;
    while let Some(chunk) = chunks.next().await? {
        sha256.update(&chunk);
        if is_form {
            reader.push(&chunk)?;
        }
        if chunks.is_big() {
            is_known = is_known || sender.is_known(parts, &reader)?;
            chunks.take_place(is_known).await?;
        }
    }
    Ok(Form {
        reader,
        sha256: sha256.finalize().into(),
        place: chunks.into_place(),
    })
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { max } => Self::because(
                Code::TooLarge,
                format_args!("At most {max} bytes are taken."),
            ),
            BodyError::Slow => Code::RequestTimeout.into(),
            BodyError::Broken => Code::BadRequest.into(),
            BodyError::Busy => Code::Unavailable.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::parameters::Parameters;

    async fn read_body(kind: &str, body: Vec<u8>) -> Result<Form, Refusal> {
        let request = hyper::Request::builder().header("content-type", kind);
        let (parts, body) = request.body(Body::from(body)).unwrap().into_parts();
        let bodies = Bodies::new(Duration::from_secs(9));
        let keys = Keys::default();
        let sender = Sender {
            keys: &keys,
            may_be_unsigned: false,
        };
        read(&parts, body, &bodies, sender).await
    }

    #[tokio::test]
    async fn reads_pairs_of_a_form_and_the_digest_of_anything() {
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        let data = "%7B".repeat(8 << 20);
        let big = format!("Data={data}").into_bytes();
        let read = read_body(form, big).await.unwrap();
        assert!(read.place.is_some(), "it holds a slot for large bodies");
        let parameters = Parameters::with_form("", read.reader).unwrap();
        assert_eq!(parameters.required("Data").unwrap().len(), 8 << 20);
        let read = read_body("text/plain", b"Data=x".to_vec()).await.unwrap();
        assert_eq!(read.sha256, <[u8; 32]>::from(Sha256::digest(b"Data=x")));
        let parameters = Parameters::with_form("", read.reader).unwrap();
        assert_eq!(parameters.optional("Data").unwrap(), None);
        let longer = vec![b'&'; MAX_FORM + 1];
        let refusal = read_body(form, longer).await.map(drop).unwrap_err();
        assert_eq!(refusal.code, Code::TooLarge);
    }
}
