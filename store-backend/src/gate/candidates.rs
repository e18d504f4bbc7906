//! What is held, as it is looked at: by those who ask staging for a path, and by those who look after it.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use policy::{Decision, Finding, OnConflict, Verdict};
use tokio::task::JoinSet;
use verifier::{Evidence, Fingerprint, FingerprintDigest, PathInfo, StorePath, Timestamp};

use super::promotion::is_candidate;
use super::shelf::Note;
use super::{Gate, GateError, subject_of};
use crate::clock::now;
use crate::object::{Entry, ObjectError, Version};
use crate::store::{EVIDENCE, NarStream, Narinfo, Record, State, describe_info, hash_part_of};

/// Most fingerprints of one path that are looked at. There are as many as signers at the most, since each needs one of its own.
const MOST_OF_A_PATH: usize = 256;

/// Objects that are read at once.
const AT_ONCE: usize = 32;

/// Candidates that one task judges.
const OF_A_TASK: usize = 256;

/// A fingerprint that is held, or that a path shows or once showed, with how it stands.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The path info, the signatures with their history, and the state.
    pub record: Record,
    /// SHA-256 of the fingerprint.
    pub fingerprint: FingerprintDigest,
    /// What each signature is worth now.
    pub evidence: Evidence,
    /// What the policy says of it now.
    pub decision: Decision,
    held: bool,
}

/// Where a fingerprint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In staging.
    Held,
    /// Its path's narinfo is its own; whether it is valid, the policy says.
    Shown,
    /// There is evidence of it, and nothing more: a crash's leftover, or what another took the place of.
    Nowhere,
}

impl Candidate {
    /// Says in a few words which fingerprint it is, and who vouches for it.
    #[must_use]
    pub fn describe(&self) -> String {
        let signers: Vec<&str> = self.decision.signers().iter().map(|name| &**name).collect();
        let signers = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
        format!("{} signed by {signers}", describe_info(self.record.info()))
    }

    /// Returns since when it has been held, or admitted.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        since(&self.record)
    }

    /// Says whether it is held; otherwise it is what its path shows.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }
}

impl Gate {
    /// Lists what is held of a path, and what the path shows, the oldest first.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn candidates(&self, path: &StorePath) -> Result<Vec<Candidate>, GateError> {
        let mut stands = Vec::new();
        for record in self.records_of(path).await? {
            match self.place_of(&record).await? {
                Place::Held => stands.push((record, true)),
                Place::Shown => stands.push((record, false)),
                Place::Nowhere => {}
            }
        }
        let store_dir = self.cache.store_dir();
        let mut found = Vec::new();
        for (record, held) in &stands {
            let absent = self.absent_references(record.info(), |_| false).await?;
            let fingerprint = record.fingerprint(store_dir);
            let rival = stands.iter().find(|(other, held)| *held && other.fingerprint(store_dir) != fingerprint);
            let conflict = rival.map(|(rival, _)| self.conflict_with(rival));
            found.push(self.candidate(record.clone(), *held, &absent, conflict));
        }
        found.sort_by_key(|candidate| (candidate.since(), candidate.fingerprint));
        Ok(found)
    }

    /// Lists all that is held, by path.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn staged(self: &Arc<Self>) -> Result<Vec<Candidate>, GateError> {
        self.staging.shelf.look().await?;
        let notes = self.staging.shelf.all();
        let mut tasks = JoinSet::new();
        for some in notes.chunks(OF_A_TASK) {
            let (gate, some) = (self.clone(), some.to_vec());
            tasks.spawn(async move { gate.read_notes(&some).await });
        }
        let mut records = Vec::with_capacity(notes.len());
        while let Some(read) = tasks.join_next().await {
            records.extend(read.map_err(ObjectError::from)??);
        }
        let references: BTreeSet<&StorePath> =
            records.iter().flat_map(|record| record.info().other_references()).collect();
        let references: Vec<StorePath> = references.into_iter().cloned().collect();
        let valid = Arc::new(self.view().valid_among(&references).await?);
        let mut tasks = JoinSet::new();
        while !records.is_empty() {
            let some = records.split_off(records.len().saturating_sub(OF_A_TASK));
            let (gate, valid) = (self.clone(), valid.clone());
            tasks.spawn(async move {
                let mut judged = Vec::with_capacity(some.len());
                for record in some {
                    let absent = record.info().other_references().filter(|path| !valid.contains(*path));
                    let absent: Vec<StorePath> = absent.cloned().collect();
                    let fingerprint = record.fingerprint(gate.cache.store_dir()).digest();
                    let rival = gate.rival(&record.info().path, &fingerprint).await?;
                    judged.push(gate.candidate(record, true, &absent, rival));
                }
                Ok::<_, GateError>(judged)
            });
        }
        let mut found = Vec::with_capacity(notes.len());
        while let Some(judged) = tasks.join_next().await {
            found.extend(judged.map_err(ObjectError::from)??);
        }
        found.sort_by(|one, other| {
            let key = |candidate: &Candidate| {
                (candidate.record.info().path.clone(), candidate.since(), candidate.fingerprint)
            };
            key(one).cmp(&key(other))
        });
        Ok(found)
    }

    /// Opens the NAR of what is held: not for clients, but for those who look into what differs. Whoever can call this can read the
    /// store's files.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub async fn candidate_nar(&self, candidate: &Candidate) -> Result<NarStream, GateError> {
        Ok(self.cache.nar(candidate.record.info()).await?)
    }

    async fn read_notes(&self, notes: &[Arc<Note>]) -> Result<Vec<Record>, GateError> {
        let reads = notes.iter().map(|note| self.record_of(&note.path, &note.fingerprint));
        let read: Vec<Option<(Record, Version)>> =
            stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        let mut held = Vec::with_capacity(read.len());
        for (record, _) in read.into_iter().flatten() {
            if self.place_of(&record).await? == Place::Held {
                held.push(record);
            }
        }
        Ok(held)
    }

    /// Says where a fingerprint stands of which there is evidence. One that was about to be admitted, or was admitted while another
    /// one was faster, is held as long as there is a note of it.
    pub(super) async fn place_of(&self, record: &Record) -> Result<Place, GateError> {
        if is_candidate(record) {
            return Ok(Place::Held);
        }
        if self.is_shown(record).await? {
            return Ok(Place::Shown);
        }
        let fingerprint = record.fingerprint(self.cache.store_dir()).digest();
        let noted = self.is_noted(&record.info().path, &fingerprint).await?;
        Ok(if noted { Place::Held } else { Place::Nowhere })
    }

    /// Judges a record, of whose references these are not admitted, and which has this rival.
    fn candidate(
        &self,
        record: Record,
        held: bool,
        absent: &[StorePath],
        rival: Option<(Verdict, Finding)>,
    ) -> Candidate {
        let policy = self.policy();
        let evidence = self.evidence(&record, &policy);
        let mut decision = policy.decide(&subject_of(&record, &evidence, absent), now());
        let fingerprint = evidence.fingerprint().digest();
        if let Some((at_most, conflict)) = rival {
            decision = decision.limited(at_most, conflict);
        }
        Candidate { fingerprint, evidence, decision, record, held }
    }

    /// Says what the policy makes of a record now.
    pub(super) async fn decide_now(&self, record: &Record) -> Result<Decision, GateError> {
        let absent = self.absent_references(record.info(), |_| false).await?;
        let fingerprint = record.fingerprint(self.cache.store_dir()).digest();
        let rival = self.rival(&record.info().path, &fingerprint).await?;
        Ok(self.candidate(record.clone(), true, &absent, rival).decision)
    }

    /// Returns what a path shows that is valid and is not this.
    pub(super) async fn shown_otherwise(
        &self,
        path: &StorePath,
        fingerprint: &Fingerprint,
    ) -> Result<Option<PathInfo>, GateError> {
        if self.recent.is_absent(path) {
            return Ok(None);
        }
        let Some(Narinfo { info, version, .. }) = self.narinfo_of(path).await? else {
            return Ok(None);
        };
        let other = info.fingerprint(self.cache.store_dir()).ok().as_ref() != Some(fingerprint);
        Ok((other && self.view().is_valid_at(&info.path, &version).await?).then_some(info))
    }

    /// Says whether a path's narinfo is this record's.
    pub(super) async fn is_shown(&self, record: &Record) -> Result<bool, GateError> {
        let store_dir = self.cache.store_dir();
        let narinfo = self.narinfo_of(&record.info().path).await?;
        let shown = narinfo.and_then(|narinfo| narinfo.info.fingerprint(store_dir).ok());
        Ok(shown == Some(record.fingerprint(store_dir)))
    }

    /// Reads a path's narinfo; none if there is none, or it is damaged.
    async fn narinfo_of(&self, path: &StorePath) -> Result<Option<Narinfo>, GateError> {
        match self.cache.narinfo(&hash_part_of(path)).await {
            Err(error) if error.is_damage() => Ok(None),
            read => Ok(read?),
        }
    }

    /// Reads all evidence of a path.
    async fn records_of(&self, path: &StorePath) -> Result<Vec<Record>, GateError> {
        let folder = format!("{EVIDENCE}{}/", hash_part_of(path));
        let mut digests: Vec<FingerprintDigest> = Vec::new();
        let mut pages = self.cache.objects().list(&folder).await?;
        while let Some(page) = pages.next().await? {
            digests.extend(page.iter().filter_map(|Entry { name, .. }| name.parse::<FingerprintDigest>().ok()));
        }
        digests.truncate(MOST_OF_A_PATH);
        let reads = digests.iter().map(|digest| self.record_of(path, digest));
        let read: Vec<Option<(Record, Version)>> =
            stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        let records = read.into_iter().flatten().map(|(record, _)| record);
        Ok(records.filter(|record| record.info().path == *path).collect())
    }

    /// Reads a record; none if there is none, or it is damaged.
    pub(super) async fn record_of(
        &self,
        path: &StorePath,
        digest: &FingerprintDigest,
    ) -> Result<Option<(Record, Version)>, GateError> {
        match self.cache.record(path, digest).await {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "an evidence object is damaged: it counts for nothing");
                Ok(None)
            }
            read => Ok(read?),
        }
    }

    /// Says what else is held for a path, as far as the shelf was last looked at, and the best that may become of this fingerprint
    /// because of it.
    pub(super) async fn rival(
        &self,
        path: &StorePath,
        fingerprint: &FingerprintDigest,
    ) -> Result<Option<(Verdict, Finding)>, GateError> {
        for note in self.staging.shelf.of(path) {
            if note.fingerprint == *fingerprint {
                continue;
            }
            if let Some((record, _)) = self.record_of(path, &note.fingerprint).await?
                && self.place_of(&record).await? == Place::Held
            {
                return Ok(Some(self.conflict_with(&record)));
            }
        }
        Ok(None)
    }

    /// Says that something else is held for a path, and what the best is that may become of it.
    fn conflict_with(&self, rival: &Record) -> (Verdict, Finding) {
        let at_most = match self.policy().on_conflict() {
            OnConflict::Hold => Verdict::Hold,
            OnConflict::Quorum => Verdict::Admit,
        };
        (at_most, Finding::conflict(&describe_info(rival.info())))
    }
}

/// Since when a fingerprint has stood where it stands.
pub(super) fn since(record: &Record) -> Timestamp {
    let (State::Admitted { since } | State::Candidate { since }) = record.state;
    since
}
