//! Objects by key: what a directory and a bucket have in common.
//!
//! Nothing here knows Nix. Whoever writes one of these for another kind of storage owes what the trait's words promise,
//! and the contract suite in `tests/object_contract.rs` to show it.

mod error;
mod fs;
mod key;
mod s3;

use std::io::Read;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use verifier::Timestamp;

pub use error::ObjectError;
pub use fs::Directory;
pub use key::Key;
pub use s3::{
    Addressing, Bucket, Conditions, Credentials, Location, LocationError, Patience, Writers, requests_retried,
};

/// Where objects are that were written to see what becomes of them: what is old there was left by a crash.
pub(crate) const PROBES: &str = "quorum/probe/";

/// Says which version of an object this is: opaque, and different for different bytes. Of the same bytes, written again
/// after they were deleted, some stores say the same: what is written time and again has a nonce in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Etag(String);

impl Etag {
    /// Takes an ETag as a store once stated it.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells apart what was written at different times, even if it is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Which bytes.
    pub etag: Etag,
    /// When they were written, by the store's clock.
    pub modified: Timestamp,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its length in bytes.
    pub size: u64,
    /// Which version it is.
    pub version: Version,
}

/// A small object, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its content.
    pub bytes: Bytes,
    /// Which version it is.
    pub version: Version,
}

/// An object found in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last part of its key.
    pub name: String,
    /// Its size and version.
    pub metadata: Metadata,
}

/// When a write takes place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Only if there is no such object.
    Absent,
    /// Only if the object there is this version.
    Matches(Etag),
}

/// What became of a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It took place; this is the new version.
    Stored(Etag),
    /// The condition did not hold, and nothing was changed. Where answers can be lost, it may also be that it was written, and
    /// replaced by somebody else before it was asked for again.
    Refused,
}

/// What is known of an upload when it starts.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Where it will be published; none where its bytes decide.
    pub key: Option<Key>,
    /// The most bytes that it can have; none where nobody knows.
    pub at_most: Option<u64>,
}

/// An object on its way up. It is invisible until it is published, and gone if it is dropped.
///
/// Its methods block: they are for a thread that may.
pub trait Upload: Send + Sync {
    /// Appends bytes.
    ///
    /// # Errors
    /// When they cannot be stored; the upload is then of no more use.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Says that all bytes are written, and starts to make them durable.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn finish(&mut self) -> Result<(), ObjectError>;

    /// Returns how many bytes of memory it takes now. Once it is finished they become no more until it is published, and fewer as
    /// what is on its way arrives.
    fn held(&self) -> usize;

    /// Returns the upload as what its own store made it.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// What is left of an upload that was never finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Under which key it is, or was to be.
    pub key: String,
    /// What the store calls it.
    id: String,
    /// Its size in bytes; none where the store does not say.
    pub size: Option<u64>,
    /// When it began.
    pub begun: Timestamp,
}

/// What an object shall hold.
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// What was uploaded, finished, to the same store.
    Upload(Box<dyn Upload>),
}

/// Whether an object has to outlast a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is on disk before anybody is told that it was written.
    Durable,
    /// It means nothing to anybody after a crash.
    Passing,
}

/// An object to be published.
pub struct Draft {
    /// Under which key.
    pub key: Key,
    /// When.
    pub condition: Condition,
    /// What.
    pub content: Content,
    /// For how long.
    pub durability: Durability,
    /// When, among the others: after those of a lower number.
    pub stage: u32,
}

impl Draft {
    /// Makes a draft of bytes.
    #[must_use]
    pub fn of_bytes(key: Key, condition: Condition, bytes: impl Into<Bytes>) -> Self {
        Self { key, condition, content: Content::Bytes(bytes.into()), durability: Durability::Durable, stage: 0 }
    }

    /// Makes a draft of bytes that need not outlast a crash.
    #[must_use]
    pub fn passing(key: Key, condition: Condition, bytes: impl Into<Bytes>) -> Self {
        Self { durability: Durability::Passing, ..Self::of_bytes(key, condition, bytes) }
    }

    /// Makes a draft of what was uploaded.
    #[must_use]
    pub fn of_upload(key: Key, condition: Condition, upload: Box<dyn Upload>) -> Self {
        Self { key, condition, content: Content::Upload(upload), durability: Durability::Durable, stage: 0 }
    }

    /// Puts it into a stage.
    #[must_use]
    pub fn in_stage(self, stage: u32) -> Self {
        Self { stage, ..self }
    }
}

/// Storage of objects by key.
///
/// An object is visible whole or not at all. Keys are compared byte by byte.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Says whether it is reached over a network.
    fn is_remote(&self) -> bool {
        false
    }

    /// Reads an object of at most `limit` bytes; none if there is none.
    ///
    /// # Errors
    /// When it is longer than `limit`, or cannot be read.
    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Object>, ObjectError>;

    /// Returns size and version of an object; none if there is none.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn head(&self, key: &Key) -> Result<Option<Metadata>, ObjectError>;

    /// Opens an object for reading from the byte `from` on, with its size; none if there is none. The reader blocks: it is
    /// for a thread that may.
    ///
    /// # Errors
    /// When it cannot be opened.
    async fn open(&self, key: &Key, from: u64) -> Result<Option<(Metadata, Box<dyn Read + Send>)>, ObjectError>;

    /// Starts an upload.
    ///
    /// # Errors
    /// When there is no room for one.
    async fn upload(&self, expected: Expected) -> Result<Box<dyn Upload>, ObjectError>;

    /// Publishes objects, stage by stage, which is the order they are given in: when one is visible, so are those of earlier
    /// stages. When this returns, what it stored is durable where it is to be: a crash of the machine loses none of it. Content
    /// becomes durable before it becomes visible.
    ///
    /// # Errors
    /// When writing fails; then the first drafts may have been published and the last not.
    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Put>, ObjectError>;

    /// Deletes an object if it is still this version; says whether it was. Not every store can look and delete in one step:
    /// who must not delete what somebody else is writing makes sure of that first.
    ///
    /// # Errors
    /// When the store cannot.
    async fn delete(&self, key: &Key, version: &Etag) -> Result<bool, ObjectError>;

    /// Lists the objects directly in a folder (`""`, or a key with a `/` at its end), a page at a time, in no order.
    /// What is written or deleted meanwhile may be in it or not.
    ///
    /// # Errors
    /// When the folder cannot be read. One that does not exist is empty.
    async fn list(&self, folder: &str) -> Result<Pages, ObjectError>;

    /// Lists the folders directly in a folder, likewise.
    ///
    /// # Errors
    /// As [`Self::list`].
    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, ObjectError>;

    /// Lists what is left of uploads that began before `before` and were never finished.
    ///
    /// # Errors
    /// When the store cannot tell.
    async fn leftovers(&self, before: Timestamp) -> Result<Vec<Leftover>, ObjectError>;

    /// Removes what is left of an upload. If it is still under way after all, it fails.
    ///
    /// # Errors
    /// When the store cannot.
    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), ObjectError>;

    /// Returns for how long what was read may stand for what is there, where nothing is decided by it: no time at all where
    /// asking again costs little.
    fn stays(&self) -> Duration {
        Duration::ZERO
    }

    /// Says that nothing more will be written.
    async fn close(&self) {}
}

/// A listing, page by page.
pub struct Pages(tokio::sync::mpsc::Receiver<Result<Vec<Entry>, ObjectError>>);

impl Pages {
    /// Returns the next page; none after the last.
    ///
    /// # Errors
    /// When the listing breaks off.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, ObjectError> {
        self.0.recv().await.transpose()
    }
}
