//! Who may change the policy: so many of the administrators fixed at start.

use std::fmt;

use thiserror::Error;
use verifier::{Administrators, Endorsement, SignerId};

use crate::escape::escaped;
use crate::phrase;
use crate::requirement::{Outcome, Requirement, evaluate};

/// Most signature files that are looked at. Each costs a verification by every administrator's key.
const MAX_SIGNATURES: usize = 64;
/// How much of an administrator's key is shown, in characters: its first 14 hold the key's id.
const SHOWN_KEY: usize = 16;

/// Why a policy is not signed as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// The threshold is 0, or higher than the number of administrators. Whoever started the program caused it.
    #[error(
        "the policy threshold is {threshold}, expected 1 to {administrators}: give each administrator's key with \
         --policy-signer, and a threshold that they can reach"
    )]
    Threshold {
        /// The threshold.
        threshold: usize,
        /// How many administrators there are.
        administrators: usize,
    },
    /// There are too many signature files. Whoever installed the policy caused it.
    #[error("there are {got} signature files, expected at most {MAX_SIGNATURES}: keep those of today's administrators")]
    TooManySignatures {
        /// How many there are.
        got: usize,
    },
    /// Too few administrators have signed the policy as it is. Whoever installed it caused it.
    #[error(
        "policy-unsigned: the policy lacks signatures: {lacking}{}; let the administrators sign the file as it is, each with \
         `minisign -S -m FILE -x FILE.NAME.minisig`, and put the signatures beside it",
        rejections(rejected)
    )]
    TooFew {
        /// The administrators whose signatures verify, by their public keys.
        signed: Vec<String>,
        /// How many it takes.
        need: usize,
        /// What is lacking, in words.
        lacking: String,
        /// The signatures that do not count.
        rejected: Vec<RejectedSignature>,
    },
}

/// A signature file that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedSignature {
    /// The file's name, escaped.
    pub file: String,
    /// Why it does not count.
    pub why: String,
}

impl fmt::Display for RejectedSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.why)
    }
}

fn rejections(rejected: &[RejectedSignature]) -> String {
    if rejected.is_empty() {
        return String::new();
    }
    format!("; not counted: {}", phrase::list(rejected.iter().map(RejectedSignature::to_string), "and"))
}

/// Administrators and how many of them it takes.
#[derive(Debug, Clone)]
pub struct Authority {
    administrators: Administrators,
    threshold: usize,
    requirement: Requirement,
}

impl Authority {
    /// Fixes who may change the policy.
    ///
    /// # Errors
    /// [`AuthorityError::Threshold`] when the threshold is 0 or higher than the number of administrators.
    pub fn new(administrators: Administrators, threshold: usize) -> Result<Self, AuthorityError> {
        let of: std::collections::BTreeSet<SignerId> = administrators.iter().map(|(id, _)| id).collect();
        if threshold == 0 || threshold > of.len() {
            return Err(AuthorityError::Threshold { threshold, administrators: of.len() });
        }
        let requirement = Requirement::AtLeast { count: threshold, of, group: Some("the administrators".into()) };
        Ok(Self { administrators, threshold, requirement })
    }

    /// Checks that enough administrators have signed a document, byte for byte. `signatures` are the names and texts of
    /// minisign's signature files; one that does not count takes nothing from the others.
    ///
    /// # Errors
    /// [`AuthorityError::TooFew`], which names who signed and what is wrong with each other file, or
    /// [`AuthorityError::TooManySignatures`].
    pub fn check(&self, document: &[u8], signatures: &[(String, String)]) -> Result<(), AuthorityError> {
        if signatures.len() > MAX_SIGNATURES {
            return Err(AuthorityError::TooManySignatures { got: signatures.len() });
        }
        let texts = signatures.iter().map(|(_, text)| text.as_str());
        let (signed, endorsements) = self.administrators.weigh(document, texts);
        let Outcome::Short(shortfall) = evaluate(&self.requirement, &signed) else {
            return Ok(());
        };
        let files = signatures.iter().map(|(file, _)| escaped(file));
        Err(AuthorityError::TooFew {
            need: self.threshold,
            lacking: shortfall.describe_with(&|id| self.shown(id), &|_| true),
            rejected: self.rejected(files.zip(endorsements)),
            signed: signed.iter().map(|id| self.key(*id)).collect(),
        })
    }

    /// Says why each signature that adds nothing does not.
    fn rejected(&self, judged: impl Iterator<Item = (String, Endorsement)>) -> Vec<RejectedSignature> {
        let mut seen = std::collections::BTreeSet::new();
        let mut rejected = Vec::new();
        for (file, endorsement) in judged {
            let why = match endorsement {
                Endorsement::By(id) if seen.insert(id) => continue,
                Endorsement::By(id) => format!("{} has signed already", self.shown(id)),
                Endorsement::Rejected(why) => escaped(&why),
            };
            rejected.push(RejectedSignature { file, why });
        }
        rejected
    }

    fn key(&self, id: SignerId) -> String {
        let found = self.administrators.iter().find(|(other, _)| *other == id);
        found.map(|(_, administrator)| administrator.to_string()).unwrap_or_default()
    }

    fn shown(&self, id: SignerId) -> String {
        let key: String = self.key(id).chars().take(SHOWN_KEY).collect();
        format!("{key}…")
    }
}
