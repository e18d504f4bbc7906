//! Reading NARs: decompressed, hashed, and never handed out to the end before the hash is known to be right.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::mpsc;
use verifier::{NarHash, PathInfo};

use super::binary_cache::{BinaryCache, StoreError, nar_key};
use crate::object::{Key, Metadata, Object, ObjectError};

/// Bytes in one block on its way to a client.
const BLOCK: usize = 128 << 10;

/// Up to this size, in bytes, a NAR is read whole in place: that takes less time than waking a thread for it.
const SMALL: u64 = 256 << 10;

/// The most bytes that such a NAR's object can have: what does not compress grows by far less.
const MOST_OF_SMALL: u64 = 2 * SMALL;

/// Blocks that may wait for a slow client.
const WAITING: usize = 4;

/// The largest zstd window that is accepted, as a power of two: 8 MiB. Level 3 uses 2 MiB, level 19 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Why a NAR cannot be read. The store caused it: whoever keeps it should look at it.
#[derive(Debug, Error)]
pub enum NarReadError {
    /// There is no such object.
    #[error("NAR {key} is missing: upload a path that has it again")]
    Missing {
        /// Which.
        key: Key,
    },
    /// It cannot be decompressed or read.
    #[error("NAR {key} cannot be read: {source}")]
    Unreadable {
        /// Which.
        key: Key,
        /// What reading said.
        #[source]
        source: io::Error,
    },
    /// Its bytes are not those that were vouched for.
    #[error("NAR {key} is damaged: expected {expected} of {expected_size} bytes, found {found} of {found_size} bytes")]
    Mismatch {
        /// Which.
        key: Key,
        /// The SHA-256 it should have.
        expected: NarHash,
        /// The SHA-256 it has, of what was read.
        found: NarHash,
        /// The size it should have, in bytes.
        expected_size: u64,
        /// How much was read, in bytes.
        found_size: u64,
    },
    /// The storage failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// What a NAR stream yields.
pub type NarRead = Result<Bytes, NarReadError>;

/// A NAR on its way out. The last block comes only when the whole has been hashed and is right: who gets no last block
/// has no NAR.
pub struct NarStream(Blocks);

enum Blocks {
    /// A small NAR, whole.
    One(Option<Bytes>),
    /// A large one, from the thread that reads it.
    Many(mpsc::Receiver<NarRead>),
}

impl NarStream {
    /// Returns the next block; none after the last.
    ///
    /// # Errors
    /// When the NAR is damaged or cannot be read. Nothing more comes after that.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NarReadError> {
        match &mut self.0 {
            Blocks::One(block) => Ok(block.take()),
            Blocks::Many(blocks) => blocks.recv().await.transpose(),
        }
    }
}

impl BinaryCache {
    /// Opens the NAR of a path, decompressed.
    ///
    /// # Errors
    /// When there is none, or the storage fails.
    pub async fn nar(&self, info: &PathInfo) -> Result<NarStream, NarReadError> {
        self.nar_of(info, None).await
    }

    /// Reads the object of a small NAR; none of one that is not small, or not there.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn small_nar(&self, info: &PathInfo) -> Result<Option<Object>, ObjectError> {
        if info.nar_size > SMALL {
            return Ok(None);
        }
        self.objects().get(&nar_key(&info.nar_hash), MOST_OF_SMALL).await
    }

    /// Opens the NAR of a path, whose object may have been read already.
    ///
    /// # Errors
    /// As [`Self::nar`].
    pub(crate) async fn nar_of(&self, info: &PathInfo, read: Option<Object>) -> Result<NarStream, NarReadError> {
        let key = nar_key(&info.nar_hash);
        let (expected, expected_size) = (info.nar_hash, info.nar_size);
        if expected_size <= SMALL {
            let read = match read {
                Some(read) => Some(read),
                None => self.small_nar(info).await?,
            };
            let Some(compressed) = read else {
                return Err(NarReadError::Missing { key });
            };
            let compressed = Box::new(compressed.bytes.reader());
            let mut whole = Vec::with_capacity(expected_size as usize);
            let mut keep = |block: Bytes| {
                whole.extend_from_slice(&block);
                Listening::Yes
            };
            pass(compressed, &key, expected, expected_size, &mut keep)?;
            return Ok(NarStream(Blocks::One(Some(whole.into()))));
        }
        let Some((_, compressed)) = self.objects().open(&key, 0).await? else {
            return Err(NarReadError::Missing { key });
        };
        let (blocks, receiver) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            let mut held: Option<Bytes> = None;
            // Blocks are sent one behind: the last one stays here until it is known that all is well.
            let mut send = |block: Bytes| {
                let sent = held.replace(block).map_or(Ok(()), |before| blocks.blocking_send(Ok(before)));
                if sent.is_ok() { Listening::Yes } else { Listening::No }
            };
            let read = pass(compressed, &key, expected, expected_size, &mut send);
            let last = match read {
                Ok(Listening::Yes) => held.map(Ok),
                Ok(Listening::No) => None,
                Err(error) => Some(Err(error)),
            };
            let _nobody_waits = last.map(|last| blocks.blocking_send(last));
        });
        Ok(NarStream(Blocks::Many(receiver)))
    }

    /// Says how many bytes the object of a NAR has; none if there is none.
    ///
    /// # Errors
    /// When the storage cannot tell.
    pub async fn nar_file(&self, nar_hash: &NarHash) -> Result<Option<Metadata>, StoreError> {
        Ok(self.objects().head(&nar_key(nar_hash)).await?)
    }
}

/// Whether anybody still wants the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listening {
    Yes,
    No,
}

/// Memory of blocks that were sent, to be used again: what the system hands out anew it has to clear first.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// A part of a NAR on its way to a client.
struct Block {
    memory: Vec<u8>,
    filled: usize,
    spare: Spare,
}

impl Block {
    fn of(room: usize, spare: &Spare) -> Self {
        let mut memory = spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if memory.len() < room {
            memory.resize(room, 0);
        }
        Self { memory, filled: 0, spare: spare.clone() }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

/// Decompresses and hashes a NAR, handing on each block. That it is right is known only when this returns so.
fn pass(
    compressed: Box<dyn Read + Send>,
    key: &Key,
    expected: NarHash,
    expected_size: u64,
    hand_on: &mut impl FnMut(Bytes) -> Listening,
) -> Result<Listening, NarReadError> {
    let unreadable = |source| NarReadError::Unreadable { key: key.clone(), source };
    let mut decoder = zstd::stream::read::Decoder::new(compressed).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    let mut sha256 = Sha256::new();
    let mut size = 0;
    let spare = Spare::default();
    loop {
        // One byte more than there should be is enough to know that there is too much.
        let room = BLOCK.min(usize::try_from(expected_size - size).unwrap_or(BLOCK).saturating_add(1));
        let mut block = Block::of(room, &spare);
        let filled = fill(&mut decoder, &mut block.memory[..room]).map_err(unreadable)?;
        block.filled = filled;
        sha256.update(&block);
        size += filled as u64;
        let ended = filled < room;
        if size > expected_size || ended {
            let found = NarHash::from_sha256(sha256.clone().finalize().into());
            if size != expected_size || found != expected {
                let key = key.clone();
                return Err(NarReadError::Mismatch { key, expected, found, expected_size, found_size: size });
            }
        }
        if filled > 0 && hand_on(Bytes::from_owner(block)) == Listening::No {
            return Ok(Listening::No);
        }
        if ended {
            return Ok(Listening::Yes);
        }
    }
}

/// Reads until the buffer is full or the source ends; returns how much came.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
