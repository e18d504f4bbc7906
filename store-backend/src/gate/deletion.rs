//! Deleting named paths. Nothing else is ever deleted: this store has no garbage, only what was admitted.

use std::collections::BTreeSet;

use verifier::StorePath;

use super::{Gate, GateError};
use crate::object::Key;
use crate::store::{hash_part_of, listing_key, nar_key, narinfo_key};

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The paths that are gone.
    pub paths: BTreeSet<StorePath>,
    /// How many bytes of compressed NARs went with them.
    pub bytes_freed: u64,
}

impl Gate {
    /// Deletes paths, with their evidence. A path that is not there is passed over, as in Nix.
    ///
    /// The narinfo goes first, so that a crash leaves only what nobody can see. A NAR stays while another path has the same.
    ///
    /// # Errors
    /// [`GateError::Referred`] when a path that stays refers to one of them; then nothing was deleted.
    pub async fn delete(&self, paths: &[StorePath]) -> Result<Deleted, GateError> {
        let doomed: BTreeSet<&StorePath> = paths.iter().collect();
        let mut referred = None;
        let mut nars = std::collections::HashMap::new();
        {
            let _turn = self.whole_store.acquire().await;
            let look = |known: &super::index::Known| {
                if doomed.contains(&known.path) {
                    return;
                }
                *nars.entry(known.nar_hash).or_insert(0_usize) += 1;
                if let Some(path) = paths.iter().find(|path| known.refers_to(path)) {
                    referred = Some((path.clone(), known.path.clone()));
                }
            };
            self.index.visit(&self.cache, look).await?;
        }
        let store_dir = self.cache.store_dir();
        if let Some((path, referrer)) = referred {
            return Err(GateError::Referred {
                path: store_dir.render_path(&path),
                referrer: store_dir.render_path(&referrer),
            });
        }
        let mut deleted = Deleted::default();
        for path in doomed {
            let Some(narinfo) = self.cache.narinfo(&hash_part_of(path)).await? else {
                continue;
            };
            if narinfo.info.path != *path || !self.cache.objects().delete(&narinfo_key(path), &narinfo.etag).await? {
                continue;
            }
            self.memory.forget(path);
            self.remove(&listing_key(path)).await?;
            let evidence = format!("quorum/evidence/{}/", hash_part_of(path));
            let mut pages = self.cache.objects().list(&evidence).await?;
            while let Some(page) = pages.next().await? {
                for entry in page {
                    if let Some(key) = Key::new(format!("{evidence}{}", entry.name)) {
                        self.remove(&key).await?;
                    }
                }
            }
            if !nars.contains_key(&narinfo.info.nar_hash) {
                deleted.bytes_freed += self.remove(&nar_key(&narinfo.info.nar_hash)).await?;
            }
            tracing::info!(path = %store_dir.render_path(path), "deleted");
            deleted.paths.insert(path.clone());
        }
        Ok(deleted)
    }

    /// Removes an object as it is now; returns its size, 0 if there was none.
    async fn remove(&self, key: &Key) -> Result<u64, GateError> {
        let objects = self.cache.objects();
        match objects.head(key).await? {
            Some(found) if objects.delete(key, &found.etag).await? => Ok(found.size),
            _ => Ok(0),
        }
    }
}
