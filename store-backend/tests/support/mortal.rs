//! An object store that dies: after so many writes nothing works any more, as for a process that is killed there.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use store_backend::object::{
    Draft, Etag, Expected, Key, Leftover, Metadata, Object, ObjectError, ObjectStore, Pages, Put, Upload,
};
use verifier::Timestamp;

pub struct Mortal {
    inner: Arc<dyn ObjectStore>,
    /// Writes that are left to it.
    left: AtomicI64,
}

impl Mortal {
    /// A store that will die after so many writes.
    pub fn new(inner: Arc<dyn ObjectStore>, writes: i64) -> Self {
        Self { inner, left: AtomicI64::new(writes) }
    }

    /// Sets how many writes are left.
    pub fn dies_after(&self, writes: i64) {
        self.left.store(writes, Ordering::SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn lives(&self) -> Result<(), ObjectError> {
        if self.is_dead() { Err(dead()) } else { Ok(()) }
    }

    /// One write less.
    fn write(&self) -> Result<(), ObjectError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 { Err(dead()) } else { Ok(()) }
    }
}

fn dead() -> ObjectError {
    let source = std::io::Error::other("the process was killed");
    ObjectError::Io { action: "use", place: "a store".into(), source }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Object>, ObjectError> {
        self.lives()?;
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Metadata>, ObjectError> {
        self.lives()?;
        self.inner.head(key).await
    }

    async fn open(&self, key: &Key, from: u64) -> Result<Option<(Metadata, Box<dyn Read + Send>)>, ObjectError> {
        self.lives()?;
        self.inner.open(key, from).await
    }

    async fn upload(&self, expected: Expected) -> Result<Box<dyn Upload>, ObjectError> {
        self.lives()?;
        self.inner.upload(expected).await
    }

    /// One after the other, so that it can die between any two.
    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Put>, ObjectError> {
        let mut puts = Vec::new();
        for draft in drafts {
            self.write()?;
            puts.extend(self.inner.publish(vec![draft]).await?);
        }
        Ok(puts)
    }

    async fn delete(&self, key: &Key, version: &Etag) -> Result<bool, ObjectError> {
        self.write()?;
        self.inner.delete(key, version).await
    }

    async fn list(&self, folder: &str) -> Result<Pages, ObjectError> {
        self.lives()?;
        self.inner.list(folder).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        self.lives()?;
        self.inner.list_folders(folder).await
    }

    async fn leftovers(&self, before: Timestamp) -> Result<Vec<Leftover>, ObjectError> {
        self.lives()?;
        self.inner.leftovers(before).await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), ObjectError> {
        self.write()?;
        self.inner.remove_leftover(leftover).await
    }
}
