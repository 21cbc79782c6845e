//! Both signature schemes of the vendor's clients, checked in the contract's order (docs/ens.md
//! §5), and made by [`Key`].
//!
//! [`Call::read`] finds out what is asked and how it is signed, without believing any of it;
//! [`Call::verify`] compares the signature with what the key's secret gives, in constant time; only
//! then are its time and nonce checked. Texts that are signed can be as long as the request: they
//! are hashed piece by piece and never put together, but for the answer to a wrong signature, which
//! is cut.

mod canonical;
mod key;

use hyper::HeaderMap;
use subtle::ConstantTimeEq;

use self::canonical::header;
use super::errors::{Code, Refusal};
use super::parameters::{FormReader, Parameters};
use super::time;

pub use canonical::Request;
pub use key::{Key, Once, Scheme, Signed};

/// The one version of the API.
pub const VERSION: &str = "2017-11-10";
/// Largest difference between a request's time and our clock.
pub const WINDOW_MS: i64 = 15 * 60 * 1000;

/// Longest nonce that is taken, in bytes.
const MAX_NONCE: usize = 256;
/// Longest string to sign that an error repeats. Only real requests are compared by clients, and
/// those are shorter.
const MAX_SHOWN: usize = 128 * 1024;
/// What a header signature must cover, so that a call can be neither altered nor replayed.
const MUST_SIGN: [&str; 6] = [
    "host",
    "x-acs-action",
    "x-acs-content-sha256",
    "x-acs-date",
    "x-acs-signature-nonce",
    "x-acs-version",
];

/// The actions that are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Action {
    /// Push data files.
    PushApplicationData,
    /// Ask how pushes stand.
    DescribeDataPushResult,
    /// Ask where a pushed archive can be downloaded.
    DescribeDataDownloadURL,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [
        Self::PushApplicationData,
        Self::DescribeDataPushResult,
        Self::DescribeDataDownloadURL,
    ];

    /// Returns the contract's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PushApplicationData => "PushApplicationData",
            Self::DescribeDataPushResult => "DescribeDataPushResult",
            Self::DescribeDataDownloadURL => "DescribeDataDownloadURL",
        }
    }
}

/// Returns which key a request that is still arriving says it is signed with. Nothing is verified.
#[must_use]
pub fn claimed_key(headers: &HeaderMap, query: &str, form: &FormReader) -> Option<String> {
    if let Some(fields) = header(headers, "authorization").filter(|a| a.starts_with("ACS3-")) {
        let (_, fields) = fields.split_once(' ')?;
        let credential = |field: &str| Some(field.trim().strip_prefix("Credential=")?.to_owned());
        return fields.split(',').find_map(credential);
    }
    let name = "AccessKeyId";
    let query = Parameters::read(query, b"").ok()?;
    let in_query = query.optional(name).ok()?.map(str::to_owned);
    in_query.or_else(|| form.value(name).map(str::to_owned))
}

/// A call and the signature that it claims to have. Nothing of it is verified yet.
pub struct Call<'a> {
    pub action: Action,
    request: Request<'a>,
    signature: Option<Signature<'a>>,
}

struct Signature<'a> {
    scheme: SignedBy<'a>,
    key_id: &'a str,
    signature: &'a str,
    nonce: &'a str,
    time: &'a str,
}

enum SignedBy<'a> {
    /// The `Authorization` header, with the list of signed headers.
    Header { signed_headers: &'a str },
    /// The parameter `Signature`.
    Parameter,
}

impl<'a> Call<'a> {
    /// Reads action, version and signature fields, in this order. A call without any signature is
    /// for the caller to judge: see [`Call::key_id`].
    pub fn read(request: Request<'a>) -> Result<Self, Refusal> {
        if !matches!(request.method, "GET" | "POST") {
            return Err(Code::UnsupportedMethod.into());
        }
        let authorization = header(request.headers, "authorization").unwrap_or("");
        let in_header = authorization.starts_with("ACS3-");
        let in_parameters = !in_header && request.parameters.optional("Signature")?.is_some();
        let (action, version) = action_and_version(request, in_header, in_parameters)?;
        let action = Action::ALL
            .into_iter()
            .find(|a| Some(a.as_str()) == action)
            .ok_or(Code::ActionNotFound)?;
        if version != Some(VERSION) {
            return Err(Code::InvalidVersion.into());
        }
        let signature = if in_header {
            Some(read_header(authorization, request.headers)?)
        } else if in_parameters {
            Some(read_parameters(request.parameters)?)
        } else {
            None
        };
        Ok(Self {
            action,
            request,
            signature,
        })
    }

    /// Returns which key the call says to be signed with; refused when it is not signed at all.
    pub fn key_id(&self) -> Result<&'a str, Refusal> {
        self.signed().map(|signature| signature.key_id)
    }

    /// Returns whether the call carries a signature, valid or not.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Compares the signature, and the body with its signed digest, with what `secret` gives.
    pub fn verify(&self, secret: &[u8]) -> Result<(), Refusal> {
        let signature = self.signed()?;
        let right = match &signature.scheme {
            SignedBy::Header { signed_headers } => {
                let ours = self.request.header_signature(secret, signed_headers);
                equal(ours.as_bytes(), signature.signature.as_bytes())
                    & equal(
                        hex::encode(self.request.body_sha256).as_bytes(),
                        self.request.stated_body_digest().as_bytes(),
                    )
            }
            SignedBy::Parameter => equal(
                self.request.parameter_signature(secret).as_bytes(),
                signature.signature.as_bytes(),
            ),
        };
        match right {
            true => Ok(()),
            false => Err(self.mismatch(&signature.scheme)),
        }
    }

    /// Compares the signed time with `now_ms`, and returns it, in milliseconds. Ask only after
    /// [`Call::verify`].
    pub fn time(&self, now_ms: i64) -> Result<i64, Refusal> {
        let time = time::parse(self.signed()?.time).ok_or(Code::TimeStampFormat)?;
        match (now_ms - time).abs() {
            0..=WINDOW_MS => Ok(time),
            _ => Err(Code::TimeStampExpired.into()),
        }
    }

    /// Returns the signed nonce. Store it only after [`Call::verify`], or forgers use up the nonces
    /// of others.
    pub fn nonce(&self) -> Result<&'a str, Refusal> {
        self.signed().map(|signature| signature.nonce)
    }

    fn signed(&self) -> Result<&Signature<'a>, Refusal> {
        let missing = || Code::Missing("AccessKeyId").into();
        self.signature.as_ref().ok_or_else(missing)
    }

    /// The vendor's older client splits this message at its first colon, compares what follows with
    /// its own text and tells its user that the secret is wrong when they agree (docs/ens.md §7).
    fn mismatch(&self, scheme: &SignedBy<'_>) -> Refusal {
        let mut text = Vec::new();
        let mut show = |piece: &[u8]| {
            let room = MAX_SHOWN.saturating_sub(text.len());
            text.extend_from_slice(&piece[..piece.len().min(room)]);
        };
        let start = match scheme {
            SignedBy::Parameter => {
                self.request.parameter_text(&mut show);
                "Specified signature is not matched with our calculation. server string to sign is:"
            }
            SignedBy::Header { signed_headers } => {
                show(self.request.header_text(signed_headers).as_bytes());
                show(b" server body sha256 is:");
                show(hex::encode(self.request.body_sha256).as_bytes());
                show(b" server canonical request is:");
                self.request.canonical_request(signed_headers, &mut show);
                "Specified signature does not match our calculation. server string to sign is:"
            }
        };
        Refusal {
            code: Code::SignatureDoesNotMatch,
            message: format!("{start}{}", String::from_utf8_lossy(&text)),
        }
    }
}

/// With the header scheme both come from signed headers, with the other from signed parameters;
/// other headers are not signed and are ignored. An unsigned call may use either.
fn action_and_version(
    request: Request<'_>,
    in_header: bool,
    in_parameters: bool,
) -> Result<(Option<&str>, Option<&str>), Refusal> {
    let headers = (
        header(request.headers, "x-acs-action"),
        header(request.headers, "x-acs-version"),
    );
    if in_header {
        return Ok(headers);
    }
    let action = request.parameters.optional("Action")?;
    let version = request.parameters.optional("Version")?;
    if in_parameters {
        return Ok((action, version));
    }
    Ok((action.or(headers.0), version.or(headers.1)))
}

fn read_header<'a>(text: &'a str, headers: &'a HeaderMap) -> Result<Signature<'a>, Refusal> {
    let incomplete = |detail: &str| Refusal::because(Code::IncompleteSignature, detail);
    let (scheme, fields) = text.split_once(' ').unwrap_or((text, ""));
    if scheme != "ACS3-HMAC-SHA256" {
        return Err(Code::InvalidSignatureMethod.into());
    }
    let [mut key_id, mut signed_headers, mut signature] = [None; 3];
    for field in fields.split(',') {
        let slot = match field.trim().split_once('=') {
            Some(("Credential", value)) => key_id.replace(value),
            Some(("SignedHeaders", value)) => signed_headers.replace(value),
            Some(("Signature", value)) => signature.replace(value),
            _ => return Err(incomplete("Authorization holds a field that is not known.")),
        };
        if slot.is_some() {
            return Err(incomplete("Authorization states a field twice."));
        }
    }
    let (Some(key_id), Some(signed_headers), Some(signature)) = (key_id, signed_headers, signature)
    else {
        return Err(incomplete(
            "Authorization needs Credential, SignedHeaders and Signature.",
        ));
    };
    check_signed_headers(signed_headers, headers)?;
    if headers.contains_key("x-acs-security-token") {
        return Err(Code::TokenMalformed.into());
    }
    if key_id.is_empty() {
        return Err(Code::Missing("AccessKeyId").into());
    }
    Ok(Signature {
        scheme: SignedBy::Header { signed_headers },
        key_id,
        signature,
        nonce: checked_nonce(header(headers, "x-acs-signature-nonce").unwrap_or(""))?,
        time: header(headers, "x-acs-date").unwrap_or(""),
    })
}

fn check_signed_headers(list: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let names: Vec<&str> = list.split(';').collect();
    let wrong = |detail: String| Err(Refusal::because(Code::IncompleteSignature, detail));
    if !names.is_sorted_by(|a, b| a < b) {
        return wrong("SignedHeaders is not sorted, or names a header twice.".to_owned());
    }
    if let Some(missing) = MUST_SIGN.iter().find(|name| !names.contains(name)) {
        return wrong(format!("SignedHeaders must name {missing}."));
    }
    // The names that must be signed are read again below, so each must be there exactly once.
    if let Some(name) = MUST_SIGN
        .iter()
        .find(|name| headers.get_all(**name).iter().count() != 1)
    {
        return wrong(format!("The header {name} must be there exactly once."));
    }
    if names.iter().any(|name| !headers.contains_key(*name)) {
        return wrong("SignedHeaders names a header that is not there.".to_owned());
    }
    Ok(())
}

fn read_parameters(parameters: &Parameters) -> Result<Signature<'_>, Refusal> {
    let key_id = parameters.required("AccessKeyId")?;
    let method = parameters.optional("SignatureMethod")?;
    let version = parameters.optional("SignatureVersion")?;
    let kind = parameters.optional("SignatureType")?;
    if (method, version, kind) != (Some("HMAC-SHA1"), Some("1.0"), None) {
        return Err(Code::InvalidSignatureMethod.into());
    }
    let time = parameters.required("Timestamp")?;
    let nonce = checked_nonce(parameters.required("SignatureNonce")?)?;
    if parameters.optional("SecurityToken")?.is_some() {
        return Err(Code::TokenMalformed.into());
    }
    Ok(Signature {
        scheme: SignedBy::Parameter,
        key_id,
        signature: parameters.required("Signature")?,
        nonce,
        time,
    })
}

fn checked_nonce(nonce: &str) -> Result<&str, Refusal> {
    match nonce.len() {
        0 => Err(Code::Missing("SignatureNonce").into()),
        1..=MAX_NONCE => Ok(nonce),
        _ => Err(Refusal::parameter(
            "SignatureNonce",
            format!("It has more than {MAX_NONCE} bytes."),
        )),
    }
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests;
