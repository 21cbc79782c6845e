//! What was found on the disk that an operator should know, in words that say what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::recover::Compared;
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::publish::Standing;
use crate::publish::recover::{OnDisk, Place};
use crate::shown::model::Finding;

/// Most corrections that are remembered and logged one by one; more of them are only counted.
const MOST: usize = 20;
/// Most versions that one sentence names.
const NAMED: usize = 5;

/// The findings of the last comparison, and what comparisons have corrected since the start.
#[derive(Default)]
pub(super) struct Findings {
    found: Mutex<BTreeMap<Place, Vec<Finding>>>,
    corrected: Mutex<Vec<Finding>>,
}

impl Findings {
    /// Returns what there is to say, corrections first.
    pub(super) fn shown(&self) -> Vec<Finding> {
        let mut shown = lock(&self.corrected).clone();
        shown.extend(lock(&self.found).values().flatten().cloned());
        shown
    }

    /// Forgets the findings of names that are in order again.
    pub(super) fn retain(&self, differs: impl Fn(&Place) -> bool) {
        lock(&self.found).retain(|place, _| differs(place));
    }

    pub(super) fn note_entered(&self, key: &Key, live: bool, before: Option<&DataVersion>) {
        let text = match (live, before) {
            (false, _) => "it was on the disk and not in the database; it is entered".to_owned(),
            (true, None) => "it was on the disk and not in the database; it is entered, and live, since `current` leads to it".to_owned(),
            (true, Some(before)) => format!(
                "it was on the disk and not in the database, which had {before} as live; it is entered and live, since `current` leads to it"
            ),
        };
        self.correct("recovered", key, text);
    }

    pub(super) fn note_followed(&self, key: &Key, before: Option<&DataVersion>) {
        let before = before.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let text = format!("`current` leads to it, and {before} was recorded as live; it is live");
        self.correct("link-changed", key, text);
    }

    fn correct(&self, what: &'static str, key: &Key, text: String) {
        let mut corrected = lock(&self.corrected);
        if corrected.len() < MOST {
            tracing::warn!(event = what, data = %key, "{text}");
            corrected.push(finding(what, key.to_string(), text));
        } else {
            tracing::debug!(event = what, data = %key, "{text}");
        }
    }

    pub(super) fn note_unnamed(&self, place: &Place) {
        let text = "the name of this directory was cut, and no manifest has the whole of it: push its versions again, or remove it".to_owned();
        let found = finding("unknown-tree", format!("{}/{}", place.0, place.1), text);
        self.replace(place.clone(), vec![found]);
    }

    /// Takes down what is left to say of a name after everything that can be corrected was.
    pub(super) fn compare(&self, app: &AppId, name: &DataName, disk: &OnDisk, known: &Compared) {
        let of_name = format!("{app}/{name}");
        let found = said(disk, known).into_iter();
        let found = found.map(|(what, text)| finding(what, of_name.clone(), text));
        self.replace(disk.place.clone(), found.collect());
    }

    /// Replaces the findings of a name, and logs those that are new.
    fn replace(&self, place: Place, found: Vec<Finding>) {
        let mut all = lock(&self.found);
        let before = all.remove(&place).unwrap_or_default();
        for finding in found.iter().filter(|finding| !before.contains(finding)) {
            tracing::warn!(
                event = "found",
                what = finding.what,
                on = finding.on,
                "{}",
                finding.text
            );
        }
        if !found.is_empty() {
            all.insert(place, found);
        }
    }
}

/// Returns what there is to say of a name, each with its kind.
fn said(disk: &OnDisk, known: &Compared) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    let unknown = |have: &BTreeSet<String>| -> Vec<String> {
        let unknown = have.iter().filter(|version| !known.knows(version));
        unknown.cloned().collect()
    };
    let (trees, mut manifests) = (unknown(&disk.trees), unknown(&disk.manifests));
    let mut archives = unknown(&disk.archives);
    manifests.retain(|version| !disk.trees.contains(version));
    archives.retain(|v| !disk.trees.contains(v) && !disk.manifests.contains(v));
    match &disk.standing {
        Standing::Version { version, .. } if trees.contains(version) => said.push((
            "unknown-version-live",
            format!("`current` leads to versions/{version}, which has no readable manifest, so that nobody knows whether it is whole; readers see it, and it is left as it is: push this version again, or activate another one"),
        )),
        Standing::Dangling => said.push((
            "nothing-live",
            "`current` leads to a version that has no tree: push that version again, or activate another one".to_owned(),
        )),
        Standing::Foreign(what) => said.push((
            "nothing-live",
            format!("{what} stands where the link `current` belongs, and no version can take its place: push a version, or activate one"),
        )),
        Standing::Version { .. } | Standing::Missing => {}
    }
    for (what, versions, text) in [
        (
            "unknown-tree",
            trees,
            "on the disk without a readable manifest: push it again, or remove its directory below data/",
        ),
        (
            "lone-manifest",
            manifests,
            "a manifest without a tree: push it again, or remove the manifest",
        ),
        (
            "lone-archive",
            archives,
            "an archive without tree and manifest: push it again, or remove the archive",
        ),
    ] {
        if !versions.is_empty() {
            said.push((what, format!("{}: {text}", listed(&versions))));
        }
    }
    for path in &disk.set_aside {
        let path = path.display();
        said.push(("set-aside", format!("what stood at `current` was set aside as `{path}`: see whether anybody needs it, then remove it")));
    }
    said
}

fn listed(versions: &[String]) -> String {
    let named = versions.iter().take(NAMED);
    let mut text = named.map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Some(more) = versions.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn finding(what: &str, on: String, text: String) -> Finding {
    Finding {
        what: what.to_owned(),
        on,
        text,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
