//! What the origin does with one request: the script of a reply, its faults, and the part of a file that a range asks for.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Hit, lock};

/// A door that replies wait at; once opened it stays open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Makes a closed gate.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Lets everything through, now and later.
    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub(super) fn is_open(&self) -> bool {
        *lock(&self.0.0)
    }

    /// Waits up to `limit`; tells whether the gate is open.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let (open, _) = self
            .0
            .1
            .wait_timeout_while(lock(&self.0.0), limit, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        *open
    }
}

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Arc<[u8]>,
    pub(super) etag: Option<String>,
    pub(super) framing: Framing,
    pub(super) range: RangeManners,
    pub(super) faults: Vec<(u64, Fault)>,
    pub(super) drip: Option<(usize, Duration)>,
    pub(super) delay: Duration,
    pub(super) whole: Whole,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Whole {
    /// Head and body as the other fields say.
    Answer,
    /// The request is read, and nothing is ever said.
    Silence,
    /// The request is read, and the connection ends.
    Close,
    /// The request is read, and the connection is reset.
    Reset,
    /// The body is the whole answer, head included; then the connection ends.
    Raw,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Framing {
    Length,
    Lie(u64),
    Chunked,
    Close,
}

#[derive(Debug, Clone)]
pub(super) enum RangeManners {
    /// Range and If-Range as in RFC 9110.
    Obey,
    /// Range is honoured whatever If-Range says.
    IgnoreIfRange,
    /// Always the whole file.
    Never,
    /// Ranges are answered with 416.
    Unsatisfiable,
    /// Ranges are answered with this status and no body.
    Refuse(u16),
    /// 206 with this Content-Range and the body from the start that was asked for.
    Lie(String),
    /// At most so many bytes in a 206.
    AtMost(u64),
}

#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Ends the connection (FIN).
    Cut,
    /// Resets the connection (RST).
    Reset,
    /// Says no more, and keeps the connection open.
    Stall,
    /// Waits for the gate.
    Hold(Gate),
}

impl Reply {
    fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            etag: None,
            framing: Framing::Length,
            range: RangeManners::Never,
            faults: Vec::new(),
            drip: None,
            delay: Duration::ZERO,
            whole: Whole::Answer,
        }
    }

    /// A file as a good server sends it: 200 or 206, Content-Length, a strong ETag made from the content, ranges.
    pub(crate) fn file(body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut reply = Self::new(200, body);
        let sum = body.iter().fold(body.len() as u64, |sum, b| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*b))
        });
        reply.etag = Some(format!("\"{sum:x}\""));
        reply.range = RangeManners::Obey;
        reply.with("content-type", "application/octet-stream")
    }

    /// An answer with this status and a short text.
    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, format!("status {status}\n").as_bytes())
            .with("content-type", "text/plain")
    }

    /// An answer with this status and body.
    pub(crate) fn page(status: u16, content_type: &str, body: &str) -> Self {
        Self::new(status, body.as_bytes()).with("content-type", content_type)
    }

    /// A redirect.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::new(status, b"").with("location", location)
    }

    /// Reads the request and never says anything.
    pub(crate) fn silent() -> Self {
        let mut reply = Self::new(200, b"");
        reply.whole = Whole::Silence;
        reply
    }

    /// Reads the request and ends the connection.
    pub(crate) fn close() -> Self {
        let mut reply = Self::new(200, b"");
        reply.whole = Whole::Close;
        reply
    }

    /// Reads the request and resets the connection.
    pub(crate) fn reset() -> Self {
        let mut reply = Self::new(200, b"");
        reply.whole = Whole::Reset;
        reply
    }

    /// Puts these bytes on the wire, head and all, and ends the connection.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        let mut reply = Self::new(200, bytes.as_ref());
        reply.whole = Whole::Raw;
        reply
    }

    /// Adds or replaces a header.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the ETag, quotes included, such as `"v1"` or `W/"v1"`.
    pub(crate) fn etag(mut self, etag: &str) -> Self {
        self.etag = Some(etag.to_owned());
        self
    }

    /// Sends no ETag.
    pub(crate) fn no_etag(mut self) -> Self {
        self.etag = None;
        self
    }

    /// Always sends the whole file.
    pub(crate) fn no_ranges(mut self) -> Self {
        self.range = RangeManners::Never;
        self
    }

    /// Honours Range whatever If-Range says.
    pub(crate) fn ignores_if_range(mut self) -> Self {
        self.range = RangeManners::IgnoreIfRange;
        self
    }

    /// Answers ranges with 416.
    pub(crate) fn unsatisfiable(mut self) -> Self {
        self.range = RangeManners::Unsatisfiable;
        self
    }

    /// Answers ranges with this status.
    pub(crate) fn refuses_ranges(mut self, status: u16) -> Self {
        self.range = RangeManners::Refuse(status);
        self
    }

    /// Answers 206 with this Content-Range to everything, asked for or not.
    pub(crate) fn content_range(mut self, text: &str) -> Self {
        self.range = RangeManners::Lie(text.to_owned());
        self
    }

    /// Sends at most `n` bytes in a 206.
    pub(crate) fn ranges_of_at_most(mut self, n: u64) -> Self {
        self.range = RangeManners::AtMost(n);
        self
    }

    /// States this Content-Length whatever the body is; the connection ends after the body.
    pub(crate) fn length(mut self, n: u64) -> Self {
        self.framing = Framing::Lie(n);
        self
    }

    /// Sends the body in chunks, without Content-Length. A cut leaves out the last chunk.
    pub(crate) fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends no length: the end of the connection is the end of the body.
    pub(crate) fn until_close(mut self) -> Self {
        self.framing = Framing::Close;
        self
    }

    /// Ends the connection where byte `n` of the file would come; a request from `n` on is not cut. May be repeated.
    pub(crate) fn cut_at(self, n: u64) -> Self {
        self.fault(n, Fault::Cut)
    }

    /// As [`Reply::cut_at`], with a reset.
    pub(crate) fn reset_at(self, n: u64) -> Self {
        self.fault(n, Fault::Reset)
    }

    /// Falls silent where byte `n` of the file would come, and keeps the connection open.
    pub(crate) fn stall_at(self, n: u64) -> Self {
        self.fault(n, Fault::Stall)
    }

    /// Waits for `gate` where byte `n` of the file would come, then goes on.
    pub(crate) fn hold_at(self, n: u64, gate: &Gate) -> Self {
        self.fault(n, Fault::Hold(gate.clone()))
    }

    fn fault(mut self, n: u64, fault: Fault) -> Self {
        self.faults.push((n, fault));
        self.faults.sort_by_key(|(n, _)| *n);
        self
    }

    /// Sends `bytes` of the body each `every`.
    pub(crate) fn drip(mut self, bytes: usize, every: Duration) -> Self {
        self.drip = Some((bytes.max(1), every));
        self
    }

    /// Waits so long before the head.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

pub(super) struct Selection {
    pub(super) status: Option<u16>,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) content_range: Option<String>,
}

/// Decides which part of the file a request gets.
pub(super) fn select(hit: &Hit, reply: &Reply, total: u64) -> Selection {
    let whole = Selection {
        status: None,
        start: 0,
        end: total,
        content_range: None,
    };
    let asked = hit.range_start();
    let part = |start: u64, end: u64| Selection {
        status: Some(206),
        start,
        end,
        content_range: Some(format!("bytes {start}-{}/{total}", end - 1)),
    };
    let none = || Selection {
        status: Some(416),
        start: 0,
        end: 0,
        content_range: Some(format!("bytes */{total}")),
    };
    if let RangeManners::Lie(text) = &reply.range {
        return Selection {
            status: Some(206),
            start: asked.unwrap_or(0).min(total),
            end: total,
            content_range: Some(text.clone()),
        };
    }
    let Some(start) = asked else { return whole };
    match &reply.range {
        RangeManners::Never | RangeManners::Lie(_) => whole,
        RangeManners::Unsatisfiable => none(),
        RangeManners::Refuse(status) => Selection {
            status: Some(*status),
            start: 0,
            end: 0,
            content_range: None,
        },
        RangeManners::Obey if !if_range_holds(hit, reply) => whole,
        _ if start >= total => none(),
        RangeManners::Obey | RangeManners::IgnoreIfRange => part(start, total),
        RangeManners::AtMost(n) => part(start, total.min(start + n)),
    }
}

fn if_range_holds(hit: &Hit, reply: &Reply) -> bool {
    let Some(condition) = hit.header("if-range") else {
        return true;
    };
    let last_modified = reply
        .headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case("last-modified"))
        .map(|(_, v)| v.as_str());
    let strong = reply.etag.as_deref().filter(|e| !e.starts_with("W/"));
    Some(condition) == strong || Some(condition) == last_modified
}
