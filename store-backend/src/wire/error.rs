use std::io;
use std::time::Duration;

use thiserror::Error;

/// Why bytes could not be read from, or written to, a peer. After any of these the stream is out of step: there is
/// nothing to do but to close it.
#[derive(Debug, Error)]
pub enum WireError {
    /// The peer closed the connection in the middle of something.
    #[error("the connection ended in the middle of {0}")]
    Ended(&'static str),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Nothing came, or nothing could be sent, for too long.
    #[error("no progress for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// The peer announced something longer than is read.
    #[error("{what} of {got} is over the limit of {limit}")]
    TooLong {
        /// What was announced.
        what: &'static str,
        /// The announced length: bytes of a string, items of a list.
        got: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The bytes that fill a string up to a multiple of 8 are not zero.
    #[error("non-zero padding after {0}")]
    Padding(&'static str),
    /// A value is none of those it may have.
    #[error("expected {expected}, found {got}")]
    Unexpected {
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
}
