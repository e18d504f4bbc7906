//! The log's reader: from the first segment on, each record checked against the one before.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use verifier::base16;

use super::segment::{FOLDER, MAX_SEGMENT, Tail, folders, numbers_in, records_of, segment_key};
use super::{DecisionRecord, LogError};
use crate::object::ObjectStore;

/// A log on its way to a reader, from its first segment on. Each record is checked against the one before.
pub struct LogReader {
    objects: Arc<dyn ObjectStore>,
    /// Where the next segment begins, as far as it was read.
    end: Tail,
    /// Whether something before it was read.
    chained: bool,
}

impl LogReader {
    /// Opens the log of a store.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn open(objects: Arc<dyn ObjectStore>) -> Result<Self, LogError> {
        let first = match folders(&*objects).await?.into_iter().min() {
            Some(folder) => numbers_in(&*objects, folder).await?.into_iter().min(),
            None => None,
        };
        Ok(Self { objects, end: Tail::before(first.unwrap_or(1)), chained: first.is_none_or(|first| first == 1) })
    }

    /// Says whether the log begins with its first record: what was before may have been deleted.
    #[must_use]
    pub fn is_from_the_beginning(&self) -> bool {
        self.chained
    }

    /// Returns the SHA-256 of the last record that was read, in hexadecimal.
    #[must_use]
    pub fn last(&self) -> String {
        base16::encode(&self.end.hash)
    }

    /// Returns the records of the next segment; none where the log ends now.
    ///
    /// # Errors
    /// [`LogError::Broken`] at the first record that does not follow the one before, or that is missing.
    pub async fn next(&mut self) -> Result<Option<Vec<DecisionRecord>>, LogError> {
        let segment = segment_key(self.end.next);
        let Some(object) = self.objects.get(&segment, MAX_SEGMENT).await? else {
            return if self.goes_on().await? {
                Err(LogError::Broken { segment, line: 1, why: "it is missing, and there are later ones".into() })
            } else {
                Ok(None)
            };
        };
        let mut records = Vec::new();
        for (index, (line, record)) in records_of(segment.clone(), &object.bytes).enumerate() {
            let broken = |why: String| LogError::Broken { segment: segment.clone(), line: index + 1, why };
            let record = record?;
            if self.chained && record.previous != base16::encode(&self.end.hash) {
                return Err(broken("it does not follow the record before it".into()));
            }
            if record.time < self.end.time {
                return Err(broken("it is older than the record before it".into()));
            }
            self.chained = true;
            (self.end.hash, self.end.time) = (Sha256::digest(line).into(), record.time);
            records.push(record);
        }
        self.end.next += 1;
        Ok(Some(records))
    }

    /// Whether there are segments after one that is missing.
    async fn goes_on(&self) -> Result<bool, LogError> {
        let folder = self.end.next / FOLDER;
        let later = folders(&*self.objects).await?.into_iter().any(|other| other > folder)
            || numbers_in(&*self.objects, folder).await?.into_iter().any(|number| number > self.end.next);
        // One that was written just now is not missing.
        Ok(later && self.objects.head(&segment_key(self.end.next)).await?.is_none())
    }
}
