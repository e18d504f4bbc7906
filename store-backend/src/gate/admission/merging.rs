//! Merging: which of the signatures that are brought a record keeps, and how they get into one that others write as well.

use std::sync::Arc;

use policy::{Code, Finding, Policy, Verdict};
use verifier::{Evidence, StorePath, Timestamp};

use super::{ATTEMPTS, refused};
use crate::clock::now;
use crate::gate::decisions::{Event, Judged};
use crate::gate::promotion::is_candidate;
use crate::gate::{Gate, GateError};
use crate::object::{Condition, Draft, Put};
use crate::store::{Record, State, record_key};

/// Most signatures that are kept of one path under keys that the policy does not know: they may be a later policy's.
const MAX_UNKNOWN: usize = 16;

/// What became of a record to which signatures were added.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::gate) struct Merged {
    /// Whether it has another signature.
    changed: bool,
    /// Whether it has another one by a key of the policy's. Only that is worth a record in the log: anybody can bring others.
    counts: bool,
}

impl Gate {
    /// Adds the signatures of a claim to a record, by the rules of what is kept: one for each key of the policy that verifies
    /// it, and a few under unknown keys, which never displace a known one. False and malformed ones are not kept.
    pub(in crate::gate) fn merge(&self, record: &mut Record, evidence: &Evidence, seen: Timestamp, by: &str) -> Merged {
        let fingerprint = record.fingerprint(self.cache.store_dir());
        assert!(*evidence.fingerprint() == fingerprint, "signatures are merged into their own fingerprint's record");
        let policy = self.policy();
        let kept = Evidence::weigh(fingerprint, record.claims(), policy.keyring(), now());
        let mut slots: Vec<[u8; 32]> = kept.judged().iter().filter_map(|kept| kept.verified_by).collect();
        let mut unknown = kept.judged().iter().filter(|kept| kept.verified_by.is_none()).count();
        let mut merged = Merged::default();
        for judged in evidence.judged() {
            let Some(signature) = &judged.signature else {
                continue;
            };
            match judged.verified_by {
                Some(key) if !slots.contains(&key) => {
                    slots.push(key);
                    merged.counts |= record.add_signature(signature, seen, by);
                }
                None if judged.verdict == verifier::Verdict::UnknownKey && unknown < MAX_UNKNOWN => {
                    let new = record.add_signature(signature, seen, by);
                    unknown += usize::from(new);
                    merged.changed |= new;
                }
                _ => {}
            }
        }
        merged.changed |= merged.counts;
        merged
    }

    /// Merges signatures into a stored record, whoever else writes it, and what another reading of its NAR has shown; returns the
    /// record as it is then.
    pub(in crate::gate) async fn merge_stored(
        &self,
        path: &StorePath,
        evidence: &Evidence,
        read: Option<&Record>,
        by: &str,
    ) -> Result<Option<Record>, GateError> {
        let digest = evidence.fingerprint().digest();
        let mut logged = false;
        for _ in 0..ATTEMPTS {
            let Some((mut record, version)) = self.cache.record(path, &digest).await? else {
                return Ok(None);
            };
            let before = record.clone();
            if let Some(read) = read {
                record.read_again(read.info(), read.nar.clone());
                if matches!(read.state, State::Admitted { .. }) {
                    record.state = read.state;
                }
            }
            let merged = self.merge(&mut record, evidence, now(), by);
            let countersigned = self.may_countersign(&record, read).await? && self.countersign(&mut record);
            if !(countersigned | merged.changed | read.is_some()) {
                return Ok(Some(record));
            }
            let policy = self.policy();
            let revived = self.revival(&before, &record, &policy, by).await?;
            let signed = || {
                let stands = self.stands(&record, &policy);
                Event::Signed { judged: Judged::of(&record, stands.signers(), self.cache.store_dir(), by) }
            };
            if let Some(event) = revived.or_else(|| (merged.counts && !logged).then(signed)) {
                self.decisions.record(&policy, vec![event]).await?;
                logged = true;
            }
            let key = record_key(path, &digest);
            let draft = Draft::of_bytes(key, Condition::Matches(version.etag), record.to_bytes());
            let put = self.cache.objects().publish(vec![draft]).await?;
            self.note_write(path);
            if put.iter().all(|put| matches!(put, Put::Stored(_))) {
                return Ok(Some(record));
            }
        }
        Err(GateError::Contended(self.cache.store_dir().render_path(path)))
    }

    /// Says whether a record that is there gets the gate's signature: it has just been judged, or is valid.
    async fn may_countersign(&self, record: &Record, judged: Option<&Record>) -> Result<bool, GateError> {
        if self.countersign.is_none() || is_candidate(record) {
            return Ok(false);
        }
        let is_admitted = |record: &Record| matches!(record.state, State::Admitted { .. });
        Ok(judged.is_some_and(is_admitted) || self.view().is_valid(&record.info().path).await?)
    }

    /// Judges a change of a record that brings back what was no more admitted: that is an admission, by all rules for what is new.
    /// Returns what is to be written down; none if the change is nothing of the kind. Where references alone are lacking, it is
    /// valid again when they are.
    async fn revival(
        &self,
        before: &Record,
        after: &Record,
        policy: &Arc<Policy>,
        by: &str,
    ) -> Result<Option<Event>, GateError> {
        let store_dir = self.cache.store_dir();
        if is_candidate(before) || self.stands(before, policy).verdict() == Verdict::Admit {
            return Ok(None);
        }
        let stands = self.stands(after, policy);
        if stands.verdict() != Verdict::Admit || !self.is_shown(after).await? {
            return Ok(None);
        }
        let judged = Judged::of(after, stands.signers(), store_dir, by);
        let decision = self.decide_now(after).await?;
        let is_about_references = |finding: &Finding| finding.code == Code::MissingReference;
        match (decision.verdict(), decision.findings().first()) {
            (Verdict::Admit, _) => Ok(Some(Event::Admitted { judged })),
            (_, Some(first)) if is_about_references(first) => Ok(Some(Event::Signed { judged })),
            _ => {
                self.note_refusal(&decision);
                Err(refused(store_dir, &after.info().path, decision))
            }
        }
    }
}
