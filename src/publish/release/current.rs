//! `current`: which version of a name is live, and how another one becomes so.

use std::fs;

use super::Publisher;
use crate::datafile::{AppId, DataName, DataVersion, Key, from_path_component};
use crate::publish::{Error, Layout, manifest};
use crate::sys::durable;

/// State of a name's `current`, compared with the version recorded as live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It points to that version.
    Right,
    /// It points to another published version.
    Other(Key),
    /// It is missing, or points to nothing that was published.
    Broken,
    /// The recorded version has no tree for `current` to point to.
    NoTree,
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
        if fs::read_link(&link).is_ok_and(|now| now == target) {
            return Ok(Flip {
                from,
                changed: false,
            });
        }
        durable::replace_symlink(&target, &link)?;
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

    /// Compares `current` with `key`, the version recorded as live.
    #[must_use]
    pub fn look_at_link(&self, key: &Key) -> Link {
        if !self.layout.version_dir(key).is_dir() {
            return Link::NoTree;
        }
        let Ok(target) = fs::read_link(self.layout.current(&key.app, &key.name)) else {
            return Link::Broken;
        };
        if target == Layout::current_target(key) {
            return Link::Right;
        }
        let other = self.live(&key.app, &key.name).map(|version| Key {
            version,
            ..key.clone()
        });
        match other {
            Some(other)
                if target == Layout::current_target(&other)
                    && self.layout.version_dir(&other).is_dir() =>
            {
                Link::Other(other)
            }
            _ => Link::Broken,
        }
    }

    /// Returns the live version of a name, according to `current`.
    #[must_use]
    pub fn live(&self, app: &AppId, name: &DataName) -> Option<DataVersion> {
        let target = fs::read_link(self.layout.current(app, name)).ok()?;
        let component = target.file_name()?.to_str()?.to_owned();
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
