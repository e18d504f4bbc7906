//! Requirements: threshold expressions over signers, the one rule that says whether they are met, and what they lack.

use std::collections::BTreeSet;
use std::sync::Arc;

use verifier::{Keyring, Signer, SignerId};

use crate::escape;
use crate::phrase::{self, Nesting};

/// Longest description of a shortfall, in characters: one line that a client prints whole.
const MAX_DESCRIPTION: usize = 600;

/// A threshold expression over signers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// This signer.
    Signer(SignerId),
    /// So many of these signers.
    AtLeast {
        /// How many, counting each signer once.
        count: usize,
        /// Of whom.
        of: BTreeSet<SignerId>,
        /// The group that the policy names for them; none where it lists them.
        group: Option<Arc<str>>,
    },
    /// Every one of these.
    All(Vec<Requirement>),
    /// One of these or more.
    Any(Vec<Requirement>),
}

impl Requirement {
    /// Returns the signers that it speaks of.
    #[must_use]
    pub fn signers(&self) -> BTreeSet<SignerId> {
        let mut found = BTreeSet::new();
        let mut open = vec![self];
        while let Some(requirement) = open.pop() {
            match requirement {
                Self::Signer(id) => {
                    found.insert(*id);
                }
                Self::AtLeast { of, .. } => found.extend(of),
                Self::All(parts) | Self::Any(parts) => open.extend(parts),
            }
        }
        found
    }

    /// Returns the requirement in words, such as `nixos or at least 2 of builders (ci-eu, ci-us and ci-ap)`.
    #[must_use]
    pub fn describe(&self, keyring: &Keyring) -> String {
        escape::bounded(&self.words(keyring, Nesting::Outer), MAX_DESCRIPTION)
    }

    fn words(&self, keyring: &Keyring, nesting: Nesting) -> String {
        let inner = |parts: &[Self]| parts.iter().map(|part| part.words(keyring, Nesting::Inner)).collect();
        match self {
            Self::Signer(id) => keyring.signer(*id).name.to_string(),
            Self::AtLeast { count, of, group } => {
                let names = phrase::list(of.iter().map(|id| &keyring.signer(*id).name), "and");
                match group {
                    Some(group) => format!("at least {count} of {group} ({names})"),
                    None => format!("at least {count} of {names}"),
                }
            }
            Self::All(parts) => phrase::join(inner(parts), "and", nesting),
            Self::Any(parts) => phrase::join(inner(parts), "or", nesting),
        }
    }
}

/// Whether signers meet a requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They do.
    Met,
    /// They do not; this is lacking.
    Short(Shortfall),
}

impl Outcome {
    /// Says whether the requirement is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        matches!(self, Self::Met)
    }
}

/// What a requirement still lacks, part by part. Parts that are met are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// This signer has not signed.
    Signer(SignerId),
    /// Too few of these signers have signed.
    Count {
        /// Those who have.
        have: BTreeSet<SignerId>,
        /// How many it takes.
        need: usize,
        /// Those who have not.
        others: BTreeSet<SignerId>,
        /// The group that the policy names for all of them; none where it lists them.
        group: Option<Arc<str>>,
    },
    /// Each of these parts is still needed.
    All(Vec<Shortfall>),
    /// One of these is enough; none is met.
    Any(Vec<Shortfall>),
}

/// Says whether `signers` meet a requirement, and if not, what is lacking. Every threshold in the program is decided
/// here, the administrators' too; it counts signers, and each of them once.
///
/// Unlike logic, which calls an empty conjunction true, a requirement that demands nothing (an empty `All`, a count
/// of 0) is never met: otherwise a policy that lost its parts would admit everything.
#[must_use]
pub fn evaluate(requirement: &Requirement, signers: &BTreeSet<SignerId>) -> Outcome {
    shortfall(requirement, signers).map_or(Outcome::Met, Outcome::Short)
}

fn shortfall(requirement: &Requirement, signers: &BTreeSet<SignerId>) -> Option<Shortfall> {
    match requirement {
        Requirement::Signer(id) => (!signers.contains(id)).then_some(Shortfall::Signer(*id)),
        Requirement::AtLeast { count, of, group } => {
            let have = of.iter().filter(|id| signers.contains(id)).count();
            (*count == 0 || have < *count).then(|| {
                let (have, others) = of.iter().partition(|id| signers.contains(id));
                Shortfall::Count { have, need: *count, others, group: group.clone() }
            })
        }
        Requirement::All(parts) => {
            let lacking: Vec<_> = parts.iter().filter_map(|part| shortfall(part, signers)).collect();
            (parts.is_empty() || !lacking.is_empty()).then_some(Shortfall::All(lacking))
        }
        Requirement::Any(parts) => {
            let lacking: Option<Vec<_>> = parts.iter().map(|part| shortfall(part, signers)).collect();
            lacking.map(Shortfall::Any)
        }
    }
}

impl Shortfall {
    /// Returns signers whose votes would meet the requirement: few, though where parts share signers not always the
    /// fewest. None when nobody's votes can.
    #[must_use]
    pub fn completion(&self) -> Option<BTreeSet<SignerId>> {
        match self {
            Self::Signer(id) => Some([*id].into()),
            Self::Count { have, need, others, .. } => {
                let lacking = need.checked_sub(have.len()).filter(|lacking| (1..=others.len()).contains(lacking))?;
                Some(others.iter().take(lacking).copied().collect())
            }
            Self::All(parts) => {
                let mut together = BTreeSet::new();
                for part in parts {
                    together.extend(part.completion()?);
                }
                (!parts.is_empty()).then_some(together)
            }
            Self::Any(parts) => parts.iter().filter_map(Self::completion).min_by_key(BTreeSet::len),
        }
    }

    /// Returns the signers whose votes would bring the requirement nearer to being met.
    #[must_use]
    pub fn lacking(&self) -> BTreeSet<SignerId> {
        match self {
            Self::Signer(id) => [*id].into(),
            Self::Count { others, .. } => others.clone(),
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::lacking).collect(),
        }
    }

    /// Says whether this signer's vote alone would meet the requirement.
    #[must_use]
    pub fn is_met_by(&self, signer: SignerId) -> bool {
        match self {
            Self::Signer(id) => *id == signer,
            Self::Count { have, need, others, .. } => have.len() + 1 == *need && others.contains(&signer),
            Self::All(parts) => !parts.is_empty() && parts.iter().all(|part| part.is_met_by(signer)),
            Self::Any(parts) => parts.iter().any(|part| part.is_met_by(signer)),
        }
    }

    /// Returns one line such as `1 of 2 of builders (ci-eu signed; ci-us or ci-ap could still sign)`. Signers whose
    /// keys are all revoked are not named among those who could.
    ///
    /// # Panics
    /// When the signers are not of this keyring.
    #[must_use]
    pub fn describe(&self, keyring: &Keyring) -> String {
        self.describe_with(&|id| keyring.signer(id).name.to_string(), &|id| has_key_in_use(keyring.signer(id)))
    }

    /// Describes with names of the caller's choice, and only those who `can_sign` among those who could.
    pub(crate) fn describe_with(
        &self,
        name: &dyn Fn(SignerId) -> String,
        can_sign: &dyn Fn(SignerId) -> bool,
    ) -> String {
        escape::bounded(&self.words(name, can_sign, Nesting::Outer), MAX_DESCRIPTION)
    }

    fn words(
        &self,
        name: &dyn Fn(SignerId) -> String,
        can_sign: &dyn Fn(SignerId) -> bool,
        nesting: Nesting,
    ) -> String {
        let inner = |parts: &[Self]| parts.iter().map(|part| part.words(name, can_sign, Nesting::Inner)).collect();
        match self {
            Self::Signer(id) if can_sign(*id) => format!("{} (has not signed)", name(*id)),
            Self::Signer(id) => format!("{} (has not signed, and has no key in use)", name(*id)),
            Self::Count { have, need, others, group } => {
                let of = group.as_deref().unwrap_or("the listed signers");
                let able: Vec<SignerId> = others.iter().copied().filter(|id| can_sign(*id)).collect();
                let signed = phrase::list(have.iter().map(|id| name(*id)), "and");
                let signed = if have.is_empty() { signed } else { format!("{signed} signed; ") };
                let could = who_could(&able, need.saturating_sub(have.len()), name);
                format!("{} of {need} of {of} ({signed}{could})", have.len())
            }
            Self::All(parts) => phrase::join(inner(parts), "and", nesting),
            Self::Any(parts) => phrase::join(inner(parts), "or", nesting),
        }
    }
}

fn who_could(able: &[SignerId], lacking: usize, name: &dyn Fn(SignerId) -> String) -> String {
    let names = |conjunction| phrase::list(able.iter().map(|id| name(*id)), conjunction);
    match able.len() {
        0 => "nobody else has a key in use".to_owned(),
        few if few < lacking => format!("only {} could still sign", names("and")),
        _ if lacking == 1 => format!("{} could still sign", names("or")),
        all if all == lacking => format!("{} could still sign", names("and")),
        _ => format!("any {lacking} of {} could still sign", names("and")),
    }
}

/// Whether a signer has a key that the policy did not revoke.
pub(crate) fn has_key_in_use(signer: &Signer) -> bool {
    signer.keys.iter().any(|key| key.revoked.is_none())
}
