//! Contents: hashed as they pass by, in bounded memory, and compared with what is said of them.

use std::io::{self, ErrorKind, Read, Write as _};
use std::sync::Arc;

use nix_archive::nar::Error as ArchiveError;
use policy::{Address, Code, Finding, Strength};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use verifier::{
    AddressProof, AddressRequest, ContentAddressMethod, HashAlgorithm, NarDigest, NarError, PathInfo, StoreDir,
    digest_nar,
};

use super::Progress;
use super::files::digest_files;
use super::hashing::{BLOCK, Count, Hashing};
use super::lanes::{Lanes, processors};
use crate::client::ClientError;
use crate::store::{Nar, Statement, Store, StoreError};

/// What is known of a path's contents and of its content address.
pub(super) struct Checked {
    pub(super) address: Address,
    /// What the bytes say of it, where they were read.
    pub(super) proof: AddressProof,
    /// What is wrong.
    pub(super) failures: Vec<Finding>,
    /// Why it is not known whether something is wrong.
    pub(super) unchecked: Option<Finding>,
}

/// Checks what can be checked without the bytes. A SHA-256 over the NAR itself is the NAR hash, so there the one vouches for the
/// other; any other address is a claim.
pub(super) fn check_statement(store_dir: &StoreDir, info: &PathInfo) -> Checked {
    let Some(address) = &info.content_address else {
        return Checked::unread(Address::None);
    };
    if let Err(error) = address.check_path(store_dir, info) {
        return Checked::false_address(error.to_string());
    }
    let plain = address.method() == ContentAddressMethod::Nar
        && address.algorithm() == HashAlgorithm::Sha256
        && !info.references.contains(&info.path);
    if !plain {
        return Checked::unread(Address::claimed(info));
    }
    if address.hash().hash().digest_as_bytes() == info.nar_hash.as_bytes() {
        Checked::unread(Address::Proven(Strength::of(address)))
    } else {
        Checked::false_address(format!("the address says {address}, the NAR hash is {}", info.nar_hash))
    }
}

/// Reads the contents, and compares them with what is said of them.
pub(super) async fn check_contents(store: &dyn Store, statement: &Statement, reading: &Reading) -> Checked {
    let info = &statement.info;
    let claimed = Address::claimed(info);
    let failed = |finding| Checked { failures: vec![finding], ..Checked::unread(claimed) };
    let unchecked = |finding| Checked { unchecked: Some(finding), ..Checked::unread(claimed) };
    let missing = |why: String| Finding::new(Code::MissingContent, why);
    let nar = match store.open_nar(statement).await {
        Ok(Some(nar)) => nar,
        Ok(None) => {
            let place = statement.file.as_ref().map_or("its contents", |file| &file.url);
            return failed(missing(format!("{place} is not there")));
        }
        // The store was asked, and says that it has nothing to give.
        Err(StoreError::Daemon(ClientError::Remote(why))) => return failed(missing(why)),
        Err(error) => return unchecked(missing(error.to_string())),
    };
    let digest = match reading.digest(nar, info).await {
        Ok(digest) => digest,
        Err(error) => {
            return match complaint(&error) {
                Complaint::Damaged(code) => failed(Finding::new(code, format!("{}: {error}", expected(info)))),
                Complaint::FalseAddress => Checked::false_address(error.to_string()),
                Complaint::Unknown(code) => unchecked(Finding::new(code, error.to_string())),
            };
        }
    };
    if (digest.nar_hash, digest.nar_size) != (info.nar_hash, info.nar_size) {
        let found = format!("found {} of {} bytes", digest.nar_hash, digest.nar_size);
        return failed(Finding::new(Code::ContentMismatch, format!("{}, {found}", expected(info))));
    }
    check_address(store.store_dir(), info, &digest)
}

/// How contents are read.
pub(super) struct Reading {
    pub(super) progress: Arc<Progress>,
    lanes: Lanes,
    /// For contents that are at hand and have to be taken apart: one for each processor.
    rooms: Semaphore,
}

impl Reading {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        Self { progress, lanes: Lanes::new(processors()), rooms: Semaphore::new(processors()) }
    }

    /// Digests a NAR. Its hash says all there is to say of it; only a content address may be about what is in it.
    async fn digest(&self, nar: Nar, info: &PathInfo) -> Result<NarDigest, NarError> {
        let (expected, request) = ((info.nar_hash, info.nar_size), AddressRequest::of_path(info));
        let count = Count::up_to(info.nar_size, self.progress.clone());
        match (nar, request) {
            (Nar::AtHand(nar), None) => self.lanes.hash(nar, count).await,
            (Nar::AtHand(mut nar), request) => {
                let _room = self.rooms.acquire().await;
                blocking(move || digest_nar(Passing { inner: &mut nar, count }, request.as_ref())).await
            }
            (Nar::Bytes(mut nar), request) => {
                let digesting = blocking(move || {
                    let digest = match &request {
                        Some(request) => digest_nar(Passing { inner: &mut nar, count }, Some(request))?,
                        None => hash_nar(&mut nar, count)?,
                    };
                    if (digest.nar_hash, digest.nar_size) == expected {
                        nar.was_whole();
                    }
                    Ok(digest)
                });
                digesting.await
            }
            (Nar::Files(place), request) => blocking(move || digest_files(&place, request.as_ref(), count)).await,
        }
    }
}

/// Does what may take a while, where that holds nobody up.
async fn blocking(work: impl FnOnce() -> Result<NarDigest, NarError> + Send + 'static) -> Result<NarDigest, NarError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(given_up(error)))
}

/// A worker ended without an answer.
pub(super) fn given_up(error: impl std::error::Error) -> NarError {
    NarError::Read { offset: 0, source: io::Error::other(format!("a worker ended without an answer: {error}")) }
}

/// Hashes a NAR as it is.
fn hash_nar(reader: &mut dyn Read, count: Count) -> Result<NarDigest, NarError> {
    let (mut sink, mut block) = (Hashing::new(count), vec![0; BLOCK]);
    loop {
        let passed = match reader.read(&mut block) {
            Ok(0) => return Ok(sink.finish()),
            Ok(count) => sink.write_all(&block[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        };
        passed.map_err(|source| NarError::Read { offset: sink.passed(), source })?;
    }
}

/// Compares the content address with the bytes, which are those that are vouched for.
fn check_address(store_dir: &StoreDir, info: &PathInfo, digest: &NarDigest) -> Checked {
    match digest.prove_address(store_dir, info) {
        Ok(proof) => Checked { proof, ..Checked::unread(Address::proven(info, proof)) },
        Err(error) => Checked::false_address(error.to_string()),
    }
}

impl Checked {
    /// An address that is false stands for nothing.
    fn false_address(why: String) -> Self {
        let failures = vec![Finding::new(Code::FalseContentAddress, why)];
        Self { failures, ..Self::unread(Address::None) }
    }

    /// What is known without the bytes, where nothing is wrong with it.
    fn unread(address: Address) -> Self {
        Self { address, proof: AddressProof::None, failures: Vec::new(), unchecked: None }
    }
}

fn expected(info: &PathInfo) -> String {
    format!("expected {} of {} bytes", info.nar_hash, info.nar_size)
}

/// What an error in reading a NAR says about it.
pub(super) enum Complaint {
    /// The bytes are not those that were vouched for, or not all there.
    Damaged(Code),
    /// They cannot have such an address.
    FalseAddress,
    /// Nothing.
    Unknown(Code),
}

pub(super) fn complaint(error: &NarError) -> Complaint {
    match error {
        NarError::Read { source, .. } => match source.kind() {
            ErrorKind::InvalidData => Complaint::Damaged(Code::ContentMismatch),
            ErrorKind::UnexpectedEof => Complaint::Damaged(Code::MissingContent),
            ErrorKind::Unsupported => Complaint::Unknown(Code::LimitExceeded),
            _ => Complaint::Unknown(Code::MissingContent),
        },
        // It may well be what was vouched for.
        NarError::Malformed { source: ArchiveError::MaxDepth(_), .. } => Complaint::Unknown(Code::LimitExceeded),
        NarError::Malformed { .. } => Complaint::Damaged(Code::ContentMismatch),
        NarError::NotOneFile(_) | NarError::NoTextHash(_) | NarError::NoGitHash(_) | NarError::NoGitRoot => {
            Complaint::FalseAddress
        }
        NarError::TooManyEntries
        | NarError::TooManySelfReferences
        | NarError::TooManyForGit
        | NarError::TooManyToCompare
        | NarError::PathsTooLong => Complaint::Unknown(Code::LimitExceeded),
    }
}

/// A NAR that passes by, and is counted.
struct Passing<'a> {
    inner: &'a mut dyn Read,
    count: Count,
}

impl Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.pass(count)?;
        Ok(count)
    }
}
