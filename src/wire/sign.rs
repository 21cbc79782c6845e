//! Who asks: both signature schemes of the vendor's clients, checked in the contract's order (docs/ens.md §5).
//!
//! [`Call::read`] finds out what is asked and how it is signed, without believing any of it; [`Call::verify`] compares the
//! signature with what the key's secret gives, in constant time; only then are its time and its nonce worth a look. Texts
//! that are signed can be as long as the request: they are hashed piece by piece and never put together, but for the
//! answer to a wrong signature, which is cut.

use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::errors::{Code, Refusal};
use super::parameters::{Pair, Parameters};

/// The one version of the API.
pub const VERSION: &str = "2017-11-10";
/// How far a request's time may be from ours.
pub const WINDOW_MS: i64 = 15 * 60 * 1000;

/// Longest nonce that is taken, in bytes.
const MAX_NONCE: usize = 256;
/// Longest text to sign that an answer repeats; a client that compares it has a longer one only by accident.
const MAX_SHOWN: usize = 128 * 1024;
/// What a header signature must cover, so that nobody can change what the call means or send it again.
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

/// A request as it arrived at `/`.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The pairs of query and form.
    pub parameters: &'a Parameters,
    /// SHA-256 of the body as it was received.
    pub body_sha256: [u8; 32],
}

/// What is asked, and how it says to be signed. Nothing of it is proven.
pub struct Call<'a> {
    /// What is asked.
    pub action: Action,
    request: Request<'a>,
    signature: Option<Signature<'a>>,
}

struct Signature<'a> {
    scheme: Scheme<'a>,
    key_id: &'a str,
    signature: &'a str,
    nonce: &'a str,
    time: &'a str,
}

enum Scheme<'a> {
    /// The `Authorization` header, with the list of signed headers.
    Header { signed_headers: &'a str },
    /// The parameter `Signature`.
    Parameter,
}

impl<'a> Call<'a> {
    /// Reads action, version and signature fields, in this order. A call without any signature is for the caller to
    /// judge: see [`Call::key_id`].
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

    /// Tells whether the call carries a signature, right or wrong.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Compares the signature, and the body with its signed digest, with what `secret` gives.
    pub fn verify(&self, secret: &[u8]) -> Result<(), Refusal> {
        let signature = self.signed()?;
        let right = match &signature.scheme {
            Scheme::Header { signed_headers } => {
                let ours = self.header_signature(secret, signed_headers);
                equal(ours.as_bytes(), signature.signature.as_bytes())
                    & equal(
                        hex::encode(self.request.body_sha256).as_bytes(),
                        self.stated_body_digest().as_bytes(),
                    )
            }
            Scheme::Parameter => equal(
                self.parameter_signature(secret).as_bytes(),
                signature.signature.as_bytes(),
            ),
        };
        match right {
            true => Ok(()),
            false => Err(self.mismatch(&signature.scheme)),
        }
    }

    /// Compares the signed time with `now_ms`, and returns it, in milliseconds. Ask only after [`Call::verify`].
    pub fn time(&self, now_ms: i64) -> Result<i64, Refusal> {
        let time = parse_time(self.signed()?.time).ok_or(Code::TimeStampFormat)?;
        match (now_ms - time).abs() {
            0..=WINDOW_MS => Ok(time),
            _ => Err(Code::TimeStampExpired.into()),
        }
    }

    /// Returns the signed nonce. Store it only after [`Call::verify`], or forgers use up the nonces of others.
    pub fn nonce(&self) -> Result<&'a str, Refusal> {
        self.signed().map(|signature| signature.nonce)
    }

    fn signed(&self) -> Result<&Signature<'a>, Refusal> {
        let missing = || Code::Missing("AccessKeyId").into();
        self.signature.as_ref().ok_or_else(missing)
    }

    fn stated_body_digest(&self) -> &'a str {
        header(self.request.headers, "x-acs-content-sha256").unwrap_or("")
    }

    fn header_signature(&self, secret: &[u8], signed_headers: &str) -> String {
        let mut mac = hmac::<Hmac<Sha256>>(secret);
        mac.update(self.header_text(signed_headers).as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    /// Returns the string to sign of the header scheme.
    fn header_text(&self, signed_headers: &str) -> String {
        let mut sha256 = Sha256::new();
        self.canonical_request(signed_headers, &mut |piece| sha256.update(piece));
        format!("ACS3-HMAC-SHA256\n{}", hex::encode(sha256.finalize()))
    }

    fn canonical_request(&self, signed_headers: &str, out: &mut dyn FnMut(&[u8])) {
        out(self.request.method.as_bytes());
        out(b"\n/\n");
        let pairs: Vec<&Pair> = self.request.parameters.query().iter().collect();
        canonical_pairs(pairs, out);
        out(b"\n");
        for name in signed_headers.split(';') {
            out(name.as_bytes());
            out(b":");
            for (n, value) in self.request.headers.get_all(name).iter().enumerate() {
                out(if n > 0 { b"," } else { b"" });
                out(value.as_bytes().trim_ascii());
            }
            out(b"\n");
        }
        out(b"\n");
        out(signed_headers.as_bytes());
        out(b"\n");
        out(self.stated_body_digest().as_bytes());
    }

    fn parameter_signature(&self, secret: &[u8]) -> String {
        use base64::Engine as _;
        let mut mac = hmac::<Hmac<Sha1>>(&[secret, b"&"].concat());
        self.parameter_text(&mut |piece| mac.update(piece));
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    }

    /// Writes the string to sign of the parameter scheme: the canonical pairs, percent-encoded once more.
    fn parameter_text(&self, out: &mut dyn FnMut(&[u8])) {
        out(self.request.method.as_bytes());
        out(b"&%2F&");
        let pairs = self.request.parameters.all().iter();
        let signed = pairs.filter(|pair| pair.name != b"Signature").collect();
        let mut twice = Vec::new();
        canonical_pairs(signed, &mut |piece| {
            twice.clear();
            percent_encode(piece, &mut twice);
            out(&twice);
        });
    }

    /// The vendor's older client splits this message at its first colon, compares what follows with its own text and
    /// tells its user that the secret is wrong when they agree (docs/ens.md §7).
    fn mismatch(&self, scheme: &Scheme<'_>) -> Refusal {
        let mut text = Vec::new();
        let mut show = |piece: &[u8]| {
            let room = MAX_SHOWN.saturating_sub(text.len());
            text.extend_from_slice(&piece[..piece.len().min(room)]);
        };
        let start = match scheme {
            Scheme::Parameter => {
                self.parameter_text(&mut show);
                "Specified signature is not matched with our calculation. server string to sign is:"
            }
            Scheme::Header { signed_headers } => {
                show(self.header_text(signed_headers).as_bytes());
                show(b" server body sha256 is:");
                show(hex::encode(self.request.body_sha256).as_bytes());
                show(b" server canonical request is:");
                self.canonical_request(signed_headers, &mut show);
                "Specified signature does not match our calculation. server string to sign is:"
            }
        };
        Refusal {
            code: Code::SignatureDoesNotMatch,
            message: format!("{start}{}", String::from_utf8_lossy(&text)),
        }
    }
}

/// With the header scheme both come from signed headers, with the other from signed parameters; a header beside it is not
/// signed and says nothing. An unsigned call may use either.
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
        scheme: Scheme::Header { signed_headers },
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
        scheme: Scheme::Parameter,
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

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn hmac<M: KeyInit + Mac>(key: &[u8]) -> M {
    <M as KeyInit>::new_from_slice(key).expect("an HMAC takes a key of any length")
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Writes `name=value&..`, sorted by name, percent-encoded.
fn canonical_pairs(mut pairs: Vec<&Pair>, out: &mut dyn FnMut(&[u8])) {
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    for (n, pair) in pairs.into_iter().enumerate() {
        out(if n > 0 { b"&" } else { b"" });
        write_encoded(&pair.name, out);
        out(b"=");
        write_encoded(&pair.value, out);
    }
}

fn write_encoded(text: &[u8], out: &mut dyn FnMut(&[u8])) {
    let mut piece = Vec::new();
    for chunk in text.chunks(4096) {
        piece.clear();
        percent_encode(chunk, &mut piece);
        out(&piece);
    }
}

/// Appends `text` with everything but letters, digits and `-_.~` as `%XX`.
pub(super) fn percent_encode(text: &[u8], out: &mut Vec<u8>) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            out.push(*byte);
        } else {
            let [high, low] = [byte >> 4, byte & 15].map(|half| HEX[usize::from(half)]);
            out.extend_from_slice(&[b'%', high, low]);
        }
    }
}

/// Parses `YYYY-MM-DDTHH:MM:SSZ`, and no other of the many forms that mean the same.
fn parse_time(text: &str) -> Option<i64> {
    let shape = text
        .bytes()
        .map(|b| if b.is_ascii_digit() { b'0' } else { b });
    if !shape.eq(*b"0000-00-00T00:00:00Z") {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond())
}

#[cfg(test)]
mod tests;
