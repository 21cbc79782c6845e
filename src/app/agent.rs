//! The daemon: everything that runs for as long as the agent does, and its orderly end.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Error, Parts, commands};
use crate::api::{self, Api};
use crate::config::{Config, Loaded, Sources};
use crate::report::Reporter;
use crate::sys::systemd::{self, Notify, Socket};
use crate::sys::{Chain, Live, durable};
use crate::watch::{self, Inbox};

/// A transaction that has gone on for so long says that the disk hangs: the watchdog is not fed any more.
const HUNG: Duration = Duration::from_secs(20);
/// How long the rest may take after the files have come to a safe point.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the agent until it is told to end (`SIGTERM`, `SIGINT`), or until its database has failed.
pub async fn agent(loaded: Loaded, sources: Sources) -> Result<(), Error> {
    let inherited = systemd::take_listeners().map_err(at("a socket of the service manager"))?;
    let notify = Notify;
    notify.extend_timeout(Duration::from_secs(120));
    let config = loaded.config.clone();
    let theirs = config.clone();
    let parts = tokio::task::spawn_blocking(move || Parts::build(&theirs, theirs.api.file_urls))
        .await
        .map_err(|e| Error::Other(e.to_string()))??;
    let listeners = listen(&config, inherited).await?;
    let http = listeners.tcp.as_ref().and_then(|l| l.local_addr().ok());

    let drain = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (commands_sender, commands) = mpsc::channel(64);
    let reporter = Reporter::new(config.report.clone(), parts.store.clone())?;
    let reloadable_reporter = reporter.handle();
    let api = Arc::new(Api::new(
        config.api.clone(),
        api_deps(&config, &parts, commands_sender),
    )?);
    tasks.spawn(reporter.run(drain.clone()));
    tasks.spawn(Arc::clone(&api).serve(listeners, drain.clone()));
    tasks.spawn(commands::serve(
        Arc::clone(&parts.runner),
        parts.store.clone(),
        commands,
        drain.clone(),
    ));
    let (repeats, runner, intake, end) = (
        Arc::clone(&parts.repeats),
        Arc::clone(&parts.runner),
        Arc::clone(&parts.intake),
        drain.clone(),
    );
    tasks.spawn(async move { repeats.watch(&runner, &intake, end).await });
    if config.watch.inbox {
        let inbox = Inbox::open(
            &config.data_dir,
            config.watch.clone(),
            Arc::clone(&parts.intake),
            parts.store.clone(),
        )?;
        tasks.spawn(inbox.run(drain.clone()));
    }
    // Not one of the tasks that are waited for: it goes on feeding while they end.
    let feeding = tokio::spawn(feed_watchdog(notify, parts.store.clone(), drain.clone()));
    let reload = Reload {
        sources,
        notify,
        api: Arc::clone(&api),
        fetcher: Arc::clone(&parts.fetcher),
        intake: Arc::clone(&parts.intake),
        reporter: reloadable_reporter,
        publisher: Arc::clone(&parts.publisher),
        road: Arc::clone(&parts.road),
        runner: Arc::clone(&parts.runner),
        rules: Arc::clone(&parts.rules),
        local_urls: Arc::clone(&parts.local_urls),
        gauges: Arc::clone(&parts.gauges),
        started: config.clone(),
    };
    tasks.spawn(reload.run(drain.clone()));
    let mut running = tokio::spawn(Arc::clone(&parts.runner).run(drain.clone(), false));

    let listening = http.map_or_else(|| "the unix socket only".to_owned(), |a| a.to_string());
    tracing::info!(event = "ready", version = env!("CARGO_PKG_VERSION"), data_dir = %config.data_dir.display(), http = listening, "ready");
    notify.ready(&format!("listening on {listening}"));
    if let Err(error) = crate::report::announce_start(&parts.store).await {
        tracing::warn!(error = %Chain(&error), "could not report the start");
    }

    let failure = tokio::select! {
        () = end_signal() => None,
        error = parts.store.failed() => Some(Error::Store(error)),
        ended = &mut running => Some(match ended {
            Ok(Ok(())) => Error::Other("the runner has ended by itself".to_owned()),
            Ok(Err(error)) => Error::Store(error),
            Err(error) => Error::Other(format!("the runner has panicked: {error}")),
        }),
    };
    notify.stopping("draining");
    tracing::info!(
        event = "draining",
        running = parts.board.len(),
        "ending: files on the road come to a safe point"
    );
    drain.cancel();
    if failure.is_none() {
        let _ = tokio::time::timeout(config.runner.drain + GRACE, &mut running).await;
    }
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(event = "drain-cut", "not everything ended in time");
    }
    if let Some(error) = failure {
        tracing::error!(event = "failed", error = %Chain(&error), "the agent ends");
        return Err(error);
    }
    let _ = tokio::time::timeout(GRACE, parts.store.close()).await;
    feeding.abort();
    tracing::info!(event = "ended", "ended in order");
    Ok(())
}

/// What the API stands on.
fn api_deps(
    config: &Config,
    parts: &Parts,
    commands: mpsc::Sender<api::command::Command>,
) -> api::Deps {
    let (trees, archives) = (
        parts.publisher.layout().clone(),
        parts.publisher.layout().clone(),
    );
    let (publisher, keeper) = (Arc::clone(&parts.publisher), Arc::clone(&parts.publisher));
    api::Deps {
        store: parts.store.clone(),
        intake: Arc::clone(&parts.intake),
        board: parts.board.clone(),
        commands,
        tree: Arc::new(move |key| trees.version_dir(key)),
        archive: Arc::new(move |key| archives.archive(key)),
        keep_archives: Arc::new(move || keeper.keeps_archives()),
        data_dir: config.data_dir.clone(),
        clock: Arc::clone(&parts.clock),
        version: env!("CARGO_PKG_VERSION"),
        gauges: Arc::clone(&parts.gauges),
        checks: Arc::new(move || vec![disk_check(&publisher)]),
    }
}

fn disk_check(publisher: &crate::publish::Publisher) -> api::model::Check {
    let (ok, detail) = match (publisher.space().check(), publisher.space().available()) {
        (Ok(free), Ok(available)) => {
            let shown = crate::sys::units::show_bytes(available);
            (
                available > 0 && free.inodes > 0,
                format!("{shown} may be used for files"),
            )
        }
        (Err(error), _) => (false, error.to_string()),
        (_, Err(error)) => (false, Chain(&error).to_string()),
    };
    api::model::Check {
        name: "disk".to_owned(),
        ok,
        detail,
    }
}

/// Takes the sockets of the service manager, or opens those of the configuration.
async fn listen(config: &Config, inherited: Vec<Socket>) -> Result<api::Listeners, Error> {
    let mut listeners = api::Listeners {
        tcp: None,
        unix: None,
    };
    for socket in inherited {
        match socket {
            Socket::Tcp(tcp) => {
                let opened = tcp
                    .set_nonblocking(true)
                    .and_then(|()| TcpListener::from_std(tcp));
                listeners.tcp = Some(opened.map_err(at("the inherited TCP socket"))?);
            }
            Socket::Unix(unix) => {
                let opened = unix
                    .set_nonblocking(true)
                    .and_then(|()| UnixListener::from_std(unix));
                listeners.unix = Some(opened.map_err(at("the inherited unix socket"))?);
            }
        }
    }
    if listeners.tcp.is_none()
        && let Some(address) = config.listen.http
    {
        listeners.tcp = Some(
            TcpListener::bind(address)
                .await
                .map_err(at(&address.to_string()))?,
        );
    }
    if listeners.unix.is_none() {
        listeners.unix = Some(bind_unix(&config.listen.socket)?);
    }
    Ok(listeners)
}

fn at(address: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Listen {
        address: address.to_owned(),
        source,
    }
}

/// Opens the socket of the native API. A socket file that nobody listens on any more is taken over; the lock of the data
/// directory has told that no other agent is at work here.
fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let shown = path.display().to_string();
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        durable::create_dir_all(parent)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let taken = std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another process listens there",
        );
        return Err(at(&shown)(taken));
    }
    if std::fs::symlink_metadata(path)
        .is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_socket(&m.file_type()))
    {
        std::fs::remove_file(path).map_err(durable::at("remove", path))?;
    }
    let listener = UnixListener::bind(path).map_err(at(&shown))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(durable::at("set mode of", path))?;
    Ok(listener)
}

async fn end_signal() {
    let (term, int) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    match (term, int) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// Feeds the watchdog for as long as the work loop turns and the disk takes what is written.
async fn feed_watchdog(notify: Notify, store: crate::store::Store, drain: CancellationToken) {
    let Some(limit) = notify.watchdog() else {
        return;
    };
    let mut tick = tokio::time::interval(limit / 2);
    loop {
        tick.tick().await;
        let hung = store.busy_for().is_some_and(|busy| busy > HUNG.min(limit));
        if hung {
            tracing::error!(
                event = "hung",
                "the database has been at one transaction for too long; the watchdog is not fed"
            );
        } else {
            notify.alive();
        }
        if drain.is_cancelled() && store.busy_for().is_none() {
            // The drain is bounded by itself.
            notify.alive();
        }
    }
}

/// What takes a changed configuration without a restart.
struct Reload {
    sources: Sources,
    notify: Notify,
    api: Arc<Api>,
    fetcher: Arc<crate::fetch::Fetcher>,
    intake: Arc<crate::intake::Intake>,
    reporter: crate::report::Handle,
    publisher: Arc<crate::publish::Publisher>,
    road: Arc<crate::deliver::Road>,
    runner: Arc<crate::runner::Runner>,
    rules: Arc<Live<crate::verify::Config>>,
    local_urls: Arc<AtomicBool>,
    gauges: Arc<api::Gauges>,
    /// The configuration that this process was started with.
    started: Config,
}

/// What only a start takes: keys, and tables with all that is in them.
const AT_START: [&str; 13] = [
    "data_dir",
    "listen",
    "log",
    "api.file_key",
    "api.max_connections",
    "api.head_timeout",
    "api.body_timeout",
    "api.write_timeout",
    "unpack.sandbox",
    "publish.durable",
    "push",
    "watch",
    "store",
];

impl Reload {
    /// Reloads on `SIGHUP` and when a file of the configuration has changed, come or gone.
    async fn run(self, drain: CancellationToken) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return;
        };
        let (sender, mut changed) = mpsc::channel(1);
        let sources = self.sources.clone();
        let watching = watch::on_change(
            self.sources.directories(),
            move || sources.files().unwrap_or_default(),
            move || {
                let _ = sender.try_send(());
            },
            drain.clone(),
        );
        tokio::pin!(watching);
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                () = &mut watching => return,
                _ = hangup.recv() => self.reload(),
                Some(()) = changed.recv() => self.reload(),
            }
        }
    }

    /// Takes what can change, for work that begins from now on, and says what only a restart takes. A configuration with
    /// a mistake changes nothing.
    fn reload(&self) {
        self.notify.reloading();
        let outcome = self
            .sources
            .load()
            .map_err(|e| Chain(&e).to_string())
            .and_then(|loaded| {
                let config = loaded.config;
                // First everything that can go wrong, so that a mistake changes nothing.
                if let Some(error) = super::check(&config).first() {
                    return Err(Chain(error).to_string());
                }
                let later = self.started.differences(&config, &AT_START);
                let local_urls = config.api.file_urls;
                self.fetcher
                    .reload(config.fetch)
                    .map_err(|e| Chain(&e).to_string())?;
                self.api
                    .reload(config.api)
                    .map_err(|e| Chain(&e).to_string())?;
                self.local_urls.store(local_urls, Ordering::Relaxed);
                self.reporter
                    .reload(config.report.clone())
                    .map_err(|e| Chain(&e).to_string())?;
                self.intake.reload(config.intake);
                self.rules.replace(config.verify);
                self.publisher.reload(config.publish, config.unpack.umask);
                self.road.reload(config.unpack);
                self.runner.reload(config.runner);
                Ok(later)
            });
        match outcome {
            Ok(later) => {
                let keys = later.join(", ");
                tracing::info!(
                    event = "reloaded",
                    restart_needed = keys,
                    "took the changed configuration"
                );
                if !later.is_empty() {
                    tracing::warn!(
                        event = "restart-needed",
                        keys,
                        "these keys were changed and are only taken at a start: restart the agent"
                    );
                }
                self.gauges.needs_restart(later);
            }
            Err(error) => tracing::error!(
                event = "reload-failed",
                error,
                "the changed configuration is not used"
            ),
        }
        self.notify.ready("reloaded");
    }
}
