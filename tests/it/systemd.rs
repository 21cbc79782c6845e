//! The units that are shipped: what they start can be parsed, systemd knows every key, and the sandbox stays tight.
//! `tests/systemd/nspawn.sh` starts them under a real systemd.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use edgepush::cli::Arguments;

/// Exposure that `systemd-analyze security` may find at most, in tenths.
const THRESHOLD: &str = "15";

/// Runs `systemd-analyze`, or says that it is not there. Under CI it must be.
fn analyze(arguments: &[&str]) -> Option<std::process::Output> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "systemd-analyze: {error}");
            eprintln!("SKIPPED: systemd-analyze is not installed ({error})");
            None
        }
    }
}

#[test]
fn what_the_units_start_can_be_parsed() {
    let unit = std::fs::read_to_string("systemd/edgepush.service").unwrap();
    let starts: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="))
        .collect();
    assert!(!starts.is_empty());
    for start in starts {
        let words = start.split_whitespace();
        if let Err(error) = Arguments::try_parse_from(words.clone()) {
            panic!("{start}: {error}");
        }
        let config = words.clone().skip_while(|w| *w != "--config").nth(1);
        let name = Path::new(config.unwrap()).file_name().unwrap();
        assert!(Path::new("config").join(name).exists(), "{start}");
    }
}

#[test]
fn no_core_dump_holds_secrets() {
    let service = std::fs::read_to_string("systemd/edgepush.service").unwrap();
    assert_eq!(setting(&service, "LimitCORE"), "0");
}

#[test]
fn the_units_agree_with_the_defaults() {
    let socket = std::fs::read_to_string("systemd/edgepush.socket").unwrap();
    let config = edgepush::config::Config::default();
    let listen = format!("ListenStream={}", config.listen.socket.display());
    assert!(socket.lines().any(|line| line == listen), "{listen}");
    let service = std::fs::read_to_string("systemd/edgepush.service").unwrap();
    let state = format!("/var/lib/{}", setting(&service, "StateDirectory"));
    assert_eq!(config.data_dir, Path::new(&state));
}

fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let mut values = lines.filter(|(k, _)| *k == key).map(|(_, v)| v);
    values
        .next()
        .unwrap_or_else(|| panic!("no {key}= in the unit"))
}

/// A reason stands above each setting, for at most six that belong together.
#[test]
fn every_line_of_the_service_says_why() {
    let service = std::fs::read_to_string("systemd/edgepush.service").unwrap();
    let body = service.split("[Service]").nth(1).unwrap();
    let body = body.split("[Install]").next().unwrap();
    let mut covered = 0;
    for line in body.lines() {
        if line.starts_with('#') {
            covered = 6;
        } else if line.contains('=') {
            assert!(covered > 0, "no reason given for {line}");
            covered -= 1;
        } else {
            covered = 0;
        }
    }
}

#[test]
fn the_sandbox_stays_tight() {
    let threshold = format!("--threshold={THRESHOLD}");
    let Some(output) = analyze(&[
        "security",
        "--offline=true",
        &threshold,
        "systemd/edgepush.service",
    ]) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

/// `verify` ends with success also for a misspelt key, so what it says is what counts.
#[test]
fn systemd_knows_every_key() {
    let units = ["systemd/edgepush.service", "systemd/edgepush.socket"];
    let Some(output) = analyze(&[&["verify", "--man=no"], &units[..]].concat()) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let wrong: Vec<&str> = said
        .lines()
        .filter(|line| {
            !line.contains("is not executable: No such file") // The binary is not installed here.
        })
        .filter(|line| line.contains("edgepush"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
