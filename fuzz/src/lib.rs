//! What the fuzz targets share: bytes that come in pieces, a runtime for what never waits, and gauges for memory and time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::OnceCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use store_backend::wire::{ByteSource, WireError};
use tokio::runtime::{Builder, Runtime};

/// Most bytes that stay allocated, or are allocated at once, for an announced length alone: the longest string is 8 MiB,
/// and is allocated before it comes.
const ANNOUNCED: usize = 9 << 20;

/// Bytes that one byte of input may cost: an empty string takes 8 bytes on the wire and 24 in a list, which may be
/// growing (old and new list at once), and is often understood into something larger.
const PER_BYTE: usize = 64;

/// A source of bytes in pieces of given lengths, over and over; all at once where none are given.
pub struct Pieces<'a> {
    rest: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl<'a> Pieces<'a> {
    /// Cuts bytes up. A length of 0 counts as 256, because an empty piece is the end.
    #[must_use]
    pub fn new(bytes: &'a [u8], lengths: &'a [u8]) -> Self {
        Self { rest: bytes, lengths: lengths.iter().cycle() }
    }
}

impl ByteSource for Pieces<'_> {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        let length = match self.lengths.next() {
            Some(0) => 256,
            Some(length) => usize::from(*length),
            None => self.rest.len(),
        };
        let (now, later) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = later;
        Ok(Bytes::copy_from_slice(now))
    }
}

/// Some bytes, then others over and over until twice a request's whole budget has come: a peer who does not stop.
pub struct Endless {
    head: Bytes,
    tail: Bytes,
    left: usize,
}

impl Endless {
    /// Takes input apart: two bytes with the head's length, little-endian; the head; and what is repeated.
    #[must_use]
    pub fn new(input: &[u8]) -> Option<Self> {
        let (length, bytes) = input.split_first_chunk()?;
        let (head, tail) = bytes.split_at_checked(u16::from_le_bytes(*length).into())?;
        // Short pieces would only cost time.
        let tail = if tail.is_empty() { Vec::new() } else { tail.repeat((64 << 10) / tail.len() + 1) };
        Some(Self { head: Bytes::copy_from_slice(head), tail: tail.into(), left: 48 << 20 })
    }
}

impl ByteSource for Endless {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        if !self.head.is_empty() {
            return Ok(std::mem::take(&mut self.head));
        }
        let piece = self.tail.slice(..self.left.min(self.tail.len()));
        self.left -= piece.len();
        Ok(piece)
    }
}

/// Runs what waits for nobody but this process.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local!(static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() });
    RUNTIME.with(|runtime| {
        let start = || Builder::new_current_thread().enable_time().build().expect("a runtime without I/O");
        runtime.get_or_init(start).block_on(work)
    })
}

/// Does work that takes a second, a few times in the life of this process; after that there is no time for it. Inputs that
/// a run starts from come first, and an input that is run by itself always has its turn.
pub fn rarely(work: impl FnOnce()) {
    static TURNS: AtomicUsize = AtomicUsize::new(6);
    if TURNS.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        work();
    }
}

/// Does work and checks that the memory it took at any one time stays in proportion to its input.
///
/// # Panics
/// When it took more.
pub fn in_proportion<T>(input: usize, work: impl FnOnce() -> T) -> T {
    within(ANNOUNCED + PER_BYTE * input, work)
}

/// Does work and checks that it never took more than so many bytes of memory at a time.
///
/// # Panics
/// When it took more.
pub fn within<T>(most: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let done = work();
    let took = PEAK.load(Relaxed).saturating_sub(before);
    assert!(took <= most, "took {took} bytes of memory, expected at most {most}");
    done
}

/// Does work and checks that this thread was not busy with it for longer than that, whatever else the machine does.
///
/// # Panics
/// When it was.
pub fn quickly<T>(limit: Duration, what: &str, work: impl FnOnce() -> T) -> T {
    let before = busy();
    let done = work();
    let took = busy() - before;
    assert!(took <= limit, "{what} took {took:?}, expected at most {limit:?}");
    done
}

fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting what is in use.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

impl Counted {
    fn grow(by: usize) {
        let now = LIVE.fetch_add(by, Relaxed) + by;
        PEAK.fetch_max(now, Relaxed);
    }

    fn shrink(by: usize) {
        LIVE.fetch_sub(by, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting touches nothing but two numbers.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new may both be there for a moment.
        Self::grow(size);
        // SAFETY: the caller's promises are passed on.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        Self::shrink(layout.size());
        moved
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::shrink(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
