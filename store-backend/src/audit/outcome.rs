//! What an audit found out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use policy::{Code, Report, escaped};
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
        notes: BTreeSet<String>,
        mut faults: Faults,
    ) -> Self {
        let lacks_reference = |code: &Code| matches!(code, Code::MissingReference | Code::ReferenceCycle);
        faults.untrusted |= report.causes.iter().any(|cause| cause.codes.iter().any(lacks_reference));
        let facts = report.paths.iter().map(|path| facts.remove(&path.path)).collect();
        let roots = roots.iter().filter_map(|root| report.place_of(root)).collect();
        Self { facts, roots, notes: notes.iter().map(|note| escaped(note)).collect(), faults, report }
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
