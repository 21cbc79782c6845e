//! The signing half: an access key makes requests as the vendor's clients send them.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::canonical::Request;
use super::{Action, VERSION};
use crate::wire::encode::encoded;
use crate::wire::parameters::Parameters;
use crate::wire::time::stamp;

/// The media type of a form body.
const FORM: &str = "application/x-www-form-urlencoded";

/// An access key with its secret.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    /// Names the key to the server.
    pub id: &'a str,
    /// Signs.
    pub secret: &'a [u8],
}

/// Which of the vendor's signatures a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `ACS3-HMAC-SHA256` in the `Authorization` header, as every current client signs.
    Header,
    /// `HMAC-SHA1` in the parameter `Signature`, as the older ones do.
    Parameter,
}

/// What makes one request differ from the next. A retry needs a new nonce: a used one is refused.
#[derive(Debug, Clone, Copy)]
pub struct Once<'a> {
    /// The wall clock, in milliseconds since the epoch.
    pub now_ms: i64,
    /// A text that no other request of this key uses.
    pub nonce: &'a str,
}

/// A request to be sent by POST to `/`. Its parameters are in the body: a URI holds about a hundred
/// elements only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The headers besides `Host`, `Content-Length` and those that no signature covers.
    pub headers: Vec<(&'static str, String)>,
    /// The form body.
    pub body: String,
}

impl Key<'_> {
    /// Signs a call of `action` at `host`, which must be the `Host` header that is sent.
    #[must_use]
    pub fn sign(
        &self,
        scheme: Scheme,
        action: Action,
        parameters: Parameters,
        host: &str,
        once: Once<'_>,
    ) -> Signed {
        match scheme {
            Scheme::Header => self.sign_header(action, &parameters, host, once),
            Scheme::Parameter => self.sign_parameter(action, parameters, once),
        }
    }

    fn sign_header(
        &self,
        action: Action,
        parameters: &Parameters,
        host: &str,
        once: Once<'_>,
    ) -> Signed {
        let body = parameters.write();
        let body_sha256: [u8; 32] = Sha256::digest(body.as_bytes()).into();
        // In the order in which they are signed.
        let mut headers = vec![
            ("content-type", FORM.to_owned()),
            ("host", host.to_owned()),
            ("x-acs-action", action.as_str().to_owned()),
            ("x-acs-content-sha256", hex::encode(body_sha256)),
            ("x-acs-date", stamp(once.now_ms)),
            ("x-acs-signature-nonce", once.nonce.to_owned()),
            ("x-acs-version", VERSION.to_owned()),
        ];
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let request = Request {
            method: "POST",
            headers: &header_map(&headers),
            parameters,
            body_sha256,
        };
        let signature = request.header_signature(self.secret, &names);
        let id = self.id;
        headers.retain(|(name, _)| *name != "host");
        headers.push((
            "authorization",
            format!("ACS3-HMAC-SHA256 Credential={id},SignedHeaders={names},Signature={signature}"),
        ));
        Signed { headers, body }
    }

    fn sign_parameter(&self, action: Action, mut parameters: Parameters, once: Once<'_>) -> Signed {
        for (name, value) in [
            ("Action", action.as_str()),
            ("Version", VERSION),
            ("Format", "JSON"),
            ("AccessKeyId", self.id),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureNonce", once.nonce),
            ("Timestamp", &stamp(once.now_ms)),
        ] {
            parameters.add(name, value);
        }
        let request = Request {
            method: "POST",
            headers: &HeaderMap::new(),
            parameters: &parameters,
            body_sha256: [0; 32],
        };
        let signature = request.parameter_signature(self.secret);
        let body = parameters.write();
        Signed {
            headers: vec![("content-type", FORM.to_owned())],
            body: format!("{body}&Signature={}", encoded(signature.as_bytes())),
        }
    }
}

fn header_map(headers: &[(&'static str, String)]) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| {
            // A value that cannot be sent makes a request that cannot be sent; the signature of it
            // does not matter.
            let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""));
            (HeaderName::from_static(name), value)
        })
        .collect()
}
