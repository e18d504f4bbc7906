//! The fingerprint: the text that a signature covers, no more and no less.

use std::fmt;

use sha2::{Digest, Sha256};

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

impl fmt::Display for FingerprintDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
