//! `nix-quorum serve`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use store_backend::daemon::{Server, Settings};
use store_backend::gate::{Gate, Sight, StagingLimits};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::load::{PolicyArguments, StoreArguments, open_gate};
use super::{CommandError, runtime};

/// Serves a store to Nix clients: nix copy --to unix:///run/nix-quorum/store.sock, and everything else that uses a store.
///
/// Only what meets the policy becomes valid, and only what meets it now can be read. SIGHUP reads the policy again; one that
/// cannot be read leaves the old one in force. SIGTERM and SIGINT end the server once its clients are done.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    policy: PolicyArguments,
    /// Where clients connect.
    #[arg(long, env = "NIX_QUORUM_SOCKET", value_name = "PATH", default_value = super::stdio::SOCKET)]
    socket: PathBuf,
    /// Where builders bring what is short of its quorum: it is held until other builders have signed the same. Without this,
    /// nothing is held.
    #[arg(long, env = "NIX_QUORUM_STAGING_SOCKET", value_name = "PATH")]
    staging_socket: Option<PathBuf>,
    #[command(flatten)]
    limits: StagingArguments,
    /// The file with a secret key of the gate's own, with which it also signs what it admits. It must not be a signer's.
    #[arg(long, env = "NIX_QUORUM_COUNTERSIGN", value_name = "FILE")]
    countersign: Option<PathBuf>,
}

/// How much staging holds.
#[derive(Debug, Clone, Args)]
struct StagingArguments {
    /// Paths that one uploader may have in staging.
    #[arg(long, env = "NIX_QUORUM_STAGING_UPLOADER_PATHS", value_name = "COUNT", default_value_t = StagingLimits::default().uploader_paths)]
    staging_uploader_paths: u64,
    /// GiB of NARs, before compression, that one uploader may have in staging.
    #[arg(long, env = "NIX_QUORUM_STAGING_UPLOADER_GIB", value_name = "GIB", default_value_t = StagingLimits::default().uploader_bytes >> 30)]
    staging_uploader_gib: u64,
    /// Paths that staging holds in all.
    #[arg(long, env = "NIX_QUORUM_STAGING_PATHS", value_name = "COUNT", default_value_t = StagingLimits::default().paths)]
    staging_paths: u64,
    /// GiB of NARs, before compression, that staging holds in all.
    #[arg(long, env = "NIX_QUORUM_STAGING_GIB", value_name = "GIB", default_value_t = StagingLimits::default().bytes >> 30)]
    staging_gib: u64,
    /// After how many days what is held is given up.
    #[arg(long, env = "NIX_QUORUM_STAGING_DAYS", value_name = "DAYS", default_value_t = StagingLimits::default().keep.as_secs() / DAY)]
    staging_days: u64,
}

impl StagingArguments {
    fn limits(&self) -> StagingLimits {
        StagingLimits {
            uploader_paths: self.staging_uploader_paths,
            uploader_bytes: self.staging_uploader_gib.saturating_mul(1 << 30),
            paths: self.staging_paths,
            bytes: self.staging_gib.saturating_mul(1 << 30),
            keep: Duration::from_secs(self.staging_days.saturating_mul(DAY)),
        }
    }
}

/// A day's seconds.
const DAY: u64 = 24 * 60 * 60;

/// How long between two looks at whether something was left to do in staging, and between two looks at all of it.
const SOON: Duration = Duration::from_secs(30);
const NOW_AND_THEN: Duration = Duration::from_secs(60 * 60);

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let gate = open_gate(&arguments.store, &arguments.policy, arguments.countersign.as_deref()).await?;
    let gate = Arc::new(gate.with_staging_limits(arguments.limits.limits()));
    let listen = |source| CommandError::Io { action: "listen for", place: "signals".into(), source };
    let mut hangup = signal(SignalKind::hangup()).map_err(listen)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(listen)?;
    let server = Server::bind(&arguments.socket, Settings::default()).await?;
    let staging = match &arguments.staging_socket {
        Some(socket) => {
            let settings = Settings { sight: Sight::Staging, ..Settings::default() };
            Some(Server::bind(socket, settings).await?)
        }
        None => None,
    };
    gate.bring_log_up_to_date().await?;
    if let Some(key) = gate.countersigner() {
        tracing::info!(%key, "countersigning: readers without this gate may trust this key");
    }
    let policy = gate.policy();
    tracing::info!(
        store = arguments.store.store,
        socket = %arguments.socket.display(),
        policy = policy.version(),
        signers = policy.keyring().signers().count(),
        "serving"
    );
    let reloading = gate.clone();
    let changed = Arc::new(Notify::new());
    let reloaded = changed.clone();
    let reloader = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload(&reloading, &arguments.policy).await;
            // Not here: the next one must not wait for it.
            reloaded.notify_one();
        }
    });
    let tender = tokio::spawn(keep_tending(gate.clone(), changed));
    let (told, stop) = tokio::sync::watch::channel(());
    let stopping = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        drop(told);
    });
    let until = |mut stop: tokio::sync::watch::Receiver<()>| async move { while stop.changed().await.is_ok() {} };
    let served = match staging {
        None => server.run(gate.clone(), until(stop)).await,
        Some(staging) => {
            let both =
                tokio::join!(server.run(gate.clone(), until(stop.clone())), staging.run(gate.clone(), until(stop)));
            both.0.and(both.1)
        }
    };
    stopping.abort();
    reloader.abort();
    tender.abort();
    if let Err(error) = gate.bring_log_up_to_date().await {
        tracing::warn!(%error, "the decision log lacks the last refusals");
    }
    gate.cache().objects().close().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Looks after staging and the log: at once, since a crash may have come before, when the policy has changed, and every now and
/// then.
async fn keep_tending(gate: Arc<Gate>, changed: Arc<Notify>) {
    loop {
        if let Err(error) = gate.bring_log_up_to_date().await {
            tracing::error!(%error, "the decision log does not say yet which policy is in force");
        }
        let tending = gate.clone();
        // In a task of its own, so that nothing in it can end this one.
        match tokio::spawn(async move { tending.tend_staging().await }).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "staging could not be looked after: it is tried again soon"),
            Err(error) => tracing::error!(%error, "staging could not be looked after"),
        }
        let tended = Instant::now();
        while tended.elapsed() < NOW_AND_THEN {
            let told = tokio::time::timeout(SOON, changed.notified()).await;
            if told.is_ok() || gate.staging_is_unfinished() {
                break;
            }
        }
    }
}

/// Reads the policy again. Whatever goes wrong, there is a policy in force.
async fn reload(gate: &Gate, policy: &PolicyArguments) {
    let before = gate.policy();
    let put_in_force = match policy.load() {
        Ok(policy) => gate.replace_policy(policy).await.map_err(CommandError::from),
        Err(error) => Err(error),
    };
    match put_in_force {
        Ok(()) => tracing::info!(before = before.version(), now = gate.policy().version(), "policy read again"),
        Err(error) => {
            tracing::error!(
                in_force = before.version(),
                "the policy could not be read again, the old one stays: {error}"
            );
        }
    }
}
