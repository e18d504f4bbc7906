//! The decision log: what was admitted, refused and deleted, under which policy and by whose word, in one chain.
//!
//! A record is a line of JSON, and carries the SHA-256 of the line before it: none can be changed or left out unless all that
//! follow are written anew. Records are written in segments, objects with numbers that follow each other, each created on the
//! condition that nobody else has created it. So any number of gates write one chain, and those that wait for a segment of a
//! gate share one.

mod event;
mod reader;
mod segment;
mod writer;

use thiserror::Error;

pub use event::{Event, Judged, Named};
pub use reader::LogReader;
pub use segment::DecisionRecord;
pub(super) use writer::DecisionLog;

use crate::object::{Key, ObjectError};

/// Why the log cannot be read or continued.
#[derive(Debug, Error)]
pub enum LogError {
    /// The storage failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A record is not what was written.
    #[error("the decision log is broken in line {line} of {segment}: {why}")]
    Broken {
        /// Which object.
        segment: Key,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Others came first, again and again.
    #[error("other gates wrote to the decision log each time this one was about to; try again")]
    Contended,
    /// What was to be written with others' records was not, and they were told why.
    #[error("the decision log cannot be written: {0}")]
    Shared(String),
}
