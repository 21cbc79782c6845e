//! The exit codes, each with its meaning, and the error that carries one.

use std::error::Error as StdError;
use std::process::ExitCode;

use crate::{app, config};

/// One exit code. Its number is documented and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    pub meaning: &'static str,
}

/// The command succeeded.
pub const DONE: Exit = exit(0, "done");
/// The command ran, and what it was to do failed.
pub const FAILED: Exit = exit(1, "failed: the message or the table shows what and why");
/// The command line is wrong.
pub const USAGE: Exit = exit(2, "usage: the command line is wrong");
/// No agent listens at the socket, or it does not answer.
pub const UNREACHABLE: Exit = exit(3, "the agent is not reachable");
/// The file, version or job does not exist.
pub const NOT_FOUND: Exit = exit(4, "not found: no such file, version or job");
/// The request conflicts with the present state, such as other content under a published version.
pub const CONFLICT: Exit = exit(
    5,
    "conflict with the present state, such as the removal of a live version",
);
/// The configuration is wrong.
pub const CONFIG: Exit = exit(78, "the configuration is wrong; nothing was started");

/// Every exit code, for the help and the manual.
pub const ALL: [Exit; 7] = [
    DONE,
    FAILED,
    USAGE,
    UNREACHABLE,
    NOT_FOUND,
    CONFLICT,
    CONFIG,
];

const fn exit(code: u8, meaning: &'static str) -> Exit {
    Exit { code, meaning }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code.into()
    }
}

/// Why a command failed, and the exit code for it.
#[derive(Debug)]
pub struct Error {
    pub exit: Exit,
    pub source: Box<dyn StdError + Send + Sync>,
    /// What to do about it, where that is known here.
    pub help: Option<String>,
}

impl Error {
    /// Makes an error that ends with `exit`.
    pub fn new(exit: Exit, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            exit,
            source: source.into(),
            help: None,
        }
    }

    /// Adds what to do about it; nothing if `help` is empty.
    #[must_use]
    pub fn with_help(self, help: &str) -> Self {
        Self {
            help: (!help.is_empty()).then(|| help.to_owned()),
            ..self
        }
    }

    /// Makes an error of the command line.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(USAGE, text.into())
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::new(CONFIG, error)
    }
}

impl From<app::Error> for Error {
    fn from(error: app::Error) -> Self {
        let exit = if error.is_configuration() {
            CONFIG
        } else if error.is_in_use() {
            CONFLICT
        } else {
            FAILED
        };
        Self::new(exit, error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(FAILED, error)
    }
}
