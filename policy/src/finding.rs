//! Findings: what was noticed about a path, under codes that never change.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use verifier::{Judged, Keyring, SignerId, Verdict};

use crate::escape::{self, escaped};
use crate::moment::rfc3339;

/// Longest message of a finding, in characters: it is part of one line that a client prints.
const MAX_MESSAGE: usize = 800;

/// Defines each code once: its variant, its stable text, and what it means.
macro_rules! codes {
    ($($variant:ident = $text:literal, $explanation:literal;)*) => {
        /// What kind of thing was noticed. The texts are stable: scripts and documentation rely on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`: ", $explanation)] $variant,)*
        }

        impl Code {
            /// Every code, in the order in which they are documented.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the stable text, in kebab-case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Returns what it means and what to do about it.
            #[must_use]
            pub const fn explain(self) -> &'static str {
                match self {
                    $(Self::$variant => $explanation,)*
                }
            }
        }
    };
}

codes! {
    QuorumMissing = "quorum-missing",
        "Fewer signers than the policy requires have vouched for these bytes. Let one of the named signers build \
         the path and upload it, or copy its signatures here; `policy check` shows what is required.";
    DuplicateSigner = "duplicate-signer",
        "A further signature of a signer whose vote is cast already; it adds nothing. A signer has one vote, \
         however many keys and signatures it has: another signer has to sign.";
    UnknownKey = "unknown-key",
        "The signature names a key that is not in the policy, so it counts for nothing. If its owner is to have a \
         vote, add the key to a signer in the policy.";
    RevokedKey = "revoked-key",
        "The signature verifies, but the policy has revoked the key that made it. Let the signer sign again with \
         a key in use.";
    ExpiredKey = "expired-key",
        "The signature verifies, but this store first saw it when the key's time was over. Let the signer sign \
         again with its present key.";
    KeyNotYetValid = "key-not-yet-valid",
        "The signature verifies, but this store first saw it before the key's time had come. The same key would make \
         the same signature again: let the signer use a key whose time it is, or mend `not-before` in the policy.";
    BadSignature = "bad-signature",
        "The policy has a key of this name, but it does not verify the signature: another key made it, or it was \
         made over other contents. Compare the key, and what was built, with the signer's.";
    MalformedSignature = "malformed-signature",
        "This is not a signature of the form NAME:BASE64, so it was dropped; the path's other signatures stand. \
         Mend the program that wrote it.";
    ContentMismatch = "content-mismatch",
        "The bytes do not have the hash or the size that was stated for them. They were damaged or exchanged on \
         the way: fetch or build them again.";
    MissingContent = "missing-content",
        "The path is said to be there, but its contents cannot be read. Upload it again, or repair the store.";
    FalseContentAddress = "false-content-address",
        "The stated content address does not make this path from these bytes. Whoever stated it is wrong or lies: \
         build the path again, and do not trust that source.";
    WeakContentAddress = "weak-content-address",
        "Two contents can be made to share this path's content address (MD5, SHA-1, or a path that names itself, addressed by \
         Nix 2.17 to 2.34), so it needs signatures like any other path.";
    UnprovenContentAddress = "unproven-content-address",
        "Nothing but its content address vouches for the path, and only its bytes can show that they have that address. \
         Verify it with its contents, or let signers sign it.";
    MissingReference = "missing-reference",
        "The path refers to paths that are not admitted. Upload those first; a copy of the whole closure does so \
         in the right order.";
    ReferenceCycle = "reference-cycle",
        "These paths refer to each other in a circle, which no build makes: one of the path infos is false. \
         Compare their references with a store that you trust.";
    Conflict = "conflict",
        "Different contents are claimed for one store path; their signatures are counted apart. Compare the \
         builds: either one of them is not reproducible, or somebody lies. Sign only what you built yourself.";
    Unreachable = "unreachable",
        "Another store could not be asked for the signatures that it has of this path. Whatever it would have added is lacking \
         here: ask again when it answers.";
    PolicyExpired = "policy-expired",
        "The policy's `expires` has passed, so nothing new is admitted. Install a newer policy; what was admitted \
         before can still be read.";
    PolicyRollback = "policy-rollback",
        "The policy has a lower version than one that was in force here. Install the newest policy, or raise \
         `version` in the one you mean.";
    PolicyUnsigned = "policy-unsigned",
        "Fewer administrators than required have signed this policy. Let the named ones sign the file as it is, \
         and put their .minisig files beside it.";
    InvalidPath = "invalid-path",
        "This is no path of the store, or nothing is known of it. Check its spelling and the store directory.";
    LimitExceeded = "limit-exceeded",
        "A limit was reached, so nothing was kept. The message names it. Those of staging can be raised with `--staging-…`; \
         what passes another one is hardly meant well.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    /// Reads the stable text.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let found = Self::ALL.iter().find(|code| code.as_str() == text);
        found.copied().ok_or_else(|| UnknownCode(escaped(text)))
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// No finding has this code. Whoever typed it caused it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no finding has the code {0:?}: the codes are listed in the documentation of findings")]
pub struct UnknownCode(String);

/// One thing that was noticed about a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// The particulars, on one line, with whatever a peer chose escaped.
    pub message: String,
}

impl Finding {
    /// Makes the finding that other contents are held for a path, which `rival` describes in a few words.
    #[must_use]
    pub fn conflict(rival: &str) -> Self {
        let message = format!("{rival} is held for it as well: nix-quorum staging diff shows what differs");
        Self::new(Code::Conflict, message)
    }

    /// Makes a finding. The message is escaped and cut off here, so a peer's text may stand in it.
    #[must_use]
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        Self { code, message: escape::bounded(message.as_ref(), MAX_MESSAGE) }
    }

    /// Returns what there is to say of one signature; none of one that counts.
    pub(crate) fn of_signature(judged: &Judged, keyring: &Keyring) -> Option<Self> {
        let name = |id: SignerId| keyring.signer(id).name.clone();
        let key = match &judged.signature {
            Some(signature) => format!("\"{}\"", escaped(signature.key_name().as_str())),
            None => format!("\"{}\"", escape::bounded(&judged.text, 80)),
        };
        let (code, message) = match &judged.verdict {
            Verdict::Counts(_) => return None,
            Verdict::DuplicateSigner(signer) => {
                (Code::DuplicateSigner, format!("{key} signed too, but the vote of {} is cast already", name(*signer)))
            }
            Verdict::UnknownKey => (Code::UnknownKey, format!("{key} is no key of the policy")),
            Verdict::DoesNotVerify => (
                Code::BadSignature,
                format!("no key {key} of the policy verifies this: it was made by another key, or over other contents"),
            ),
            Verdict::Malformed(error) => (Code::MalformedSignature, format!("{key}: {error}")),
            Verdict::Revoked { signer, reason } => {
                (Code::RevokedKey, format!("{key} of {} is revoked: {reason}", name(*signer)))
            }
            Verdict::Expired { signer, not_after } => (
                Code::ExpiredKey,
                format!("{key} of {} counts if seen before {}; this came later", name(*signer), rfc3339(*not_after)),
            ),
            Verdict::NotYetValid { signer, not_before } => (
                Code::KeyNotYetValid,
                format!(
                    "{key} of {} counts if seen from {} on; this came earlier",
                    name(*signer),
                    rfc3339(*not_before)
                ),
            ),
        };
        Some(Self::new(code, message))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, escape::bounded(&self.message, MAX_MESSAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_kebab_case_unique_and_read_back() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(text.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{text}");
            assert!(seen.insert(text), "{text} stands twice");
            assert_eq!(text.parse(), Ok(*code));
            assert!(code.explain().ends_with('.'), "{text}");
        }
        assert!("quorum_missing".parse::<Code>().is_err());
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length_whoever_wrote_it() {
        let finding = Finding::new(Code::Conflict, "a\n\u{1b}[31mred");
        assert_eq!(finding.to_string(), r"conflict: a\n\u{1b}[31mred");
        let long = Finding { code: Code::Conflict, message: "\n".repeat(10_000) };
        assert!(long.to_string().len() < 1_000);
        assert!(!long.to_string().contains('\n'));
    }
}
