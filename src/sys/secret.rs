//! Secrets from files: read only if nobody else can read the file, and never printed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::durable;

/// Longest secret in bytes; anything longer is a mistake.
const MAX: u64 = 64 * 1024;
/// Length of a generated key in bytes, before it is written as hex.
const NEW: usize = 32;

/// A secret. Its `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] durable::Error),
    #[error(
        "use `{}` as a secret: its mode is {mode:04o}, expected 0600 or 0400",
        path.display()
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "use `{}` as a secret: it has {len} bytes, expected 1 to {MAX}",
        path.display()
    )]
    Length {
        path: PathBuf,
        /// In bytes, without surrounding white space.
        len: usize,
    },
}

impl Secret {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Reads a secret from `path`, without surrounding white space. A relative path is below the service
    /// manager's credentials directory (`LoadCredential=`), if there is one.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        match credentials {
            Some(directory) if path.is_relative() => Self::read_file(&directory.join(path)),
            _ => Self::read_file(path),
        }
    }

    /// Reads the secret at `path`, or generates one and writes it there if the file is missing.
    pub fn read_or_make(path: &Path) -> Result<Self, Error> {
        match Self::read_file(path) {
            Err(Error::File(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                let text = hex::encode(random::<NEW>()?);
                durable::write_file(path, format!("{text}\n").as_bytes(), 0o600)?;
                Ok(Self(text.into_bytes()))
            }
            other => other,
        }
    }

    /// Returns the secret. Never print it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn read_file(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(durable::at("open", path))?;
        let mode = file
            .metadata()
            .map_err(durable::at("look at", path))?
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(Error::Mode { path, mode });
        }
        let mut bytes = Vec::new();
        file.take(MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(durable::at("read", path))?;
        let secret = bytes.trim_ascii().to_vec();
        let len = secret.len();
        if len == 0 || len as u64 > MAX {
            let path = path.to_owned();
            return Err(Error::Length { path, len });
        }
        Ok(Self(secret))
    }
}

/// Returns random bytes from the kernel.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|e| durable::at("read", Path::new("/dev/urandom"))(e.into()))?;
    }
    Ok(bytes)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn reads_only_what_nobody_else_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, " s3cret\n").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = Secret::read(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            assert!(!format!("{read:?}").contains("s3cret"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Secret::read(&path).unwrap().expose(), b"s3cret");
        fs::write(&path, "\n").unwrap();
        assert!(matches!(Secret::read(&path), Err(Error::Length { .. })));
    }

    #[test]
    fn makes_a_secret_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = Secret::read_or_make(&path).unwrap();
        assert_eq!(made.expose().len(), 2 * NEW);
        assert_eq!(Secret::read_or_make(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_ne!(
            Secret::read_or_make(&dir.path().join("other")).unwrap(),
            made
        );
    }
}
