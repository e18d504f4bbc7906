//! A NAR on its way in: hashed, parsed, compressed and written at once, in bounded memory.
//!
//! It is gathered in blocks. Each block becomes a zstd frame of its own, so that several are compressed at once, whoever's
//! they are: a large NAR's one after the other, or those of small NARs, while the next arrive. Of a NAR of many blocks one
//! thread hashes and parses, and the frames are written in their order; one that ends in its first block is worked on in one
//! go. Frames behind each other are what zstd calls a file of many frames, which every reader of its format takes.

use std::io::{self, Cursor, Read};
use std::num::NonZero;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::available_parallelism;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use verifier::{AddressRequest, NarDigest, NarError, NarHash, digest_nar};
use zstd::zstd_safe::CParameter;

use crate::object::{Expected, ObjectError, ObjectStore, Upload};
use crate::store::{FileFacts, nar_key};

/// Most references of one path: with more, its narinfo would pass the megabyte that readers take.
pub const MAX_REFERENCES: usize = 10_000;

/// Bytes of a NAR that become one frame. Each frame starts without what was before it, which costs 0.8 % of the compressed
/// size at 4 MiB and 1.2 % at 2 MiB; in return zstd sees its input whole, which makes it a tenth faster.
const BLOCK: usize = 4 << 20;

/// Bytes of one upload's blocks that are filled, hashed, compressed or written at a time. Their frames take as much again.
const BLOCKS: usize = 4 * BLOCK;

/// Up to this size, in bytes, a block takes only so much room: a small NAR's.
const SMALL: usize = 256 << 10;

/// Whether the bytes are kept, compressed at one of zstd's levels, or only looked at, because the store has them or would
/// refuse them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Bytes { level: i32 },
    Nothing,
}

/// What came of a NAR: its digest, and where its compressed bytes wait to be published.
pub(super) struct Hashed {
    pub(super) digest: NarDigest,
    pub(super) stored: Option<Stored>,
}

/// Compressed bytes that wait to be published, and what there is to say of them.
type Stored = (Box<dyn Upload>, FileFacts);

/// Why an intake failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    #[error(transparent)]
    Nar(#[from] NarError),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Room for the blocks of one upload, all of its NARs together.
#[derive(Clone)]
pub(super) struct Blocks(Arc<Room>);

struct Room {
    free: Arc<Semaphore>,
    /// Memory that is used again, of small blocks and large ones: what the system hands out anew it has to clear first.
    spare: [Mutex<Vec<Vec<u8>>>; 2],
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self(Arc::new(Room { free: Arc::new(Semaphore::new(BLOCKS)), spare: Default::default() }))
    }

    /// Waits until there is room for a block of so many bytes, at most [`BLOCK`].
    async fn take(&self, size: usize) -> Block {
        let size = if size <= SMALL { SMALL } else { BLOCK };
        let place = self.0.free.clone().acquire_many_owned(u32::try_from(size).unwrap_or(u32::MAX)).await.ok();
        Block { buffer: self.buffer(size), _place: place }
    }

    /// Returns memory for a block or a frame of at most so many bytes.
    fn buffer(&self, size: usize) -> Buffer {
        let blocks = self.clone();
        let large = usize::from(size > zstd::zstd_safe::compress_bound(SMALL));
        let mut bytes = blocks.spare(large).pop().unwrap_or_default();
        bytes.reserve_exact(size);
        Buffer { bytes, large, blocks }
    }

    fn spare(&self, large: usize) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.spare[large].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of a block or a frame.
struct Buffer {
    bytes: Vec<u8>,
    large: usize,
    blocks: Blocks,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.blocks.spare(self.large).push(bytes);
    }
}

/// A part of a NAR. Another one may take its place when it is dropped.
struct Block {
    buffer: Buffer,
    _place: Option<OwnedSemaphorePermit>,
}

/// A block's frame. It holds on to its block until it is written, which bounds the frames that wait.
struct Frame {
    buffer: Buffer,
    _block: Arc<Block>,
}

/// A NAR that is being taken in. Dropped, it leaves nothing behind.
pub(super) struct Intake {
    objects: Arc<dyn ObjectStore>,
    /// Bytes that are still to come; none where only the end will tell.
    left: Option<u64>,
    request: Option<AddressRequest>,
    keep: Keep,
    expected: Expected,
    blocks: Blocks,
    filling: Option<Block>,
    flow: Option<Flow>,
}

/// The way of a NAR's blocks, once it has more than one.
struct Flow {
    to_digest: mpsc::Sender<Arc<Block>>,
    digest: JoinHandle<Result<NarDigest, NarError>>,
    storage: Option<Storage>,
}

/// Where the frames go: in the order of their blocks, each as soon as it is made.
struct Storage {
    to_write: mpsc::Sender<JoinHandle<Result<Frame, ObjectError>>>,
    written: JoinHandle<Result<Stored, ObjectError>>,
}

impl Intake {
    /// Starts to take in a NAR of this hash and size in bytes; none where only its end will tell.
    pub(super) fn start(
        objects: &Arc<dyn ObjectStore>,
        hash: Option<&NarHash>,
        size: Option<u64>,
        request: Option<AddressRequest>,
        keep: Keep,
        blocks: &Blocks,
    ) -> Self {
        let (objects, blocks) = (objects.clone(), blocks.clone());
        let expected = Expected { key: hash.map(nar_key), at_most: size.map(compressed_at_most) };
        Self { objects, left: size, request, keep, expected, blocks, filling: None, flow: None }
    }

    /// Takes in the next bytes. When it says that nobody wants more, [`Intake::finish`] says why.
    pub(super) async fn feed(&mut self, chunk: Bytes) -> Result<Demand, ObjectError> {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            if self.filling.as_ref().is_some_and(|block| block.buffer.bytes.len() == BLOCK)
                && self.push_block().await? == Demand::NoMore
            {
                return Ok(Demand::NoMore);
            }
            let left = self.left.map_or(BLOCK, |left| usize::try_from(left).unwrap_or(BLOCK).min(BLOCK));
            let block = match &mut self.filling {
                Some(block) => block,
                none => none.insert(self.blocks.take(left).await),
            };
            let bytes = &mut block.buffer.bytes;
            let (now, later) = rest.split_at(rest.len().min(BLOCK - bytes.len()));
            bytes.extend_from_slice(now);
            self.left = self.left.map(|left| left.saturating_sub(now.len() as u64));
            rest = later;
        }
        Ok(Demand::More)
    }

    /// Sends a block on its way.
    async fn push_block(&mut self) -> Result<Demand, ObjectError> {
        let Some(block) = self.filling.take().map(Arc::new) else {
            return Ok(Demand::More);
        };
        let flow = match &mut self.flow {
            Some(flow) => flow,
            none => {
                none.insert(Flow::start(&*self.objects, self.request.take(), self.keep, self.expected.clone()).await?)
            }
        };
        if let (Some(storage), Keep::Bytes { level }) = (&flow.storage, self.keep) {
            let block = block.clone();
            let frame = in_turn(move || compress(block, level));
            if storage.to_write.send(frame).await.is_err() {
                return Ok(Demand::NoMore);
            }
        }
        Ok(if flow.to_digest.send(block).await.is_ok() { Demand::More } else { Demand::NoMore })
    }

    /// Says that all bytes came. The work goes on by itself; its outcome is what the handle yields.
    pub(super) async fn finish(mut self) -> Result<JoinHandle<Result<Hashed, IntakeError>>, ObjectError> {
        if self.flow.is_some() {
            let _told_by_the_outcome = self.push_block().await?;
        }
        let Some(Flow { to_digest, digest, storage }) = self.flow else {
            let upload = match self.keep {
                Keep::Bytes { level } => Some((self.objects.upload(self.expected).await?, level)),
                Keep::Nothing => None,
            };
            let (nar, request) = (self.filling, self.request);
            let small = nar.as_ref().is_none_or(|block| block.buffer.bytes.len() <= SMALL);
            let work = move || in_one_go(nar, request.as_ref(), upload);
            // Handing it to another thread and back takes longer than it is worth for a millisecond's work.
            return Ok(if small { tokio::spawn(async { work() }) } else { in_turn(work) });
        };
        drop(to_digest);
        let written = storage.map(|storage| storage.written);
        Ok(tokio::spawn(async move {
            let digest = digest.await.map_err(ObjectError::from)??;
            let stored = match written {
                None => None,
                Some(written) => Some(written.await.map_err(ObjectError::from)??),
            };
            Ok(Hashed { digest, stored })
        }))
    }
}

impl Flow {
    async fn start(
        objects: &dyn ObjectStore,
        request: Option<AddressRequest>,
        keep: Keep,
        expected: Expected,
    ) -> Result<Self, ObjectError> {
        // What bounds the blocks that wait is how many there are.
        let (to_digest, blocks) = mpsc::channel(BLOCKS);
        let digest = spawn_blocking(move || digest_nar(Arriving { blocks, now: None }, request.as_ref()));
        let storage = match keep {
            Keep::Nothing => None,
            Keep::Bytes { .. } => {
                let upload = objects.upload(expected).await?;
                let (to_write, frames) = mpsc::channel(BLOCKS);
                Some(Storage { to_write, written: tokio::spawn(write_frames(frames, Sink::new(upload))) })
            }
        };
        Ok(Self { to_digest, digest, storage })
    }
}

/// Returns the most bytes that a NAR of so many can have when it is compressed.
fn compressed_at_most(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(zstd::zstd_safe::compress_bound(BLOCK) as u64)
}

/// Does work that takes a processor, when there is one for it. Were all of it begun at once, the compressors' tables, which
/// have 0.75 MiB each, would push each other out of the processors' caches.
fn in_turn<T: Send + 'static, E: From<ObjectError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> JoinHandle<Result<T, E>> {
    static PROCESSORS: LazyLock<Semaphore> =
        LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, NonZero::get)));
    tokio::spawn(async move {
        let _turn = PROCESSORS.acquire().await;
        spawn_blocking(work).await.map_err(ObjectError::from)?
    })
}

/// Whether more bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    More,
    NoMore,
}

/// Works on a NAR that came in one block, or had no byte at all.
fn in_one_go(
    nar: Option<Block>,
    request: Option<&AddressRequest>,
    upload: Option<(Box<dyn Upload>, i32)>,
) -> Result<Hashed, IntakeError> {
    let digest = digest_nar(Cursor::new(nar.as_ref().map_or(&[][..], |block| &block.buffer.bytes)), request)?;
    let (Some(block), Some((upload, level))) = (nar, upload) else {
        return Ok(Hashed { digest, stored: None });
    };
    let mut sink = Sink::new(upload);
    sink.write(&compress(Arc::new(block), level)?)?;
    Ok(Hashed { digest, stored: Some(sink.finish()?) })
}

/// Makes a compressor: at level 3 with what zstd takes when it does not know how much will come, as in Nix. For short inputs it
/// would take smaller tables, and be slower.
fn compressor(level: i32) -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    if level != 3 {
        return Ok(compressor);
    }
    for parameter in
        [CParameter::HashLog(17), CParameter::ChainLog(16), CParameter::SearchLog(1), CParameter::MinMatch(5)]
    {
        compressor.set_parameter(parameter)?;
    }
    Ok(compressor)
}

/// Compresses a block.
fn compress(block: Arc<Block>, level: i32) -> Result<Frame, ObjectError> {
    /// Making one costs more than compressing 100 KB with it, and each has its tables. A program has one level; where it has more,
    /// the last one's compressors stay.
    static SPARE: Mutex<Vec<(i32, zstd::bulk::Compressor<'static>)>> = Mutex::new(Vec::new());
    let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = &block.buffer.bytes;
    let mut frame = block.buffer.blocks.buffer(zstd::zstd_safe::compress_bound(bytes.len()));
    let kept = spare().pop().filter(|(made_for, _)| *made_for == level).map(|(_, compressor)| compressor);
    let compressed = kept.map_or_else(|| compressor(level), Ok).and_then(|mut compressor| {
        compressor.compress_to_buffer(&bytes[..], &mut frame.bytes)?;
        spare().push((level, compressor));
        Ok(())
    });
    compressed.map_err(|source| ObjectError::Io { action: "compress", place: "a NAR".into(), source })?;
    Ok(Frame { buffer: frame, _block: block })
}

/// Writes frames in the order in which their blocks came.
async fn write_frames(
    mut frames: mpsc::Receiver<JoinHandle<Result<Frame, ObjectError>>>,
    mut sink: Sink,
) -> Result<Stored, ObjectError> {
    while let Some(frame) = frames.recv().await {
        let frame = frame.await??;
        let written = spawn_blocking(move || sink.write(&frame).map(|()| sink));
        sink = written.await??;
    }
    spawn_blocking(move || sink.finish()).await?
}

/// Hashes and counts compressed bytes on their way to the store.
struct Sink {
    upload: Box<dyn Upload>,
    sha256: Sha256,
    size: u64,
}

impl Sink {
    fn new(upload: Box<dyn Upload>) -> Self {
        Self { upload, sha256: Sha256::new(), size: 0 }
    }

    fn write(&mut self, frame: &Frame) -> Result<(), ObjectError> {
        let bytes = &frame.buffer.bytes;
        self.upload.write(bytes)?;
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Stored, ObjectError> {
        self.upload.finish()?;
        let file_hash = Some(NarHash::from_sha256(self.sha256.finalize().into()).to_string());
        Ok((self.upload, FileFacts { file_hash, file_size: self.size }))
    }
}

/// Blocks as they arrive, for a thread that may wait for them.
struct Arriving {
    blocks: mpsc::Receiver<Arc<Block>>,
    /// The one that is being read, and how far.
    now: Option<(Arc<Block>, usize)>,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((block, read)) = &mut self.now {
                let rest = &block.buffer.bytes[*read..];
                if !rest.is_empty() {
                    let count = buffer.len().min(rest.len());
                    buffer[..count].copy_from_slice(&rest[..count]);
                    *read += count;
                    return Ok(count);
                }
            }
            // The last one is given back before the next is waited for.
            self.now = None;
            match self.blocks.blocking_recv() {
                Some(block) => self.now = Some((block, 0)),
                None => return Ok(0),
            }
        }
    }
}
