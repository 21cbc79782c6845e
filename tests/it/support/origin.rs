//! `Origin`: a real HTTP/1.1 server on `127.0.0.1:0` that does what its script says, and counts what it was asked.
//!
//! ```ignore
//! let origin = Origin::start();
//! origin.serve("/a.zip", Reply::file(bytes).cut_at(500));           // every hit; a resume from 500 gets the rest
//! origin.script("/b.zip", [Reply::status(503), Reply::file(b)]);    // one per hit, the last one repeats
//! let gate = Gate::new();
//! origin.serve("/c.zip", Reply::file(c).hold_at(100, &gate));       // sends 100 bytes, then waits for gate.open()
//! fetch(origin.url("/a.zip?sign=SECRET"));
//! assert_eq!(origin.hits("/a.zip").len(), 2);
//! assert_eq!(origin.hits("/a.zip")[1].header("range"), Some("bytes=500-"));
//! ```
//!
//! One thread per connection, no runtime: it works from any test. It also acts as a forward proxy: `GET http://h/p` is
//! answered by the script of `/p`, `CONNECT` is tunnelled. Everything ends when the `Origin` is dropped.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

mod reply;

use reply::{Fault, Framing, Whole, select};
pub(crate) use reply::{Gate, Reply};

/// Bytes written at a time; a test that counts sees at most this many more than the client took, beside socket buffers.
const PIECE: usize = 16 * 1024;

/// The server. Dropping it closes the port and every connection.
pub(crate) struct Origin {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    hits: Mutex<Vec<Hit>>,
    connections: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    stopped: Gate,
    refusing: AtomicBool,
}

struct Script {
    replies: Vec<Reply>,
    next: usize,
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    /// `GET`, `CONNECT`, ...
    pub(crate) method: String,
    /// The request target as sent: with query, absolute when sent to a proxy.
    pub(crate) target: String,
    /// The target's path alone.
    pub(crate) path: String,
    /// Headers in order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// When the request was read.
    pub(crate) at: Instant,
    /// Number of the connection it came on, from 1.
    pub(crate) connection: u64,
    /// The certificate that the client showed.
    pub(crate) certificate: Option<Vec<u8>>,
    sent: Arc<AtomicU64>,
}

/// Returns the path of a file of `tests/data/tls`, such as `ca.pem`.
pub(crate) fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tls")
        .join(name)
}

/// Returns the certificate in a PEM file of `tests/data/tls`.
pub(crate) fn certificate(file: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(tls_file(file)).expect("a certificate")
}

fn tls_config(name: &str, mutual: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .expect("a verifier");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(tls_file(&format!("{name}.key"))).expect("a key");
    let chain = vec![certificate(&format!("{name}.pem"))];
    Arc::new(builder.with_single_cert(chain, key).expect("a pair"))
}

/// A connection below HTTP.
trait Wire: Read + Write {
    /// Returns the certificate that the client showed.
    fn certificate(&self) -> Option<Vec<u8>>;
}

impl Wire for TcpStream {
    fn certificate(&self) -> Option<Vec<u8>> {
        None
    }
}

impl Wire for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn certificate(&self) -> Option<Vec<u8>> {
        let chain = self.conn.peer_certificates()?;
        Some(chain.first()?.to_vec())
    }
}

impl Hit {
    /// Returns the first header of this (lower-case) name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Returns how many bytes of body were written for it so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Returns the first byte that a `Range: bytes=N-` asked for.
    pub(crate) fn range_start(&self) -> Option<u64> {
        let (first, _) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        first.parse().ok()
    }
}

impl Origin {
    /// Starts a server on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::start_with("127.0.0.1:0", None)
    }

    /// Starts a server on another address, such as `10.231.0.2:0`, in the network namespace of this thread.
    pub(crate) fn start_at(address: &str) -> Self {
        Self::start_with(address, None)
    }

    /// Starts a server that speaks TLS with the certificate `name` of `tests/data/tls`.
    pub(crate) fn start_tls(name: &str) -> Self {
        Self::start_with("127.0.0.1:0", Some(tls_config(name, false)))
    }

    /// Starts a server that speaks TLS and wants a client certificate of the same authority.
    pub(crate) fn start_mutual_tls(name: &str) -> Self {
        Self::start_with("127.0.0.1:0", Some(tls_config(name, true)))
    }

    fn start_with(address: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("the address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting, tls.as_ref()));
        Self {
            address,
            scheme,
            shared,
        }
    }

    /// Answers every request for `path` with `reply`.
    pub(crate) fn serve(&self, path: &str, reply: Reply) {
        self.script(path, [reply]);
    }

    /// Answers the requests for `path` with one reply each, in order; the last one repeats.
    pub(crate) fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies: Vec<Reply> = replies.into_iter().collect();
        assert!(!replies.is_empty(), "a script needs a reply");
        lock(&self.shared.scripts).insert(path.to_owned(), Script { replies, next: 0 });
    }

    /// Closes each new connection at once with a reset, or stops doing so.
    pub(crate) fn refuse_connections(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Resets every open connection now.
    pub(crate) fn cut_all(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            reset(&stream);
        }
    }

    /// Returns the URL of `path` (which may have a query).
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Returns the same URL with another host name in it, such as `localhost`.
    pub(crate) fn url_at(&self, host: &str, path: &str) -> String {
        format!("{}://{host}:{}{path}", self.scheme, self.address.port())
    }

    /// Returns `127.0.0.1:port`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the requests for `path` (without query) so far.
    pub(crate) fn hits(&self, path: &str) -> Vec<Hit> {
        lock(&self.shared.hits)
            .iter()
            .filter(|h| h.path == path)
            .cloned()
            .collect()
    }

    /// Returns every request so far.
    pub(crate) fn all_hits(&self) -> Vec<Hit> {
        lock(&self.shared.hits).clone()
    }

    /// Returns how many bytes of body were written for `path` so far, over all requests.
    pub(crate) fn sent(&self, path: &str) -> u64 {
        self.hits(path).iter().map(Hit::sent).sum()
    }

    /// Returns how many connections were accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until `path` has been asked for at least `n` times.
    pub(crate) fn wait_for_hits(&self, path: &str, n: usize) {
        wait_until(&format!("{n} hits of {path}"), || {
            self.hits(path).len() >= n
        });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.open();
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

/// Waits up to 20 s for `condition`, and fails the test with `what` if it does not come true.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "waited 20 s in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a RST, whoever else holds the socket: closing with a linger of 0 would need every copy closed.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::connect_unspec(stream);
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Arc<ServerConfig>>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopped.is_open() {
            return;
        }
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        if shared.refusing.load(Ordering::SeqCst) {
            reset(&stream);
            continue;
        }
        if let Ok(copy) = stream.try_clone() {
            lock(&shared.open).push(copy);
        }
        let (shared, tls) = (Arc::clone(shared), tls.cloned());
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let Ok(raw) = stream.try_clone() else { return };
            let _ = match tls {
                None => Connection::new(stream, raw, number, &shared).run(),
                Some(config) => match rustls::ServerConnection::new(config) {
                    Ok(session) => {
                        let stream = rustls::StreamOwned::new(session, stream);
                        Connection::new(stream, raw, number, &shared).run()
                    }
                    Err(e) => Err(io::Error::other(e)),
                },
            };
        });
    }
}

/// Whether the connection may be used for another request.
enum After {
    KeepAlive,
    End,
}

struct Connection<'a, S: Wire> {
    stream: BufReader<S>,
    /// The same socket below TLS, to end or reset it.
    raw: TcpStream,
    number: u64,
    shared: &'a Shared,
}

impl<'a, S: Wire> Connection<'a, S> {
    fn new(stream: S, raw: TcpStream, number: u64, shared: &'a Shared) -> Self {
        Self {
            stream: BufReader::new(stream),
            raw,
            number,
            shared,
        }
    }

    fn run(mut self) -> io::Result<()> {
        while let Some(hit) = self.read_request()? {
            lock(&self.shared.hits).push(hit.clone());
            if hit.method == "CONNECT" {
                return self.tunnel(&hit.target);
            }
            let reply = self.next_reply(&hit.path);
            match self.answer(&hit, &reply)? {
                After::KeepAlive => {}
                After::End => break,
            }
        }
        let _ = self.raw.shutdown(Shutdown::Both);
        Ok(())
    }

    fn read_request(&mut self) -> io::Result<Option<Hit>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or("").to_owned();
        let target = words.next().unwrap_or("").to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let rest = target.split_once("://").map_or(target.as_str(), |(_, r)| {
            r.find('/').map_or("/", |slash| &r[slash..])
        });
        let path = rest.split(['?', '#']).next().unwrap_or("").to_owned();
        Ok(Some(Hit {
            method,
            target,
            path,
            headers,
            at: Instant::now(),
            connection: self.number,
            certificate: self.stream.get_ref().certificate(),
            sent: Arc::default(),
        }))
    }

    fn next_reply(&self, path: &str) -> Reply {
        let mut scripts = lock(&self.shared.scripts);
        let Some(script) = scripts.get_mut(path) else {
            return Reply::status(404);
        };
        let reply = script.replies[script.next].clone();
        script.next = (script.next + 1).min(script.replies.len() - 1);
        reply
    }

    fn answer(&mut self, hit: &Hit, reply: &Reply) -> io::Result<After> {
        if !reply.delay.is_zero() && self.shared.stopped.wait(reply.delay) {
            return Ok(After::End);
        }
        match reply.whole {
            Whole::Answer => self.send(hit, reply),
            Whole::Silence => {
                self.silence();
                Ok(After::End)
            }
            Whole::Close => Ok(After::End),
            Whole::Reset => {
                reset(&self.raw);
                Ok(After::End)
            }
            Whole::Raw => {
                self.put(&reply.body)?;
                Ok(After::End)
            }
        }
    }

    /// Says nothing until the client goes away or the test is over.
    fn silence(&self) {
        let _ = self.raw.set_read_timeout(Some(Duration::from_millis(5)));
        let mut byte = [0];
        while !self.shared.stopped.is_open() {
            match self.raw.peek(&mut byte) {
                Ok(0) => return,
                Ok(_) => thread::sleep(Duration::from_millis(5)),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return,
            }
        }
    }

    fn send(&mut self, hit: &Hit, reply: &Reply) -> io::Result<After> {
        let total = reply.body.len() as u64;
        let selection = select(hit, reply, total);
        let status = selection.status.unwrap_or(reply.status);
        let body_len = selection.end.saturating_sub(selection.start);
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(etag) = &reply.etag {
            head.push_str(&format!("etag: {etag}\r\n"));
        }
        if let Some(range) = &selection.content_range {
            head.push_str(&format!("content-range: {range}\r\n"));
        }
        match reply.framing {
            Framing::Length => head.push_str(&format!("content-length: {body_len}\r\n")),
            Framing::Lie(n) => head.push_str(&format!("content-length: {n}\r\n")),
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::Close => head.push_str("connection: close\r\n"),
        }
        head.push_str("\r\n");
        self.put(head.as_bytes())?;
        if hit.method == "HEAD" {
            return Ok(After::KeepAlive);
        }
        self.send_body(hit, reply, selection.start, selection.end)
    }

    fn send_body(&mut self, hit: &Hit, reply: &Reply, start: u64, end: u64) -> io::Result<After> {
        let mut at = start;
        let mut faults = reply
            .faults
            .iter()
            .filter(|(n, f)| {
                *n > start || (*n == start && (start == 0 || matches!(f, Fault::Hold(_))))
            })
            .peekable();
        loop {
            while let Some((_, fault)) = faults.next_if(|(n, _)| *n <= at) {
                match fault {
                    Fault::Cut => return Ok(After::End),
                    Fault::Reset => {
                        // What was sent must have arrived: a reset throws away what the peer has not read.
                        thread::sleep(Duration::from_millis(50));
                        reset(&self.raw);
                        return Ok(After::End);
                    }
                    Fault::Stall => {
                        self.silence();
                        return Ok(After::End);
                    }
                    Fault::Hold(gate) => {
                        while !gate.wait(Duration::from_millis(5)) {
                            if self.shared.stopped.is_open() {
                                return Ok(After::End);
                            }
                        }
                    }
                }
            }
            if at >= end {
                break;
            }
            let stop = faults.peek().map_or(end, |(n, _)| end.min(*n));
            let piece = reply.drip.map_or(PIECE, |(n, _)| n) as u64;
            let next = stop.min(at + piece);
            let bytes = &reply.body[at as usize..next as usize];
            if matches!(reply.framing, Framing::Chunked) {
                self.put(format!("{:x}\r\n", bytes.len()).as_bytes())?;
                self.put(bytes)?;
                self.put(b"\r\n")?;
            } else {
                self.put(bytes)?;
            }
            hit.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            at = next;
            if let Some((_, every)) = reply.drip
                && self.shared.stopped.wait(every)
            {
                return Ok(After::End);
            }
        }
        match reply.framing {
            Framing::Lie(_) | Framing::Close => return Ok(After::End),
            Framing::Chunked => self.put(b"0\r\n\r\n")?,
            Framing::Length => {}
        }
        Ok(match hit.header("connection") {
            Some("close") => After::End,
            _ => After::KeepAlive,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    /// Connects to `target` and carries bytes both ways.
    fn tunnel(mut self, target: &str) -> io::Result<()> {
        let Ok(far) = TcpStream::connect(target) else {
            return self.put(b"HTTP/1.1 502 No Way\r\ncontent-length: 0\r\n\r\n");
        };
        lock(&self.shared.open).push(far.try_clone()?);
        self.put(b"HTTP/1.1 200 Tunnel\r\n\r\n")?;
        let (mut near_read, mut far_write) = (self.raw.try_clone()?, far.try_clone()?);
        let forth = thread::spawn(move || {
            let _ = io::copy(&mut near_read, &mut far_write);
            let _ = far_write.shutdown(Shutdown::Both);
        });
        let _ = io::copy(&mut &far, &mut &self.raw);
        let _ = self.raw.shutdown(Shutdown::Both);
        let _ = forth.join();
        Ok(())
    }
}

#[test]
fn resets_for_real() {
    let origin = Origin::start();
    origin.serve("/f", Reply::file([7; 1000]).reset_at(500));
    let mut stream = TcpStream::connect(origin.address()).expect("connects");
    write!(stream, "GET /f HTTP/1.1\r\nhost: o\r\n\r\n").expect("writes");
    let error = io::copy(&mut stream, &mut io::sink()).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn serves_counts_cuts_and_resumes() {
    let origin = Origin::start();
    let body: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    origin.serve("/f", Reply::file(&body).cut_at(40_000));
    let ask = |range: &str| {
        let mut stream = TcpStream::connect(origin.address()).expect("connects");
        write!(
            stream,
            "GET /f?sign=x HTTP/1.1\r\nhost: o\r\nconnection: close\r\n{range}\r\n"
        )
        .expect("writes");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("reads");
        all
    };
    let first = ask("");
    assert!(first.ends_with(&body[39_000..40_000]));
    let rest = ask("range: bytes=40000-\r\n");
    assert!(String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 206"));
    assert!(rest.ends_with(&body[50_000..]));
    assert_eq!(origin.sent("/f"), 100_000);
    assert_eq!(origin.hits("/f")[1].range_start(), Some(40_000));
    assert_eq!(origin.hits("/f")[0].target, "/f?sign=x");
}
