//! What goes over the wire, put together word by word.

use verifier::PathInfo;

use super::package::{Package, full};

pub const CLIENT_MAGIC: u64 = 0x6e69_7863;
pub const SERVER_MAGIC: u64 = 0x6478_696f;

/// Operations by Nix's numbers.
pub mod op {
    pub const IS_VALID_PATH: u64 = 1;
    pub const QUERY_REFERRERS: u64 = 6;
    pub const ADD_TO_STORE: u64 = 7;
    pub const ADD_TEXT_TO_STORE: u64 = 8;
    pub const BUILD_PATHS: u64 = 9;
    pub const ENSURE_PATH: u64 = 10;
    pub const FIND_ROOTS: u64 = 14;
    pub const QUERY_DERIVER: u64 = 18;
    pub const COLLECT_GARBAGE: u64 = 20;
    pub const QUERY_DERIVATION_OUTPUTS: u64 = 22;
    pub const QUERY_ALL_VALID_PATHS: u64 = 23;
    pub const QUERY_PATH_INFO: u64 = 26;
    pub const QUERY_DERIVATION_OUTPUT_NAMES: u64 = 28;
    pub const QUERY_PATH_FROM_HASH_PART: u64 = 29;
    pub const QUERY_VALID_PATHS: u64 = 31;
    pub const QUERY_VALID_DERIVERS: u64 = 33;
    pub const VERIFY_STORE: u64 = 35;
    pub const BUILD_DERIVATION: u64 = 36;
    pub const ADD_SIGNATURES: u64 = 37;
    pub const NAR_FROM_PATH: u64 = 38;
    pub const ADD_TO_STORE_NAR: u64 = 39;
    pub const QUERY_MISSING: u64 = 40;
    pub const QUERY_DERIVATION_OUTPUT_MAP: u64 = 41;
    pub const REGISTER_DRV_OUTPUT: u64 = 42;
    pub const QUERY_REALISATION: u64 = 43;
    pub const ADD_MULTIPLE_TO_STORE: u64 = 44;
    pub const ADD_BUILD_LOG: u64 = 45;
    pub const BUILD_PATHS_WITH_RESULTS: u64 = 46;
}

/// Bytes of the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(pub Vec<u8>);

impl Words {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a request.
    pub fn op(number: u64) -> Self {
        Self::new().u64(number)
    }

    pub fn u64(mut self, word: u64) -> Self {
        self.0.extend_from_slice(&word.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self = self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    pub fn str(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub fn strings<T: AsRef<str>>(self, texts: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>) -> Self {
        let texts = texts.into_iter();
        let words = self.u64(texts.len() as u64);
        texts.fold(words, |words, text| words.str(text.as_ref()))
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A path info without its path.
    pub fn unkeyed_info(self, info: &PathInfo) -> Self {
        self.str(&info.deriver.as_ref().map_or_else(String::new, full))
            .str(&info.nar_hash.to_base16())
            .strings(info.references.iter().map(full).collect::<Vec<_>>())
            .u64(info.registration_time)
            .u64(info.nar_size)
            .u64(info.ultimate.into())
            .strings(info.signatures.iter().collect::<Vec<_>>())
            .str(&info.content_address.as_ref().map_or_else(String::new, ToString::to_string))
    }

    pub fn info(self, info: &PathInfo) -> Self {
        self.str(&full(&info.path)).unkeyed_info(info)
    }

    /// A path info, then its NAR: an item of `AddMultipleToStore`.
    pub fn item(self, package: &Package) -> Self {
        self.info(&package.info).raw(&package.nar)
    }

    /// Bytes in frames of at most `frame` bytes, with the empty one that ends them.
    pub fn framed(self, payload: &[u8], frame: usize) -> Self {
        let pieces = payload.chunks(frame);
        pieces.fold(self, |words, piece| words.u64(piece.len() as u64).raw(piece)).u64(0)
    }
}

/// What `AddMultipleToStore` has in its frames for these packages.
pub fn items(packages: &[&Package]) -> Vec<u8> {
    packages.iter().fold(Words::new().u64(packages.len() as u64), |words, package| words.item(package)).0
}

/// A whole `AddMultipleToStore`, in frames of the size that Nix writes.
pub fn add_multiple(packages: &[&Package]) -> Words {
    Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).framed(&items(packages), 32 << 10)
}

/// A whole `AddToStoreNar`.
pub fn add_to_store_nar(package: &Package) -> Words {
    Words::op(op::ADD_TO_STORE_NAR).info(&package.info).u64(0).u64(0).framed(&package.nar, 32 << 10)
}
