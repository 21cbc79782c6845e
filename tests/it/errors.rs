//! `docs/errors.md` explains every failure that a station can name. It is written from the stations' own tables: run with
//! `EDGEPUSH_REWRITE=1` after a change, and review the difference.

use std::collections::BTreeMap;

use edgepush::sys::failure::{FAULTS, Kind, Retry};
use edgepush::{deliver, fetch, intake, publish, report, store, unpack, verify};

/// The stations in road order, with what they do.
const STATIONS: [(&str, &str, &[Kind]); 9] = [
    (
        "intake",
        "accepts or refuses the elements of a push",
        intake::KINDS,
    ),
    ("fetch", "downloads the bytes", fetch::KINDS),
    (
        "verify",
        "compares them with what was announced",
        verify::KINDS,
    ),
    ("unpack", "turns the archive into a tree", unpack::KINDS),
    (
        "publish",
        "makes the tree a version, and the version live",
        publish::KINDS,
    ),
    (
        "the road",
        "joins the stations and keeps the deadline",
        deliver::KINDS,
    ),
    (
        "this node",
        "faults of the disk that any station may meet",
        FAULTS,
    ),
    ("store", "records everything", store::KINDS),
    ("report", "delivers callbacks", report::KINDS),
];

const HEAD: &str = "\
# Failures

Each failed file has a `kind` (stable, for programs), a `stage`, a `class` (where to look) and a
message. `edgepush show APP NAME VERSION` prints all of them, callbacks and the native API carry them
in `failure`, and the ENS status has them in `StatusDescrip`. This page lists every kind and what to
do about it.

| class | where to look |
|---|---|
| request | the push itself: a bad value, or a conflict with what is published |
| policy | this node's configuration, which denies it |
| network | the route to the origin |
| origin | the origin, which responded, but not with the file |
| content | the bytes: not what was announced, or not what can be unpacked |
| device | this node's disk, memory or kernel |

The cause of a transient failure may pass. The agent retries what the network or the origin did within
the file's `timeout`, and a fault of this node's disk twice. Once the file has ended, the same push may be
sent again, and may succeed if the cause has passed.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (station, what, kinds) in STATIONS {
        page.push_str(&format!("\n## {station}: {what}\n\n"));
        page.push_str("| kind | class | transient | what to do |\n|---|---|---|---|\n");
        for kind in kinds {
            let again = match kind.retry {
                Retry::Transient => "yes",
                Retry::Fatal => "no",
            };
            let help = kind.help.replace('|', "\\|");
            page.push_str(&format!(
                "| `{}` | {} | {again} | {help} |\n",
                kind.name, kind.class
            ));
        }
    }
    page
}

#[test]
fn the_page_explains_every_kind() {
    let path = "docs/errors.md";
    if std::env::var_os("EDGEPUSH_REWRITE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == page(),
        "{path} is not what the stations say: write it anew with EDGEPUSH_REWRITE=1"
    );
}

/// Two stations may name the same failure, and mean the same then.
#[test]
fn every_kind_means_one_thing_and_says_what_to_do() {
    let (mut seen, mut advice) = (BTreeMap::new(), BTreeMap::new());
    for (station, _, kinds) in STATIONS {
        for kind in kinds {
            let name = kind.name;
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(
                name.chars().all(kebab),
                "{station}: `{name}` is not kebab-case"
            );
            let before = seen.insert(name, kind.class).unwrap_or(kind.class);
            assert_eq!(
                before, kind.class,
                "{station}: `{name}` is of another class elsewhere"
            );
            let words = kind.help.split(' ').count();
            assert!(
                kind.help.ends_with('.') && words >= 4,
                "{station}: `{name}` does not say what to do: {}",
                kind.help
            );
            let other = advice.insert(kind.help, name).unwrap_or(name);
            assert_eq!(other, name, "{station}: one advice for two kinds");
        }
    }
    assert!(seen.len() > 30, "found only {} kinds", seen.len());
}
