//! What somebody who wrote a policy may not have meant.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};
use verifier::{SignerId, Timestamp};

use crate::decide::can_sign;
use crate::escape;
use crate::moment::rfc3339;
use crate::phrase;
use crate::policy::Policy;
use crate::requirement::{Requirement, evaluate, has_key_in_use};

/// Most warnings on one policy; whoever mends these asks again.
const MOST: usize = 200;
/// Longest message of a warning, in characters.
const MAX_MESSAGE: usize = 800;

/// What kind of warning. The texts are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WarningCode {
    /// The policy has expired.
    PolicyExpired,
    /// The policy never expires.
    NoExpiry,
    /// With the keys whose time it is now, nothing new can meet a requirement.
    Unreachable,
    /// One signer's vote is enough.
    OneSignerAlone,
    /// Two sets of signers that share nobody are each enough, so both of two different contents could be.
    DisjointQuorums,
    /// A part of a requirement can never be met.
    DeadPart,
    /// A signer has no key that is not revoked.
    SignerRevoked,
    /// The time of a key is over.
    KeyExpired,
    /// No requirement speaks of a signer.
    SignerUnused,
    /// No requirement speaks of a group.
    GroupUnused,
}

impl WarningCode {
    /// Returns the stable text, in kebab-case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyExpired => "policy-expired",
            Self::NoExpiry => "no-expiry",
            Self::Unreachable => "unreachable",
            Self::OneSignerAlone => "one-signer-alone",
            Self::DisjointQuorums => "disjoint-quorums",
            Self::DeadPart => "dead-part",
            Self::SignerRevoked => "signer-revoked",
            Self::KeyExpired => "key-expired",
            Self::SignerUnused => "signer-unused",
            Self::GroupUnused => "group-unused",
        }
    }
}

impl fmt::Display for WarningCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for WarningCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something in a policy that may not have been meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What kind of thing.
    pub code: WarningCode,
    /// The particulars and what to do, on one line.
    pub message: String,
}

/// Lists the warnings on a policy at the moment `now`: first about the whole policy, then about requirements, then
/// about single signers and groups.
pub(super) fn of(policy: &Policy, now: Timestamp) -> Vec<Warning> {
    let mut found = Found(Vec::new());
    expiry(policy, now, &mut found);
    unmet(policy, "the default requirement", &policy.default, now, &mut found);
    for rule in &policy.rules {
        if let Some(requirement) = &rule.requirement {
            let which = format!("the requirement of rule \"{}\"", rule.name);
            unmet(policy, &which, requirement, now, &mut found);
        }
    }
    alone(policy, &mut found);
    disjoint(policy, &mut found);
    signers(policy, now, &mut found);
    unused(policy, &mut found);
    found.0
}

struct Found(Vec<Warning>);

impl Found {
    fn warn(&mut self, code: WarningCode, message: impl AsRef<str>) {
        if self.0.len() < MOST {
            self.0.push(Warning { code, message: escape::bounded(message.as_ref(), MAX_MESSAGE) });
        }
    }
}

fn expiry(policy: &Policy, now: Timestamp, found: &mut Found) {
    match policy.expires {
        Some(moment) if now >= moment => found.warn(
            WarningCode::PolicyExpired,
            format!("it expired at {}, so nothing new is admitted; install a newer one", rfc3339(moment)),
        ),
        Some(_) => {}
        None => found.warn(
            WarningCode::NoExpiry,
            "without `expires`, whoever keeps newer policies from this store keeps it on this one for ever; add a date",
        ),
    }
}

/// Warns of what new signatures cannot meet now, and of parts that none ever can.
fn unmet(policy: &Policy, which: &str, requirement: &Requirement, now: Timestamp, found: &mut Found) {
    let able = ids(policy, |id| can_sign(policy.keyring.signer(id), now));
    if !evaluate(requirement, &able).is_met() {
        let left = requirement.signers().into_iter().filter(|id| able.contains(id));
        let left = phrase::list(left.map(|id| policy.keyring.signer(id).name.clone()), "and");
        let left = if left.is_empty() { "nobody".to_owned() } else { format!("only {left}") };
        let message =
            format!("new signatures cannot meet {which}: of its signers, {left} can sign now; add keys to them");
        found.warn(WarningCode::Unreachable, message);
    }
    let live = ids(policy, |id| has_key_in_use(policy.keyring.signer(id)));
    let mut open = vec![requirement];
    while let Some(part) = open.pop() {
        if !evaluate(part, &live).is_met() {
            let words = part.describe(&policy.keyring);
            let message = format!("a part of {which} can never be met, as keys are revoked; take it away: {words}");
            found.warn(WarningCode::DeadPart, message);
        } else if let Requirement::All(parts) | Requirement::Any(parts) = part {
            open.extend(parts.iter().rev());
        }
    }
}

/// Warns of every signer whose vote alone meets the default requirement.
fn alone(policy: &Policy, found: &mut Found) {
    let alone = enough_alone(&policy.default);
    let live = alone.iter().map(|id| policy.keyring.signer(*id)).filter(|signer| has_key_in_use(signer));
    let names: Vec<_> = live.map(|signer| &signer.name).collect();
    if !names.is_empty() {
        let each = if names.len() == 1 { " alone" } else { ", each alone," };
        let names = phrase::list(names, "and");
        let message = format!("{names}{each} can have any contents admitted; require a second signer if you can");
        found.warn(WarningCode::OneSignerAlone, message);
    }
}

/// Returns the signers each of whom meets a requirement alone: what trying everybody would show, in one pass.
fn enough_alone(requirement: &Requirement) -> BTreeSet<SignerId> {
    match requirement {
        Requirement::Signer(id) => [*id].into(),
        Requirement::AtLeast { count: 1, of, .. } => of.clone(),
        Requirement::AtLeast { .. } => BTreeSet::new(),
        Requirement::All(parts) => {
            let common = parts.iter().map(enough_alone).reduce(|left, right| &left & &right);
            common.unwrap_or_default()
        }
        Requirement::Any(parts) => parts.iter().flat_map(enough_alone).collect(),
    }
}

/// Warns of counts that leave room for two sets of signers with nobody in common.
fn disjoint(policy: &Policy, found: &mut Found) {
    for (count, of, group) in counts(policy) {
        if count > 1 && 2 * count <= of.len() {
            let what = group.map_or("the listed signers".to_owned(), |group| format!("group {group}"));
            let message = format!(
                "{what}: of its {} signers, two sets of {count} that share nobody could each have other contents of \
                 one path admitted; at-least = {} rules that out",
                of.len(),
                of.len() / 2 + 1,
            );
            found.warn(WarningCode::DisjointQuorums, message);
        }
    }
}

/// Lists the counts of the default requirement, each once.
fn counts(policy: &Policy) -> Vec<(usize, &BTreeSet<SignerId>, Option<&str>)> {
    let mut counts = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![&policy.default];
    while let Some(part) = open.pop() {
        match part {
            Requirement::Signer(_) => {}
            Requirement::AtLeast { count, of, group } => {
                let found = (*count, of, group.as_deref());
                if seen.insert(found) {
                    counts.push(found);
                }
            }
            Requirement::All(parts) | Requirement::Any(parts) => open.extend(parts.iter().rev()),
        }
    }
    counts
}

fn signers(policy: &Policy, now: Timestamp, found: &mut Found) {
    for (_, signer) in policy.keyring.signers() {
        if !has_key_in_use(signer) {
            let message = format!("all keys of {} are revoked; add a new one, or take the signer away", signer.name);
            found.warn(WarningCode::SignerRevoked, message);
            continue;
        }
        for key in signer.keys.iter().filter(|key| key.revoked.is_none()) {
            if let Some(over) = key.window.not_after.filter(|moment| now >= *moment) {
                let (key, over) = (key.public.name(), rfc3339(over));
                let message = format!(
                    "the time of {key} of {} was over at {over}; what was seen before still counts",
                    signer.name
                );
                found.warn(WarningCode::KeyExpired, message);
            }
        }
    }
}

fn unused(policy: &Policy, found: &mut Found) {
    let requirements = || policy.rules.iter().filter_map(|rule| rule.requirement.as_ref()).chain([&policy.default]);
    let used: BTreeSet<SignerId> = requirements().flat_map(Requirement::signers).collect();
    for (id, signer) in policy.keyring.signers() {
        if !used.contains(&id) {
            let message = format!("no requirement speaks of {}, so its signatures change nothing", signer.name);
            found.warn(WarningCode::SignerUnused, message);
        }
    }
    let mut named = BTreeSet::new();
    let mut open: Vec<&Requirement> = requirements().collect();
    while let Some(part) = open.pop() {
        match part {
            Requirement::Signer(_) | Requirement::AtLeast { group: None, .. } => {}
            Requirement::AtLeast { group: Some(group), .. } => {
                named.insert(&**group);
            }
            Requirement::All(parts) | Requirement::Any(parts) => open.extend(parts),
        }
    }
    for (group, _) in policy.groups().filter(|(group, _)| !named.contains(group)) {
        found.warn(WarningCode::GroupUnused, format!("no requirement speaks of group {group}; use it or take it away"));
    }
}

fn ids(policy: &Policy, keep: impl Fn(SignerId) -> bool) -> BTreeSet<SignerId> {
    policy.keyring.signers().map(|(id, _)| id).filter(|id| keep(*id)).collect()
}
