//! Reading words, strings and lists from a stream of chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::WireError;

/// Bytes asked of the socket at a time: four of the frames that Nix writes.
const CHUNK: usize = 128 << 10;

/// Least room that is left for the next bytes. As long as there is so much, they go behind the last ones: were each chunk
/// given a block of its own, a peer that sends byte by byte would make every byte that waits somewhere hold on to 128 KiB.
const ROOM: usize = CHUNK / 4;

/// Most bytes of strings and lists in one request or one path info. A closure of 100,000 paths takes 6 MiB.
pub const REQUEST_BUDGET: usize = 24 << 20;

/// What a string or list item costs of the budget besides its bytes, so that empty ones cost something too.
const ITEM_COST: usize = 32;

/// The longest string that is read, in bytes, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringLimit {
    /// A name, path, hash or number: store paths have at most 211 + 33 + the store directory; signatures 350 or so.
    Short,
    /// A derivation's text, an environment variable, a JSON document.
    Long,
}

impl StringLimit {
    /// Returns the limit in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Short => 8 << 10,
            Self::Long => 8 << 20,
        }
    }
}

/// Something that yields bytes in chunks of its own choosing.
pub trait ByteSource: Send {
    /// Returns the next bytes; an empty chunk is the end.
    ///
    /// # Errors
    /// When the bytes cannot be had.
    fn chunk(&mut self) -> impl Future<Output = Result<Bytes, WireError>> + Send;
}

/// A socket, pipe or file as a source of chunks.
pub struct SocketSource<R> {
    inner: R,
    buffer: BytesMut,
    patience: Option<Duration>,
    came: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin + Send> SocketSource<R> {
    /// Wraps a stream.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::new(), patience: None, came: Arc::default() }
    }
}

impl<R: AsyncRead + Unpin + Send> ByteSource for SocketSource<R> {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        if self.buffer.capacity() - self.buffer.len() < ROOM {
            self.buffer.reserve(CHUNK);
        }
        let read = self.inner.read_buf(&mut self.buffer);
        match self.patience {
            None => read.await?,
            Some(patience) => {
                tokio::time::timeout(patience, read).await.map_err(|_| WireError::Stalled(patience))??
            }
        };
        self.came.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        Ok(self.buffer.split().freeze())
    }
}

/// Reads the worker protocol's basic values from a source.
///
/// Source: Nix `src/libutil/serialise.cc`.
pub struct Reader<S> {
    source: S,
    pending: Bytes,
    budget: usize,
}

impl<R: AsyncRead + Unpin + Send> Reader<SocketSource<R>> {
    /// Sets how long the peer may send nothing; none means for ever, as between two requests.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.source.patience = patience;
    }

    /// Returns where it is counted how many bytes have come, for those who wait while somebody else reads.
    pub fn came(&self) -> Arc<AtomicU64> {
        self.source.came.clone()
    }
}

impl<S: ByteSource> Reader<S> {
    /// Wraps a source.
    pub fn new(source: S) -> Self {
        Self { source, pending: Bytes::new(), budget: REQUEST_BUDGET }
    }

    /// Starts a new request: its strings and lists may again take the whole budget.
    pub fn renew_budget(&mut self) {
        self.budget = REQUEST_BUDGET;
    }

    /// Says whether the source has ended; waits for the next byte to know.
    ///
    /// # Errors
    /// When reading fails.
    pub async fn is_at_end(&mut self) -> Result<bool, WireError> {
        self.fill().await
    }

    /// Reads a word: 8 bytes, little-endian, unsigned.
    ///
    /// # Errors
    /// When the source ends or fails.
    pub async fn u64(&mut self) -> Result<u64, WireError> {
        let mut word = [0; 8];
        self.exact(&mut word, "a number").await?;
        Ok(u64::from_le_bytes(word))
    }

    /// Reads a word that says yes or no; anything but 0 is yes, as in Nix.
    ///
    /// # Errors
    /// When the source ends or fails.
    pub async fn flag(&mut self) -> Result<bool, WireError> {
        Ok(self.u64().await? != 0)
    }

    /// Reads a string: a word with its length in bytes, the bytes, and zeros up to a multiple of 8.
    ///
    /// # Errors
    /// When it is longer than `limit`, over the request's budget, padded with other bytes, or cut off.
    pub async fn bytes(&mut self, what: &'static str, limit: StringLimit) -> Result<Vec<u8>, WireError> {
        let length = self.u64().await?;
        let most = limit.bytes();
        if length > most {
            return Err(WireError::TooLong { what, got: length, limit: most });
        }
        // At most 8 MiB by the check above, so it fits.
        let length = length as usize;
        self.spend(what, length)?;
        let mut bytes = vec![0; length];
        self.exact(&mut bytes, what).await?;
        let mut padding = [0; 8];
        let padded = &mut padding[..length.next_multiple_of(8) - length];
        self.exact(padded, what).await?;
        if padded.iter().any(|byte| *byte != 0) {
            return Err(WireError::Padding(what));
        }
        Ok(bytes)
    }

    /// Reads a string that must be UTF-8, as all of Nix's names are.
    ///
    /// # Errors
    /// As [`Self::bytes`], and when it is not UTF-8.
    pub async fn string(&mut self, what: &'static str, limit: StringLimit) -> Result<String, WireError> {
        let bytes = self.bytes(what, limit).await?;
        String::from_utf8(bytes)
            .map_err(|error| WireError::Unexpected { expected: "UTF-8", got: error.utf8_error().to_string() })
    }

    /// Reads a list of short strings: a word with their number, then each.
    ///
    /// # Errors
    /// As [`Self::string`].
    pub async fn strings(&mut self, what: &'static str) -> Result<Vec<String>, WireError> {
        let mut strings = Vec::new();
        for _ in 0..self.count(what).await? {
            strings.push(self.string(what, StringLimit::Short).await?);
        }
        Ok(strings)
    }

    /// Reads the number of items of a list. Nothing is allocated for them: they must come first.
    ///
    /// # Errors
    /// When there are more than the request's budget could hold.
    pub async fn count(&mut self, what: &'static str) -> Result<u64, WireError> {
        let count = self.u64().await?;
        let limit = (self.budget / ITEM_COST) as u64;
        if count > limit {
            return Err(WireError::TooLong { what, got: count, limit });
        }
        Ok(count)
    }

    /// Takes up to `most` bytes as they lie; an empty chunk is the source's end.
    ///
    /// # Errors
    /// When reading fails.
    pub async fn take(&mut self, most: u64) -> Result<Bytes, WireError> {
        if self.fill().await? {
            return Ok(Bytes::new());
        }
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.pending.len());
        Ok(self.pending.split_to(count))
    }

    /// Ensures that bytes are pending; says whether the source has ended instead.
    async fn fill(&mut self) -> Result<bool, WireError> {
        if self.pending.is_empty() {
            self.pending = self.source.chunk().await?;
        }
        Ok(self.pending.is_empty())
    }

    async fn exact(&mut self, mut into: &mut [u8], what: &'static str) -> Result<(), WireError> {
        while !into.is_empty() {
            if self.fill().await? {
                return Err(WireError::Ended(what));
            }
            let count = into.len().min(self.pending.len());
            let (now, later) = into.split_at_mut(count);
            now.copy_from_slice(&self.pending.split_to(count));
            into = later;
        }
        Ok(())
    }

    fn spend(&mut self, what: &'static str, length: usize) -> Result<(), WireError> {
        let cost = length + ITEM_COST;
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(WireError::TooLong { what, got: length as u64, limit: self.budget as u64 }),
        }
    }
}
