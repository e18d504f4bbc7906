//! The proof that bytes were hashed, and are what a path info says.

use verifier::{PathInfo, StoreDir};

use super::GateError;
use super::intake::Hashed;
use crate::clock::now;
use crate::object::Upload;
use crate::store::{FileFacts, NarRecord, Record};

/// A path info together with the proof that its NAR's bytes were hashed and match it, address and all.
///
/// Only bytes that were just hashed, or this store's own record of having hashed them, make one.
pub(super) struct Verified {
    info: PathInfo,
    nar: NarRecord,
}

/// What came along with verified bytes and waits to be published with them.
pub(super) struct Luggage {
    /// The compressed NAR; none where the store has it already.
    pub(super) upload: Option<Box<dyn Upload>>,
    /// The listing.
    pub(super) listing: Option<Vec<u8>>,
}

impl Verified {
    /// Compares what was announced with what came. `existing` describes the object that the store has already, where the
    /// bytes were not kept.
    pub(super) fn compare(
        store_dir: &StoreDir,
        info: PathInfo,
        hashed: Hashed,
        existing: Option<FileFacts>,
    ) -> Result<(Self, Luggage), GateError> {
        let path = store_dir.render_path(&info.path);
        let digest = hashed.digest;
        if (digest.nar_hash, digest.nar_size) != (info.nar_hash, info.nar_size) {
            return Err(GateError::ContentMismatch {
                path,
                expected: info.nar_hash,
                expected_size: info.nar_size,
                found: digest.nar_hash,
                found_size: digest.nar_size,
            });
        }
        let proof = digest
            .prove_address(store_dir, &info)
            .map_err(|error| GateError::FalseAddress { path: path.clone(), why: error.to_string() })?;
        let (upload, file) = match (hashed.stored, existing) {
            (Some((upload, facts)), _) => (Some(upload), facts),
            (None, Some(facts)) => (None, facts),
            (None, None) => {
                let why = "its bytes were not kept and the store does not have them".to_owned();
                return Err(GateError::Unacceptable { path, why });
            }
        };
        let nar = NarRecord { verified: now(), address: proof, file };
        Ok((Self { info, nar }, Luggage { upload, listing: digest.listing }))
    }

    /// Takes the store's own record of having hashed the bytes.
    pub(super) fn on_record(record: &Record) -> Self {
        Self { info: record.info().clone(), nar: record.nar.clone() }
    }

    pub(super) fn info(&self) -> &PathInfo {
        &self.info
    }

    pub(super) fn nar(&self) -> &NarRecord {
        &self.nar
    }
}
