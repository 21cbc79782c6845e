//! Applies a changed configuration while the agent runs, and names the keys that need a restart.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::api::Api;
use crate::config::{Config, FileStamp, Sources};
use crate::report;
use crate::sys::Chain;
use crate::sys::systemd::Notify;
use crate::watch;

/// Reloads the configuration.
pub(super) struct Reload {
    pub(super) sources: Sources,
    /// The files as they were when this process read them.
    pub(super) files: Vec<FileStamp>,
    pub(super) parts: Arc<Parts>,
    pub(super) api: Arc<Api>,
    pub(super) reporter: report::Handle,
    /// The configuration at the start of this process.
    pub(super) started: Config,
}

/// Keys, and whole tables, that are only read at a start.
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
    /// Reloads on `SIGHUP`, and when a configuration file was changed, added or removed.
    pub(super) async fn run(self: Arc<Self>, drain: CancellationToken) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return;
        };
        let (sender, mut changed) = mpsc::channel(1);
        let sources = self.sources.clone();
        let watching = watch::on_change(
            self.sources.directories(),
            self.files.clone(),
            move || sources.stamps().unwrap_or_default(),
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

    /// Applies what can change to work that begins from now on. A configuration with a mistake
    /// changes nothing.
    fn reload(&self) {
        Notify.reloading();
        match self.load_and_apply() {
            Ok(later) => {
                let keys = later.join(", ");
                tracing::info!(
                    event = "reloaded",
                    restart_needed = keys,
                    "applied the changed configuration"
                );
                if !later.is_empty() {
                    tracing::warn!(
                        event = "restart-needed",
                        keys,
                        "changed keys are only read at a start: restart the agent"
                    );
                }
                self.api.needs_restart(later);
            }
            Err(error) => tracing::error!(
                event = "reload-failed",
                error,
                "the changed configuration is not used"
            ),
        }
        Notify.ready("reloaded");
    }

    /// Returns the changed keys that only a restart takes.
    fn load_and_apply(&self) -> Result<Vec<String>, String> {
        let config = self.sources.load().map_err(text)?.config;
        // Everything that can fail comes first, so that a mistake changes nothing.
        if let Some(error) = super::check(&config).first() {
            return Err(Chain(error).to_string());
        }
        let later = self.started.differences(&config, &AT_START);
        let parts = &self.parts;
        let local_urls = config.api.file_urls;
        parts.fetcher.reload(config.fetch).map_err(text)?;
        self.api.reload(config.api).map_err(text)?;
        parts.local_urls.store(local_urls, Ordering::Relaxed);
        self.reporter.reload(config.report).map_err(text)?;
        parts.intake.reload(config.intake);
        parts.rules.replace(config.verify);
        parts.publisher.reload(config.publish, config.unpack.umask);
        parts.road.reload(config.unpack);
        parts.keep.reload(super::upkeep(&config.runner));
        parts.runner.reload(config.runner);
        Ok(later)
    }
}

fn text(error: impl std::error::Error + 'static) -> String {
    Chain(&error).to_string()
}
