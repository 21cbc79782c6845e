//! Two network namespaces with one link between them, which `tc` and `nft` may make as bad as a test wants it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// The address of the near end.
pub(crate) const NEAR: &str = "10.231.0.1";
/// The address of the far end.
pub(crate) const FAR: &str = "10.231.0.2";

/// Two network namespaces with one link between them, `veth0` at both ends. They go with it.
pub(crate) struct Lab {
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Lab {
    /// `None` where namespaces cannot be made.
    pub(crate) fn start() -> Option<Self> {
        let name = |end| format!("edgepush-{}-{end}", std::process::id());
        let lab = Self {
            near: name("near"),
            far: name("far"),
        };
        let made = [
            format!("ip netns add {}", lab.near),
            format!("ip netns add {}", lab.far),
            format!(
                "ip link add veth0 netns {} type veth peer name veth0 netns {}",
                lab.near, lab.far
            ),
            format!("ip -n {} addr add {NEAR}/24 dev veth0", lab.near),
            format!("ip -n {} addr add {FAR}/24 dev veth0", lab.far),
            format!("ip -n {} link set lo up", lab.near),
            format!("ip -n {} link set lo up", lab.far),
            format!("ip -n {} link set veth0 up", lab.near),
            format!("ip -n {} link set veth0 up", lab.far),
        ];
        made.iter().all(|command| runs(command)).then_some(lab)
    }

    /// Runs a command at the far end, which has to succeed.
    pub(crate) fn at_far(&self, command: &str) {
        let command = format!("ip netns exec {} {command}", self.far);
        assert!(runs(&command), "{command}");
    }

    /// Runs a command at the near end, which has to succeed.
    pub(crate) fn at_near(&self, command: &str) {
        let command = format!("ip netns exec {} {command}", self.near);
        assert!(runs(&command), "{command}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            runs(&format!("ip netns del {name}"));
        }
    }
}

/// Runs a command, and tells whether it succeeded.
pub(crate) fn runs(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// Runs `work` on a thread inside a network namespace; what it starts stays there.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let link =
                fs::File::open(Path::new("/run/netns").join(namespace)).expect("a namespace");
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(rustix::fd::AsFd::as_fd(&link), network).expect("entered");
            work()
        });
        worker.join().expect("no panic")
    })
}
