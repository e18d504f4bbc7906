//! Which paths there are and what they refer to, so that a listing need not read every narinfo each time.
//!
//! It is a cache: refreshed from the folder's listing before each use, by the version of each narinfo. It says what *might*
//! be valid; whether something is, the view decides.

use std::collections::{HashMap, HashSet};

use tokio::sync::Mutex;
use verifier::{NarHash, StorePath};

use crate::object::Etag;
use crate::store::{BinaryCache, StoreError};

/// What is kept of one narinfo.
#[derive(Debug, Clone)]
pub(super) struct Known {
    etag: Etag,
    pub(super) path: StorePath,
    pub(super) nar_hash: NarHash,
    /// Hash parts.
    pub(super) references: Box<[[u8; 20]]>,
}

#[derive(Default)]
pub(super) struct Index(Mutex<HashMap<String, Known>>);

impl Index {
    /// Brings the index up to date and hands each entry to `visit`. A narinfo that is damaged is passed over, with a line
    /// in the log: it makes no path valid.
    pub(super) async fn visit(&self, cache: &BinaryCache, mut visit: impl FnMut(&Known)) -> Result<(), StoreError> {
        let mut known = self.0.lock().await;
        let mut seen = HashSet::new();
        let mut pages = cache.objects().list("").await?;
        while let Some(page) = pages.next().await? {
            for entry in page {
                let Some(hash_part) = entry.name.strip_suffix(".narinfo") else {
                    continue;
                };
                if known.get(hash_part).is_none_or(|known| known.etag != entry.metadata.version.etag) {
                    match cache.narinfo(hash_part).await {
                        Ok(Some(narinfo)) => {
                            let info = &narinfo.info;
                            let references = info.references.iter().map(|path| *path.digest()).collect();
                            let path = info.path.clone();
                            let fresh = Known { etag: narinfo.version.etag, path, nar_hash: info.nar_hash, references };
                            known.insert(hash_part.to_owned(), fresh);
                        }
                        Ok(None) => continue,
                        Err(error) => {
                            tracing::warn!(%error, "passing over a damaged narinfo");
                            continue;
                        }
                    }
                }
                seen.insert(hash_part.to_owned());
            }
        }
        known.retain(|hash_part, _| seen.contains(hash_part));
        known.values().for_each(&mut visit);
        Ok(())
    }
}

impl Known {
    /// Says whether this path refers to another.
    pub(super) fn refers_to(&self, path: &StorePath) -> bool {
        self.references.contains(path.digest())
    }
}
