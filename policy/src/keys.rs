//! The policy that a list of keys and a number make: what Nix's `--trusted-public-keys` and `--sigs-needed` mean, with each
//! key counted once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;
use verifier::{KeyName, Keyring, KeyringError, PublicKey, Signer, StoreDir, TrustedKey, Window, base16};

use crate::policy::{ContentAddressed, OnConflict, Policy};
use crate::requirement::Requirement;

/// Why keys and a number make no policy. Whoever gave them caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeysError {
    /// One key stands among them twice, under whatever names.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No signature is asked for, which anything would meet.
    #[error("0 signatures are needed, which every path has: ask for 1 or more")]
    NoneNeeded,
    /// More signatures are asked for than there are keys.
    #[error(
        "{needed} signatures are needed, but only {given} different keys are trusted: nothing could ever have as many"
    )]
    TooFew {
        /// How many are needed.
        needed: usize,
        /// How many keys there are.
        given: usize,
    },
}

impl Policy {
    /// Makes the policy that `needed` of these keys must have signed, each key being a signer of its own. A strong content
    /// address stands for signatures, as in Nix, once it is proven.
    ///
    /// A signer is called as its key; of two keys with one name, the second is called `NAME (2)`.
    ///
    /// # Errors
    /// When one key stands there twice, or the requirement could never fail or never be met.
    pub fn of_keys(keys: &[PublicKey], needed: usize, store_dir: &StoreDir) -> Result<Self, KeysError> {
        let mut named: BTreeMap<&KeyName, usize> = BTreeMap::new();
        let mut text = format!("{needed} of");
        let mut signers = Vec::with_capacity(keys.len());
        for key in keys {
            let number = named.entry(key.name()).or_default();
            *number += 1;
            let name: Arc<str> = match *number {
                1 => key.name().as_str().into(),
                number => format!("{} ({number})", key.name()).into(),
            };
            text = format!("{text} {key}");
            let trusted = TrustedKey { public: key.clone(), window: Window::default(), revoked: None };
            signers.push(Signer { name, keys: vec![trusted] });
        }
        let keyring = Keyring::new(signers)?;
        if needed == 0 {
            return Err(KeysError::NoneNeeded);
        }
        if needed > keys.len() {
            return Err(KeysError::TooFew { needed, given: keys.len() });
        }
        let of: BTreeSet<_> = keyring.signers().map(|(id, _)| id).collect();
        Ok(Self {
            version: 1,
            expires: None,
            store_dir: store_dir.clone(),
            keyring,
            digest: base16::encode(&Sha256::digest(&text)),
            groups: BTreeMap::new(),
            default: Requirement::AtLeast { count: needed, of, group: Some("the trusted keys".into()) },
            content_addressed: ContentAddressed::Recompute,
            on_conflict: OnConflict::Quorum,
            rules: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use verifier::SecretKey;

    use super::*;

    fn key(name: &str, seed: u8) -> PublicKey {
        SecretKey::from_seed(KeyName::new(name).expect("a key's name"), &[seed; 32]).public()
    }

    fn outcome(keys: &[PublicKey], needed: usize) -> String {
        match Policy::of_keys(keys, needed, &StoreDir::default()) {
            Ok(policy) => policy.default_requirement().describe(policy.keyring()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn keys_and_a_number_make_a_policy() {
        let (a, b) = (key("a-1", 1), key("b-1", 2));
        assert_eq!(outcome(&[a.clone(), b.clone()], 2), "at least 2 of the trusted keys (a-1 and b-1)");
        assert_eq!(
            outcome(&[a.clone(), key("a-1", 3)], 1),
            "at least 1 of the trusted keys (a-1 and a-1 (2))",
            "Nix ignores the second key of a name; here it has a vote"
        );
        assert_eq!(
            outcome(&[a.clone(), b], 3),
            "3 signatures are needed, but only 2 different keys are trusted: nothing could ever have as many"
        );
        assert_eq!(outcome(std::slice::from_ref(&a), 0), KeysError::NoneNeeded.to_string());
        assert!(outcome(&[], 1).contains("only 0 different keys"));
        assert!(outcome(&[a, key("b-1", 1)], 2).contains("one key is one vote"), "one key under two names");
    }
}
