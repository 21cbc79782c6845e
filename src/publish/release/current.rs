//! `current`: which version of a name is live, and how another one becomes so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Publisher;
use crate::datafile::{AppId, DataName, DataVersion, Key, from_path_component};
use crate::publish::{Error, Layout, manifest};
use crate::sys::durable;

/// What readers find at the `current` of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Missing,
    /// A link to the tree of this version, given as its path component.
    Version {
        version: String,
        /// Whether the link is spelled as edgepush spells it.
        exact: bool,
    },
    /// A link to a version that has no tree.
    Dangling,
    /// Something that edgepush never made, in words.
    Foreign(&'static str),
}

/// What was no link of ours is set aside under this name and a number.
const SET_ASIDE: &str = "current.set-aside-";

impl Standing {
    /// Returns what stands at `current` in the directory of a name.
    pub(in crate::publish) fn of(dir: &Path) -> Self {
        let link = dir.join("current");
        let target = match fs::symlink_metadata(&link) {
            Err(_) => return Self::Missing,
            Ok(meta) if meta.is_dir() => return Self::Foreign("a directory"),
            Ok(meta) if !meta.is_symlink() => return Self::Foreign("a file"),
            Ok(_) => fs::read_link(&link).unwrap_or_default(),
        };
        let versions = dir.join("versions");
        let named = target.strip_prefix("versions").ok();
        let named = named.and_then(|version| version.to_str());
        let named = named.filter(|version| !version.is_empty() && !version.contains('/'));
        if let Some(version) = named {
            return match fs::symlink_metadata(versions.join(version)) {
                Ok(meta) if meta.is_dir() => Self::Version {
                    version: version.to_owned(),
                    exact: target == Path::new("versions").join(version),
                },
                _ => Self::Dangling,
            };
        }
        match (fs::canonicalize(&link), fs::canonicalize(&versions)) {
            (Ok(tree), Ok(versions)) if tree.parent() == Some(&versions) && tree.is_dir() => {
                match tree.file_name().and_then(|name| name.to_str()) {
                    Some(version) => Self::Version {
                        version: version.to_owned(),
                        exact: false,
                    },
                    None => Self::Foreign("a link to something else"),
                }
            }
            _ => Self::Foreign("a link to something else"),
        }
    }

    /// Returns what was set aside in the directory of a name.
    pub(in crate::publish) fn set_aside(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let aside = entries.filter(|e| e.file_name().to_string_lossy().starts_with(SET_ASIDE));
        let mut paths: Vec<PathBuf> = aside.map(|e| e.path()).collect();
        paths.sort();
        paths
    }

    /// Tells whether readers see the version of `key`.
    #[must_use]
    pub fn leads_to(&self, key: &Key) -> bool {
        matches!(self, Self::Version { version, .. } if *version == key.version.path_component())
    }
}

/// One flip of `current`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The version that was live before, if any.
    pub from: Option<DataVersion>,
    /// False if `current` already pointed to the version.
    pub changed: bool,
}

impl Publisher {
    /// Makes `key` the live version of its name in one atomic step; durable only after
    /// [`Publisher::settle`].
    pub fn activate(&self, key: &Key) -> Result<Flip, Error> {
        if !self.layout.version_dir(key).is_dir() {
            return Err(Error::NotFound {
                key: key.to_string(),
            });
        }
        let link = self.layout.current(&key.app, &key.name);
        let target = Layout::current_target(key);
        let from = self.live(&key.app, &key.name);
        let standing = self.standing(&key.app, &key.name);
        match standing {
            Standing::Version { exact: true, .. } if standing.leads_to(key) => {
                return Ok(Flip {
                    from,
                    changed: false,
                });
            }
            Standing::Foreign(what) => set_aside(&target, &link, what)?,
            Standing::Missing | Standing::Version { .. } | Standing::Dangling => {
                durable::replace_symlink(&target, &link)?;
            }
        }
        Ok(Flip {
            from,
            changed: true,
        })
    }

    /// Flips `current` to `key`, and waits until the flip is on disk.
    pub fn flip(&self, key: &Key) -> Result<(), Error> {
        self.activate(key)?;
        self.settle_name(&key.app, &key.name)
    }

    /// Returns what readers find at the `current` of a name.
    #[must_use]
    pub fn standing(&self, app: &AppId, name: &DataName) -> Standing {
        Standing::of(&self.layout.name_dir(app, name))
    }

    /// Returns the live version of a name, according to `current`.
    #[must_use]
    pub fn live(&self, app: &AppId, name: &DataName) -> Option<DataVersion> {
        let Standing::Version {
            version: component, ..
        } = self.standing(app, name)
        else {
            return None;
        };
        match from_path_component(&component) {
            Some(text) => DataVersion::parse(&text).ok(),
            // The path component was truncated: the manifest has the full text.
            None => {
                let dir = self
                    .layout
                    .manifests()
                    .join(app.path_component())
                    .join(name.path_component());
                manifest::read_head(&dir.join(format!("{component}.json")))
                    .ok()
                    .map(|head| head.key.version)
            }
        }
    }
}

/// Puts a link to `target` where something stands that edgepush never made, in one step. That keeps
/// its content, under a name that says what happened.
fn set_aside(target: &Path, link: &Path, what: &str) -> Result<(), Error> {
    // The link is made under the name that the other thing gets: a crash leaves either of them there.
    let mut numbers = 1u32..;
    let aside = loop {
        let number = numbers.next().unwrap_or_default();
        let aside = link.with_file_name(format!("{SET_ASIDE}{number}"));
        match std::os::unix::fs::symlink(target, &aside) {
            Ok(()) => break aside,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(durable::at("make link", &aside)(e).into()),
        }
    };
    if let Err(error) = durable::exchange(&aside, link) {
        let _ = fs::remove_file(&aside);
        return Err(error.into());
    }
    tracing::warn!(
        event = "set-aside",
        path = %aside.display(),
        "{what} stood where `current` belongs; it was set aside, and the link is there again"
    );
    Ok(())
}
