//! A receiver of callbacks on loopback: it keeps what it was sent and answers by a script.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// One request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The status that it was answered with.
    pub(crate) status: u16,
}

impl Delivery {
    /// A header's value, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct State {
    script: VecDeque<(u16, String)>,
    always: Option<u16>,
    seen: Vec<Delivery>,
}

/// The receiver; it ends with its last handle.
#[derive(Clone)]
pub(crate) struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1 and answers 204 to everything.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let state = Arc::downgrade(&receiver.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(state) = state.upgrade() else { return };
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(&stream, &state));
                }
            }
        });
        receiver
    }

    /// Where callbacks go.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers the next requests with these statuses and headers (`"Name: value\r\n"`), in order.
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = (u16, &'static str)>) {
        let answers = answers
            .into_iter()
            .map(|(status, headers)| (status, headers.to_owned()));
        self.state.lock().unwrap().script.extend(answers);
    }

    /// Answers everything with `status` from now on, or 204 again.
    pub(crate) fn always(&self, status: Option<u16>) {
        self.state.lock().unwrap().always = status;
    }

    /// Everything that came in so far.
    pub(crate) fn seen(&self) -> Vec<Delivery> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The accepted deliveries of one type.
    pub(crate) fn of_type(&self, kind: &str) -> Vec<Delivery> {
        self.seen()
            .into_iter()
            .filter(|d| d.status < 300 && d.json()["type"] == kind)
            .collect()
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut reader = BufReader::new(stream);
    while let Some(()) = serve_one(&mut reader, stream, state) {}
}

fn serve_one(
    reader: &mut BufReader<&TcpStream>,
    mut stream: &TcpStream,
    state: &Mutex<State>,
) -> Option<()> {
    let mut headers = Vec::new();
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers
        .iter()
        .find(|(n, _)| n == "content-length")
        .and_then(|(_, v)| v.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (status, extra) = {
        let mut state = state.lock().unwrap();
        let scripted = state.script.pop_front();
        let (status, extra) = scripted.unwrap_or((state.always.unwrap_or(204), String::new()));
        state.seen.push(Delivery {
            headers,
            body,
            status,
        });
        (status, extra)
    };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{extra}Content-Length: 0\r\n\r\n"
    )
    .ok()
}
