//! The subcommands, one file each: arguments, the requests to the agent, and the output for people
//! and as JSON. All output goes through [`out::Out`]; every end is one of the codes of [`exit`].

mod agent;
mod apply;
mod archive;
mod change;
mod config;
mod docs;
mod doctor;
mod ended;
pub mod exit;
mod files;
mod follow;
mod log;
mod node;
pub mod out;
mod outbox;
mod progress;
mod push;
mod reach;
mod recover;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use toml::Value;

use crate::config::{Format, Level, Loaded, Sources};
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::sys::Chain;
use exit::{Error, Exit};
use out::Out;

/// A file-server agent for edge nodes: fetches, verifies, unpacks and atomically publishes pushed
/// data files
#[derive(Debug, Parser)]
#[command(name = "edgepush", version, after_help = docs::exit_codes())]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// Configuration file; `conf.d/*.toml` next to it is read as well [default:
    /// /etc/edgepush/edgepush.toml if it exists]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "EDGEPUSH_CONFIG",
        hide_env = true
    )]
    config: Option<PathBuf>,
    /// Data directory, instead of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The agent's socket, instead of the configured one
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// Use no colors; the variable NO_COLOR does the same
    #[arg(long, global = true)]
    no_color: bool,
    /// Log more: once for every step, twice for every request, three times for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// One version of one name.
#[derive(Debug, Clone, Args)]
struct WhichVersion {
    /// The application
    app: AppId,
    /// The name
    name: DataName,
    /// The version
    version: DataVersion,
}

impl WhichVersion {
    fn key(&self) -> Key {
        Key {
            app: self.app.clone(),
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Process one push document in this process, without an agent
    Apply(apply::Apply),
    /// Run the agent: accept pushes and publish each file, until stopped
    Agent,
    /// Push files or URLs to the agent, and follow them until they are published or have failed
    Push(push::Push),
    /// Show the state of the node
    Status,
    /// List the files that were pushed, or the versions on the disk
    Ls(files::Ls),
    /// Show one file: state, source, attempts, failure and timeline
    Show(files::Show),
    /// Follow events from now on
    Watch(follow::Watch),
    /// Wait until a file is published or has failed; the exit code is the result
    Wait(follow::Wait),
    /// Print past events, and with --follow new ones
    Events(follow::Events),
    /// Make a published version live
    Activate(change::Activate),
    /// Make the previous good version of a name live again
    Rollback(change::Rollback),
    /// Protect a version from retention
    Pin(change::Pin),
    /// Remove a version that is not live
    Rm(change::Rm),
    /// Apply retention now
    Gc,
    /// Compare published trees with their manifests
    Verify(change::Verify),
    /// Rebuild a lost database from the disk; no agent may be running
    Recover,
    /// Cancel a file that is queued or in progress
    Cancel(change::Cancel),
    /// Start the next attempt of a waiting file now
    Retry(change::Retry),
    /// List callbacks, or send undelivered ones again
    Outbox(outbox::Outbox),
    /// Check or pack archives before they are pushed
    #[command(subcommand)]
    Archive(archive::Command),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Check the host: configuration, file system, free space, socket, limits
    Doctor,
    /// Print shell completions
    Completions(docs::Completions),
    /// Print the manual page, or write one page per subcommand to a directory
    Man(docs::Man),
}

/// Parses the command line of this process, runs it, and returns how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let exit = if error.use_stderr() {
                exit::USAGE
            } else {
                exit::DONE
            };
            return exit.into();
        }
    };
    let mut out = Out::stdout(arguments.global.json, arguments.global.no_color);
    let exit = match arguments.run(&mut out) {
        Ok(exit) => exit,
        Err(error) => {
            log::print(&format!("edgepush: {}", Chain(error.source.as_ref())));
            if let Some(help) = error.help {
                log::print(&format!("  help: {help}"));
            } else if error.exit == exit::UNREACHABLE {
                log::print("  help: is the agent running? `edgepush doctor` checks the host");
            }
            error.exit
        }
    };
    log::flush();
    exit.into()
}

impl Arguments {
    fn run(self, out: &mut Out) -> Result<Exit, Error> {
        let global = self.global;
        // `agent` and `apply` log as configured.
        if !matches!(self.command, Command::Agent | Command::Apply(_)) {
            log::start(Level::Warn, Format::Text, global.verbose);
        }
        match self.command {
            Command::Agent => agent::run(&global),
            Command::Apply(command) => command.run(&global, out),
            Command::Push(command) => command.run(&global, out),
            Command::Status => node::run(&global, out),
            Command::Ls(command) => command.run(&global, out),
            Command::Show(command) => command.run(&global, out),
            Command::Watch(command) => command.run(&global, out),
            Command::Wait(command) => command.run(&global, out),
            Command::Events(command) => command.run(&global, out),
            Command::Activate(command) => command.run(&global, out),
            Command::Rollback(command) => command.run(&global, out),
            Command::Pin(command) => command.run(&global, out),
            Command::Rm(command) => command.run(&global, out),
            Command::Gc => change::collect(&global, out),
            Command::Verify(command) => command.run(&global, out),
            Command::Recover => recover::run(&global, out),
            Command::Cancel(command) => command.run(&global, out),
            Command::Retry(command) => command.run(&global, out),
            Command::Outbox(command) => command.run(&global, out),
            Command::Archive(command) => command.run(out),
            Command::Config(command) => command.run(&global, out),
            Command::Doctor => doctor::run(&global, out),
            Command::Completions(command) => command.run(out),
            Command::Man(command) => command.run(out),
        }
    }
}

impl Global {
    /// Returns where the configuration is read from: the file that was named or the default one,
    /// the environment, and the flags.
    fn sources(&self) -> Sources {
        self.with_flags(Sources::of_process(self.config.clone()))
    }

    fn with_flags(&self, sources: Sources) -> Sources {
        let path = |path: &PathBuf| Value::String(path.to_string_lossy().into_owned());
        let data_dir = self.data_dir.as_ref();
        let socket = self.socket.as_ref();
        let flags = [
            data_dir.map(|dir| ("--data-dir", "data_dir", path(dir))),
            socket.map(|socket| ("--socket", "listen.socket", path(socket))),
        ];
        Sources {
            flags: flags.into_iter().flatten().collect(),
            ..sources
        }
    }

    fn load(&self) -> Result<Loaded, Error> {
        Ok(self.sources().load()?)
    }
}
