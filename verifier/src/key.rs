//! Nix keys: `name:base64`, as `nix key generate-secret` writes them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ::base64 as base64_crate;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::base64_lenient as base64;
use crate::fingerprint::Fingerprint;
use crate::signature::Signature;

/// Longest key name that is read, in bytes. Nix sets no limit; names in use are host names with a number.
const MAX_NAME: usize = 256;

/// Why a key was refused when it was read. Whoever wrote the policy or the key file caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is no `:` between name and key.
    #[error("expected NAME:BASE64, found no ':'")]
    NoColon,
    /// The name is empty, too long, or holds white space or control characters.
    #[error("key name {0:?} is empty, longer than {MAX_NAME} bytes, or holds white space or control characters")]
    BadName(String),
    /// The part after the `:` is not base64.
    #[error("the part after ':' is not base64: {0}")]
    NotBase64(#[from] base64_crate::DecodeError),
    /// The key has the wrong length.
    #[error("{what} is {got} bytes, expected {expected}")]
    Length {
        /// `public key` or `secret key`.
        what: &'static str,
        /// The length that came, in bytes.
        got: usize,
        /// The length a key has, in bytes.
        expected: usize,
    },
    /// The 32 bytes are no point of the curve.
    #[error("these 32 bytes are not a point of the Ed25519 curve")]
    NotAPoint,
    /// The 32 bytes are a second spelling of a point, so two keys that differ would be one signer.
    #[error("this is not the canonical encoding of its point: another key with other bytes would verify the same")]
    NotCanonical,
    /// The point has a small order: signatures under it verify for messages that nobody signed.
    #[error("this point has a small order: anybody can sign with it")]
    Weak,
    /// The public half inside a secret key is not that of its seed.
    #[error("the public half of this secret key does not belong to its seed: the file is damaged")]
    HalvesDiffer,
}

/// The name of a key: what stands before the `:`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// Reads a key name.
    ///
    /// # Errors
    /// [`KeyError::BadName`] when it is empty, longer than 256 bytes, or holds `:`, white space or control characters.
    pub fn new(name: &str) -> Result<Self, KeyError> {
        let bad = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
            return Err(KeyError::BadName(name.chars().take(MAX_NAME).collect()));
        }
        Ok(Self(name.into()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named Ed25519 public key that is canonical and not weak.
///
/// libsodium refuses small-order and non-canonical keys when it verifies; here they cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: KeyName,
    key: VerifyingKey,
}

impl PublicKey {
    /// Makes a public key from a name and its 32 bytes (RFC 8032, little-endian y with the sign of x).
    ///
    /// # Errors
    /// [`KeyError::NotAPoint`], [`KeyError::NotCanonical`] or [`KeyError::Weak`].
    pub fn new(name: KeyName, bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotAPoint)?;
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self { name, key })
    }

    /// Returns the key's name.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Returns the 32 bytes, the only thing that tells two keys apart.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Says whether `signature` is this key's over `fingerprint`, by the strict rules of RFC 8032: canonical `S` and
    /// `R`, no small-order points. The signature's name is not looked at.
    #[must_use]
    pub(crate) fn verifies(&self, fingerprint: &Fingerprint, signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature.bytes());
        self.key.verify_strict(fingerprint.as_bytes(), &signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads `NAME:BASE64`, as in `trusted-public-keys`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = split(text)?;
        let got = bytes.len();
        let bytes: [u8; 32] =
            bytes.try_into().map_err(|_| KeyError::Length { what: "public key", got, expected: 32 })?;
        Self::new(name, &bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, base64::encode(self.key.as_bytes()))
    }
}

/// A named Ed25519 secret key in Nix's format: the base64 of 32 bytes of seed and the 32 bytes of the public key.
///
/// `Debug` shows the name alone; the seed is wiped when the value is dropped.
pub struct SecretKey {
    name: KeyName,
    key: SigningKey,
}

impl SecretKey {
    /// Makes a secret key from 32 bytes of seed, which must come from a source of cryptographic randomness.
    #[must_use]
    pub fn from_seed(name: KeyName, seed: &[u8; 32]) -> Self {
        Self { name, key: SigningKey::from_bytes(seed) }
    }

    /// Returns the key's name.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a fingerprint.
    #[must_use]
    pub fn sign(&self, fingerprint: &Fingerprint) -> Signature {
        Signature::new(self.name.clone(), self.key.sign(fingerprint.as_bytes()).to_bytes())
    }

    /// Returns the key in Nix's file format, without a line end. This is the secret itself.
    #[must_use]
    pub fn to_nix_string(&self) -> String {
        format!("{}:{}", self.name, base64::encode(&self.key.to_keypair_bytes()))
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    /// Reads `NAME:BASE64` as `nix key generate-secret` prints it; white space around it is ignored.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = split(text.trim())?;
        let got = bytes.len();
        let bytes: [u8; 64] =
            bytes.try_into().map_err(|_| KeyError::Length { what: "secret key", got, expected: 64 })?;
        let key = SigningKey::from_keypair_bytes(&bytes).map_err(|_| KeyError::HalvesDiffer)?;
        Ok(Self { name, key })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("name", &self.name).finish_non_exhaustive()
    }
}

fn split(text: &str) -> Result<(KeyName, Vec<u8>), KeyError> {
    let (name, encoded) = text.split_once(':').ok_or(KeyError::NoColon)?;
    Ok((KeyName::new(name)?, base64::decode(encoded)?))
}
