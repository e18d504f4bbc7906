//! Looking after staging: what a person gives up, what has waited for too long, and what can be admitted since something has
//! changed that nobody brought.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use verifier::{FingerprintDigest, StorePath};

use super::admission::ATTEMPTS;
use super::announcement::{Announcement, Touched, announce_deletion};
use super::candidates::Place;
use super::decisions::{Event, Named};
use super::promotion::Depth;
use super::{Gate, GateError};
use crate::clock::now;
use crate::object::Key;
use crate::store::record_key;

/// Candidates that are given up under one announcement.
const AT_A_TIME: usize = 256;

impl Gate {
    /// Gives up a candidate, with its NAR if nothing else has it.
    ///
    /// # Errors
    /// [`GateError::NotHeld`] when there is none, [`GateError::Crossed`] when it is being uploaded or admitted.
    pub async fn drop_candidate(
        &self,
        path: &StorePath,
        fingerprint: &FingerprintDigest,
        reason: &str,
        by: &str,
    ) -> Result<(), GateError> {
        match self.drop_candidates(&[(path.clone(), *fingerprint)], reason, by).await? {
            0 => Err(GateError::NotHeld(self.cache.store_dir().render_path(path))),
            _ => Ok(()),
        }
    }

    /// Gives up some candidates; returns how many of them there were.
    async fn drop_candidates(
        &self,
        candidates: &[(StorePath, FingerprintDigest)],
        reason: &str,
        by: &str,
    ) -> Result<usize, GateError> {
        let mut touched = Touched::default();
        self.staging.shelf.look().await?;
        for (path, fingerprint) in candidates {
            touched.add_path(path);
            if let Ok(Some((record, _))) = self.cache.record(path, fingerprint).await {
                touched.add_nar(&record.info().nar_hash);
            }
            for note in self.staging.shelf.of(path).iter().filter(|note| note.fingerprint == *fingerprint) {
                touched.add_nar(&note.nar_hash);
            }
        }
        let (announcement, uploaded) = announce_deletion(self.cache.objects(), &touched).await?;
        let dropped =
            announcement.keep(self.drop_announced(candidates, &touched, &uploaded, &announcement, reason, by)).await;
        announcement.end(dropped).await
    }

    async fn drop_announced(
        &self,
        candidates: &[(StorePath, FingerprintDigest)],
        touched: &Touched,
        uploaded: &BTreeSet<String>,
        announcement: &Announcement,
        reason: &str,
        by: &str,
    ) -> Result<usize, GateError> {
        let store_dir = self.cache.store_dir();
        self.staging.shelf.look().await?;
        let (mut notes, mut nars, mut evidence, mut events) = (Vec::new(), BTreeSet::new(), Vec::new(), Vec::new());
        for (path, fingerprint) in candidates {
            let noted = self.staging.shelf.of(path).into_iter().find(|note| note.fingerprint == *fingerprint);
            match self.cache.record(path, fingerprint).await {
                Ok(Some((record, _))) if self.place_of(&record).await? == Place::Held => {
                    let named = Named::of(record.info(), fingerprint, store_dir, by);
                    events.push(Event::Dropped { named, reason: reason.to_owned() });
                    nars.insert(record.info().nar_hash);
                    evidence.push(record_key(path, fingerprint));
                }
                // It is admitted, and its note is about to go.
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    tracing::error!(%error, "an evidence object is damaged: a person should look at it");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            // Where there is no evidence any more, somebody did not get to the end.
            if let Some(note) = noted {
                nars.insert(note.nar_hash);
                notes.push(note);
            }
        }
        let dropped = evidence.len().max(notes.len());
        if !events.is_empty() {
            self.decisions.record(&self.policy(), events).await?;
        }
        announcement.holds()?;
        for key in &evidence {
            self.remove_evidence(key).await?;
        }
        for note in &notes {
            self.staging.shelf.remove(note).await?;
            tracing::info!(path = %store_dir.render_path(&note.path), reason, by, "dropped from staging");
        }
        // Only those whose deletion was announced: of others somebody may be about to rely on them.
        nars.retain(|nar| touched.nars.contains(&nar.to_nix32()));
        self.remove_unneeded(&nars, uploaded, announcement).await?;
        Ok(dropped)
    }

    /// Deletes evidence, whoever adds signatures to it meanwhile: they go with it.
    async fn remove_evidence(&self, key: &Key) -> Result<(), GateError> {
        for _ in 0..ATTEMPTS {
            let Some(found) = self.cache.objects().head(key).await? else {
                return Ok(());
            };
            if self.cache.objects().delete(key, &found.version.etag).await? {
                return Ok(());
            }
        }
        Err(GateError::Contended(key.to_string()))
    }

    /// Admits what can be admitted, of all that is held, and gives up what was held for too long. Whoever runs a gate calls this at
    /// its start, when its policy has changed, and every now and then: a crash may have come between a path and those that
    /// waited for it, and a key's time may have begun.
    ///
    /// # Errors
    /// When the store fails; it goes on where it was when it is called again.
    pub async fn tend_staging(self: &Arc<Self>) -> Result<(), GateError> {
        self.staging.unfinished.store(false, Ordering::Relaxed);
        let tended = self.tend().await;
        if tended.is_err() {
            self.staging.note_unfinished();
        }
        tended
    }

    async fn tend(self: &Arc<Self>) -> Result<(), GateError> {
        self.staging.shelf.look().await?;
        let notes = self.staging.shelf.all();
        let seeds: HashSet<StorePath> = notes.iter().map(|note| note.path.clone()).collect();
        let promoted = self.promote(seeds, Depth::Everything, "nix-quorum").await;
        let keep = i64::try_from(self.staging.limits.keep.as_secs()).unwrap_or(i64::MAX);
        let over = notes.iter().filter(|note| note.since.as_unix().saturating_add(keep) < now().as_unix());
        let over: Vec<_> = over.map(|note| (note.path.clone(), note.fingerprint)).collect();
        let reason = format!("it was held for more than {} days", keep / (24 * 60 * 60));
        for some in over.chunks(AT_A_TIME) {
            match self.drop_candidates(some, &reason, "nix-quorum").await {
                Err(GateError::Crossed(why)) => tracing::info!(why, "what was held for too long is given up later"),
                dropped => drop(dropped?),
            }
        }
        promoted.map(drop)
    }

    /// Says whether there is something left that [`Gate::tend_staging`] should do soon.
    #[must_use]
    pub fn staging_is_unfinished(&self) -> bool {
        self.staging.unfinished.load(Ordering::Relaxed)
    }
}
