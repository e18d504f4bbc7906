//! The decision on one path: its evidence, its references and the time, under a policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use verifier::{AddressProof, ContentAddress, Evidence, PathInfo, Signer, SignerId, StorePath, Timestamp};

use crate::escape;
use crate::finding::{Code, Finding};
use crate::moment::rfc3339;
use crate::phrase;
use crate::policy::{ContentAddressed, Policy, Rule};
use crate::requirement::{Outcome, Shortfall, evaluate};

/// Longest summary, in characters: Nix prints it as one line of an error.
const MAX_SUMMARY: usize = 1_500;
/// Most findings that a summary names; the rest are counted.
const MAX_SUMMARISED: usize = 6;

/// How a path's content address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// The path has none: it is input-addressed.
    None,
    /// The address makes the path, but the bytes were not read yet. Nothing may be published on it.
    Claimed(Strength),
    /// The address was recomputed from the bytes, and makes the path.
    Proven(Strength),
}

/// Whether a content address stands for its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Nobody can make two contents share one.
    Strong,
    /// By MD5 or SHA-1, or without the offsets of self-references: two contents can be made to share one, so signatures are
    /// needed.
    Forgeable,
}

impl Strength {
    /// Returns how strong an address is that is proven as it stands.
    #[must_use]
    pub fn of(address: &ContentAddress) -> Self {
        if address.is_forgeable() { Self::Forgeable } else { Self::Strong }
    }
}

impl Address {
    /// Returns how the address of a path stands before its bytes were read.
    #[must_use]
    pub fn claimed(info: &PathInfo) -> Self {
        info.content_address.as_ref().map_or(Self::None, |address| Self::Claimed(Strength::of(address)))
    }

    /// Returns how the address of a path stands by what its bytes said.
    #[must_use]
    pub fn proven(info: &PathInfo, proof: AddressProof) -> Self {
        match (&info.content_address, proof) {
            (Some(address), AddressProof::Proven) => Self::Proven(Strength::of(address)),
            (Some(_), AddressProof::WithoutOffsets) => Self::Proven(Strength::Forgeable),
            (None, _) | (Some(_), AddressProof::None) => Self::None,
        }
    }
}

/// What is decided upon.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The path.
    pub path: &'a StorePath,
    /// Who vouched for it.
    pub evidence: &'a Evidence,
    /// How its content address stands.
    pub address: Address,
    /// The references, other than itself, that are not admitted.
    pub absent_references: &'a [StorePath],
}

/// What becomes of a path, from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nobody whom the policy knows vouches for it.
    Refuse,
    /// Somebody does, but something is lacking that may still come.
    Hold,
    /// Everything required is there.
    Admit,
}

/// What stands for the default requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Signatures, as far as there are any.
    Signatures,
    /// A strong content address. It has to be proven before anything is published.
    ContentAddress,
}

/// What the policy says of a path at a moment, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    verdict: Verdict,
    basis: Basis,
    signers: Vec<Arc<str>>,
    completers: Vec<Arc<str>>,
    sole_completers: Vec<Arc<str>>,
    findings: Vec<Finding>,
    next_change: Option<Timestamp>,
}

impl Decision {
    /// Makes a refusal for a reason that lies outside the policy, such as contents that do not match.
    #[must_use]
    pub fn refusal(finding: Finding) -> Self {
        Self {
            verdict: Verdict::Refuse,
            basis: Basis::Signatures,
            signers: Vec::new(),
            completers: Vec::new(),
            sole_completers: Vec::new(),
            findings: vec![finding],
            next_change: None,
        }
    }

    /// Lowers the verdict to `at_most`, for a reason that then stands before the others; it cannot be raised.
    #[must_use]
    pub fn limited(mut self, at_most: Verdict, reason: Finding) -> Self {
        self.verdict = self.verdict.min(at_most);
        self.findings.insert(0, reason);
        self
    }

    /// Lowers the verdict to a refusal: where nothing is held, what falls short is refused.
    #[must_use]
    pub fn refused(mut self) -> Self {
        self.verdict = Verdict::Refuse;
        self
    }

    /// Returns what becomes of the path.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Returns what stands for the default requirement.
    #[must_use]
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// Lists the names of the signers whose votes count, in the policy's order.
    #[must_use]
    pub fn signers(&self) -> &[Arc<str>] {
        &self.signers
    }

    /// Lists the names of those who have not signed, could, and would bring the path nearer to what is required of it.
    #[must_use]
    pub fn completers(&self) -> &[Arc<str>] {
        &self.completers
    }

    /// Lists those of them whose vote alone would meet all that is required of signers.
    #[must_use]
    pub fn sole_completers(&self) -> &[Arc<str>] {
        &self.sole_completers
    }

    /// Lists what was noticed: first what stands in the way, then what is wrong with single signatures.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns the next moment at which the passing of time alone could change the decision; none if it never will.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        self.next_change
    }

    /// Returns one line, without a line end, that says of `path` whether it is admitted or refused, and what is
    /// lacking. What a store without staging does not admit, it refuses; where it is held, [`Decision::held_summary`]
    /// says so.
    #[must_use]
    pub fn summary(&self, path: &str) -> String {
        match (self.verdict, self.basis) {
            (Verdict::Admit, Basis::ContentAddress) => line("admitted", path, "its content address stands for it"),
            (Verdict::Admit, Basis::Signatures) => {
                line("admitted", path, &format!("signed by {}", phrase::list(&self.signers, "and")))
            }
            (Verdict::Hold | Verdict::Refuse, _) => line("refused", path, &self.reasons()),
        }
    }

    /// Returns one line, without a line end, that says of `path` that it is held, and what is lacking.
    #[must_use]
    pub fn held_summary(&self, path: &str) -> String {
        line("held", path, &self.reasons())
    }

    fn reasons(&self) -> String {
        let mut named: Vec<String> = self.findings.iter().take(MAX_SUMMARISED).map(Finding::to_string).collect();
        if self.findings.len() > MAX_SUMMARISED {
            named.push(phrase::count(self.findings.len() - MAX_SUMMARISED, "more finding"));
        }
        named.join("; ")
    }
}

fn line(outcome: &str, path: &str, reasons: &str) -> String {
    escape::bounded(&format!("{outcome} {}: {reasons}", escape::escaped(path)), MAX_SUMMARY)
}

/// Whether the policy's expiry binds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expiry {
    /// For what is new.
    Binds,
    /// For what is admitted already.
    Ignored,
}

impl Policy {
    /// Decides whether a path may be admitted at the moment `now`.
    ///
    /// The evidence must have been weighed with this policy's keyring.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>, now: Timestamp) -> Decision {
        self.judge(subject, now, Expiry::Binds)
    }

    /// Decides whether a path that was admitted stands at the moment `now`: as [`Policy::decide`], but a policy that
    /// has expired takes nothing away.
    #[must_use]
    pub fn stands(&self, subject: &Subject<'_>, now: Timestamp) -> Decision {
        self.judge(subject, now, Expiry::Ignored)
    }

    /// Decides whether a realisation of `out_path` may be admitted: by the requirement on the path's name, of which no
    /// content address takes anything away, since a realisation says what a derivation makes and not what a path holds.
    #[must_use]
    pub fn decide_realisation(
        &self,
        out_path: &StorePath,
        evidence: &Evidence,
        absent_references: &[StorePath],
        now: Timestamp,
    ) -> Decision {
        self.decide(&Subject { path: out_path, evidence, address: Address::None, absent_references }, now)
    }

    /// Decides whether a realisation that was admitted stands, as [`Policy::stands`] does of a path.
    #[must_use]
    pub fn realisation_stands(
        &self,
        out_path: &StorePath,
        evidence: &Evidence,
        absent_references: &[StorePath],
        now: Timestamp,
    ) -> Decision {
        self.stands(&Subject { path: out_path, evidence, address: Address::None, absent_references }, now)
    }

    fn judge(&self, subject: &Subject<'_>, now: Timestamp, expiry: Expiry) -> Decision {
        let mut findings = Vec::new();
        let expires = self.expires.filter(|_| expiry == Expiry::Binds);
        if let Some(over) = expires.filter(|moment| now >= *moment) {
            let message = format!("the policy expired at {}, so nothing new is admitted", rfc3339(over));
            findings.push(Finding::new(Code::PolicyExpired, message));
        }
        let (basis, shortfalls) = self.quorum(subject, now, &mut findings);
        let before_references = findings.len();
        findings.extend(self.missing_references(subject));
        let signers = subject.evidence.signers();
        let verdict = if findings.is_empty() {
            Verdict::Admit
        } else if !signers.is_empty() || (basis == Basis::ContentAddress && before_references == 0) {
            Verdict::Hold
        } else {
            Verdict::Refuse
        };
        let judged = subject.evidence.judged().iter();
        findings.extend(judged.filter_map(|signature| Finding::of_signature(signature, &self.keyring)));
        let boundaries = [subject.evidence.next_change(), expires];
        let completers = self.completers(&shortfalls, now);
        let alone = |id: &&SignerId| shortfalls.iter().all(|shortfall| shortfall.is_met_by(**id));
        let sole_completers = completers.iter().filter(alone).copied().collect();
        Decision {
            verdict,
            basis,
            signers: self.names(signers),
            completers: self.names(&completers),
            sole_completers: self.names(&sole_completers),
            findings,
            next_change: boundaries.into_iter().flatten().filter(|moment| *moment > now).min(),
        }
    }

    fn names(&self, signers: &BTreeSet<SignerId>) -> Vec<Arc<str>> {
        signers.iter().map(|id| self.keyring.signer(*id).name.clone()).collect()
    }

    fn completers(&self, shortfalls: &[Shortfall], now: Timestamp) -> BTreeSet<SignerId> {
        let lacking = shortfalls.iter().flat_map(Shortfall::lacking);
        lacking.filter(|id| can_sign(self.keyring.signer(*id), now)).collect()
    }

    /// Adds a finding for the default requirement and for each matching rule that is not met; returns their shortfalls.
    fn quorum(&self, subject: &Subject<'_>, now: Timestamp, findings: &mut Vec<Finding>) -> (Basis, Vec<Shortfall>) {
        let mut shortfalls = Vec::new();
        let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.matches(subject.path.name())).collect();
        let demanded = rules.iter().any(|rule| rule.content_addressed == Some(ContentAddressed::Require));
        let recompute = self.content_addressed == ContentAddressed::Recompute && !demanded;
        let signers = subject.evidence.signers();
        let mut basis = Basis::Signatures;
        if let Outcome::Short(shortfall) = evaluate(&self.default, signers) {
            match subject.address {
                Address::Claimed(Strength::Strong) | Address::Proven(Strength::Strong) if recompute => {
                    basis = Basis::ContentAddress;
                }
                address => {
                    findings.push(Finding::new(Code::QuorumMissing, self.lacking(&shortfall, now)));
                    shortfalls.push(shortfall);
                    if recompute && matches!(address, Address::Claimed(_) | Address::Proven(_)) {
                        let message = "two contents can be made to share its content address, which stands for nothing without signatures";
                        findings.push(Finding::new(Code::WeakContentAddress, message));
                    }
                }
            }
        }
        for rule in rules {
            let outcome = rule.requirement.as_ref().map(|requirement| evaluate(requirement, signers));
            if let Some(Outcome::Short(shortfall)) = outcome {
                let message = format!("rule \"{}\": {}", rule.name, self.lacking(&shortfall, now));
                findings.push(Finding::new(Code::QuorumMissing, message));
                shortfalls.push(shortfall);
            }
        }
        (basis, shortfalls)
    }

    fn lacking(&self, shortfall: &Shortfall, now: Timestamp) -> String {
        let signer = |id: SignerId| self.keyring.signer(id);
        shortfall.describe_with(&|id| signer(id).name.to_string(), &|id| can_sign(signer(id), now))
    }

    fn missing_references(&self, subject: &Subject<'_>) -> Option<Finding> {
        let absent = subject.absent_references.iter().filter(|reference| *reference != subject.path);
        let names: Vec<String> = absent.map(|reference| self.store_dir.render_path(reference)).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        let message = || format!("it refers to {}, which {verb} not admitted", phrase::list(&names, "and"));
        (!names.is_empty()).then(|| Finding::new(Code::MissingReference, message()))
    }
}

/// Whether a signature that a signer makes now could count.
pub(crate) fn can_sign(signer: &Signer, now: Timestamp) -> bool {
    signer.keys.iter().any(|key| {
        let begun = key.window.not_before.is_none_or(|moment| now >= moment);
        let over = key.window.not_after.is_some_and(|moment| now >= moment);
        key.revoked.is_none() && begun && !over
    })
}
