//! `edgepush outbox`: which callbacks wait, and which were given up.

use clap::{Parser, ValueEnum};

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, Table};
use super::show::{self, NOTHING};
use super::{Global, reach};
use crate::api::model::{Callback, Outbox as Callbacks, Replay};
use crate::sys::clock::stamp;

#[derive(Debug, Parser)]
pub(super) struct Outbox {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only those in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// Not delivered yet
    Pending,
    /// Taken by the receiver
    Delivered,
    /// Given up
    Dead,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send callbacks that were given up once more
    Replay {
        /// Only this one
        id: Option<i64>,
    },
}

impl Outbox {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        match self.command {
            Some(Command::Replay { id }) => replay(&Replay { id }, global, out),
            None => list(self.state, self.limit, global, out),
        }
    }
}

fn list(state: Option<State>, limit: u32, global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let state = state.map(|state| match state {
        State::Pending => "pending",
        State::Delivered => "delivered",
        State::Dead => "dead",
    });
    let found = reach::ask(global, |client| async move {
        Ok(client.outbox(state, None, Some(limit)).await?)
    })?;
    if out.json {
        out.json(&found)?;
    } else {
        render(&found, out)?;
    }
    Ok(exit::DONE)
}

fn render(found: &Callbacks, out: &mut Out) -> Result<(), Error> {
    let heads = [
        ">ID",
        "ENDPOINT",
        "TYPE",
        "STATE",
        ">TRIES",
        "WRITTEN",
        "JOB",
        "LAST ERROR",
    ];
    let mut table = Table::new(&heads);
    for callback in &found.callbacks {
        table.row(row(callback));
    }
    table.print(out)?;
    for endpoint in &found.endpoints {
        let state = match (&endpoint.last_error, endpoint.disabled) {
            (_, true) => "wants no more callbacks".to_owned(),
            (Some(error), false) if endpoint.failures > 0 => {
                format!("failed {} times: {error}", endpoint.failures)
            }
            _ => "well".to_owned(),
        };
        out.line(format!(
            "{} ({}): {} waiting, {} given up; {state}",
            endpoint.name, endpoint.target, endpoint.pending, endpoint.dead
        ))?;
    }
    Ok(())
}

fn row(callback: &Callback) -> Vec<(String, Paint)> {
    let paint = match callback.state.as_str() {
        "delivered" => Paint::Good,
        "dead" => Paint::Bad,
        _ => Paint::Busy,
    };
    let job = callback.job.map(|id| id.to_string());
    vec![
        (callback.id.to_string(), Paint::Plain),
        (callback.endpoint.clone(), Paint::Plain),
        (callback.kind.clone(), Paint::Plain),
        (callback.state.clone(), paint),
        (callback.attempts.to_string(), Paint::Plain),
        (stamp(callback.created_ms), Paint::Dim),
        (job.unwrap_or(NOTHING.into()), Paint::Plain),
        (
            callback.last_error.clone().unwrap_or(NOTHING.into()),
            Paint::Plain,
        ),
    ]
}

fn replay(which: &Replay, global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let done = reach::ask(
        global,
        |client| async move { Ok(client.replay(which).await?) },
    )?;
    if out.json {
        out.json(&done)?;
    } else {
        let text = show::count(done.replayed, "callback");
        out.line(format!("{text} will be sent again"))?;
    }
    Ok(exit::DONE)
}
