//! Evidence: which signers verifiably signed one fingerprint, and why every other signature does not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::fingerprint::Fingerprint;
use crate::keyring::{Keyring, SignerId, TrustedKey};
use crate::signature::{Signature, SignatureError};
use crate::time::Timestamp;

/// A signature as it came, and when this store first saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The text, `key-name:base64`.
    pub text: &'a str,
    /// When the store first recorded it; none if nobody did, and then the present counts.
    pub first_seen: Option<Timestamp>,
}

/// What one signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It verifies, and casts this signer's vote.
    Counts(SignerId),
    /// It verifies, but this signer's vote is cast already.
    DuplicateSigner(SignerId),
    /// No key of the policy has its name.
    UnknownKey,
    /// No key of its name verifies it: it is another key's, or over another fingerprint.
    DoesNotVerify,
    /// It is not a signature.
    Malformed(SignatureError),
    /// It verifies under a key that the policy has revoked.
    Revoked {
        /// Whose key.
        signer: SignerId,
        /// The policy's words.
        reason: String,
    },
    /// It verifies, but was first seen when its key's time was over.
    Expired {
        /// Whose key.
        signer: SignerId,
        /// When the key's time was over.
        not_after: Timestamp,
    },
    /// It verifies, but was first seen before its key's time had come.
    NotYetValid {
        /// Whose key.
        signer: SignerId,
        /// When the key's time begins.
        not_before: Timestamp,
    },
}

impl Verdict {
    /// Returns the stable code of the finding, or none where the signature counts.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Counts(_) => return None,
            Self::DuplicateSigner(_) => "duplicate-signer",
            Self::UnknownKey => "unknown-key",
            Self::DoesNotVerify => "bad-signature",
            Self::Malformed(_) => "malformed-signature",
            Self::Revoked { .. } => "revoked-key",
            Self::Expired { .. } => "expired-key",
            Self::NotYetValid { .. } => "key-not-yet-valid",
        })
    }

    /// Returns whose key verifies the signature, or none where no key does.
    #[must_use]
    pub fn signer(&self) -> Option<SignerId> {
        match self {
            Self::Counts(signer)
            | Self::DuplicateSigner(signer)
            | Self::Revoked { signer, .. }
            | Self::Expired { signer, .. }
            | Self::NotYetValid { signer, .. } => Some(*signer),
            Self::UnknownKey | Self::DoesNotVerify | Self::Malformed(_) => None,
        }
    }
}

/// One signature with its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The text as it came. It is a peer's: escape it before showing it.
    pub text: String,
    /// The signature, where it is one.
    pub signature: Option<Signature>,
    /// What it is worth.
    pub verdict: Verdict,
    /// The 32 bytes of the policy's key that verifies it, whether or not the key still counts.
    pub verified_by: Option<[u8; 32]>,
}

/// Which signers verifiably signed one fingerprint.
///
/// Only [`Evidence::weigh`] makes one, so whoever holds it knows that each signer in it was verified against the
/// fingerprint in it. It counts signers: two signatures of one signer, by two nonces, two spellings or two keys, are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    fingerprint: Fingerprint,
    signers: BTreeSet<SignerId>,
    judged: Vec<Judged>,
    next_change: Option<Timestamp>,
}

impl Evidence {
    /// Weighs signatures over a fingerprint at the moment `now`.
    ///
    /// Every signature is judged by itself: a malformed or false one takes nothing from the others.
    #[must_use]
    pub fn weigh<'a>(
        fingerprint: Fingerprint,
        claims: impl IntoIterator<Item = Claim<'a>>,
        keyring: &Keyring,
        now: Timestamp,
    ) -> Self {
        let mut evidence = Self { fingerprint, signers: BTreeSet::new(), judged: Vec::new(), next_change: None };
        let mut known: BTreeMap<Signature, usize> = BTreeMap::new();
        for claim in claims {
            let (signature, (verdict, verified_by)) = match claim.text.parse::<Signature>() {
                Err(error) => (None, (Verdict::Malformed(error), None)),
                Ok(signature) => {
                    let before = known.get(&signature).and_then(|&first| evidence.again(first));
                    let judged = before.unwrap_or_else(|| evidence.judge(&signature, claim.first_seen, keyring, now));
                    known.entry(signature.clone()).or_insert(evidence.judged.len());
                    (Some(signature), judged)
                }
            };
            evidence.judged.push(Judged { text: claim.text.to_owned(), signature, verdict, verified_by });
        }
        evidence
    }

    /// Returns the fingerprint that was signed.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Returns the signers whose votes count.
    #[must_use]
    pub fn signers(&self) -> &BTreeSet<SignerId> {
        &self.signers
    }

    /// Lists every signature with its verdict, in the order in which they came.
    #[must_use]
    pub fn judged(&self) -> &[Judged] {
        &self.judged
    }

    /// Returns the next moment at which the passing of time alone could change a verdict; none if it never will.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        self.next_change
    }

    /// The verdict on a signature that came before, spelled the same or otherwise; none where the time at which that
    /// copy was first seen decided, because this one has its own.
    fn again(&self, first: usize) -> Option<(Verdict, Option<[u8; 32]>)> {
        let first = &self.judged[first];
        let verdict = match &first.verdict {
            Verdict::Counts(signer) => Verdict::DuplicateSigner(*signer),
            Verdict::Expired { .. } | Verdict::NotYetValid { .. } => return None,
            other => other.clone(),
        };
        Some((verdict, first.verified_by))
    }

    fn judge(
        &mut self,
        signature: &Signature,
        first_seen: Option<Timestamp>,
        keyring: &Keyring,
        now: Timestamp,
    ) -> (Verdict, Option<[u8; 32]>) {
        let mut named = false;
        for (signer, key) in keyring.keys_named(signature.key_name()) {
            named = true;
            if keyring.verifications().verifies(&key.public, &self.fingerprint, signature) {
                return (self.limits(signer, key, first_seen, now), Some(*key.public.as_bytes()));
            }
        }
        (if named { Verdict::DoesNotVerify } else { Verdict::UnknownKey }, None)
    }

    /// The verdict on a signature that verifies: revocation first, then the window, then whether the vote is cast.
    fn limits(&mut self, signer: SignerId, key: &TrustedKey, first_seen: Option<Timestamp>, now: Timestamp) -> Verdict {
        if let Some(reason) = &key.revoked {
            return Verdict::Revoked { signer, reason: reason.clone() };
        }
        if first_seen.is_none() {
            let bounds = [key.window.not_before, key.window.not_after];
            let ahead = bounds.into_iter().flatten().filter(|bound| *bound > now);
            self.next_change = ahead.chain(self.next_change).min();
        }
        let seen = first_seen.unwrap_or(now);
        if let Some(not_before) = key.window.not_before.filter(|bound| seen < *bound) {
            return Verdict::NotYetValid { signer, not_before };
        }
        if let Some(not_after) = key.window.not_after.filter(|bound| seen >= *bound) {
            return Verdict::Expired { signer, not_after };
        }
        if self.signers.insert(signer) { Verdict::Counts(signer) } else { Verdict::DuplicateSigner(signer) }
    }
}
