//! Which paths there are and what they refer to, so that a question about the whole store need not read every narinfo.
//!
//! It is a cache: brought up to date from the store's own listing, by the version of each narinfo, and built anew from there
//! whenever it is lost or damaged. It says what *might* be valid; whether something is, the view decides.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, MultimapTable, MultimapTableDefinition, ReadableDatabase as _,
    ReadableTable as _, Table, TableDefinition, WriteTransaction,
};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use verifier::{NarHash, StorePath, Timestamp, nixbase32};

use crate::object::{Entry, Etag, Version};
use crate::store::{BinaryCache, Narinfo, StoreError, hash_part_of, nar_of_name};

/// What the tables hold: another number, and the file is made anew.
const FORMAT: &str = "2";

/// What every database of redb begins with.
///
/// Source: redb, `docs/design.md`.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// Bytes of the database that are kept in memory.
const CACHE: usize = 16 << 20;

/// Narinfos that are read at once.
const AT_ONCE: usize = 32;

/// A hash part's bytes.
type Digest = [u8; 20];

/// `format` and `store`: what the file holds, and of which store.
const ABOUT: TableDefinition<&str, &str> = TableDefinition::new("about");

/// What is known of each narinfo.
const PATHS: TableDefinition<&Digest, &[u8]> = TableDefinition::new("paths");

/// Who refers to a path.
const REFERRERS: MultimapTableDefinition<&Digest, &Digest> = MultimapTableDefinition::new("referrers");

/// Which paths have a NAR, and which have theirs in an object that is called as that NAR's would be.
const NARS: MultimapTableDefinition<&[u8; 32], &Digest> = MultimapTableDefinition::new("nars");

/// What is kept of one narinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) path: StorePath,
    pub(super) version: Version,
    pub(super) nar_hash: NarHash,
    /// What its NAR's object is called by, if that is not the NAR's own hash: stock Nix calls it by the hash of the compressed file,
    /// and nothing in the name tells the one from the other.
    pub(super) file_hash: Option<NarHash>,
    references: Vec<Digest>,
}

/// What the index answers.
pub(super) struct Answer {
    pub(super) known: Vec<Known>,
    /// The hash parts of the narinfos that cannot be read. They make no path valid, but a person may mend them: what they may need
    /// must not go.
    pub(super) unreadable: Arc<BTreeSet<String>>,
}

/// An index of a store. Where it is kept in a file, it outlasts the program.
pub struct Index {
    state: Mutex<State>,
    /// How often this gate has written something.
    writes: AtomicU64,
}

struct State {
    database: Arc<Database>,
    /// When it was last brought up to date, and what had been written then.
    fresh: Option<(Instant, u64)>,
    /// What could not be read then.
    unreadable: Arc<BTreeSet<String>>,
}

impl State {
    fn over(database: Database) -> Self {
        Self { database: Arc::new(database), fresh: None, unreadable: Arc::default() }
    }
}

/// A question to the tables.
enum Question {
    All,
    ReferrersOf(Digest),
    PathsOf(NarHash),
}

impl Default for Index {
    fn default() -> Self {
        Self::over(in_memory())
    }
}

impl Index {
    /// Opens the index of a store in a file, or makes it. The index of another store, or one that is damaged, is replaced. While
    /// another program has it open, this one has its own in memory.
    ///
    /// # Errors
    /// When the file cannot be made, or is something else: that stays as it is.
    pub async fn open(file: PathBuf, store: String) -> Result<Self, StoreError> {
        let database = spawn_blocking(move || open_file(&file, &store)).await.map_err(failed)??;
        Ok(Self::over(database))
    }

    fn over(database: Database) -> Self {
        Self { state: Mutex::new(State::over(database)), writes: AtomicU64::new(0) }
    }

    /// Says that this gate has written or deleted something.
    pub(super) fn note_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Lists what there is, as of an instant or later.
    pub(super) async fn all(&self, cache: &BinaryCache, as_of: Instant) -> Result<Answer, StoreError> {
        self.ask(cache, as_of, Question::All).await
    }

    /// Lists what refers to a path, itself perhaps included, as of an instant or later.
    pub(super) async fn referrers(
        &self,
        cache: &BinaryCache,
        path: &StorePath,
        as_of: Instant,
    ) -> Result<Answer, StoreError> {
        self.ask(cache, as_of, Question::ReferrersOf(*path.digest())).await
    }

    /// Lists which paths have a NAR, or theirs in the object that is that NAR's, as of an instant or later.
    pub(super) async fn paths_of(
        &self,
        cache: &BinaryCache,
        nar_hash: &NarHash,
        as_of: Instant,
    ) -> Result<Answer, StoreError> {
        self.ask(cache, as_of, Question::PathsOf(*nar_hash)).await
    }

    async fn ask(&self, cache: &BinaryCache, as_of: Instant, question: Question) -> Result<Answer, StoreError> {
        let mut state = self.state.lock().await;
        let outcome = async {
            let now = (Instant::now(), self.writes.load(Ordering::Relaxed));
            if state.fresh.is_none_or(|(at, writes)| at < as_of || writes != now.1) {
                state.unreadable = Arc::new(refresh(&state.database, cache).await?);
                state.fresh = Some(now);
            }
            let known = in_tables(&state.database, move |database| answer(database, &question)).await?;
            Ok(Answer { known, unreadable: state.unreadable.clone() })
        };
        let outcome = outcome.await;
        if let Err(error @ StoreError::Index(_)) = &outcome {
            tracing::warn!(%error, "building the index anew, in memory");
            *state = State::over(in_memory());
        }
        outcome
    }
}

/// Brings the tables up to date with the store's listing. A narinfo that is damaged is passed over, with a line in the log: it
/// makes no path valid. Returns the hash parts of those; as nothing is known of them, they are read again each time.
async fn refresh(database: &Arc<Database>, cache: &BinaryCache) -> Result<BTreeSet<String>, StoreError> {
    let (mut listed, mut unreadable) = (HashSet::new(), BTreeSet::new());
    let mut learned = false;
    let mut pages = cache.objects().list("").await?;
    while let Some(page) = pages.next().await? {
        let narinfo = |entry: Entry| Some((digest(entry.name.strip_suffix(".narinfo")?)?, entry.metadata.version));
        let page: Vec<(Digest, Version)> = page.into_iter().filter_map(narinfo).collect();
        listed.extend(page.iter().map(|(digest, _)| *digest));
        let news = in_tables(database, move |database| changed(database, page)).await?;
        if news.is_empty() {
            continue;
        }
        let looks = news.into_iter().map(|digest| async move {
            let part = nixbase32::encode(&digest);
            (digest, cache.narinfo(&part).await, part)
        });
        let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut news = Vec::new();
        while let Some((digest, read, part)) = looks.next().await {
            let known = match read {
                Ok(narinfo) => narinfo.map(Known::of),
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "passing over a damaged narinfo");
                    unreadable.insert(part);
                    None
                }
                Err(error) => return Err(error),
            };
            news.push((digest, known));
        }
        in_tables(database, move |database| update(database, Durability::None, &news)).await?;
        learned = true;
    }
    let gone = in_tables(database, move |database| gone(database, &listed)).await?;
    if learned || !gone.is_empty() {
        // This one makes what was learned before it outlast the program as well.
        in_tables(database, move |database| update(database, Durability::Immediate, &gone)).await?;
    }
    Ok(unreadable)
}

async fn in_tables<T: Send + 'static>(
    database: &Arc<Database>,
    work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, StoreError> {
    let database = database.clone();
    spawn_blocking(move || work(&database)).await.map_err(failed)?.map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Index(error.to_string())
}

fn in_memory() -> Database {
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(InMemoryBackend::new());
    let database = database.expect("a database in memory can be made");
    make_tables(&database, "").expect("tables in memory can be made");
    database
}

fn open_file(file: &Path, store: &str) -> Result<Database, StoreError> {
    let unusable = |why: String| StoreError::Index(format!("{}: {why}", file.display()));
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| unusable(error.to_string()))?;
    }
    let begin = beginning(file).map_err(|error| unusable(error.to_string()))?;
    if !begin.is_empty() && begin != MAGIC {
        let begin = begin.escape_ascii();
        return Err(unusable(format!("it begins with \"{begin}\", as no index does: name another file, or remove it")));
    }
    let open = || Database::builder().set_cache_size(CACHE).create(file);
    let opened = match open() {
        Err(DatabaseError::DatabaseAlreadyOpen) => {
            tracing::info!(file = %file.display(), "another gate has the index open: this one keeps its own in memory");
            return Ok(in_memory());
        }
        Ok(database) if is_of(&database, store) => return Ok(database),
        Ok(database) => make_tables(&database, store).map(|()| database).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match opened {
        Ok(database) => Ok(database),
        Err(why) => {
            tracing::warn!(file = %file.display(), why, "the index is damaged: it is made anew");
            std::fs::remove_file(file).map_err(|error| unusable(error.to_string()))?;
            let database = open().map_err(|error| unusable(error.to_string()))?;
            make_tables(&database, store).map_err(|error| unusable(error.to_string()))?;
            Ok(database)
        }
    }
}

/// Returns what a file begins with: nothing if there is none, or nothing in it.
fn beginning(file: &Path) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    match File::open(file) {
        Ok(file) => file.take(MAGIC.len() as u64).read_to_end(&mut begin).map(|_| begin),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(begin),
        Err(error) => Err(error),
    }
}

/// Whether a database is the index of a store, in today's format.
fn is_of(database: &Database, store: &str) -> bool {
    let about = || -> Result<bool, redb::Error> {
        let transaction = database.begin_read()?;
        let about = transaction.open_table(ABOUT)?;
        let says =
            |name: &str, text: &str| Ok::<_, redb::Error>(about.get(name)?.is_some_and(|found| found.value() == text));
        Ok(says("format", FORMAT)? && says("store", store)?)
    };
    about().unwrap_or(false)
}

fn make_tables(database: &Database, store: &str) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.delete_table(PATHS)?;
    transaction.delete_multimap_table(REFERRERS)?;
    transaction.delete_multimap_table(NARS)?;
    Tables::open(&transaction)?;
    let mut about = transaction.open_table(ABOUT)?;
    about.insert("format", FORMAT)?;
    about.insert("store", store)?;
    drop(about);
    transaction.commit()?;
    Ok(())
}

/// Returns those of some narinfos that are not known in this version.
fn changed(database: &Database, listed: Vec<(Digest, Version)>) -> Result<Vec<Digest>, redb::Error> {
    let transaction = database.begin_read()?;
    let paths = transaction.open_table(PATHS)?;
    let mut changed = Vec::new();
    for (digest, version) in listed {
        let known = paths.get(&digest)?.and_then(|known| Known::parse(&digest, known.value()));
        if known.is_none_or(|known| known.version != version) {
            changed.push(digest);
        }
    }
    Ok(changed)
}

/// Returns what is known and no longer listed, as what [`update`] takes.
fn gone(database: &Database, listed: &HashSet<Digest>) -> Result<Vec<(Digest, Option<Known>)>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut gone = Vec::new();
    for entry in transaction.open_table(PATHS)?.iter()? {
        let digest = *entry?.0.value();
        if !listed.contains(&digest) {
            gone.push((digest, None));
        }
    }
    Ok(gone)
}

/// Replaces what is known of some narinfos; none of one that is gone.
fn update(database: &Database, durability: Durability, news: &[(Digest, Option<Known>)]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    let mut tables = Tables::open(&transaction)?;
    for (digest, known) in news {
        tables.replace(digest, known.as_ref())?;
    }
    drop(tables);
    transaction.commit()?;
    Ok(())
}

struct Tables<'a> {
    paths: Table<'a, &'static Digest, &'static [u8]>,
    referrers: MultimapTable<'a, &'static Digest, &'static Digest>,
    nars: MultimapTable<'a, &'static [u8; 32], &'static Digest>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        let paths = transaction.open_table(PATHS)?;
        let referrers = transaction.open_multimap_table(REFERRERS)?;
        let nars = transaction.open_multimap_table(NARS)?;
        Ok(Self { paths, referrers, nars })
    }

    fn replace(&mut self, digest: &Digest, known: Option<&Known>) -> Result<(), redb::Error> {
        let before = self.paths.remove(digest)?.and_then(|before| Known::parse(digest, before.value()));
        if let Some(before) = before {
            for reference in &before.references {
                self.referrers.remove(reference, digest)?;
            }
            for nar in before.nars() {
                self.nars.remove(nar.as_bytes(), digest)?;
            }
        }
        if let Some(known) = known {
            for reference in &known.references {
                self.referrers.insert(reference, digest)?;
            }
            for nar in known.nars() {
                self.nars.insert(nar.as_bytes(), digest)?;
            }
            self.paths.insert(digest, &known.to_bytes()[..])?;
        }
        Ok(())
    }
}

fn answer(database: &Database, question: &Question) -> Result<Vec<Known>, redb::Error> {
    let transaction = database.begin_read()?;
    let paths = transaction.open_table(PATHS)?;
    let mut found = Vec::new();
    let digests = match question {
        Question::All => {
            for entry in paths.iter()? {
                let (digest, known) = entry?;
                found.extend(Known::parse(digest.value(), known.value()));
            }
            return Ok(found);
        }
        Question::ReferrersOf(digest) => transaction.open_multimap_table(REFERRERS)?.get(digest)?,
        Question::PathsOf(nar_hash) => transaction.open_multimap_table(NARS)?.get(nar_hash.as_bytes())?,
    };
    for digest in digests {
        let digest = digest?;
        found.extend(paths.get(digest.value())?.and_then(|known| Known::parse(digest.value(), known.value())));
    }
    Ok(found)
}

fn digest(hash_part: &str) -> Option<Digest> {
    nixbase32::decode(hash_part.as_bytes()).ok()?.try_into().ok()
}

impl Known {
    pub(super) fn hash_part(&self) -> String {
        hash_part_of(&self.path)
    }

    fn of(narinfo: Narinfo) -> Self {
        let Narinfo { info, file, version } = narinfo;
        let references = info.references.iter().map(|path| *path.digest()).collect();
        let name = file.url.rsplit('/').next().and_then(nar_of_name);
        let file_hash = name.filter(|hash| *hash != info.nar_hash);
        Self { path: info.path, version, nar_hash: info.nar_hash, file_hash, references }
    }

    /// Lists what objects below `nar/` may be called by that it needs.
    pub(super) fn nars(&self) -> impl Iterator<Item = &NarHash> {
        std::iter::once(&self.nar_hash).chain(&self.file_hash)
    }

    /// Writes: when the narinfo was written (8 bytes, little-endian), the NAR's hash (32), what its object is called by (32, the
    /// same again if it is called by that), the lengths of the path's name and the ETag (2 each), both, and 20 bytes for each
    /// reference.
    fn to_bytes(&self) -> Vec<u8> {
        let (name, etag) = (self.path.name(), self.version.etag.as_str());
        let mut bytes = Vec::with_capacity(76 + name.len() + etag.len() + 20 * self.references.len());
        bytes.extend(self.version.modified.as_unix().to_le_bytes());
        bytes.extend(self.nar_hash.as_bytes());
        bytes.extend(self.file_hash.as_ref().unwrap_or(&self.nar_hash).as_bytes());
        for text in [name, etag] {
            bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        }
        bytes.extend(name.as_bytes());
        bytes.extend(etag.as_bytes());
        bytes.extend(self.references.iter().flatten());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote of a hash part; none if it is damaged.
    fn parse(digest: &Digest, bytes: &[u8]) -> Option<Self> {
        let (modified, bytes) = bytes.split_first_chunk::<8>()?;
        let (nar_hash, bytes) = bytes.split_first_chunk::<32>()?;
        let (file_hash, bytes) = bytes.split_first_chunk::<32>()?;
        let (name, bytes) = bytes.split_first_chunk::<2>()?;
        let (etag, bytes) = bytes.split_first_chunk::<2>()?;
        let (name, bytes) = bytes.split_at_checked(u16::from_le_bytes(*name).into())?;
        let (etag, bytes) = bytes.split_at_checked(u16::from_le_bytes(*etag).into())?;
        let (references, []) = bytes.as_chunks::<20>() else {
            return None;
        };
        let path = format!("{}-{}", nixbase32::encode(digest), std::str::from_utf8(name).ok()?);
        let modified = Timestamp::from_unix(i64::from_le_bytes(*modified));
        Some(Self {
            path: StorePath::from_basename(path.as_bytes()).ok()?,
            version: Version { etag: Etag::new(std::str::from_utf8(etag).ok()?), modified },
            nar_hash: NarHash::from_sha256(*nar_hash),
            file_hash: (file_hash != nar_hash).then(|| NarHash::from_sha256(*file_hash)),
            references: references.to_vec(),
        })
    }
}
