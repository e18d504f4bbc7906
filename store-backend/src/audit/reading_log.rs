//! What earlier audits have read: a file with a line for each path, so that one that was broken off goes on where it was.
//!
//! Whoever gives the file vouches for it, and for its being about what is audited now. A path counts as read only with the same NAR
//! hash and size, and the same content address.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use verifier::{AddressProof, NarHash, PathInfo, StoreDir, StorePath, Timestamp};

/// Longest line that is read, in bytes. A path's has some 200.
const MAX_LINE: u64 = 4 << 10;

/// What the first line says.
const FORMAT: &str = "contents read by nix-quorum verify";

/// Why a file cannot be used. Whoever named it caused it.
#[derive(Debug, Error)]
pub enum ReadingLogError {
    /// It cannot be read or written.
    #[error("{place}: {source}")]
    Io {
        /// Which file.
        place: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another audit writes it.
    #[error("{0}: another audit is writing it")]
    Busy(String),
    /// It is another kind of file.
    #[error("{0}: this is no log of what an audit has read; name a file that is new, or was made by --since")]
    Other(String),
    /// It is about another store.
    #[error("{place}: this is about {found}, not about {expected}")]
    Store {
        /// Which file.
        place: String,
        /// The store that it is about.
        found: String,
        /// The store that is audited.
        expected: String,
    },
    /// A line makes no sense.
    #[error("{place}, line {line}: {why}")]
    Line {
        /// Which file.
        place: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    store: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    path: String,
    nar_hash: String,
    nar_size: u64,
    /// The content address that was stated, where one was, and what the bytes said of it.
    content_address: Option<String>,
    address: AddressProof,
    read: Timestamp,
}

/// What was read of a path.
#[derive(Debug)]
struct Known {
    nar_hash: NarHash,
    nar_size: u64,
    content_address: Option<String>,
    proof: AddressProof,
}

/// What earlier audits have read, and this one reads.
#[derive(Debug)]
pub struct ReadingLog {
    place: String,
    known: HashMap<StorePath, Known>,
    /// When the first of it was read.
    since: Option<Timestamp>,
    file: Mutex<File>,
    used: AtomicUsize,
}

impl ReadingLog {
    /// Opens a file, or makes it. What a crash left of its last line is cut off.
    ///
    /// # Errors
    /// [`ReadingLogError`].
    pub fn open(path: &Path, store: &str) -> Result<Self, ReadingLogError> {
        let place = path.display().to_string();
        let io = |source| ReadingLogError::Io { place: place.clone(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ReadingLogError::Busy(place));
        }
        let (mut known, mut since, mut whole, mut number) = (HashMap::new(), None, 0, 0);
        let mut reader = BufReader::new(&file);
        loop {
            let mut text = Vec::new();
            let length = std::io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut text).map_err(io)?;
            number += 1;
            if text.last() != Some(&b'\n') {
                // The end, or what there is of a line.
                if length as u64 == MAX_LINE || number == 1 && length > 0 {
                    return Err(ReadingLogError::Other(place));
                }
                break;
            }
            whole += length as u64;
            if number == 1 {
                let head: Head = serde_json::from_slice(&text).map_err(|_| ReadingLogError::Other(place.clone()))?;
                if (head.format.as_str(), head.version) != (FORMAT, 1) {
                    return Err(ReadingLogError::Other(place));
                }
                if head.store != store {
                    return Err(ReadingLogError::Store { place, found: head.store, expected: store.to_owned() });
                }
                continue;
            }
            let wrong = |why: String| ReadingLogError::Line { place: place.clone(), line: number, why };
            let line: Line = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
            let path = StorePath::from_basename(line.path.as_bytes()).map_err(|error| wrong(error.to_string()))?;
            let nar_hash = NarHash::parse(&line.nar_hash).map_err(|error| wrong(error.to_string()))?;
            since = since.into_iter().chain([line.read]).min();
            let Line { nar_size, content_address, address: proof, .. } = line;
            known.insert(path, Known { nar_hash, nar_size, content_address, proof });
        }
        file.set_len(whole).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let this = Self { place: place.clone(), known, since, file: Mutex::new(file), used: AtomicUsize::new(0) };
        if whole == 0 {
            this.append(&Head { format: FORMAT.into(), version: 1, store: store.to_owned() }).map_err(io)?;
        }
        Ok(this)
    }

    /// Says what was found about a path's content address, if its contents were read, and were as is said of them now. An address
    /// has to be the same, and to make the path with the references that are stated now.
    pub(super) fn find(&self, info: &PathInfo, store_dir: &StoreDir) -> Option<AddressProof> {
        let known = self.known.get(&info.path)?;
        let same_bytes = (known.nar_hash, known.nar_size) == (info.nar_hash, info.nar_size);
        let same_address = known.content_address == info.content_address.as_ref().map(ToString::to_string);
        let makes_it = info.content_address.as_ref().is_none_or(|address| address.check_path(store_dir, info).is_ok());
        if !same_bytes || !same_address || !makes_it {
            return None;
        }
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(known.proof)
    }

    /// Notes that a path's contents were read, and are as is said of them.
    pub(super) fn note(&self, info: &PathInfo, address: AddressProof, now: Timestamp) {
        let line = Line {
            path: info.path.to_basename(),
            nar_hash: info.nar_hash.to_string(),
            nar_size: info.nar_size,
            content_address: info.content_address.as_ref().map(ToString::to_string),
            address,
            read: now,
        };
        if let Err(error) = self.append(&line) {
            // This audit is as good without it; the next one reads more.
            tracing::warn!(%error, "cannot note in {} what was read", self.place);
        }
    }

    /// Returns a sentence on what was not read again; none where everything was read.
    pub(super) fn remark(&self) -> Option<String> {
        let used = self.used.load(Ordering::Relaxed);
        let since = policy::rfc3339(self.since?);
        let contents =
            if used == 1 { "the contents of 1 path were" } else { &format!("the contents of {used} paths were") };
        (used > 0)
            .then(|| format!("{contents} read by earlier audits since {since}, says {}, and not again", self.place))
    }

    fn append(&self, line: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        // In one piece, so that only a crash of the machine leaves part of it.
        self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write_all(&text)
    }
}
