//! What an audit found out.

use std::collections::{BTreeMap, BTreeSet};

use policy::{Code, Report, escaped};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use verifier::StorePath;

use super::SignatureReport;

/// What an audit found out. In JSON it is the [`Report`], with what else there is beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// How each path stands.
    #[serde(flatten)]
    pub report: Report,
    /// Each path's signatures, by path. A path that could not be read has none.
    #[serde(serialize_with = "by_base_name")]
    pub signatures: BTreeMap<StorePath, Vec<SignatureReport>>,
    /// What else whoever reads this should know, each in a sentence.
    pub notes: Vec<String>,
    /// What kinds of faults were found.
    pub faults: Faults,
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
        signatures: BTreeMap<StorePath, Vec<SignatureReport>>,
        notes: BTreeSet<String>,
        mut faults: Faults,
    ) -> Self {
        let lacks_reference = |code: &Code| matches!(code, Code::MissingReference | Code::ReferenceCycle);
        faults.untrusted |= report.causes.iter().any(|cause| cause.codes.iter().any(lacks_reference));
        Self { report, signatures, notes: notes.iter().map(|note| escaped(note)).collect(), faults }
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

fn by_base_name<S: Serializer>(
    signatures: &BTreeMap<StorePath, Vec<SignatureReport>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(signatures.len()))?;
    for (path, signatures) in signatures {
        map.serialize_entry(&path.to_basename(), signatures)?;
    }
    map.end()
}
