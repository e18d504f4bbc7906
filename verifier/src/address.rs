//! Content addresses: `fixed:…` and `text:…`, and whether a path is the one they make.

use std::collections::BTreeSet;
use std::fmt;

use nix_derivation::{CAHash, ContentAddressMethod, HashAlgorithm, StoreDir, StorePath};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::path_info::PathInfo;

/// Why a content address does not make the path that it is claimed for. Whoever sent it caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// The bytes have another one.
    #[error("the address says {address}, the bytes say {found}")]
    OtherBytes {
        /// The claimed content address.
        address: ContentAddress,
        /// The one that the bytes have, or `none`.
        found: String,
    },
    /// The text is not a content address.
    #[error("expected a content address such as fixed:r:sha256:…, found {0:?}")]
    Unreadable(String),
    /// The method and algorithm cannot make a path with these references.
    #[error("{address} cannot make a path with these references: {why}")]
    Impossible {
        /// The claimed content address.
        address: ContentAddress,
        /// Nix's rule that it breaks.
        why: String,
    },
    /// It makes another path.
    #[error("{address} makes {made}, not {claimed}")]
    OtherPath {
        /// The claimed content address.
        address: ContentAddress,
        /// The path that address and references make.
        made: Box<StorePath>,
        /// The path that was claimed.
        claimed: Box<StorePath>,
    },
}

/// What bytes say of the content address that a path is said to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressProof {
    /// The path has none.
    None,
    /// It was recomputed from them, and holds.
    Proven,
    /// It was recomputed as Nix 2.17 to 2.34 does for a path that names itself, and holds: other contents may share it.
    WithoutOffsets,
}

/// A content address as a narinfo's `CA:` field spells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentAddress(CAHash);

impl ContentAddress {
    /// Wraps a hash with its method.
    #[must_use]
    pub fn new(hash: CAHash) -> Self {
        Self(hash)
    }

    /// Reads a content address; the empty text is none.
    ///
    /// # Errors
    /// [`AddressError::Unreadable`].
    pub fn parse_optional(text: &str) -> Result<Option<Self>, AddressError> {
        if text.is_empty() {
            return Ok(None);
        }
        match CAHash::parse(text) {
            Ok(hash) => Ok(Some(Self(hash))),
            Err(_) => Err(AddressError::Unreadable(text.chars().take(200).collect())),
        }
    }

    /// Returns the hash with its method.
    #[must_use]
    pub fn hash(&self) -> &CAHash {
        &self.0
    }

    /// Returns how the hash was taken.
    #[must_use]
    pub fn method(&self) -> ContentAddressMethod {
        self.0.method()
    }

    /// Returns the hash's algorithm.
    #[must_use]
    pub fn algorithm(&self) -> HashAlgorithm {
        self.0.hash().algorithm()
    }

    /// Says whether two contents can be made to share this address: true of MD5 and SHA-1, which therefore stand for
    /// nothing without signatures.
    #[must_use]
    pub fn is_forgeable(&self) -> bool {
        matches!(self.algorithm(), HashAlgorithm::Md5 | HashAlgorithm::Sha1)
    }

    /// Returns the path that this address makes with a name and references (`path` itself among them or not).
    ///
    /// # Errors
    /// [`AddressError::Impossible`], for instance for a flat file with references.
    pub fn make_path(
        &self,
        store_dir: &StoreDir,
        name: &str,
        references: &BTreeSet<StorePath>,
        self_reference: bool,
    ) -> Result<StorePath, AddressError> {
        store_dir
            .build_ca_path(name, &self.0, references, self_reference)
            .map_err(|why| AddressError::Impossible { address: self.clone(), why: why.to_string() })
    }

    /// Checks that this address, with the name and references of `info`, makes the path of `info`. The bytes are not
    /// looked at: that their hash is the address's own is for [`digest_nar`](crate::digest_nar) to show.
    ///
    /// # Errors
    /// [`AddressError::Impossible`] or [`AddressError::OtherPath`].
    pub fn check_path(&self, store_dir: &StoreDir, info: &PathInfo) -> Result<(), AddressError> {
        let others: BTreeSet<StorePath> = info.other_references().cloned().collect();
        let self_reference = others.len() != info.references.len();
        let made = self.make_path(store_dir, info.path.name(), &others, self_reference)?;
        if made == info.path {
            return Ok(());
        }
        Err(AddressError::OtherPath {
            address: self.clone(),
            made: Box::new(made),
            claimed: Box::new(info.path.clone()),
        })
    }
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_nix_string())
    }
}
