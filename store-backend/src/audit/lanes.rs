//! Compressed NARs in files, hashed two at a time by each processor.
//!
//! SHA-256 is one chain of instructions of which each waits for the one before. Two chains that take turns fill each other's
//! waits: with the processor's own instructions for it, that is 1.4 times as fast as one after the other.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;
use verifier::{NarDigest, NarError};

use super::contents::given_up;
use super::hashing::{Count, digest};

/// Bytes of a NAR that are read at a time: two NARs' stay in a processor's fast memory until they are hashed.
const BLOCK: usize = 32 << 10;

/// Bytes of a turn: SHA-256 takes so many at a time.
const TURN: usize = 64;

/// Processors that are kept at work, at most. That bounds memory too: three decoders are under way for each, two of them in lanes.
const MOST_PROCESSORS: usize = 16;

/// Returns how many processors are kept at work.
pub(super) fn processors() -> usize {
    available_parallelism().map_or(2, NonZero::get).min(MOST_PROCESSORS)
}

/// Where NARs wait for a lane, and who takes them from there.
#[derive(Clone)]
pub(super) struct Lanes {
    waiting: Arc<Mutex<VecDeque<Job>>>,
    /// Places for those.
    workers: Arc<Semaphore>,
}

/// A NAR that is being hashed.
struct Job {
    nar: Box<dyn Read + Send>,
    count: Count,
    sha256: Sha256,
    answer: oneshot::Sender<Result<NarDigest, NarError>>,
}

impl Lanes {
    /// Makes lanes for so many workers, of two each.
    pub(super) fn new(workers: usize) -> Self {
        Self { waiting: Arc::default(), workers: Arc::new(Semaphore::new(workers)) }
    }

    /// Hashes a NAR that nobody has to be waited for: it shares a thread with another.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn hash(&self, nar: Box<dyn Read + Send>, count: Count) -> Result<NarDigest, NarError> {
        let (answer, digest) = oneshot::channel();
        self.waiting().push_back(Job { nar, count, sha256: Sha256::new(), answer });
        if let Ok(place) = self.workers.clone().try_acquire_owned() {
            let lanes = self.clone();
            spawn_blocking(move || lanes.work(place));
        }
        digest.await.unwrap_or_else(|error| Err(given_up(error)))
    }

    /// Hashes as long as anything waits. Who adds to that finds either a free place or somebody who will look again.
    fn work(&self, place: OwnedSemaphorePermit) {
        let (mut lanes, mut place) = ([Lane::default(), Lane::default()], Some(place));
        while place.is_some() {
            while self.advance(&mut lanes) {}
            place = None;
            if !self.waiting().is_empty() {
                place = self.workers.clone().try_acquire_owned().ok();
            }
        }
    }

    /// Hashes what both lanes have, or the one that has anything; says whether there was anything.
    fn advance(&self, lanes: &mut [Lane; 2]) -> bool {
        let [one, other] = lanes;
        match (self.load(one, other.job.is_some()), self.load(other, one.job.is_some())) {
            (true, true) => hash_both(one, other),
            (true, false) => one.hash_rest(),
            (false, true) => other.hash_rest(),
            (false, false) => return false,
        }
        true
    }

    /// Sees to it that a lane has something to hash, from the next NAR where one is at its end; says whether it has. A worker that has
    /// one NAR leaves the others to those that have none.
    fn load(&self, lane: &mut Lane, has_another: bool) -> bool {
        while lane.rest.is_empty() {
            if lane.job.is_none() && !(has_another && self.workers.available_permits() > 0) {
                lane.job = self.waiting().pop_front();
            }
            if lane.job.is_none() {
                return false;
            }
            lane.read();
        }
        true
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hashes what two lanes have.
fn hash_both(one: &mut Lane, other: &mut Lane) {
    let common = one.rest.len().min(other.rest.len()) / TURN * TURN;
    if let (Some((one_hash, one)), Some((other_hash, other))) = (one.take(common), other.take(common)) {
        for (one, other) in one.chunks(TURN).zip(other.chunks(TURN)) {
            one_hash.update(one);
            other_hash.update(other);
        }
    }
    // A few bytes at a NAR's end.
    [one, other].into_iter().filter(|lane| lane.rest.len() < TURN).for_each(Lane::hash_rest);
}

/// A NAR under way, and what was read of it.
#[derive(Default)]
struct Lane {
    job: Option<Job>,
    block: Vec<u8>,
    /// What in the block is not hashed yet.
    rest: Range<usize>,
}

impl Lane {
    /// Reads more of the NAR, or ends with it.
    fn read(&mut self) {
        let Some(mut job) = self.job.take() else { return };
        self.block.resize(BLOCK, 0);
        // What panics harms nobody beside it, and is answered for by its being dropped.
        let Ok(read) = catch_unwind(AssertUnwindSafe(|| job.read(&mut self.block))) else { return };
        match read {
            // Nobody wants to know any more.
            _ if job.answer.is_closed() => {}
            Ok(0) => job.end(),
            Ok(count) => (self.rest, self.job) = (0..count, Some(job)),
            Err(error) => {
                let _nobody_waits = job.answer.send(Err(error));
            }
        }
    }

    /// Takes so many bytes of what there is to hash, and the hash that they go into.
    fn take(&mut self, count: usize) -> Option<(&mut Sha256, &[u8])> {
        let part = self.rest.start..self.rest.start + count;
        self.rest.start = part.end;
        self.job.as_mut().map(|job| (&mut job.sha256, &self.block[part]))
    }

    fn hash_rest(&mut self) {
        if let Some((sha256, bytes)) = self.take(self.rest.len()) {
            sha256.update(bytes);
        }
    }
}

impl Job {
    /// Reads a whole block, or what is left.
    fn read(&mut self, block: &mut [u8]) -> Result<usize, NarError> {
        let mut filled = 0;
        while filled < block.len() {
            let read = match self.nar.read(&mut block[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.and_then(|count| self.count.pass(count).map(|()| count)),
            };
            match read.map_err(|source| NarError::Read { offset: self.count.passed(), source })? {
                // Not every decoder can be asked again.
                0 => {
                    self.nar = Box::new(io::empty());
                    break;
                }
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn end(self) {
        let _nobody_waits = self.answer.send(Ok(digest(self.sha256, &self.count)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::task::JoinSet;
    use verifier::NarHash;

    use super::*;

    /// Hands out its bytes a few at a time, and then what is said.
    struct Slow(Cursor<Vec<u8>>, fn() -> io::Result<usize>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let few = buffer.len().min(1_000);
            match self.0.read(&mut buffer[..few])? {
                0 => (self.1)(),
                count => Ok(count),
            }
        }
    }

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 7 + at / 251 + size) as u8).collect()
    }

    async fn hash(lanes: &Lanes, bytes: Vec<u8>, end: fn() -> io::Result<usize>) -> Result<NarDigest, NarError> {
        let count = Count::up_to(bytes.len() as u64, Arc::default());
        lanes.hash(Box::new(Slow(Cursor::new(bytes), end)), count).await
    }

    fn expected(bytes: &[u8]) -> NarDigest {
        NarDigest::of_hash(NarHash::from_sha256(Sha256::digest(bytes).into()), bytes.len() as u64)
    }

    /// Around every length that matters, side by side with every other, in one worker and in several.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_nar_has_its_own_hash() {
        let around = |size: usize| [size - 1, size, size + 1, size + TURN - 8];
        let sizes = [1, TURN, 2 * TURN, BLOCK - TURN, BLOCK, 3 * BLOCK].map(around).concat();
        for workers in [1, 3] {
            let lanes = Arc::new(Lanes::new(workers));
            let mut hashing = JoinSet::new();
            for turn in 0..sizes.len() {
                for size in sizes.iter().copied().cycle().skip(turn).take(sizes.len()) {
                    let lanes = lanes.clone();
                    hashing.spawn(async move { (hash(&lanes, bytes(size), || Ok(0)).await, size) });
                }
            }
            while let Some(done) = hashing.join_next().await {
                let (digest, size) = done.expect("it does not panic");
                assert_eq!(digest.expect("it can be read"), expected(&bytes(size)), "{size} bytes, {workers} workers");
            }
            let _all = lanes.workers.acquire_many(workers as u32).await.expect("nobody closes it");
        }
    }

    #[tokio::test]
    async fn what_fails_harms_nobody_beside_it() {
        let lanes = Lanes::new(1);
        let good = bytes(5 * BLOCK + 8);
        let (one, broken, too_long, other) = tokio::join!(
            hash(&lanes, good.clone(), || Ok(0)),
            hash(&lanes, bytes(2 * BLOCK), || Err(ErrorKind::InvalidData.into())),
            lanes.hash(Box::new(Cursor::new(bytes(BLOCK + 1))), Count::up_to(BLOCK as u64, Arc::default())),
            hash(&lanes, good.clone(), || Ok(0)),
        );
        assert_eq!(one.expect("it can be read"), expected(&good));
        assert_eq!(other.expect("it can be read"), expected(&good));
        for (failed, at) in [(broken, 2 * BLOCK), (too_long, BLOCK + 1)] {
            let Err(NarError::Read { offset, source }) = failed else { panic!("it cannot be read") };
            assert_eq!((offset, source.kind()), (at as u64, ErrorKind::InvalidData));
        }
    }

    #[tokio::test]
    async fn what_panics_harms_nobody_beside_it() {
        let lanes = Lanes::new(1);
        let good = bytes(9 * BLOCK);
        let (panicked, beside, waiting) = tokio::join!(
            hash(&lanes, bytes(100), || panic!("a reader that panics")),
            hash(&lanes, good.clone(), || Ok(0)),
            hash(&lanes, good.clone(), || Ok(0)),
        );
        let error = panicked.expect_err("nobody can tell");
        assert!(error.to_string().contains("ended without an answer"), "{error}");
        for digest in [beside, waiting] {
            assert_eq!(digest.expect("it can be read"), expected(&good));
        }
    }

    /// Not every decoder can be asked for more after its end.
    #[tokio::test]
    async fn the_end_is_read_once() {
        struct Once(io::Empty, bool);
        impl Read for Once {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                assert!(!std::mem::replace(&mut self.1, true), "it has said that it is at its end");
                self.0.read(buffer)
            }
        }
        for size in [8, BLOCK, BLOCK + 8] {
            let nar = bytes(size);
            let reader = Cursor::new(nar.clone()).chain(Once(io::empty(), false));
            let digest = Lanes::new(1).hash(Box::new(reader), Count::up_to(size as u64, Arc::default())).await;
            assert_eq!(digest.expect("it can be read"), expected(&nar), "{size} bytes");
        }
    }

    /// Two NARs and two workers: neither takes both.
    #[tokio::test]
    async fn a_worker_leaves_others_what_they_can_take() {
        let lanes = Lanes::new(2);
        let mut lane = Lane::default();
        let place = lanes.workers.try_acquire().expect("nobody works yet");
        let (answer, _kept) = oneshot::channel();
        let count = Count::up_to(1, Arc::default());
        lanes.waiting().push_back(Job { nar: Box::new(io::empty()), count, sha256: Sha256::new(), answer });
        assert!(!lanes.load(&mut lane, true) && lanes.waiting().len() == 1);
        let _other = lanes.workers.try_acquire().expect("one place is left");
        assert!(!lanes.load(&mut lane, true) && lanes.waiting().is_empty());
        drop(place);
    }

    /// A NAR that nobody asks about any more is not read to its end: this one has none.
    #[tokio::test]
    async fn what_nobody_waits_for_is_given_up() {
        let lanes = Lanes::new(1);
        let endless = lanes.hash(Box::new(io::repeat(1)), Count::up_to(u64::MAX, Arc::default()));
        tokio::select! {
            biased;
            _ = endless => panic!("it has no end"),
            () = tokio::task::yield_now() => {}
        }
        let good = bytes(BLOCK);
        assert_eq!(hash(&lanes, good.clone(), || Ok(0)).await.expect("it can be read"), expected(&good));
        let _all = lanes.workers.acquire().await.expect("nobody closes it");
    }
}
