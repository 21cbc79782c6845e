//! The strings to sign of both schemes and their signatures, for checking as well as for signing.
//!
//! A string to sign can be as long as its request: it is hashed piece by piece and never built.

use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::wire::encode::encode_into;
use crate::wire::parameters::{Pair, Parameters};

/// A request to `/`, as it arrived or as it is going to be sent.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The pairs of query and form.
    pub parameters: &'a Parameters,
    /// SHA-256 of the body.
    pub body_sha256: [u8; 32],
}

impl<'a> Request<'a> {
    pub(super) fn stated_body_digest(&self) -> &'a str {
        header(self.headers, "x-acs-content-sha256").unwrap_or("")
    }

    pub(super) fn header_signature(&self, secret: &[u8], signed_headers: &str) -> String {
        let mut mac = hmac::<Hmac<Sha256>>(secret);
        mac.update(self.header_text(signed_headers).as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    /// Returns the string to sign of the header scheme.
    pub(super) fn header_text(&self, signed_headers: &str) -> String {
        let mut sha256 = Sha256::new();
        self.canonical_request(signed_headers, &mut |piece| sha256.update(piece));
        format!("ACS3-HMAC-SHA256\n{}", hex::encode(sha256.finalize()))
    }

    pub(super) fn canonical_request(&self, signed_headers: &str, out: &mut dyn FnMut(&[u8])) {
        out(self.method.as_bytes());
        out(b"\n/\n");
        let pairs: Vec<&Pair> = self.parameters.query().iter().collect();
        canonical_pairs(pairs, out);
        out(b"\n");
        for name in signed_headers.split(';') {
            out(name.as_bytes());
            out(b":");
            for (n, value) in self.headers.get_all(name).iter().enumerate() {
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

    pub(super) fn parameter_signature(&self, secret: &[u8]) -> String {
        let mut mac = hmac::<Hmac<Sha1>>(&[secret, b"&"].concat());
        self.parameter_text(&mut |piece| mac.update(piece));
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    }

    /// Writes the string to sign of the parameter scheme: the canonical pairs, percent-encoded once
    /// more.
    pub(super) fn parameter_text(&self, out: &mut dyn FnMut(&[u8])) {
        out(self.method.as_bytes());
        out(b"&%2F&");
        let pairs = self.parameters.all().iter();
        let signed = pairs.filter(|pair| pair.name != b"Signature").collect();
        let mut twice = Vec::new();
        canonical_pairs(signed, &mut |piece| {
            twice.clear();
            encode_into(piece, &mut twice);
            out(&twice);
        });
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn hmac<M: KeyInit + Mac>(key: &[u8]) -> M {
    <M as KeyInit>::new_from_slice(key).expect("an HMAC takes a key of any length")
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
        encode_into(chunk, &mut piece);
        out(&piece);
    }
}
