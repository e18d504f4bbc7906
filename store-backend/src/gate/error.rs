use policy::Decision;
use thiserror::Error;
use verifier::{NarError, NarHash, RealisationError, StoreDir, StorePath};

use super::LogError;
use crate::object::ObjectError;
use crate::store::{NarReadError, StoreError};

/// Why the gate did not do what it was asked. What is said to a client is this error's text, on one line.
#[derive(Debug, Error)]
pub enum GateError {
    /// The policy says no; the peer may bring more signatures.
    #[error("{}", decision.summary(path))]
    Refused {
        /// The full path, or a realisation's id.
        path: String,
        /// Why.
        decision: Box<Decision>,
    },
    /// The bytes are not what was said of them: the peer caused it.
    #[error(
        "refused {path}: content-mismatch: expected {expected} of {expected_size} bytes, received {found} of {found_size} bytes"
    )]
    ContentMismatch {
        /// The full path.
        path: String,
        /// The NAR hash that was announced.
        expected: NarHash,
        /// The size that was announced, in bytes.
        expected_size: u64,
        /// The NAR hash of what came.
        found: NarHash,
        /// How much came, in bytes.
        found_size: u64,
    },
    /// The content address is not that of the bytes, or does not make the path: the peer caused it.
    #[error("refused {path}: false-content-address: {why}")]
    FalseAddress {
        /// The full path.
        path: String,
        /// What differs.
        why: String,
    },
    /// Another fingerprint is admitted for the path.
    #[error(
        "refused {path}: conflict: {admitted} is admitted for it, {offered} was offered; nobody's word makes both true"
    )]
    Conflict {
        /// The full path.
        path: String,
        /// The NAR hash, size and number of references that are admitted.
        admitted: String,
        /// Those that were offered.
        offered: String,
    },
    /// The bytes are not a NAR, or not one that is taken: the peer caused it.
    #[error("refused {path}: {source}")]
    Nar {
        /// The full path or name.
        path: String,
        /// What is wrong.
        #[source]
        source: NarError,
    },
    /// What was offered passes a limit or cannot be: the peer caused it.
    #[error("refused {path}: {why}")]
    Unacceptable {
        /// The full path or name.
        path: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The path is not valid here. Nix takes the words "is not valid" for just that.
    #[error("path '{0}' is not valid")]
    NotValid(String),
    /// Nothing of the path is held in staging, or not what was named.
    #[error("path '{0}' is not held in staging; nix-quorum staging list shows what is")]
    NotHeld(String),
    /// Several contents are held for a path, so nothing can be said of it as of one.
    #[error(
        "path '{path}' is in conflict: {}; sign only what you built, in your own store, and copy it here; nix-quorum staging diff shows what differs",
        candidates.join("; ")
    )]
    InConflict {
        /// The full path.
        path: String,
        /// What is held, each in a few words.
        candidates: Vec<String>,
    },
    /// What is held cannot be read.
    #[error(
        "path '{0}' is not valid: it is held in staging, and its contents can be read only once it is admitted; nix-quorum staging fetch is for those who look into it"
    )]
    OnlyHeld(String),
    /// A path that others refer to is to be deleted.
    #[error("cannot delete path '{path}' since {referrer} refers to it; delete that first, or both at once")]
    Referred {
        /// The full path.
        path: String,
        /// One that refers to it.
        referrer: String,
    },
    /// A path is to be deleted, and nobody can say whether another refers to it: the store caused it.
    #[error(
        "cannot delete path '{path}' while {narinfo} of this store cannot be read, since what that is about may refer to it; restore or remove that object first"
    )]
    UnreadableReferrer {
        /// The full path.
        path: String,
        /// The narinfo's key.
        narinfo: String,
    },
    /// A realisation that cannot be read: the peer or the store caused it.
    #[error(transparent)]
    Realisation(#[from] RealisationError),
    /// The NAR in the store cannot be read.
    #[error(transparent)]
    NarRead(#[from] NarReadError),
    /// What was uploaded left the NAR in its place that the store had already, and that is not what it should be: the store caused it.
    #[error("{source}; the store had it before '{path}' was brought: bring that once more, and it is replaced")]
    DamagedNar {
        /// The full path.
        path: String,
        /// What reading the NAR said.
        #[source]
        source: Box<NarReadError>,
    },
    /// The store failed.
    #[error("the store failed, and nothing was admitted: {0}")]
    Store(#[from] StoreError),
    /// A policy of a higher version was in force in this store.
    #[error(
        "policy-rollback: this policy has version {version}, and one of version {newest} was in force here: install the newest, or raise the version of the one you mean"
    )]
    PolicyRollback {
        /// The version of this one.
        version: u64,
        /// The highest that was in force.
        newest: u64,
    },
    /// The decision log cannot be written.
    #[error("nothing was admitted: {0}")]
    Log(#[from] LogError),
    /// Too many writers changed one object at once.
    #[error("{0} was changed by others each time it was to be written; try again")]
    Contended(String),
    /// An upload and a deletion touch the same, and one did not wait any longer for the other.
    #[error("{0}; try again")]
    Crossed(String),
    /// Whoever set up this gate gave it a signer's key.
    #[error("the key that countersigns is signer {signer}'s: give the gate a key of its own (nix-quorum key generate)")]
    OwnKeyIsSigner {
        /// Whose it is.
        signer: String,
    },
    /// Whoever set up this gate gave it a policy for another store directory.
    #[error("the policy is for {expected}, the store for {found}")]
    StoreDir {
        /// The store's.
        found: StoreDir,
        /// The policy's.
        expected: StoreDir,
    },
}

impl From<ObjectError> for GateError {
    fn from(error: ObjectError) -> Self {
        Self::Store(error.into())
    }
}

/// Returns the first failure of some that counts: where the store failed, nobody knows what became of what was sent to it, and what was
/// refused besides is not all there is to say.
pub(super) fn first_failure(done: impl IntoIterator<Item = Result<(), GateError>>) -> Result<(), GateError> {
    let (refused, failed): (Vec<GateError>, Vec<GateError>) =
        done.into_iter().filter_map(Result::err).partition(GateError::is_refusal);
    failed.into_iter().chain(refused).next().map_or(Ok(()), Err)
}

impl GateError {
    /// Says whether nothing was begun, because of what was asked for: the store has not failed.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::ContentMismatch { .. }
                | Self::FalseAddress { .. }
                | Self::Conflict { .. }
                | Self::Nar { .. }
                | Self::Unacceptable { .. }
                | Self::NotValid(_)
                | Self::NotHeld(_)
                | Self::InConflict { .. }
                | Self::OnlyHeld(_)
                | Self::Referred { .. }
                | Self::UnreadableReferrer { .. }
        )
    }

    /// Says that a path is not valid here.
    pub(crate) fn not_valid(store_dir: &StoreDir, path: &StorePath) -> Self {
        Self::NotValid(store_dir.render_path(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_store_goes_before_a_refusal() {
        let refused = || Err(GateError::NotValid("one".into()));
        let failed = || Err(GateError::Contended("another".into()));
        assert!(first_failure([Ok(()), Ok(())]).is_ok());
        assert!(matches!(first_failure([Ok(()), refused()]), Err(GateError::NotValid(_))));
        assert!(matches!(first_failure([refused(), failed(), Ok(())]), Err(GateError::Contended(_))));
    }
}
