//! Framed streams: a word with a length, that many bytes, and so on until a length of 0.

use bytes::Bytes;
use tokio::io::AsyncWrite;

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
    in_step: bool,
}

impl<'a, S: ByteSource> Frames<'a, S> {
    /// Starts to read a framed stream.
    pub fn new(reader: &'a mut Reader<S>) -> Self {
        Self { reader, left: 0, ended: false, in_step: true }
    }

    /// Says whether the frames could be read so far. Then they can be read to their end, whatever they hold.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// Reads on to the stream's end and forgets what comes, so that the next request can be read.
    ///
    /// # Errors
    /// When reading fails; then the session is out of step.
    pub async fn drain(&mut self) -> Result<(), WireError> {
        while !self.chunk().await?.is_empty() {}
        Ok(())
    }
}

impl<S: ByteSource> ByteSource for Frames<'_, S> {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        let chunk = self.next().await;
        self.in_step &= chunk.is_ok();
        chunk
    }
}

impl<S: ByteSource> Frames<'_, S> {
    async fn next(&mut self) -> Result<Bytes, WireError> {
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

impl<S: ByteSource> ByteSource for &mut Frames<'_, S> {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        (**self).chunk().await
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
