//! Signatures as Nix writes them: `key-name:base64 of 64 bytes`.

use std::fmt;
use std::str::FromStr;

use ::base64 as base64_crate;
use thiserror::Error;

use crate::base64_lenient as base64;
use crate::key::{KeyError, KeyName};

/// Why a text is not a signature. The peer that sent it caused it; the rest of a path's signatures stand.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is no `:` between the key's name and the signature.
    #[error("expected KEY-NAME:BASE64, found no ':'")]
    NoColon,
    /// The key's name cannot be one.
    #[error(transparent)]
    BadName(#[from] KeyError),
    /// The part after the `:` is not base64.
    #[error("the part after ':' is not base64: {0}")]
    NotBase64(#[from] base64_crate::DecodeError),
    /// The signature has the wrong length.
    #[error("signature is {got} bytes, expected 64")]
    Length {
        /// The length that came, in bytes.
        got: usize,
    },
}

/// A signature: the name of the key that is said to have made it, and its 64 bytes (RFC 8032: `R`, then `S`).
///
/// Two signatures are equal when their decoded bytes and names are, however they were spelled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    key_name: KeyName,
    bytes: [u8; 64],
}

impl Signature {
    /// Puts a signature together. Nothing is verified here.
    #[must_use]
    pub fn new(key_name: KeyName, bytes: [u8; 64]) -> Self {
        Self { key_name, bytes }
    }

    /// Returns the name of the key that is said to have made it.
    #[must_use]
    pub fn key_name(&self) -> &KeyName {
        &self.key_name
    }

    /// Returns the 64 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, encoded) = text.split_once(':').ok_or(SignatureError::NoColon)?;
        let key_name = KeyName::new(name)?;
        let bytes = base64::decode(encoded)?;
        let got = bytes.len();
        let bytes = bytes.try_into().map_err(|_| SignatureError::Length { got })?;
        Ok(Self { key_name, bytes })
    }
}

impl fmt::Display for Signature {
    /// Writes the one canonical spelling, which is what is stored and sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key_name, base64::encode(&self.bytes))
    }
}
