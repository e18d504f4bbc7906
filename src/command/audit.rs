//! What `verify` and `why` have in common: a store, what it is held against, and which of its paths.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use policy::Policy;
use store_backend::audit::{Audit, Contents, Measure, Outputs, Progress, ReadingLog, Scope, Substituter, audit};
use store_backend::store::{Installable, Meaning, Store, StoreUri, without_password};
use verifier::{StoreDir, StorePath, Timestamp};

use super::CommandError;
use super::load::PolicyArguments;
use crate::render::{self, Subject};

/// Most bytes that are read of a list of paths: some hundred thousand of them.
const MAX_LIST: u64 = 64 << 20;

/// A store, and what it is held against.
#[derive(Debug, Args)]
#[command(next_help_heading = "The store, and whom to trust")]
pub struct Against {
    /// The store, as Nix names it: daemon, unix:///SOCKET or ssh-ng://HOST (a gate, or nix-daemon); local, or a store's root such
    /// as / or /mnt; file:///DIRECTORY, https://HOST or s3://BUCKET (a binary cache, ours or one that stock Nix wrote). Unless
    /// given, this machine's.
    #[arg(long, env = "NIX_QUORUM_STORE", value_name = "URI", default_value = "", hide_default_value = true)]
    store: String,
    /// Another store whose signatures count as well, where it has the same contents; may be given several times.
    #[arg(short, long = "substituter", env = "NIX_QUORUM_SUBSTITUTER", value_name = "URI", value_delimiter = ',')]
    substituters: Vec<String>,
    /// The file with passwords for caches behind HTTP, as netrc-file in Nix; /etc/nix/netrc unless given.
    #[arg(long, env = "NIX_QUORUM_NETRC_FILE", value_name = "FILE")]
    netrc_file: Option<PathBuf>,
    /// The policy: who may sign, and how many must.
    #[arg(long, env = "NIX_QUORUM_POLICY", value_name = "FILE")]
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
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "trusted_public_keys",
        conflicts_with = "policy"
    )]
    sigs_needed: usize,
}

/// Which paths of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which paths")]
pub struct Which {
    /// Check all that the paths refer to as well.
    #[arg(short, long)]
    recursive: bool,
    /// Check every path of the store.
    #[arg(long, conflicts_with_all = ["paths", "stdin", "derivation"])]
    all: bool,
    /// Read paths from standard input too, separated by white space.
    #[arg(long)]
    stdin: bool,
    /// Check the derivations that made the paths, in place of the paths.
    #[arg(long)]
    derivation: bool,
    /// With --recursive, check the outputs of the derivations as well, where they are in the store.
    #[arg(long, requires = "recursive")]
    include_outputs: bool,
    /// Store paths, links to them such as ./result, base names, or outputs of derivations (DERIVATION^out,dev or DERIVATION^*).
    #[arg(value_name = "PATH", required_unless_present_any = ["all", "stdin"])]
    paths: Vec<String>,
}

/// A store that was opened, with what it is held against.
pub struct Opened {
    pub store: Arc<dyn Store>,
    policy: Arc<Policy>,
    substituters: Vec<Substituter>,
    uri: String,
    /// The URIs of the store and of the substituters, as others may see them.
    shown: (String, Vec<String>),
    now: Timestamp,
}

/// What an audit found, and how much it read for that.
pub struct Finished {
    pub audit: Audit,
    /// Bytes of contents.
    pub read: u64,
}

impl Against {
    /// Opens the store and the others, and reads the policy.
    pub async fn open(&self) -> Result<Opened, CommandError> {
        // Where nobody says which, it is found out once.
        let uri = StoreUri::meant(&self.store);
        let (store, policy) = match &self.trusted_public_keys {
            Some(keys) => {
                let store = self.open_store(&uri, None).await?;
                let policy = policy_of_keys(keys, self.sigs_needed, store.store_dir())?;
                (store, policy)
            }
            None => {
                let policy = self.policy()?;
                (self.open_store(&uri, Some(policy.store_dir())).await?, policy)
            }
        };
        let mut substituters = Vec::with_capacity(self.substituters.len());
        for uri in &self.substituters {
            let other = self.open_store(uri, Some(store.store_dir())).await?;
            substituters.push(Substituter::new(&without_password(uri), other));
        }
        let others = self.substituters.iter().map(|uri| without_password(uri)).collect();
        let shown = (without_password(&uri), others);
        Ok(Opened { store, policy: Arc::new(policy), substituters, uri, shown, now: render::now() })
    }

    /// Opens a store to read it. Nothing is made or changed.
    async fn open_store(&self, uri: &str, store_dir: Option<&StoreDir>) -> Result<Arc<dyn Store>, CommandError> {
        let mut meant = StoreUri::parse(uri)?;
        if let Some(netrc) = &self.netrc_file {
            meant = meant.with_netrc(netrc);
        }
        let failed = |source| CommandError::OpenStore { uri: without_password(uri), source };
        meant.open(store_dir).await.map_err(failed)
    }

    fn policy(&self) -> Result<Policy, CommandError> {
        let Some(policy) = self.policy.clone() else {
            return Err(CommandError::Usage("give --policy FILE, or --trusted-public-keys KEYS".into()));
        };
        let (policy_signer, policy_threshold) = (self.policy_signer.clone(), self.policy_threshold);
        PolicyArguments { policy, policy_signer, policy_threshold }.load()
    }
}

impl Which {
    /// Returns the paths that are meant.
    pub async fn scope(&self, store: &dyn Store) -> Result<Scope, CommandError> {
        if self.all {
            return Ok(Scope::Everything);
        }
        let mut names = self.paths.clone();
        if self.stdin {
            let mut list = String::new();
            let read = std::io::stdin().take(MAX_LIST + 1).read_to_string(&mut list);
            let read =
                read.map_err(|source| CommandError::Io { action: "read", place: "standard input".into(), source })?;
            if read as u64 > MAX_LIST {
                return Err(CommandError::Usage(format!("standard input has more than {MAX_LIST} bytes of paths")));
            }
            names.extend(list.split_whitespace().map(str::to_owned));
        }
        let meaning = if self.derivation { Meaning::Derivations } else { Meaning::Paths };
        let paths = resolve(&names, store, meaning).await?;
        // Whoever made the list may have failed, and nothing would stand for anything.
        if paths.is_empty() {
            return Err(CommandError::Usage("no paths were named, so nothing was checked".into()));
        }
        let outputs = if self.include_outputs { Outputs::Include } else { Outputs::LeaveOut };
        Ok(if self.recursive { Scope::Closures(paths, outputs) } else { Scope::Paths(paths) })
    }
}

/// Returns the paths that some names mean.
pub async fn resolve(
    names: &[String],
    store: &dyn Store,
    meaning: Meaning,
) -> Result<BTreeSet<StorePath>, CommandError> {
    let mut paths = BTreeSet::new();
    for name in names {
        paths.extend(Installable::parse(name, store.store_dir())?.resolve(store, meaning).await?);
    }
    Ok(paths)
}

impl Opened {
    /// Audits paths, and shows meanwhile on a terminal how far that has come.
    pub async fn audit(
        &self,
        scope: Scope,
        contents: Contents,
        read_before: Option<ReadingLog>,
    ) -> Result<Finished, CommandError> {
        let (policy, substituters) = (self.policy.clone(), self.substituters.clone());
        let read_before = read_before.map(Arc::new);
        let measure = Measure { policy, substituters, contents, read_before, now: self.now };
        let progress = Arc::new(Progress::default());
        let auditing = audit(self.store.clone(), scope, measure, progress.clone());
        let audit = render::with_progress(auditing, &progress).await?;
        Ok(Finished { audit, read: progress.snapshot().bytes })
    }

    /// Returns what tells the store apart from others.
    pub fn identity(&self) -> Result<String, CommandError> {
        Ok(StoreUri::parse(&self.uri)?.identity(self.store.store_dir()))
    }

    /// Returns what a report is about that says what came of an audit.
    pub fn subject(&self, contents: Contents, read: u64) -> Subject<'_> {
        let (store, substituters) = &self.shown;
        Subject { store, substituters, policy: &self.policy, contents, read, now: self.now }
    }
}

fn policy_of_keys(keys: &str, needed: usize, store_dir: &StoreDir) -> Result<Policy, CommandError> {
    let place = || "--trusted-public-keys".to_owned();
    let parse = |text: &str| text.parse().map_err(|source| CommandError::Key { place: place(), source });
    let keys = keys.split_whitespace().map(parse).collect::<Result<Vec<_>, _>>()?;
    Policy::of_keys(&keys, needed, store_dir).map_err(|source| CommandError::Keys { place: place(), source })
}
