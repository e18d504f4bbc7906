//! Who may sign: signers, each one vote, each with one key or more.

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

use crate::key::{KeyName, PublicKey};
use crate::time::Timestamp;
use crate::verifications::Verifications;

/// Why signers do not make a keyring. Whoever wrote the policy caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// Two entries hold the same 32 bytes: one key would have two votes, or none could say whose it is.
    #[error("public key {key} is listed twice, for signer {first} and for signer {second}: one key is one vote")]
    KeyTwice {
        /// The key, with the name of its second entry.
        key: Box<PublicKey>,
        /// The signer that has it first.
        first: Arc<str>,
        /// The signer that has it again; it may be the same.
        second: Arc<str>,
    },
    /// Two signers have one name.
    #[error("signer {0} is defined twice")]
    SignerTwice(Arc<str>),
}

/// When a key's signatures count: from `not_before` (included) to `not_after` (excluded).
///
/// What is compared is the time at which the store first saw the signature; where nobody recorded it, the present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Signatures first seen earlier do not count.
    pub not_before: Option<Timestamp>,
    /// Signatures first seen at this moment or later do not count.
    pub not_after: Option<Timestamp>,
}

/// A public key of a signer, with what limits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub public: PublicKey,
    /// When it counts.
    pub window: Window,
    /// Why it never counts any more; none for a key in use.
    pub revoked: Option<String>,
}

/// One party with one vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Its name in the policy.
    pub name: Arc<str>,
    /// Its keys: any of them casts its one vote.
    pub keys: Vec<TrustedKey>,
}

/// A signer's place in its keyring. It means nothing in another keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId(u32);

impl SignerId {
    pub(crate) const fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// Signers and their keys, in which each public key stands once.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    signers: Vec<Signer>,
    by_key_name: HashMap<KeyName, Vec<(SignerId, usize)>>,
    verifications: Arc<Verifications>,
}

impl Keyring {
    /// Puts signers together; their order gives their [`SignerId`]s.
    ///
    /// # Errors
    /// When two signers have one name, or one public key stands twice, under whatever names.
    pub fn new(signers: Vec<Signer>) -> Result<Self, KeyringError> {
        let mut names = HashMap::new();
        let mut seen: HashMap<[u8; 32], Arc<str>> = HashMap::new();
        let mut by_key_name: HashMap<KeyName, Vec<(SignerId, usize)>> = HashMap::new();
        for (id, signer) in (0..).map(SignerId).zip(&signers) {
            if names.insert(signer.name.clone(), id).is_some() {
                return Err(KeyringError::SignerTwice(signer.name.clone()));
            }
            for (index, trusted) in signer.keys.iter().enumerate() {
                if let Some(first) = seen.insert(*trusted.public.as_bytes(), signer.name.clone()) {
                    let second = signer.name.clone();
                    return Err(KeyringError::KeyTwice { key: Box::new(trusted.public.clone()), first, second });
                }
                by_key_name.entry(trusted.public.name().clone()).or_default().push((id, index));
            }
        }
        Ok(Self { signers, by_key_name, verifications: Arc::default() })
    }

    /// Lists the signers in their order.
    pub fn signers(&self) -> impl Iterator<Item = (SignerId, &Signer)> {
        (0..).map(SignerId).zip(&self.signers)
    }

    /// Returns a signer of this keyring.
    ///
    /// # Panics
    /// When `id` comes from another, larger keyring.
    #[must_use]
    pub fn signer(&self, id: SignerId) -> &Signer {
        &self.signers[id.0 as usize]
    }

    /// Finds a signer by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<SignerId> {
        self.signers().find(|(_, signer)| &*signer.name == name).map(|(id, _)| id)
    }

    /// Says whether a signer has a key of this name.
    #[must_use]
    pub fn has_key_named(&self, name: &KeyName) -> bool {
        self.by_key_name.contains_key(name)
    }

    /// Returns what is remembered of signatures that these keys were seen to have made.
    pub(crate) fn verifications(&self) -> &Verifications {
        &self.verifications
    }

    /// Lists the keys that have a name: a signature is tried against all of them, and against no others.
    pub(crate) fn keys_named(&self, name: &KeyName) -> impl Iterator<Item = (SignerId, &TrustedKey)> {
        let places = self.by_key_name.get(name).map_or(&[][..], Vec::as_slice);
        places.iter().map(|&(id, index)| (id, &self.signer(id).keys[index]))
    }
}
