//! The audit: what a store holds, held against a policy and against its own bytes.
//!
//! It reads any [`Store`] and believes none: signatures are weighed again, content addresses recomputed, contents hashed. What
//! comes out is data; rendering it is somebody else's.

mod asking;
mod contents;
mod files;
mod hashing;
mod lanes;
mod outcome;
mod path;
mod progress;
mod reading_log;
mod signatures;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use policy::Policy;
use thiserror::Error;
use tokio::task::{AbortHandle, JoinError};
use verifier::{StorePath, Timestamp};

pub use outcome::{Audit, Facts, Faults};
pub use progress::{Progress, Snapshot};
pub use reading_log::{ReadingLog, ReadingLogError};
pub use signatures::SignatureReport;

use crate::store::{Store, StoreError};
use walk::Walk;

/// Why an audit could not be made. Whoever asked for it, or the store, caused it.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task of ours ended without an answer.
    #[error("a worker ended without an answer: {0}")]
    Worker(#[from] JoinError),
}

/// Which paths are audited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// These alone: what they refer to has to be there, and is counted on.
    Paths(BTreeSet<StorePath>),
    /// These, and all that they refer to, however far.
    Closures(BTreeSet<StorePath>, Outputs),
    /// Every path of the store.
    Everything,
}

/// Whether what a derivation made counts as what it refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// It does, as far as it is in the store.
    Include,
    /// It does not.
    LeaveOut,
}

/// Whether contents are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// They are read and hashed.
    Read,
    /// They are left alone, and only what is said of them is checked.
    Leave,
}

/// Another store, whose signatures count where it has the same contents.
#[derive(Clone)]
pub struct Substituter {
    /// Its URI.
    pub uri: Arc<str>,
    /// The store itself.
    pub store: Arc<dyn Store>,
    /// How often it has failed in a row.
    failures: Arc<AtomicU32>,
}

impl Substituter {
    /// Names a store.
    #[must_use]
    pub fn new(uri: &str, store: Arc<dyn Store>) -> Self {
        Self { uri: uri.into(), store, failures: Arc::default() }
    }
}

/// What an audit holds a store against.
#[derive(Clone)]
pub struct Measure {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Where else signatures are looked for.
    pub substituters: Vec<Substituter>,
    /// Whether contents are read.
    pub contents: Contents,
    /// What earlier audits have read, which is not read again.
    pub read_before: Option<Arc<ReadingLog>>,
    /// The present.
    pub now: Timestamp,
}

/// Audits paths of a store. Memory grows with the number of paths and references, not with their contents.
///
/// # Errors
/// When the store cannot be asked at all. A single path that cannot be read is in the report, as unchecked.
pub async fn audit(
    store: Arc<dyn Store>,
    scope: Scope,
    measure: Measure,
    progress: Arc<Progress>,
) -> Result<Audit, AuditError> {
    let auditing = async move {
        let mut walk = Walk::new(store, measure, progress);
        match scope {
            Scope::Paths(paths) => walk.paths(paths).await?,
            Scope::Closures(paths, outputs) => walk.closures(paths, outputs).await?,
            Scope::Everything => walk.everything().await?,
        }
        Ok(walk.finish())
    };
    // On a thread with the works that it waits for: waking another for each takes longer.
    let auditing = tokio::spawn(auditing);
    let _ended = EndedWithIt(auditing.abort_handle());
    auditing.await?
}

/// A task that goes when who waits for it goes.
struct EndedWithIt(AbortHandle);

impl Drop for EndedWithIt {
    fn drop(&mut self) {
        self.0.abort();
    }
}
