//! Uploads: path infos are judged before their bytes, bytes while they arrive, and a batch becomes visible together.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use policy::{Address, Subject, Verdict};
use tokio::task::JoinHandle;
use verifier::{Claim, Evidence, Fingerprint, PathInfo, StorePath};

use super::admission::{ATTEMPTS, Admissible, MAX_SIGNATURES, Publication, describe, refused};
use super::claims::NarClaim;
use super::intake::{Hashed, Intake, IntakeError, Keep, MAX_REFERENCES};
use super::verified::{Luggage, Verified, address_request};
use super::{Gate, GateError, Uploader, intake, now, strength};
use crate::object::{Condition, Content, Draft, Etag, Put};
use crate::store::{FileFacts, Record, State, nar_key, narinfo_key, record_key};

/// Paths whose bytes are in the works at once: while one is compressed, the next arrives.
const IN_FLIGHT: usize = 3;

/// Paths that wait to become visible together; they share two syncs of the disk.
const BATCH: usize = 256;

/// Bytes of listings that wait with them.
const BATCH_LISTINGS: usize = 8 << 20;

/// What becomes of a path that is offered.
pub enum Offer {
    /// It is admitted already, and its signatures were added to those that are kept: its bytes are not needed.
    Known,
    /// Its bytes are wanted.
    Wanted(Box<Wanted>),
}

/// A path whose bytes are wanted.
pub struct Wanted {
    offered: Offered,
    intake: Intake,
}

impl Wanted {
    /// Takes the next bytes. After the bytes turned out to be of no use, more of them are ignored.
    pub async fn feed(&mut self, chunk: Bytes) {
        let _told_when_accepted: intake::Wanted = self.intake.feed(chunk).await;
    }
}

/// What is known of a path on its way through a batch.
struct Offered {
    info: PathInfo,
    fingerprint: Fingerprint,
    /// The object that has these bytes already, and the claim that keeps it from being deleted.
    existing: Option<(FileFacts, NarClaim)>,
    /// The narinfo of another fingerprint that is no longer admitted, which this one may replace.
    replaces: Option<Etag>,
}

struct Ready {
    offered: Offered,
    verified: Verified,
    luggage: Luggage,
}

/// An upload of one path or many, references first.
///
/// What is complete becomes visible in the order in which it came. A batch that is dropped leaves nothing of what was not
/// committed.
pub struct Batch {
    gate: Arc<Gate>,
    uploader: Uploader,
    in_flight: VecDeque<(Offered, JoinHandle<Result<Hashed, IntakeError>>)>,
    ready: Vec<Ready>,
    announced: HashSet<StorePath>,
}

impl Batch {
    /// Starts a batch.
    #[must_use]
    pub fn new(gate: Arc<Gate>, uploader: Uploader) -> Self {
        let (in_flight, ready, announced) = (VecDeque::new(), Vec::new(), HashSet::new());
        Self { gate, uploader, in_flight, ready, announced }
    }

    /// Offers a path, before its bytes: a refusal costs nobody more than its path info.
    ///
    /// # Errors
    /// [`GateError::Refused`] with what is missing, or another reason why the path cannot be taken.
    pub async fn offer(&mut self, info: PathInfo) -> Result<Offer, GateError> {
        let gate = self.gate.clone();
        let store_dir = gate.cache.store_dir();
        let rendered = store_dir.render_path(&info.path);
        let unacceptable = |why: String| GateError::Unacceptable { path: rendered.clone(), why };
        if info.references.len() > MAX_REFERENCES {
            return Err(unacceptable(format!("it has {} references, over {MAX_REFERENCES}", info.references.len())));
        }
        if info.signatures.len() > MAX_SIGNATURES {
            return Err(unacceptable(format!("it has {} signatures, over {MAX_SIGNATURES}", info.signatures.len())));
        }
        let fingerprint = info.fingerprint(store_dir).map_err(|error| unacceptable(error.to_string()))?;
        if self.announced.contains(&info.path) {
            self.settle().await?;
            self.commit().await?;
        }
        let replaces = match self.known(&info, &fingerprint).await? {
            Present::Merged => return Ok(Offer::Known),
            Present::Absent(replaces) => replaces,
        };
        self.judge_offer(&info, &fingerprint).await?;
        let existing = gate.claim_existing(&info).await?;
        let keep = if existing.is_some() { Keep::Nothing } else { Keep::Bytes };
        let request = address_request(&info);
        let intake = Intake::start(gate.cache.objects(), Some(info.nar_size), request, keep).await?;
        self.announced.insert(info.path.clone());
        Ok(Offer::Wanted(Box::new(Wanted { offered: Offered { info, fingerprint, existing, replaces }, intake })))
    }

    /// Takes a path whose bytes have all come. They may still be in the works when this returns.
    ///
    /// # Errors
    /// When the bytes of this or an earlier path are not what they should be, or the store fails.
    pub async fn accept(&mut self, wanted: Wanted) -> Result<(), GateError> {
        let Wanted { offered, intake } = wanted;
        self.in_flight.push_back((offered, intake.finish()));
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle_one().await?;
        }
        let listings: usize = self.ready.iter().filter_map(|ready| ready.luggage.listing.as_ref()).map(Vec::len).sum();
        if self.ready.len() >= BATCH || listings >= BATCH_LISTINGS {
            self.commit().await?;
        }
        Ok(())
    }

    /// Takes a path whose bytes were hashed before their path was known.
    pub(super) async fn accept_hashed(&mut self, info: PathInfo, hashed: Hashed) -> Result<(), GateError> {
        let store_dir = self.gate.cache.store_dir();
        let fingerprint = info.fingerprint(store_dir).map_err(|error| GateError::Unacceptable {
            path: store_dir.render_path(&info.path),
            why: error.to_string(),
        })?;
        let replaces = match self.known(&info, &fingerprint).await? {
            Present::Merged => return Ok(()),
            Present::Absent(replaces) => replaces,
        };
        self.judge_offer(&info, &fingerprint).await?;
        let existing = self.gate.claim_existing(&info).await?;
        let facts = existing.as_ref().map(|(facts, _)| facts.clone());
        let (verified, luggage) = Verified::compare(store_dir, info.clone(), hashed, facts)?;
        self.ready.push(Ready { offered: Offered { info, fingerprint, existing, replaces }, verified, luggage });
        Ok(())
    }

    /// Makes everything visible whose bytes have come and are right. When this returns, it is also on disk.
    ///
    /// # Errors
    /// The first reason why something could not be admitted; what came before it is.
    pub async fn finish(mut self) -> Result<(), GateError> {
        let settled = self.settle().await;
        self.commit().await?;
        settled
    }

    /// Finds out whether the store has this path already.
    async fn known(&self, info: &PathInfo, fingerprint: &Fingerprint) -> Result<Present, GateError> {
        let gate = &self.gate;
        let store_dir = gate.cache.store_dir();
        let Some(narinfo) = gate.cache.narinfo(&crate::store::hash_part_of(&info.path)).await? else {
            return Ok(Present::Absent(None));
        };
        if narinfo.info.fingerprint(store_dir).ok().as_ref() != Some(fingerprint) {
            return if gate.view().is_valid(&narinfo.info.path).await? {
                Err(GateError::Conflict {
                    path: store_dir.render_path(&info.path),
                    admitted: describe(&narinfo.info),
                    offered: describe(info),
                })
            } else {
                Ok(Present::Absent(Some(narinfo.etag)))
            };
        }
        let evidence = gate.weigh_claims(fingerprint, info.signatures.iter());
        if gate.merge_stored(&info.path, &evidence, &self.uploader.0).await?.is_none() {
            return Ok(Present::Absent(Some(narinfo.etag)));
        }
        // What the policy no longer admits may be admitted again by what was just added; if it still falls short, the
        // judgement says what is lacking.
        gate.refresh(&info.path, fingerprint).await?;
        if gate.view().is_valid(&info.path).await? {
            return Ok(Present::Merged);
        }
        Ok(Present::Absent(Some(narinfo.etag)))
    }

    /// Decides on a path by what is said of it, before its bytes.
    async fn judge_offer(&self, info: &PathInfo, fingerprint: &Fingerprint) -> Result<(), GateError> {
        let gate = &self.gate;
        let store_dir = gate.cache.store_dir();
        let address = match &info.content_address {
            None => Address::None,
            Some(address) => {
                address.check_path(store_dir, info).map_err(|error| GateError::FalseAddress {
                    path: store_dir.render_path(&info.path),
                    why: error.to_string(),
                })?;
                Address::Claimed(strength(address))
            }
        };
        let kept = gate.cache.record(&info.path, &fingerprint.digest()).await?.map(|(record, _)| record);
        let policy = gate.policy();
        let claims = info.signatures.iter().map(|text| Claim { text, first_seen: None });
        let claims = kept.iter().flat_map(Record::claims).chain(claims);
        let evidence = Evidence::weigh(fingerprint.clone(), claims, policy.keyring(), now());
        let mut absent = Vec::new();
        for reference in info.other_references() {
            if !self.announced.contains(reference) && !gate.view().is_valid(reference).await? {
                absent.push(reference.clone());
            }
        }
        let subject = Subject { path: &info.path, evidence: &evidence, address, absent_references: &absent };
        let decision = policy.decide(&subject, now());
        if decision.verdict() == Verdict::Admit { Ok(()) } else { Err(refused(store_dir, &info.path, decision)) }
    }

    async fn settle(&mut self) -> Result<(), GateError> {
        while !self.in_flight.is_empty() {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits for the oldest path in the works.
    async fn settle_one(&mut self) -> Result<(), GateError> {
        let Some((offered, work)) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let store_dir = self.gate.cache.store_dir();
        let hashed = work.await.map_err(crate::object::ObjectError::from)?.map_err(|error| match error {
            IntakeError::Nar(source) => GateError::Nar { path: store_dir.render_path(&offered.info.path), source },
            IntakeError::Object(error) => error.into(),
        })?;
        let facts = offered.existing.as_ref().map(|(facts, _)| facts.clone());
        let (verified, luggage) = Verified::compare(store_dir, offered.info.clone(), hashed, facts)?;
        self.ready.push(Ready { offered, verified, luggage });
        Ok(())
    }

    /// Makes what is ready visible: NARs and evidence first, then, once they are on disk, the narinfos in order. What cannot
    /// be admitted after all is left out, and with it what refers to it.
    async fn commit(&mut self) -> Result<(), GateError> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let gate = self.gate.clone();
        let _no_deletion = gate.order.read().await;
        let mut failed = None;
        let mut prepared = Vec::new();
        let mut here = HashSet::new();
        for ready in std::mem::take(&mut self.ready) {
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
        self.announced.clear();
        self.announced.extend(self.in_flight.iter().map(|(offered, _)| offered.info.path.clone()));
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
        Admissible::judge(&prepared.verified, prepared.record.clone(), &policy, gate.cache.store_dir(), &absent)
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
            for reference in prepared.offered.info.other_references() {
                if here.contains(reference) || present.contains(reference) {
                    continue;
                }
                if gate.cache.objects().head(&narinfo_key(reference)).await?.is_none() {
                    // Last first, so that nothing visible refers to what is not.
                    for prepared in prepared_all.iter().rev() {
                        gate.withdraw(&prepared.offered.info.path).await?;
                    }
                    return Err(GateError::not_valid(gate.cache.store_dir(), reference));
                }
                present.insert(reference.clone());
            }
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

enum Present {
    Merged,
    Absent(Option<Etag>),
}

impl Gate {
    /// Weighs signatures that this moment brings.
    pub(super) fn weigh_claims<'a>(
        &self,
        fingerprint: &Fingerprint,
        texts: impl Iterator<Item = &'a String>,
    ) -> Evidence {
        let claims = texts.map(|text| Claim { text, first_seen: None });
        Evidence::weigh(fingerprint.clone(), claims, self.policy().keyring(), now())
    }

    /// Describes the object that has a path's bytes, if there is one, and claims it. Such an object is written only after its
    /// hash was checked.
    async fn claim_existing(&self, info: &PathInfo) -> Result<Option<(FileFacts, NarClaim)>, GateError> {
        let Some(claim) = self.claim_nar(&info.nar_hash).await? else {
            return Ok(None);
        };
        let size = self.cache.nar_file_size(&info.nar_hash).await?;
        Ok(size.map(|file_size| (FileFacts { file_hash: None, file_size }, claim)))
    }
}
