use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::datafile::{Content, DataVersion};
use crate::publish::check::Depth;
use crate::verify::Hasher;

fn key(version: &str) -> Key {
    Key {
        app: AppId::parse("app").unwrap(),
        name: DataName::parse("site/pages").unwrap(),
        version: DataVersion::parse(version).unwrap(),
    }
}

fn publisher(root: &Path) -> Publisher {
    Publisher::open(root, Config::default(), 0o022).unwrap()
}

fn publish(publisher: &Publisher, version: &str) -> Result<Release, Error> {
    publish_as(publisher, version, version, false)
}

fn publish_as(
    publisher: &Publisher,
    version: &str,
    text: &str,
    heal: bool,
) -> Result<Release, Error> {
    let session = publisher.session(false);
    let staging = publisher.stage(&key("0"), 1).unwrap();
    fs::write(staging.path().join("index.html"), text).unwrap();
    let archive = publisher
        .layout()
        .spool()
        .join(format!("{version}.partial"));
    fs::write(&archive, b"archive").unwrap();
    let mut hasher = Hasher::new(Content::default());
    hasher.update(text.as_bytes());
    let key = key(version);
    let record = Record {
        key: &key,
        archive_type: ArchiveType::Zip,
        job: 1,
        accepted_ms: 1,
        now_ms: 2,
        entries: &[],
        heal,
    };
    let release = publisher.publish(
        staging,
        hasher.finish().unwrap(),
        &record,
        |to: &Path| durable::rename(&archive, to),
        &session,
    )?;
    publisher.settle(&session)?;
    Ok(release)
}

fn staged(publisher: &Publisher) -> usize {
    fs::read_dir(publisher.layout().staging()).unwrap().count()
}

#[test]
fn publishes_flips_and_removes() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    publish(&publisher, "1").unwrap();
    publish(&publisher, "2").unwrap();
    let (one, two) = (key("1"), key("2"));
    assert!(
        publisher.live(&one.app, &one.name).is_none(),
        "publishing alone makes nothing live"
    );

    assert_eq!(
        publisher.activate(&one).unwrap(),
        Flip {
            from: None,
            changed: true
        }
    );
    assert_eq!(
        publisher.activate(&two).unwrap().from,
        Some(one.version.clone())
    );
    assert!(!publisher.activate(&two).unwrap().changed);
    let current = publisher.layout().current(&one.app, &one.name);
    assert_eq!(fs::read_to_string(current.join("index.html")).unwrap(), "2");
    assert_eq!(
        publisher.live(&one.app, &one.name),
        Some(two.version.clone())
    );

    assert!(matches!(publisher.remove(&two), Err(Error::InUse { .. })));
    publisher.remove(&one).unwrap();
    assert!(publisher.find(&one).unwrap().is_none());
    assert!(!publisher.layout().manifest(&one).exists());
    assert!(!publisher.layout().archive(&one).exists());
    assert!(publisher.layout().archive(&two).exists());
    assert_eq!(staged(&publisher), 0);
    assert!(matches!(
        publisher.activate(&one),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn never_publishes_over_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    let first = publish(&publisher, "1").unwrap();
    let error = publish_as(&publisher, "1", "other", false).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(
        publish(&publisher, "1").unwrap(),
        first,
        "the same content is there already"
    );
    assert_eq!(
        fs::read_to_string(first.path.join("index.html")).unwrap(),
        "1"
    );
    assert_eq!(publisher.find(&key("1")).unwrap().unwrap(), first);
    assert_eq!(staged(&publisher), 0, "the refused tree is gone");
}

#[test]
fn heals_a_damaged_version_by_exchange() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    publish_as(&publisher, "1", "damaged", false).unwrap();
    publisher.activate(&key("1")).unwrap();
    let healed = publish_as(&publisher, "1", "whole", true).unwrap();
    assert_eq!(
        fs::read_to_string(healed.path.join("index.html")).unwrap(),
        "whole"
    );
    assert_eq!(
        publisher.live(&key("1").app, &key("1").name),
        Some(key("1").version)
    );
    assert_eq!(staged(&publisher), 0, "the damaged tree is gone");
}

#[test]
fn keeps_a_version_that_a_reader_has_locked() {
    use rustix::fs::{FlockOperation, flock};
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    let release = publish(&publisher, "1").unwrap();
    let reader = fs::File::open(&release.path).unwrap();
    flock(&reader, FlockOperation::LockShared).unwrap();
    assert!(matches!(
        publisher.remove(&key("1")),
        Err(Error::InUse { .. })
    ));
    drop(reader);
    publisher.remove(&key("1")).unwrap();
}

#[test]
fn sweeps_staging_at_start_and_drops_unpublished_trees() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    let staging = publisher.stage(&key("0"), 7).unwrap();
    fs::write(staging.path().join("x"), "x").unwrap();
    std::mem::forget(staging);
    drop(publisher.stage(&key("0"), 8).unwrap());
    assert_eq!(staged(&publisher), 1);
    assert_eq!(staged(&self::publisher(dir.path())), 0);
}

#[test]
fn sweeps_left_overs_of_earlier_lives_and_nothing_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    publish(&publisher, "1").unwrap();
    let two = key("2");
    let manifest = publisher.layout().manifest(&two);
    let current = publisher.layout().current(&two.app, &two.name);
    // Another thread is publishing another version of the name.
    let ours = [&manifest, &current].map(|path| durable::temporary_sibling(path));
    let theirs = [&manifest, &current].map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.with_file_name(format!(".{name}.tmp-{:016x}-0", 1))
    });
    for path in ours.iter().chain(&theirs) {
        fs::write(path, "x").unwrap();
    }
    publisher.sweep_key(&key("3")).unwrap();
    assert!(ours.iter().all(|path| path.exists()));
    assert!(!theirs.iter().any(|path| path.exists()));
}

#[test]
fn verification_finds_every_kind_of_damage() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path());
    let session = publisher.session(false);
    let staging = publisher.stage(&key("0"), 1).unwrap();
    let (names, mut entries) = (["changed", "gone", "longer", "mode", "same"], Vec::new());
    for name in names {
        fs::write(staging.path().join(name), "text").unwrap();
        fs::set_permissions(staging.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
        let sha256 = {
            use sha2::Digest as _;
            Some(crate::datafile::Digest(
                sha2::Sha256::digest(b"text").into(),
            ))
        };
        entries.push(Entry {
            path: name.into(),
            kind: EntryKind::File {
                size: 4,
                sha256,
                link_to: None,
            },
            mode: 0o644,
            mtime: None,
        });
    }
    symlink("same", staging.path().join("link")).unwrap();
    let kind = EntryKind::Symlink {
        target: b"same".to_vec(),
    };
    entries.push(Entry {
        path: b"link".to_vec(),
        kind,
        mode: 0o777,
        mtime: None,
    });
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let key = key("1");
    let record = Record {
        key: &key,
        archive_type: ArchiveType::Tar,
        job: 1,
        accepted_ms: 1,
        now_ms: 2,
        entries: &entries,
        heal: false,
    };
    let verified = Hasher::new(Content::default()).finish().unwrap();
    let tree = publisher
        .publish(staging, verified, &record, |_: &Path| Ok(()), &session)
        .unwrap()
        .path;
    let verify = || publisher.verify(&key, Depth::Bytes, &mut |_| true).unwrap();
    assert_eq!(
        (verify().damaged, verify().entries, verify().bytes),
        (0, 6, 20)
    );

    fs::write(tree.join("changed"), "TEXT").unwrap();
    fs::remove_file(tree.join("gone")).unwrap();
    fs::write(tree.join("longer"), "text+").unwrap();
    fs::set_permissions(tree.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    symlink("gone", tree.join("link")).unwrap();
    fs::write(tree.join("new"), "").unwrap();
    let mut found: Vec<_> = verify()
        .damage
        .into_iter()
        .map(|d| (d.what, d.path))
        .collect();
    found.sort();
    let want = [
        ("content", "changed"),
        ("extra", "new"),
        ("link", "link"),
        ("missing", "gone"),
        ("mode", "mode"),
        ("size", "longer"),
    ];
    let want: Vec<_> = want
        .into_iter()
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect();
    assert_eq!(found, want);
}
