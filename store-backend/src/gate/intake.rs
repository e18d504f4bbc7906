//! A NAR on its way in: hashed, parsed, compressed and written at once, in bounded memory.
//!
//! A small NAR is gathered and worked on in one go, so that several can be in the works while the next arrives. A large one
//! flows: one thread hashes and parses, another compresses and writes, and the reader of the socket feeds both.

use std::cell::RefCell;
use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use verifier::{AddressRequest, NarDigest, NarError, NarHash, digest_nar};

use crate::object::{ObjectError, ObjectStore, Upload};
use crate::store::FileFacts;

/// Most references of one path: with more, its narinfo would pass the megabyte that readers take.
pub const MAX_REFERENCES: usize = 10_000;

/// Up to this size, in bytes, a NAR is gathered before it is worked on.
const SMALL: u64 = 512 << 10;

/// Bytes of one upload that may wait for its threads, so that the next NAR arrives while the last is compressed.
const QUEUED: usize = 6 << 20;

/// The unit in which they are counted, in bytes.
const QUEUE_UNIT: usize = 1 << 10;

/// Chunks that may wait for one thread. What bounds memory is [`QUEUED`]; this only keeps tiny chunks from adding up.
const WAITING: usize = 4096;

/// zstd's level: its default, and Nix's.
const LEVEL: i32 = 3;

/// Bytes of output that are gathered before they are written to a file.
const WRITE_BLOCK: usize = 128 << 10;

/// Whether the bytes are kept or only looked at, because the store has them or would refuse them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Bytes,
    Nothing,
}

/// What came of a NAR: its digest, and where its compressed bytes wait to be published.
pub(super) struct Hashed {
    pub(super) digest: NarDigest,
    pub(super) stored: Option<Stored>,
}

/// Compressed bytes that wait to be published, and what there is to say of them.
type Stored = (Box<dyn Upload>, FileFacts);

/// The thread that compresses a large NAR.
type Compressing = JoinHandle<Result<Stored, ObjectError>>;

/// Why an intake failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    #[error(transparent)]
    Nar(#[from] NarError),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Room for bytes that wait for their threads, shared by the NARs of one upload.
#[derive(Clone)]
pub(super) struct Queue(Arc<Semaphore>);

impl Queue {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(QUEUED / QUEUE_UNIT)))
    }

    /// Waits until there is room for a chunk.
    async fn place(&self, chunk: Bytes) -> Queued {
        let units = chunk.len().div_ceil(QUEUE_UNIT).min(QUEUED / QUEUE_UNIT);
        let place = self.0.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await.ok();
        Queued { chunk, _place: Arc::new(place) }
    }
}

/// A chunk that waits for its threads. The room it takes is free again when both are done with it.
#[derive(Clone)]
struct Queued {
    chunk: Bytes,
    _place: Arc<Option<OwnedSemaphorePermit>>,
}

/// A NAR that is being taken in. Dropped, it leaves nothing behind.
pub(super) struct Intake {
    feed: Feed,
    queue: Queue,
}

enum Feed {
    Small {
        /// Copied together: a chunk of one byte would hold on to the block that it was read into.
        nar: Vec<u8>,
        objects: Arc<dyn ObjectStore>,
        request: Option<AddressRequest>,
        keep: Keep,
    },
    Large {
        to_digest: mpsc::Sender<Queued>,
        digest: JoinHandle<Result<NarDigest, NarError>>,
        compression: Option<(mpsc::Sender<Queued>, Compressing)>,
    },
}

impl Intake {
    /// Starts to take in a NAR of `size` bytes; none where only its end will tell.
    pub(super) async fn start(
        objects: &Arc<dyn ObjectStore>,
        size: Option<u64>,
        request: Option<AddressRequest>,
        keep: Keep,
        queue: &Queue,
    ) -> Result<Self, ObjectError> {
        let queue = queue.clone();
        if size.is_some_and(|size| size <= SMALL) {
            let objects = objects.clone();
            return Ok(Self { feed: Feed::Small { nar: Vec::new(), objects, request, keep }, queue });
        }
        let (to_digest, chunks) = mpsc::channel(WAITING);
        let digest = spawn_blocking(move || digest_nar(Chunks::new(chunks), request.as_ref()));
        let compression = match keep {
            Keep::Nothing => None,
            Keep::Bytes => {
                let upload = objects.upload().await?;
                let (to_compress, chunks) = mpsc::channel(WAITING);
                let handle = spawn_blocking(move || compress_stream(Chunks::new(chunks), size, upload));
                Some((to_compress, handle))
            }
        };
        Ok(Self { feed: Feed::Large { to_digest, digest, compression }, queue })
    }

    /// Takes in the next bytes. When it says that nobody wants more, [`Intake::finish`] says why.
    pub(super) async fn feed(&mut self, chunk: Bytes) -> Wanted {
        match &mut self.feed {
            Feed::Small { nar, .. } => nar.extend_from_slice(&chunk),
            Feed::Large { to_digest, compression, .. } => {
                let chunk = self.queue.place(chunk).await;
                if let Some((to_compress, _)) = compression
                    && to_compress.send(chunk.clone()).await.is_err()
                {
                    return Wanted::NoMore;
                }
                if to_digest.send(chunk).await.is_err() {
                    return Wanted::NoMore;
                }
            }
        }
        Wanted::More
    }

    /// Says that all bytes came. The work goes on by itself; its outcome is what the handle yields.
    pub(super) fn finish(self) -> JoinHandle<Result<Hashed, IntakeError>> {
        match self.feed {
            Feed::Small { nar, objects, request, keep } => tokio::spawn(async move {
                let upload = match keep {
                    Keep::Bytes => Some(objects.upload().await?),
                    Keep::Nothing => None,
                };
                let work = spawn_blocking(move || small(&nar, request.as_ref(), upload));
                work.await.map_err(ObjectError::from)?
            }),
            Feed::Large { to_digest, digest, compression } => tokio::spawn(async move {
                drop(to_digest);
                let stored = match compression {
                    None => None,
                    Some((to_compress, handle)) => {
                        drop(to_compress);
                        Some(handle)
                    }
                };
                let digest = digest.await.map_err(ObjectError::from)??;
                let stored = match stored {
                    None => None,
                    Some(handle) => Some(handle.await.map_err(ObjectError::from)??),
                };
                Ok(Hashed { digest, stored })
            }),
        }
    }
}

/// Whether more bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    More,
    NoMore,
}

fn small(nar: &[u8], request: Option<&AddressRequest>, upload: Option<Box<dyn Upload>>) -> Result<Hashed, IntakeError> {
    thread_local! {
        /// Making a compressor costs more than compressing 100 KB with it.
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    let digest = digest_nar(Cursor::new(nar), request)?;
    let Some(mut upload) = upload else {
        return Ok(Hashed { digest, stored: None });
    };
    let compressed = COMPRESSOR.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            *compressor = Some(zstd::bulk::Compressor::new(LEVEL)?);
        }
        compressor.as_mut().map_or_else(|| Ok(Vec::new()), |compressor| compressor.compress(nar))
    });
    let compressed = compressed.map_err(compression_failed)?;
    upload.write(&compressed)?;
    upload.finish()?;
    let facts = facts(Sha256::digest(&compressed).into(), compressed.len() as u64);
    Ok(Hashed { digest, stored: Some((upload, facts)) })
}

fn compress_stream(mut nar: Chunks, size: Option<u64>, upload: Box<dyn Upload>) -> Result<Stored, ObjectError> {
    let out = io::BufWriter::with_capacity(WRITE_BLOCK, Sink { upload, sha256: Sha256::new(), size: 0, failed: None });
    let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL).map_err(compression_failed)?;
    encoder.set_pledged_src_size(size).map_err(compression_failed)?;
    while let Some(chunk) = nar.next() {
        if let Err(error) = encoder.write_all(&chunk.chunk) {
            return Err(sink_error(encoder.get_mut().get_mut(), error));
        }
    }
    let mut out = encoder.finish().map_err(compression_failed)?;
    if let Err(error) = out.flush() {
        return Err(sink_error(out.get_mut(), error));
    }
    let mut sink = out.into_inner().map_err(|error| compression_failed(error.into_error()))?;
    sink.upload.finish()?;
    Ok((sink.upload, facts(sink.sha256.finalize().into(), sink.size)))
}

fn facts(sha256: [u8; 32], file_size: u64) -> FileFacts {
    FileFacts { file_hash: Some(NarHash::from_sha256(sha256).to_string()), file_size }
}

fn compression_failed(source: io::Error) -> ObjectError {
    ObjectError::Io { action: "compress", place: "a NAR".into(), source }
}

/// The upload's own error, where it was the upload that failed.
fn sink_error(sink: &mut Sink, error: io::Error) -> ObjectError {
    sink.failed.take().unwrap_or_else(|| compression_failed(error))
}

/// Hashes and counts compressed bytes on their way to the store.
struct Sink {
    upload: Box<dyn Upload>,
    sha256: Sha256,
    size: u64,
    failed: Option<ObjectError>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.upload.write(bytes) {
            let shown = io::Error::other(error.to_string());
            self.failed = Some(error);
            return Err(shown);
        }
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Chunks from a channel, for a thread that may block.
struct Chunks {
    chunks: mpsc::Receiver<Queued>,
    pending: Option<Queued>,
}

impl Chunks {
    fn new(chunks: mpsc::Receiver<Queued>) -> Self {
        Self { chunks, pending: None }
    }

    fn next(&mut self) -> Option<Queued> {
        self.chunks.blocking_recv()
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(pending) = self.pending.as_mut().filter(|pending| !pending.chunk.is_empty()) {
                let count = buffer.len().min(pending.chunk.len());
                pending.chunk.copy_to_slice(&mut buffer[..count]);
                return Ok(count);
            }
            self.pending = self.next();
            if self.pending.is_none() {
                return Ok(0);
            }
        }
    }
}
