//! Deleting named paths. Nothing else is ever deleted: this store has no garbage, only what was admitted.

use std::collections::{BTreeSet, HashMap};

use verifier::{NarHash, StorePath};

use super::announcement::{Announcement, Touched};
use super::{Gate, GateError};
use crate::object::{Entry, Etag, Key};
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
    /// The narinfos go first: a crash leaves only what nobody can see. A NAR stays while anybody needs it.
    ///
    /// # Errors
    /// [`GateError::Referred`] when a path that stays refers to one of them, [`GateError::Crossed`] when one of them, or
    /// something that refers to it, is being uploaded; then nothing was deleted.
    pub async fn delete(&self, paths: &[StorePath]) -> Result<Deleted, GateError> {
        let mut touched = Touched { paths: paths.iter().cloned().collect(), nars: BTreeSet::new() };
        for path in &touched.paths {
            touched.nars.extend(self.cache.narinfo(&hash_part_of(path)).await?.map(|narinfo| narinfo.info.nar_hash));
        }
        let (announcement, uploaded) = self.announce_deletion(&touched).await?;
        let deleted = self.delete_announced(&touched, &uploaded, &announcement).await;
        announcement.withdraw().await?;
        deleted
    }

    async fn delete_announced(
        &self,
        touched: &Touched,
        uploaded: &BTreeSet<String>,
        announcement: &Announcement,
    ) -> Result<Deleted, GateError> {
        self.refuse_referred(&touched.paths).await?;
        announcement.holds()?;
        let mut deleted = Deleted::default();
        for path in &touched.paths {
            if self.hide(path, touched).await? {
                tracing::info!(path = %self.cache.store_dir().render_path(path), "deleted");
                deleted.paths.insert(path.clone());
            }
        }
        // Whoever announced one of these NARs since waits, so what is visible now is all that needs them.
        let needed = self.nars_needed_of(&touched.nars).await?;
        for nar in touched.nars.iter().filter(|nar| !needed.contains(nar) && !uploaded.contains(&nar.to_nix32())) {
            announcement.holds()?;
            deleted.bytes_freed += self.remove(&nar_key(nar)).await?;
        }
        Ok(deleted)
    }

    /// Removes an object as it is now; returns its size, 0 if there was none.
    pub(super) async fn remove(&self, key: &Key) -> Result<u64, GateError> {
        let objects = self.cache.objects();
        match objects.head(key).await? {
            Some(found) if objects.delete(key, &found.version.etag).await? => Ok(found.size),
            _ => Ok(0),
        }
    }

    /// Says no if a path that is not to be deleted refers to one that is.
    async fn refuse_referred(&self, doomed: &BTreeSet<StorePath>) -> Result<(), GateError> {
        let _turn = self.whole_store.acquire().await;
        let by_digest: HashMap<&[u8; 20], &StorePath> = doomed.iter().map(|path| (path.digest(), path)).collect();
        let mut referred = None;
        let look = |known: &super::index::Known| {
            if !doomed.contains(&known.path)
                && let Some(path) = known.references.iter().find_map(|digest| by_digest.get(digest))
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

    /// Deletes a path's narinfo, then its listing and its evidence; says whether there was one.
    async fn hide(&self, path: &StorePath, touched: &Touched) -> Result<bool, GateError> {
        let objects = self.cache.objects();
        let Some(narinfo) = self.cache.narinfo(&hash_part_of(path)).await? else {
            return Ok(false);
        };
        // What is written after this was seen belongs to somebody who uploads the path again.
        let evidence = self.evidence_of(path).await?;
        if !touched.nars.contains(&narinfo.info.nar_hash) {
            // It took another's place just now, so nobody was told of its NAR.
            return Err(GateError::Contended(self.cache.store_dir().render_path(path)));
        }
        if narinfo.info.path != *path || !objects.delete(&narinfo_key(path), &narinfo.version.etag).await? {
            return Ok(false);
        }
        self.memory.forget(path);
        self.remove(&listing_key(path)).await?;
        for (key, version) in evidence {
            objects.delete(&key, &version).await?;
        }
        Ok(true)
    }

    async fn evidence_of(&self, path: &StorePath) -> Result<Vec<(Key, Etag)>, GateError> {
        let folder = format!("quorum/evidence/{}/", hash_part_of(path));
        let mut pages = self.cache.objects().list(&folder).await?;
        let mut found = Vec::new();
        while let Some(page) = pages.next().await? {
            let keyed =
                |entry: Entry| Some((Key::new(format!("{folder}{}", entry.name))?, entry.metadata.version.etag));
            found.extend(page.into_iter().filter_map(keyed));
        }
        Ok(found)
    }

    /// Returns those of some NARs that visible paths have.
    async fn nars_needed_of(&self, nars: &BTreeSet<NarHash>) -> Result<BTreeSet<NarHash>, GateError> {
        let _turn = self.whole_store.acquire().await;
        let mut needed = BTreeSet::new();
        let look = |known: &super::index::Known| needed.extend(nars.get(&known.nar_hash).copied());
        self.index.visit(&self.cache, look).await?;
        Ok(needed)
    }
}
