//! Metrics in the text format of Prometheus.
//!
//! Most are read from the store on request, so they survive a restart. Bytes, durations and
//! requests are counted from the timeline as they happen, and start at 0 with the process, as
//! counters may.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::error::ApiError;
use crate::datafile::Key;
use crate::http::Peer;
use crate::job::{EventKind, JobId};
use crate::shown::model::NodeStatus;
use crate::shown::{Event, File};
use crate::store::jobs;
use crate::store::releases;
use crate::wire::errors::Code;

/// Upper bounds of the buckets for the duration of a job, in seconds.
const BUCKETS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
];
/// Most names whose live version is shown: more labels would cost more than they are worth.
const NAMES: usize = 1000;

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counters {
    calls: Mutex<BTreeMap<String, u64>>,
    ended: Mutex<Ended>,
    fetched: AtomicU64,
    published: AtomicU64,
}

#[derive(Debug, Default)]
struct Ended {
    results: BTreeMap<&'static str, u64>,
    failures: BTreeMap<String, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Counters {
    /// Counts a request to the ENS endpoint by its outcome.
    pub(super) fn ens_call(&self, refused: Option<&Code>) {
        let name = match refused {
            None => "OK".into(),
            // The part after the dot may come from the client, and would make too many labels.
            Some(Code::InvalidParameter(_)) => "InvalidParameter".into(),
            Some(code) => code.name(),
        };
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry(name.into_owned()).or_default() += 1;
    }

    /// Counts a job that has ended.
    fn job_ended(&self, result: &'static str, job: &File) {
        self.fetched.fetch_add(job.fetched, Ordering::Relaxed);
        if let Some(published) = &job.published {
            self.published.fetch_add(published.bytes, Ordering::Relaxed);
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.results.entry(result).or_default() += 1;
        if let Some(failure) = &job.failure {
            *ended.failures.entry(failure.kind.clone()).or_default() += 1;
        }
        if let Some(finished) = job.finished_ms {
            ended.observe(seconds(finished - job.accepted_ms));
        }
    }
}

impl Ended {
    fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.seconds += seconds;
        for (bucket, bound) in self.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }
}

/// Counts jobs as the timeline reports their end, until `drain`.
pub(super) async fn count(api: &Api, mut events: Receiver<Arc<Event>>, drain: CancellationToken) {
    loop {
        let received = tokio::select! {
            received = events.recv() => received,
            () = drain.cancelled() => return,
        };
        let event = match received {
            Ok(event) => event,
            // Counters may miss jobs in a flood of events.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let result = match event.kind {
            EventKind::Published => "published",
            EventKind::Failed => "failed",
            EventKind::Canceled => "canceled",
            _ => continue,
        };
        if let Some(job) = event.job {
            count_job(api, result, job).await;
        }
    }
}

async fn count_job(api: &Api, result: &'static str, job: JobId) {
    let row = api.deps.store.read(move |reader| jobs::get(reader, job));
    if let Ok(Some(row)) = row.await {
        api.counters.job_ended(result, &row);
    }
}

/// Shows the metrics.
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, ApiError> {
    let status = api.node_status(peer).await?;
    let live = api
        .deps
        .store
        .read(|r| releases::all_live(r, NAMES))
        .await?;
    let mut page = Page::default();
    page.node(&api, &status);
    page.figures(&of_store(&api));
    page.counters(&api.counters);
    page.live(&live);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((kind, page.0).into_response())
}

/// The response.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escape(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    /// Writes metrics without labels.
    fn figures(&mut self, figures: &[Figure]) {
        for Figure(name, help, kind, value) in figures {
            if let Some(value) = value {
                self.family(name, kind, help);
                self.sample(name, &[], value);
            }
        }
    }

    fn node(&mut self, api: &Api, status: &NodeStatus) {
        let name = "edgepush_build_info";
        self.family(name, "gauge", "The version and region of this agent.");
        let labels = [("version", &*status.version), ("region", &*status.region)];
        self.sample(name, &labels, 1);
        let name = "edgepush_files";
        self.family(name, "gauge", "Files by the state of their latest job.");
        for (state, count) in &status.counts {
            self.sample(name, &[("state", state)], count);
        }
        self.figures(&of_node(api, status));
        let name = "edgepush_worker_errors_total";
        self.family(name, "counter", "Failed rounds of background workers.");
        for worker in &status.workers {
            self.sample(name, &[("worker", &worker.name)], worker.errors);
        }
    }

    fn counters(&mut self, counters: &Counters) {
        self.figures(&of_jobs(counters));
        let name = "edgepush_ens_calls_total";
        self.family(name, "counter", "Requests to the ENS endpoint by outcome.");
        let calls = counters
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (code, count) in &*calls {
            self.sample(name, &[("code", code)], count);
        }
        drop(calls);
        let ended = counters
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.ended(&ended);
    }

    fn ended(&mut self, ended: &Ended) {
        let name = "edgepush_jobs_ended_total";
        self.family(name, "counter", "Jobs that have ended, by how.");
        for result in ["published", "failed", "canceled"] {
            let count = ended.results.get(result).copied().unwrap_or(0);
            self.sample(name, &[("result", result)], count);
        }
        let name = "edgepush_failures_total";
        self.family(
            name,
            "counter",
            "Jobs that have failed, by kind of failure.",
        );
        for (kind, count) in &ended.failures {
            self.sample(name, &[("kind", kind)], count);
        }
        let name = "edgepush_job_duration_seconds";
        self.family(name, "histogram", "From acceptance to the end of a job.");
        let bucket = "edgepush_job_duration_seconds_bucket";
        for (bound, count) in BUCKETS.iter().zip(ended.buckets) {
            self.sample(bucket, &[("le", &bound.to_string())], count);
        }
        self.sample(bucket, &[("le", "+Inf")], ended.count);
        self.sample("edgepush_job_duration_seconds_sum", &[], ended.seconds);
        self.sample("edgepush_job_duration_seconds_count", &[], ended.count);
    }

    fn live(&mut self, live: &[Key]) {
        let name = "edgepush_current_info";
        self.family(name, "gauge", "The live version of each name.");
        for key in live {
            let labels = [
                ("app", key.app.as_str()),
                ("name", key.name.as_str()),
                ("version", key.version.as_str()),
            ];
            self.sample(name, &labels, 1);
        }
    }
}

/// A metric without labels: its name, help and kind, and its value if there is one.
struct Figure(&'static str, &'static str, &'static str, Option<String>);

#[rustfmt::skip]
fn of_node(api: &Api, status: &NodeStatus) -> [Figure; 16] {
    let disk = status.disk;
    let inodes = disk.and_then(|disk| disk.free_inodes);
    [
        Figure("edgepush_start_time_seconds", "When the agent was started.", "gauge", some(seconds(status.started_ms))),
        Figure("edgepush_ready", "Whether the node takes pushes.", "gauge", some(u8::from(api.readiness().ready))),
        Figure("edgepush_jobs_running", "Running jobs.", "gauge", some(api.deps.board.len())),
        Figure("edgepush_releases", "Versions on the disk.", "gauge", some(status.releases)),
        Figure("edgepush_release_bytes", "Bytes in the files of these versions.", "gauge", some(status.bytes)),
        Figure("edgepush_outbox_pending", "Callbacks that are not delivered yet.", "gauge", some(status.outbox_pending)),
        Figure("edgepush_outbox_dead", "Callbacks that were given up.", "gauge", some(status.outbox_dead)),
        Figure("edgepush_disk_free_bytes", "Bytes that may still be written.", "gauge", disk.and_then(|disk| some(disk.free))),
        Figure("edgepush_disk_total_bytes", "Size of the file system.", "gauge", disk.and_then(|disk| some(disk.total))),
        Figure("edgepush_disk_free_inodes", "Free inodes.", "gauge", inodes.and_then(some)),
        Figure("edgepush_inbox_in_progress", "Documents of the inbox whose files have not all ended.", "gauge", some(status.inbox.in_progress)),
        Figure("edgepush_inbox_stuck", "Documents of the inbox whose result cannot be written.", "gauge", some(status.inbox.stuck)),
        Figure("edgepush_inbox_ignored", "Entries of the inbox that are not documents.", "gauge", some(status.inbox.ignored)),
        Figure("edgepush_panics_total", "Panics of the agent's own tasks: each is a defect.", "counter", some(status.panics)),
        Figure("edgepush_log_lines_lost_total", "Log lines that standard error did not take.", "counter", some(status.log_lines_lost)),
        Figure("edgepush_gc_last_success_timestamp_seconds", "When retention last succeeded.", "gauge", status.gc_last_success_ms.and_then(|ms| some(seconds(ms)))),
    ]
}

#[rustfmt::skip]
fn of_store(api: &Api) -> [Figure; 2] {
    let stats = api.deps.store.stats();
    [
        Figure("edgepush_store_commits_total", "Transactions that were synced.", "counter", some(stats.commits)),
        Figure("edgepush_store_pieces_total", "Pieces of work in these transactions.", "counter", some(stats.pieces)),
    ]
}

#[rustfmt::skip]
fn of_jobs(counters: &Counters) -> [Figure; 2] {
    let figure = |counter: &AtomicU64| some(counter.load(Ordering::Relaxed));
    [
        Figure("edgepush_fetched_bytes_total", "Bytes fetched for jobs that have ended.", "counter", figure(&counters.fetched)),
        Figure("edgepush_published_bytes_total", "Bytes in the trees that were published.", "counter", figure(&counters.published)),
    ]
}

fn some(value: impl std::fmt::Display) -> Option<String> {
    Some(value.to_string())
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of this century fit into the 53 bits"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_families_and_escapes_labels() {
        let mut page = Page::default();
        page.family("a", "gauge", "An a.");
        page.sample("a", &[("x", "1\"2\\3\n4"), ("y", "ü")], 7);
        page.figures(&[
            Figure("b", "A b.", "counter", some(1.5)),
            Figure("c", "A c.", "gauge", None),
        ]);
        assert_eq!(
            page.0,
            "# HELP a An a.\n# TYPE a gauge\na{x=\"1\\\"2\\\\3\\n4\",y=\"ü\"} 7\n# HELP b A b.\n# TYPE b counter\nb 1.5\n"
        );
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut ended = Ended::default();
        for seconds in [0.01, 0.3, 9999.0] {
            ended.observe(seconds);
        }
        assert_eq!(
            (ended.buckets[0], ended.buckets[3], ended.buckets[11]),
            (1, 2, 2)
        );
        assert_eq!(ended.count, 3);
    }

    #[test]
    fn a_clients_own_words_are_no_labels() {
        let counters = Counters::default();
        counters.ens_call(None);
        counters.ens_call(Some(&Code::InvalidParameter("Data".into())));
        counters.ens_call(Some(&Code::InvalidParameter("Other".into())));
        let calls = counters.calls.lock().unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls["InvalidParameter"], 2);
    }
}
