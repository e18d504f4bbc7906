//! Uploads: path infos are judged before their bytes, bytes while they arrive, and a batch becomes visible together.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use policy::{Address, Code, Subject, Verdict};
use tokio::task::{JoinHandle, JoinSet};
use verifier::{AddressRequest, Claim, Evidence, Fingerprint, PathInfo, StorePath};

use super::admission::{MAX_SIGNATURES, refused};
use super::announcement::is_going;
use super::commit::{Commit, Committed, Offered, Ready, is_holdable};
use super::intake::{Blocks, Demand, Hashed, Intake, IntakeError, Keep, MAX_REFERENCES};
use super::promotion::is_candidate;
use super::staging::Reservation;
use super::verified::Verified;
use super::{Gate, GateError, Sight, Uploader};
use crate::clock::now;
use crate::object::{Etag, Object, ObjectError};
use crate::store::{FileFacts, MAX_NARINFO, Record, hash_part_of, narinfo_key};

/// Paths whose bytes are in the works at once: while some are compressed, the next arrives.
const IN_FLIGHT: usize = 8;

/// From how many paths on a batch starts to become visible, if the one before is. They share their syncs of the disk while the
/// next arrive: the slower the disk, the more paths share one.
const BATCH: usize = 32;

/// From how many paths on when these are nearly the last: what is left to do when the last bytes have come, the uploader waits
/// for.
const BATCH_LAST: usize = 8;

/// At how many paths it waits for the one before.
const BATCH_MOST: usize = 256;

/// Paths to which signatures are being added at once.
const MERGING: usize = 16;

/// Up to this size, in bytes, a NAR is taken without a look whether the store has it.
const SMALL_NAR: u64 = 256 << 10;

/// Most paths that one batch remembers to be valid, some hundred bytes each.
const MOST_VALID: usize = 100_000;

/// Bytes of memory that they may take: their listings, and small NARs on their way to where there are no files to wait in.
const BATCH_MEMORY: usize = 16 << 20;

/// What becomes of a path that is offered.
pub enum Offer {
    /// It is admitted already, and its signatures are being added to those that are kept: its bytes are not needed.
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
    /// Takes the next bytes. After the bytes turned out to be of no use, more of them are ignored, and [`Batch::accept`]
    /// says why.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn feed(&mut self, chunk: Bytes) -> Result<(), GateError> {
        let _told_when_accepted: Demand = self.intake.feed(chunk).await?;
        Ok(())
    }
}

/// An upload of one path or many, references first.
///
/// What is complete becomes visible in the order in which it came. A batch that is dropped leaves nothing of what was not
/// committed.
pub struct Batch {
    gate: Arc<Gate>,
    sight: Sight,
    uploader: Uploader,
    in_flight: VecDeque<(Offered, JoinHandle<Result<Hashed, IntakeError>>)>,
    ready: Vec<Ready>,
    ready_memory: usize,
    committing: Option<JoinHandle<Result<Committed, GateError>>>,
    committed: Committed,
    /// Signatures that are being added to paths that are there.
    merging: JoinSet<Result<(), GateError>>,
    announced: HashSet<StorePath>,
    /// Those that are to be held: nothing that refers to them can be admitted with them.
    short: HashSet<StorePath>,
    /// Paths that were valid when this batch last looked.
    valid: HashSet<StorePath>,
    /// How many paths are still to be offered, as far as the uploader has said.
    expected: Option<u64>,
    blocks: Blocks,
}

impl Batch {
    /// Starts a batch. On staging, what falls short is held if somebody's word counts for it.
    #[must_use]
    pub fn new(gate: Arc<Gate>, sight: Sight, uploader: Uploader) -> Self {
        Self {
            gate,
            sight,
            uploader,
            committed: Committed::default(),
            short: HashSet::new(),
            in_flight: VecDeque::new(),
            ready: Vec::new(),
            ready_memory: 0,
            committing: None,
            merging: JoinSet::new(),
            announced: HashSet::new(),
            valid: HashSet::new(),
            expected: None,
            blocks: Blocks::new(),
        }
    }

    /// Says how many paths will be offered. It decides nothing but when they become visible.
    pub fn expect(&mut self, paths: u64) {
        self.expected = Some(paths);
    }

    /// Offers a path, before its bytes: a refusal costs nobody more than its path info.
    ///
    /// # Errors
    /// [`GateError::Refused`] with what is missing, or another reason why the path cannot be taken.
    pub async fn offer(&mut self, info: PathInfo) -> Result<Offer, GateError> {
        self.expected = self.expected.map(|paths| paths.saturating_sub(1));
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
            self.committed().await?;
        }
        let (replaces, mut damaged) = match self.known(&info, &fingerprint).await? {
            Present::There(narinfo) => {
                self.merge(&info, &fingerprint, narinfo).await?;
                return Ok(Offer::Known);
            }
            Present::Absent { replaces, damaged } => (replaces, damaged),
        };
        let JudgedOffer { kept, reservation } = self.judge_offer(&info, &fingerprint, replaces.is_some()).await?;
        // A small one is sooner sent than asked for. Where it is there already, it stays.
        let small = replaces.is_none() && kept.is_none() && info.nar_size <= SMALL_NAR;
        let mut existing = None;
        if !small && damaged.is_none() {
            (existing, damaged) = gate.reliable_nar(&info, &fingerprint, kept.as_ref()).await?;
        }
        let level = gate.cache.compression_level();
        let keep = if existing.is_some() { Keep::Nothing } else { Keep::Bytes { level } };
        let request = AddressRequest::of_path(&info);
        let intake =
            Intake::start(gate.cache.objects(), Some(&info.nar_hash), Some(info.nar_size), request, keep, &self.blocks);
        self.announced.insert(info.path.clone());
        let kept = kept.is_some();
        let offered = Offered { info, fingerprint, existing, replaces, damaged, kept, reservation };
        Ok(Offer::Wanted(Box::new(Wanted { offered, intake })))
    }

    /// Takes a path whose bytes have all come. They may still be in the works when this returns.
    ///
    /// # Errors
    /// When the bytes of this or an earlier path are not what they should be, or the store fails.
    pub async fn accept(&mut self, wanted: Wanted) -> Result<(), GateError> {
        let Wanted { offered, intake } = wanted;
        self.in_flight.push_back((offered, intake.finish().await?));
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle_one().await?;
        }
        let idle = self.committing.as_ref().is_none_or(JoinHandle::is_finished);
        if self.ready_memory >= BATCH_MEMORY {
            // Some of it may have been sent meanwhile.
            self.ready_memory = self.ready.iter().map(Ready::memory).sum();
        }
        let full = self.ready.len() >= BATCH_MOST || self.ready_memory >= BATCH_MEMORY;
        let enough = if self.expected.is_some_and(|paths| paths < BATCH as u64) { BATCH_LAST } else { BATCH };
        if full || (idle && self.ready.len() >= enough) {
            self.commit().await?;
        }
        Ok(())
    }

    /// Takes a path whose bytes were hashed before their path was known.
    pub(super) async fn accept_hashed(&mut self, info: PathInfo, hashed: Hashed) -> Result<(), GateError> {
        let gate = self.gate.clone();
        let store_dir = gate.cache.store_dir();
        let fingerprint = info.fingerprint(store_dir).map_err(|error| GateError::Unacceptable {
            path: store_dir.render_path(&info.path),
            why: error.to_string(),
        })?;
        let (replaces, damaged) = match self.known(&info, &fingerprint).await? {
            Present::There(narinfo) => return self.merge(&info, &fingerprint, narinfo).await,
            Present::Absent { replaces, damaged } => (replaces, damaged),
        };
        let JudgedOffer { kept, reservation } = self.judge_offer(&info, &fingerprint, replaces.is_some()).await?;
        let (existing, damaged) = match damaged {
            None => gate.reliable_nar(&info, &fingerprint, kept.as_ref()).await?,
            damaged => (None, damaged),
        };
        let (verified, luggage) = Verified::compare(store_dir, info.clone(), hashed, existing.clone())?;
        self.ready.push(Ready {
            offered: Offered { info, fingerprint, existing, replaces, damaged, kept: kept.is_some(), reservation },
            verified,
            luggage,
        });
        Ok(())
    }

    /// Makes everything visible whose bytes have come and are right. When this returns, it is also on disk.
    ///
    /// # Errors
    /// The first reason why something could not be admitted; what came before it is.
    pub async fn finish(mut self) -> Result<Committed, GateError> {
        let mut settled = self.settle().await;
        let committed = match self.commit().await {
            Ok(()) => self.committed().await,
            failed => failed,
        };
        settled = committed.and(settled);
        // Signatures that are being added are waited for, whatever happened to the rest.
        while !self.merging.is_empty() {
            settled = settled.and(self.merged_one().await);
        }
        settled.map(|()| self.committed)
    }

    /// Finds out whether the store has this path already.
    async fn known(&self, info: &PathInfo, fingerprint: &Fingerprint) -> Result<Present, GateError> {
        let gate = &self.gate;
        let store_dir = gate.cache.store_dir();
        let nothing = Present::Absent { replaces: None, damaged: None };
        if gate.recent.is_absent(&info.path) {
            return Ok(nothing);
        }
        let Some(object) = gate.cache.objects().get(&narinfo_key(&info.path), MAX_NARINFO).await? else {
            return Ok(nothing);
        };
        let narinfo = gate.cache.parse_narinfo(&hash_part_of(&info.path), &object)?;
        let replaces = Some(narinfo.version.etag.clone());
        // What the policy no longer admits has to be admitted again, by all rules for what is new; until then nothing is kept
        // of what this upload brings.
        if !gate.view().is_valid_at(&narinfo.info.path, &narinfo.version).await? {
            return Ok(Present::Absent { replaces, damaged: None });
        }
        if narinfo.info.fingerprint(store_dir).ok().as_ref() != Some(fingerprint) {
            let evidence = gate.weigh_claims(fingerprint, info.signatures.iter());
            return Err(gate.conflict(&narinfo.info, info, &evidence, &self.uploader.0).await?);
        }
        let nar = gate.cache.nar_file(&info.nar_hash).await?;
        if narinfo.fits(nar.as_ref()) {
            return Ok(Present::There(object));
        }
        // Its bytes are lost, or some of them: these take their place.
        Ok(Present::Absent { replaces, damaged: nar.map(|nar| nar.version.etag) })
    }

    /// Has the signatures of a path that is there already added to those that are kept.
    async fn merge(&mut self, info: &PathInfo, fingerprint: &Fingerprint, narinfo: Object) -> Result<(), GateError> {
        while self.merging.len() >= MERGING {
            self.merged_one().await?;
        }
        let (gate, uploader) = (self.gate.clone(), self.uploader.clone());
        let (path, evidence) = (info.path.clone(), gate.weigh_claims(fingerprint, info.signatures.iter()));
        self.merging.spawn(async move {
            let Some(record) = gate.merge_stored(&path, &evidence, None, &uploader.0).await? else {
                let path = gate.cache.store_dir().render_path(&path);
                return Err(GateError::Crossed(format!("{path} was there, and was deleted during the upload")));
            };
            gate.refresh(&path, evidence.fingerprint(), Some((narinfo, record))).await
        });
        Ok(())
    }

    async fn merged_one(&mut self) -> Result<(), GateError> {
        self.merging.join_next().await.map_or(Ok(()), |merged| merged.map_err(ObjectError::from)?)
    }

    /// Decides on a path by what is said of it, before its bytes.
    async fn judge_offer(
        &mut self,
        info: &PathInfo,
        fingerprint: &Fingerprint,
        shown: bool,
    ) -> Result<JudgedOffer, GateError> {
        let gate = self.gate.clone();
        let store_dir = gate.cache.store_dir();
        if let Some(address) = &info.content_address {
            address.check_path(store_dir, info).map_err(|error| {
                gate.decisions.note_refusal(Code::FalseContentAddress);
                GateError::FalseAddress { path: store_dir.render_path(&info.path), why: error.to_string() }
            })?;
        }
        let absent = self.absent_references(info).await?;
        let policy = gate.policy();
        let decide = |kept: Option<&Record>| {
            let claims = info.signatures.iter().map(|text| Claim { text, first_seen: None });
            let claims = kept.into_iter().flat_map(Record::claims).chain(claims);
            let evidence = Evidence::weigh(fingerprint.clone(), claims, policy.keyring(), now());
            let address = Address::claimed(info);
            let subject = Subject { path: &info.path, evidence: &evidence, address, absent_references: &absent };
            policy.decide(&subject, now())
        };
        let (mut decision, mut kept) = (decide(None), None);
        // There is evidence of what is shown, and of what is held. On the other socket this is the last look before a refusal.
        let perhaps_kept = match self.sight {
            Sight::Admitted => true,
            Sight::Staging => shown || gate.is_noted(&info.path, &fingerprint.digest()).await?,
        };
        if decision.verdict() != Verdict::Admit
            && perhaps_kept
            && let Some((record, _)) = gate.cache.record(&info.path, &fingerprint.digest()).await?
        {
            (decision, kept) = (decide(Some(&record)), Some(record));
        }
        if decision.verdict() == Verdict::Admit {
            return Ok(JudgedOffer { kept, reservation: None });
        }
        if self.sight == Sight::Staging && is_holdable(&decision) {
            let has_room = kept.as_ref().is_some_and(is_candidate);
            let reservation = match has_room {
                true => None,
                false => Some(gate.reserve(info, &fingerprint.digest(), &decision, &self.uploader).await?),
            };
            self.short.insert(info.path.clone());
            return Ok(JudgedOffer { kept, reservation });
        }
        gate.note_refusal(&decision);
        Err(refused(store_dir, &info.path, decision))
    }

    /// Lists the references of a path that are not admitted, nor about to be. What was valid earlier in this batch is looked at
    /// again when the path becomes visible.
    async fn absent_references(&mut self, info: &PathInfo) -> Result<Vec<StorePath>, GateError> {
        let comes = |path: &StorePath| self.announced.contains(path) && !self.short.contains(path);
        let here = |path: &StorePath| comes(path) || self.valid.contains(path);
        let absent = self.gate.absent_references(info, here).await?;
        let valid = info.other_references().filter(|path| !comes(path) && !absent.contains(path));
        self.note_valid(valid.cloned().collect::<Vec<_>>());
        Ok(absent)
    }

    fn note_valid(&mut self, paths: impl IntoIterator<Item = StorePath>) {
        if self.valid.len() >= MOST_VALID {
            self.valid.clear();
        }
        self.valid.extend(paths);
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
        let hashed = work.await.map_err(ObjectError::from)?.map_err(|error| match error {
            IntakeError::Nar(source) => {
                self.gate.decisions.note_refusal(Code::ContentMismatch);
                GateError::Nar { path: store_dir.render_path(&offered.info.path), source }
            }
            IntakeError::Object(error) => error.into(),
        })?;
        let facts = offered.existing.clone();
        let compared = Verified::compare(store_dir, offered.info.clone(), hashed, facts);
        let (verified, luggage) = compared.inspect_err(|error| match error {
            GateError::FalseAddress { .. } => self.gate.decisions.note_refusal(Code::FalseContentAddress),
            _ => self.gate.decisions.note_refusal(Code::ContentMismatch),
        })?;
        let ready = Ready { offered, verified, luggage };
        self.ready_memory += ready.memory();
        self.ready.push(ready);
        Ok(())
    }

    /// Starts to make visible what is ready, once what was before it is.
    async fn commit(&mut self) -> Result<(), GateError> {
        self.committed().await?;
        if !self.ready.is_empty() {
            let commit = Commit { gate: self.gate.clone(), uploader: self.uploader.clone(), sight: self.sight };
            self.ready_memory = 0;
            self.committing = Some(tokio::spawn(commit.run(std::mem::take(&mut self.ready))));
        }
        Ok(())
    }

    /// Waits until what was to become visible is, and on disk.
    async fn committed(&mut self) -> Result<(), GateError> {
        let Some(committing) = self.committing.take() else {
            return Ok(());
        };
        let outcome = committing.await.map_err(ObjectError::from)?;
        let committed = std::mem::take(&mut self.announced);
        self.announced.extend(self.in_flight.iter().map(|(offered, _)| offered.info.path.clone()));
        self.announced.extend(self.ready.iter().map(|ready| ready.offered.info.path.clone()));
        let outcome = outcome?;
        let valid: Vec<StorePath> = committed.into_iter().filter(|path| !self.short.contains(path)).collect();
        self.note_valid(valid);
        self.committed.add(outcome);
        Ok(())
    }
}

/// What was made of a path by what is said of it.
struct JudgedOffer {
    /// The evidence that is there, if the decision rests on it.
    kept: Option<Record>,
    /// Room in staging, if it is to be held and is not yet.
    reservation: Option<Reservation>,
}

/// Whether a path that is offered is there.
enum Present {
    /// It is admitted, with its NAR; its narinfo.
    There(Object),
    /// It is not, or its NAR is lost. Perhaps there is a narinfo to be replaced, and a NAR that is not the object that was written.
    Absent { replaces: Option<Etag>, damaged: Option<Etag> },
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

    /// Describes the object that has a path's bytes, if an upload of them may rely on it: evidence of this path has to state its
    /// very size. Otherwise the bytes are kept, as nobody says how long it should be. Returns also the version of one that they are to
    /// take the place of.
    async fn reliable_nar(
        &self,
        info: &PathInfo,
        fingerprint: &Fingerprint,
        kept: Option<&Record>,
    ) -> Result<(Option<FileFacts>, Option<Etag>), GateError> {
        let Some(nar) = self.cache.nar_file(&info.nar_hash).await? else {
            return Ok((None, None));
        };
        let stated = match kept {
            Some(record) => Some(record.nar.file.file_size),
            None => {
                let record = self.cache.record(&info.path, &fingerprint.digest()).await?;
                record.map(|(record, _)| record.nar.file.file_size)
            }
        };
        match stated {
            None => Ok((None, None)),
            // What is lost of it, these bytes make up for.
            Some(size) if size != nar.size => Ok((None, Some(nar.version.etag))),
            // Nobody deletes what is held but by name.
            Some(_) if kept.is_none() && is_going(self.cache.objects(), &info.nar_hash).await? => Ok((None, None)),
            Some(size) => Ok((Some(FileFacts::of_size(size)), None)),
        }
    }

    /// Describes the object that has a path's bytes, if there is one. Such an object is written only after its hash was
    /// checked.
    pub(super) async fn existing_nar(&self, info: &PathInfo) -> Result<Option<FileFacts>, GateError> {
        let file = self.cache.nar_file(&info.nar_hash).await?;
        Ok(file.map(|file| FileFacts::of_size(file.size)))
    }
}
