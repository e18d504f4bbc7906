//! `nix-quorum verify`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use policy::Policy;
use store_backend::audit::{Contents, Measure, Progress, Scope, audit};
use store_backend::store::{Store, StoreUri, store_path_of};
use verifier::StoreDir;

use super::load::PolicyArguments;
use super::{CommandError, runtime};
use crate::render::{self, Subject};

/// What is checked, and against what.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The store, as Nix names it: daemon, unix:///SOCKET or ssh-ng://HOST (a gate, or nix-daemon); local, or a store's root such
    /// as / or /mnt; file:///DIRECTORY, https://HOST or s3://BUCKET (a binary cache, ours or one that stock Nix wrote). Unless
    /// given, this machine's.
    #[arg(long, env = "NIX_QUORUM_STORE", value_name = "URI", default_value = "auto", hide_default_value = true)]
    store: String,
    /// The policy: who may sign, and how many must.
    #[arg(long, env = "NIX_QUORUM_POLICY", value_name = "FILE", required_unless_present = "trusted_public_keys")]
    policy: Option<PathBuf>,
    /// A minisign public key (RW…) of an administrator, who must have signed the policy; may be given several times.
    #[arg(long = "policy-signer", env = "NIX_QUORUM_POLICY_SIGNER", value_name = "KEY", value_delimiter = ',')]
    policy_signer: Vec<String>,
    /// How many administrators must have signed the policy; all of them unless given.
    #[arg(long, env = "NIX_QUORUM_POLICY_THRESHOLD", value_name = "K")]
    policy_threshold: Option<usize>,
    /// Keys in place of a policy, separated by white space; each is one signer.
    #[arg(long, value_name = "KEYS", conflicts_with_all = ["policy", "policy_signer", "policy_threshold"])]
    trusted_public_keys: Option<String>,
    /// How many of these keys must have signed.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "trusted_public_keys", conflicts_with = "policy")]
    sigs_needed: usize,
    /// Check all that the paths refer to as well.
    #[arg(short, long)]
    recursive: bool,
    /// Check every path of the store.
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    /// Check signatures alone, and leave contents unread.
    #[arg(long)]
    no_contents: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// Store paths, links to them such as ./result, or their base names.
    #[arg(value_name = "PATH", required_unless_present = "all")]
    paths: Vec<String>,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(verify(arguments))
}

async fn verify(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let (store, policy) = match &arguments.trusted_public_keys {
        Some(keys) => {
            let store = open(&arguments.store, None).await?;
            let policy = policy_of_keys(keys, arguments.sigs_needed, store.store_dir())?;
            (store, policy)
        }
        None => {
            let policy = arguments.policy()?;
            (open(&arguments.store, Some(policy.store_dir())).await?, policy)
        }
    };
    let policy = Arc::new(policy);
    let contents = if arguments.no_contents { Contents::Leave } else { Contents::Read };
    let measure = Measure { policy: policy.clone(), contents, now: render::now() };
    let scope = arguments.scope(store.store_dir())?;
    let progress = Arc::new(Progress::default());
    let auditing = audit(store, scope, measure, progress.clone());
    let audit = render::with_progress(auditing, &progress).await?;
    let subject = Subject { store: &arguments.store, policy: &policy, contents, read: progress.snapshot().bytes };
    render::audit(&audit, &subject, render::format(arguments.json))?;
    Ok(ExitCode::from(audit.faults.bits()))
}

impl Arguments {
    fn policy(&self) -> Result<Policy, CommandError> {
        let Some(policy) = self.policy.clone() else {
            return Err(CommandError::Usage("give --policy FILE, or --trusted-public-keys KEYS".into()));
        };
        let (policy_signer, policy_threshold) = (self.policy_signer.clone(), self.policy_threshold);
        PolicyArguments { policy, policy_signer, policy_threshold }.load()
    }

    fn scope(&self, store_dir: &StoreDir) -> Result<Scope, CommandError> {
        if self.all {
            return Ok(Scope::Everything);
        }
        let paths = self.paths.iter().map(|argument| store_path_of(argument, store_dir)).collect::<Result<_, _>>()?;
        Ok(if self.recursive { Scope::Closures(paths) } else { Scope::Paths(paths) })
    }
}

fn policy_of_keys(keys: &str, needed: usize, store_dir: &StoreDir) -> Result<Policy, CommandError> {
    let place = || "--trusted-public-keys".to_owned();
    let parse = |text: &str| text.parse().map_err(|source| CommandError::Key { place: place(), source });
    let keys = keys.split_whitespace().map(parse).collect::<Result<Vec<_>, _>>()?;
    Policy::of_keys(&keys, needed, store_dir).map_err(|source| CommandError::Keys { place: place(), source })
}

/// Opens a store to read it. Nothing is made or changed.
async fn open(uri: &str, store_dir: Option<&StoreDir>) -> Result<Arc<dyn Store>, CommandError> {
    let failed = |source| CommandError::OpenStore { uri: uri.to_owned(), source };
    StoreUri::parse(uri)?.open(store_dir).await.map_err(failed)
}
