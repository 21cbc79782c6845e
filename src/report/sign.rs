//! The signature of Standard Webhooks 1.0: `v1,` and the Base64 of HMAC-SHA256 over
//! `id.timestamp.body`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::sys::secret::Secret;

/// Shortest key, in bytes, by the specification.
const SHORTEST: usize = 24;

/// Marks a secret in Base64.
const PREFIX: &[u8] = b"whsec_";

pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// Makes a key of a secret: `whsec_` and base64, or any text that is long enough.
    pub(super) fn new(secret: &Secret) -> Result<Self, &'static str> {
        let bytes = match secret.expose().strip_prefix(PREFIX) {
            Some(base64) => STANDARD
                .decode(base64)
                .map_err(|_| "is not Base64 after `whsec_`")?,
            None => secret.expose().to_vec(),
        };
        if bytes.len() < SHORTEST {
            return Err("is shorter than 24 bytes");
        }
        let mac = Hmac::new_from_slice(&bytes).map_err(|_| "is not a key")?;
        Ok(Self(mac))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Returns the value of `webhook-signature`: one signature per key.
pub(super) fn header(keys: &[Key], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = keys.iter().map(|k| k.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<Key, &'static str> {
        Key::new(&Secret::new(text.as_bytes().to_vec()))
    }

    /// The example of the specification; another implementation of HMAC gives the same signature.
    #[test]
    fn signs_as_the_specification_does() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            header(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    /// HMAC-SHA256 by its definition (RFC 2104) over the plain hash, without the crate that the sender uses.
    #[test]
    fn signs_as_the_definition_of_hmac_does() {
        use sha2::Digest;
        let secret = b"a text of more than 24 bytes!";
        let mut block = [0u8; 64];
        block[..secret.len()].copy_from_slice(secret);
        let pad = |byte: u8| block.map(|b| b ^ byte);
        let message = [b"msg_1.1700000000.".as_slice(), b"{}"].concat();
        let inner = sha2::Sha256::digest([pad(0x36).as_slice(), &message].concat());
        let outer = sha2::Sha256::digest([pad(0x5c).as_slice(), &inner].concat());
        let want = format!("v1,{}", STANDARD.encode(outer));
        let one = key("a text of more than 24 bytes!").unwrap();
        let two = key("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
        let both = header(&[one, two], "msg_1", 1_700_000_000, b"{}");
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, want);
        assert!(second.starts_with("v1,") && second != first);
    }

    #[test]
    fn refuses_keys_that_are_weak_or_garbled() {
        assert!(key("whsec_!!!").is_err());
        assert!(key("whsec_c2hvcnQ=").is_err());
        assert!(key("too short").is_err());
    }
}
