//! Reading a NAR once: its hash, size, structure and listing, and the content address its bytes make.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use nix_archive::nar::{Error as ArchiveError, Event, decode_events_reader};
use nix_derivation::{CAHash, ContentAddressMethod, HashAlgorithm, NixHash, NixHasher, StoreDir, nixbase32};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::address::{AddressError, AddressProof};
use crate::comparison;
use crate::git::{self, GitError, GitHasher};
use crate::hash_modulo::ModuloHasher;
use crate::listing::Listing;
use crate::path_info::{NarHash, PathInfo};

/// Bytes read and hashed at a time: large enough that hashing runs at its full rate, small enough for the cache.
const BLOCK: usize = 64 << 10;

/// Most entries (files, links, directories) in one NAR. The largest real ones hold some hundred thousand.
const MAX_ENTRIES: u64 = 4_000_000;

/// Longest name of an entry, in bytes. Linux has no longer ones, and Nix (2.31.5, 2.34.7 and later) reads none.
const MAX_NAME: usize = 255;

/// Longest target of a symbolic link, in bytes, for the same reasons.
const MAX_TARGET: usize = 4095;

/// Why bytes are not the NAR that they should be.
#[derive(Debug, Error)]
pub enum NarError {
    /// They are not a NAR: whoever sent or stored them caused it.
    #[error("malformed NAR after {offset} bytes: {source}")]
    Malformed {
        /// How many bytes had been read.
        offset: u64,
        /// What is wrong there.
        #[source]
        source: ArchiveError,
    },
    /// They could not be read: the connection or the store caused it.
    #[error("reading a NAR failed after {offset} bytes: {source}")]
    Read {
        /// How many bytes had been read.
        offset: u64,
        /// What reading said.
        #[source]
        source: io::Error,
    },
    /// There are more entries than are read.
    #[error("this NAR has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// There are more self-references than are counted.
    #[error("this NAR names its own path more than a million times")]
    TooManySelfReferences,
    /// A flat or text content address was asked of something that is not one plain file.
    #[error("a {0} content address needs a NAR of one file that is not executable")]
    NotOneFile(&'static str),
    /// A text content address was asked for with an algorithm that it never has.
    #[error("a text content address is a SHA-256, not a {0}")]
    NoTextHash(&'static str),
    /// Git has no such hash.
    #[error("Git has no objects with the hash {0}")]
    NoGitHash(&'static str),
    /// A Git content address was asked of an executable file or a symbolic link. Git's hash of it is that of a plain
    /// file with the same bytes, so one path would stand for three contents.
    #[error("a git content address needs a NAR of a directory, or of one file that is not executable")]
    NoGitRoot,
    /// More entries wait for their directory's end than a Git hash can keep.
    #[error(
        "this NAR has more than {} entries in open directories, too many for a git content address",
        git::MAX_WAITING
    )]
    TooManyForGit,
    /// There are more entries than are kept to compare NARs.
    #[error(
        "this NAR has more than {} entries, too many to be compared; unpack both and compare the directories",
        comparison::MAX_ENTRIES
    )]
    TooManyToCompare,
    /// Paths and the targets of links are longer, all together, than what is kept to compare NARs.
    #[error(
        "the paths and link targets of this NAR have more than {} bytes, too many to be compared; unpack both and compare \
         the directories",
        comparison::MAX_PATHS
    )]
    PathsTooLong,
}

impl NarError {
    /// Says whether the archive or its reader is to blame for what stopped the decoder after so many bytes.
    pub(crate) fn after(offset: u64, source: ArchiveError) -> Self {
        match source {
            ArchiveError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => Self::Read { offset, source },
            source => Self::Malformed { offset, source },
        }
    }
}

/// Which content address to compute while a NAR passes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    /// How the hash is taken.
    pub method: ContentAddressMethod,
    /// With which algorithm.
    pub algorithm: HashAlgorithm,
    /// The path's own hash part (32 characters), each occurrence of which counts as zeros in an address over the NAR;
    /// none for a path that is not known yet. The other methods cannot name themselves, and take the bytes as they are.
    pub own_hash_part: Option<String>,
}

impl AddressRequest {
    /// Returns what has to be computed from a path's NAR to prove the content address that it is said to have; none if it has
    /// none.
    #[must_use]
    pub fn of_path(info: &PathInfo) -> Option<Self> {
        info.content_address.as_ref().map(|address| Self {
            method: address.method(),
            algorithm: address.algorithm(),
            own_hash_part: Some(nixbase32::encode(info.path.digest())),
        })
    }
}

impl NarDigest {
    /// Makes what is known of a NAR of which nothing but its hash and size is.
    #[must_use]
    pub fn of_hash(nar_hash: NarHash, nar_size: u64) -> Self {
        Self { nar_hash, nar_size, listing: None, address: None, address_without_offsets: None }
    }

    /// Compares the content address that a path is said to have with its name and references, and with these bytes, which must
    /// have been read with [`AddressRequest::of_path`].
    ///
    /// # Errors
    /// When the address does not make the path, or is not that of the bytes.
    pub fn prove_address(&self, store_dir: &StoreDir, info: &PathInfo) -> Result<AddressProof, AddressError> {
        let Some(address) = &info.content_address else {
            return Ok(AddressProof::None);
        };
        address.check_path(store_dir, info)?;
        if self.address.as_ref() == Some(address.hash()) {
            return Ok(AddressProof::Proven);
        }
        if self.address_without_offsets.as_ref() == Some(address.hash()) {
            return Ok(AddressProof::WithoutOffsets);
        }
        let found = self.address.as_ref().map_or_else(|| "none".to_owned(), CAHash::to_nix_string);
        Err(AddressError::OtherBytes { address: address.clone(), found })
    }
}

/// What one reading of a NAR found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarDigest {
    /// SHA-256 of the bytes.
    pub nar_hash: NarHash,
    /// Their number.
    pub nar_size: u64,
    /// The listing in Nix's `.ls` format (JSON); none where it would pass 8 MiB or a name is not UTF-8.
    pub listing: Option<Vec<u8>>,
    /// The content address that was asked for.
    pub address: Option<CAHash>,
    /// For an address over the NAR of a path that names itself: the one that Nix 2.17 to 2.34 computes, without the offsets
    /// of the self-references. Contents with some of them zeroed share it, so it stands for nothing without signatures.
    pub address_without_offsets: Option<CAHash>,
}

/// Reads one whole NAR, which must be all that `reader` has. Memory stays bounded whatever its size.
///
/// # Errors
/// When the bytes are no NAR, pass a limit, cannot be read, or cannot have the address asked for.
///
/// Source: Nix `src/libutil/archive.cc`; `src/libstore/local-store.cc`, `addToStore` for the addresses.
pub fn digest_nar<R: Read>(reader: R, request: Option<&AddressRequest>) -> Result<NarDigest, NarError> {
    let mut visit = Visit::new(request)?;
    let mut reader = HashingReader::new(reader, visit.whole.take());
    let position = reader.position.clone();
    let decoded = decode_events_reader(&mut reader, |event| visit.event(event, &position));
    let offset = position.get();
    if let Some(error) = visit.refused.or(reader.refused) {
        return Err(error);
    }
    decoded.map_err(|source| NarError::after(offset, source))?;
    let (whole, without_offsets) = reader.whole.map(ModuloHasher::finish).unzip();
    let hash = visit.flat.or(whole);
    let address = match (request, visit.git, hash) {
        (None, ..) => None,
        (Some(_), Some(git), _) => git.finish().map(CAHash::Git),
        (Some(request), None, Some(hash)) => {
            let made = CAHash::from_parts(request.method, hash.algorithm(), hash.digest_as_bytes());
            Some(made.map_err(|_| NarError::NoTextHash(request.algorithm.as_str()))?)
        }
        (Some(request), None, None) => return Err(NarError::NotOneFile(request.method.as_str())),
    };
    Ok(NarDigest {
        nar_hash: NarHash::from_sha256(reader.sha256.finalize().into()),
        nar_size: offset,
        listing: visit.listing.finish(),
        address,
        address_without_offsets: without_offsets.flatten().map(CAHash::Nar),
    })
}

/// What is gathered from the archive's events.
struct Visit<'a> {
    request: Option<&'a AddressRequest>,
    listing: Listing,
    entries: u64,
    /// For flat and text addresses: the one file's hash, once it was there.
    flat: Option<NixHash>,
    git: Option<GitHasher>,
    /// For addresses over the NAR itself: handed to the reader.
    whole: Option<ModuloHasher>,
    refused: Option<NarError>,
}

impl<'a> Visit<'a> {
    fn new(request: Option<&'a AddressRequest>) -> Result<Self, NarError> {
        let (mut git, mut whole) = (None, None);
        match request.map(|request| (request.method, request)) {
            Some((ContentAddressMethod::Git, request)) => {
                let hasher = GitHasher::new(request.algorithm);
                git = Some(hasher.ok_or(NarError::NoGitHash(request.algorithm.as_str()))?);
            }
            Some((ContentAddressMethod::Nar, request)) => {
                whole = Some(ModuloHasher::new(request.algorithm, request.own_hash_part.as_deref()));
            }
            _ => {}
        }
        Ok(Self { request, listing: Listing::new(), entries: 0, flat: None, git, whole, refused: None })
    }

    fn event<R: Read>(
        &mut self,
        event: nix_archive::nar::ReadEvent<'_, R>,
        position: &Cell<u64>,
    ) -> Result<(), ArchiveError> {
        match event {
            Event::DirectoryStart { name } => {
                self.begin(name)?;
                self.listing.start_directory(name);
                if let Some(git) = &mut self.git {
                    git.start_directory(name);
                }
            }
            Event::DirectoryEnd { .. } => {
                self.listing.end_directory();
                self.git(|git| git.end_directory())?;
            }
            Event::Symlink { name, target } => {
                self.begin(name)?;
                check_target(target)?;
                self.listing.symlink(name, target);
                if name.is_none() {
                    self.refuse_git_root()?;
                }
                self.git(|git| git.symlink(name, target))?;
            }
            Event::Regular { name, executable, mut contents } => {
                self.begin(name)?;
                self.listing.regular(name, executable, contents.size(), position.get());
                if name.is_none() && executable {
                    self.refuse_git_root()?;
                }
                if self.git.is_some() {
                    self.git(|git| git.regular(name, executable, contents.size(), &mut contents))?;
                } else if let Some(request) = self.wants_flat(name, executable) {
                    self.flat = Some(hash_file(request.algorithm, &mut contents)?);
                }
            }
        }
        Ok(())
    }

    /// Counts an entry and checks its name's length.
    fn begin(&mut self, name: Option<&[u8]>) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(self.refuse(NarError::TooManyEntries));
        }
        check_name(name)
    }

    /// Notes what is wrong; the error itself only stops the reading.
    fn refuse(&mut self, why: NarError) -> ArchiveError {
        self.refused = Some(why);
        ArchiveError::TrailingBytes
    }

    fn refuse_git_root(&mut self) -> Result<(), ArchiveError> {
        if self.git.is_none() { Ok(()) } else { Err(self.refuse(NarError::NoGitRoot)) }
    }

    fn git(&mut self, step: impl FnOnce(&mut GitHasher) -> Result<(), GitError>) -> Result<(), ArchiveError> {
        let Some(git) = &mut self.git else { return Ok(()) };
        step(git).map_err(|error| match error {
            GitError::Io(error) => ArchiveError::Io(error),
            GitError::TooManyWaiting => self.refuse(NarError::TooManyForGit),
        })
    }

    fn wants_flat(&self, name: Option<&[u8]>, executable: bool) -> Option<&'a AddressRequest> {
        let flat = [ContentAddressMethod::Flat, ContentAddressMethod::Text];
        self.request.filter(|request| flat.contains(&request.method) && name.is_none() && !executable)
    }
}

fn hash_file(algorithm: HashAlgorithm, contents: &mut impl Read) -> io::Result<NixHash> {
    let mut hasher = NixHasher::new(algorithm);
    let mut block = vec![0; BLOCK];
    loop {
        match contents.read(&mut block)? {
            0 => return Ok(hasher.finalize()),
            got => hasher.update(&block[..got]),
        }
    }
}

/// Refuses a name that no Linux file system can keep; the root has none.
pub(crate) fn check_name(name: Option<&[u8]>) -> Result<(), ArchiveError> {
    check_length(name.unwrap_or_default(), MAX_NAME)
}

fn check_length(bytes: &[u8], limit: usize) -> Result<(), ArchiveError> {
    let size = bytes.len() as u64;
    if bytes.len() > limit { Err(ArchiveError::TokenTooLarge { size, limit }) } else { Ok(()) }
}

/// Refuses what `symlink(2)` would refuse or cut off, so that what lies on a disk would not be what was hashed.
pub(crate) fn check_target(target: &[u8]) -> Result<(), ArchiveError> {
    check_length(target, MAX_TARGET)?;
    if target.is_empty() || target.contains(&0) {
        let got = String::from_utf8_lossy(target).into_owned();
        return Err(ArchiveError::UnexpectedToken { expected: "a symbolic link's target", got });
    }
    Ok(())
}

/// Reads in blocks, hashing each whole block as it arrives, and hands out pieces of any size.
struct HashingReader<R> {
    inner: R,
    sha256: Sha256,
    whole: Option<ModuloHasher>,
    block: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes handed out so far, for whoever else needs to know.
    position: Rc<Cell<u64>>,
    refused: Option<NarError>,
}

impl<R: Read> HashingReader<R> {
    fn new(inner: R, whole: Option<ModuloHasher>) -> Self {
        Self {
            inner,
            sha256: Sha256::new(),
            whole,
            block: vec![0; BLOCK].into_boxed_slice(),
            start: 0,
            end: 0,
            position: Rc::default(),
            refused: None,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.start = 0;
        self.end = 0;
        self.end = loop {
            match self.inner.read(&mut self.block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.sha256.update(&self.block[..self.end]);
        if let Some(whole) = &mut self.whole
            && whole.update(&self.block[..self.end]).is_err()
        {
            self.refused = Some(NarError::TooManySelfReferences);
            return Err(io::Error::other("too many self-references"));
        }
        Ok(())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            self.refill()?;
        }
        let count = buffer.len().min(self.end - self.start);
        buffer[..count].copy_from_slice(&self.block[self.start..self.start + count]);
        self.start += count;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}
