//! Who still needs a NAR: how an upload that relies on a stored NAR, and a deletion of it, find out about each other.
//!
//! Both announce first and then look. An upload puts a claim and then looks for a doom; a deletion puts a doom and then looks
//! for claims. Whichever order their writes have, at least one of them sees the other, and backs off.

use std::sync::Arc;

use verifier::NarHash;

use super::{Gate, GateError, now};
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Key, ObjectStore, Put};
use crate::store::nar_key;

/// After how many seconds a claim is a crash's leftover: no upload lasts two days.
const CLAIM_LASTS: i64 = 2 * 24 * 60 * 60;

/// After how many seconds a doom is a crash's leftover: listing a store of a million paths takes two minutes.
const DOOM_LASTS: i64 = 10 * 60;

/// Longest claim or doom that is read, in bytes: a number.
const MAX_CLAIM: u64 = 64;

/// An announcement that a stored NAR is relied on, until it is given back. One that is dropped instead, because its upload
/// failed or its uploader has gone, is given back behind the scenes.
pub(super) struct NarClaim {
    key: Key,
    /// Where it is; none once it was given back.
    objects: Option<Arc<dyn ObjectStore>>,
}

impl Drop for NarClaim {
    fn drop(&mut self) {
        let (Some(objects), Ok(runtime)) = (self.objects.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let key = self.key.clone();
        runtime.spawn(async move {
            if let Ok(Some(found)) = objects.head(&key).await {
                // What stays after all is a leftover in two days.
                let _gone = objects.delete(&key, &found.etag).await;
            }
        });
    }
}

impl Gate {
    /// Relies on a stored NAR, if there is one that nobody is about to delete.
    pub(super) async fn claim_nar(&self, nar_hash: &NarHash) -> Result<Option<NarClaim>, GateError> {
        let objects = self.cache.objects();
        if objects.head(&nar_key(nar_hash)).await?.is_none() {
            return Ok(None);
        }
        let key = key(format!("quorum/claims/{}/{}", nar_hash.to_nix32(), nonce()));
        let text = now().as_unix().to_string();
        objects.publish(vec![Draft::of_bytes(key.clone(), Condition::Absent, text)]).await?;
        let claim = NarClaim { key, objects: Some(objects.clone()) };
        if self.is_going(nar_hash).await? {
            self.give_back(claim).await?;
            return Ok(None);
        }
        Ok(Some(claim))
    }

    /// Gives a claim back: the path that needed the NAR is visible, or is not going to be.
    pub(super) async fn give_back(&self, mut claim: NarClaim) -> Result<(), GateError> {
        self.remove(&claim.key).await?;
        claim.objects = None;
        Ok(())
    }

    /// Deletes a NAR unless somebody needs it: a path, which `needed` finds out after the announcement, or an upload.
    pub(super) async fn delete_nar(
        &self,
        nar_hash: &NarHash,
        needed: impl AsyncFnOnce() -> Result<bool, GateError>,
    ) -> Result<u64, GateError> {
        let objects = self.cache.objects();
        let Some(found) = objects.head(&nar_key(nar_hash)).await? else {
            return Ok(0);
        };
        if let Some(doom) = objects.get(&doom_key(nar_hash), MAX_CLAIM).await?
            && is_older(&doom.bytes, DOOM_LASTS)
        {
            objects.delete(&doom_key(nar_hash), &doom.etag).await?;
        }
        let doom = vec![Draft::of_bytes(doom_key(nar_hash), Condition::Absent, now().as_unix().to_string())];
        let announced = objects.publish(doom).await?;
        let mut freed = 0;
        if !needed().await? && !self.is_claimed(nar_hash).await? {
            // The version that was there before the announcement: one that came since is somebody's.
            if objects.delete(&nar_key(nar_hash), &found.etag).await? {
                freed = found.size;
            }
        }
        if announced.iter().all(|put| matches!(put, Put::Stored(_))) {
            self.remove(&doom_key(nar_hash)).await?;
        }
        Ok(freed)
    }

    /// Says whether a NAR is gone, or announced to be going.
    pub(super) async fn is_going(&self, nar_hash: &NarHash) -> Result<bool, GateError> {
        let gone = self.cache.objects().head(&nar_key(nar_hash)).await?.is_none();
        Ok(gone || self.is_doomed(nar_hash).await?)
    }

    async fn is_doomed(&self, nar_hash: &NarHash) -> Result<bool, GateError> {
        let doom = self.cache.objects().get(&doom_key(nar_hash), MAX_CLAIM).await?;
        Ok(doom.is_some_and(|doom| !is_older(&doom.bytes, DOOM_LASTS)))
    }

    async fn is_claimed(&self, nar_hash: &NarHash) -> Result<bool, GateError> {
        let folder = format!("quorum/claims/{}/", nar_hash.to_nix32());
        let objects = self.cache.objects();
        let mut pages = objects.list(&folder).await?;
        while let Some(page) = pages.next().await? {
            for entry in page {
                let Some(key) = Key::new(format!("{folder}{}", entry.name)) else {
                    continue;
                };
                let Some(claim) = objects.get(&key, MAX_CLAIM).await? else {
                    continue;
                };
                if !is_older(&claim.bytes, CLAIM_LASTS) {
                    return Ok(true);
                }
                objects.delete(&key, &claim.etag).await?;
            }
        }
        Ok(false)
    }
}

/// Says whether an announcement was made so many seconds ago; one that cannot be read was not.
fn is_older(announcement: &[u8], seconds: i64) -> bool {
    let made: Option<i64> = std::str::from_utf8(announcement).ok().and_then(|text| text.parse().ok());
    made.is_some_and(|made| made < now().as_unix() - seconds)
}

fn doom_key(nar_hash: &NarHash) -> Key {
    key(format!("quorum/doomed/{}", nar_hash.to_nix32()))
}

fn key(text: String) -> Key {
    Key::new(text).expect("hashes and nonces are made of a key's characters")
}
