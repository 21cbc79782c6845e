//! How answers are spelt: the exact keys, their order, and the odd ones among them (`StatusStatS`, `ResultDescrip`).

use serde::Serialize;

use super::errors::Refusal;
use super::status::Status;

/// The media type of every answer.
pub const CONTENT_TYPE: &str = "application/json;charset=utf-8";

/// The answer to one element of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PushResult {
    /// The name as it was stated.
    pub name: String,
    /// The version as it was stated.
    pub version: String,
    /// 0, 100, 200 or 300.
    pub result_code: u16,
    /// Why; never blank.
    pub result_descrip: String,
}

/// How one file stands in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionState {
    /// The region.
    pub region: String,
    /// How the push stands there.
    pub status: Status,
    /// When the push that led to this status began, in milliseconds.
    pub start_ms: i64,
    /// When the status was reached, in milliseconds.
    pub update_ms: i64,
    /// Why; never blank.
    pub descrip: String,
}

/// One file with its states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The data file's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it stands how; at least one.
    pub regions: Vec<RegionState>,
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Rows that the filters leave, on all pages.
    pub total: usize,
    /// Which page this is, from 1.
    pub number: usize,
    /// Rows on a full page.
    pub size: usize,
    /// The rows on this page.
    pub rows: Vec<Row>,
}

/// A server from which an archive can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Server {
    /// Host and port.
    pub host: String,
    /// Its region.
    pub region_id: String,
}

/// Where an archive can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Path and query, signed.
    pub url: String,
    /// When it stops being served, in milliseconds.
    pub expire_ms: i64,
    /// Who serves it.
    pub servers: Vec<Server>,
    /// `Success`, or why nobody serves it.
    pub message: String,
}

/// Spells the answer to `PushApplicationData`.
#[must_use]
pub fn push_answer(request_id: &str, results: &[PushResult]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        request_id: &'a str,
        push_results: PushResults<&'a PushResult>,
    }
    json(&Answer {
        request_id,
        push_results: PushResults {
            push_result: results.iter().collect(),
        },
    })
}

/// Spells the answer to `DescribeDataPushResult`.
#[must_use]
pub fn describe_answer(request_id: &str, page: &Page) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        request_id: &'a str,
        total_count: usize,
        page_number: usize,
        page_size: usize,
        push_results: PushResults<RowSpelling<'a>>,
    }
    json(&Answer {
        request_id,
        total_count: page.total,
        page_number: page.number,
        page_size: page.size,
        push_results: PushResults {
            push_result: page.rows.iter().map(RowSpelling::from).collect(),
        },
    })
}

/// Spells the answer to `DescribeDataDownloadURL`. `Code` is the number 0: one client takes anything else for an error.
#[must_use]
pub fn download_answer(request_id: &str, download: &Download) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        request_id: &'a str,
        code: u8,
        message: &'a str,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Data<'a> {
        url: &'a str,
        expire_time: String,
        server_list: &'a [Server],
    }
    json(&Answer {
        request_id,
        code: 0,
        message: &download.message,
        data: Data {
            url: &download.url,
            expire_time: stamp(download.expire_ms),
            server_list: &download.servers,
        },
    })
}

/// Spells an error; `host` is the request's `Host` header.
#[must_use]
pub fn error_answer(request_id: &str, host: &str, refusal: &Refusal) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        request_id: &'a str,
        host_id: &'a str,
        code: &'a str,
        message: &'a str,
    }
    json(&Answer {
        request_id,
        host_id: host,
        code: &refusal.code.name(),
        message: &refusal.message,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PushResults<T> {
    push_result: Vec<T>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RowSpelling<'a> {
    name: &'a str,
    version: &'a str,
    // The capital last S is the contract's.
    #[serde(rename = "StatusStatS")]
    status_stats: StatusStats<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusStats<'a> {
    status_stat: Vec<StatusStat<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusStat<'a> {
    status: &'a str,
    region_id_count: usize,
    region_ids: RegionIds<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RegionIds<'a> {
    region_id: Vec<RegionSpelling<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RegionSpelling<'a> {
    region_id: &'a str,
    start_time: String,
    update_time: String,
    status_descrip: &'a str,
}

impl<'a> From<&'a Row> for RowSpelling<'a> {
    fn from(row: &'a Row) -> Self {
        let stats = [Status::Pushing, Status::Success, Status::Failed]
            .map(|status| status_stat(row, status));
        Self {
            name: &row.name,
            version: &row.version,
            status_stats: StatusStats {
                status_stat: stats.into_iter().flatten().collect(),
            },
        }
    }
}

fn status_stat<'a>(row: &'a Row, status: Status) -> Option<StatusStat<'a>> {
    let regions: Vec<RegionSpelling<'a>> = row
        .regions
        .iter()
        .filter(|region| region.status == status)
        .map(|region| RegionSpelling {
            region_id: &region.region,
            start_time: stamp(region.start_ms),
            update_time: stamp(region.update_ms),
            status_descrip: &region.descrip,
        })
        .collect();
    (!regions.is_empty()).then_some(StatusStat {
        status: status.as_str(),
        region_id_count: regions.len(),
        region_ids: RegionIds { region_id: regions },
    })
}

/// Returns `ms` since the epoch as the contract writes times: UTC, whole seconds.
fn stamp(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers always have a JSON form")
}
