//! An object store that stops where a test wants it to, so that one order of events among many can be had each time.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use store_backend::object::{
    Draft, Etag, Expected, Key, Leftover, Metadata, Object, ObjectError, ObjectStore, Pages, Put, Upload,
};
use tokio::sync::Semaphore;
use verifier::Timestamp;

/// What a gate asks of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Publish,
    Delete,
    List,
}

/// A place to stop, once.
pub struct Stop {
    step: Step,
    prefix: String,
    reached: Semaphore,
    resumed: Semaphore,
}

impl Stop {
    /// Waits until the store has come to it.
    pub async fn reached(&self) {
        let reached = tokio::time::timeout(Duration::from_secs(20), self.reached.acquire());
        reached.await.expect("it is come to").expect("it is open").forget();
    }

    pub fn go_on(&self) {
        self.resumed.add_permits(1);
    }
}

/// A store that stops before some steps.
pub struct Stepping {
    inner: Arc<dyn ObjectStore>,
    stops: Mutex<Vec<Arc<Stop>>>,
    published: Mutex<Vec<(String, u32)>>,
}

impl Stepping {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, stops: Mutex::default(), published: Mutex::default() }
    }

    /// What was to be published, each with its stage: keys, in the order in which they were given.
    pub fn published(&self) -> Vec<(String, u32)> {
        self.published.lock().expect("nobody panics here").clone()
    }

    /// Stops before the next such step on a key, or folder, that begins so.
    pub fn stop_before(&self, step: Step, prefix: impl Into<String>) -> Arc<Stop> {
        let (reached, resumed) = (Semaphore::new(0), Semaphore::new(0));
        let stop = Arc::new(Stop { step, prefix: prefix.into(), reached, resumed });
        self.stops.lock().expect("nobody panics here").push(stop.clone());
        stop
    }

    async fn before(&self, step: Step, keys: &[&str]) {
        let stop = {
            let mut stops = self.stops.lock().expect("nobody panics here");
            let here = |stop: &Arc<Stop>| stop.step == step && keys.iter().any(|key| key.starts_with(&stop.prefix));
            stops.iter().position(here).map(|place| stops.remove(place))
        };
        if let Some(stop) = stop {
            stop.reached.add_permits(1);
            stop.resumed.acquire().await.expect("it is open").forget();
        }
    }
}

#[async_trait]
impl ObjectStore for Stepping {
    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Object>, ObjectError> {
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Metadata>, ObjectError> {
        self.inner.head(key).await
    }

    async fn open(&self, key: &Key, from: u64) -> Result<Option<(Metadata, Box<dyn Read + Send>)>, ObjectError> {
        self.inner.open(key, from).await
    }

    async fn upload(&self, expected: Expected) -> Result<Box<dyn Upload>, ObjectError> {
        self.inner.upload(expected).await
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Put>, ObjectError> {
        let keys: Vec<String> = drafts.iter().map(|draft| draft.key.to_string()).collect();
        let stages = keys.iter().cloned().zip(drafts.iter().map(|draft| draft.stage));
        self.published.lock().expect("nobody panics here").extend(stages);
        self.before(Step::Publish, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
        self.inner.publish(drafts).await
    }

    async fn delete(&self, key: &Key, version: &Etag) -> Result<bool, ObjectError> {
        self.before(Step::Delete, &[key.as_str()]).await;
        self.inner.delete(key, version).await
    }

    async fn list(&self, folder: &str) -> Result<Pages, ObjectError> {
        self.before(Step::List, &[folder]).await;
        self.inner.list(folder).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        self.inner.list_folders(folder).await
    }

    async fn leftovers(&self, before: Timestamp) -> Result<Vec<Leftover>, ObjectError> {
        self.inner.leftovers(before).await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), ObjectError> {
        self.inner.remove_leftover(leftover).await
    }
}
