//! Framed streams: a word with a length, that many bytes, and so on until a length of 0.

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::{ByteSource, Reader, WireError, Writer};

/// The payload of one framed stream, as a source of chunks. It ends at the frame of length 0, which it takes as well.
///
/// Frames may have any length: nothing is allocated by what they announce.
///
/// Source: Nix `src/libutil/include/nix/util/serialise.hh`, `FramedSource`.
pub struct Frames<'a, S> {
    reader: &'a mut Reader<S>,
    left: u64,
    ended: bool,
}

impl<'a, S: ByteSource> Frames<'a, S> {
    /// Starts to read a framed stream.
    pub fn new(reader: &'a mut Reader<S>) -> Self {
        Self { reader, left: 0, ended: false }
    }

    /// Reads the stream to its end, so that the next request can be read, and hands on what comes as long as somebody takes
    /// it; the rest is forgotten. The last piece is empty, and comes only where the stream was whole.
    ///
    /// # Errors
    /// When reading fails; then the session is out of step.
    pub async fn pump(&mut self, to: mpsc::Sender<Bytes>) -> Result<(), WireError> {
        loop {
            let chunk = self.chunk().await?;
            let ended = chunk.is_empty();
            let _forgotten = to.send(chunk).await;
            if ended {
                return Ok(());
            }
        }
    }
}

impl<S: ByteSource> ByteSource for Frames<'_, S> {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        while self.left == 0 {
            if self.ended {
                return Ok(Bytes::new());
            }
            self.left = self.reader.u64().await?;
            self.ended = self.left == 0;
        }
        let chunk = self.reader.take(self.left).await?;
        if chunk.is_empty() {
            return Err(WireError::Ended("a frame"));
        }
        self.left -= chunk.len() as u64;
        Ok(chunk)
    }
}

/// What [`Frames::pump`] hands on, as a source of chunks. Where the frames broke off, it fails: what came is not all.
pub struct Pumped {
    chunks: mpsc::Receiver<Bytes>,
    ended: bool,
}

impl Pumped {
    /// Takes what is handed on.
    #[must_use]
    pub fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self { chunks, ended: false }
    }
}

impl ByteSource for Pumped {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        if self.ended {
            return Ok(Bytes::new());
        }
        let chunk = self.chunks.recv().await.ok_or(WireError::Ended("the frames"))?;
        self.ended = chunk.is_empty();
        Ok(chunk)
    }
}

/// Writes a framed stream. Each piece becomes one frame; [`FrameWriter::finish`] writes the last, empty one.
pub struct FrameWriter<'a, W> {
    writer: &'a mut Writer<W>,
}

impl<'a, W: AsyncWrite + Unpin + Send> FrameWriter<'a, W> {
    /// Starts a framed stream.
    pub fn new(writer: &'a mut Writer<W>) -> Self {
        Self { writer }
    }

    /// Writes one frame; an empty piece is none, because an empty frame is the end.
    ///
    /// # Errors
    /// When writing fails.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.writer.put_u64(bytes.len() as u64);
        self.writer.stream(bytes).await
    }

    /// Ends the stream and sends what is still held.
    ///
    /// # Errors
    /// When writing fails.
    pub async fn finish(self) -> Result<(), WireError> {
        self.writer.put_u64(0);
        self.writer.flush().await
    }
}
