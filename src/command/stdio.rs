//! `nix-quorum --stdio`: what `ssh-ng://…?remote-program=nix-quorum` runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use store_backend::daemon::{Peer, Relayed, relay, serve_stdio};
use store_backend::gate::{Sight, Uploader};
use store_backend::protocol::Trust;

use super::load::{PolicyArguments, StoreArguments, open_gate};
use super::{CommandError, runtime};

/// Where the gate listens unless told otherwise.
pub(super) const SOCKET: &str = "/run/nix-quorum/store.sock";

/// Where staging is unless told otherwise.
const STAGING_SOCKET: &str = "/run/nix-quorum/staging.sock";

/// Which of a gate's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum View {
    /// What is admitted.
    Store,
    /// That, and what is held: where builders bring what is short of its quorum.
    Staging,
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Speak the daemon protocol on standard input and output: relay to the gate's socket, or, where no gate answers and a
    /// store is given, serve it in this process, as its administrator.
    #[arg(long)]
    stdio: bool,
    /// The gate's socket, with --stdio.
    #[arg(long = "socket", env = "NIX_QUORUM_SOCKET", value_name = "PATH", default_value = SOCKET)]
    gate_socket: PathBuf,
    /// The gate's other socket, for --view staging.
    #[arg(long = "staging-socket", env = "NIX_QUORUM_STAGING_SOCKET", value_name = "PATH", default_value = STAGING_SOCKET)]
    gate_staging_socket: PathBuf,
    /// What to show of the store, with --stdio.
    #[arg(long, value_name = "VIEW", default_value = "store")]
    view: View,
    /// The store to serve where no gate answers, with --stdio: file:///DIRECTORY or s3://BUCKET.
    #[arg(long = "store", env = "NIX_QUORUM_STORE", value_name = "URI")]
    own_store: Option<String>,
    /// Say that no gate writes this bucket meanwhile, with --stdio.
    #[arg(long = "single-writer", env = "NIX_QUORUM_SINGLE_WRITER")]
    own_single_writer: bool,
    /// The policy to serve it by, with --stdio.
    #[arg(long = "policy", env = "NIX_QUORUM_POLICY", value_name = "FILE")]
    own_policy: Option<PathBuf>,
    /// An administrator's minisign public key (RW…) that must have signed that policy; may be given several times.
    #[arg(long = "policy-signer", env = "NIX_QUORUM_POLICY_SIGNER", value_name = "KEY", value_delimiter = ',')]
    own_policy_signer: Vec<String>,
    /// How many administrators must have signed it; all of them unless given.
    #[arg(long = "policy-threshold", env = "NIX_QUORUM_POLICY_THRESHOLD", value_name = "K")]
    own_policy_threshold: Option<usize>,
}

impl Arguments {
    pub(super) fn requested(&self) -> bool {
        self.stdio
    }
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let (socket, sight) = match arguments.view {
        View::Store => (&arguments.gate_socket, Sight::Admitted),
        View::Staging => (&arguments.gate_staging_socket, Sight::Staging),
    };
    if relay(socket)? == Relayed::ToTheEnd {
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(store), Some(policy)) = (arguments.own_store, arguments.own_policy) else {
        return Err(CommandError::Usage(format!(
            "no gate answers at {}: start one with 'nix-quorum serve', or give --store and --policy to serve in this process",
            socket.display()
        )));
    };
    let policy = PolicyArguments {
        policy,
        policy_signer: arguments.own_policy_signer,
        policy_threshold: arguments.own_policy_threshold,
    };
    let store = StoreArguments { store, single_writer: arguments.own_single_writer, index: None };
    runtime()?.block_on(async {
        let gate = Arc::new(open_gate(&store, &policy, None).await?);
        let uploader = Uploader::of_uid(rustix::process::getuid().as_raw());
        let peer = Peer { sight, trust: Trust::Trusted, uploader };
        let served = serve_stdio(gate.clone(), peer).await;
        gate.cache().objects().close().await;
        served?;
        Ok(ExitCode::SUCCESS)
    })
}
