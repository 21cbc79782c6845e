//! The commands that change something: which version is live, pinned or removed, and which jobs
//! run.

use clap::Parser;

use super::exit::{self, Error, Exit};
use super::out::{Out, Paint, Table, printable};
use super::{Global, WhichVersion, files, reach, show};
use crate::datafile::{AppId, DataName, DataVersion};
use crate::job::JobId;
use crate::shown::model::{
    Activated, Canceled, Collected, Pin as PinBody, Retried, Verified, WhatToVerify, WhichJob,
    WhichName,
};
use crate::sys::units::show_bytes;

#[derive(Debug, Parser)]
pub(super) struct Activate {
    #[command(flatten)]
    which: WhichVersion,
}

impl Activate {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let key = self.which.key();
        let done = reach::ask(
            global,
            |client| async move { Ok(client.activate(key).await?) },
        )?;
        show_activated(&done, out)
    }
}

#[derive(Debug, Parser)]
pub(super) struct Rollback {
    /// The application
    app: AppId,
    /// The name
    name: DataName,
}

impl Rollback {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let name = WhichName {
            app: self.app,
            name: self.name,
        };
        let done = reach::ask(
            global,
            |client| async move { Ok(client.rollback(&name).await?) },
        )?;
        show_activated(&done, out)
    }
}

fn show_activated(done: &Activated, out: &mut Out) -> Result<Exit, Error> {
    if out.json {
        out.json(done)?;
        return Ok(exit::DONE);
    }
    let text = match &done.from_version {
        _ if !done.changed => format!("{} was already live", done.key),
        Some(version) => format!("{} is live, instead of {version}", done.key),
        None => format!("{} is live", done.key),
    };
    out.line(printable(&text))?;
    Ok(exit::DONE)
}

#[derive(Debug, Parser)]
pub(super) struct Pin {
    #[command(flatten)]
    which: WhichVersion,
    /// Remove the protection
    #[arg(long)]
    off: bool,
}

impl Pin {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let key = self.which.key();
        let pin = PinBody {
            app: key.app,
            name: key.name,
            version: key.version,
            pinned: !self.off,
        };
        let found = reach::ask(global, |client| async move { Ok(client.pin(&pin).await?) })?;
        files::show_releases(&found, out)?;
        Ok(exit::DONE)
    }
}

#[derive(Debug, Parser)]
pub(super) struct Rm {
    #[command(flatten)]
    which: WhichVersion,
}

impl Rm {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let key = self.which.key();
        let gone = reach::ask(
            global,
            |client| async move { Ok(client.remove(&key).await?) },
        )?;
        if out.json {
            out.json(&gone)?;
        } else {
            let text = format!("removed {}, {} freed", gone.key, show_bytes(gone.bytes));
            out.line(printable(&text))?;
        }
        Ok(exit::DONE)
    }
}

/// Applies retention, and removes unused partial archives.
pub(super) fn collect(global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let done: Collected = reach::ask(global, |client| async move { Ok(client.collect().await?) })?;
    if out.json {
        out.json(&done)?;
        return Ok(exit::DONE);
    }
    for gone in &done.removed {
        let text = format!("{}  {}", gone.key, show_bytes(gone.bytes));
        out.line(printable(&text))?;
    }
    out.line(format!(
        "{} and {} removed, {} freed",
        show::count(done.removed.len() as u64, "version"),
        show::count(done.swept, "partial archive"),
        show_bytes(done.freed)
    ))?;
    Ok(exit::DONE)
}

#[derive(Debug, Parser)]
pub(super) struct Verify {
    /// Only of this application
    app: Option<AppId>,
    /// Only with this name
    name: Option<DataName>,
    /// Only this version
    version: Option<DataVersion>,
    /// Repair damaged versions from their kept archives
    #[arg(long)]
    heal: bool,
}

impl Verify {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let what = WhatToVerify {
            app: self.app,
            name: self.name,
            version: self.version,
            heal: self.heal,
        };
        let found = reach::ask(
            global,
            |client| async move { Ok(client.verify(&what).await?) },
        )?;
        show_verified(&found, out)
    }
}

fn show_verified(found: &Verified, out: &mut Out) -> Result<Exit, Error> {
    let damaged = found
        .trees
        .iter()
        .any(|tree| !tree.damage.is_empty() && !tree.healed);
    let exit = if damaged { exit::FAILED } else { exit::DONE };
    if out.json {
        out.json(found)?;
        return Ok(exit);
    }
    let mut table = Table::new(&["FILE", "STATE", ">FILES", ">BYTES"]);
    for tree in &found.trees {
        let state = match (tree.damage.is_empty(), tree.healed) {
            (true, _) => ("intact", Paint::Good),
            (false, true) => ("repaired", Paint::Good),
            (false, false) => ("damaged", Paint::Bad),
        };
        table.row(vec![
            (tree.key.to_string(), Paint::Plain),
            (state.0.to_owned(), state.1),
            (tree.files.to_string(), Paint::Plain),
            (tree.bytes.to_string(), Paint::Plain),
        ]);
    }
    table.print(out)?;
    for tree in &found.trees {
        for damage in &tree.damage {
            out.line(printable(&format!("{}: {damage}", tree.key)))?;
        }
    }
    Ok(exit)
}

/// A job by its number, or the latest one of a version.
#[derive(Debug, Parser)]
#[group(id = "which-job", multiple = true)]
pub(super) struct Job {
    /// A job number, or the application
    #[arg(value_name = "JOB-or-APP")]
    first: String,
    /// The name
    #[arg(requires = "version")]
    name: Option<DataName>,
    /// The version
    version: Option<DataVersion>,
}

impl Job {
    fn body(self) -> Result<WhichJob, Error> {
        match (self.name, self.version) {
            (Some(name), Some(version)) => {
                let app = AppId::parse(&self.first).map_err(|e| Error::new(exit::USAGE, e))?;
                Ok(WhichJob {
                    app: Some(app),
                    name: Some(name),
                    version: Some(version),
                    ..WhichJob::default()
                })
            }
            _ => match self.first.parse() {
                Ok(number) => Ok(WhichJob::number(JobId(number))),
                Err(_) => Err(Error::usage(format!(
                    "`{}` is not a job number; give a number, or APP NAME VERSION",
                    self.first
                ))),
            },
        }
    }
}

#[derive(Debug, Parser)]
pub(super) struct Cancel {
    #[command(flatten)]
    job: Job,
    /// Also delete what was received so far
    #[arg(long)]
    drop_partial: bool,
}

impl Cancel {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let mut which = self.job.body()?;
        which.drop_partial = self.drop_partial;
        let done: Canceled =
            reach::ask(
                global,
                |client| async move { Ok(client.cancel(&which).await?) },
            )?;
        if out.json {
            out.json(&done)?;
        } else {
            let how = if done.ended {
                "is canceled"
            } else {
                "is being canceled"
            };
            out.line(format!("job {} {how}", done.job))?;
        }
        Ok(exit::DONE)
    }
}

#[derive(Debug, Parser)]
pub(super) struct Retry {
    #[command(flatten)]
    job: Job,
}

impl Retry {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let which = self.job.body()?;
        let done: Retried = reach::ask(
            global,
            |client| async move { Ok(client.retry(&which).await?) },
        )?;
        if out.json {
            out.json(&done)?;
        } else {
            out.line(format!("job {} is due now", done.job))?;
        }
        Ok(exit::DONE)
    }
}
