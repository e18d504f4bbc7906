//! The policy: who may sign, and what it takes. Only [`Policy::parse`] and [`Policy::of_keys`] make one, so a policy that
//! exists can be met.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use verifier::{Keyring, SignerId, StoreDir, Timestamp};
use wildmatch::WildMatch;

use crate::parse::{self, PolicyErrors};
use crate::requirement::Requirement;

/// What a strong content address that was proven is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentAddressed {
    /// It stands for the default requirement; matching rules still bind.
    Recompute,
    /// Nothing: signatures are required of every path.
    Require,
}

/// What becomes of a candidate that meets its requirement while other contents are claimed for its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// It is admitted: the quorum decides.
    Quorum,
    /// It is held until somebody looks.
    Hold,
}

/// A policy that can be met, read from a text.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) version: u64,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) store_dir: StoreDir,
    pub(crate) keyring: Keyring,
    pub(crate) digest: String,
    pub(crate) groups: BTreeMap<Arc<str>, BTreeSet<SignerId>>,
    pub(crate) default: Requirement,
    pub(crate) content_addressed: ContentAddressed,
    pub(crate) on_conflict: OnConflict,
    pub(crate) rules: Vec<Rule>,
}

impl Policy {
    /// Reads a policy. `origin` is the name under which errors show the text, such as its file's.
    ///
    /// # Errors
    /// [`PolicyErrors`], which hold every mistake that was found, each with its place.
    pub fn parse(text: &str, origin: &str) -> Result<Self, PolicyErrors> {
        parse::policy(text, origin)
    }

    /// Returns the version, at least 1; it must not go down.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the moment from which on nothing new is admitted; none if it never comes.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Returns the store directory that the policy is for.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Returns the signers with their keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Returns the SHA-256 of the text, as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Lists the groups with their signers, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &BTreeSet<SignerId>)> {
        self.groups.iter().map(|(name, signers)| (&**name, signers))
    }

    /// Returns what every path takes.
    #[must_use]
    pub fn default_requirement(&self) -> &Requirement {
        &self.default
    }

    /// Returns what a proven content address is worth where no rule says otherwise.
    #[must_use]
    pub fn content_addressed(&self) -> ContentAddressed {
        self.content_addressed
    }

    /// Returns what becomes of a candidate in conflict.
    #[must_use]
    pub fn on_conflict(&self) -> OnConflict {
        self.on_conflict
    }

    /// Lists the rules in their order, which decides nothing: every rule that matches applies.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// What certain names take on top of the default. A rule can only tighten, because whoever builds chooses the names.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(crate) name: Arc<str>,
    pub(crate) paths: Vec<WildMatch>,
    pub(crate) requirement: Option<Requirement>,
    pub(crate) content_addressed: Option<ContentAddressed>,
}

impl Rule {
    /// Returns the rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lists the globs, of which one must match the name part of a store path: `*` is any text, `?` any one character.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.paths.iter().map(WildMatch::pattern)
    }

    /// Returns what it requires on top of the default; none for a rule about content addresses alone.
    #[must_use]
    pub fn requirement(&self) -> Option<&Requirement> {
        self.requirement.as_ref()
    }

    /// Returns what it makes of content addresses; none where it leaves them alone.
    #[must_use]
    pub fn content_addressed(&self) -> Option<ContentAddressed> {
        self.content_addressed
    }

    /// Says whether the rule applies to paths of this name (what follows the hash part and its `-`).
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.paths.iter().any(|glob| glob.matches(name))
    }
}
