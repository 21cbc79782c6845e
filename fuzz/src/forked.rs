//! A tool that is started once and run many times, with the library `fuzz/fork.c` that `fuzz/run`
//! compiles.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The variable with the path of that library; if it is not set, each run starts the tool anew.
const LIBRARY: &str = "EDGEPUSH_FUZZ_FORK";

/// A started tool that waits for requests to run.
pub struct Forked {
    server: Child,
    errors: PathBuf,
}

impl Forked {
    /// Starts `command`, which runs with the same arguments each time and writes its messages to
    /// the file `errors`. `None` without the library.
    pub fn start(command: &mut Command, errors: &Path) -> Option<Self> {
        let library = std::env::var_os(LIBRARY)?;
        let server = command
            .env("LD_PRELOAD", library)
            .env("LD_BIND_NOW", "1")
            .env("EDGEPUSH_FUZZ_ERRORS", errors)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Some(Self {
            server: server.unwrap_or_else(|e| panic!("cannot run {command:?}: {e}")),
            errors: errors.to_owned(),
        })
    }

    /// Runs the tool once; returns its status and its messages.
    pub fn run(&mut self) -> (ExitStatus, Vec<u8>) {
        let (to, from) = (&mut self.server.stdin, &mut self.server.stdout);
        let to = to.as_mut().expect("a pipe");
        to.write_all(b"x").expect("a server");
        let mut status = [0; 4];
        let from = from.as_mut().expect("a pipe");
        from.read_exact(&mut status).expect("a server");
        let errors = fs::read(&self.errors).expect("what it had to say");
        (ExitStatus::from_raw(i32::from_ne_bytes(status)), errors)
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // The server ends when its input is closed.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
