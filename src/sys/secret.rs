//! Secrets from files: read only if nobody else can read the file, and never printed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::durable;

/// Longest secret in bytes; anything longer is a mistake.
const MAX: u64 = 64 * 1024;
/// A secret with fewer bytes than this can be guessed.
pub const SHORT: usize = 16;
/// Length of a generated key in bytes, before it is written as hex.
const NEW: usize = 32;

/// Rights that the file of a secret may not give: any to group and others.
const REFUSED: u32 = 0o077;
/// The same for a file that the service manager made. Since systemd 254 those are 0400 with an access control
/// list for the service's user, and the mask of a list stands where the group's rights would: 0440.
const CREDENTIAL_REFUSED: u32 = 0o027;

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
        "use `{}` as a secret: it belongs to user {owner}, expected root or the user of this process",
        path.display()
    )]
    Owner { path: PathBuf, owner: u32 },
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
        Self::read_of(path, credentials.as_deref())
    }

    fn read_of(path: &Path, credentials: Option<&Path>) -> Result<Self, Error> {
        let Some(directory) = credentials else {
            return Self::read_file(path, false);
        };
        // `join` leaves an absolute path as it is.
        let path = directory.join(path);
        let is_below = path.starts_with(directory)
            && !path.components().any(|part| part == Component::ParentDir);
        Self::read_file(&path, is_below)
    }

    /// Reads the secret at `path`, or generates one and writes it there if the file is missing.
    pub fn read_or_make(path: &Path) -> Result<Self, Error> {
        match Self::read_file(path, false) {
            Err(Error::File(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                let text = hex::encode(random::<NEW>()?);
                durable::write_file(path, format!("{text}\n").as_bytes(), 0o600)?;
                Ok(Self(text.into_bytes()))
            }
            other => other,
        }
    }

    /// Returns whether the secret is easily guessed.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.len() < SHORT
    }

    /// Returns the secret. Never print it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn read_file(path: &Path, is_credential: bool) -> Result<Self, Error> {
        let file = File::open(path).map_err(durable::at("open", path))?;
        let metadata = file.metadata().map_err(durable::at("look at", path))?;
        let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
        let refused = if is_credential {
            CREDENTIAL_REFUSED
        } else {
            REFUSED
        };
        if mode & refused != 0 {
            let path = path.to_owned();
            return Err(Error::Mode { path, mode });
        }
        if !is_credential && !may_own(owner, rustix::process::geteuid().as_raw()) {
            let path = path.to_owned();
            return Err(Error::Owner { path, owner });
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

/// Returns whether a secret of `owner` may be used by `me`. Root can read every file, and checks those of the
/// service's user on its behalf (`sudo edgepush doctor`).
fn may_own(owner: u32, me: u32) -> bool {
    owner == 0 || owner == me || me == 0
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

    /// Gives user 1 the right to read `path`, as systemd does for the user of a service.
    fn grant_by_acl(path: &Path) {
        // Version 2, then (tag, rights, id): owner, user 1, group, mask, others.
        let entries: [(u16, u16, u32); 5] = [
            (0x01, 4, u32::MAX),
            (0x02, 4, 1),
            (0x04, 0, u32::MAX),
            (0x10, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let name = "system.posix_acl_access";
        rustix::fs::setxattr(path, name, &list, rustix::fs::XattrFlags::empty()).unwrap();
    }

    #[test]
    fn reads_a_credential_that_an_acl_gives_to_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "s3cret").unwrap();
        grant_by_acl(&path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o440);
        let read = |name: &Path, directory| Secret::read_of(name, directory);
        let directory = Some(dir.path());
        assert!(read(Path::new("key"), directory).is_ok());
        assert!(read(&path, directory).is_ok());
        // Elsewhere the same list gives a secret away.
        assert!(matches!(read(&path, None), Err(Error::Mode { .. })));
        let other = tempfile::tempdir().unwrap();
        let elsewhere = read(&path, Some(other.path()));
        assert!(matches!(elsewhere, Err(Error::Mode { .. })));
        let up = Path::new("../key");
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        assert!(matches!(read(up, Some(&below)), Err(Error::Mode { .. })));
        for mode in [0o420, 0o404, 0o402, 0o401] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read(Path::new("key"), directory);
            assert!(matches!(read, Err(Error::Mode { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_secret_of_another_user_is_not_used() {
        for (owner, me, good) in [(0, 7, true), (7, 7, true), (8, 7, false), (8, 0, true)] {
            assert_eq!(may_own(owner, me), good, "{owner} {me}");
        }
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
