//! Views: every read goes through here, and answers by the policy of now.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_derivation::Derivation;
use policy::Verdict;
use verifier::{PathInfo, StorePath, Timestamp};

use super::index::Known;
use super::memory::{Epoch, Standing};
use super::promotion::is_candidate;
use super::recent::Found;
use super::{Candidate, Gate, GateError};
use crate::clock::now;
use crate::object::Version;
use crate::store::{MAX_DERIVATION_NAR, NarStream, Record, hash_part_of, narinfo_key, parse_derivation};

/// Paths that are looked up at once.
const AT_ONCE: usize = 32;

/// What may be read of a store. There is no other way to read it, so none in which the check could be forgotten.
#[derive(Clone, Copy)]
pub struct View<'a> {
    gate: &'a Gate,
    sight: Sight,
}

/// Which of a store's two views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// What is admitted, and nothing else.
    Admitted,
    /// That, and of what is held its path infos.
    Staging,
}

/// A path whose closure is being judged: its references are gone through one by one.
struct Frame {
    path: StorePath,
    version: Version,
    until: Option<Timestamp>,
    references: std::vec::IntoIter<StorePath>,
}

/// What a look at one path found.
enum Look {
    /// It is remembered, or it is not there, or it does not stand by itself.
    Known(Standing),
    /// It stands by itself; its references decide.
    Open(Box<Frame>),
}

impl<'a> View<'a> {
    pub(super) fn of(gate: &'a Gate, sight: Sight) -> Self {
        Self { gate, sight }
    }

    /// Returns the path info of what is held of a path that is not valid; none if nothing is, or this view does not show it.
    ///
    /// # Errors
    /// [`GateError::InConflict`] when several contents are held for it, or when the store cannot tell.
    pub async fn held_info(&self, path: &StorePath) -> Result<Option<PathInfo>, GateError> {
        if self.sight == Sight::Admitted {
            return Ok(None);
        }
        match &self.gate.candidates(path).await?[..] {
            [] => Ok(None),
            [only] => Ok(Some(only.record.stated())),
            several => Err(GateError::InConflict {
                path: self.gate.cache.store_dir().render_path(path),
                candidates: several.iter().map(Candidate::describe).collect(),
            }),
        }
    }

    /// Makes the error for a path that is not valid: where this view shows what is held, it says so.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn not_valid(&self, path: &StorePath) -> Result<GateError, GateError> {
        let store_dir = self.gate.cache.store_dir();
        Ok(match self.held_info(path).await {
            Ok(None) => GateError::not_valid(store_dir, path),
            Ok(Some(_)) | Err(GateError::InConflict { .. }) => GateError::OnlyHeld(store_dir.render_path(path)),
            Err(error) => return Err(error),
        })
    }

    /// Returns a path's info; none if the path is not valid.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, GateError> {
        let record = self.record(path).await?;
        if let Some(record) = &record {
            // Who copies a closure asks for these next.
            self.gate.recent.read_ahead(&self.gate.cache, record.info().other_references().cloned());
        }
        Ok(record.map(|record| record.info().clone()))
    }

    /// Says whether a path is valid.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn is_valid(&self, path: &StorePath) -> Result<bool, GateError> {
        match self.gate.cache.objects().head(&narinfo_key(path)).await? {
            Some(found) => self.is_valid_at(path, &found.version).await,
            None => {
                self.gate.recent.note_absent(path);
                Ok(false)
            }
        }
    }

    /// Says whether a path is valid whose narinfo is this version.
    pub(super) async fn is_valid_at(&self, path: &StorePath, version: &Version) -> Result<bool, GateError> {
        match self.gate.memory.recall(path, Some(version), now()) {
            Some(standing) => Ok(standing == Standing::Admitted),
            None => Ok(self.record_at(path, Some(version)).await?.is_some()),
        }
    }

    /// Returns the valid ones of some paths.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn valid_among(&self, paths: &[StorePath]) -> Result<BTreeSet<StorePath>, GateError> {
        self.found_by(paths.to_vec(), |path| async move { Ok(self.is_valid(&path).await?.then_some(path)) }).await
    }

    /// Returns those of some paths that need not be brought: they are valid, and their NARs are there, as far as their sizes say.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn held_among(&self, paths: &[StorePath]) -> Result<BTreeSet<StorePath>, GateError> {
        self.found_by(paths.to_vec(), |path| async move { Ok(self.is_held(&path).await?.then_some(path)) }).await
    }

    /// Returns the paths that looks at some items find, looking at several at once.
    async fn found_by<T, F>(
        &self,
        items: impl IntoIterator<Item = T>,
        look: impl Fn(T) -> F,
    ) -> Result<BTreeSet<StorePath>, GateError>
    where
        F: Future<Output = Result<Option<StorePath>, GateError>>,
    {
        let looks = stream::iter(items.into_iter().map(look)).buffer_unordered(AT_ONCE);
        looks.try_filter_map(|found| future::ready(Ok(found))).try_collect().await
    }

    async fn is_held(&self, path: &StorePath) -> Result<bool, GateError> {
        let cache = &self.gate.cache;
        let narinfo = match cache.narinfo(&hash_part_of(path)).await {
            Err(error) if error.is_damage() => return Ok(false),
            read => read?,
        };
        let Some(narinfo) = narinfo else {
            self.gate.recent.note_absent(path);
            return Ok(false);
        };
        if narinfo.info.path != *path || !self.is_valid_at(path, &narinfo.version).await? {
            return Ok(false);
        }
        let whole = narinfo.fits(cache.nar_file(&narinfo.info.nar_hash).await?.as_ref());
        if !whole {
            let path = cache.store_dir().render_path(path);
            tracing::error!(path, "the NAR is missing or truncated: the next upload of the path replaces it");
        }
        Ok(whole)
    }

    /// Returns the valid path that has a hash part; none if there is none.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, GateError> {
        let Some(narinfo) = self.gate.cache.narinfo(hash_part).await? else {
            return Ok(None);
        };
        Ok(self.is_valid_at(&narinfo.info.path, &narinfo.version).await?.then_some(narinfo.info.path))
    }

    /// Returns every valid path.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn all_paths(&self) -> Result<BTreeSet<StorePath>, GateError> {
        let _turn = self.gate.whole_store.acquire().await;
        self.standing(self.gate.index.all(&self.gate.cache, self.lately()).await?.known).await
    }

    /// Returns the valid paths that refer to a path, itself perhaps among them.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, GateError> {
        let _turn = self.gate.whole_store.acquire().await;
        self.standing(self.gate.index.referrers(&self.gate.cache, path, self.lately()).await?.known).await
    }

    /// Opens the NAR of a valid path.
    ///
    /// # Errors
    /// [`GateError::NotValid`], or when the NAR is missing.
    pub async fn nar(&self, path: &StorePath) -> Result<NarStream, GateError> {
        let Some(record) = self.record(path).await? else {
            return Err(self.not_valid(path).await?);
        };
        let read = self.gate.recent.take_nar(&self.gate.cache, path).await;
        Ok(self.gate.cache.nar_of(record.info(), read).await?)
    }

    /// Says whether it is worth while to read what will probably be asked for next.
    pub fn reads_ahead(&self) -> bool {
        !self.gate.cache.objects().stays().is_zero()
    }

    /// Reads what is small of the NARs of some paths, that will probably be asked for next.
    pub fn read_nars_ahead(&self, paths: Vec<StorePath>) {
        self.gate.recent.read_nars_ahead(&self.gate.cache, paths);
    }

    /// Reads a valid derivation.
    ///
    /// # Errors
    /// [`GateError::NotValid`], or when it is no derivation.
    pub async fn derivation(&self, path: &StorePath) -> Result<Derivation, GateError> {
        let rendered = self.gate.cache.store_dir().render_path(path);
        let no_derivation = |why: String| GateError::Unacceptable { path: rendered.clone(), why };
        let Some(record) = self.record(path).await? else {
            return Err(GateError::NotValid(rendered));
        };
        if !path.is_derivation() || record.info().nar_size > MAX_DERIVATION_NAR {
            return Err(no_derivation("expected a derivation, found something else".into()));
        }
        let mut stream = self.gate.cache.nar(record.info()).await?;
        let mut nar = Vec::new();
        while let Some(block) = stream.next().await? {
            nar.extend_from_slice(&block);
        }
        parse_derivation(path, &nar, self.gate.cache.store_dir()).map_err(no_derivation)
    }

    /// Returns the record of a valid path; none if it is not valid.
    pub(super) async fn record(&self, path: &StorePath) -> Result<Option<Arc<Record>>, GateError> {
        self.record_at(path, None).await
    }

    /// Returns the record of a valid path whose narinfo is this version, if one is named.
    async fn record_at(&self, path: &StorePath, version: Option<&Version>) -> Result<Option<Arc<Record>>, GateError> {
        let epoch = self.gate.memory.epoch();
        let Some((record, version)) = self.load(path, version).await? else {
            return Ok(None);
        };
        let standing = match self.gate.memory.recall(path, Some(&version), now()) {
            Some(standing) => standing,
            None => self.judge(&record, &version, epoch).await?,
        };
        Ok((standing == Standing::Admitted).then_some(record))
    }

    /// Returns the record that a path's narinfo points to. Where either is damaged, there is none: such a path is not valid,
    /// and takes nothing from the others.
    async fn load(&self, path: &StorePath, version: Option<&Version>) -> Result<Option<Found>, GateError> {
        match self.gate.recent.record(&self.gate.cache, path, version).await {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "a path is damaged: it is not served");
                Ok(None)
            }
            read => Ok(read?),
        }
    }

    /// Judges a path and what it refers to, without recursion: a closure may be as deep as it likes.
    async fn judge(&self, record: &Record, version: &Version, epoch: Epoch) -> Result<Standing, GateError> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut open = HashSet::new();
        let mut last = match self.look(record, version, epoch) {
            Look::Known(standing) => return Ok(standing),
            Look::Open(frame) => {
                self.read_ahead(&frame);
                open.insert(frame.path.clone());
                stack.push(*frame);
                Standing::Admitted
            }
        };
        while let Some(frame) = stack.last_mut() {
            if last == Standing::NotAdmitted || frame.references.len() == 0 {
                self.gate.memory.remember(&frame.path, &frame.version, last, frame.until, epoch);
                open.remove(&frame.path);
                stack.pop();
                continue;
            }
            let Some(reference) = frame.references.next() else {
                continue;
            };
            if let Some(standing) = self.gate.memory.recall(&reference, None, now()) {
                last = standing;
                continue;
            }
            // A reference back into what is being judged is a cycle: nothing admitted has one.
            let loaded = if open.contains(&reference) { None } else { self.load(&reference, None).await? };
            let Some((record, version)) = loaded else {
                last = Standing::NotAdmitted;
                continue;
            };
            match self.look(&record, &version, epoch) {
                Look::Known(standing) => last = standing,
                Look::Open(frame) => {
                    self.read_ahead(&frame);
                    open.insert(frame.path.clone());
                    stack.push(*frame);
                }
            }
        }
        Ok(last)
    }

    /// Has the records read that the judgement of a path will need.
    fn read_ahead(&self, frame: &Frame) {
        let unknown = |path: &&StorePath| self.gate.memory.recall(path, None, now()).is_none();
        let unknown = frame.references.as_slice().iter().filter(unknown).cloned();
        self.gate.recent.read_ahead(&self.gate.cache, unknown);
    }

    fn look(&self, record: &Record, version: &Version, epoch: Epoch) -> Look {
        let path = &record.info().path;
        let decision = self.gate.stands(record, &self.gate.policy());
        // What is held is not valid, whatever a crash left in its place.
        if decision.verdict() != Verdict::Admit || is_candidate(record) {
            let until = decision.next_change();
            self.gate.memory.remember(path, version, Standing::NotAdmitted, until, epoch);
            return Look::Known(Standing::NotAdmitted);
        }
        let references: Vec<StorePath> = record.info().other_references().cloned().collect();
        Look::Open(Box::new(Frame {
            path: path.clone(),
            version: version.clone(),
            until: decision.next_change(),
            references: references.into_iter(),
        }))
    }

    /// Returns the moment from which on what was read may stand for what is there.
    fn lately(&self) -> Instant {
        let now = Instant::now();
        now.checked_sub(self.gate.cache.objects().stays()).unwrap_or(now)
    }

    /// Returns the valid ones of what the index knows.
    async fn standing(&self, known: Vec<Known>) -> Result<BTreeSet<StorePath>, GateError> {
        self.found_by(known, |Known { path, version, .. }| async move {
            Ok(self.is_valid_at(&path, &version).await?.then_some(path))
        })
        .await
    }
}
