//! What is held, as far as one has to know to find it: a note for each candidate, in a folder of their own.
//!
//! A note is written before its candidate's evidence and removed after it: so whatever is held has one. What it says never
//! changes; which signatures there are, and whether the candidate is still one, the evidence says. A gate reads each note once,
//! and from then on lists the folder.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use verifier::{FingerprintDigest, NarHash, StorePath, Timestamp, nixbase32};

use super::GateError;
use super::deletion::remove;
use crate::object::{Condition, Draft, Entry, Etag, Key, ObjectError, ObjectStore};
use crate::store::{NOTES, Record, hash_part_of};

/// Where the listings of what is held are, until it is admitted.
pub(super) const LISTINGS: &str = "quorum/staging/listings/";

/// Longest note that is read, in bytes. One with 10,000 references, of each the hash part, has 350 KB.
const MAX_NOTE: u64 = 1 << 20;

/// Longest listing that is read, in bytes: the longest that is written.
const MAX_LISTING: u64 = 8 << 20;

/// Notes that are read at once.
const AT_ONCE: usize = 32;

/// A store path's hash part, decoded.
pub(super) type Digest = [u8; 20];

/// What is noted of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) path: StorePath,
    pub(super) fingerprint: FingerprintDigest,
    pub(super) nar_hash: NarHash,
    /// In bytes.
    pub(super) nar_size: u64,
    /// The paths that it refers to, other than itself.
    pub(super) references: Vec<Digest>,
    pub(super) since: Timestamp,
    /// Who brought it first.
    pub(super) by: String,
}

/// A note as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    store_path: String,
    fingerprint: String,
    nar_hash: String,
    nar_size: u64,
    references: Vec<String>,
    since: Timestamp,
    brought_by: String,
}

impl Note {
    /// Makes the draft of a candidate's note.
    pub(super) fn draft(record: &Record, fingerprint: &FingerprintDigest, since: Timestamp, by: &str) -> Draft {
        let info = record.info();
        let document = Document {
            store_path: info.path.to_basename(),
            fingerprint: fingerprint.to_string(),
            nar_hash: info.nar_hash.to_string(),
            nar_size: info.nar_size,
            references: info.other_references().map(hash_part_of).collect(),
            since,
            brought_by: by.to_owned(),
        };
        let bytes = serde_json::to_vec(&document).expect("texts and numbers can always be written");
        Draft::of_bytes(note_key(&info.path, fingerprint), Condition::Absent, bytes)
    }

    /// Reads a note; none if it is damaged, or not the note of that name.
    fn parse(name: &str, bytes: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(bytes).ok()?;
        let digest = |part: &String| Digest::try_from(nixbase32::decode(part.as_bytes()).ok()?).ok();
        let note = Self {
            path: StorePath::from_basename(document.store_path.as_bytes()).ok()?,
            fingerprint: document.fingerprint.parse().ok()?,
            nar_hash: NarHash::parse(&document.nar_hash).ok()?,
            nar_size: document.nar_size,
            references: document.references.iter().map(digest).collect::<Option<_>>()?,
            since: document.since,
            by: document.brought_by,
        };
        (name_of(&note.path, &note.fingerprint) == name).then_some(note)
    }

    pub(super) fn digest(&self) -> Digest {
        *self.path.digest()
    }
}

impl Hash for Note {
    /// The fingerprint tells almost all notes apart; the references may be many.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

fn name_of(path: &StorePath, fingerprint: &FingerprintDigest) -> String {
    format!("{}-{fingerprint}", hash_part_of(path))
}

fn note_key(path: &StorePath, fingerprint: &FingerprintDigest) -> Key {
    Key::new(format!("{NOTES}{}", name_of(path, fingerprint))).expect("hashes are made of a key's characters")
}

fn listing_key(path: &StorePath, fingerprint: &FingerprintDigest) -> Key {
    Key::new(format!("{LISTINGS}{}", name_of(path, fingerprint))).expect("hashes are made of a key's characters")
}

/// Makes the draft of what will be a candidate's listing.
pub(super) fn listing_draft(path: &StorePath, fingerprint: &FingerprintDigest, listing: Vec<u8>) -> Draft {
    Draft::of_bytes(listing_key(path, fingerprint), Condition::Absent, listing)
}

/// How much is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) paths: u64,
    /// Of NARs, before compression.
    pub(super) bytes: u64,
    pub(super) references: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64, references: u64) {
        self.paths += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.references += references;
    }

    fn remove(&mut self, note: &Note) {
        self.paths = self.paths.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(note.nar_size);
        self.references = self.references.saturating_sub(note.references.len() as u64);
    }
}

#[derive(Default)]
struct State {
    /// By name; none where one is damaged.
    notes: HashMap<String, (Etag, Option<Arc<Note>>)>,
    /// The notes of a path's hash part.
    of: HashMap<Digest, Vec<Arc<Note>>>,
    /// The notes of those that refer to it.
    waiting: HashMap<Digest, HashSet<Arc<Note>>>,
    by: BTreeMap<String, Amount>,
}

impl State {
    fn insert(&mut self, name: String, etag: Etag, note: Option<Arc<Note>>) {
        self.remove(&name);
        if let Some(note) = &note {
            self.of.entry(note.digest()).or_default().push(note.clone());
            for reference in &note.references {
                self.waiting.entry(*reference).or_default().insert(note.clone());
            }
            self.by.entry(note.by.clone()).or_default().add(note.nar_size, note.references.len() as u64);
        }
        self.notes.insert(name, (etag, note));
    }

    fn remove(&mut self, name: &str) {
        let Some((_, Some(note))) = self.notes.remove(name) else {
            return;
        };
        if let Some(notes) = self.of.get_mut(&note.digest()) {
            notes.retain(|other| *other != note);
            if notes.is_empty() {
                self.of.remove(&note.digest());
            }
        }
        for reference in &note.references {
            if let Some(notes) = self.waiting.get_mut(reference) {
                notes.remove(&note);
                if notes.is_empty() {
                    self.waiting.remove(reference);
                }
            }
        }
        if let Some(amount) = self.by.get_mut(&note.by) {
            amount.remove(&note);
            if amount.paths == 0 {
                self.by.remove(&note.by);
            }
        }
    }

    fn of(&self, digest: &Digest) -> impl Iterator<Item = &Arc<Note>> {
        self.of.get(digest).into_iter().flatten()
    }

    fn waiting_for(&self, digest: &Digest) -> impl Iterator<Item = &Arc<Note>> {
        self.waiting.get(digest).into_iter().flatten()
    }
}

/// The notes of a store, as this gate last saw them.
pub(super) struct Shelf {
    objects: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    /// When it was last looked at. Who holds this looks.
    looked: AsyncMutex<Option<Instant>>,
}

impl Shelf {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, state: Mutex::default(), looked: AsyncMutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings it up to date, unless that was done a moment ago.
    pub(super) async fn look_now_and_then(&self, lasts: Duration) -> Result<(), GateError> {
        let looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < lasts) {
            return Ok(());
        }
        drop(looked);
        self.look().await
    }

    /// Brings it up to date: what was written before this is called, by whatever gate, is seen.
    pub(super) async fn look(&self) -> Result<(), GateError> {
        let asked = Instant::now();
        let mut looked = self.looked.lock().await;
        // Who waited for another one who began to look since then has seen what they are to see.
        if looked.is_some_and(|begun| begun > asked) {
            return Ok(());
        }
        let begun = Instant::now();
        let mut listed = HashMap::new();
        let mut pages = self.objects.list(NOTES).await?;
        while let Some(page) = pages.next().await? {
            listed.extend(page.into_iter().map(|Entry { name, metadata }| (name, metadata.version.etag)));
        }
        let news: Vec<(String, Etag)> = {
            let mut state = self.state();
            let gone = state.notes.keys().filter(|name| !listed.contains_key(*name)).cloned();
            let gone: Vec<String> = gone.collect();
            gone.iter().for_each(|name| state.remove(name));
            let known = |(name, etag): &(String, Etag)| state.notes.get(name).is_some_and(|(known, _)| known == etag);
            listed.into_iter().filter(|entry| !known(entry)).collect()
        };
        let mut reads =
            stream::iter(news.into_iter().map(|(name, etag)| self.read(name, etag))).buffer_unordered(AT_ONCE);
        while let Some(read) = reads.try_next().await? {
            if let Some((name, etag, note)) = read {
                self.state().insert(name, etag, note);
            }
        }
        *looked = Some(begun);
        Ok(())
    }

    async fn read(&self, name: String, etag: Etag) -> Result<Option<(String, Etag, Option<Arc<Note>>)>, GateError> {
        let Some(key) = Key::new(format!("{NOTES}{name}")) else {
            return Ok(None);
        };
        let note = match self.objects.get(&key, MAX_NOTE).await {
            Ok(Some(object)) => Note::parse(&name, &object.bytes).map(Arc::new),
            Ok(None) => return Ok(None),
            Err(ObjectError::TooLong { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if note.is_none() {
            tracing::warn!(%key, "passing over a damaged note of what is held: delete it");
        }
        Ok(Some((name, etag, note)))
    }

    /// Lists everything.
    pub(super) fn all(&self) -> Vec<Arc<Note>> {
        self.state().notes.values().filter_map(|(_, note)| note.clone()).collect()
    }

    /// Lists the notes of a path.
    pub(super) fn of(&self, path: &StorePath) -> Vec<Arc<Note>> {
        self.state().of(path.digest()).filter(|note| note.path == *path).cloned().collect()
    }

    /// Says whether anything is held.
    pub(super) fn is_empty(&self) -> bool {
        self.state().of.is_empty()
    }

    /// Returns how much an uploader has there, and how much there is in all.
    pub(super) fn amounts(&self, by: &str) -> (Amount, Amount) {
        let state = self.state();
        let mut total = Amount::default();
        for amount in state.by.values() {
            total.paths += amount.paths;
            total.bytes = total.bytes.saturating_add(amount.bytes);
            total.references += amount.references;
        }
        (state.by.get(by).copied().unwrap_or_default(), total)
    }

    /// Returns the NARs that are held.
    pub(super) fn nars(&self) -> HashSet<NarHash> {
        self.state().notes.values().filter_map(|(_, note)| Some(note.as_ref()?.nar_hash)).collect()
    }

    /// Lists what may be admissible after something has happened to some paths: their own candidates, and what waits for them,
    /// and what waits for that, each after what it refers to as if all of that were admitted.
    pub(super) fn affected(&self, seeds: &HashSet<Digest>) -> VecDeque<Arc<Note>> {
        let state = self.state();
        // Of each, how many of those that it refers to are among them.
        let mut affected: HashMap<Arc<Note>, usize> = HashMap::new();
        let mut reached: HashSet<Digest> = HashSet::new();
        let mut queue: Vec<Digest> = seeds.iter().copied().collect();
        while let Some(digest) = queue.pop() {
            if !reached.insert(digest) {
                continue;
            }
            for note in state.of(&digest).chain(state.waiting_for(&digest)) {
                affected.entry(note.clone()).or_default();
                queue.push(note.digest());
            }
        }
        let held: HashSet<Digest> = affected.keys().map(|note| note.digest()).collect();
        let mut ready = VecDeque::new();
        for (note, lacks) in &mut affected {
            *lacks = note.references.iter().filter(|reference| held.contains(*reference)).count();
            if *lacks == 0 {
                ready.push_back(note.clone());
            }
        }
        let (mut ordered, mut done) = (VecDeque::with_capacity(affected.len()), HashSet::new());
        while let Some(note) = ready.pop_front() {
            affected.remove(&note);
            if done.insert(note.digest()) {
                for waiting in state.waiting_for(&note.digest()) {
                    if let Some(lacks) = affected.get_mut(waiting) {
                        *lacks -= 1;
                        if *lacks == 0 {
                            ready.push_back(waiting.clone());
                        }
                    }
                }
            }
            ordered.push_back(note);
        }
        // Those in a circle, of which some note lies.
        ordered.extend(affected.into_keys());
        ordered
    }

    /// Reads the listing that was made of a candidate; none if there was none to be made.
    pub(super) async fn listing(&self, note: &Note) -> Result<Option<Vec<u8>>, GateError> {
        let object = self.objects.get(&listing_key(&note.path, &note.fingerprint), MAX_LISTING).await?;
        Ok(object.map(|object| object.bytes.to_vec()))
    }

    /// Removes a note whose candidate is one no more.
    pub(super) async fn remove(&self, note: &Note) -> Result<(), GateError> {
        remove(&self.objects, &listing_key(&note.path, &note.fingerprint)).await?;
        remove(&self.objects, &note_key(&note.path, &note.fingerprint)).await?;
        self.state().remove(&name_of(&note.path, &note.fingerprint));
        Ok(())
    }
}
