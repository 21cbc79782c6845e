//! The service manager's side of the daemon: readiness, watchdog, and sockets handed over at start.
//! Without a service manager everything here does nothing.

use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Messages to the service manager. One that is lost does not stop the work: the manager's own time
/// limits deal with silence.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notify;

impl Notify {
    /// Returns how long the manager waits for [`Self::alive`] before it kills the process; feed it at half
    /// of that.
    #[must_use]
    pub fn watchdog(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
    }

    /// Reports that the start, or a reload, is complete.
    pub fn ready(self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// Reports that a reload has started; [`Self::ready`] ends it. `Type=notify-reload` requires the
    /// timestamp.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// Reports that the process is shutting down.
    pub fn stopping(self, status: &str) {
        send(&[
            NotifyState::Stopping,
            NotifyState::Status(&one_line(status)),
        ]);
    }

    /// Pings the watchdog.
    pub fn alive(self) {
        send(&[NotifyState::Watchdog]);
    }

    /// Asks for `more` time, from now on, for the start, reload or stop in progress.
    pub fn extend_timeout(self, more: Duration) {
        let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        send(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

/// A newline in a status would start another assignment of the message.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

/// A listening socket that the service manager opened.
#[derive(Debug)]
pub enum Socket {
    /// A stream socket of this host.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(std::net::TcpListener),
}

/// Takes over the sockets that the service manager opened for this process. A second call returns none.
///
/// Call it before other threads read the environment: the variables are removed.
pub fn take_listeners() -> io::Result<Vec<Socket>> {
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed.len() {
        if let Ok(Some(unix)) = handed.take_unix_listener(index) {
            sockets.push(Socket::Unix(unix));
        } else if let Some(tcp) = handed.take_tcp_listener(index)? {
            sockets.push(Socket::Tcp(tcp));
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::{Command, Stdio};

    /// Runs one test of this file as a process of its own, with variables set. `socket` becomes
    /// descriptor 3, as a service manager would hand it over.
    fn child(test: &str, variables: &[(&str, &str)], socket: Option<UnixListener>) -> Command {
        let mut command = Command::new("sh");
        let script = match &socket {
            Some(_) => "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0",
            None => "exec \"$0\" \"$@\"",
        };
        command
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("sys::systemd::tests::{test}")])
            .env(CHILD, "1")
            .envs(variables.iter().copied())
            .stdin(socket.map_or_else(Stdio::null, |s| OwnedFd::from(s).into()))
            .stdout(Stdio::null());
        command
    }

    const CHILD: &str = "EDGEPUSH_TEST_CHILD";

    fn is_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    #[test]
    fn child_sends_each_message() {
        if !is_child() {
            return;
        }
        let notify = Notify;
        assert_eq!(notify.watchdog(), Some(Duration::from_secs(4)));
        notify.ready("2 files\nMAINPID=1");
        notify.alive();
        notify.extend_timeout(Duration::from_secs(2));
        notify.stopping("draining");
        notify.reloading();
    }

    #[test]
    fn sends_each_message_of_the_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let variables = [
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "4000000"),
        ];
        let status = child("child_sends_each_message", &variables, None).status();
        assert!(status.unwrap().success());
        socket.set_nonblocking(true).unwrap();
        let receive = || {
            let mut buffer = [0; 512];
            let n = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..n].to_vec()).unwrap()
        };
        for message in [
            "READY=1\nSTATUS=2 files MAINPID=1\n",
            "WATCHDOG=1\n",
            "EXTEND_TIMEOUT_USEC=2000000\n",
            "STOPPING=1\nSTATUS=draining\n",
        ] {
            assert_eq!(receive(), message);
        }
        let reloading = receive();
        let stamp = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(stamp.unwrap().trim().parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn child_answers_on_the_socket_it_was_given() {
        if !is_child() {
            return;
        }
        let taken = take_listeners().unwrap();
        let [Socket::Unix(listener)] = &taken[..] else {
            panic!("{taken:?}");
        };
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"here").unwrap();
        assert!(take_listeners().unwrap().is_empty());
    }

    #[test]
    fn takes_over_a_socket_that_was_open_before_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let test = "child_answers_on_the_socket_it_was_given";
        let mut child = child(test, &[], Some(listener)).spawn().unwrap();
        let mut said = String::new();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "here");
        assert!(child.wait().unwrap().success());
    }
}
