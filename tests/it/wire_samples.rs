//! The answers of the ENS endpoint, compared whole with checked-in samples.
//!
//! `EDGEPUSH_REWRITE=1 cargo test wire_samples` writes them anew; review the difference, it is what clients see.

use std::path::PathBuf;

use edgepush::wire::envelope::{
    self, Download, Page, PushResult, RegionState, Row, Server, download_answer, error_answer,
    push_answer,
};
use edgepush::wire::errors::{Code, Refusal};
use edgepush::wire::status::Status;

const ID: &str = "4C467B38-3910-447D-87BC-AC049166F216";

/// Compares `text`, which must be one line of JSON, with `tests/data/wire/<name>.json`.
#[track_caller]
fn same_as_sample(name: &str, text: &str) {
    serde_json::from_str::<serde_json::Value>(text).unwrap();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/wire")
        .join(format!("{name}.json"));
    if std::env::var_os("EDGEPUSH_REWRITE").is_some() {
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    let sample = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, sample.trim_end(), "{}", path.display());
}

fn result(name: &str, version: &str, result_code: u16, descrip: &str) -> PushResult {
    PushResult {
        name: name.to_owned(),
        version: version.to_owned(),
        result_code,
        result_descrip: descrip.to_owned(),
    }
}

fn state(region: &str, status: Status, descrip: &str) -> RegionState {
    RegionState {
        region: region.to_owned(),
        status,
        start_ms: 1_767_323_045_678,
        update_ms: 1_767_323_049_999,
        descrip: descrip.to_owned(),
    }
}

#[test]
fn push() {
    let results = [
        result("app01", "1.0", 0, "Success"),
        result(
            "159828628258496/mirror_file/game.tar",
            "90396",
            100,
            "Success",
        ),
        result("ü \"quoted\"", "1", 200, "already being pushed"),
        result(
            "x",
            "2",
            300,
            "archiveType is `rar`, expected `tar.gz`, `zip` or `tar`",
        ),
    ];
    let text = push_answer(ID, &results);
    same_as_sample("push", &text);
    assert_eq!(envelope::read_push(&text).unwrap(), results);
}

#[test]
fn describe() {
    let mut page = Page {
        total: 12,
        number: 2,
        size: 10,
        rows: vec![
            Row {
                name: "app01".to_owned(),
                version: "1.0".to_owned(),
                regions: vec![
                    state("cn-wuxi-5", Status::Success, "Success"),
                    state(
                        "cn-wuhan-2",
                        Status::Failed,
                        "digest-mismatch in verify: match md5",
                    ),
                    state("cn-chengdu-4", Status::Success, "Success"),
                ],
            },
            Row {
                name: "app01".to_owned(),
                version: "1.1".to_owned(),
                regions: vec![state("cn-wuxi-5", Status::Pushing, "queued")],
            },
        ],
    };
    let text = envelope::describe_answer(ID, &page);
    same_as_sample("describe", &text);
    // Times are sent in whole seconds, and regions by their status.
    for row in &mut page.rows {
        for region in &mut row.regions {
            region.start_ms = region.start_ms / 1000 * 1000;
            region.update_ms = region.update_ms / 1000 * 1000;
        }
        row.regions
            .sort_by_key(|region| region.status == Status::Failed);
    }
    assert_eq!(envelope::read_describe(&text).unwrap(), page);
    let empty = Page {
        total: 0,
        number: 1,
        size: 0,
        rows: Vec::new(),
    };
    same_as_sample("describe-empty", &envelope::describe_answer(ID, &empty));
}

#[test]
fn download() {
    let mut download = Download {
        url: "/file/1/app/63051fd85f8e2119762f2866d682a7fa/e4c2e8edac362acab7123654b9e73432?ak=me&ts=1767323645&sign=YVNcnMzZtd7ns3LK4LQ4ok40s5U%3D".to_owned(),
        expire_ms: 1_767_323_645_000,
        servers: vec![Server {
            host: "10.0.0.5:7480".to_owned(),
            region_id: "cn-wuxi-5".to_owned(),
        }],
        message: "Success".to_owned(),
    };
    let text = download_answer(ID, &download);
    same_as_sample("download", &text);
    assert_eq!(envelope::read_download(&text).unwrap(), download);
    download.servers.clear();
    download.message = "archives are not kept on this node (keep_archives = false)".to_owned();
    same_as_sample("download-none", &download_answer(ID, &download));
}

#[test]
fn error() {
    let refusal = Refusal::parameter("Data", "element 1: version is missing");
    let text = error_answer(ID, "127.0.0.1:7480", &refusal);
    same_as_sample("error", &text);
    let read = envelope::read_error(&text).unwrap();
    assert_eq!((&*read.request_id, &*read.host_id), (ID, "127.0.0.1:7480"));
    assert_eq!(read.code, refusal.code.name());
    assert_eq!(read.message, refusal.message);
    assert!(envelope::read_error("{}").is_err());
    let refusal = Refusal::from(Code::Missing("AccessKeyId"));
    same_as_sample("error-unsigned", &error_answer(ID, "", &refusal));
}
