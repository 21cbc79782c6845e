//! A tool that is started once and run many times: see `fuzz/fork.c`, which `fuzz/run` compiles.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The variable that names the compiled library; without it tools are started anew each time.
const LIBRARY: &str = "EDGEPUSH_FUZZ_FORK";

/// A tool that waits to be run.
pub struct Forked {
    server: Child,
    errors: PathBuf,
}

impl Forked {
    /// Starts `command`, which runs in the same way each time; what it has to say goes to the file `errors`. `None` if there
    /// is no library for it.
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

    /// Runs it; returns how it ended, and what it had to say.
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
        // It ends with its input.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
