//! Files that are pushed and published already: the answer says so at once, and a look at the tree follows, in case somebody
//! has changed it meanwhile. Where it was, it is healed: from the kept archive, or by the push itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::datafile::{DataFile, Key};
use crate::deliver::Verification;
use crate::intake::Intake;
use crate::runner::{Healed, Runner};
use crate::sys::Chain;
use crate::wire::push::Via;
use crate::wire::push::{Item, Push};

/// Files that wait for their look at most; what is beyond is left to the next push and to the scrub.
const MOST: usize = 1024;
/// How long a tree is left alone after a look.
const REST: Duration = Duration::from_secs(5);
/// How many times longer than the look took it is left alone at least: a large tree takes long.
const REST_FACTOR: u32 = 20;

/// The files that wait for their look.
#[derive(Default)]
pub(super) struct Repeats {
    waiting: Mutex<HashMap<Key, (DataFile, Via)>>,
    wanted: Notify,
}

impl Repeats {
    /// Asks for a look at the tree of a file that was pushed. Thousands of pushes of one file ask for one look.
    pub(super) fn note(&self, file: &DataFile, via: Via) {
        let mut waiting = self.lock();
        if waiting.len() >= MOST || waiting.contains_key(&file.key) {
            return;
        }
        waiting.insert(file.key.clone(), (file.clone(), via));
        self.wanted.notify_one();
    }

    /// Looks at what was asked for, until `drain`.
    pub(super) async fn watch(&self, runner: &Runner, intake: &Intake, drain: CancellationToken) {
        let mut resting: HashMap<Key, Instant> = HashMap::new();
        loop {
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            for (file, via) in self.take(|key| !resting.contains_key(key)) {
                let began = Instant::now();
                look(runner, intake, &file, via, &drain).await;
                let rest = REST.max(began.elapsed() * REST_FACTOR);
                resting.insert(file.key, Instant::now() + rest);
            }
            let waiting: Vec<Key> = self.lock().keys().cloned().collect();
            let next = waiting.iter().filter_map(|key| resting.get(key)).min();
            let rested = async {
                match next {
                    Some(until) => tokio::time::sleep_until(*until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.cancelled() => return,
                () = self.wanted.notified() => {}
                () = rested => {}
            }
        }
    }

    /// Looks at everything that was asked for, once.
    pub(super) async fn look_once(
        &self,
        runner: &Runner,
        intake: &Intake,
        drain: &CancellationToken,
    ) {
        for (file, via) in self.take(|_| true) {
            look(runner, intake, &file, via, drain).await;
        }
    }

    fn take(&self, ready: impl Fn(&Key) -> bool) -> Vec<(DataFile, Via)> {
        let mut waiting = self.lock();
        waiting
            .extract_if(|key, _| ready(key))
            .map(|(_, pushed)| pushed)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (DataFile, Via)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(
    runner: &Runner,
    intake: &Intake,
    file: &DataFile,
    via: Via,
    drain: &CancellationToken,
) {
    let key = &file.key;
    let looked = async {
        if !matches!(runner.glance(key, drain).await?, Verification::Damaged(_)) {
            return Ok(false);
        }
        let healed = runner.heal(key).await?;
        Ok::<_, crate::store::Error>(matches!(healed, Healed::NoArchive | Healed::Failed(_)))
    };
    match looked.await {
        Ok(false) => {}
        Ok(true) => push_again(intake, file, via).await,
        Err(error) => {
            tracing::warn!(event = "look-failed", data = %key, error = %Chain(&error), "could not look at a version that was pushed again");
        }
    }
}

/// Takes a push once more that was answered before the damage was known: now it repairs it.
async fn push_again(intake: &Intake, file: &DataFile, via: Via) {
    let push = Push {
        app: file.key.app.clone(),
        items: vec![Item {
            name: file.key.name.to_string(),
            version: file.key.version.to_string(),
            file: Ok(file.clone()),
        }],
        strategy: None,
    };
    if let Err(error) = intake.admit(push, via).await {
        tracing::warn!(event = "look-failed", data = %file.key, error = %Chain(&error), "could not take the push of a damaged version again");
    }
}
