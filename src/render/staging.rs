//! What is held, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use policy::{Policy, Verdict, escaped, rfc3339};
use serde::Serialize;
use serde_json::{Value, json};
use store_backend::gate::Candidate;
use verifier::{Aspect, Change, Difference, NarEntry, StorePath, base16};

use super::words::{bytes, count};
use super::{Format, Paint, now, paint, print, print_json};
use crate::command::CommandError;

/// Most differences that are shown to a person; JSON has them all.
const MAX_DIFFERENCES: usize = 500;

/// Most references that are shown to a person.
const MAX_REFERENCES: usize = 20;

/// What differs between two files that were read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FileDifference {
    /// A unified diff, without a header.
    Text(String),
    /// They are no texts; the offset of the first byte that differs.
    Binary {
        /// In bytes, from 0.
        first: u64,
    },
}

/// Prints all that is held.
///
/// # Errors
/// When it cannot be printed.
pub fn staged(candidates: &[Candidate], policy: &Policy, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Json => {
            let held: Vec<Value> = candidates.iter().map(|candidate| document(candidate, policy)).collect();
            print_json(&json!({ "held": held, "policy": { "version": policy.version(), "digest": policy.digest() } }))
        }
        Format::Text => {
            let mut text = String::new();
            for candidate in candidates {
                summary(&mut text, candidate, policy);
            }
            text += &totals(candidates);
            print(&text)
        }
    }
}

fn totals(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "Nothing is held.\n".to_owned();
    }
    let size = bytes(candidates.iter().map(|candidate| candidate.record.info().nar_size).sum());
    let paths: BTreeSet<&StorePath> = candidates.iter().map(|candidate| &candidate.record.info().path).collect();
    let mut text = format!("{} held, {size} of NARs", are(paths.len(), "path"));
    if candidates.len() > paths.len() {
        let _infallible = write!(text, ", in {} different contents", candidates.len());
    }
    let mut completers: BTreeMap<&str, usize> = BTreeMap::new();
    for name in candidates.iter().flat_map(|candidate| candidate.decision.completers()) {
        *completers.entry(name).or_default() += 1;
    }
    let completers: Vec<String> = completers.iter().map(|(name, count)| format!("{name} for {count}")).collect();
    if !completers.is_empty() {
        let _infallible = write!(text, "; signatures are missing that could come from {}", completers.join(", "));
    }
    text.push('\n');
    text
}

fn are(number: usize, noun: &str) -> String {
    format!("{} {}", count(number, noun), if number == 1 { "is" } else { "are" })
}

/// Writes what is held in a few lines.
fn summary(text: &mut String, candidate: &Candidate, policy: &Policy) {
    let info = candidate.record.info();
    let path = policy.store_dir().render_path(&info.path);
    let _infallible = writeln!(
        text,
        "{}\n    fingerprint {}, {}, {}, {} {}",
        paint(Paint::Strong, &path),
        &candidate.fingerprint.to_string()[..16],
        info.nar_hash,
        bytes(info.nar_size),
        if candidate.is_held() { "held since" } else { "there since" },
        rfc3339(candidate.since()),
    );
    let signers = names(candidate.decision.signers());
    let _infallible =
        writeln!(text, "    signed by {}", if signers.is_empty() { "nobody who counts" } else { &signers });
    for finding in candidate.decision.findings() {
        let _infallible = writeln!(text, "    {finding}");
    }
    if candidate.decision.verdict() == Verdict::Admit && candidate.is_held() {
        let _infallible = writeln!(text, "    it has what it takes, and is admitted when a gate next looks at it");
    }
}

fn names(signers: &[std::sync::Arc<str>]) -> String {
    signers.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
}

/// Makes what a program reads of a candidate.
fn document(candidate: &Candidate, policy: &Policy) -> Value {
    let info = candidate.record.info();
    let store_dir = policy.store_dir();
    let render = |path: &StorePath| store_dir.render_path(path);
    let state = match (candidate.is_held(), candidate.decision.verdict()) {
        (true, _) => "held",
        (false, Verdict::Admit) => "admitted",
        (false, _) => "no-longer-admitted",
    };
    let verdict = if candidate.decision.verdict() == Verdict::Admit { "admit" } else { "hold" };
    let history = candidate.record.signatures();
    let signatures: Vec<Value> = candidate
        .evidence
        .judged()
        .iter()
        .zip(history)
        .map(|(judged, kept)| {
            json!({
                "signature": judged.text,
                "signer": judged.verdict.signer().map(|id| policy.keyring().signer(id).name.to_string()),
                "verdict": judged.verdict.code().unwrap_or("counts"),
                "firstSeen": rfc3339(kept.first_seen),
                "broughtBy": kept.brought_by,
            })
        })
        .collect();
    json!({
        "path": render(&info.path),
        "fingerprint": candidate.fingerprint.to_string(),
        "state": state,
        "since": rfc3339(candidate.since()),
        "narHash": info.nar_hash.to_string(),
        "narSize": info.nar_size,
        "references": info.references.iter().map(render).collect::<Vec<_>>(),
        "deriver": info.deriver.as_ref().map(render),
        "verdict": verdict,
        "signers": candidate.decision.signers(),
        "couldComplete": candidate.decision.completers(),
        "findings": candidate.decision.findings(),
        "signatures": signatures,
    })
}

/// Prints what is held of one path, signature by signature.
///
/// # Errors
/// When it cannot be printed.
pub fn candidates(candidates: &[Candidate], policy: &Policy, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Json => {
            let all: Vec<Value> = candidates.iter().map(|candidate| document(candidate, policy)).collect();
            print_json(&json!({ "candidates": all }))
        }
        Format::Text => {
            let mut text = String::new();
            for candidate in candidates {
                summary(&mut text, candidate, policy);
                let completers = names(candidate.decision.completers());
                if !completers.is_empty() {
                    let _infallible = writeln!(text, "    could still sign: {completers}");
                }
                signatures(&mut text, candidate, policy);
                references(&mut text, candidate, policy);
            }
            if candidates.len() > 1 {
                text += "These are different contents of one path: nix-quorum staging diff compares them.\n";
            }
            print(&text)
        }
    }
}

fn signatures(text: &mut String, candidate: &Candidate, policy: &Policy) {
    for (judged, kept) in candidate.evidence.judged().iter().zip(candidate.record.signatures()) {
        let key = judged.text.split(':').next().unwrap_or_default();
        let signer = judged.verdict.signer().map(|id| format!(" ({})", policy.keyring().signer(id).name));
        let (color, verdict) = match judged.verdict.code() {
            None => (Paint::Good, "counts"),
            Some(code) => (Paint::Doubt, code),
        };
        let _infallible = writeln!(
            text,
            "    {}{}: {}, first seen {}, brought by {}",
            escaped(key),
            signer.unwrap_or_default(),
            paint(color, verdict),
            rfc3339(kept.first_seen),
            escaped(&kept.brought_by)
        );
    }
}

fn references(text: &mut String, candidate: &Candidate, policy: &Policy) {
    let all: BTreeSet<&StorePath> = candidate.record.info().references.iter().collect();
    for reference in all.iter().take(MAX_REFERENCES) {
        let _infallible = writeln!(text, "    refers to {}", policy.store_dir().render_path(reference));
    }
    if all.len() > MAX_REFERENCES {
        let _infallible = writeln!(text, "    and to {} more", all.len() - MAX_REFERENCES);
    }
}

/// Prints what differs between two contents of a path; the exit code is 1 if anything does.
///
/// # Errors
/// When it cannot be printed.
pub fn difference(
    both: &[Candidate; 2],
    differences: &[Difference<'_>],
    files: &BTreeMap<Vec<u8>, FileDifference>,
    policy: &Policy,
    format: Format,
) -> Result<ExitCode, CommandError> {
    let [first, second] = both;
    let (one, other) = (first.record.info(), second.record.info());
    let only = |a: &BTreeSet<StorePath>, b: &BTreeSet<StorePath>| -> Vec<String> {
        a.difference(b).map(|path| policy.store_dir().render_path(path)).collect()
    };
    let references = [only(&one.references, &other.references), only(&other.references, &one.references)];
    match format {
        Format::Json => print_json(&json!({
            "first": document(first, policy),
            "second": document(second, policy),
            "onlyReferencesOfFirst": references[0],
            "onlyReferencesOfSecond": references[1],
            "entries": differences.iter().map(|found| entry_document(found, files)).collect::<Vec<_>>(),
        }))?,
        Format::Text => {
            let path = policy.store_dir().render_path(&one.path);
            let mut text = format!("{}\n", paint(Paint::Strong, &path));
            let _infallible = writeln!(text, "- {}", first.describe());
            let _infallible = writeln!(text, "+ {}", second.describe());
            for (sign, paths) in ["-", "+"].iter().zip(&references) {
                for path in paths {
                    let _infallible = writeln!(text, "{sign} refers to {path}");
                }
            }
            for found in differences.iter().take(MAX_DIFFERENCES) {
                entry_text(&mut text, found, files);
            }
            if differences.len() > MAX_DIFFERENCES {
                let _infallible =
                    writeln!(text, "and {} more; --json has them all", differences.len() - MAX_DIFFERENCES);
            }
            text += &advice(&path, differences.is_empty() && references.iter().all(Vec::is_empty));
            print(&text)?
        }
    };
    Ok(ExitCode::from(u8::from(!differences.is_empty() || references.iter().any(|paths| !paths.is_empty()))))
}

fn advice(path: &str, same: bool) -> String {
    if same {
        return "Their contents are the same.\n".to_owned();
    }
    let found = std::env::var_os("PATH")
        .is_some_and(|places| std::env::split_paths(&places).any(|place| place.join("diffoscope").is_file()));
    let how = match found {
        true => "To look inside of files, fetch both and compare them with diffoscope, which is here:",
        false => "To look inside of files, fetch both and compare them, for instance with diffoscope:",
    };
    format!("{how}\n    nix-quorum staging fetch --nar-hash HASH -o one {path}\n")
}

/// Writes a path inside of a NAR: the NAR's own is ".".
fn inside(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { escaped(&String::from_utf8_lossy(path)).to_string() }
}

fn describe_entry(entry: &NarEntry) -> String {
    match entry {
        NarEntry::Directory { entries: 1 } => "directory of 1 entry".to_owned(),
        NarEntry::Directory { entries } => format!("directory of {entries} entries"),
        NarEntry::Regular { executable, size, sha256 } => {
            let executable = if *executable { "executable file" } else { "file" };
            format!("{executable} of {}, SHA-256 {}", bytes(*size), base16::encode(&sha256[..8]))
        }
        NarEntry::Symlink { target } => format!("link to {}", escaped(&String::from_utf8_lossy(target))),
    }
}

fn entry_text(text: &mut String, found: &Difference<'_>, files: &BTreeMap<Vec<u8>, FileDifference>) {
    let path = inside(found.path);
    match &found.change {
        Change::OnlyInFirst(entry) => {
            let _infallible = writeln!(text, "{} {path}: {}", paint(Paint::Bad, "-"), describe_entry(entry));
        }
        Change::OnlyInSecond(entry) => {
            let _infallible = writeln!(text, "{} {path}: {}", paint(Paint::Good, "+"), describe_entry(entry));
        }
        Change::InBoth { first, second, aspects } => {
            let aspects: Vec<&str> = aspects.iter().map(aspect).collect();
            let _infallible = writeln!(text, "{} {path}: other {}", paint(Paint::Doubt, "~"), aspects.join(", "));
            let _infallible = writeln!(text, "    - {}\n    + {}", describe_entry(first), describe_entry(second));
        }
    }
    match files.get(found.path) {
        Some(FileDifference::Text(diff)) => {
            for line in diff.lines() {
                let shown = escaped(line).to_string();
                let shown = match line.as_bytes().first() {
                    Some(b'-') => paint(Paint::Bad, &shown),
                    Some(b'+') => paint(Paint::Good, &shown),
                    _ => shown,
                };
                let _infallible = writeln!(text, "    {shown}");
            }
        }
        Some(FileDifference::Binary { first }) => {
            let _infallible = writeln!(text, "    no texts: they differ from byte {first} on");
        }
        None => {}
    }
}

fn aspect(aspect: &Aspect) -> &'static str {
    match aspect {
        Aspect::Type => "type",
        Aspect::Executable => "executable bit",
        Aspect::Size => "size",
        Aspect::Contents => "contents",
        Aspect::Target => "target",
    }
}

fn entry_document(found: &Difference<'_>, files: &BTreeMap<Vec<u8>, FileDifference>) -> Value {
    let entry = |entry: &NarEntry| match entry {
        NarEntry::Directory { entries } => json!({ "type": "directory", "entries": entries }),
        NarEntry::Regular { executable, size, sha256 } => {
            json!({ "type": "regular", "executable": executable, "size": size, "sha256": base16::encode(sha256) })
        }
        NarEntry::Symlink { target } => json!({ "type": "symlink", "target": String::from_utf8_lossy(target) }),
    };
    let (first, second, aspects) = match &found.change {
        Change::OnlyInFirst(first) => (Some(*first), None, &[][..]),
        Change::OnlyInSecond(second) => (None, Some(*second), &[][..]),
        Change::InBoth { first, second, aspects } => (Some(*first), Some(*second), &aspects[..]),
    };
    json!({
        "path": String::from_utf8_lossy(found.path),
        "first": first.map(entry),
        "second": second.map(entry),
        "differs": aspects,
        "contents": files.get(found.path),
    })
}

/// Says that something was given up.
///
/// # Errors
/// When it cannot be printed.
pub fn dropped(candidate: &Candidate, policy: &Policy, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Json => print_json(&json!({ "dropped": document(candidate, policy) })),
        Format::Text => {
            let path = policy.store_dir().render_path(&candidate.record.info().path);
            print(&format!("dropped {path}: {}\n", candidate.describe()))
        }
    }
}

/// Says what was written where.
///
/// # Errors
/// When it cannot be printed.
pub fn fetched(
    candidate: &Candidate,
    policy: &Policy,
    output: &Path,
    format: Format,
) -> Result<ExitCode, CommandError> {
    if format == Format::Json {
        return print_json(&json!({ "fetched": document(candidate, policy), "output": output.to_string_lossy() }));
    }
    let path = policy.store_dir().render_path(&candidate.record.info().path);
    let doubtful = candidate.is_held() || candidate.decision.verdict() != Verdict::Admit;
    let warning = if doubtful { "; it has no quorum: look into it, do not run it" } else { "" };
    print(&format!("{path}: {} is in {}{warning}\n", candidate.describe(), output.display()))
}

/// Shows what is about to be signed.
///
/// # Errors
/// When it cannot be printed.
pub fn about_to_sign(candidate: &Candidate, policy: &Policy, signer: &str) -> Result<ExitCode, CommandError> {
    let mut text = format!("As {signer}, over the fingerprint\n    {}\n", candidate.evidence.fingerprint());
    summary(&mut text, candidate, policy);
    signatures(&mut text, candidate, policy);
    let hours = (now().as_unix() - candidate.since().as_unix()) / (60 * 60);
    let _infallible = writeln!(text, "    held for {}", count(usize::try_from(hours).unwrap_or(0), "hour"));
    text += "A signature says that you know these bytes to be what they are said to be: that you built them yourself, or looked.\n";
    print(&text)
}

/// Asks something.
///
/// # Errors
/// When it cannot be printed.
pub fn ask(question: &str) -> Result<ExitCode, CommandError> {
    print(question)
}

/// Says what came of a signature.
///
/// # Errors
/// When it cannot be printed.
pub fn approved(path: &str, held: Option<&str>, format: Format) -> Result<ExitCode, CommandError> {
    match (format, held) {
        (Format::Json, held) => print_json(&json!({ "path": path, "admitted": held.is_none(), "lacks": held })),
        (Format::Text, None) => print(&format!("signed; {} {path}\n", paint(Paint::Good, "admitted"))),
        (Format::Text, Some(held)) => print(&format!("signed; {held}\n")),
    }
}
