//! What the log says: what happened to which path, and by whose word.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use verifier::{FingerprintDigest, PathInfo, StoreDir};

use crate::store::{Record, SignatureRecord};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "event")]
pub enum Event {
    /// A path was found to have its quorum, and is about to become visible. If it never does, a crash came between, or another
    /// gate admitted other contents of it just then.
    Admitted {
        /// The fingerprint and its evidence.
        #[serde(flatten)]
        judged: Judged,
    },
    /// A fingerprint that falls short is about to be held until its requirement is met.
    Held {
        /// The fingerprint and its evidence.
        #[serde(flatten)]
        judged: Judged,
        /// What it lacks, in words.
        lacks: String,
    },
    /// Signatures were added to a path that is there, or held.
    Signed {
        /// The fingerprint and its evidence, with these signatures.
        #[serde(flatten)]
        judged: Judged,
    },
    /// Another fingerprint was offered for a path than one that is there.
    Conflict {
        /// The full path.
        path: String,
        /// Whether that one is admitted; otherwise it is held.
        admitted: bool,
        /// Its NAR hash, size and number of references.
        there: String,
        /// Those that were offered.
        offered: String,
        /// By whom.
        by: String,
    },
    /// Something that was held is about to be given up.
    Dropped {
        /// Which fingerprint.
        #[serde(flatten)]
        named: Named,
        /// Why.
        reason: String,
    },
    /// A path that was admitted is about to be deleted.
    Deleted {
        /// Which fingerprint.
        #[serde(flatten)]
        named: Named,
    },
    /// Uploads were refused since this gate wrote last.
    Refused {
        /// How many, by the code of what stood in the way first.
        counts: BTreeMap<String, u64>,
    },
    /// What follows was decided under another policy than what came before.
    Policy {
        /// Its version.
        version: u64,
    },
}

/// What was decided upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Judged {
    /// Which fingerprint, and who brought what was lacking.
    #[serde(flatten)]
    pub named: Named,
    /// The NAR's size in bytes.
    pub nar_size: u64,
    /// The signers that counted.
    pub signers: Vec<String>,
    /// The signatures that are kept of it, with their histories.
    pub signatures: Vec<SignatureRecord>,
}

/// What something was done to, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Named {
    /// The full path.
    pub path: String,
    /// SHA-256 of the fingerprint, in hexadecimal: what its evidence is called.
    pub fingerprint: String,
    /// The NAR's SHA-256, `sha256:` and Nix's base 32.
    pub nar_hash: String,
    /// By whom.
    pub by: String,
}

impl Named {
    pub(in crate::gate) fn of(
        info: &PathInfo,
        fingerprint: &FingerprintDigest,
        store_dir: &StoreDir,
        by: &str,
    ) -> Self {
        Self {
            path: store_dir.render_path(&info.path),
            fingerprint: fingerprint.to_string(),
            nar_hash: info.nar_hash.to_string(),
            by: by.to_owned(),
        }
    }
}

impl Event {
    pub(super) fn signatures(&self) -> usize {
        match self {
            Self::Admitted { judged } | Self::Held { judged, .. } | Self::Signed { judged } => judged.signatures.len(),
            _ => 0,
        }
    }

    /// Returns the full path that it is about; none if it is about no one path.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Admitted { judged } | Self::Held { judged, .. } | Self::Signed { judged } => Some(&judged.named.path),
            Self::Dropped { named, .. } | Self::Deleted { named } => Some(&named.path),
            Self::Conflict { path, .. } => Some(path),
            Self::Refused { .. } | Self::Policy { .. } => None,
        }
    }
}

impl Judged {
    pub(in crate::gate) fn of(record: &Record, signers: &[Arc<str>], store_dir: &StoreDir, by: &str) -> Self {
        let info = record.info();
        Self {
            named: Named::of(info, &record.fingerprint(store_dir).digest(), store_dir, by),
            nar_size: info.nar_size,
            signers: signers.iter().map(ToString::to_string).collect(),
            signatures: record.signatures().to_vec(),
        }
    }
}
