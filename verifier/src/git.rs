//! Git object hashes of a NAR's tree, for `fixed:git:` content addresses.

use std::io::{self, Read, Write};

use nix_archive::git::{BlobWriter, Hashed, Mode, TreeEntry, hash_blob, hash_tree, sort_entries};
use nix_derivation::{HashAlgorithm, NixHash};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Most entries that may wait for their directory's end at once: their names and hashes are kept until then.
pub(crate) const MAX_WAITING: usize = 250_000;

/// Why a hash could not be taken.
pub(crate) enum GitError {
    /// The archive could not be read, or ended too early.
    Io(io::Error),
    /// More than [`MAX_WAITING`] entries wait.
    TooManyWaiting,
}

impl From<io::Error> for GitError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Folds the events of a NAR into Git objects; SHA-1 and SHA-256 are the algorithms that Git has.
pub(crate) enum GitHasher {
    Sha1(Tree<Sha1>),
    Sha256(Tree<Sha256>),
}

macro_rules! each {
    ($self:ident, $tree:ident => $call:expr) => {
        match $self {
            Self::Sha1($tree) => $call,
            Self::Sha256($tree) => $call,
        }
    };
}

impl GitHasher {
    /// Starts a hash, or none for an algorithm that Git does not have.
    pub(crate) fn new(algorithm: HashAlgorithm) -> Option<Self> {
        match algorithm {
            HashAlgorithm::Sha1 => Some(Self::Sha1(Tree::new())),
            HashAlgorithm::Sha256 => Some(Self::Sha256(Tree::new())),
            _ => None,
        }
    }

    pub(crate) fn start_directory(&mut self, name: Option<&[u8]>) {
        each!(self, tree => tree.open.push((name.unwrap_or_default().to_vec(), Vec::new())));
    }

    pub(crate) fn end_directory(&mut self) -> Result<(), GitError> {
        each!(self, tree => tree.end_directory())
    }

    pub(crate) fn symlink(&mut self, name: Option<&[u8]>, target: &[u8]) -> Result<(), GitError> {
        each!(self, tree => tree.symlink(name, target))
    }

    pub(crate) fn regular(
        &mut self,
        name: Option<&[u8]>,
        executable: bool,
        size: u64,
        contents: &mut impl Read,
    ) -> Result<(), GitError> {
        each!(self, tree => tree.regular(name, executable, size, contents))
    }

    pub(crate) fn finish(self) -> Option<NixHash> {
        each!(self, tree => {
            let (_, root) = tree.root?;
            let algorithm =
                if root.hash.len() == 20 { HashAlgorithm::Sha1 } else { HashAlgorithm::Sha256 };
            NixHash::from_algorithm_and_digest(algorithm, &root.hash).ok()
        })
    }
}

type Child<D> = (Vec<u8>, Hashed<D>);

pub(crate) struct Tree<D: Digest> {
    open: Vec<(Vec<u8>, Vec<Child<D>>)>,
    waiting: usize,
    root: Option<Child<D>>,
}

impl<D: Digest> Tree<D> {
    fn new() -> Self {
        Self { open: Vec::new(), waiting: 0, root: None }
    }

    fn add(&mut self, name: Option<&[u8]>, hashed: Hashed<D>) -> Result<(), GitError> {
        let child = (name.unwrap_or_default().to_vec(), hashed);
        match self.open.last_mut() {
            Some((_, children)) => {
                children.push(child);
                self.waiting += 1;
            }
            None => self.root = Some(child),
        }
        if self.waiting > MAX_WAITING {
            return Err(GitError::TooManyWaiting);
        }
        Ok(())
    }

    fn end_directory(&mut self) -> Result<(), GitError> {
        let Some((name, children)) = self.open.pop() else {
            return Err(io::Error::other("a directory ended that had not begun").into());
        };
        self.waiting -= children.len();
        let mut entries: Vec<TreeEntry<'_>> = children.iter().map(|(name, hashed)| hashed.entry(name)).collect();
        sort_entries(&mut entries);
        let hash = hash_tree::<D>(&entries).map_err(io::Error::other)?;
        self.add(Some(&name), Hashed { mode: Mode::Directory, hash })
    }

    fn symlink(&mut self, name: Option<&[u8]>, target: &[u8]) -> Result<(), GitError> {
        self.add(name, Hashed { mode: Mode::Symlink, hash: hash_blob::<D>(target) })
    }

    fn regular(
        &mut self,
        name: Option<&[u8]>,
        executable: bool,
        size: u64,
        contents: &mut impl Read,
    ) -> Result<(), GitError> {
        let mut blob = BlobWriter::new(DigestWriter(D::new()), size)?;
        if io::copy(contents, &mut blob)? < size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let hash = blob.finish().map_err(io::Error::other)?.0.finalize();
        let mode = if executable { Mode::Executable } else { Mode::Regular };
        self.add(name, Hashed { mode, hash })
    }
}

struct DigestWriter<D>(D);

impl<D: Digest> Write for DigestWriter<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
