//! Looking into contents: `nix-quorum staging diff` and `fetch`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use nix_archive::nar::{CaseHack, restore_reader};
use store_backend::gate::{Candidate, Gate};
use store_backend::store::{BlockingNar, store_path_of};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use verifier::{Aspect, Change, Inventory, NarEntry, NarHash, compare, read_files};

use super::choose::{Choice, nar_hash};
use super::{Look, candidates};
use crate::command::CommandError;
use crate::render::{self, FileDifference};

/// Longest file of which the difference is shown, in bytes. Longer ones are named with their hashes.
const MAX_SHOWN: u64 = 1 << 20;

/// Most files of which the difference is shown.
const MOST_SHOWN: usize = 100;

#[derive(Debug, Args)]
pub(in crate::command) struct Diff {
    #[command(flatten)]
    place: Look,
    /// Which of more than two contents, by their NAR hashes; to be given twice.
    #[arg(long, value_name = "HASH", value_parser = nar_hash)]
    nar_hash: Vec<NarHash>,
    /// Which of more than two contents, by how their fingerprints begin; to be given twice.
    #[arg(long, value_name = "DIGITS")]
    fingerprint: Vec<String>,
    /// Lines of context around what differs in texts.
    #[arg(long, value_name = "LINES", default_value_t = 3)]
    context: usize,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    /// A store path, a link to one such as ./result, or its base name.
    #[arg(value_name = "PATH")]
    path: String,
}

#[derive(Debug, Args)]
pub(in crate::command) struct Fetch {
    #[command(flatten)]
    place: Look,
    #[command(flatten)]
    choice: Choice,
    /// Where to write it: something that does not exist yet.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write the NAR as it is, and do not unpack it.
    #[arg(long)]
    nar: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Does something with a NAR on a thread that may wait for it.
async fn with_nar<T: Send + 'static>(
    gate: &Gate,
    candidate: &Candidate,
    work: impl FnOnce(BlockingNar) -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let nar = gate.candidate_nar(candidate).await?;
    let reader = nar.blocking(Handle::current());
    let done = spawn_blocking(move || work(reader)).await;
    done.map_err(|error| CommandError::Usage(format!("reading a NAR failed: {error}")))?
}

fn unreadable(source: impl std::fmt::Display) -> CommandError {
    CommandError::Usage(format!("a NAR cannot be read: {source}"))
}

pub(super) async fn diff(arguments: Diff) -> Result<ExitCode, CommandError> {
    let gate = arguments.place.open().await?;
    let path = store_path_of(&arguments.path, gate.cache().store_dir())?;
    let [first, second] = two_of(candidates(&gate, &path).await?, &arguments)?;
    let mut inventories = Vec::new();
    for candidate in [&first, &second] {
        inventories.push(with_nar(&gate, candidate, |nar| Inventory::read(nar).map_err(unreadable)).await?);
    }
    let differences = compare(&inventories[0], &inventories[1]);
    let wanted: BTreeSet<Vec<u8>> =
        differences.iter().filter(|d| has_other_contents(&d.change)).map(|d| d.path.to_vec()).collect();
    let shown: Arc<BTreeSet<Vec<u8>>> = Arc::new(wanted.into_iter().take(MOST_SHOWN).collect());
    let mut files = Vec::new();
    for candidate in [&first, &second] {
        let wanted = shown.clone();
        files.push(
            with_nar(&gate, candidate, move |nar| read_files(nar, &wanted, MAX_SHOWN).map_err(unreadable)).await?,
        );
    }
    let files = differences_of(&files[0], &files[1], arguments.context);
    render::difference(&[first, second], &differences, &files, &gate.policy(), render::format(arguments.json))
}

/// Returns the two contents that are meant.
fn two_of(candidates: Vec<Candidate>, arguments: &Diff) -> Result<[Candidate; 2], CommandError> {
    let all: Vec<String> = candidates.iter().map(Candidate::describe).collect();
    let Diff { nar_hash, fingerprint, .. } = arguments;
    let is_meant = |candidate: &Candidate| {
        let digest = candidate.fingerprint.to_string();
        (nar_hash.is_empty() && fingerprint.is_empty())
            || nar_hash.contains(&candidate.record.info().nar_hash)
            || fingerprint.iter().any(|digits| digest.starts_with(digits))
    };
    let meant: Vec<Candidate> = candidates.into_iter().filter(is_meant).collect();
    <[Candidate; 2]>::try_from(meant).map_err(|meant| {
        let advice = match (meant.len(), all.len()) {
            (_, 1) => "there is nothing to compare it with".to_owned(),
            _ => "say with --nar-hash or --fingerprint, twice, which two are meant".to_owned(),
        };
        CommandError::Usage(format!(
            "expected two contents of the path, found {}: {}; {advice}",
            all.len(),
            all.join("; ")
        ))
    })
}

fn has_other_contents(change: &Change<'_>) -> bool {
    match change {
        Change::InBoth { first: NarEntry::Regular { .. }, second: NarEntry::Regular { .. }, aspects } => {
            aspects.contains(&Aspect::Contents)
        }
        _ => false,
    }
}

/// Compares the files that were read of both.
fn differences_of(
    first: &BTreeMap<Vec<u8>, Vec<u8>>,
    second: &BTreeMap<Vec<u8>, Vec<u8>>,
    context: usize,
) -> BTreeMap<Vec<u8>, FileDifference> {
    let both = first.iter().filter_map(|(path, bytes)| Some((path, bytes, second.get(path)?)));
    both.map(|(path, one, other)| {
        let difference = match verifier::text_diff(one, other, context) {
            Some(diff) => FileDifference::Text(diff),
            None => FileDifference::Binary { first: verifier::first_difference(one, other).unwrap_or_default() },
        };
        (path.clone(), difference)
    })
    .collect()
}

pub(super) async fn fetch(arguments: Fetch) -> Result<ExitCode, CommandError> {
    let gate = arguments.place.open().await?;
    let candidate = arguments.choice.any(&gate).await?;
    let output = arguments.output.clone();
    if output.symlink_metadata().is_ok() {
        return Err(CommandError::Usage(format!("{} exists already: name something new", output.display())));
    }
    let written = with_nar(&gate, &candidate, move |nar| match arguments.nar {
        true => write_nar(nar, &output),
        false => unpack(nar, &output),
    });
    written.await?;
    render::fetched(&candidate, &gate.policy(), &arguments.output, render::format(arguments.json))
}

fn write_nar(mut nar: BlockingNar, output: &Path) -> Result<(), CommandError> {
    let failed = |source| CommandError::Io { action: "write", place: output.display().to_string(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(output).map_err(failed)?;
    let copied = io::copy(&mut nar, &mut file).and_then(|_| file.flush());
    copied.map_err(|source| {
        // Half of it is of no use to anybody.
        let _removed = std::fs::remove_file(output);
        failed(source)
    })
}

/// Unpacks a NAR beside where it is to be, and moves it there once its hash is known to be right.
fn unpack(nar: BlockingNar, output: &Path) -> Result<(), CommandError> {
    let failed = |source| CommandError::Io { action: "write", place: output.display().to_string(), source };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::TempDir::with_prefix_in(".nix-quorum-", folder).map_err(failed)?;
    let place = beside.path().join("contents");
    restore_reader(&mut BufReader::new(nar), &place, CaseHack::Disabled).map_err(unreadable)?;
    std::fs::rename(&place, output).map_err(failed)
}
