//! Deleting named paths. Nothing else is ever deleted: this store has no garbage, only what was admitted.

use std::collections::BTreeSet;

use verifier::{NarHash, StorePath};

use super::{Gate, GateError};
use crate::object::{Condition, Draft, Entry, Etag, Key, Object};
use crate::store::{hash_part_of, listing_key, narinfo_key};

/// Longest narinfo that is kept in mind for putting it back, in bytes.
const MAX_NARINFO: u64 = 1 << 20;

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The paths that are gone.
    pub paths: BTreeSet<StorePath>,
    /// How many bytes of compressed NARs went with them.
    pub bytes_freed: u64,
}

/// A path whose narinfo is gone and can be put back.
struct Hidden {
    path: StorePath,
    nar_hash: NarHash,
    narinfo: Object,
    /// The evidence as it was before: what is written after that belongs to somebody who uploads the path again.
    evidence: Vec<(Key, Etag)>,
}

impl Gate {
    /// Deletes paths, with their evidence. A path that is not there is passed over, as in Nix.
    ///
    /// The narinfos go first: a crash leaves only what nobody can see. Then it is looked once more whether somebody refers to
    /// them, since another gate may have admitted a referrer meanwhile; if so, they are put back. A NAR stays while anybody
    /// needs it.
    ///
    /// # Errors
    /// [`GateError::Referred`] when a path that stays refers to one of them; then nothing was deleted.
    pub async fn delete(&self, paths: &[StorePath]) -> Result<Deleted, GateError> {
        let _alone = self.order.write().await;
        let doomed: BTreeSet<&StorePath> = paths.iter().collect();
        self.refuse_referred(&doomed).await?;
        let hidden = self.hide(&doomed).await?;
        if let Err(error) = self.refuse_referred(&doomed).await {
            for Hidden { path, narinfo, .. } in hidden {
                let draft = Draft::of_bytes(narinfo_key(&path), Condition::Absent, narinfo.bytes);
                self.cache.objects().publish(vec![draft]).await?;
            }
            return Err(error);
        }
        let mut deleted = Deleted::default();
        for Hidden { path, nar_hash, evidence, .. } in hidden {
            self.remove(&listing_key(&path)).await?;
            for (key, version) in evidence {
                self.cache.objects().delete(&key, &version).await?;
            }
            deleted.bytes_freed += self.delete_nar(&nar_hash, async || self.is_needed(&nar_hash).await).await?;
            tracing::info!(path = %self.cache.store_dir().render_path(&path), "deleted");
            deleted.paths.insert(path);
        }
        Ok(deleted)
    }

    /// Removes an object as it is now; returns its size, 0 if there was none.
    pub(super) async fn remove(&self, key: &Key) -> Result<u64, GateError> {
        let objects = self.cache.objects();
        match objects.head(key).await? {
            Some(found) if objects.delete(key, &found.etag).await? => Ok(found.size),
            _ => Ok(0),
        }
    }

    /// Withdraws a narinfo that was just published, because something that it rests on is gone.
    pub(super) async fn withdraw(&self, path: &StorePath) -> Result<(), GateError> {
        self.remove(&narinfo_key(path)).await?;
        self.memory.forget(path);
        Ok(())
    }

    /// Says no if a path that is not to be deleted refers to one that is.
    async fn refuse_referred(&self, doomed: &BTreeSet<&StorePath>) -> Result<(), GateError> {
        let _turn = self.whole_store.acquire().await;
        let mut referred = None;
        let look = |known: &super::index::Known| {
            if !doomed.contains(&known.path)
                && let Some(path) = doomed.iter().find(|path| known.refers_to(path))
            {
                referred = Some(((*path).clone(), known.path.clone()));
            }
        };
        self.index.visit(&self.cache, look).await?;
        let store_dir = self.cache.store_dir();
        match referred {
            None => Ok(()),
            Some((path, referrer)) => Err(GateError::Referred {
                path: store_dir.render_path(&path),
                referrer: store_dir.render_path(&referrer),
            }),
        }
    }

    /// Deletes the narinfos of paths, keeping them in mind.
    async fn hide(&self, doomed: &BTreeSet<&StorePath>) -> Result<Vec<Hidden>, GateError> {
        let objects = self.cache.objects();
        let mut hidden = Vec::new();
        for path in doomed {
            let Some(info) = self.cache.narinfo(&hash_part_of(path)).await?.map(|narinfo| narinfo.info) else {
                continue;
            };
            let Some(narinfo) = objects.get(&narinfo_key(path), MAX_NARINFO).await? else {
                continue;
            };
            let evidence = self.evidence_of(path).await?;
            let version: &Etag = &narinfo.etag;
            if info.path == **path && objects.delete(&narinfo_key(path), version).await? {
                self.memory.forget(path);
                hidden.push(Hidden { path: (*path).clone(), nar_hash: info.nar_hash, narinfo, evidence });
            }
        }
        Ok(hidden)
    }

    async fn evidence_of(&self, path: &StorePath) -> Result<Vec<(Key, Etag)>, GateError> {
        let folder = format!("quorum/evidence/{}/", hash_part_of(path));
        let mut pages = self.cache.objects().list(&folder).await?;
        let mut found = Vec::new();
        while let Some(page) = pages.next().await? {
            let keyed = |entry: Entry| Some((Key::new(format!("{folder}{}", entry.name))?, entry.metadata.etag));
            found.extend(page.into_iter().filter_map(keyed));
        }
        Ok(found)
    }

    /// Says whether a visible path has this NAR.
    async fn is_needed(&self, nar_hash: &NarHash) -> Result<bool, GateError> {
        let _turn = self.whole_store.acquire().await;
        let mut needed = false;
        self.index.visit(&self.cache, |known| needed |= known.nar_hash == *nar_hash).await?;
        Ok(needed)
    }
}
