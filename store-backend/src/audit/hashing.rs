//! Bytes of NARs, counted and hashed as they pass by.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use verifier::{NarDigest, NarHash};

use super::Progress;

/// Bytes that are read and hashed at a time: enough for the system's part to count for little.
pub(super) const BLOCK: usize = 128 << 10;

/// Counts the bytes of a NAR, and stops where there are more than are said to be there.
pub(super) struct Count {
    passed: u64,
    size: u64,
    progress: Arc<Progress>,
}

impl Count {
    pub(super) fn up_to(size: u64, progress: Arc<Progress>) -> Self {
        Self { passed: 0, size, progress }
    }

    pub(super) fn pass(&mut self, count: usize) -> io::Result<()> {
        self.passed += count as u64;
        self.progress.read(count);
        if self.passed > self.size {
            let why = format!("there are more than the stated {} bytes", self.size);
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        Ok(())
    }

    /// Returns how many bytes have come.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }
}

/// Makes the digest of a NAR that has passed.
pub(super) fn digest(sha256: Sha256, count: &Count) -> NarDigest {
    NarDigest::of_hash(NarHash::from_sha256(sha256.finalize().into()), count.passed)
}

/// Hashes a NAR that is written to it.
pub(super) struct Hashing {
    sha256: Sha256,
    count: Count,
}

impl Hashing {
    pub(super) fn new(count: Count) -> Self {
        Self { sha256: Sha256::new(), count }
    }

    /// Returns how many bytes have come.
    pub(super) fn passed(&self) -> u64 {
        self.count.passed
    }

    pub(super) fn finish(self) -> NarDigest {
        digest(self.sha256, &self.count)
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count.pass(bytes.len())?;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
