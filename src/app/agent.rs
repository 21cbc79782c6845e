//! The daemon: what runs for as long as the agent does, and its orderly end.
//!
//! What a panic of each task means is decided where it is started. The runner and the listeners hold
//! the state of running files and of open requests: the process ends with an error, and its next
//! start resumes from the database. The others begin anew from what is on the disk: downloads go on
//! while callbacks, the inbox or the configuration are looked at again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::listen::{inherited, listen};
use super::reload::Reload;
use super::{Error, Parts, run_jobs};
use crate::api::{self, Api};
use crate::config::{Config, Loaded, Sources};
use crate::report::Reporter;
use crate::shown::model;
use crate::store;
use crate::sys::Chain;
use crate::sys::systemd::{Notify, Socket};
use crate::sys::tasks::{self, Panicked, Tasks};
use crate::watch::Inbox;

/// A transaction that takes longer means that the disk hangs: the watchdog is no longer pinged.
const HUNG: Duration = Duration::from_secs(20);
/// Time between two checks that the data directory is still the one that was opened.
const PLACE_EVERY: Duration = Duration::from_secs(1);
/// How long an agent whose database has failed still refuses pushes and reports why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Time for everything else to end, after the running files were checkpointed.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the agent until `SIGTERM`, `SIGINT`, or a failure of its database.
pub async fn agent(loaded: Loaded, sources: Sources) -> Result<(), Error> {
    let mut signals = Signals::catch();
    let inherited = inherited()?;
    Notify.extend_timeout(Duration::from_secs(120));
    let config = &loaded.config;
    let parts = Arc::new(Parts::open(config, config.api.file_urls).await?);
    let mut agent = Agent::start(loaded, sources, inherited, Arc::clone(&parts)).await?;
    agent.announce().await;
    let failure = tokio::select! {
        () = signals.end() => None,
        error = parts.store.failed() => Some(Error::Store(error)),
        ended = &mut agent.running => Some(runner_ended(ended)),
        name = agent.tasks.failed() => Some(Error::Panicked { name }),
    };
    match failure {
        None => {
            Notify.stopping("draining");
            tracing::info!(
                event = "draining",
                running = parts.board.len(),
                "stopping: running files are checkpointed"
            );
            agent.end().await;
            Ok(())
        }
        Some(error) => {
            tracing::error!(event = "failed", error = %Chain(&error), "the agent stops");
            if matches!(error, Error::Panicked { .. }) {
                Notify.stopping("a task has panicked");
                agent.end().await;
            } else {
                Notify.stopping("the database has failed");
                tokio::time::sleep(LAST_WORDS).await;
                agent.give_up().await;
            }
            Err(error)
        }
    }
}

type RunnerEnd = Result<Result<(), store::Error>, Panicked>;

fn runner_ended(ended: Result<RunnerEnd, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Ok(Ok(()))) => Error::Other("the runner has ended by itself".to_owned()),
        Ok(Ok(Err(error))) => Error::Store(error),
        Ok(Err(Panicked)) | Err(_) => Error::Panicked { name: "runner" },
    }
}

/// The running tasks of the agent.
struct Agent {
    config: Config,
    parts: Arc<Parts>,
    /// Where the ENS endpoint listens, if it does.
    http: Option<SocketAddr>,
    /// Tells every task to end.
    drain: CancellationToken,
    /// Everything but the runner, which ends first.
    tasks: Tasks,
    running: JoinHandle<RunnerEnd>,
    /// Not one of `tasks`: it pings while they end, and ends with this.
    _watchdog: AbortOnDropHandle<()>,
}

impl Agent {
    async fn start(
        loaded: Loaded,
        sources: Sources,
        inherited: Vec<Socket>,
        parts: Arc<Parts>,
    ) -> Result<Self, Error> {
        let config = loaded.config;
        let listeners = listen(&config, inherited).await?;
        let http = listeners.tcp.as_ref().and_then(|l| l.local_addr().ok());
        let inbox = config.watch.inbox.then(|| {
            Inbox::open(
                &config.data_dir,
                config.watch.clone(),
                Arc::clone(&parts.intake),
                parts.store.clone(),
            )
        });
        let inbox = inbox.transpose()?;
        let in_inbox = match &inbox {
            Some(inbox) => inbox.state(),
            None => watch::channel(model::Inbox::default()).1,
        };
        let drain = CancellationToken::new();
        let reporter = Reporter::new(config.report.clone(), parts.store.db().clone())?;
        let api = Arc::new(Api::new(
            config.api.clone(),
            api_deps(&config, &parts, in_inbox),
        )?);
        let reload = Reload {
            sources,
            files: loaded.files,
            parts: Arc::clone(&parts),
            api: Arc::clone(&api),
            reporter: reporter.handle(),
            started: config.clone(),
        };
        let mut tasks = Tasks::new(drain.clone());
        tasks.restarted("metrics", &api, Api::count);
        tasks.restarted("callbacks", &Arc::new(reporter), Reporter::run);
        tasks.restarted("configuration", &Arc::new(reload), Reload::run);
        if let Some(inbox) = inbox {
            tasks.restarted("inbox", &Arc::new(inbox), Inbox::run);
        }
        tasks.essential("keep", Arc::clone(&parts.keep).run(drain.clone()));
        tasks.essential("listeners", api.serve(listeners, drain.clone()));
        let store = Arc::new(parts.store.clone());
        tasks.restarted("place", &store, watch_place);
        let watchdog = ping_watchdog_always(parts.store.clone(), drain.clone());
        let runner = run_jobs(Arc::clone(&parts), drain.clone(), false);
        let running = tokio::spawn(tasks::guarded("runner", runner));
        Ok(Self {
            config,
            parts,
            http,
            drain,
            tasks,
            running,
            _watchdog: AbortOnDropHandle::new(tokio::spawn(watchdog)),
        })
    }

    /// Tells the log, the service manager and the receivers of callbacks that the agent is ready.
    async fn announce(&self) {
        let listening = match self.http {
            Some(address) => address.to_string(),
            None => "the unix socket only".to_owned(),
        };
        tracing::info!(event = "ready", version = env!("CARGO_PKG_VERSION"), data_dir = %self.config.data_dir.display(), http = listening, "ready");
        Notify.ready(&format!("listening on {listening}"));
        if let Err(error) = crate::report::announce_start(&self.parts.store).await {
            tracing::warn!(error = %Chain(&error), "could not report the start");
        }
    }

    /// Ends in the reverse order of the start: the running files are checkpointed first, the store
    /// is closed last.
    async fn end(mut self) {
        self.drain.cancel();
        if !self.running.is_finished() {
            let patience = self.config.runner.drain + GRACE;
            let _ = tokio::time::timeout(patience, &mut self.running).await;
        }
        self.end_tasks().await;
        let _ = tokio::time::timeout(GRACE, self.parts.store.close()).await;
        tracing::info!(event = "ended", "stopped");
    }

    /// Ends without a runner or a database to wait for.
    async fn give_up(mut self) {
        self.drain.cancel();
        self.end_tasks().await;
    }

    async fn end_tasks(&mut self) {
        if !self.tasks.end(GRACE).await {
            tracing::warn!(event = "drain-cut", "some tasks did not end in time");
        }
    }
}

fn api_deps(config: &Config, parts: &Parts, inbox: watch::Receiver<model::Inbox>) -> api::Deps {
    api::Deps {
        store: parts.store.clone(),
        intake: Arc::clone(&parts.intake),
        board: parts.board.clone(),
        keep: Arc::clone(&parts.keep),
        publisher: Arc::clone(&parts.publisher),
        inbox,
        data_dir: config.data_dir.clone(),
        clock: Arc::clone(&parts.clock),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// The signals that the agent obeys, caught from its first moment: without that, one that comes
/// during the start would kill it.
struct Signals {
    ends: Option<[Signal; 2]>,
    /// What it asks for is done by [`Reload`], which begins with the configuration as it is then.
    _hangup: Option<Signal>,
}

impl Signals {
    fn catch() -> Self {
        let ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        let [Ok(term), Ok(int)] = ends else {
            return Self {
                ends: None,
                _hangup: None,
            };
        };
        Self {
            ends: Some([term, int]),
            _hangup: signal(SignalKind::hangup()).ok(),
        }
    }

    /// Waits until the agent is to end.
    async fn end(&mut self) {
        let Some([term, int]) = &mut self.ends else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}

/// Lets the database fail when the data directory is not the one that this process has opened: it
/// was moved, wiped or mounted over.
async fn watch_place(store: Arc<store::Store>, drain: CancellationToken) {
    while drain
        .run_until_cancelled(tokio::time::sleep(PLACE_EVERY))
        .await
        .is_some()
    {
        let store = Arc::clone(&store);
        let _ = tokio::task::spawn_blocking(move || store.check_place()).await;
    }
}

/// Pings the watchdog also after a panic: only a hang must stop it.
async fn ping_watchdog_always(store: store::Store, drain: CancellationToken) {
    let start = || ping_watchdog(store.clone(), drain.clone());
    tasks::restarting("watchdog", drain.clone(), start).await;
}

/// Pings the service manager's watchdog for as long as the runtime turns and the disk takes what is
/// written.
async fn ping_watchdog(store: store::Store, drain: CancellationToken) {
    let Some(limit) = Notify.watchdog() else {
        return;
    };
    let mut tick = tokio::time::interval(limit / 2);
    loop {
        tick.tick().await;
        let hung = store.busy_for().is_some_and(|busy| busy > HUNG.min(limit));
        if hung {
            tracing::error!(
                event = "hung",
                "a transaction of the database hangs; the watchdog is not pinged"
            );
        } else {
            Notify.alive();
        }
        if drain.is_cancelled() && store.busy_for().is_none() {
            // A drain has its own time limit.
            Notify.alive();
        }
    }
}
