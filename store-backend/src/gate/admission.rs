//! Admission: the judgement at the commit point, and the only code that publishes a path.

use std::sync::Arc;

use policy::{Decision, Policy, Subject, Verdict};
use verifier::{Evidence, Fingerprint, StoreDir, StorePath, Timestamp};

use super::verified::Verified;
use super::{Gate, GateError, now, proven_address};
use crate::object::{Condition, Draft, Etag, Put};
use crate::store::{Record, State, listing_key, narinfo_key, record_key};

/// Most signatures that are kept of one path under keys that the policy does not know: they may be a later policy's.
const MAX_UNKNOWN: usize = 16;

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
}

/// What a judgement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To admit a path.
    Admit,
    /// To show more signatures of a path that is admitted: a policy that has expired takes nothing away.
    Renew,
}

impl Admissible {
    /// Judges verified bytes with the signatures that `record` holds, `absent` being the references that are not admitted.
    pub(super) fn judge(
        purpose: Purpose,
        verified: &Verified,
        mut record: Record,
        policy: &Arc<Policy>,
        store_dir: &StoreDir,
        absent: &[StorePath],
    ) -> Result<Self, GateError> {
        let fingerprint = record.fingerprint(store_dir);
        let same = verified.info().fingerprint(store_dir).is_ok_and(|verified| verified == fingerprint);
        assert!(same, "a record is judged with the bytes of its own fingerprint");
        record.nar.address = verified.nar().address;
        let path = record.info().path.clone();
        let evidence = Evidence::weigh(fingerprint.clone(), record.claims(), policy.keyring(), now());
        let address = proven_address(&record);
        let subject = Subject { path: &path, evidence: &evidence, address, absent_references: absent };
        let decision = match purpose {
            Purpose::Admit => policy.decide(&subject, now()),
            Purpose::Renew => policy.stands(&subject, now()),
        };
        if decision.verdict() != Verdict::Admit {
            return Err(refused(store_dir, &path, decision));
        }
        if !matches!(record.state, State::Admitted { .. }) {
            record.state = State::Admitted { since: now() };
        }
        Ok(Self { record, fingerprint, policy: policy.clone() })
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }
}

/// Makes the error that tells the uploader what a path lacks.
pub(super) fn refused(store_dir: &StoreDir, path: &StorePath, decision: Decision) -> GateError {
    GateError::Refused { path: store_dir.render_path(path), decision: Box::new(decision.refused()) }
}

/// A path that is about to become visible.
pub(super) struct Publication {
    pub(super) admissible: Admissible,
    pub(super) listing: Option<Vec<u8>>,
    /// The narinfo that it takes the place of.
    pub(super) replaces: Option<Etag>,
}

impl Gate {
    /// Adds the signatures of a claim to a record, by the rules of what is kept: one for each key of the policy that verifies
    /// it, and a few under unknown keys, which never displace a known one. False and malformed ones are not kept.
    pub(super) fn merge(&self, record: &mut Record, evidence: &Evidence, seen: Timestamp, by: &str) -> bool {
        let fingerprint = record.fingerprint(self.cache.store_dir());
        assert!(*evidence.fingerprint() == fingerprint, "signatures are merged into their own fingerprint's record");
        let policy = self.policy();
        let kept = Evidence::weigh(fingerprint, record.claims(), policy.keyring(), now());
        let mut slots: Vec<[u8; 32]> = kept.judged().iter().filter_map(|kept| kept.verified_by).collect();
        let mut unknown = kept.judged().iter().filter(|kept| kept.verified_by.is_none()).count();
        let mut changed = false;
        for judged in evidence.judged() {
            let Some(signature) = &judged.signature else {
                continue;
            };
            match judged.verified_by {
                Some(key) if !slots.contains(&key) => {
                    slots.push(key);
                    changed |= record.add_signature(signature, seen, by);
                }
                None if judged.verdict == verifier::Verdict::UnknownKey && unknown < MAX_UNKNOWN => {
                    let new = record.add_signature(signature, seen, by);
                    unknown += usize::from(new);
                    changed |= new;
                }
                _ => {}
            }
        }
        changed
    }

    /// Adds the gate's own signature, where it has a key.
    pub(super) fn countersign(&self, record: &mut Record) -> bool {
        let Some(key) = &self.countersign else {
            return false;
        };
        let fingerprint = record.fingerprint(self.cache.store_dir());
        record.countersign(&key.sign(&fingerprint))
    }

    /// Makes admitted paths visible, in their order. Writing the narinfo is the commit point: before it nothing can be seen,
    /// after it everything can. Nothing else in this program writes one.
    ///
    /// # Errors
    /// When the store fails, when the policy changed on the way (then judge again), or when another fingerprint was admitted
    /// for a path meanwhile.
    pub(super) async fn publish(&self, publications: Vec<Publication>) -> Result<(), GateError> {
        let policy = self.policy();
        let mut drafts = Vec::new();
        let mut order = Vec::new();
        for publication in publications {
            let Publication { admissible, listing, replaces } = publication;
            let record = &admissible.record;
            if !Arc::ptr_eq(&admissible.policy, &policy) {
                let path = self.cache.store_dir().render_path(&record.info().path);
                return Err(GateError::Contended(format!("the policy, while {path} was admitted,")));
            }
            let path = &record.info().path;
            if replaces.is_some() {
                // The listing there is perhaps that of other contents.
                self.remove(&listing_key(path)).await?;
            }
            let condition = replaces.map_or(Condition::Absent, Condition::Matches);
            order.push(Some(admissible.fingerprint.clone()));
            drafts.push(Draft::of_bytes(narinfo_key(path), condition, self.cache.project(record)?));
            if let Some(listing) = listing {
                order.push(None);
                drafts.push(Draft::of_bytes(listing_key(path), Condition::Absent, listing));
            }
            tracing::info!(path = %self.cache.store_dir().render_path(path), "admitted");
        }
        let keys: Vec<_> = drafts.iter().map(|draft| draft.key.clone()).collect();
        let puts = self.cache.objects().publish(drafts).await?;
        self.memory.note_write();
        for ((put, fingerprint), key) in puts.into_iter().zip(order).zip(keys) {
            if let (Put::Refused, Some(fingerprint)) = (put, fingerprint) {
                self.lost_race(key.as_str(), &fingerprint).await?;
            }
        }
        Ok(())
    }

    /// Another gate wrote the narinfo first. If it is about the same fingerprint, its words are brought up to the evidence's.
    async fn lost_race(&self, narinfo: &str, fingerprint: &Fingerprint) -> Result<(), GateError> {
        let hash_part = narinfo.trim_end_matches(".narinfo");
        let store_dir = self.cache.store_dir();
        let Some(found) = self.cache.narinfo(hash_part).await? else {
            return Err(GateError::Contended(narinfo.to_owned()));
        };
        if found.info.fingerprint(store_dir).ok().as_ref() != Some(fingerprint) {
            return Err(GateError::Conflict {
                path: store_dir.render_path(&found.info.path),
                admitted: describe(&found.info),
                offered: fingerprint.to_string(),
            });
        }
        self.refresh(&found.info.path, fingerprint).await
    }

    /// Brings an admitted path's narinfo up to its evidence, if it still stands.
    pub(super) async fn refresh(&self, path: &StorePath, fingerprint: &Fingerprint) -> Result<(), GateError> {
        let store_dir = self.cache.store_dir();
        for _ in 0..ATTEMPTS {
            let Some(narinfo) = self.cache.narinfo(&crate::store::hash_part_of(path)).await? else {
                return Err(GateError::not_valid(store_dir, path));
            };
            let Some((record, _)) = self.cache.record(path, &fingerprint.digest()).await? else {
                return Err(GateError::not_valid(store_dir, path));
            };
            if narinfo.info.signatures == record.info().signatures {
                return Ok(());
            }
            let verified = Verified::on_record(&record);
            let absent = self.absent_references(&record).await?;
            let policy = self.policy();
            let admissible = Admissible::judge(Purpose::Renew, &verified, record, &policy, store_dir, &absent)?;
            let bytes = self.cache.project(admissible.record())?;
            let draft = Draft::of_bytes(narinfo_key(path), Condition::Matches(narinfo.etag), bytes);
            let put = self.cache.objects().publish(vec![draft]).await?;
            self.memory.note_write();
            if put.iter().all(|put| matches!(put, Put::Stored(_))) {
                return Ok(());
            }
        }
        Err(GateError::Contended(store_dir.render_path(path)))
    }

    /// Merges signatures into a stored record, whoever else writes it; returns the record as it is then.
    pub(super) async fn merge_stored(
        &self,
        path: &StorePath,
        evidence: &Evidence,
        by: &str,
    ) -> Result<Option<Record>, GateError> {
        let digest = evidence.fingerprint().digest();
        for _ in 0..ATTEMPTS {
            let Some((mut record, etag)) = self.cache.record(path, &digest).await? else {
                return Ok(None);
            };
            let merged = self.merge(&mut record, evidence, now(), by);
            if !(self.countersign(&mut record) | merged) {
                return Ok(Some(record));
            }
            let key = record_key(path, &digest);
            let draft = Draft::of_bytes(key, Condition::Matches(etag), record.to_bytes());
            let put = self.cache.objects().publish(vec![draft]).await?;
            self.memory.note_write();
            if put.iter().all(|put| matches!(put, Put::Stored(_))) {
                return Ok(Some(record));
            }
        }
        Err(GateError::Contended(self.cache.store_dir().render_path(path)))
    }

    /// Lists the references of a record that are not admitted.
    pub(super) async fn absent_references(&self, record: &Record) -> Result<Vec<StorePath>, GateError> {
        let references: Vec<StorePath> = record.info().other_references().cloned().collect();
        let valid = self.view().valid_among(&references).await?;
        Ok(super::absent(record, |reference| valid.contains(reference)))
    }
}

/// Says in a few words which fingerprint a path info has.
pub(super) fn describe(info: &verifier::PathInfo) -> String {
    format!("NAR {} of {} bytes with {} references", info.nar_hash, info.nar_size, info.references.len())
}
