//! Admission: the judgement at the commit point, and the only code that publishes a path.

mod merging;

use std::collections::HashMap;
use std::sync::Arc;

use policy::{Code, Decision, Finding, Policy, Verdict};
use verifier::{AddressProof, Evidence, Fingerprint, PathInfo, StoreDir, StorePath};

use super::decisions::{Event, Judged};
use super::deletion::remove;
use super::verified::{Luggage, Verified};
use super::{Gate, GateError, subject_of};
use crate::clock::now;
use crate::object::{Condition, Draft, Etag, Object, Put};
use crate::store::{
    MAX_NARINFO, NarReadError, Record, State, describe_info, hash_part_of, listing_key, nar_key, narinfo_key,
    record_key,
};

/// Most signatures that are looked at in one upload.
pub const MAX_SIGNATURES: usize = 512;

/// How often a write is tried again that others' writes came before.
pub(super) const ATTEMPTS: usize = 32;

/// The right to publish one fingerprint: the verified bytes, the evidence and the policy that decided, bound together.
///
/// Only [`Admissible::judge`] makes one, and only [`Gate::publish`] takes it: what was not judged cannot be published, nor
/// can another path's judgement be used for it.
pub(super) struct Admissible {
    record: Record,
    fingerprint: Fingerprint,
    policy: Arc<Policy>,
    /// Who counted.
    signers: Vec<Arc<str>>,
}

/// What a judgement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To admit a path.
    Admit,
    /// To show more signatures of a path that is admitted: a policy that has expired takes nothing away.
    Renew,
}

/// What is judged by, besides the record.
pub(super) struct Circumstances<'a> {
    pub(super) purpose: Purpose,
    pub(super) policy: &'a Arc<Policy>,
    pub(super) store_dir: &'a StoreDir,
    /// The references that are not admitted.
    pub(super) absent: &'a [StorePath],
    /// What is held for the same path, and the best that may become of this one because of it.
    pub(super) rival: Option<(Verdict, Finding)>,
}

/// What was judged and may not be published, and why.
pub(super) struct Short {
    pub(super) record: Record,
    pub(super) decision: Decision,
}

impl Short {
    /// Makes the error that tells the uploader what the path lacks.
    pub(super) fn refused(self, store_dir: &StoreDir) -> GateError {
        refused(store_dir, &self.record.info().path, self.decision)
    }
}

impl Admissible {
    /// Judges verified bytes with the signatures that `record` holds.
    pub(super) fn judge(
        verified: &Verified,
        mut record: Record,
        circumstances: Circumstances<'_>,
    ) -> Result<Self, Box<Short>> {
        let Circumstances { purpose, policy, store_dir, absent, rival } = circumstances;
        let fingerprint = record.fingerprint(store_dir);
        let same = verified.info().fingerprint(store_dir).is_ok_and(|verified| verified == fingerprint);
        assert!(same, "a record is judged with the bytes of its own fingerprint");
        // Proven by these bytes, or by an earlier reading of the same.
        if verified.nar().address != AddressProof::None {
            assert_eq!(verified.info().content_address, record.info().content_address, "one of them is proven");
            record.nar.address = verified.nar().address;
        }
        let evidence = Evidence::weigh(fingerprint.clone(), record.claims(), policy.keyring(), now());
        let subject = subject_of(&record, &evidence, absent);
        let mut decision = match purpose {
            Purpose::Admit => policy.decide(&subject, now()),
            Purpose::Renew => policy.stands(&subject, now()),
        };
        if let Some((at_most, conflict)) = rival {
            decision = decision.limited(at_most, conflict);
        }
        if decision.verdict() != Verdict::Admit {
            return Err(Box::new(Short { record, decision }));
        }
        if !matches!(record.state, State::Admitted { .. }) {
            record.state = State::Admitted { since: now() };
        }
        Ok(Self { record, fingerprint, policy: policy.clone(), signers: decision.signers().to_vec() })
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Adds the gate's own signature, where it has a key. Nothing else gets one: a reader may trust that key alone.
    pub(super) fn countersigned(mut self, gate: &Gate) -> Self {
        gate.countersign(&mut self.record);
        self
    }

    /// Says whether this policy decided.
    pub(super) fn is_by(&self, policy: &Arc<Policy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }
}

/// Makes the error that tells the uploader what a path lacks.
pub(super) fn refused(store_dir: &StoreDir, path: &StorePath, decision: Decision) -> GateError {
    GateError::Refused { path: store_dir.render_path(path), decision: Box::new(decision.refused()) }
}

/// A path that is about to become visible.
pub(super) struct Publication {
    pub(super) admissible: Admissible,
    /// When its evidence may be written.
    pub(super) condition: Condition,
    /// The signatures that it came with, in case another gate writes its evidence first.
    pub(super) brought: Evidence,
    pub(super) luggage: Luggage,
    /// The narinfo that it takes the place of.
    pub(super) replaces: Option<Etag>,
    /// The NAR's object that it takes the place of.
    pub(super) damaged: Option<Etag>,
}

/// What a draft of a publication is, by the publication's place in its batch.
#[derive(Debug, Clone, Copy)]
enum Part {
    Nar(usize),
    Evidence(usize),
    Narinfo(usize),
    Listing,
}

impl Gate {
    /// Adds the gate's own signature to what is admitted, where it has a key.
    fn countersign(&self, record: &mut Record) -> bool {
        let Some(key) = &self.countersign else {
            return false;
        };
        let fingerprint = record.fingerprint(self.cache.store_dir());
        record.countersign(&key.sign(&fingerprint))
    }

    /// Stores admitted paths and makes them visible, in their order. Writing the narinfo is the commit point: before it nothing
    /// can be seen, after it everything can. Nothing else in this program writes one, but [`Self::refresh`] of one that is there.
    ///
    /// # Errors
    /// When the store fails, when the policy has just changed, or when another fingerprint was admitted for a path meanwhile.
    pub(super) async fn publish(&self, mut publications: Vec<Publication>, by: &str) -> Result<(), GateError> {
        if publications.is_empty() {
            return Ok(());
        }
        let store_dir = self.cache.store_dir();
        let policy = self.policy();
        let (mut drafts, mut parts) = (Vec::new(), Vec::new());
        for (index, publication) in publications.iter_mut().enumerate() {
            let record = publication.admissible.record();
            let path = &record.info().path;
            if !publication.admissible.is_by(&policy) {
                let path = store_dir.render_path(path);
                return Err(GateError::Crossed(format!("the policy was changed while {path} was admitted")));
            }
            if let Some(upload) = publication.luggage.upload.take() {
                let condition = publication.damaged.clone().map_or(Condition::Absent, Condition::Matches);
                drafts.push(Draft::of_upload(nar_key(&record.info().nar_hash), condition, upload));
                parts.push(Part::Nar(index));
            }
            let key = record_key(path, &publication.admissible.fingerprint.digest());
            drafts.push(Draft::of_bytes(key, publication.condition.clone(), record.to_bytes()));
            parts.push(Part::Evidence(index));
        }
        // A narinfo after those that it refers to, and the listings, of which nothing depends, after all of them.
        let mut stages: HashMap<StorePath, u32> = HashMap::new();
        let (mut narinfos, mut listings) = (Vec::new(), Vec::new());
        for (index, publication) in publications.iter_mut().enumerate() {
            let record = publication.admissible.record();
            let path = &record.info().path;
            if publication.replaces.is_some() {
                // The listing there is perhaps that of other contents.
                remove(self.cache.objects(), &listing_key(path)).await?;
            }
            let stage = 1 + record.info().other_references().filter_map(|path| stages.get(path)).max().unwrap_or(&0);
            stages.insert(path.clone(), stage);
            let condition = publication.replaces.clone().map_or(Condition::Absent, Condition::Matches);
            let narinfo = Draft::of_bytes(narinfo_key(path), condition, self.cache.project(record)?);
            narinfos.push((narinfo.in_stage(stage), Part::Narinfo(index)));
            let listing = publication.luggage.listing.take();
            let listing = listing.map(|listing| Draft::of_bytes(listing_key(path), Condition::Absent, listing));
            listings.extend(listing.map(|listing| (listing.in_stage(u32::MAX), Part::Listing)));
        }
        narinfos.sort_by_key(|(narinfo, _)| narinfo.stage);
        for (draft, part) in narinfos.into_iter().chain(listings) {
            drafts.push(draft);
            parts.push(part);
        }
        let admitted = publications.iter().map(|Publication { admissible, .. }| Event::Admitted {
            judged: Judged::of(admissible.record(), &admissible.signers, store_dir, by),
        });
        self.decisions.record(&policy, admitted.collect()).await?;
        if !Arc::ptr_eq(&policy, &self.policy()) {
            return Err(GateError::Crossed("the policy was changed while paths were admitted".into()));
        }
        let puts = self.cache.objects().publish(drafts).await?;
        for publication in &publications {
            self.note_write(&publication.admissible.record().info().path);
        }
        // Where another gate came first, its words are kept, and these are added.
        let (mut admitted, mut there, mut failed) = (Vec::new(), Vec::new(), Ok(()));
        for (put, part) in puts.iter().zip(parts) {
            match part {
                Part::Narinfo(index) if *put != Put::Refused => {
                    admitted.push(&publications[index].admissible.record().info().path);
                }
                _ if *put != Put::Refused => {}
                // The same bytes; how they were compressed only matters to the narinfo.
                Part::Nar(index) => there.push(index),
                Part::Evidence(index) => {
                    let Publication { admissible, brought, .. } = &publications[index];
                    let path = &admissible.record().info().path;
                    let merged = self.merge_stored(path, brought, Some(admissible.record()), by).await;
                    let refreshed = match merged {
                        Ok(Some(_)) => self.refresh(path, &admissible.fingerprint, None).await,
                        Ok(None) => Err(GateError::Contended(store_dir.render_path(path))),
                        Err(error) => Err(error),
                    };
                    match refreshed {
                        // The others are published all the same.
                        Err(error @ (GateError::Conflict { .. } | GateError::Refused { .. })) => failed = Err(error),
                        refreshed => refreshed?,
                    }
                }
                Part::Narinfo(index) => {
                    let Admissible { record, fingerprint, .. } = &publications[index].admissible;
                    match self.refresh(&record.info().path, fingerprint, None).await {
                        // The others are published all the same.
                        Err(conflict @ GateError::Conflict { .. }) => failed = Err(conflict),
                        refreshed => refreshed?,
                    }
                }
                Part::Listing => {}
            }
        }
        for index in there {
            match self.follow_nar(publications[index].admissible.record()).await {
                // Its evidence and narinfo tell that it is, so the next upload of it replaces it.
                Err(damaged @ GateError::DamagedNar { .. }) => failed = Err(damaged),
                followed => followed?,
            }
        }
        for path in admitted {
            tracing::info!(path = %store_dir.render_path(path), "admitted");
        }
        failed
    }

    /// Makes a path's evidence, and its narinfo if it has one, say of its NAR's object what is there. One of another size than was
    /// brought may have been compressed otherwise, or may have lost something: it is read before it is believed.
    ///
    /// # Errors
    /// [`GateError::DamagedNar`] when it is not what it should be; then they say what was brought.
    pub(super) async fn follow_nar(&self, record: &Record) -> Result<(), GateError> {
        let fingerprint = &record.fingerprint(self.cache.store_dir());
        let path = &record.info().path;
        let rendered = || self.cache.store_dir().render_path(path);
        let there = self.existing_nar(record.info()).await?.ok_or_else(|| GateError::Contended(rendered()))?;
        let mut is_read = false;
        for _ in 0..ATTEMPTS {
            let Some((mut record, version)) = self.cache.record(path, &fingerprint.digest()).await? else {
                break;
            };
            if record.nar.file.file_size == there.file_size {
                return Ok(());
            }
            if !is_read {
                self.read_nar(record.info()).await?;
                is_read = true;
            }
            record.nar.file = there.clone();
            let key = record_key(path, &fingerprint.digest());
            let draft = Draft::of_bytes(key, Condition::Matches(version.etag), record.to_bytes());
            if self.cache.objects().publish(vec![draft]).await?.iter().all(|put| matches!(put, Put::Stored(_))) {
                return match record.state {
                    State::Admitted { .. } => self.refresh(path, fingerprint, None).await,
                    State::Candidate { .. } => Ok(()),
                };
            }
        }
        Err(GateError::Contended(rendered()))
    }

    /// Reads a path's NAR to its end: it is what it should be then.
    async fn read_nar(&self, info: &PathInfo) -> Result<(), GateError> {
        let read = async {
            let mut nar = self.cache.nar_of(info, None).await?;
            while nar.next().await?.is_some() {}
            Ok(())
        };
        read.await.map_err(|source| match source {
            NarReadError::Mismatch { .. } | NarReadError::Unreadable { .. } => {
                GateError::DamagedNar { path: self.cache.store_dir().render_path(&info.path), source: Box::new(source) }
            }
            source => source.into(),
        })
    }

    /// Brings an admitted path's narinfo up to its evidence, if it still stands. What was read of both just now is not read again.
    ///
    /// # Errors
    /// [`GateError::Conflict`] when it is that of another fingerprint.
    pub(super) async fn refresh(
        &self,
        path: &StorePath,
        fingerprint: &Fingerprint,
        mut read: Option<(Object, Record)>,
    ) -> Result<(), GateError> {
        let store_dir = self.cache.store_dir();
        for _ in 0..ATTEMPTS {
            let (narinfo, record) = match read.take() {
                Some(read) => read,
                None => {
                    let Some(narinfo) = self.cache.objects().get(&narinfo_key(path), MAX_NARINFO).await? else {
                        return Err(GateError::not_valid(store_dir, path));
                    };
                    let Some((record, _)) = self.cache.record(path, &fingerprint.digest()).await? else {
                        return Err(GateError::not_valid(store_dir, path));
                    };
                    (narinfo, record)
                }
            };
            let bytes = self.cache.project(&record)?;
            if narinfo.bytes == bytes {
                return Ok(());
            }
            let said = self.cache.parse_narinfo(&hash_part_of(path), &narinfo)?.info;
            if said.fingerprint(store_dir).ok().as_ref() != Some(fingerprint) {
                let evidence = self.evidence(&record, &self.policy());
                return Err(self.conflict(&said, record.info(), &evidence, "").await?);
            }
            let verified = Verified::on_record(&record);
            let absent = &self.absent_references(record.info(), |_| false).await?;
            let policy = &self.policy();
            let circumstances = Circumstances { purpose: Purpose::Renew, policy, store_dir, absent, rival: None };
            let admissible =
                Admissible::judge(&verified, record, circumstances).map_err(|short| short.refused(store_dir))?;
            let bytes = self.cache.project(admissible.record())?;
            let draft = Draft::of_bytes(narinfo_key(path), Condition::Matches(narinfo.version.etag), bytes);
            let put = self.cache.objects().publish(vec![draft]).await?;
            self.note_write(path);
            if put.iter().all(|put| matches!(put, Put::Stored(_))) {
                return Ok(());
            }
        }
        Err(GateError::Contended(store_dir.render_path(path)))
    }

    /// Makes the error that says that another fingerprint is admitted for a path, and writes it down if anybody's word counts for the
    /// one that was offered: of others it is counted only, as they could fill the log with it.
    pub(super) async fn conflict(
        &self,
        admitted: &PathInfo,
        offered: &PathInfo,
        evidence: &Evidence,
        by: &str,
    ) -> Result<GateError, GateError> {
        let path = self.cache.store_dir().render_path(&admitted.path);
        let (admitted, offered) = (describe_info(admitted), describe_info(offered));
        if evidence.signers().is_empty() || !self.decisions.may_note_conflict(&path) {
            self.decisions.note_refusal(Code::Conflict);
        } else {
            let (path, there, offered, by) = (path.clone(), admitted.clone(), offered.clone(), by.to_owned());
            let conflict = Event::Conflict { path, admitted: true, there, offered, by };
            self.decisions.record(&self.policy(), vec![conflict]).await?;
        }
        Ok(GateError::Conflict { path, admitted, offered })
    }

    /// Lists the references of a path that are neither admitted nor `here`: about to be, or known to be.
    pub(super) async fn absent_references(
        &self,
        info: &PathInfo,
        here: impl Fn(&StorePath) -> bool,
    ) -> Result<Vec<StorePath>, GateError> {
        let mut absent: Vec<StorePath> = info.other_references().filter(|path| !here(path)).cloned().collect();
        let valid = self.view().valid_among(&absent).await?;
        absent.retain(|path| !valid.contains(path));
        Ok(absent)
    }
}
