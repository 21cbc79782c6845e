//! A node under test: a data directory of its own, a configuration, and the real agent as a child process.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http;

/// The longest that any test waits for one thing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The application that tests push.
pub(crate) const APP: &str = "app-1";

/// A node, and its agent when it runs.
pub(crate) struct TestNode {
    dir: TempDir,
    root: PathBuf,
    config: String,
    agent: Option<Child>,
    log: Arc<Mutex<String>>,
    /// Reads the log of the agent that runs.
    reader: Option<JoinHandle<()>>,
    /// Set when the agent is started.
    pub(crate) http: Option<SocketAddr>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl TestNode {
    /// Makes a node with `extra` TOML behind the configuration that tests share.
    pub(crate) fn new(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        Self::at(dir, root, extra)
    }

    /// Makes a node whose data directory is `root`, for instance on a small file system.
    pub(crate) fn with_root(root: &Path, extra: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), root.to_owned(), extra)
    }

    fn at(dir: TempDir, root: PathBuf, extra: &str) -> Self {
        let socket = dir.path().join("agent.sock");
        let config = format!(
            "data_dir = {root:?}\n\n[listen]\nhttp = \"127.0.0.1:0\"\nsocket = {socket:?}\n\n{extra}\n"
        );
        let config = if extra.contains("[fetch]") {
            config
        } else {
            format!("{config}\n[fetch]\nallow = [\"127.0.0.0/8\"]\n")
        };
        Self {
            dir,
            root,
            config,
            agent: None,
            log: Arc::default(),
            reader: None,
            http: None,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Sets an environment variable of the agent, from its next start on.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(n, _)| n != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Lets system calls fail from the agent's next start on, as `strace` says: `fail_calls("write", "error=EIO", &[])`,
    /// of these paths only if any are given.
    pub(crate) fn fail_calls(&mut self, calls: &str, how: &str, paths: &[PathBuf]) {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{how}"));
        let mut arguments = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null"];
        arguments.extend(["-e", &trace, "-e", &inject]);
        for path in paths {
            arguments.extend(["-P", path.to_str().unwrap()]);
        }
        self.run_through(&arguments);
    }

    /// Runs the agent through another program, such as `strace …`, from its next start on.
    pub(crate) fn run_through(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&a| a.to_owned()).collect();
    }

    /// The directory beside the data directory that belongs to this node alone.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The socket of the native API.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// The configuration file; written anew with `config`.
    pub(crate) fn write_config(&mut self, config: &str) {
        config.clone_into(&mut self.config);
        fs::write(self.config_file(), config).unwrap();
    }

    /// The text of the configuration.
    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// The path of the configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("edgepush.toml")
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_edgepush");
        let mut command = match self.arguments.split_first() {
            None => Command::new(binary),
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(binary);
                command
            }
        };
        command
            // Tests of retention need not wait; what was live goes at once.
            .env("EDGEPUSH_PUBLISH__KEEP_FOR", "0s")
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .env_remove("NOTIFY_SOCKET")
            .env("NO_COLOR", "1");
        command
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the agent without waiting.
    pub(crate) fn spawn(&mut self) {
        assert!(self.agent.is_none(), "the agent runs already");
        fs::write(self.config_file(), &self.config).unwrap();
        let mut child = self
            .command()
            .args(["agent", "--config"])
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = Arc::clone(&self.log);
        self.reader = Some(std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut block) {
                log.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&block[..n]));
            }
        }));
        self.agent = Some(child);
    }

    /// Waits until the started agent answers on its socket.
    pub(crate) fn wait_ready(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                panic!(
                    "the agent ended ({status}) before it was ready:\n{}",
                    self.log()
                );
            }
            if let Ok(answer) = http::unix(&self.socket(), "GET", "/v1/status", None)
                && answer.status == 200
            {
                // The port is of the kernel's choice.
                self.http = answer.json()["listen_http"]
                    .as_str()
                    .and_then(|address| address.parse().ok());
                return;
            }
            assert!(
                Instant::now() < end,
                "the agent is not ready:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process id of the agent.
    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Resident memory of the agent in bytes: now, and at most so far.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let bytes = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            let number = line.split_whitespace().nth(1).unwrap();
            number.parse::<u64>().unwrap() << 10
        };
        (bytes("VmRSS:"), bytes("VmHWM:"))
    }

    /// Everything that the agent has logged so far, over all its lives.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Kills the agent where it stands.
    pub(crate) fn kill(&mut self) {
        let mut child = self.agent.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.read_log_to_its_end();
    }

    /// Whatever the agent that has ended said is in the log afterwards.
    fn read_log_to_its_end(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// Asks the agent to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait_end()
    }

    /// Waits until the agent has ended by itself.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.agent.take().unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.read_log_to_its_end();
                return status;
            }
            if Instant::now() > end {
                let _ = child.kill();
                panic!("the agent does not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks the native API.
    pub(crate) fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> http::Answer {
        http::unix(&self.socket(), method, target, body)
            .unwrap_or_else(|e| panic!("{method} {target}: {e}\n{}", self.log()))
    }

    /// Pushes items (`{"name":…}`) and returns the answers.
    pub(crate) fn push(&self, items: &[Value]) -> Vec<Value> {
        let document = json!({ "AppId": APP, "Data": items });
        let answer = self.ask("POST", "/v1/pushes", Some(&document));
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()["answers"].as_array().unwrap().clone()
    }

    /// The result codes of a push.
    pub(crate) fn push_codes(&self, items: &[Value]) -> Vec<u64> {
        self.push(items)
            .iter()
            .map(|a| a["code"].as_u64().unwrap())
            .collect()
    }

    /// What the node says of one file, if it knows it.
    pub(crate) fn file(&self, name: &str, version: &str) -> Option<Value> {
        let target = format!(
            "/v1/files?app={APP}&name={}&version={}",
            encode(name),
            encode(version)
        );
        let answer = self.ask("GET", &target, None);
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json()["files"].as_array().unwrap().first().cloned()
    }

    /// Waits until a file has ended, and returns what the node says of it.
    pub(crate) fn finish(&self, name: &str, version: &str) -> Value {
        self.wait_for(&format!("{name}@{version} to end"), PATIENCE, || {
            let file = self.file(name, version)?;
            matches!(
                file["state"].as_str(),
                Some("succeeded" | "failed" | "canceled")
            )
            .then_some(file)
        })
    }

    /// Waits for a value.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> T {
        let end = Instant::now() + patience;
        loop {
            if let Some(value) = look() {
                return value;
            }
            assert!(
                Instant::now() < end,
                "waited {patience:?} for {what}; the agent says:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs the command line against this node.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .env("NO_COLOR", "1")
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Where `current` of a name is.
    pub(crate) fn current(&self, name: &str) -> PathBuf {
        self.root
            .join("data")
            .join(APP)
            .join(edgepush::datafile::path_component(name))
            .join("current")
    }

    /// Names of what is in a directory of the data directory.
    pub(crate) fn list(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(dir)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Checks that the live tree of `name` holds exactly `files`.
    pub(crate) fn assert_tree(&self, name: &str, files: &[(String, Vec<u8>)]) {
        assert_tree(&self.current(name), files);
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- what the agent said:\n{}---", self.log());
        }
    }
}

/// Checks that the tree below `root` holds exactly `files`.
pub(crate) fn assert_tree(root: &Path, files: &[(String, Vec<u8>)]) {
    let mut found = 0;
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path)
            } else {
                found += 1
            }
        }
    }
    for (path, content) in files {
        let read = fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(read == *content, "{path} differs");
    }
    assert_eq!(found, files.len(), "files below {}", root.display());
}

/// An element of a push that states everything right.
pub(crate) fn item(name: &str, version: &str, kind: &str, archive: &[u8], url: &str) -> Value {
    json!({
        "name": name,
        "version": version,
        "archiveType": kind,
        "size": archive.len(),
        "md5": super::archive::md5(archive),
        "url": url,
        "timeout": 60,
    })
}

/// Tells whether a process was ended by a signal.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal().is_some()
}

/// Percent-encodes a query value.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
