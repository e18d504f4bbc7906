//! The fingerprint: the text that a signature covers, no more and no less.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::base16;

/// The text that a signature covers, of a path (`1;path;narHash;narSize;refs`) or of a realisation (JSON).
///
/// Only [`PathInfo::fingerprint`](crate::PathInfo::fingerprint) and
/// [`Realisation::fingerprint`](crate::Realisation::fingerprint) make one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the signed bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the signed text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the SHA-256 of the text, which names what is stored about it.
    #[must_use]
    pub fn digest(&self) -> FingerprintDigest {
        FingerprintDigest(Sha256::digest(self.as_bytes()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of a fingerprint, written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FingerprintDigest([u8; 32]);

impl FingerprintDigest {
    /// Returns the 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for FingerprintDigest {
    type Err = NoFingerprintDigest;

    /// Reads 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, NoFingerprintDigest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(NoFingerprintDigest);
        };
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or(NoFingerprintDigest)?;
        Ok(Self(bytes.try_into().map_err(|_| NoFingerprintDigest)?))
    }
}

/// A text is not what a fingerprint is called by: whoever wrote it caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the 64 lower-case hexadecimal digits of a SHA-256")]
pub struct NoFingerprintDigest;

impl fmt::Display for FingerprintDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16::encode(&self.0))
    }
}
