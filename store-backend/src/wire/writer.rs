//! Writing words, strings and lists.

use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::WireError;

/// How many bytes are gathered before they are sent: four of the frames that Nix reads.
const GATHER: usize = 128 << 10;

/// How long a peer may take nothing of what it asked for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Writes the worker protocol's basic values. Values are gathered; [`Writer::flush`] sends them.
///
/// Source: Nix `src/libutil/serialise.cc`.
pub struct Writer<W> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin + Send> Writer<W> {
    /// Wraps a stream.
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: Vec::with_capacity(256) }
    }

    /// Writes a word: 8 bytes, little-endian.
    pub fn put_u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a word that says yes (1) or no (0).
    pub fn put_flag(&mut self, value: bool) {
        self.put_u64(value.into());
    }

    /// Writes a string: its length in bytes, the bytes, zeros up to a multiple of 8.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u64(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        let padding = bytes.len().next_multiple_of(8) - bytes.len();
        self.buffer.extend_from_slice(&[0; 8][..padding]);
    }

    /// Writes a text as a string.
    pub fn put_str(&mut self, text: &str) {
        self.put_bytes(text.as_bytes());
    }

    /// Writes a list of strings: their number, then each.
    pub fn put_strings<T: AsRef<str>>(&mut self, strings: impl ExactSizeIterator<Item = T>) {
        self.put_u64(strings.len() as u64);
        for string in strings {
            self.put_str(string.as_ref());
        }
    }

    /// Writes bytes as they are, sending them on once enough are gathered: for NARs and frames.
    ///
    /// # Errors
    /// When the peer is gone, or takes nothing for five minutes.
    pub async fn stream(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if self.buffer.len() + bytes.len() < GATHER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.send_gathered().await?;
        send(&mut self.inner, bytes).await
    }

    /// Sends everything that is gathered.
    ///
    /// # Errors
    /// When the peer is gone, or takes nothing for five minutes.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.send_gathered().await?;
        Ok(self.inner.flush().await?)
    }

    /// Forgets what is gathered, so that an error can be sent in its place.
    pub fn discard(&mut self) {
        self.buffer.clear();
    }

    /// Returns the stream underneath, for closing it.
    pub fn into_inner(self) -> W {
        self.inner
    }

    async fn send_gathered(&mut self) -> Result<(), WireError> {
        send(&mut self.inner, &self.buffer).await?;
        self.buffer.clear();
        self.buffer.shrink_to(GATHER);
        Ok(())
    }
}

async fn send<W: AsyncWrite + Unpin>(inner: &mut W, mut bytes: &[u8]) -> Result<(), WireError> {
    while !bytes.is_empty() {
        let written =
            tokio::time::timeout(PATIENCE, inner.write(bytes)).await.map_err(|_| WireError::Stalled(PATIENCE))??;
        if written == 0 {
            return Err(WireError::Ended("an answer"));
        }
        bytes = &bytes[written..];
    }
    Ok(())
}
