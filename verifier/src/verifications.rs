//! Remembering which signatures verified, because the same ones are weighed at each step of an upload and at each read.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::fingerprint::Fingerprint;
use crate::key::PublicKey;
use crate::signature::Signature;

/// Most verifications that are remembered: 32 bytes each, and as much again for the table.
const MOST: usize = 50_000;

/// Signatures that were verified, each by the SHA-256 of key, signature and fingerprint. A verification is a fact: no policy
/// and no time changes it. What did not verify is not remembered, so nobody can fill this but signers.
#[derive(Debug, Default)]
pub(crate) struct Verifications(Mutex<HashSet<[u8; 32]>>);

impl Verifications {
    /// Says whether `signature` is this key's over `fingerprint`, looking only once at the same three.
    pub(crate) fn verifies(&self, key: &PublicKey, fingerprint: &Fingerprint, signature: &Signature) -> bool {
        let mut name = Sha256::new();
        // Both have a fixed length, so no other three give the same bytes.
        name.update(key.as_bytes());
        name.update(signature.bytes());
        name.update(fingerprint.as_bytes());
        let name: [u8; 32] = name.finalize().into();
        if self.known().contains(&name) {
            return true;
        }
        let verifies = key.verifies(fingerprint, signature);
        if verifies {
            let mut known = self.known();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(name);
        }
        verifies
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
