//! Deleting named paths. Nothing else is ever deleted: this store has no garbage, only what was admitted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use verifier::{FingerprintDigest, NarHash, StorePath};

use super::announcement::{Announcement, Touched, announce_deletion};
use super::decisions::{Event, Named};
use super::{Gate, GateError, Uploader};
use crate::object::{Entry, Etag, Key, ObjectStore};
use crate::store::{EVIDENCE, hash_part_of, listing_key, nar_key, narinfo_key};

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The paths that are gone.
    pub paths: BTreeSet<StorePath>,
    /// How many bytes of compressed NARs went with them.
    pub bytes_freed: u64,
}

/// What is to go.
struct Doomed {
    paths: BTreeSet<StorePath>,
    nars: BTreeSet<NarHash>,
}

impl Gate {
    /// Deletes paths, with their evidence. A path that is not there is passed over, as in Nix.
    ///
    /// The narinfos go first: a crash leaves only what nobody can see. A NAR stays while anybody needs it.
    ///
    /// # Errors
    /// [`GateError::Referred`] when a path that stays refers to one of them, [`GateError::UnreadableReferrer`] when nobody can say
    /// whether one does, [`GateError::Crossed`] when one of them, or something that refers to it, is being uploaded; then nothing
    /// was deleted.
    pub async fn delete(&self, paths: &[StorePath], by: &Uploader) -> Result<Deleted, GateError> {
        let mut doomed = Doomed { paths: paths.iter().cloned().collect(), nars: BTreeSet::new() };
        let mut touched = Touched::default();
        for path in &doomed.paths {
            touched.add_path(path);
            if let Some(narinfo) = self.cache.narinfo(&hash_part_of(path)).await? {
                touched.add_nar(&narinfo.info.nar_hash);
                doomed.nars.insert(narinfo.info.nar_hash);
            }
        }
        let (announcement, uploaded) = announce_deletion(self.cache.objects(), &touched).await?;
        let deleted = announcement.keep(self.delete_announced(&doomed, &uploaded, &announcement, &by.0)).await;
        announcement.end(deleted).await
    }

    async fn delete_announced(
        &self,
        doomed: &Doomed,
        uploaded: &BTreeSet<String>,
        announcement: &Announcement,
        by: &str,
    ) -> Result<Deleted, GateError> {
        self.refuse_referred(&doomed.paths).await?;
        announcement.holds()?;
        let mut deleted = Deleted::default();
        for path in &doomed.paths {
            if self.hide(path, doomed, by).await? {
                tracing::info!(path = %self.cache.store_dir().render_path(path), "deleted");
                deleted.paths.insert(path.clone());
            }
        }
        deleted.bytes_freed = self.remove_unneeded(&doomed.nars, uploaded, announcement).await?;
        Ok(deleted)
    }

    /// Says no if a path that is not to be deleted refers to one that is, or may do so because its narinfo cannot be read.
    async fn refuse_referred(&self, doomed: &BTreeSet<StorePath>) -> Result<(), GateError> {
        let _turn = self.whole_store.acquire().await;
        let store_dir = self.cache.store_dir();
        let begun = Instant::now();
        for path in doomed {
            // One look at the store for all of them.
            let referrers = self.index.referrers(&self.cache, path, begun).await?;
            if let Some(part) = referrers.unreadable.first() {
                return Err(GateError::UnreadableReferrer {
                    path: store_dir.render_path(path),
                    narinfo: format!("{part}.narinfo"),
                });
            }
            if let Some(referrer) = referrers.known.into_iter().find(|referrer| !doomed.contains(&referrer.path)) {
                return Err(GateError::Referred {
                    path: store_dir.render_path(path),
                    referrer: store_dir.render_path(&referrer.path),
                });
            }
        }
        Ok(())
    }

    /// Deletes a path's narinfo, then its listing and its evidence; says whether there was one.
    async fn hide(&self, path: &StorePath, doomed: &Doomed, by: &str) -> Result<bool, GateError> {
        let objects = self.cache.objects();
        let Some(narinfo) = self.cache.narinfo(&hash_part_of(path)).await? else {
            return Ok(false);
        };
        // What is written after this was seen belongs to somebody who uploads the path again.
        let shown = narinfo.info.fingerprint(self.cache.store_dir()).ok().map(|fingerprint| fingerprint.digest());
        let evidence = self.evidence_of(path, shown.as_ref()).await?;
        if !doomed.nars.contains(&narinfo.info.nar_hash) {
            // It took another's place just now, so nobody was told of its NAR.
            return Err(GateError::Contended(self.cache.store_dir().render_path(path)));
        }
        if narinfo.info.path != *path {
            return Ok(false);
        }
        if let Some(fingerprint) = &shown {
            let named = Named::of(&narinfo.info, fingerprint, self.cache.store_dir(), by);
            self.decisions.record(&self.policy(), vec![Event::Deleted { named }]).await?;
        }
        if !objects.delete(&narinfo_key(path), &narinfo.version.etag).await? {
            return Ok(false);
        }
        self.memory.forget(path);
        self.recent.forget(path);
        self.index.note_write();
        remove(objects, &listing_key(path)).await?;
        for (key, version) in evidence {
            objects.delete(&key, &version).await?;
        }
        for note in self.staging.shelf.of(path).iter().filter(|note| Some(note.fingerprint) == shown) {
            self.staging.shelf.remove(note).await?;
        }
        Ok(true)
    }

    /// Lists the evidence of a path, but for that of what is held for it: that stays.
    async fn evidence_of(
        &self,
        path: &StorePath,
        shown: Option<&FingerprintDigest>,
    ) -> Result<Vec<(Key, Etag)>, GateError> {
        self.staging.shelf.look().await?;
        let notes = self.staging.shelf.of(path);
        let held = notes.iter().filter(|note| Some(&note.fingerprint) != shown);
        let held: Vec<String> = held.map(|note| note.fingerprint.to_string()).collect();
        let folder = format!("{EVIDENCE}{}/", hash_part_of(path));
        let mut pages = self.cache.objects().list(&folder).await?;
        let mut found = Vec::new();
        while let Some(page) = pages.next().await? {
            let keyed =
                |entry: Entry| Some((Key::new(format!("{folder}{}", entry.name))?, entry.metadata.version.etag));
            found.extend(page.into_iter().filter(|entry| !held.contains(&entry.name)).filter_map(keyed));
        }
        Ok(found)
    }

    /// Removes those of some NARs that nobody needs any more; returns how many bytes they had. Their deletion is announced, and
    /// `uploaded` is what was on its way then: whoever announced one of them since waits, so what is there now is all that needs
    /// them.
    pub(super) async fn remove_unneeded(
        &self,
        nars: &BTreeSet<NarHash>,
        uploaded: &BTreeSet<String>,
        announcement: &Announcement,
    ) -> Result<u64, GateError> {
        let needed = self.nars_needed_of(nars).await?;
        let mut freed = 0;
        for nar in nars.iter().filter(|nar| !needed.contains(nar) && !uploaded.contains(&nar.to_nix32())) {
            announcement.holds()?;
            freed += remove(self.cache.objects(), &nar_key(nar)).await?;
        }
        Ok(freed)
    }

    /// Returns those of some NARs that visible paths have, or something that is held: all of them, while there is a narinfo that
    /// cannot be read.
    async fn nars_needed_of(&self, nars: &BTreeSet<NarHash>) -> Result<BTreeSet<NarHash>, GateError> {
        let _turn = self.whole_store.acquire().await;
        let begun = Instant::now();
        self.staging.shelf.look().await?;
        let held = self.staging.shelf.nars();
        let mut needed: BTreeSet<NarHash> = nars.iter().filter(|nar| held.contains(*nar)).copied().collect();
        for nar in nars {
            let paths = self.index.paths_of(&self.cache, nar, begun).await?;
            if !paths.known.is_empty() || !paths.unreadable.is_empty() {
                needed.insert(*nar);
            }
        }
        Ok(needed)
    }
}

/// Removes an object as it is now; returns its size in bytes, 0 if there was none.
pub(super) async fn remove(objects: &Arc<dyn ObjectStore>, key: &Key) -> Result<u64, GateError> {
    match objects.head(key).await? {
        Some(found) if objects.delete(key, &found.version.etag).await? => Ok(found.size),
        _ => Ok(0),
    }
}
