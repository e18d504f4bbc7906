//! What the gate remembers of its judgements, so that a closure is not weighed again for each of its paths.
//!
//! A judgement rests on the policy, on the path's evidence, and on its references' judgements. It is remembered under the
//! version of the path's narinfo, which changes with its evidence, and forgotten with every policy. Evidence only grows,
//! and a path that is referred to is not deleted, so a yes stands until then; a no is also forgotten with every write of
//! this gate, and after a moment because other gates write too.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use verifier::{StorePath, Timestamp};

use crate::object::Version;

/// Most paths that are remembered; about 250 bytes each.
const MOST: usize = 100_000;

/// How long a no is remembered at the most: other gates may have admitted what was missing.
const NO_LASTS: Duration = Duration::from_secs(2);

/// A judgement: admitted or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Admitted,
    NotAdmitted,
}

/// The state that judgements rest on besides the path itself. One taken before a change is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    policy: u64,
    writes: u64,
}

struct Remembered {
    version: Version,
    standing: Standing,
    until: Option<Timestamp>,
    epoch: Epoch,
    at: Instant,
}

#[derive(Default)]
struct State {
    policy: u64,
    writes: u64,
    /// By the whole path: another name with the same hash part is another path, of which nothing is known.
    paths: HashMap<StorePath, Remembered>,
}

#[derive(Default)]
pub(super) struct Memory(Mutex<State>);

impl Memory {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns the epoch: take it before reading what a judgement rests on.
    pub(super) fn epoch(&self) -> Epoch {
        let state = self.state();
        Epoch { policy: state.policy, writes: state.writes }
    }

    /// Returns what is remembered of a path. Without `version`, the path's own version is taken to be unchanged, which holds
    /// for a path that an admitted one refers to.
    pub(super) fn recall(&self, path: &StorePath, version: Option<&Version>, now: Timestamp) -> Option<Standing> {
        let state = self.state();
        let known = state.paths.get(path)?;
        let same = version.is_none_or(|version| known.version == *version) && known.epoch.policy == state.policy;
        let in_time = known.until.is_none_or(|until| now < until);
        let fresh = match known.standing {
            Standing::Admitted => true,
            Standing::NotAdmitted => known.epoch.writes == state.writes && known.at.elapsed() < NO_LASTS,
        };
        (same && in_time && fresh).then_some(known.standing)
    }

    /// Remembers a judgement that was made in `epoch`.
    pub(super) fn remember(
        &self,
        path: &StorePath,
        version: &Version,
        standing: Standing,
        until: Option<Timestamp>,
        epoch: Epoch,
    ) {
        let mut state = self.state();
        if epoch.policy != state.policy {
            return;
        }
        if state.paths.len() >= MOST {
            state.paths.clear();
        }
        state
            .paths
            .insert(path.clone(), Remembered { version: version.clone(), standing, until, epoch, at: Instant::now() });
    }

    /// Says that evidence was written: what was not admitted may be now.
    pub(super) fn note_write(&self) {
        self.state().writes += 1;
    }

    /// Forgets a path that was deleted.
    pub(super) fn forget(&self, path: &StorePath) {
        let mut state = self.state();
        state.paths.remove(path);
        state.writes += 1;
    }

    /// Forgets everything: another policy is in force.
    pub(super) fn forget_all(&self) {
        let mut state = self.state();
        state.policy += 1;
        state.paths.clear();
    }
}
