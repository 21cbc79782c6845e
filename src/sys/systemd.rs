//! The service manager's side of the daemon: readiness, watchdog, and sockets handed over at start
//! (`sd_notify(3)`, `sd_watchdog_enabled(3)`, `sd_listen_fds(3)`), by the documented protocols and without libsystemd.
//!
//! Outside of a service manager everything here does nothing: no variable, no message, no socket.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where a variable of the environment comes from; tests bring their own.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The way to the service manager. Clone it freely; a manager that is not there swallows every message.
#[derive(Debug, Clone, Default)]
pub struct Notify {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_lookup(&|name| std::env::var_os(name))
    }

    fn from_lookup(lookup: Lookup<'_>) -> Self {
        Self {
            address: lookup("NOTIFY_SOCKET").and_then(|text| notify_address(&text)),
            watchdog: watchdog(lookup, std::process::id()),
        }
    }

    /// Tells whether there is a service manager that listens.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.address.is_some()
    }

    /// Returns how long the manager waits for [`Self::alive`] before it kills the process; feed it at half of that.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says that the start is complete, or that a reload is.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Says that a reload has begun; [`Self::ready`] ends it. The time stamp is what `Type=notify-reload` asks for.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
    }

    /// Says that the process is on its way out.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// Shows `status` in `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// Feeds the watchdog.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Asks for `more` time from now on for the start, the reload or the stop that is going on.
    pub fn extend_timeout(&self, more: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", more.as_micros()));
    }

    /// A lost message is no reason to stop the work: the manager's own time limits deal with silence.
    fn send(&self, text: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(text.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::debug!(%error, "service manager does not listen");
        }
    }
}

/// A status is one line of the message: a newline in it would start another assignment.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

/// `@name` stands for the abstract name space, anything else is an absolute path; `vsock:` addresses are not for us.
fn notify_address(text: &OsStr) -> Option<SocketAddr> {
    match text.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(text).ok(),
        _ => None,
    }
}

fn watchdog(lookup: Lookup<'_>, pid: u32) -> Option<Duration> {
    let number = |name| lookup(name)?.to_str()?.parse::<u64>().ok();
    let for_us = lookup("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(pid.into());
    number("WATCHDOG_USEC")
        .filter(|us| for_us && *us > 0)
        .map(Duration::from_micros)
}

fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// A listening socket that the service manager opened for us.
#[derive(Debug)]
pub struct Inherited {
    /// Its `FileDescriptorName=`: the name of its socket unit unless that says otherwise.
    pub name: String,
    /// The socket, not blocking and not passed on to children.
    pub socket: Socket,
}

/// What kind of socket was handed over.
#[derive(Debug)]
pub enum Socket {
    /// A stream socket of the local machine.
    Unix(UnixListener),
    /// A stream socket of TCP.
    Tcp(std::net::TcpListener),
}

/// Why handed-over sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The variables make no sense.
    #[error("read `LISTEN_FDS`: `{0}` is no number of sockets")]
    Count(String),
    /// A descriptor is missing or no listening stream socket.
    #[error(
        "take over descriptor {fd} (`{name}`): expected a listening stream socket, found {found}"
    )]
    Kind {
        /// Its number.
        fd: i32,
        /// Its name.
        name: String,
        /// What it is instead.
        found: String,
    },
    /// The system refused a call on a descriptor.
    #[error("take over descriptor {fd}")]
    Call {
        /// Its number.
        fd: i32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The first descriptor that a service manager hands over.
const FIRST_FD: i32 = 3;

/// Takes over the sockets that the service manager opened for this process: none when there are none, and none at a
/// second call, since each can have one owner only.
pub fn take_listeners() -> Result<Vec<Inherited>, ListenError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let handed = handed_over(&|name| std::env::var_os(name), std::process::id())?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    handed
        .into_iter()
        .map(|(fd, name)| inherit(own(fd, &name)?, fd, name))
        .collect()
}

/// Reads which descriptors were handed to the process `pid`, with their names. The variables may have been meant for a
/// parent of ours.
fn handed_over(lookup: Lookup<'_>, pid: u32) -> Result<Vec<(i32, String)>, ListenError> {
    let text = |name| lookup(name).map(|v| v.to_string_lossy().into_owned());
    if text("LISTEN_PID").and_then(|v| v.parse().ok()) != Some(pid) {
        return Ok(Vec::new());
    }
    let count = text("LISTEN_FDS").unwrap_or_default();
    let count: u16 = count.parse().map_err(|_| ListenError::Count(count))?;
    let names = text("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').filter(|n| !n.is_empty());
    Ok((0..i32::from(count))
        .map(|i| (FIRST_FD + i, names.next().unwrap_or("unknown").to_owned()))
        .collect())
}

/// Makes us the owner of an inherited descriptor that is an open socket.
fn own(fd: i32, name: &str) -> Result<OwnedFd, ListenError> {
    let found = std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .map_or_else(|e| e.to_string(), |link| link.display().to_string());
    if !found.starts_with("socket:") {
        let name = name.to_owned();
        return Err(ListenError::Kind { fd, name, found });
    }
    Ok(adopt(fd))
}

#[expect(
    unsafe_code,
    reason = "a descriptor from the parent is a bare number; there is no safe way to own one above 2"
)]
fn adopt(fd: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: `own` saw that `fd` is open, the service manager gave it to this process alone (LISTEN_PID), and
    // `take_listeners` gets here once per process, so nothing else owns or closes it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn inherit(owned: OwnedFd, fd: i32, name: String) -> Result<Inherited, ListenError> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let call = |source: io::Error| ListenError::Call { fd, source };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).map_err(|e| call(e.into()))?;
    rustix::io::ioctl_fionbio(&owned, true).map_err(|e| call(e.into()))?;
    let family = sockopt::socket_domain(&owned).map_err(|e| call(e.into()))?;
    let kind = sockopt::socket_type(&owned).map_err(|e| call(e.into()))?;
    let listens = sockopt::socket_acceptconn(&owned).map_err(|e| call(e.into()))?;
    let socket = match (kind, family) {
        (SocketType::STREAM, AddressFamily::UNIX) if listens => Socket::Unix(owned.into()),
        (SocketType::STREAM, AddressFamily::INET | AddressFamily::INET6) if listens => {
            Socket::Tcp(owned.into())
        }
        _ => {
            let found = "another kind of socket".to_owned();
            return Err(ListenError::Kind { fd, name, found });
        }
    };
    Ok(Inherited { name, socket })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    fn notifying(address: &OsStr) -> Notify {
        Notify::from_lookup(&|name| (name == "NOTIFY_SOCKET").then(|| address.to_owned()))
    }

    #[test]
    fn says_each_word_of_the_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notify = notifying(path.as_os_str());
        assert!(notify.is_present());
        notify.ready("2 files\nMAINPID=1");
        assert_eq!(receive(&socket), "READY=1\nSTATUS=2 files MAINPID=1");
        notify.alive();
        assert_eq!(receive(&socket), "WATCHDOG=1");
        notify.status("idle");
        assert_eq!(receive(&socket), "STATUS=idle");
        notify.extend_timeout(Duration::from_secs(2));
        assert_eq!(receive(&socket), "EXTEND_TIMEOUT_USEC=2000000");
        notify.stopping("draining");
        assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=draining");
        let before = monotonic_us();
        notify.reloading();
        let text = receive(&socket);
        let stamp: i64 = text
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap()
            .parse()
            .unwrap();
        assert!((before..=monotonic_us()).contains(&stamp));
    }

    #[test]
    fn reaches_an_abstract_socket() {
        let name = format!("edgepush-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        notifying(OsStr::new(&format!("@{name}"))).alive();
        assert_eq!(receive(&socket), "WATCHDOG=1");
    }

    #[test]
    fn is_silent_without_a_manager() {
        for odd in ["", "@", "relative", "vsock:2:1234", "/no/such/socket"] {
            notifying(OsStr::new(odd)).ready("x");
        }
        assert!(!Notify::default().is_present());
    }

    #[test]
    fn watchdog_is_on_only_for_the_process_it_names() {
        let case = |usec: &str, pid: Option<&str>| {
            let lookup = |name: &str| match name {
                "WATCHDOG_USEC" => Some(OsString::from(usec)),
                "WATCHDOG_PID" => pid.map(OsString::from),
                _ => None,
            };
            watchdog(&lookup, 42)
        };
        let four = Some(Duration::from_secs(4));
        assert_eq!(case("4000000", None), four);
        assert_eq!(case("4000000", Some("42")), four);
        assert_eq!(case("4000000", Some("43")), None);
        assert_eq!(case("4000000", Some("x")), None);
        assert_eq!(case("0", None), None);
        assert_eq!(case("soon", None), None);
    }

    #[test]
    fn names_the_descriptors_that_were_handed_over() {
        let case = |pid: &str, count: &str, names: &str| {
            let lookup = |name: &str| match name {
                "LISTEN_PID" => Some(OsString::from(pid)),
                "LISTEN_FDS" => Some(OsString::from(count)),
                "LISTEN_FDNAMES" => Some(OsString::from(names)),
                _ => None,
            };
            handed_over(&lookup, 42)
        };
        let named = case("42", "2", "a.socket").unwrap();
        assert_eq!(named, [(3, "a.socket".into()), (4, "unknown".into())]);
        assert!(case("43", "2", "").unwrap().is_empty());
        assert!(matches!(case("42", "-1", ""), Err(ListenError::Count(_))));
    }

    const CHILD: &str = "EDGEPUSH_TEST_INHERITED";

    /// The child of the next test: it runs with a socket at descriptor 3.
    #[test]
    fn child_answers_on_what_it_was_given() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let taken = take_listeners().unwrap();
        let [
            Inherited {
                name,
                socket: Socket::Unix(listener),
            },
        ] = &taken[..]
        else {
            panic!("{taken:?}");
        };
        listener.set_nonblocking(false).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(name.as_bytes()).unwrap();
        assert!(take_listeners().unwrap().is_empty());
    }

    #[test]
    fn takes_over_a_socket_that_was_open_before_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sys::systemd::tests::child_answers_on_what_it_was_given",
            ])
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "edgepush.socket")
            .env(CHILD, "1")
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stream = UnixStream::connect(&path).unwrap();
        io::Read::read_to_string(&mut stream, &mut said).unwrap();
        assert_eq!(said, "edgepush.socket");
        assert!(child.wait().unwrap().success());
    }
}
