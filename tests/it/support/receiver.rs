//! A receiver of callbacks on loopback: it records what it was sent, and answers by a script.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// By lower-case name.
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// The status that it was answered with.
    pub(crate) status: u16,
    pub(crate) at: Instant,
}

impl Delivery {
    /// A header's value, by its lower-case name; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The event's type.
    pub(crate) fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// The name of the file that the event is about; empty for an event of the node.
    pub(crate) fn name(&self) -> String {
        let body = self.json();
        body["data"]["name"].as_str().unwrap_or("").to_owned()
    }
}

type Answer = Box<dyn FnMut(&Delivery) -> (u16, String) + Send>;

struct State {
    script: VecDeque<(u16, String)>,
    /// Once the script has ended.
    answer: Answer,
    seen: Vec<Delivery>,
}

/// The receiver. It listens as long as the process lives.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1 and answers 204 to everything.
    pub(crate) fn start() -> Self {
        Self::answering(|_| (204, String::new()))
    }

    /// Answers by `answer`: a status, and header lines that each end in CRLF.
    pub(crate) fn answering(
        answer: impl FnMut(&Delivery) -> (u16, String) + Send + 'static,
    ) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), answer)
    }

    /// Answers with these in order, then 204.
    pub(crate) fn scripted(answers: impl IntoIterator<Item = (u16, &'static str)>) -> Self {
        let receiver = Self::start();
        receiver.script(answers);
        receiver
    }

    /// Listens on `address`.
    pub(crate) fn on(
        address: SocketAddr,
        answer: impl FnMut(&Delivery) -> (u16, String) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                script: VecDeque::new(),
                answer: Box::new(answer),
                seen: Vec::new(),
            })),
        };
        let accepting = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let receiver = accepting.clone();
                std::thread::spawn(move || receiver.serve(&stream));
            }
        });
        receiver
    }

    /// Where callbacks go.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers the next requests with these, in order.
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = (u16, &'static str)>) {
        let answers = answers
            .into_iter()
            .map(|(status, headers)| (status, headers.to_owned()));
        self.state().script.extend(answers);
    }

    /// Answers by `answer` once the script has ended.
    pub(crate) fn answer_with(
        &self,
        answer: impl FnMut(&Delivery) -> (u16, String) + Send + 'static,
    ) {
        self.state().answer = Box::new(answer);
    }

    /// Answers everything with `status` from now on.
    pub(crate) fn always(&self, status: u16) {
        self.answer_with(move |_| (status, String::new()));
    }

    /// Everything that came in so far.
    pub(crate) fn seen(&self) -> Vec<Delivery> {
        self.state().seen.clone()
    }

    /// What was answered with success.
    pub(crate) fn taken(&self) -> Vec<Delivery> {
        self.seen().into_iter().filter(|d| d.status < 300).collect()
    }

    /// The successful deliveries of one type.
    pub(crate) fn of_type(&self, kind: &str) -> Vec<Delivery> {
        self.taken()
            .into_iter()
            .filter(|d| d.kind() == kind)
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let mut reader = BufReader::new(stream);
        while self.serve_one(&mut reader, stream).is_some() {}
    }

    fn serve_one(&self, reader: &mut BufReader<&TcpStream>, mut stream: &TcpStream) -> Option<()> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut headers = HashMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|v| v.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let mut delivery = Delivery {
            headers,
            body,
            status: 0,
            at: Instant::now(),
        };
        let (status, more) = {
            let mut state = self.state();
            let scripted = state.script.pop_front();
            let answer = scripted.unwrap_or_else(|| (state.answer)(&delivery));
            delivery.status = answer.0;
            state.seen.push(delivery);
            answer
        };
        write!(
            stream,
            "HTTP/1.1 {status} X\r\n{more}Content-Length: 0\r\n\r\n"
        )
        .ok()
    }
}
