//! Making paths visible: what was taken in is judged again, stored, shown, and looked at once more.

use std::collections::HashSet;
use std::sync::Arc;

use verifier::{Evidence, Fingerprint, PathInfo, StorePath};

use super::admission::{ATTEMPTS, Admissible, Publication, Purpose};
use super::claims::NarClaim;
use super::verified::{Luggage, Verified};
use super::{Gate, GateError, Uploader, now};
use crate::object::{Condition, Content, Draft, Etag, Put};
use crate::store::{FileFacts, Record, State, nar_key, narinfo_key, record_key};

/// What is known of a path on its way through a batch.
pub(super) struct Offered {
    pub(super) info: PathInfo,
    pub(super) fingerprint: Fingerprint,
    /// The object that has these bytes already, and the claim that keeps it from being deleted.
    pub(super) existing: Option<(FileFacts, NarClaim)>,
    /// The narinfo of another fingerprint that is no longer admitted, which this one may replace.
    pub(super) replaces: Option<Etag>,
}

/// A path whose bytes have come and are right.
pub(super) struct Ready {
    pub(super) offered: Offered,
    pub(super) verified: Verified,
    pub(super) luggage: Luggage,
}

/// Makes paths visible on behalf of an uploader.
pub(super) struct Commit {
    pub(super) gate: Arc<Gate>,
    pub(super) uploader: Uploader,
}

impl Commit {
    /// Makes what is ready visible: NARs and evidence first, then, once they are on disk, the narinfos in order. What cannot
    /// be admitted after all is left out, and with it what refers to it.
    pub(super) async fn run(self, ready: Vec<Ready>) -> Result<(), GateError> {
        let gate = &self.gate;
        let _no_deletion = gate.order.read().await;
        let mut failed = None;
        let mut prepared = Vec::new();
        let mut here = HashSet::new();
        for ready in ready {
            let path = ready.offered.info.path.clone();
            match self.prepare(ready, &here).await {
                Ok(ready) => {
                    here.insert(path);
                    prepared.push(ready);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.store(&mut prepared).await?;
        self.show(&prepared, &here).await?;
        self.look_again(&prepared, &here).await?;
        for prepared in prepared {
            if let Some((_, claim)) = prepared.offered.existing {
                gate.give_back(claim).await?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Judges a path again, now that its bytes are known to be right, and writes down what will be kept of it.
    async fn prepare(&self, ready: Ready, here: &HashSet<StorePath>) -> Result<Prepared, GateError> {
        let gate = &self.gate;
        let Ready { offered, verified, luggage } = ready;
        let evidence = gate.weigh_claims(&offered.fingerprint, offered.info.signatures.iter());
        let stored = gate.cache.record(&offered.info.path, &offered.fingerprint.digest()).await?;
        let (mut record, condition) = match stored {
            Some((mut record, etag)) => {
                record.nar = verified.nar().clone();
                (record, Condition::Matches(etag))
            }
            None => {
                let state = State::Admitted { since: now() };
                (Record::new(offered.info.clone(), state, verified.nar().clone()), Condition::Absent)
            }
        };
        gate.merge(&mut record, &evidence, now(), &self.uploader.0);
        gate.countersign(&mut record);
        let mut prepared = Prepared { offered, verified, luggage, record, condition, evidence };
        prepared.record = self.judge(&prepared, here).await?.record().clone();
        Ok(prepared)
    }

    async fn judge(&self, prepared: &Prepared, here: &HashSet<StorePath>) -> Result<Admissible, GateError> {
        let gate = &self.gate;
        let mut absent = gate.absent_references(&prepared.record).await?;
        absent.retain(|reference| !here.contains(reference));
        let policy = gate.policy();
        let (verified, record) = (&prepared.verified, prepared.record.clone());
        Admissible::judge(Purpose::Admit, verified, record, &policy, gate.cache.store_dir(), &absent)
    }

    /// Puts NARs and evidence where they belong. None of it is visible without a narinfo.
    async fn store(&self, prepared: &mut [Prepared]) -> Result<(), GateError> {
        let gate = &self.gate;
        let mut drafts = Vec::new();
        let mut whose = Vec::new();
        for (index, prepared) in prepared.iter_mut().enumerate() {
            if let Some(upload) = prepared.luggage.upload.take() {
                let key = nar_key(&prepared.offered.info.nar_hash);
                drafts.push(Draft { key, condition: Condition::Absent, content: Content::Upload(upload) });
                whose.push((index, Part::Nar));
            }
        }
        for (index, prepared) in prepared.iter().enumerate() {
            let key = record_key(&prepared.offered.info.path, &prepared.offered.fingerprint.digest());
            drafts.push(Draft::of_bytes(key, prepared.condition.clone(), prepared.record.to_bytes()));
            whose.push((index, Part::Evidence));
        }
        let puts = gate.cache.objects().publish(drafts).await?;
        for (put, (index, part)) in puts.into_iter().zip(whose) {
            let prepared = &mut prepared[index];
            match (put, part) {
                (Put::Stored(_), _) => {}
                // The same bytes are there already; how another gate compressed them only matters to the narinfo.
                (Put::Refused, Part::Nar) => {
                    let Some((facts, claim)) = gate.claim_existing(&prepared.offered.info).await? else {
                        let path = gate.cache.store_dir().render_path(&prepared.offered.info.path);
                        return Err(GateError::Contended(format!("the NAR of {path}")));
                    };
                    if facts.file_size != prepared.record.nar.file.file_size {
                        prepared.record.nar.file = facts.clone();
                    }
                    prepared.offered.existing = Some((facts, claim));
                }
                (Put::Refused, Part::Evidence) => {
                    let path = &prepared.offered.info.path;
                    let merged = gate.merge_stored(path, &prepared.evidence, &self.uploader.0).await?;
                    let gone = || GateError::Contended(gate.cache.store_dir().render_path(path));
                    prepared.record = merged.ok_or_else(gone)?;
                }
            }
        }
        Ok(())
    }

    /// Looks once more, now that all can see these paths, whether what they refer to is still there: another gate may have
    /// deleted it meanwhile. It looks too, after it deletes, so at least one of the two backs off.
    async fn look_again(&self, prepared_all: &[Prepared], here: &HashSet<StorePath>) -> Result<(), GateError> {
        let gate = &self.gate;
        let mut present = HashSet::new();
        for prepared in prepared_all {
            let info = &prepared.offered.info;
            // What this upload stored itself it did not claim: a deletion of another path with the same bytes may have
            // announced that it takes them before it could see this one.
            if prepared.offered.existing.is_none() && gate.is_going(&info.nar_hash).await? {
                self.withdraw_all(prepared_all).await?;
                return Err(GateError::Contended(format!(
                    "the NAR of {}",
                    gate.cache.store_dir().render_path(&info.path)
                )));
            }
            for reference in info.other_references() {
                if here.contains(reference) || present.contains(reference) {
                    continue;
                }
                if gate.cache.objects().head(&narinfo_key(reference)).await?.is_none() {
                    self.withdraw_all(prepared_all).await?;
                    return Err(GateError::not_valid(gate.cache.store_dir(), reference));
                }
                present.insert(reference.clone());
            }
        }
        Ok(())
    }

    /// Withdraws what was just shown: last first, so that nothing visible refers to what is not.
    async fn withdraw_all(&self, prepared: &[Prepared]) -> Result<(), GateError> {
        for prepared in prepared.iter().rev() {
            self.gate.withdraw(&prepared.offered.info.path).await?;
        }
        Ok(())
    }

    /// Publishes the narinfos, judging once more if the policy changed on the way.
    async fn show(&self, prepared: &[Prepared], here: &HashSet<StorePath>) -> Result<(), GateError> {
        let mut attempt = 1;
        loop {
            let mut publications = Vec::with_capacity(prepared.len());
            for prepared in prepared {
                publications.push(Publication {
                    admissible: self.judge(prepared, here).await?,
                    listing: prepared.luggage.listing.clone(),
                    replaces: prepared.offered.replaces.clone(),
                });
            }
            match self.gate.publish(publications).await {
                Err(GateError::Contended(_)) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }
}

/// A path that is ready to be stored and shown.
struct Prepared {
    offered: Offered,
    verified: Verified,
    luggage: Luggage,
    record: Record,
    condition: Condition,
    evidence: Evidence,
}

enum Part {
    Nar,
    Evidence,
}
