//! What the gate saw of its store a moment ago: a client asks for a path's info, and then for its bytes; it asks which of some
//! paths are valid, and then offers those that are not. Nothing is admitted or deleted by what is known from here, and what this
//! gate writes it forgets.
//!
//! Where looking costs little, what was read is used again only while the objects that it was read from are the same. Where it
//! takes a request over a network, each is looked up once, and what is remembered can be behind what other gates did in the
//! last seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, Semaphore};
use verifier::StorePath;

use crate::object::{Key, Object, Version};
use crate::store::{BinaryCache, Record, StoreError, hash_part_of, narinfo_key, record_key};

/// Most paths that are remembered, and most that are known to be missing: some KB each, and some hundred bytes.
const MOST: usize = 2_000;
const MOST_ABSENT: usize = 100_000;

/// Most small NARs that wait to be asked for: at most half a MiB each.
const MOST_NARS: usize = 32;

/// Objects that are read ahead at once.
const AHEAD: usize = 32;

/// A record, under the version of its path's narinfo.
pub(super) type Found = (Arc<Record>, Version);

#[derive(Clone)]
pub(super) struct Recent(Arc<Inner>);

struct Inner {
    lasts: Duration,
    state: Mutex<State>,
    ahead: Semaphore,
}

#[derive(Default)]
struct State {
    records: HashMap<StorePath, Slot<Read>>,
    absent: HashMap<StorePath, Instant>,
    nars: HashMap<StorePath, Slot<Object>>,
}

/// A record that was read, under the versions of the two objects that it was read from.
#[derive(Clone)]
struct Read {
    found: Found,
    evidence: (Key, Version),
}

/// Something that was read, or is being read.
struct Slot<T> {
    /// When it was asked for, which was before it was read.
    asked: Instant,
    content: Arc<OnceCell<T>>,
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self { asked: Instant::now(), content: Arc::default() }
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { asked: self.asked, content: self.content.clone() }
    }
}

impl Recent {
    /// Remembers what was read of a store for so long.
    pub(super) fn new(lasts: Duration) -> Self {
        let (state, ahead) = (Mutex::default(), Semaphore::new(AHEAD));
        Self(Arc::new(Inner { lasts, state, ahead }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the slot of a path, and whether it was there.
    fn slot(&self, path: &StorePath) -> (Slot<Read>, bool) {
        let mut state = self.state();
        if let Some(slot) = state.records.get(path).filter(|slot| slot.asked.elapsed() < self.0.lasts) {
            return (slot.clone(), true);
        }
        if state.records.len() >= MOST {
            state.records.retain(|_, slot| slot.asked.elapsed() < self.0.lasts);
        }
        if state.records.len() >= MOST {
            state.records.clear();
        }
        let slot = Slot::new();
        state.records.insert(path.clone(), slot.clone());
        (slot, false)
    }

    /// Returns the record of a path, of this version if one is asked for, by asking `cache` where it is not known.
    pub(super) async fn record(
        &self,
        cache: &BinaryCache,
        path: &StorePath,
        version: Option<&Version>,
    ) -> Result<Option<Found>, StoreError> {
        let slot = if self.0.lasts.is_zero() { self.unchanged(cache, path).await? } else { self.slot(path).0 };
        match fill(&slot, cache, path).await {
            Ok(Read { found, .. }) if version.is_none_or(|version| *version == found.1) => return Ok(Some(found)),
            Ok(_) => self.forget(path),
            Err(unread) => {
                self.forget(path);
                return unread.map_or(Ok(None), Err);
            }
        }
        Ok(read(cache, path).await?.map(|read| read.found))
    }

    /// Returns the slot of a path: a new one if what was read for the last is no longer what is there.
    async fn unchanged(&self, cache: &BinaryCache, path: &StorePath) -> Result<Slot<Read>, StoreError> {
        let slot = self.state().records.get(path).cloned();
        if let Some(slot) = slot
            && let Some(Read { found: (_, version), evidence: (key, evidence) }) = slot.content.get()
            && is_still(cache, &narinfo_key(path), version).await?
            && is_still(cache, key, evidence).await?
        {
            return Ok(slot);
        }
        Ok(self.slot(path).0)
    }

    /// Reads the records of paths that somebody will probably ask for next.
    pub(super) fn read_ahead(&self, cache: &BinaryCache, paths: impl Iterator<Item = StorePath>) {
        if self.0.lasts.is_zero() {
            return;
        }
        for path in paths.take(MOST / 4) {
            let (slot, there) = self.slot(&path);
            if there {
                continue;
            }
            let (this, cache) = (self.clone(), cache.clone());
            tokio::spawn(async move {
                let _turn = this.0.ahead.acquire().await;
                if fill(&slot, &cache, &path).await.is_err() {
                    this.forget(&path);
                }
            });
        }
    }

    /// Reads the small NARs among some paths that somebody will probably ask for next.
    pub(super) fn read_nars_ahead(&self, cache: &BinaryCache, paths: Vec<StorePath>) {
        if self.0.lasts.is_zero() {
            return;
        }
        for path in paths {
            let slot = {
                let mut state = self.state();
                let lasts = self.0.lasts;
                state.nars.retain(|_, slot| slot.asked.elapsed() < lasts);
                if state.nars.len() >= MOST_NARS || state.nars.contains_key(&path) {
                    continue;
                }
                let slot = Slot::new();
                state.nars.insert(path.clone(), slot.clone());
                slot
            };
            let (this, cache) = (self.clone(), cache.clone());
            tokio::spawn(async move {
                let _turn = this.0.ahead.acquire().await;
                if fill_nar(&slot, &this, &cache, &path).await.is_err() {
                    this.state().nars.remove(&path);
                }
            });
        }
    }

    /// Returns a small NAR's object if it was read ahead, or is being read. It is forgotten then.
    pub(super) async fn take_nar(&self, cache: &BinaryCache, path: &StorePath) -> Option<Object> {
        let slot = self.state().nars.remove(path)?;
        fill_nar(&slot, self, cache, path).await.ok()
    }

    /// Says that something of a path was written: what was read of it before is out of date.
    pub(super) fn forget(&self, path: &StorePath) {
        let mut state = self.state();
        state.records.remove(path);
        state.absent.remove(path);
        state.nars.remove(path);
    }

    /// Says that a path was not there just now.
    pub(super) fn note_absent(&self, path: &StorePath) {
        if self.0.lasts.is_zero() {
            return;
        }
        let mut state = self.state();
        if state.absent.len() >= MOST_ABSENT {
            state.absent.clear();
        }
        state.absent.insert(path.clone(), Instant::now());
    }

    /// Whether a path was not there a moment ago. Writes have conditions, so what another gate writes meanwhile is found then.
    pub(super) fn is_absent(&self, path: &StorePath) -> bool {
        self.state().absent.get(path).is_some_and(|since| since.elapsed() < self.0.lasts)
    }
}

/// Whether an object is still this version.
async fn is_still(cache: &BinaryCache, key: &Key, version: &Version) -> Result<bool, StoreError> {
    Ok(cache.objects().head(key).await?.is_some_and(|there| there.version == *version))
}

/// Waits until a slot is filled, by whoever does it. The error says why it is not; none where there is nothing to fill it with.
async fn fill(slot: &Slot<Read>, cache: &BinaryCache, path: &StorePath) -> Result<Read, Option<StoreError>> {
    let read = || async { read(cache, path).await.map_err(Some)?.ok_or(None) };
    slot.content.get_or_try_init(read).await.cloned()
}

/// Waits until a slot is filled with the object of a small NAR, likewise.
async fn fill_nar(
    slot: &Slot<Object>,
    recent: &Recent,
    cache: &BinaryCache,
    path: &StorePath,
) -> Result<Object, Option<StoreError>> {
    let read = || async {
        let (record, _) = recent.record(cache, path, None).await.map_err(Some)?.ok_or(None)?;
        cache.small_nar(record.info()).await.map_err(|error| Some(error.into()))?.ok_or(None)
    };
    slot.content.get_or_try_init(read).await.cloned()
}

/// Reads the record that a path's narinfo points to, by its own fingerprint. A narinfo without one is not ours: no gate
/// admitted it.
async fn read(cache: &BinaryCache, path: &StorePath) -> Result<Option<Read>, StoreError> {
    let Some(narinfo) = cache.narinfo(&hash_part_of(path)).await? else {
        return Ok(None);
    };
    let Ok(fingerprint) = narinfo.info.fingerprint(cache.store_dir()) else {
        return Ok(None);
    };
    if narinfo.info.path != *path {
        return Ok(None);
    }
    let digest = fingerprint.digest();
    let Some((record, version)) = cache.record(path, &digest).await? else {
        tracing::warn!(path = %cache.store_dir().render_path(path), "a narinfo has no evidence: it is not served");
        return Ok(None);
    };
    let evidence = (record_key(path, &digest), version);
    Ok(Some(Read { found: (Arc::new(record), narinfo.version), evidence }))
}
