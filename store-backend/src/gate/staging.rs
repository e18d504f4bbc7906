//! Staging: what falls short of its requirement, and is held until it is met.
//!
//! A candidate is an evidence record in the state "candidate", with its NAR. It is written after its note (`shelf.rs`), and
//! becomes a path by being admitted (`promotion.rs`), where it is judged as everything else is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use policy::{Code, Decision, Finding};
use verifier::{Evidence, FingerprintDigest, PathInfo, StorePath};

use super::admission::Short;
use super::candidates::{Candidate, Place, since};
use super::commit::Offered;
use super::decisions::{Event, Judged};
use super::error::first_failure;
use super::shelf::{Note, Shelf, listing_draft};
use super::verified::Luggage;
use super::{Gate, GateError, Uploader};
use crate::clock::now;
use crate::object::{Condition, Draft, ObjectStore, Put};
use crate::store::{Record, State, describe_info, nar_key, record_key};

/// Candidates to which signatures are added at once.
const AT_ONCE: usize = 16;

/// References for each path that may be held, on an average of all: they are kept in memory, some hundred bytes each.
const REFERENCES: u64 = 25;

/// How long a count of what is held may stand for what is held, when something more is to be.
const COUNT_LASTS: Duration = Duration::from_secs(5);

/// How much may be held, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingLimits {
    /// Paths that one uploader may have there.
    pub uploader_paths: u64,
    /// Bytes of NARs, before compression, that one uploader may have there.
    pub uploader_bytes: u64,
    /// Paths in all.
    pub paths: u64,
    /// Bytes of NARs, before compression, in all.
    pub bytes: u64,
    /// After how long something is given up.
    pub keep: Duration,
}

impl Default for StagingLimits {
    fn default() -> Self {
        Self {
            uploader_paths: 20_000,
            uploader_bytes: 200 << 30,
            paths: 50_000,
            bytes: 500 << 30,
            keep: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }
}

/// What a gate knows of its staging.
pub(super) struct Staging {
    pub(super) shelf: Shelf,
    pub(super) limits: StagingLimits,
    /// What is on its way.
    arriving: Arc<Mutex<Vec<Arriving>>>,
    /// Whether something was left to be done, because the store failed in the middle of it.
    pub(super) unfinished: AtomicBool,
}

impl Staging {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            shelf: Shelf::new(objects),
            limits: StagingLimits::default(),
            arriving: Arc::default(),
            unfinished: AtomicBool::new(false),
        }
    }

    /// Says that not everything was admitted that could be: [`Gate::tend_staging`] goes on.
    pub(super) fn note_unfinished(&self) {
        self.unfinished.store(true, Ordering::Relaxed);
    }
}

/// A candidate on its way.
struct Arriving {
    id: u64,
    by: String,
    path: StorePath,
    fingerprint: FingerprintDigest,
    nar_size: u64,
    references: u64,
    signers: Vec<Arc<str>>,
}

/// Room for a candidate on its way; given back when it is dropped.
pub(super) struct Reservation {
    arriving: Arc<Mutex<Vec<Arriving>>>,
    id: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.retain(|other| other.id != self.id);
    }
}

/// What else is claimed for a path, and by whose word.
struct Claimed {
    what: String,
    signers: Vec<Arc<str>>,
}

/// What is to be held.
pub(super) struct Holding {
    pub(super) offered: Offered,
    pub(super) luggage: Luggage,
    pub(super) brought: Evidence,
    pub(super) short: Short,
    /// Whether there is evidence of it already.
    pub(super) known: bool,
}

impl Gate {
    /// Sets how much may be held in staging.
    #[must_use]
    pub fn with_staging_limits(mut self, limits: StagingLimits) -> Self {
        self.staging.limits = limits;
        self
    }

    /// Makes room for a candidate. Its signers must not all have another one for its path: else whoever has a signer's key could
    /// fill the store with contents for one path. What other gates took in within the last seconds may not be counted yet.
    pub(super) async fn reserve(
        &self,
        info: &PathInfo,
        fingerprint: &FingerprintDigest,
        decision: &Decision,
        uploader: &Uploader,
    ) -> Result<Reservation, GateError> {
        /// Tells reservations apart.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.staging.shelf.look_now_and_then(COUNT_LASTS).await?;
        let candidates = self.others(&info.path, fingerprint).await?;
        let held = candidates.iter().filter(|other| other.is_held());
        let mut claimed: Vec<Claimed> =
            held.map(|other| Claimed { what: other.describe(), signers: other.decision.signers().to_vec() }).collect();
        let by = &uploader.0;
        let mut arriving = self.staging.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let others = arriving.iter().filter(|other| other.path == info.path && other.fingerprint != *fingerprint);
        claimed.extend(
            others.map(|other| Claimed { what: "one that is just coming".into(), signers: other.signers.clone() }),
        );
        self.refuse_second(info, decision, &claimed)?;
        let (mut own, mut all) = self.staging.shelf.amounts(by);
        for other in arriving.iter() {
            all.add(other.nar_size, other.references);
            if other.by == *by {
                own.add(other.nar_size, other.references);
            }
        }
        let limits = &self.staging.limits;
        let references = info.references.len() as u64;
        own.add(info.nar_size, references);
        all.add(info.nar_size, references);
        let checks = [
            (
                own.paths > limits.uploader_paths,
                format!("{by} would have more than {} paths in staging", limits.uploader_paths),
            ),
            (
                own.bytes > limits.uploader_bytes,
                format!("{by} would have more than {} bytes in staging", limits.uploader_bytes),
            ),
            (all.paths > limits.paths, format!("there would be more than {} paths in staging", limits.paths)),
            (all.bytes > limits.bytes, format!("there would be more than {} bytes in staging", limits.bytes)),
            (
                own.references > limits.uploader_paths.saturating_mul(REFERENCES),
                format!("{by} would have paths in staging with more than {REFERENCES} references each on an average"),
            ),
            (
                all.references > limits.paths.saturating_mul(REFERENCES),
                format!("the paths in staging would have more than {REFERENCES} references each on an average"),
            ),
        ];
        if let Some((_, which)) = checks.into_iter().find(|(over, _)| *over) {
            return Err(
                self.past_limit(info, format!("{which}; let others complete what is there, or drop some of it"))
            );
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (path, nar_size, signers) = (info.path.clone(), info.nar_size, decision.signers().to_vec());
        arriving.push(Arriving { id, by: by.clone(), path, fingerprint: *fingerprint, nar_size, references, signers });
        Ok(Reservation { arriving: self.staging.arriving.clone(), id })
    }

    /// Says whether there was a note of something held a few seconds ago.
    pub(super) async fn is_noted(&self, path: &StorePath, fingerprint: &FingerprintDigest) -> Result<bool, GateError> {
        self.staging.shelf.look_now_and_then(COUNT_LASTS).await?;
        Ok(self.staging.shelf.of(path).iter().any(|note| note.fingerprint == *fingerprint))
    }

    /// Lists what there is of a path beside a fingerprint, if anything beside it is held.
    async fn others(&self, path: &StorePath, fingerprint: &FingerprintDigest) -> Result<Vec<Candidate>, GateError> {
        if self.staging.shelf.of(path).iter().all(|note| note.fingerprint == *fingerprint) {
            return Ok(Vec::new());
        }
        let mut candidates = self.candidates(path).await?;
        candidates.retain(|other| other.fingerprint != *fingerprint);
        Ok(candidates)
    }

    /// Says no to a candidate whose signers all have another one for its path.
    fn refuse_second(&self, info: &PathInfo, decision: &Decision, claimed: &[Claimed]) -> Result<(), GateError> {
        let backed = |signer: &Arc<str>| claimed.iter().find(|other| other.signers.contains(signer));
        if decision.signers().iter().any(|signer| backed(signer).is_none()) {
            return Ok(());
        }
        let other = decision.signers().iter().find_map(backed).map_or("", |other| &other.what);
        let why = format!(
            "its signers vouch for other contents of it already: {other}; one candidate for each signer and path"
        );
        Err(self.past_limit(info, why))
    }

    fn past_limit(&self, info: &PathInfo, why: String) -> GateError {
        self.decisions.note_refusal(Code::LimitExceeded);
        let decision = Decision::refusal(Finding::new(Code::LimitExceeded, why));
        GateError::Refused { path: self.cache.store_dir().render_path(&info.path), decision: Box::new(decision) }
    }

    /// Holds what falls short. When this returns, it is on disk; whether it falls short still is for who asks next.
    pub(super) async fn hold(&self, holdings: Vec<Holding>, by: &str) -> Result<(), GateError> {
        let store_dir = self.cache.store_dir();
        let (known, mut fresh): (Vec<Holding>, Vec<Holding>) = holdings.into_iter().partition(|holding| holding.known);
        let again = known.into_iter().map(|holding| self.hold_again(holding, by));
        let again: Vec<Result<(), GateError>> =
            stream::iter(again.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
        // What cannot be taken back in takes nothing from the rest.
        let again = first_failure(again);
        if fresh.is_empty() {
            return again;
        }
        for holding in &mut fresh {
            holding.short.record.state = State::Candidate { since: now() };
        }
        let mut events = Vec::new();
        for holding in &fresh {
            events.extend(self.conflicts_of(holding, by).await?);
            let Short { record, decision } = &holding.short;
            let judged = Judged::of(record, decision.signers(), store_dir, by);
            let path = store_dir.render_path(&record.info().path);
            events.push(Event::Held { judged, lacks: decision.held_summary(&path) });
        }
        self.decisions.record(&self.policy(), events).await?;
        self.store_candidates(fresh, by).await?;
        again
    }

    /// Takes what is held already and came again: what is lost of its bytes is replaced, and the signatures are added.
    async fn hold_again(&self, mut holding: Holding, by: &str) -> Result<(), GateError> {
        let record = &holding.short.record;
        let draft = nar_draft(&mut holding.luggage, &holding.offered, record);
        let read = draft.is_some().then_some(record);
        if let Some(draft) = draft {
            self.cache.objects().publish(vec![draft]).await?;
        }
        self.add_to_candidate(record, &holding.brought, read, by).await?;
        if read.is_some() { self.follow_nar(record).await } else { Ok(()) }
    }

    /// Writes down that a path to be held has others beside it.
    async fn conflicts_of(&self, holding: &Holding, by: &str) -> Result<Vec<Event>, GateError> {
        let info = holding.short.record.info();
        let path = self.cache.store_dir().render_path(&info.path);
        let mut events = Vec::new();
        for other in self.others(&info.path, &holding.offered.fingerprint.digest()).await? {
            if self.decisions.may_note_conflict(&path) {
                let (there, offered) = (describe_info(other.record.info()), describe_info(info));
                events.push(Event::Conflict { path: path.clone(), admitted: false, there, offered, by: by.to_owned() });
            }
        }
        Ok(events)
    }

    /// Writes NARs, notes and listings, and then the evidence.
    async fn store_candidates(&self, mut fresh: Vec<Holding>, by: &str) -> Result<(), GateError> {
        let (mut drafts, mut evidence, mut nars) = (Vec::new(), Vec::new(), Vec::new());
        for holding in &mut fresh {
            let record = &holding.short.record;
            let path = &record.info().path;
            let fingerprint = holding.offered.fingerprint.digest();
            if let Some(draft) = nar_draft(&mut holding.luggage, &holding.offered, record) {
                nars.push((drafts.len(), record.clone()));
                drafts.push(draft);
            }
            drafts.push(Note::draft(record, &fingerprint, since(record), by));
            if let Some(listing) = holding.luggage.listing.take() {
                drafts.push(listing_draft(path, &fingerprint, listing));
            }
            let draft = Draft::of_bytes(record_key(path, &fingerprint), Condition::Absent, record.to_bytes());
            evidence.push(draft.in_stage(1));
        }
        let first = drafts.len();
        drafts.extend(evidence);
        let puts = self.cache.objects().publish(drafts).await?;
        for (holding, put) in fresh.iter().zip(&puts[first..]) {
            self.note_write(&holding.short.record.info().path);
            if *put == Put::Refused {
                // Somebody else came first.
                self.add_to_candidate(&holding.short.record, &holding.brought, None, by).await?;
            }
        }
        for (_, record) in nars.into_iter().filter(|(index, _)| puts[*index] == Put::Refused) {
            self.follow_nar(&record).await?;
        }
        Ok(())
    }

    /// Adds signatures to a fingerprint of which there is evidence, and what another reading of its NAR has shown. Of what another
    /// one took the place of, or a crash left, there has to be a note first: then it is held again.
    pub(super) async fn add_to_candidate(
        &self,
        record: &Record,
        brought: &Evidence,
        read: Option<&Record>,
        by: &str,
    ) -> Result<(), GateError> {
        let path = &record.info().path;
        let place = self.place_of(record).await?;
        if place == Place::Nowhere {
            let note = Note::draft(record, &brought.fingerprint().digest(), now(), by);
            self.cache.objects().publish(vec![note]).await?;
        }
        let Some(merged) = self.merge_stored(path, brought, read, by).await? else {
            let path = self.cache.store_dir().render_path(path);
            return Err(GateError::Crossed(format!("{path} was held, and was dropped meanwhile")));
        };
        if place == Place::Shown { self.show_if_it_stands(&merged).await } else { Ok(()) }
    }

    /// Brings the narinfo of a path up to its evidence, if that is enough.
    pub(super) async fn show_if_it_stands(&self, record: &Record) -> Result<(), GateError> {
        match self.refresh(&record.info().path, &record.fingerprint(self.cache.store_dir()), None).await {
            Err(GateError::Refused { .. }) => Ok(()),
            refreshed => refreshed,
        }
    }
}

/// Makes the draft of a NAR that came along.
fn nar_draft(luggage: &mut Luggage, offered: &Offered, record: &Record) -> Option<Draft> {
    let condition = offered.damaged.clone().map_or(Condition::Absent, Condition::Matches);
    let upload = luggage.upload.take()?;
    Some(Draft::of_upload(nar_key(&record.info().nar_hash), condition, upload))
}
