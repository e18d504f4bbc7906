//! What is said of a store path: Nix's `ValidPathInfo`.

use std::collections::BTreeSet;
use std::fmt;

use nix_derivation::{NixHash, StoreDir, StorePath, nixbase32};
use thiserror::Error;

use crate::address::ContentAddress;
use crate::base16;
use crate::fingerprint::Fingerprint;

/// Why a text is not a NAR hash. Whoever sent or stored it caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NarHashError {
    /// It is not a hash in any spelling Nix uses.
    #[error("expected a SHA-256 in hexadecimal, Nix's base 32 or base64, found {0:?}")]
    Unreadable(String),
    /// It is a hash, but of another algorithm.
    #[error("a NAR hash is a SHA-256, found {0}")]
    NotSha256(&'static str),
}

/// The SHA-256 of a path's NAR serialisation, uncompressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash([u8; 32]);

impl NarHash {
    /// Wraps the 32 bytes of a SHA-256.
    #[must_use]
    pub const fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a hash as the worker protocol and narinfos spell it: with or without `sha256:`, in 64 hexadecimal digits,
    /// 52 of Nix's base 32, or SRI.
    ///
    /// # Errors
    /// When it is anything else, or not a SHA-256.
    pub fn parse(text: &str) -> Result<Self, NarHashError> {
        let typed;
        let full = if text.contains([':', '-']) {
            text
        } else {
            typed = format!("sha256:{text}");
            &typed
        };
        match NixHash::parse(full) {
            Ok(NixHash::Sha256(bytes)) => Ok(Self(bytes)),
            Ok(other) => Err(NarHashError::NotSha256(other.algorithm().as_str())),
            Err(_) => Err(NarHashError::Unreadable(text.chars().take(80).collect())),
        }
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns 52 digits of Nix's base 32, without the algorithm, as in a NAR's file name.
    #[must_use]
    pub fn to_nix32(&self) -> String {
        nixbase32::encode(&self.0)
    }

    /// Returns 64 hexadecimal digits, without the algorithm, as on the wire.
    #[must_use]
    pub fn to_base16(&self) -> String {
        base16::encode(&self.0)
    }
}

impl fmt::Display for NarHash {
    /// Writes `sha256:` and Nix's base 32, as in a narinfo.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_nix32())
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a path info cannot be signed or stored. Whoever sent it caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PathInfoError {
    /// The size is 0, which no NAR has.
    #[error("NarSize is 0: the smallest NAR has 96 bytes")]
    NoSize,
}

/// What somebody says of a store path.
///
/// Nothing in it is proven. `signatures` holds the texts as they came, because a malformed one is evidence too;
/// `registration_time` and `ultimate` are kept for the wire and decide nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The derivation that is said to have made it. No signature covers it.
    pub deriver: Option<StorePath>,
    /// SHA-256 of the uncompressed NAR.
    pub nar_hash: NarHash,
    /// Length of the uncompressed NAR, in bytes.
    pub nar_size: u64,
    /// The paths it refers to directly; it may be among them itself.
    pub references: BTreeSet<StorePath>,
    /// When it became valid in the store that says so, in seconds since the Unix epoch; 0 for unknown.
    pub registration_time: u64,
    /// Whether that store built it itself.
    pub ultimate: bool,
    /// The signatures, as they were spelled.
    pub signatures: BTreeSet<String>,
    /// The content address that it is said to have. No signature covers it either.
    pub content_address: Option<ContentAddress>,
}

impl PathInfo {
    /// Returns what a signature over this path covers: `1;path;narHash;narSize;references`, with full paths, the hash in
    /// Nix's base 32, the size in decimal, and the references sorted and joined by `,`.
    ///
    /// # Errors
    /// [`PathInfoError::NoSize`].
    ///
    /// Source: Nix `src/libstore/path-info.cc`, `ValidPathInfo::fingerprint`.
    pub fn fingerprint(&self, store_dir: &StoreDir) -> Result<Fingerprint, PathInfoError> {
        if self.nar_size == 0 {
            return Err(PathInfoError::NoSize);
        }
        let references: Vec<String> = self.references.iter().map(|path| store_dir.render_path(path)).collect();
        Ok(Fingerprint::new(format!(
            "1;{};{};{};{}",
            store_dir.render_path(&self.path),
            self.nar_hash,
            self.nar_size,
            references.join(","),
        )))
    }

    /// Returns the references without the path itself.
    pub fn other_references(&self) -> impl Iterator<Item = &StorePath> {
        self.references.iter().filter(|reference| **reference != self.path)
    }
}
