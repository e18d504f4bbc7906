use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How far an audit has come. Whoever shows it looks now and then.
#[derive(Debug, Default)]
pub struct Progress {
    found: AtomicUsize,
    done: AtomicUsize,
    bytes: AtomicU64,
}

/// How far an audit has come at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Paths that are known to belong to the audit; more may turn up.
    pub found: usize,
    /// Paths that are done.
    pub done: usize,
    /// Bytes of contents that were read, uncompressed.
    pub bytes: u64,
}

impl Progress {
    /// Returns where the audit is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            found: self.found.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn found(&self, paths: usize) {
        self.found.fetch_add(paths, Ordering::Relaxed);
    }

    pub(super) fn done(&self, paths: usize) {
        self.done.fetch_add(paths, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
