//! What the API asks of the agent because it takes more than the store.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::command::{Command, Denied};
use crate::api::model::{Collected, Removed, Verified, VerifiedTree, WhatToVerify};
use crate::datafile::Key;
use crate::deliver::Verification;
use crate::runner::{self, Runner};
use crate::store::{Store, jobs, releases};
use crate::sys::Chain;

/// Answers commands until `drain`; the API holds its end of the channel longer than that. Each is answered beside the others: a long verification holds up no
/// removal.
pub(super) async fn serve(
    runner: Arc<Runner>,
    store: Store,
    mut commands: mpsc::Receiver<Command>,
    drain: CancellationToken,
) {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            () = drain.cancelled() => return,
        };
        let Some(command) = command else {
            return;
        };
        let (runner, store, drain) = (Arc::clone(&runner), store.clone(), drain.clone());
        tokio::spawn(async move {
            match command {
                Command::Remove { key, reply } => {
                    drop(reply.send(remove(&runner, &store, key).await))
                }
                Command::Collect { reply } => drop(reply.send(Ok(collect(&runner).await))),
                Command::RestoreLink { key, reply } => {
                    drop(reply.send(runner.restore_link(&key).await.map_err(failed)));
                }
                Command::Verify { what, reply } => {
                    drop(reply.send(verify(&runner, &store, what, &drain).await))
                }
                Command::DropPartial { job, reply } => {
                    let row = store.read(move |r| jobs::get(r, job)).await.map_err(failed);
                    let answer = match row {
                        Ok(Some(row)) => {
                            runner.discard_partial(&row.key).await;
                            Ok(())
                        }
                        Ok(None) => Err(Denied::NotFound(format!("there is no job {job}"))),
                        Err(denied) => Err(denied),
                    };
                    drop(reply.send(answer));
                }
            }
        });
    }
}

fn failed(error: crate::store::Error) -> Denied {
    Denied::Failed(Chain(&error).to_string())
}

async fn remove(runner: &Runner, store: &Store, key: Key) -> Result<Removed, Denied> {
    let looked = key.clone();
    let row = store
        .read(move |r| releases::get(r, &looked))
        .await
        .map_err(failed)?;
    match runner
        .remove(&key, "operator", "asked for")
        .await
        .map_err(failed)?
    {
        runner::Removed::Done => Ok(Removed {
            key,
            bytes: row.map_or(0, |r| r.bytes),
        }),
        runner::Removed::Unknown => Err(Denied::NotFound(format!("{key} is not on this node"))),
        runner::Removed::Held(why) => Err(Denied::Conflict(format!("{key} stays: {why}"))),
    }
}

async fn collect(runner: &Runner) -> Collected {
    let swept = runner.sweep_all().await;
    let removed = swept
        .versions
        .into_iter()
        .map(|(key, bytes)| Removed { key, bytes })
        .collect();
    Collected {
        removed,
        freed: swept.bytes,
        swept: swept.partials,
    }
}

async fn verify(
    runner: &Runner,
    store: &Store,
    what: WhatToVerify,
    drain: &CancellationToken,
) -> Result<Verified, Denied> {
    let heal = what.heal;
    let rows = store
        .read(move |r| {
            releases::list(
                r,
                what.app.as_ref().map(|a| a.as_str()),
                what.name.as_ref().map(|n| n.as_str()),
                0,
                u32::MAX,
            )
            .map(|rows| (rows, what.version))
        })
        .await
        .map_err(failed)?;
    let (rows, version) = rows;
    let keys: Vec<Key> = rows
        .into_iter()
        .map(|row| row.key)
        .filter(|key| version.as_ref().is_none_or(|v| *v == key.version))
        .collect();
    if keys.is_empty() {
        return Err(Denied::NotFound("no published version fits".to_owned()));
    }
    let mut trees = Vec::with_capacity(keys.len());
    for key in keys {
        let mut tree = match runner.verify(&key, None, drain).await.map_err(failed)? {
            Verification::Whole(report) | Verification::Damaged(report) => VerifiedTree {
                key,
                files: report.entries,
                bytes: report.bytes,
                damage: report
                    .damage
                    .iter()
                    .map(|d| {
                        format!(
                            "{}: {}: expected {}, found {}",
                            d.path, d.what, d.expected, d.found
                        )
                    })
                    .collect(),
                healed: false,
            },
            Verification::Failed(failure) => VerifiedTree {
                key,
                files: 0,
                bytes: 0,
                damage: vec![failure.message],
                healed: false,
            },
        };
        if heal && !tree.damage.is_empty() {
            let healed = runner.heal(&tree.key).await.map_err(failed)?;
            tree.healed = healed == runner::Healed::Done;
        }
        trees.push(tree);
    }
    Ok(Verified { trees })
}
