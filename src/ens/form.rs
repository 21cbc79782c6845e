//! The body of a call: its form pairs and its digest, computed as it arrives; the body itself is
//! not buffered.

use axum::body::Body;
use hyper::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::http::body::{Bodies, BodyError, Chunks};
use crate::wire::errors::{Code, Refusal};
use crate::wire::parameters::FormReader;

/// Longest form body as it is sent: a `Data` of 8 MiB may be three times as long there.
const MAX_FORM: usize = 28 << 20;

/// The content of a body, and the slot that a large one holds.
pub(super) struct Form {
    pub(super) reader: FormReader,
    pub(super) sha256: [u8; 32],
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// Reads a body, as pairs if it is a form; any other body is only hashed.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    bodies: &Bodies,
) -> Result<Form, Refusal> {
    let is_form = headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let kind = value.split(';').next().unwrap_or("").trim();
            kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    let mut chunks = Chunks::new(body, MAX_FORM, bodies);
    let mut reader = FormReader::default();
    let mut sha256 = Sha256::new();
    while let Some(chunk) = chunks.next().await? {
        sha256.update(&chunk);
        if is_form {
            reader.push(&chunk)?;
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
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        let bodies = Bodies::new(Duration::from_secs(9));
        read(&headers, Body::from(body), &bodies).await
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
