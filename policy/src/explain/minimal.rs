//! The smallest sets of signers that meet a requirement.
//!
//! There can be more of them than atoms, so everything here is bounded: what is listed, what is kept on the way, and
//! the work. A listed set always meets the requirement, and none of its proper subsets does; only the list may be
//! incomplete.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use verifier::{Keyring, SignerId};

use crate::phrase;
use crate::requirement::{Requirement, evaluate, has_key_in_use};

/// Most sets that are listed: more than anybody reads.
const LISTED: usize = 64;
/// Most sets that are kept for one part of a requirement on the way.
const KEPT: usize = 1_024;
/// Most work for one requirement, in members of sets written and terms looked at: a fraction of a second.
const WORK: usize = 4_000_000;

type Set = BTreeSet<SignerId>;

/// Whether a list holds everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Completeness {
    /// There are no others.
    All,
    /// There may be others.
    Some,
}

/// The smallest sets of signers that meet a requirement: each of them does, and none would without any one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MinimalSets {
    /// The sets, those of fewer signers first; names in the policy's order. At most 64.
    pub sets: Vec<Vec<Arc<str>>>,
    /// Whether these are all.
    pub completeness: Completeness,
}

impl fmt::Display for MinimalSets {
    /// Writes a line for each of the first sets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        if self.sets.is_empty() {
            return writeln!(f, "The sets of signers that are enough are too many and too large to list.");
        }
        writeln!(f, "It is enough that these sign:")?;
        for set in self.sets.iter().take(SHOWN) {
            writeln!(f, "  - {}", phrase::list(set, "and"))?;
        }
        let hidden = self.sets.len().saturating_sub(SHOWN);
        match (hidden, self.completeness) {
            (0, Completeness::All) => Ok(()),
            (0, Completeness::Some) => writeln!(f, "  - or others, too many to list"),
            (_, Completeness::All) => writeln!(f, "  - or {hidden} other sets"),
            (_, Completeness::Some) => writeln!(f, "  - or more than {hidden} other sets"),
        }
    }
}

/// Lists the smallest sets that meet a requirement, of signers with a key that is not revoked.
pub(super) fn sets(requirement: &Requirement, keyring: &Keyring) -> MinimalSets {
    let live = keyring.signers().filter(|(_, signer)| has_key_in_use(signer)).map(|(id, _)| id).collect();
    let mut search = Search { live, work: WORK, completeness: Completeness::All };
    let candidates = search.candidates(requirement);
    let cost = terms(requirement);
    let mut found = BTreeSet::new();
    for candidate in candidates {
        if let Some(set) = search.minimised(candidate, requirement, cost) {
            found.insert((set.len(), set));
        }
    }
    if found.len() > LISTED {
        search.completeness = Completeness::Some;
    }
    let named = |set: Set| set.iter().map(|id| keyring.signer(*id).name.clone()).collect();
    let sets = found.into_iter().take(LISTED).map(|(_, set)| named(set)).collect();
    MinimalSets { sets, completeness: search.completeness }
}

/// How much it takes to evaluate a requirement once.
fn terms(requirement: &Requirement) -> usize {
    match requirement {
        Requirement::Signer(_) => 1,
        Requirement::AtLeast { of, .. } => 1 + of.len(),
        Requirement::All(parts) | Requirement::Any(parts) => 1 + parts.iter().map(terms).sum::<usize>(),
    }
}

fn joined(mut left: Set, mut right: Set) -> Set {
    if left.len() < right.len() {
        std::mem::swap(&mut left, &mut right);
    }
    left.extend(right);
    left
}

struct Search {
    live: Set,
    work: usize,
    completeness: Completeness,
}

impl Search {
    /// Returns sets that meet a requirement, all the smallest among them unless the list is cut short.
    fn candidates(&mut self, requirement: &Requirement) -> BTreeSet<Set> {
        match requirement {
            Requirement::Signer(id) if self.live.contains(id) => [[*id].into()].into(),
            Requirement::Signer(_) => BTreeSet::new(),
            Requirement::AtLeast { count, of, .. } => self.combinations(*count, of),
            Requirement::Any(parts) => {
                let mut together = BTreeSet::new();
                for part in parts {
                    let sets = self.candidates(part);
                    self.keep(&mut together, sets.into_iter());
                }
                together
            }
            Requirement::All(parts) => {
                let mut together = BTreeSet::from([Set::new()]);
                for part in parts {
                    let sets = self.candidates(part);
                    if together.len() == 1 && sets.len() == 1 {
                        // One set alone grows in place, however many parts add to it.
                        let grown = together.pop_first().into_iter().chain(sets).reduce(joined);
                        together.extend(grown);
                        continue;
                    }
                    let mut product = BTreeSet::new();
                    let unions = together.iter().flat_map(|left| sets.iter().map(move |right| left | right));
                    self.keep(&mut product, unions);
                    together = product;
                }
                together
            }
        }
    }

    /// Returns the ways to choose `count` live signers of some, in lexicographic order.
    fn combinations(&mut self, count: usize, of: &Set) -> BTreeSet<Set> {
        let members: Vec<SignerId> = of.intersection(&self.live).copied().collect();
        let mut kept = BTreeSet::new();
        if count == 0 || count > members.len() {
            return kept;
        }
        let mut chosen: Vec<usize> = (0..count).collect();
        let next = std::iter::from_fn(|| {
            let set = (!chosen.is_empty()).then(|| chosen.iter().map(|place| members[*place]).collect())?;
            // Advance the last place that can be advanced, and set those behind it right after it.
            match (0..count).rev().find(|place| chosen[*place] < members.len() - count + place) {
                Some(place) => {
                    chosen[place] += 1;
                    for behind in place + 1..count {
                        chosen[behind] = chosen[behind - 1] + 1;
                    }
                }
                None => chosen.clear(),
            }
            Some(set)
        });
        self.keep(&mut kept, next);
        kept
    }

    /// Adds sets to others as far as the bounds allow: one in any case, so that the search always finds something.
    fn keep(&mut self, kept: &mut BTreeSet<Set>, sets: impl Iterator<Item = Set>) {
        for set in sets {
            let full = kept.len() >= KEPT && !kept.contains(&set);
            if full || (!kept.is_empty() && self.work == 0) {
                self.completeness = Completeness::Some;
                return;
            }
            self.work = self.work.saturating_sub(set.len());
            kept.insert(set);
        }
    }

    /// Takes away members for as long as the rest meets the requirement; none when that is too much work.
    fn minimised(&mut self, mut set: Set, requirement: &Requirement, cost: usize) -> Option<Set> {
        for id in set.clone() {
            if self.work < cost {
                self.completeness = Completeness::Some;
                return None;
            }
            self.work -= cost;
            set.remove(&id);
            if !evaluate(requirement, &set).is_met() {
                set.insert(id);
            }
        }
        Some(set)
    }
}
