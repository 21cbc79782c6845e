//! The contract's response bodies: the exact keys, in order, with their odd spellings
//! (`StatusStatS`, `ResultDescrip`).
//!
//! What is written by the `*_answer` functions is read by their `read_*` counterparts. A reader
//! ignores keys that it does not know, and needs those that it uses.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::errors::Refusal;
use super::status::Status;
use super::time::{self, stamp};

/// The media type of every answer.
pub const CONTENT_TYPE: &str = "application/json;charset=utf-8";

/// The answer to one element of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PushResult {
    pub name: String,
    pub version: String,
    /// See [`ResultCode`](super::status::ResultCode).
    pub result_code: u16,
    /// Never blank.
    pub result_descrip: String,
}

/// The state of one file in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionState {
    pub region: String,
    pub status: Status,
    /// Start of the push that led to this status, in milliseconds since the epoch.
    pub start_ms: i64,
    pub update_ms: i64,
    /// Never blank.
    pub descrip: String,
}

/// One file with its state in each region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub version: String,
    /// At least one.
    pub regions: Vec<RegionState>,
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Rows on all pages together.
    pub total: usize,
    /// From 1.
    pub number: usize,
    /// Rows on a full page.
    pub size: usize,
    pub rows: Vec<Row>,
}

/// A server from which an archive can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Server {
    /// Host and port.
    pub host: String,
    pub region_id: String,
}

/// The answer to a query for a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Path and query, signed.
    pub url: String,
    /// In milliseconds since the epoch.
    pub expire_ms: i64,
    pub servers: Vec<Server>,
    /// `Success`, or why no server has it.
    pub message: String,
}

/// An error as the endpoint reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ErrorAnswer<'a> {
    /// Names the call in the endpoint's log.
    #[serde(default)]
    pub request_id: Cow<'a, str>,
    /// The `Host` header of the request.
    #[serde(default)]
    pub host_id: Cow<'a, str>,
    /// Such as `InvalidParameter.Data`.
    pub code: Cow<'a, str>,
    /// That of `SignatureDoesNotMatch` repeats the whole request.
    #[serde(default)]
    pub message: Cow<'a, str>,
}

/// Writes the answer to `PushApplicationData`.
#[must_use]
pub fn push_answer(request_id: &str, results: &[PushResult]) -> String {
    json(&PushSpelling {
        request_id: request_id.into(),
        push_results: PushResults {
            push_result: results.into(),
        },
    })
}

/// Reads the answer to `PushApplicationData`: a result for each element, in their order.
pub fn read_push(text: &str) -> Result<Vec<PushResult>, serde_json::Error> {
    let answer: PushSpelling<'_> = serde_json::from_str(text)?;
    Ok(answer.push_results.push_result.into_owned())
}

/// Writes the answer to `DescribeDataPushResult`.
#[must_use]
pub fn describe_answer(request_id: &str, page: &Page) -> String {
    let rows: Vec<RowSpelling<'_>> = page.rows.iter().map(RowSpelling::from).collect();
    json(&DescribeSpelling {
        request_id: request_id.into(),
        total_count: page.total,
        page_number: page.number,
        page_size: page.size,
        push_results: PushResults {
            push_result: rows.into(),
        },
    })
}

/// Reads the answer to `DescribeDataPushResult`.
pub fn read_describe(text: &str) -> Result<Page, serde_json::Error> {
    let answer: DescribeSpelling<'_> = serde_json::from_str(text)?;
    let rows = answer.push_results.push_result.into_owned();
    Ok(Page {
        total: answer.total_count,
        number: answer.page_number,
        size: answer.page_size,
        rows: rows.into_iter().map(Row::from).collect(),
    })
}

/// Writes the answer to `DescribeDataDownloadURL`. `Code` is the number 0: one client takes
/// anything else for an error.
#[must_use]
pub fn download_answer(request_id: &str, download: &Download) -> String {
    json(&DownloadSpelling {
        request_id: request_id.into(),
        code: 0,
        message: download.message.as_str().into(),
        data: DataSpelling {
            url: download.url.as_str().into(),
            expire_time: Time(download.expire_ms),
            server_list: download.servers.as_slice().into(),
        },
    })
}

/// Reads the answer to `DescribeDataDownloadURL`.
pub fn read_download(text: &str) -> Result<Download, serde_json::Error> {
    let answer: DownloadSpelling<'_> = serde_json::from_str(text)?;
    Ok(Download {
        url: answer.data.url.into_owned(),
        expire_ms: answer.data.expire_time.0,
        servers: answer.data.server_list.into_owned(),
        message: answer.message.into_owned(),
    })
}

/// Writes an error; `host` is the request's `Host` header.
#[must_use]
pub fn error_answer(request_id: &str, host: &str, refusal: &Refusal) -> String {
    json(&ErrorAnswer {
        request_id: request_id.into(),
        host_id: host.into(),
        code: refusal.code.name(),
        message: refusal.message.as_str().into(),
    })
}

/// Reads an error.
pub fn read_error(text: &str) -> Result<ErrorAnswer<'static>, serde_json::Error> {
    serde_json::from_str(text)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PushSpelling<'a> {
    #[serde(default)]
    request_id: Cow<'a, str>,
    push_results: PushResults<'a, PushResult>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeSpelling<'a> {
    #[serde(default)]
    request_id: Cow<'a, str>,
    total_count: usize,
    page_number: usize,
    page_size: usize,
    push_results: PushResults<'a, RowSpelling<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DownloadSpelling<'a> {
    #[serde(default)]
    request_id: Cow<'a, str>,
    code: u16,
    message: Cow<'a, str>,
    data: DataSpelling<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DataSpelling<'a> {
    url: Cow<'a, str>,
    expire_time: Time,
    server_list: Cow<'a, [Server]>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[serde(bound(deserialize = "T: Clone + Deserialize<'de>"))]
struct PushResults<'a, T: Clone> {
    push_result: Cow<'a, [T]>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RowSpelling<'a> {
    name: Cow<'a, str>,
    version: Cow<'a, str>,
    // The capital last S is the contract's.
    #[serde(rename = "StatusStatS")]
    status_stats: StatusStats<'a>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatusStats<'a> {
    status_stat: Vec<StatusStat<'a>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatusStat<'a> {
    status: Status,
    region_id_count: usize,
    region_ids: RegionIds<'a>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RegionIds<'a> {
    region_id: Vec<RegionSpelling<'a>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RegionSpelling<'a> {
    region_id: Cow<'a, str>,
    start_time: Time,
    update_time: Time,
    status_descrip: Cow<'a, str>,
}

/// Milliseconds since the epoch, spelt in whole seconds.
#[derive(Clone, Copy)]
struct Time(i64);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&stamp(self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        let expected = || serde::de::Error::custom("expected a time as YYYY-MM-DDTHH:MM:SSZ");
        time::parse(&text).map(Self).ok_or_else(expected)
    }
}

impl<'a> From<&'a Row> for RowSpelling<'a> {
    fn from(row: &'a Row) -> Self {
        let stats = [Status::Pushing, Status::Success, Status::Failed]
            .map(|status| status_stat(row, status));
        Self {
            name: row.name.as_str().into(),
            version: row.version.as_str().into(),
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
            region_id: region.region.as_str().into(),
            start_time: Time(region.start_ms),
            update_time: Time(region.update_ms),
            status_descrip: region.descrip.as_str().into(),
        })
        .collect();
    (!regions.is_empty()).then_some(StatusStat {
        status,
        region_id_count: regions.len(),
        region_ids: RegionIds { region_id: regions },
    })
}

impl From<RowSpelling<'_>> for Row {
    fn from(row: RowSpelling<'_>) -> Self {
        let state = |status: Status, region: RegionSpelling<'_>| RegionState {
            region: region.region_id.into_owned(),
            status,
            start_ms: region.start_time.0,
            update_ms: region.update_time.0,
            descrip: region.status_descrip.into_owned(),
        };
        let stats = row.status_stats.status_stat.into_iter();
        Self {
            name: row.name.into_owned(),
            version: row.version.into_owned(),
            regions: stats
                .flat_map(|stat| {
                    let regions = stat.region_ids.region_id.into_iter();
                    regions.map(move |region| state(stat.status, region))
                })
                .collect(),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers always have a JSON form")
}
