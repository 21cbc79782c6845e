//! `edgepush outbox`: pending callbacks, and those that were given up.

use clap::{Parser, ValueEnum};

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, Table};
use super::show::{self, NOTHING};
use super::{Global, reach};
use crate::shown::Callback;
use crate::shown::model::{Outbox as Callbacks, Replay};
use crate::wire::time::stamp;

#[derive(Debug, Parser)]
pub(super) struct Outbox {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Parser)]
struct List {
    /// Only those in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// List at most N callbacks
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// Not delivered yet
    Pending,
    /// Accepted by the receiver
    Delivered,
    /// Given up
    Dead,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send callbacks again that were given up
    Replay {
        /// Only this one
        id: Option<i64>,
        /// Only to this endpoint
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
    },
}

impl Outbox {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        match self.command {
            Some(Command::Replay { id, endpoint }) => replay(&Replay { id, endpoint }, global, out),
            None => list(self.list, global, out),
        }
    }
}

fn list(list: List, global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let state = list.state.map(|state| match state {
        State::Pending => "pending",
        State::Delivered => "delivered",
        State::Dead => "dead",
    });
    let found = reach::ask(global, |client| async move {
        Ok(client.outbox(state, Some(list.limit)).await?)
    })?;
    if out.json {
        out.json(&found)?;
    } else {
        render(&found, out)?;
    }
    Ok(exit::DONE)
}

fn render(found: &Callbacks, out: &mut Out) -> Result<(), Error> {
    if found.endpoints.is_empty() {
        out.line("no endpoint is configured: nothing is sent")?;
    } else {
        endpoints(found).print(out)?;
    }
    if !found.callbacks.is_empty() {
        out.line("")?;
        callbacks(found).print(out)?;
    }
    Ok(())
}

fn endpoints(found: &Callbacks) -> Table {
    let heads = [
        "ENDPOINT",
        "TARGET",
        "STATE",
        ">PENDING",
        ">GIVEN UP",
        "LAST SUCCESS",
        "LAST ERROR",
    ];
    let mut table = Table::new(&heads);
    for endpoint in &found.endpoints {
        let state = match (endpoint.disabled, endpoint.failures) {
            (true, _) => ("disabled".to_owned(), Paint::Bad),
            (false, 0) => ("ok".to_owned(), Paint::Good),
            (false, n) => (show::count(n.into(), "failure"), Paint::Busy),
        };
        let error = endpoint.last_error.clone();
        table.row(vec![
            (endpoint.name.clone(), Paint::Plain),
            (endpoint.target.clone(), Paint::Plain),
            state,
            (endpoint.pending.to_string(), Paint::Plain),
            (endpoint.dead.to_string(), Paint::Plain),
            (show::time(endpoint.last_success_ms), Paint::Dim),
            (error.unwrap_or(NOTHING.into()), Paint::Plain),
        ]);
    }
    table
}

fn callbacks(found: &Callbacks) -> Table {
    let heads = [
        ">ID",
        "ENDPOINT",
        "TYPE",
        "STATE",
        ">ATTEMPTS",
        "DUE",
        "CREATED",
        "JOB",
        "LAST ERROR",
    ];
    let mut table = Table::new(&heads);
    for callback in &found.callbacks {
        table.row(row(callback));
    }
    table
}

/// Returns when a pending callback is sent next. A queued one waits for earlier ones of its file.
fn due(callback: &Callback) -> String {
    match callback.due_in_ms {
        _ if callback.state != "pending" => NOTHING.to_owned(),
        Some(ms) => match show::between(Some(0), Some(ms)) {
            Some(wait) if wait.as_millis() > 0 => format!("in {}", show::span(wait)),
            _ => "now".to_owned(),
        },
        None => "queued".to_owned(),
    }
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
        (due(callback), Paint::Dim),
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
