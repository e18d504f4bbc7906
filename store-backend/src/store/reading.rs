//! What anybody can read of a store, whoever keeps it. Only gates write, so there is no more to a store than this.
//!
//! Nothing that is read here is believed: it is what a store says, to be held against signatures and bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use async_trait::async_trait;
use nix_narinfo::Compression;
use verifier::{Claim, OutputId, PathInfo, StoreDir, StorePath, Timestamp};

use super::StoreError;
use crate::decompress::{Checksums, decompress};

/// A signature that a store has, with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedSignature {
    /// The text, as the store spells it.
    pub text: String,
    /// When this store first saw it; none where nobody recorded that.
    pub first_seen: Option<Timestamp>,
}

/// What is known of the times at which signatures were first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// The store recorded them.
    Recorded,
    /// The store records none, or not of this path.
    None,
    /// The store records them, but this reader may not see them; the system's words.
    Closed(String),
}

/// Where and how a binary cache keeps a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarFile {
    /// Its place in the cache, as the narinfo says it.
    pub url: String,
    /// How it is compressed.
    pub compression: Compression,
    /// Its size in bytes, where the narinfo says it.
    pub size: Option<u64>,
}

/// What a store says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The path info.
    pub info: PathInfo,
    /// The signatures. The gate's own, made when it admitted the path, are not among them where the store tells them apart.
    pub signatures: Vec<StatedSignature>,
    /// What is known of the signatures' times.
    pub history: History,
    /// Other fingerprints that are held for the same path, where the store holds any.
    pub rivals: Vec<PathInfo>,
    /// Where the NAR is; none for a store that is asked for it by path.
    pub file: Option<NarFile>,
}

impl Statement {
    /// Makes what a store says that keeps no more than a path's info.
    pub(super) fn of(info: PathInfo) -> Self {
        let stated = |text: &String| StatedSignature { text: text.clone(), first_seen: None };
        let signatures = info.signatures.iter().map(stated).collect();
        Self { info, signatures, history: History::None, rivals: Vec::new(), file: None }
    }

    /// Returns roughly how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        let texts = self.signatures.iter().map(|stated| 2 * stated.text.len() + 100).sum::<usize>();
        let rivals = self.rivals.iter().map(|rival| rival.references.len()).sum::<usize>();
        texts + 100 * (self.info.references.len() + rivals)
    }

    /// Returns the signatures as they are weighed.
    pub fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        self.signatures.iter().map(|stated| Claim { text: &stated.text, first_seen: stated.first_seen })
    }
}

/// Most paths of one store: twenty times those of the largest closures there are. A store that names more makes them up.
pub const MAX_PATHS: usize = 2_000_000;

/// Most unreadable objects that are named; whoever mends these asks again.
const MAX_UNREADABLE: usize = 10;

/// Every path of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The paths, of which there are no more than [`MAX_PATHS`].
    pub paths: BTreeSet<StorePath>,
    /// What is there and cannot be read, each of the first in a sentence: which paths these are, nobody can tell.
    pub unreadable: Vec<String>,
    /// How many more of these there are.
    pub more_unreadable: usize,
}

impl Listed {
    /// Adds a path, or that there is no room for it.
    pub(super) fn add(&mut self, path: StorePath) {
        if self.paths.len() < MAX_PATHS {
            self.paths.insert(path);
        } else if !self.paths.contains(&path) {
            self.add_unreadable(format!("there are more than {MAX_PATHS} paths"));
        }
    }

    /// Adds what cannot be read.
    pub(super) fn add_unreadable(&mut self, why: String) {
        if self.unreadable.len() < MAX_UNREADABLE {
            self.unreadable.push(why);
        } else {
            self.more_unreadable += 1;
        }
    }
}

/// The bytes of a NAR, decompressed, for a thread that may block.
///
/// An error of kind `InvalidData` or `UnexpectedEof` says that what is kept is damaged; any other that it cannot be read.
pub trait ReadNar: Read + Send {
    /// Says that what was read is one whole NAR: where it came over a connection, that one is of further use.
    fn was_whole(&mut self) {}
}

impl ReadNar for Box<dyn Read + Send> {}

/// A NAR as a store keeps it.
pub enum Nar {
    /// Its bytes. There are as many as are stated, fewer where there are no more, and more only where the store has more.
    Bytes(Box<dyn ReadNar>),
    /// Likewise, from a file: who reads them waits for a disk at most, or for what serves the file system.
    AtHand(Box<dyn Read + Send>),
    /// A file, directory or link, of which it is made.
    Files(PathBuf),
}

impl Nar {
    /// Makes the NAR of what a binary cache has for a path, compressed as its narinfo says. No compression makes it much larger: what
    /// comes beyond that is not read.
    pub(super) fn compressed(
        compressed: impl Read + Send + 'static,
        path: &PathInfo,
        file: &NarFile,
        is_remote: bool,
    ) -> Result<Self, StoreError> {
        let compressed = Box::new(compressed.take(Self::most_compressed(path)));
        let bytes = decompress(compressed, &file.compression, Checksums::LeaveOut);
        let bytes = bytes.map_err(|source| StoreError::Compression { url: file.url.clone(), source })?;
        Ok(if is_remote { Self::Bytes(Box::new(bytes)) } else { Self::AtHand(bytes) })
    }

    /// Returns the most bytes that a path's NAR can reasonably have when it is compressed.
    pub(super) fn most_compressed(path: &PathInfo) -> u64 {
        path.nar_size.saturating_add(path.nar_size / 8).saturating_add(1 << 20)
    }
}

/// How a store is best asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Questions that are asked at once.
    pub at_once: usize,
    /// Paths in one question.
    pub paths: usize,
    /// Contents that are read at once, for each processor.
    pub contents: usize,
}

impl Pace {
    /// Contents for each processor: one that it works on, and one that comes from a disk, a daemon or a network.
    pub(super) const CONTENTS: usize = 2;
    /// Likewise where they are at hand: two that it works on, and as many that are opened or judged meanwhile.
    pub(super) const CONTENTS_AT_HAND: usize = 4;
}

/// What a store says of each path that it was asked about, in the same order; none of one that is not valid there.
pub type Statements = Vec<(StorePath, Result<Option<Statement>, StoreError>)>;

/// A derivation's outputs by name; none for one whose path is not known.
pub type Outputs = BTreeMap<String, Option<StorePath>>;

/// A store that can be read.
///
/// Whoever writes one of these owes that an absent path is `None`, and that an error means that the store could not be asked.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the store directory.
    fn store_dir(&self) -> &StoreDir;

    /// Returns how the store is best asked.
    fn pace(&self) -> Pace;

    /// Returns what the store says of some paths, no more than its pace has in one question. After an error that will meet every
    /// further question too, the rest is left out.
    async fn statements(&self, paths: Vec<StorePath>) -> Statements;

    /// Returns the valid ones of some paths.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn valid_among(&self, paths: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Returns every valid path.
    ///
    /// # Errors
    /// When the store cannot be listed.
    async fn all_paths(&self) -> Result<Listed, StoreError>;

    /// Returns the outputs of a derivation that is valid there, as far as their paths are known.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn outputs(&self, derivation: &Statement) -> Result<Outputs, StoreError>;

    /// Returns the path that an output turned out to be, as the store says; none if it does not say it.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn realised(&self, id: &OutputId) -> Result<Option<StorePath>, StoreError>;

    /// Opens the NAR of a path; none if it is not there.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn open_nar(&self, statement: &Statement) -> Result<Option<Nar>, StoreError>;
}
