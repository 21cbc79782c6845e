//! How much deleting old versions slows a push: pushes of 20,000 files alone, and while versions of 20,000 files each are
//! deleted, in turn. `rounds` pairs, `versions` deleted in each.

use std::time::Duration;

use crate::Options;
use crate::figures::{Times, ms};
use crate::files::{publish, write};
use crate::support::node::{APP, TestNode};

const FILES: usize = 20_000;

pub(crate) fn run(options: &Options) {
    let (rounds, versions) = (options.number("rounds", 7), options.number("versions", 3));
    let mut node = TestNode::new(
        "[log]\nlevel = \"warn\"\n[publish]\nkeep_versions = 1000\nkeep_archives = false\n",
    );
    let through = options.text("through", "");
    node.run_through(&through.split_whitespace().collect::<Vec<_>>());
    let archive = node.dir().join("a.tar.gz");
    write(&archive, FILES);
    node.start();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for n in 0..versions {
            publish(&node, "old", &format!("{round}.{n}"), &archive);
        }
        // The live one stays.
        publish(&node, "old", &format!("{round}.last"), &archive);
        alone.push(publish(&node, "push", &format!("{round}.a"), &archive));
        for n in 0..versions {
            remove(&node, "old", &format!("{round}.{n}"));
        }
        beside.push(publish(&node, "push", &format!("{round}.b"), &archive));
        // Before the next round nothing may be left to delete.
        node.wait_for("the deleting to end", Duration::from_secs(120), || {
            node.list("staging").is_empty().then_some(())
        });
        remove(&node, "push", &format!("{round}.a"));
        node.wait_for("the deleting to end", Duration::from_secs(120), || {
            node.list("staging").is_empty().then_some(())
        });
    }
    let ratios = alone.iter().zip(&beside);
    let ratios = ratios.map(|(a, b)| b.as_secs_f64() / a.as_secs_f64());
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    println!("| push of {FILES} files | p50 ms |");
    println!("|---|---|");
    println!("| alone | {} |", ms(Times::new(alone).median()));
    println!(
        "| while {versions} versions are deleted | {} |",
        ms(Times::new(beside).median())
    );
    println!("median of the ratios: {:.2}", ratios[ratios.len() / 2]);
}

fn remove(node: &TestNode, name: &str, version: &str) {
    let target = format!("/v1/releases?app={APP}&name={name}&version={version}");
    let answer = node.ask("DELETE", &target, None);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
}
