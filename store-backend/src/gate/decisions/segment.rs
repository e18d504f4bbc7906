//! Segments: the records of the log as they are stored, and where they are.

use serde::{Deserialize, Serialize};
use verifier::Timestamp;

use super::{Event, LogError};
use crate::object::{Entry, Key, ObjectStore};

/// Where the segments are: in folders of [`FOLDER`] numbers each.
const FOLDERS: &str = "quorum/log/";

/// Segments in one folder: the last one is found by listing the last folder.
pub(super) const FOLDER: u64 = 1_000;

/// Longest segment that is read, in bytes. What is written at once may pass the limits of the writer: 256 paths, of each all
/// signatures of as many keys as a policy has.
pub(super) const MAX_SEGMENT: u64 = 256 << 20;

/// What comes before the first record.
const NOTHING: [u8; 32] = [0; 32];

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecisionRecord {
    /// The SHA-256 of the line before, without its end, in hexadecimal.
    pub previous: String,
    /// When it was written, or when the one before was, whichever is later.
    pub time: Timestamp,
    /// SHA-256 of the policy that decided, in hexadecimal.
    pub policy: String,
    /// Its version.
    #[serde(default)]
    pub policy_version: u64,
    /// The same for the records of one segment, and for no others.
    pub(super) nonce: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    /// The number of the segment that comes next, from 1.
    pub(super) next: u64,
    /// The hash of the last record.
    pub(super) hash: [u8; 32],
    pub(super) time: Timestamp,
    /// The policy of the last record.
    pub(super) policy: String,
}

impl Tail {
    /// Returns the end of a log of which nothing before a segment is known.
    pub(super) fn before(next: u64) -> Self {
        Self { next, hash: NOTHING, time: Timestamp::from_unix(0), policy: String::new() }
    }
}

/// Reads the lines of a segment.
pub(super) fn records_of(
    segment: Key,
    bytes: &[u8],
) -> impl Iterator<Item = (&[u8], Result<DecisionRecord, LogError>)> {
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
    lines.enumerate().map(move |(index, line)| {
        let broken = |error: serde_json::Error| LogError::Broken {
            segment: segment.clone(),
            line: index + 1,
            why: error.to_string(),
        };
        (line, serde_json::from_slice(line).map_err(broken))
    })
}

pub(super) async fn numbers_in(objects: &dyn ObjectStore, folder: u64) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    let mut pages = objects.list(&format!("{FOLDERS}{folder:08}/")).await?;
    while let Some(page) = pages.next().await? {
        numbers.extend(page.iter().filter_map(|Entry { name, .. }| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

pub(super) async fn folders(objects: &dyn ObjectStore) -> Result<Vec<u64>, LogError> {
    Ok(objects.list_folders(FOLDERS).await?.iter().filter_map(|name| name.parse().ok()).collect())
}

pub(super) fn segment_key(number: u64) -> Key {
    Key::new(format!("{FOLDERS}{:08}/{number:012}", number / FOLDER)).expect("digits are a key's characters")
}
