//! How a command ends: the exit codes, each with a sentence, and the error that carries one.

use std::error::Error as StdError;
use std::process::ExitCode;

use crate::{app, config};

/// One exit code. Its number is documented and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The number that the shell sees.
    pub code: u8,
    /// What it means.
    pub meaning: &'static str,
}

/// What was asked for is done.
pub const DONE: Exit = exit(0, "done");
/// The command ran, and what was asked for failed.
pub const FAILED: Exit = exit(1, "failed: the message or the table says what and why");
/// The command line is wrong.
pub const USAGE: Exit = exit(2, "usage: the command line is wrong");
/// There is no agent at the address, or it does not answer.
pub const UNREACHABLE: Exit = exit(3, "the agent is not reachable");
/// What was asked about does not exist.
pub const NOT_FOUND: Exit = exit(4, "not found: no such file, version or job");
/// It contradicts what is there, such as other content under a published version.
pub const CONFLICT: Exit = exit(
    5,
    "conflict with what is there, such as the removal of a live version",
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

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Error {
    /// How the process ends.
    pub exit: Exit,
    /// What happened.
    pub source: Box<dyn StdError + Send + Sync>,
}

impl Error {
    /// Makes an error that ends with `exit`.
    pub fn new(exit: Exit, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            exit,
            source: source.into(),
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
