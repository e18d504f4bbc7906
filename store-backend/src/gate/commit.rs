//! Making paths visible: what was taken in is announced, judged again, stored and shown.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use policy::{Decision, OnConflict, Verdict};
use verifier::{Fingerprint, FingerprintDigest, PathInfo, StorePath};

use super::admission::Publication;
use super::announcement::{Announcement, Touched, announce_upload};
use super::error::first_failure;
use super::staging::{Holding, Reservation};
use super::verified::{Luggage, Verified};
use super::{Gate, GateError, Sight, Uploader};
use crate::clock::now;
use crate::object::{Condition, Etag, Version};
use crate::store::{FileFacts, Record, State};

/// Records that are read at once.
const AT_ONCE: usize = 32;

/// What is known of a path on its way through a batch.
pub(super) struct Offered {
    pub(super) info: PathInfo,
    pub(super) fingerprint: Fingerprint,
    /// The object that had these bytes already when they were offered.
    pub(super) existing: Option<FileFacts>,
    /// The narinfo of another fingerprint that is no longer admitted, which this one may replace.
    pub(super) replaces: Option<Etag>,
    /// The NAR's object, if it is not what was once written.
    pub(super) damaged: Option<Etag>,
    /// Whether there is evidence of it, on which the decision rests.
    pub(super) kept: bool,
    /// Its room in staging, if it is to be held.
    pub(super) reservation: Option<Reservation>,
}

/// A path whose bytes have come and are right.
pub(super) struct Ready {
    pub(super) offered: Offered,
    pub(super) verified: Verified,
    pub(super) luggage: Luggage,
}

impl Ready {
    /// Returns how many bytes of memory what came with it takes now.
    pub(super) fn memory(&self) -> usize {
        let listing = self.luggage.listing.as_ref().map_or(0, Vec::len);
        listing + self.luggage.upload.as_ref().map_or(0, |upload| upload.held())
    }
}

/// Makes paths visible on behalf of an uploader.
pub(super) struct Commit {
    pub(super) gate: Arc<Gate>,
    pub(super) uploader: Uploader,
    /// Whether what falls short is held.
    pub(super) sight: Sight,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Committed {
    /// How many paths are held.
    pub held: usize,
    /// Why the first of them is, in one line.
    pub first: Option<String>,
}

impl Committed {
    pub(super) fn add(&mut self, next: Self) {
        self.held += next.held;
        self.first = self.first.take().or(next.first);
    }
}

impl Commit {
    /// Makes what is ready visible: in one order NARs, evidence and narinfos, once their contents are on disk. What cannot be
    /// admitted after all is held where that is wanted; otherwise it is left out, and with it what refers to it.
    pub(super) async fn run(self, ready: Vec<Ready>) -> Result<Committed, GateError> {
        let mut touched = Touched::default();
        for Ready { offered, .. } in &ready {
            touched.add_path(&offered.info.path);
            offered.info.other_references().for_each(|path| touched.add_path(path));
            touched.add_nar(&offered.info.nar_hash);
        }
        let announcement = announce_upload(self.gate.cache.objects(), &touched).await?;
        let paths: HashSet<StorePath> = ready.iter().map(|ready| ready.offered.info.path.clone()).collect();
        let mut held = Vec::new();
        let outcome = announcement.keep(self.commit(ready, &announcement, &mut held)).await;
        let outcome = announcement.end(outcome).await;
        // Some of it may be there even where something failed, and have been waited for.
        let promoted = self.gate.promote_after(paths, &self.uploader.0).await;
        outcome?;
        let store_dir = self.gate.cache.store_dir();
        held.retain(|(path, _, _)| !promoted.admitted.contains(path));
        let first = held.first().map(|(path, fingerprint, decision)| {
            promoted.short.get(fingerprint).unwrap_or(decision).held_summary(&store_dir.render_path(path))
        });
        Ok(Committed { held: held.len(), first })
    }

    /// Does the work of [`Self::run`] while it is announced. What is held is in `held` even where something else failed.
    async fn commit(
        &self,
        ready: Vec<Ready>,
        announcement: &Announcement,
        held: &mut Vec<(StorePath, FingerprintDigest, Decision)>,
    ) -> Result<(), GateError> {
        if self.sight == Sight::Staging || self.gate.policy().on_conflict() == OnConflict::Hold {
            self.gate.staging.shelf.look().await?;
        }
        let mut here = self.references_elsewhere(ready.iter().map(|ready| &ready.offered.info)).await?;
        let mut failed = None;
        let (mut prepared, mut holdings, mut reservations) = (Vec::new(), Vec::new(), Vec::new());
        let stored: Vec<_> = stream::iter(ready.iter().map(|ready| self.stored(ready)).collect::<Vec<_>>())
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (mut ready, stored) in ready.into_iter().zip(stored) {
            let path = ready.offered.info.path.clone();
            // Room is given back when all of the batch is written, and the notes can be counted.
            reservations.extend(ready.offered.reservation.take());
            match self.prepare(ready, stored, &here).await {
                Ok(Preparation::Admissible(ready)) => {
                    here.insert(path);
                    prepared.push(*ready);
                }
                Ok(Preparation::Short(holding)) => {
                    held.push((path, holding.offered.fingerprint.digest(), holding.short.decision.clone()));
                    holdings.push(*holding);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        announcement.holds()?;
        let published = self.publish(prepared).await;
        let held = self.gate.hold(holdings, &self.uploader.0).await;
        first_failure([published, held, failed.map_or(Ok(()), Err)])
    }

    /// Returns the valid ones of the paths that a batch refers to outside of itself. While it is announced, none of them goes.
    async fn references_elsewhere(
        &self,
        batch: impl Iterator<Item = &PathInfo> + Clone,
    ) -> Result<HashSet<StorePath>, GateError> {
        let own: HashSet<&StorePath> = batch.clone().map(|info| &info.path).collect();
        let others: BTreeSet<&StorePath> = batch.flat_map(PathInfo::other_references).collect();
        let others: Vec<StorePath> = others.into_iter().filter(|path| !own.contains(path)).cloned().collect();
        Ok(self.gate.view().valid_among(&others).await?.into_iter().collect())
    }

    /// Returns what is kept of a path already. Where there was no narinfo, and nothing is held, there is hardly any evidence: a
    /// crash's leftover, which is found when it is written.
    async fn stored(&self, ready: &Ready) -> Result<Option<(Record, Version)>, GateError> {
        let Offered { info, fingerprint, replaces, kept, .. } = &ready.offered;
        let noted = self.sight == Sight::Staging && !self.gate.staging.shelf.of(&info.path).is_empty();
        if replaces.is_none() && !kept && !noted {
            return Ok(None);
        }
        Ok(self.gate.cache.record(&info.path, &fingerprint.digest()).await?)
    }

    /// Judges a path again, now that its bytes are known to be right and nobody deletes what it rests on, and writes down what
    /// will be kept of it.
    async fn prepare(
        &self,
        ready: Ready,
        stored: Option<(Record, Version)>,
        here: &HashSet<StorePath>,
    ) -> Result<Preparation, GateError> {
        let gate = &self.gate;
        let Ready { offered, verified, luggage } = ready;
        if luggage.upload.is_none() && gate.existing_nar(&offered.info).await?.is_none() {
            let path = gate.cache.store_dir().render_path(&offered.info.path);
            return Err(GateError::Crossed(format!("the NAR of {path} was there, and was deleted during the upload")));
        }
        let brought = gate.weigh_claims(&offered.fingerprint, offered.info.signatures.iter());
        let known = stored.is_some();
        let (mut record, condition) = match stored {
            Some((mut record, version)) => {
                record.read_again(verified.info(), verified.nar().clone());
                (record, Condition::Matches(version.etag))
            }
            None => {
                let state = State::Admitted { since: now() };
                (Record::new(offered.info.clone(), state, verified.nar().clone()), Condition::Absent)
            }
        };
        gate.merge(&mut record, &brought, now(), &self.uploader.0);
        let admissible = match gate.judge_now(&verified, record, |path| here.contains(path)).await? {
            Ok(admissible) => admissible,
            Err(short) if self.holds(&short.decision) => {
                let short = *short;
                if let Some(shown) = gate.shown_otherwise(&offered.info.path, &offered.fingerprint).await? {
                    return Err(gate.conflict(&shown, &offered.info, &brought, &self.uploader.0).await?);
                }
                // What could never be shown is not held either.
                gate.cache.project(&short.record)?;
                return Ok(Preparation::Short(Box::new(Holding { offered, luggage, brought, short, known })));
            }
            Err(short) => {
                gate.note_refusal(&short.decision);
                return Err(short.refused(gate.cache.store_dir()));
            }
        };
        let Offered { replaces, damaged, .. } = offered;
        let publication = Publication { admissible, condition, brought, luggage, replaces, damaged };
        Ok(Preparation::Admissible(Box::new(Prepared { verified, publication })))
    }

    /// Says whether what a decision is about is held: somebody's word counts for it.
    fn holds(&self, decision: &Decision) -> bool {
        self.sight == Sight::Staging && is_holdable(decision)
    }

    /// Publishes what is prepared, judged by the policy of now.
    async fn publish(&self, mut prepared: Vec<Prepared>) -> Result<(), GateError> {
        let policy = self.gate.policy();
        if !prepared.iter().all(|prepared| prepared.publication.admissible.is_by(&policy)) {
            let infos = prepared.iter().map(|prepared| prepared.publication.admissible.record().info());
            let mut here = self.references_elsewhere(infos).await?;
            for Prepared { verified, publication } in &mut prepared {
                let record = publication.admissible.record().clone();
                here.insert(record.info().path.clone());
                let judged = self.gate.judge_now(verified, record, |path| here.contains(path)).await?;
                publication.admissible = judged.map_err(|short| short.refused(self.gate.cache.store_dir()))?;
            }
        }
        let publications = prepared.into_iter().map(|prepared| prepared.publication).collect();
        self.gate.publish(publications, &self.uploader.0).await
    }
}

/// Says whether what falls short is held where anything is: somebody's word counts for it, and what is lacking may come.
pub(super) fn is_holdable(decision: &Decision) -> bool {
    decision.verdict() == Verdict::Hold && !decision.signers().is_empty()
}

/// What became of a path that was judged.
enum Preparation {
    Admissible(Box<Prepared>),
    Short(Box<Holding>),
}

/// A path that is judged and ready to be stored and shown.
struct Prepared {
    verified: Verified,
    publication: Publication,
}
