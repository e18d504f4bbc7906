//! `nix-quorum staging`

mod choose;
mod contents;

use std::io::{IsTerminal as _, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use store_backend::gate::{Candidate, Gate, Sight, Uploader};
use store_backend::store::store_path_of;

use super::load::{PolicyArguments, StoreArguments, open_existing, open_gate, read_secret_key};
use super::{CommandError, runtime};
use crate::render;
use choose::Choice;

#[derive(Debug, Subcommand)]
pub(super) enum Arguments {
    /// List what is held: what it lacks, since when, and who could complete it.
    List(List),
    /// Explain what is held of one path, signature by signature.
    Show(Show),
    /// Show what differs between two contents of one path, entry by entry; of text files a diff.
    Diff(contents::Diff),
    /// Write the contents of what is held to a new directory or file, to look into them. Nobody has vouched for them yet in the
    /// number that the policy asks for: do not run them.
    Fetch(contents::Fetch),
    /// Give up what is held, for a reason that the decision log keeps.
    Drop(Drop),
    /// Sign what is held with a key of one's own.
    ///
    /// What is signed is shown first. Sign only what you have built yourself and found to be the same, or have looked into:
    /// a signature that repeats what somebody else brought is worth nothing.
    Approve(Approve),
}

/// The store that is looked at, and the policy that says what it lacks.
#[derive(Debug, Args)]
struct Look {
    /// Where paths are kept: file:///DIRECTORY or s3://BUCKET.
    #[arg(long, env = "NIX_QUORUM_STORE", value_name = "URI")]
    store: String,
    #[command(flatten)]
    policy: PolicyArguments,
}

impl Look {
    async fn open(&self) -> Result<Arc<Gate>, CommandError> {
        look(&self.store, &self.policy).await
    }
}

/// The store that is changed, and the policy by which.
#[derive(Debug, Args)]
struct Change {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    policy: PolicyArguments,
}

impl Change {
    /// Opens the store, where there is one.
    async fn open(&self, countersign: Option<&Path>) -> Result<Arc<Gate>, CommandError> {
        look(&self.store.store, &self.policy).await?;
        Ok(Arc::new(open_gate(&self.store, &self.policy, countersign).await?))
    }
}

/// Opens a store to be read only.
async fn look(store: &str, policy: &PolicyArguments) -> Result<Arc<Gate>, CommandError> {
    let policy = policy.load()?;
    let cache = open_existing(store, Some(policy.store_dir())).await?;
    Ok(Arc::new(Gate::new(cache, policy, None)?))
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Look,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    place: Look,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// A store path, a link to one such as ./result, or its base name.
    #[arg(value_name = "PATH")]
    path: String,
}

#[derive(Debug, Args)]
pub(super) struct Drop {
    #[command(flatten)]
    place: Change,
    /// Why: it stays in the decision log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    choice: Choice,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    #[command(flatten)]
    place: Change,
    /// The secret key to sign with, in a file: that of a signer of the policy.
    #[arg(short = 'k', long, value_name = "FILE")]
    key_file: PathBuf,
    /// The file with the gate's own secret key, with which what is admitted by this is countersigned, as for serve.
    #[arg(long, env = "NIX_QUORUM_COUNTERSIGN", value_name = "FILE")]
    countersign: Option<PathBuf>,
    #[command(flatten)]
    choice: Choice,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Print a JSON object; needs --yes.
    #[arg(long, requires = "yes")]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(async {
        match arguments {
            Arguments::List(arguments) => list(arguments).await,
            Arguments::Show(arguments) => show(arguments).await,
            Arguments::Diff(arguments) => contents::diff(arguments).await,
            Arguments::Fetch(arguments) => contents::fetch(arguments).await,
            Arguments::Drop(arguments) => drop_candidate(arguments).await,
            Arguments::Approve(arguments) => approve(arguments).await,
        }
    })
}

async fn list(arguments: List) -> Result<ExitCode, CommandError> {
    let gate = arguments.place.open().await?;
    let staged = gate.staged().await?;
    render::staged(&staged, &gate.policy(), render::format(arguments.json))
}

async fn show(arguments: Show) -> Result<ExitCode, CommandError> {
    let gate = arguments.place.open().await?;
    let path = store_path_of(&arguments.path, gate.cache().store_dir())?;
    let candidates = candidates(&gate, &path).await?;
    render::candidates(&candidates, &gate.policy(), render::format(arguments.json))
}

/// Returns what is held of a path, and what it shows.
async fn candidates(gate: &Gate, path: &verifier::StorePath) -> Result<Vec<Candidate>, CommandError> {
    let candidates = gate.candidates(path).await?;
    if candidates.is_empty() {
        let path = gate.cache().store_dir().render_path(path);
        return Err(CommandError::Usage(format!(
            "nothing is held of {path}, and it is not there: nix-quorum staging list shows what is held"
        )));
    }
    Ok(candidates)
}

async fn drop_candidate(arguments: Drop) -> Result<ExitCode, CommandError> {
    if arguments.reason.trim().is_empty() {
        return Err(CommandError::Usage("--reason: say why, it stays in the decision log".into()));
    }
    let gate = arguments.place.open(None).await?;
    let candidate = arguments.choice.held(&gate).await?;
    let path = &candidate.record.info().path;
    let dropped = gate.drop_candidate(path, &candidate.fingerprint, &arguments.reason, &person().0).await;
    gate.cache().objects().close().await;
    dropped?;
    render::dropped(&candidate, &gate.policy(), render::format(arguments.json))
}

async fn approve(arguments: Approve) -> Result<ExitCode, CommandError> {
    let key = read_secret_key(&arguments.key_file)?;
    let gate = arguments.place.open(arguments.countersign.as_deref()).await?;
    let signed = approve_with(&arguments, &gate, &key).await;
    gate.cache().objects().close().await;
    signed
}

async fn approve_with(
    arguments: &Approve,
    gate: &Arc<Gate>,
    key: &verifier::SecretKey,
) -> Result<ExitCode, CommandError> {
    let policy = gate.policy();
    let public = key.public();
    let mut signers = policy.keyring().signers();
    let is_own = |key: &verifier::TrustedKey| key.public.as_bytes() == public.as_bytes() && key.revoked.is_none();
    let Some((_, signer)) = signers.find(|(_, signer)| signer.keys.iter().any(is_own)) else {
        return Err(CommandError::Usage(format!(
            "{public} is no key in use of the policy's, so its signature would count for nothing"
        )));
    };
    let candidate = arguments.choice.held(gate).await?;
    if !arguments.json {
        render::about_to_sign(&candidate, &policy, &signer.name)?;
    }
    if !arguments.yes && !asked()? {
        return Err(CommandError::Usage("nothing was signed".into()));
    }
    let path = &candidate.record.info().path;
    let signature = key.sign(candidate.evidence.fingerprint()).to_string();
    let kept = gate.add_signatures(path, &[signature], Sight::Staging, &person()).await?;
    let rendered = policy.store_dir().render_path(path);
    if !kept.counted.contains(&candidate.fingerprint) {
        return Err(CommandError::Usage(format!(
            "the signature was not taken: {} of {rendered} is no more what is held, or another is admitted",
            candidate.describe()
        )));
    }
    let held = kept.held.map(|held| held.held_summary(&rendered));
    render::approved(&rendered, held.as_deref(), render::format(arguments.json))
}

/// Asks whether to go on. Nobody is asked who is not there.
fn asked() -> Result<bool, CommandError> {
    if !stdin().is_terminal() {
        return Err(CommandError::Usage("standard input is no terminal, so nobody can be asked: give --yes".into()));
    }
    render::ask("Sign this? [y/N] ")?;
    let mut line = String::new();
    let read = stdin().read_line(&mut line);
    read.map_err(|source| CommandError::Io { action: "read", place: "standard input".into(), source })?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Whom the records name for what is done here.
fn person() -> Uploader {
    Uploader::of_uid(rustix::process::getuid().as_raw())
}
