use std::io;

use thiserror::Error;

use super::Key;

/// Why the storage did not do what it was asked. The store, or the machine it is on, caused it.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// An operation on an object failed.
    #[error("cannot {action} {place}: {source}")]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// What it was done to.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An object is longer than such an object may be.
    #[error("object {key} has {size} bytes, more than the {limit} that it may have")]
    TooLong {
        /// Which.
        key: Key,
        /// Its length in bytes.
        size: u64,
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// A task of ours ended without an answer.
    #[error("a worker ended without an answer: {0}")]
    Worker(#[from] tokio::task::JoinError),
}
