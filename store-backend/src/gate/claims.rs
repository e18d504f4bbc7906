//! Who still needs a NAR: how an upload that relies on a stored NAR, and a deletion of it, find out about each other.
//!
//! Both announce first and then look. An upload puts a claim and then looks for a doom; a deletion puts a doom and then looks
//! for claims. Whichever order their writes have, at least one of them sees the other, and backs off.

use verifier::{NarHash, Timestamp};

use super::{Gate, GateError, now};
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Key, Put};
use crate::store::nar_key;

/// After how many seconds a claim is a crash's leftover: no upload lasts two days.
const CLAIM_LASTS: i64 = 2 * 24 * 60 * 60;

/// Longest claim that is read, in bytes: a number.
const MAX_CLAIM: u64 = 64;

/// An announcement that a stored NAR is relied on. It has to be given back.
#[derive(Debug)]
pub(super) struct NarClaim(Key);

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
        let claim = NarClaim(key);
        let doomed = objects.head(&doom_key(nar_hash)).await?.is_some();
        if doomed || objects.head(&nar_key(nar_hash)).await?.is_none() {
            self.give_back(claim).await?;
            return Ok(None);
        }
        Ok(Some(claim))
    }

    /// Gives a claim back: the path that needed the NAR is visible, or is not going to be.
    pub(super) async fn give_back(&self, claim: NarClaim) -> Result<(), GateError> {
        self.remove(&claim.0).await?;
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
                let made = std::str::from_utf8(&claim.bytes).ok().and_then(|text| text.parse().ok());
                let old = made.is_some_and(|made| {
                    Timestamp::from_unix(made) < Timestamp::from_unix(now().as_unix() - CLAIM_LASTS)
                });
                if !old {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn doom_key(nar_hash: &NarHash) -> Key {
    key(format!("quorum/doomed/{}", nar_hash.to_nix32()))
}

fn key(text: String) -> Key {
    Key::new(text).expect("hashes and nonces are made of a key's characters")
}
