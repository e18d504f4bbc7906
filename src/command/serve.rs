//! `nix-quorum serve`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use store_backend::daemon::{Server, Settings};
use store_backend::gate::Gate;
use tokio::signal::unix::{SignalKind, signal};

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
    /// A secret key of the gate's own, with which it also signs what it admits. It must not be a signer's.
    #[arg(long, env = "NIX_QUORUM_COUNTERSIGN", value_name = "KEY")]
    countersign: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let gate = open_gate(&arguments.store, &arguments.policy, arguments.countersign.as_deref()).await?;
    let gate = Arc::new(gate);
    let listen = |source| CommandError::Io { action: "listen for", place: "signals".into(), source };
    let mut hangup = signal(SignalKind::hangup()).map_err(listen)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(listen)?;
    let server = Server::bind(&arguments.socket, Settings::default()).await?;
    let policy = gate.policy();
    tracing::info!(
        store = arguments.store.store,
        socket = %arguments.socket.display(),
        policy = policy.version(),
        signers = policy.keyring().signers().count(),
        "serving"
    );
    if let Some(key) = gate.countersigner() {
        tracing::info!(%key, "countersigning: readers without this gate may trust this key");
    }
    let reloading = gate.clone();
    let reloader = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload(&reloading, &arguments.policy);
        }
    });
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    let served = server.run(gate.clone(), stop).await;
    reloader.abort();
    gate.cache().objects().close().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the policy again. Whatever goes wrong, there is a policy in force.
fn reload(gate: &Gate, policy: &PolicyArguments) {
    let before = gate.policy();
    let put_in_force = policy.load().and_then(|policy| Ok(gate.set_policy(policy)?));
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
