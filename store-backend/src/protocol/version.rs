use std::collections::BTreeSet;
use std::fmt;

/// A version of the worker protocol. On the wire it is `major << 8 | minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// 1 in every Nix there has been.
    pub major: u8,
    /// Counts up with each change.
    pub minor: u8,
}

/// The newest version spoken: 1.38, which Nix 2.26 up to 2.36 announce. A 1.39 appeared in development and was taken
/// back; a client that announces it, or anything later, is spoken to in 1.38.
pub const NEWEST: ProtocolVersion = ProtocolVersion { major: 1, minor: 38 };

/// The oldest version spoken: 1.32, of Nix 2.4, the first with `AddMultipleToStore` and `AddBuildLog`.
pub const OLDEST: ProtocolVersion = ProtocolVersion { major: 1, minor: 32 };

impl ProtocolVersion {
    /// Reads a version from its word; bits above 16 are ignored, as in Nix.
    #[must_use]
    pub const fn from_wire(word: u64) -> Self {
        Self { major: (word >> 8) as u8, minor: word as u8 }
    }

    /// Returns the version as a word.
    #[must_use]
    pub const fn to_wire(self) -> u64 {
        (self.major as u64) << 8 | self.minor as u64
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

const REALISATION_WITH_PATH: &str = "realisation-with-path-not-hash";

/// The features that both ends have; from 1.38 on they are exchanged as a set of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features(BTreeSet<String>);

impl Features {
    /// Returns what this program has. `delete-dead-specific-referrers` is not among it: a client that wants referrers
    /// deleted is told by its own Nix that the store cannot, before anything is asked of us.
    #[must_use]
    pub fn ours() -> Self {
        Self(BTreeSet::from([REALISATION_WITH_PATH.to_owned()]))
    }

    /// Takes names as a peer sent them.
    #[must_use]
    pub fn from_names(names: Vec<String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// Returns what stands in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// Lists the names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Says whether realisations are keyed by the derivation's path instead of a hash.
    #[must_use]
    pub fn realisation_with_path(&self) -> bool {
        self.0.contains(REALISATION_WITH_PATH)
    }
}
