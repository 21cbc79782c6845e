//! A file that ends the agent again and again is given up, and nothing else with it.

use crate::support::archive::{noise, site, tar_gz};
use crate::support::node::{TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};

#[test]
fn a_file_that_kills_every_start_is_given_up_after_ten() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let archive = tar_gz(&[("big".to_owned(), noise(3 << 20, 1))]);
    let gate = Gate::new();
    origin.serve(
        "/poison",
        Reply::file(&archive).no_ranges().hold_at(1 << 20, &gate),
    );
    let poison = item("poison", "1", "tar.gz", &archive, &origin.url("/poison"));
    assert_eq!(node.push_codes(&[poison]), [0]);
    for start in 1..=10 {
        origin.wait_for_hits("/poison", start);
        // Others are not touched by it.
        if start % 5 == 0 {
            let name = format!("good{start}");
            let good = tar_gz(&site(&name, 5));
            origin.serve("/good", Reply::file(&good));
            assert_eq!(
                node.push_codes(&[item(&name, "1", "tar.gz", &good, &origin.url("/good"))]),
                [0]
            );
            assert_eq!(node.finish(&name, "1")["state"], "succeeded");
        }
        node.kill();
        node.start();
    }
    let file = node.finish("poison", "1");
    assert_eq!(file["failure"]["kind"], "gave-up", "{file}");
    assert_eq!(origin.hits("/poison").len(), 10, "started once more");
    assert!(node.list("staging").is_empty());
    for name in ["good5", "good10"] {
        node.assert_tree(name, &site(name, 5));
    }
    // It may be pushed again when the reason is gone.
    gate.open();
    let again = item("poison", "1", "tar.gz", &archive, &origin.url("/poison"));
    assert_eq!(node.push_codes(&[again]), [0]);
    assert_eq!(node.finish("poison", "1")["state"], "succeeded");
}

#[test]
fn orderly_ends_are_no_crashes() {
    let (origin, mut node) = (Origin::start(), TestNode::new("[runner]\nstarts = 3\n"));
    node.start();
    let archive = tar_gz(&[("big".to_owned(), noise(3 << 20, 1))]);
    let gate = Gate::new();
    origin.serve("/slow", Reply::file(&archive).hold_at(1 << 20, &gate));
    assert_eq!(
        node.push_codes(&[item("slow", "1", "tar.gz", &archive, &origin.url("/slow"))]),
        [0]
    );
    for start in 1..=6 {
        origin.wait_for_hits("/slow", start);
        assert!(node.stop().success());
        node.start();
    }
    gate.open();
    let file = node.finish("slow", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
}
