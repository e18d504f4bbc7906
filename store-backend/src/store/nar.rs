//! Reading NARs: decompressed, hashed, and never handed out to the end before the hash is known to be right.

use std::cell::RefCell;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::runtime::Handle;
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

/// A NAR on its way out. One thread decompresses; whoever asks for the blocks hashes them. The last block comes only when the
/// whole has been hashed and is right: who gets no last block has no NAR.
pub struct NarStream {
    key: Key,
    expected: NarHash,
    expected_size: u64,
    blocks: Blocks,
    sha256: Sha256,
    size: u64,
    /// Hashed, and not handed out yet.
    held: Option<Bytes>,
}

enum Blocks {
    /// A small NAR, whole.
    One(Option<Bytes>),
    /// A large one, from the thread that reads it.
    Many(mpsc::Receiver<io::Result<Bytes>>),
}

impl NarStream {
    fn new(key: Key, info: &PathInfo, blocks: Blocks) -> Self {
        let (expected, expected_size) = (info.nar_hash, info.nar_size);
        Self { key, expected, expected_size, blocks, sha256: Sha256::new(), size: 0, held: None }
    }

    /// Returns the next block; none after the last.
    ///
    /// # Errors
    /// When the NAR is damaged or cannot be read. Nothing more comes after that.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NarReadError> {
        loop {
            let block = match &mut self.blocks {
                Blocks::One(block) => block.take(),
                Blocks::Many(blocks) => blocks.recv().await.transpose().map_err(|source| self.unreadable(source))?,
            };
            let Some(block) = block else {
                self.check()?;
                return Ok(self.held.take());
            };
            self.sha256.update(&block);
            self.size += block.len() as u64;
            if self.size > self.expected_size {
                self.check()?;
            }
            if let Some(before) = self.held.replace(block) {
                return Ok(Some(before));
            }
        }
    }

    /// Makes it a reader for a thread that may wait. It comes to its end only where the hash is right.
    #[must_use]
    pub fn blocking(self, runtime: Handle) -> BlockingNar {
        BlockingNar { runtime, nar: self, block: Bytes::new() }
    }

    /// Says whether what was read is the NAR that was vouched for.
    fn check(&mut self) -> Result<(), NarReadError> {
        let found = NarHash::from_sha256(self.sha256.clone().finalize().into());
        if self.size == self.expected_size && found == self.expected {
            return Ok(());
        }
        (self.blocks, self.held) = (Blocks::One(None), None);
        let (key, expected, expected_size) = (self.key.clone(), self.expected, self.expected_size);
        Err(NarReadError::Mismatch { key, expected, found, expected_size, found_size: self.size })
    }

    fn unreadable(&mut self, source: io::Error) -> NarReadError {
        (self.blocks, self.held) = (Blocks::One(None), None);
        NarReadError::Unreadable { key: self.key.clone(), source }
    }
}

/// A NAR for a thread that may wait.
pub struct BlockingNar {
    runtime: Handle,
    nar: NarStream,
    block: Bytes,
}

impl Read for BlockingNar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match self.runtime.block_on(self.nar.next()).map_err(io::Error::other)? {
                Some(block) => self.block = block,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.block.len());
        self.block.split_to(count).copy_to_slice(&mut buffer[..count]);
        Ok(count)
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
        // One byte more than there should be is enough to know that there is too much.
        let at_most = info.nar_size.saturating_add(1);
        if info.nar_size <= SMALL {
            let read = match read {
                Some(read) => Some(read),
                None => self.small_nar(info).await?,
            };
            let Some(compressed) = read else {
                return Err(NarReadError::Missing { key });
            };
            return match decompress_small(&compressed.bytes, at_most) {
                Ok(whole) => Ok(NarStream::new(key, info, Blocks::One(Some(whole.into())))),
                Err(source) => Err(NarReadError::Unreadable { key, source }),
            };
        }
        let Some((_, compressed)) = self.objects().open(&key, 0).await? else {
            return Err(NarReadError::Missing { key });
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = decompress(compressed, at_most, &sender) {
                let _nobody_waits = sender.blocking_send(Err(error));
            }
        });
        Ok(NarStream::new(key, info, Blocks::Many(receiver)))
    }

    /// Says how many bytes the object of a NAR has; none if there is none.
    ///
    /// # Errors
    /// When the storage cannot tell.
    pub async fn nar_file(&self, nar_hash: &NarHash) -> Result<Option<Metadata>, StoreError> {
        Ok(self.objects().head(&nar_key(nar_hash)).await?)
    }
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

/// Decompresses at most so many bytes of a NAR, as long as anybody takes the blocks.
fn decompress(compressed: impl Read, at_most: u64, blocks: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut decoder = decoder(compressed)?;
    let spare = Spare::default();
    let mut left = at_most;
    loop {
        let room = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        let mut block = Block::of(room, &spare);
        block.filled = fill(&mut decoder, &mut block.memory[..room])?;
        left -= block.filled as u64;
        let ended = block.filled < room || left == 0;
        if block.filled > 0 && blocks.blocking_send(Ok(Bytes::from_owner(block))).is_err() || ended {
            return Ok(());
        }
    }
}

/// Decompresses at most so many bytes of a small NAR.
fn decompress_small(compressed: &[u8], at_most: u64) -> io::Result<Vec<u8>> {
    thread_local! {
        /// To make one takes a tenth of the time in which it decompresses 100 KB.
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let mut whole = Vec::with_capacity(at_most as usize);
    let done = DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(compressed, &mut whole)
    });
    if done.is_err() {
        // It is damaged, or has more in it than it should: this tells how far it can be read.
        whole.clear();
        decoder(compressed)?.take(at_most).read_to_end(&mut whole)?;
    }
    Ok(whole)
}

fn decoder<R: Read>(compressed: R) -> io::Result<zstd::stream::read::Decoder<'static, BufReader<R>>> {
    let mut decoder = zstd::stream::read::Decoder::new(compressed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
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
