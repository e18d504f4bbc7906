//! Nix's binary cache layout over an object store, with what is ours under `quorum/`.

use std::collections::HashMap;
use std::sync::Arc;

use nix_narinfo::{Compression, NarInfo, NixSignature};
use thiserror::Error;
use tokio::sync::OnceCell;
use verifier::{
    ContentAddress, FingerprintDigest, NarHash, NixHash, OutputId, PathInfo, Realisation, RealisationError, StoreDir,
    StorePath, nixbase32,
};

use super::reading::NarFile;
use super::record::{Record, RecordError};
use crate::client::ClientError;
use crate::decompress::UnknownCompression;
use crate::object::{Condition, Draft, Etag, Key, Metadata, Object, ObjectError, ObjectStore, Version};

/// Longest narinfo that is read, in bytes. One with 10,000 references has 700 KB.
pub(crate) const MAX_NARINFO: u64 = 1 << 20;

/// Longest evidence object that is read, in bytes: its references, and some hundred signatures.
pub(crate) const MAX_RECORD: u64 = 4 << 20;

/// Longest realisation that is read, in bytes.
pub(super) const MAX_REALISATION: u64 = 1 << 20;

/// Where the evidence is: for each hash part a folder.
pub(crate) const EVIDENCE: &str = "quorum/evidence/";

/// Where the notes of what is held are, each called by its path's hash part and its fingerprint's digest.
pub(crate) const NOTES: &str = "quorum/staging/";

/// What says that a directory or bucket is a binary cache, and whose.
pub(super) const CACHE_INFO: &str = "nix-cache-info";

/// Why a store could not answer. The store caused it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Its objects cannot be read or written.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An evidence object is damaged.
    #[error("{key}: {source}")]
    Record {
        /// Which.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// A narinfo is damaged.
    #[error("{key} is damaged: {why}")]
    Narinfo {
        /// Which.
        key: Key,
        /// What is wrong with it.
        why: String,
    },
    /// The store is of another store directory.
    #[error("this store is for {found}, the policy is for {expected}: give the policy that belongs to it")]
    StoreDir {
        /// The store's own.
        found: String,
        /// The policy's.
        expected: StoreDir,
    },
    /// A name of a peer's cannot name an object.
    #[error("{0:?} cannot be kept: its name has characters that no object's may have")]
    Name(String),
    /// A directory or bucket is not a binary cache.
    #[error("this is no binary cache: there is no {CACHE_INFO}")]
    NotACache,
    /// A NAR is kept in a form that is not read here.
    #[error("{url} is {source}")]
    Compression {
        /// Where the narinfo says it is.
        url: String,
        /// Which form.
        #[source]
        source: UnknownCompression,
    },
    /// The index beside the gate failed. It is built anew.
    #[error("the index of the store failed: {0}")]
    Index(String),
    /// What Nix knows of a store on this machine cannot be read, or makes no sense.
    #[error("{place}: {why}")]
    Database {
        /// Which database.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A derivation cannot be read, or is none.
    #[error("{path}: {why}")]
    Derivation {
        /// Which.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A cache cannot be asked for what it keeps.
    #[error("cannot read {url}: {why}")]
    Web {
        /// What was asked for.
        url: String,
        /// What came.
        why: String,
    },
    /// The store does not say which paths it has.
    #[error("{0} does not list its paths: name those that are meant")]
    Unlisted(String),
    /// It was asked about a path, and said nothing.
    #[error("the store was asked about it, and did not answer")]
    Silent,
    /// A daemon could not answer.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// A daemon or a database did not answer in time.
    #[error("{place} has sent nothing, or next to nothing, for {seconds} seconds")]
    Stalled {
        /// The daemon's socket, or the database.
        place: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Somebody writes a database that nobody seemed to write.
    #[error("{place} was changed while it was read: run this again")]
    Changed {
        /// Which database.
        place: String,
    },
}

impl StoreError {
    /// Says whether it will meet every further question too.
    #[must_use]
    pub fn ends_it(&self) -> bool {
        matches!(
            self,
            Self::Stalled { .. }
                | Self::Changed { .. }
                | Self::Daemon(ClientError::Connect { .. } | ClientError::Handshake(_))
        )
    }

    /// Says whether one object is not what it should be, where the store itself answers.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Record { .. } | Self::Narinfo { .. } | Self::Object(ObjectError::TooLong { .. }))
    }
}

/// A narinfo as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Narinfo {
    /// What it says.
    pub info: PathInfo,
    /// Where it says that the NAR is. A gate derives that from the NAR's hash instead.
    pub file: NarFile,
    /// Which version it is.
    pub version: Version,
}

impl Narinfo {
    /// Says whether what is there of its NAR is whole, as far as its size tells.
    pub(crate) fn fits(&self, nar: Option<&Metadata>) -> bool {
        nar.is_some_and(|nar| self.file.size.is_none_or(|size| size == nar.size))
    }
}

/// A binary cache. Cheap to clone.
#[derive(Clone)]
pub struct BinaryCache {
    objects: Arc<dyn ObjectStore>,
    store_dir: Arc<StoreDir>,
    compression_level: i32,
    /// What is held of each hash part, as an audit once saw it.
    pub(super) held: Arc<OnceCell<HashMap<String, Vec<FingerprintDigest>>>>,
    /// Whether there is any evidence at all, as an audit once saw it.
    pub(super) keeps_evidence: Arc<OnceCell<bool>>,
}

/// zstd's level for NARs: its default, and Nix's.
const COMPRESSION_LEVEL: i32 = 3;

impl BinaryCache {
    /// Opens a binary cache for a store directory, writing its `nix-cache-info` where there is none.
    ///
    /// # Errors
    /// When it is another store directory's, or cannot be read or written.
    pub async fn open(objects: Arc<dyn ObjectStore>, store_dir: &StoreDir) -> Result<Self, StoreError> {
        match stated_store_dir(&*objects).await? {
            Some(found) => expect_store_dir(found, store_dir)?,
            None => {
                let text = format!("StoreDir: {store_dir}\n");
                objects.publish(vec![Draft::of_bytes(key(CACHE_INFO), Condition::Absent, text)]).await?;
            }
        }
        Ok(Self::over(objects, store_dir.clone()))
    }

    /// Opens a binary cache that is there already, anybody's, to read it. `expected` is the store directory that it must be
    /// of; without one it may be of any.
    ///
    /// # Errors
    /// When it is none, is another store directory's, or cannot be read.
    pub async fn open_existing(objects: Arc<dyn ObjectStore>, expected: Option<&StoreDir>) -> Result<Self, StoreError> {
        let found = stated_store_dir(&*objects).await?.ok_or(StoreError::NotACache)?;
        Ok(Self::over(objects, choose_store_dir(found, expected)?))
    }

    fn over(objects: Arc<dyn ObjectStore>, store_dir: StoreDir) -> Self {
        let store_dir = Arc::new(store_dir);
        let (held, keeps_evidence) = (Arc::default(), Arc::default());
        Self { objects, store_dir, compression_level: COMPRESSION_LEVEL, held, keeps_evidence }
    }

    /// Has NARs compressed at another of zstd's levels from now on.
    #[must_use]
    pub fn with_compression_level(self, compression_level: i32) -> Self {
        Self { compression_level, ..self }
    }

    /// Returns zstd's level for NARs.
    #[must_use]
    pub fn compression_level(&self) -> i32 {
        self.compression_level
    }

    /// Returns the store directory.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Returns the objects underneath.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Reads the narinfo of a hash part; none if there is none.
    ///
    /// # Errors
    /// When it is damaged or cannot be read.
    pub async fn narinfo(&self, hash_part: &str) -> Result<Option<Narinfo>, StoreError> {
        let Some(key) = Key::new(format!("{hash_part}.narinfo")) else {
            return Ok(None);
        };
        let Some(object) = self.objects.get(&key, MAX_NARINFO).await? else {
            return Ok(None);
        };
        self.parse_narinfo(hash_part, &object).map(Some)
    }

    /// Parses a narinfo that was read under a hash part.
    ///
    /// # Errors
    /// When it is damaged, or is about another hash part.
    pub(crate) fn parse_narinfo(&self, hash_part: &str, object: &Object) -> Result<Narinfo, StoreError> {
        let (info, file) = parse_narinfo(&self.store_dir, hash_part, &object.bytes)?;
        Ok(Narinfo { info, file, version: object.version.clone() })
    }

    /// Reads the evidence object of a path's fingerprint; none if there is none.
    ///
    /// # Errors
    /// When it is damaged, about something else, or cannot be read.
    pub async fn record(
        &self,
        path: &StorePath,
        digest: &FingerprintDigest,
    ) -> Result<Option<(Record, Version)>, StoreError> {
        let key = record_key(path, digest);
        let Some(object) = self.objects.get(&key, MAX_RECORD).await? else {
            return Ok(None);
        };
        let damaged = |source| StoreError::Record { key: key.clone(), source };
        let record = Record::parse(&object.bytes).map_err(damaged)?;
        if record.fingerprint(&self.store_dir).digest() != *digest {
            return Err(damaged(RecordError::Damaged("it is about another fingerprint".into())));
        }
        Ok(Some((record, object.version)))
    }

    /// Reads a realisation's object and its version; none if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn realisation(&self, id: &OutputId) -> Result<Option<(Vec<u8>, Etag)>, StoreError> {
        let object = self.objects.get(&realisation_key(id)?, MAX_REALISATION).await?;
        Ok(object.map(|object| (object.bytes.to_vec(), object.version.etag)))
    }

    /// Writes the narinfo that stock Nix reads: the projection of a record.
    ///
    /// # Errors
    /// [`StoreError::Narinfo`] when it would be too long to be read again.
    pub fn project(&self, record: &Record) -> Result<Vec<u8>, StoreError> {
        let info = record.info();
        let file = &record.nar.file;
        let signatures =
            info.signatures.iter().map(|text| text.parse().expect("a record's signatures were parsed before"));
        let narinfo = NarInfo::builder_in(
            self.store_dir().clone(),
            info.path.clone(),
            nar_key(&info.nar_hash).as_str(),
            NixHash::Sha256(*info.nar_hash.as_bytes()),
            info.nar_size,
        )
        .compression(Compression::Zstd)
        .references(info.references.iter().cloned())
        .deriver(info.deriver.clone())
        .signatures(signatures)
        .content_address(info.content_address.as_ref().map(|address| address.hash().clone()))
        .file_hash(file.file_hash.as_deref().and_then(|hash| NixHash::parse(hash).ok()))
        .file_size(Some(file.file_size))
        .build();
        let refused = |why: String| StoreError::Narinfo { key: narinfo_key(&info.path), why };
        let bytes = narinfo.map_err(|error| refused(error.to_string()))?.to_canonical_bytes();
        if bytes.len() as u64 > MAX_NARINFO {
            return Err(refused(format!("it has {} bytes, more than {MAX_NARINFO}", bytes.len())));
        }
        Ok(bytes)
    }
}

/// Parses a narinfo that was read under a hash part.
///
/// # Errors
/// When it is damaged, or is about another hash part.
pub(super) fn parse_narinfo(
    store_dir: &StoreDir,
    hash_part: &str,
    bytes: &[u8],
) -> Result<(PathInfo, NarFile), StoreError> {
    let damaged = |why: String| StoreError::Narinfo { key: key(format!("{hash_part}.narinfo")), why };
    let parsed = NarInfo::parse_in(store_dir, bytes).map_err(|error| damaged(error.to_string()))?;
    let NixHash::Sha256(nar_hash) = parsed.nar_hash() else {
        return Err(damaged(format!("NarHash is {}, not a SHA-256", parsed.nar_hash().algorithm())));
    };
    let info = PathInfo {
        path: parsed.store_path().clone(),
        deriver: parsed.deriver().cloned(),
        nar_hash: NarHash::from_sha256(*nar_hash),
        nar_size: parsed.nar_size(),
        references: parsed.references().clone(),
        registration_time: 0,
        ultimate: false,
        signatures: parsed.signatures().iter().map(NixSignature::to_nix_string).collect(),
        content_address: parsed.content_address().cloned().map(ContentAddress::new),
    };
    if hash_part_of(&info.path) != hash_part {
        return Err(damaged(format!("it is about {}", store_dir.render_path(&info.path))));
    }
    let (url, compression, size) = (parsed.url().to_owned(), parsed.compression().clone(), parsed.file_size());
    Ok((info, NarFile { url, compression, size }))
}

/// Returns the store directory that the `nix-cache-info` of a binary cache states.
pub(super) fn parse_cache_info(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().find_map(|line| line.strip_prefix("StoreDir:")).unwrap_or("").trim().to_owned()
}

/// Decides of which store directory a binary cache is that states `found`, if it has to be of the `expected` one.
pub(super) fn choose_store_dir(found: String, expected: Option<&StoreDir>) -> Result<StoreDir, StoreError> {
    if let Some(expected) = expected {
        expect_store_dir(found, expected)?;
        return Ok(expected.clone());
    }
    StoreDir::new(found).map_err(|error| StoreError::Narinfo { key: key(CACHE_INFO), why: error.to_string() })
}

/// Returns the store directory that a binary cache says it is of; none where there is no binary cache.
async fn stated_store_dir(objects: &dyn ObjectStore) -> Result<Option<String>, StoreError> {
    let object = objects.get(&key(CACHE_INFO), MAX_NARINFO).await?;
    Ok(object.map(|object| parse_cache_info(&object.bytes)))
}

fn expect_store_dir(found: String, expected: &StoreDir) -> Result<(), StoreError> {
    if found == expected.as_str() { Ok(()) } else { Err(StoreError::StoreDir { found, expected: expected.clone() }) }
}

/// Returns a path's hash part: 32 characters of Nix's base 32.
#[must_use]
pub fn hash_part_of(path: &StorePath) -> String {
    nixbase32::encode(path.digest())
}

pub(crate) fn narinfo_key(path: &StorePath) -> Key {
    key(format!("{}.narinfo", hash_part_of(path)))
}

pub(crate) fn listing_key(path: &StorePath) -> Key {
    key(format!("{}.ls", hash_part_of(path)))
}

pub(crate) fn nar_key(nar_hash: &NarHash) -> Key {
    key(format!("nar/{}.nar.zst", nar_hash.to_nix32()))
}

/// Returns what an object below `nar/` is called by, if its name is one that [`nar_key`] could have made.
pub(crate) fn nar_of_name(name: &str) -> Option<NarHash> {
    let hash = nixbase32::decode(name.strip_suffix(".nar.zst")?.as_bytes()).ok()?;
    Some(NarHash::from_sha256(hash.try_into().ok()?))
}

pub(crate) fn record_key(path: &StorePath, digest: &FingerprintDigest) -> Key {
    key(format!("{EVIDENCE}{}/{digest}", hash_part_of(path)))
}

pub(crate) fn log_key(derivation: &StorePath) -> Key {
    key(format!("log/{}", derivation.to_basename()))
}

/// Source: Nix `src/libstore/binary-cache-store.cc`: `realisations/<id>.doi` up to 2.34, `build-trace-v2/<drv>/<output>.doi`
/// later.
pub(crate) fn realisation_key(id: &OutputId) -> Result<Key, StoreError> {
    let text = match id {
        OutputId::Hash { .. } => format!("realisations/{id}.doi"),
        OutputId::Path { drv_path, output } => format!("build-trace-v2/{}/{output}.doi", drv_path.to_basename()),
    };
    Key::new(text).ok_or_else(|| StoreError::Name(id.to_string()))
}

/// Returns the path that a realisation names, read under an output's name.
pub(super) fn out_path(id: &OutputId, bytes: &[u8]) -> Result<StorePath, StoreError> {
    let read = Realisation::parse_object(id, &String::from_utf8_lossy(bytes));
    let damaged = |why: RealisationError| StoreError::Derivation { path: id.to_string(), why: why.to_string() };
    read.map(|realisation| realisation.out_path).map_err(damaged)
}

fn key(text: impl Into<String>) -> Key {
    Key::new(text).expect("hash parts, hashes and store path names are made of a key's characters")
}
