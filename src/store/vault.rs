//! Source URLs as they lie in the database: sealed. They often hold a signature or a password, and pages of a database end up
//! in its journal, in copies and in backups; what is there is of no use without the key beside it.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Digest as _;

use super::error::Error;
use crate::sys::secret::{self, Secret};

/// The file of the key, beside the database.
pub(super) const KEY_FILE: &str = "url.key";
/// What a sealed text begins with; one without was written before texts were sealed.
const MARK: &str = "sealed:";
/// Bytes of the nonce in front of the text.
const NONCE: usize = 12;

/// Seals and opens texts with the key of a data directory.
pub(super) struct Vault(LessSafeKey);

impl Vault {
    /// Reads the key in `directory`, which is made at the first start.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(KEY_FILE);
        let secret = Secret::read_or_make(&path).map_err(|e| Error::Key(Arc::new(e)))?;
        let key: [u8; 32] = sha2::Sha256::digest(secret.expose()).into();
        // A key of the right length is always taken.
        UnboundKey::new(&AES_256_GCM, &key)
            .map(|key| Self(LessSafeKey::new(key)))
            .map_err(|_| Error::Sealing)
    }

    pub(super) fn seal(&self, text: &str) -> Result<String, Error> {
        // From the kernel: the library's own source of chance takes 30 ms to start, of every start of the process.
        let nonce: [u8; NONCE] = secret::random().map_err(|e| Error::Key(Arc::new(e)))?;
        let mut bytes = text.as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut bytes,
            )
            .map_err(|_| Error::Sealing)?;
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(&bytes);
        Ok(format!("{MARK}{}", BASE64.encode(sealed)))
    }

    /// Opens a text; none if it was sealed with another key or is damaged.
    pub(super) fn unseal(&self, text: &str) -> Option<String> {
        let Some(sealed) = text.strip_prefix(MARK) else {
            return Some(text.to_owned());
        };
        let bytes = BASE64.decode(sealed).ok()?;
        let (nonce, text) = bytes.split_at_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let plain = self.0.open_in_place(nonce, Aad::empty(), &mut text).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_has_sealed_and_nothing_else() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let vault = Vault::open(one.path()).unwrap();
        let sealed = vault.seal("http://h/x?sign=SECRET").unwrap();
        assert!(!sealed.contains("SECRET"));
        assert_ne!(sealed, vault.seal("http://h/x?sign=SECRET").unwrap());
        let again = Vault::open(one.path()).unwrap();
        assert_eq!(
            again.unseal(&sealed).as_deref(),
            Some("http://h/x?sign=SECRET")
        );
        assert_eq!(Vault::open(two.path()).unwrap().unseal(&sealed), None);
        for odd in [
            "sealed:",
            "sealed:x",
            "sealed:AAAA",
            &sealed[..sealed.len() - 4],
        ] {
            assert_eq!(vault.unseal(odd), None, "{odd}");
        }
        assert_eq!(
            vault.unseal("http://plain/").as_deref(),
            Some("http://plain/")
        );
    }
}
