//! What a policy demands, in words, and what somebody who wrote it may not have meant.

mod minimal;
mod warnings;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use verifier::Timestamp;

pub use minimal::{Completeness, MinimalSets};
pub use warnings::{Warning, WarningCode};

use crate::moment::rfc3339;
use crate::phrase;
use crate::policy::{ContentAddressed, OnConflict, Policy, Rule};
use crate::requirement::Requirement;

/// A policy explained. In JSON, members are in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Version of this form: 1.
    pub version: u32,
    /// The policy's own version.
    pub policy_version: u64,
    /// The SHA-256 of the policy's text, in hexadecimal.
    pub digest: String,
    /// The store directory.
    pub store_dir: String,
    /// When nothing new is admitted any more, as RFC 3339.
    pub expires: Option<String>,
    /// How many signers there are.
    pub signers: usize,
    /// What every path takes.
    pub default: Demand,
    /// What a proven content address is worth.
    pub content_addressed: ContentAddressed,
    /// What becomes of a candidate in conflict.
    pub on_conflict: OnConflict,
    /// What certain names take on top.
    pub rules: Vec<RuleDemand>,
    /// What may not have been meant.
    pub warnings: Vec<Warning>,
}

/// A requirement in words, and who can meet it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// The requirement in words.
    pub words: String,
    /// The smallest sets of signers that meet it.
    pub sets: MinimalSets,
}

/// A rule in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleDemand {
    /// Its name.
    pub name: Arc<str>,
    /// The globs that say which names it is for.
    pub paths: Vec<String>,
    /// What it requires on top of the default; none for a rule about content addresses alone.
    pub demand: Option<Demand>,
    /// What it makes of content addresses; none where it leaves them alone.
    pub content_addressed: Option<ContentAddressed>,
}

impl Policy {
    /// Explains the policy as it is at the moment `now`.
    #[must_use]
    pub fn explain(&self, now: Timestamp) -> Explanation {
        let demand = |requirement: &Requirement| Demand {
            words: requirement.describe(&self.keyring),
            sets: minimal::sets(requirement, &self.keyring),
        };
        let rule = |rule: &Rule| RuleDemand {
            name: rule.name.clone(),
            paths: rule.paths().collect(),
            demand: rule.requirement.as_ref().map(demand),
            content_addressed: rule.content_addressed,
        };
        let default = demand(&self.default);
        let rules: Vec<RuleDemand> = self.rules.iter().map(rule).collect();
        Explanation {
            version: 1,
            policy_version: self.version,
            digest: self.digest.clone(),
            store_dir: self.store_dir.to_string(),
            expires: self.expires.map(rfc3339),
            signers: self.keyring.signers().count(),
            content_addressed: self.content_addressed,
            on_conflict: self.on_conflict,
            warnings: warnings::of(self, now),
            default,
            rules,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Policy version {} for {}, {}, {}.",
            self.policy_version,
            crate::escaped(&self.store_dir),
            phrase::count(self.signers, "signer"),
            self.expires.as_ref().map_or("without expiry".to_owned(), |moment| format!("until {moment}")),
        )?;
        writeln!(f, "\nEvery path needs {}.", self.default.words)?;
        write!(f, "{}", self.default.sets)?;
        let addressed = match self.content_addressed {
            ContentAddressed::Recompute => "stands for this requirement once its address was recomputed from its bytes",
            ContentAddressed::Require => "needs signatures like any other path",
        };
        writeln!(f, "A content-addressed path {addressed}.")?;
        let conflict = match self.on_conflict {
            OnConflict::Quorum => "whichever of them meets the requirement is admitted",
            OnConflict::Hold => "none of them is admitted until somebody looks",
        };
        writeln!(f, "Where different contents are claimed for one path, {conflict}.")?;
        for rule in &self.rules {
            writeln!(f, "\nRule \"{}\", for names like {}:", rule.name, phrase::list(&rule.paths, "or"))?;
            if let Some(demand) = &rule.demand {
                writeln!(f, "On top of that, they need {}.\n{}", demand.words, demand.sets.to_string().trim_end())?;
            }
            if rule.content_addressed == Some(ContentAddressed::Require) {
                writeln!(f, "They need signatures even if they are content-addressed.")?;
            }
        }
        if !self.warnings.is_empty() {
            writeln!(f)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {}: {}", warning.code, warning.message)?;
        }
        Ok(())
    }
}
