//! What an audit found out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use policy::{Code, Report, Standing, bounded};
use serde::{Serialize, Serializer};
use verifier::{NarHash, StorePath};

use super::SignatureReport;

/// What an audit found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// How each path stands.
    pub report: Report,
    /// What each path is, by its place in the report; none of one that could not be read.
    pub facts: Vec<Option<Facts>>,
    /// The places of those whose audit was asked for; none where all paths of a store were.
    pub roots: Vec<usize>,
    /// What else whoever reads this should know, each in a sentence.
    pub notes: Vec<String>,
    /// What kinds of faults were found.
    pub faults: Faults,
    /// Whether there is more than these paths that could not be looked at; the notes say what.
    pub incomplete: bool,
}

/// What a store says of a path, and what its signatures are worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The hash of its NAR.
    #[serde(serialize_with = "as_text")]
    pub nar_hash: NarHash,
    /// The size of its NAR in bytes.
    pub nar_size: u64,
    /// Its signatures.
    pub signatures: Vec<SignatureReport>,
}

/// What kinds of faults there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Faults {
    /// Contents are damaged, missing, or not what their address says.
    pub corrupted: bool,
    /// Too few signers vouch for something, or something it refers to is missing.
    pub untrusted: bool,
    /// Something could not be checked.
    pub unchecked: bool,
}

impl Audit {
    /// Puts together what was found; `faults` are those of the paths by themselves.
    pub(super) fn new(
        report: Report,
        mut facts: HashMap<Arc<StorePath>, Facts>,
        roots: &BTreeSet<StorePath>,
        notes: Notes,
        mut faults: Faults,
    ) -> Self {
        let lacks_reference = |code: &Code| matches!(code, Code::MissingReference | Code::ReferenceCycle);
        faults.untrusted |= report.causes.iter().any(|cause| cause.codes.iter().any(lacks_reference));
        let facts = report.paths.iter().map(|path| facts.remove(&path.path)).collect();
        let roots = roots.iter().filter_map(|root| report.place_of(root)).collect();
        faults.unchecked |= notes.incomplete;
        let Notes { texts, incomplete } = notes;
        Self { facts, roots, notes: texts.into_iter().collect(), faults, report, incomplete }
    }

    /// Returns how all of it stands: as its worst path does, and no better than unchecked where there is more than the paths that were
    /// looked at.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.report.standing().max(if self.incomplete { Standing::Unchecked } else { Standing::Stands })
    }
}

/// Most notes of one audit: whoever is told so much looks into it.
const MOST_NOTES: usize = 1_000;

/// Longest note, in characters.
const MAX_NOTE: usize = 2_000;

/// What whoever reads an audit should know besides, each in a sentence and once.
#[derive(Debug, Default)]
pub(super) struct Notes {
    texts: BTreeSet<String>,
    incomplete: bool,
}

impl Notes {
    pub(super) fn add(&mut self, note: &str) {
        if self.texts.len() < MOST_NOTES {
            self.texts.insert(bounded(note, MAX_NOTE));
        }
    }

    /// Adds a note of something that could not be looked at, and that is not one of the paths.
    pub(super) fn add_unchecked(&mut self, note: &str) {
        self.incomplete = true;
        self.add(note);
    }
}

impl Faults {
    /// Returns the bits of Nix's exit code: 1 for corrupted, 2 for untrusted, 4 for unchecked.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.corrupted) | u8::from(self.untrusted) << 1 | u8::from(self.unchecked) << 2
    }
}

impl std::ops::BitOrAssign for Faults {
    fn bitor_assign(&mut self, other: Self) {
        self.corrupted |= other.corrupted;
        self.untrusted |= other.untrusted;
        self.unchecked |= other.unchecked;
    }
}

fn as_text<S: Serializer>(hash: &NarHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
}
