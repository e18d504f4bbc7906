//! Uploads: path infos are judged before their bytes, bytes while they arrive, and a batch becomes visible together.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use policy::{Address, Subject, Verdict};
use tokio::task::{JoinHandle, JoinSet};
use verifier::{AddressRequest, Claim, Evidence, Fingerprint, PathInfo, StorePath};

use super::admission::{MAX_SIGNATURES, describe, refused};
use super::announcement::is_going;
use super::commit::{Commit, Offered, Ready};
use super::intake::{Blocks, Demand, Hashed, Intake, IntakeError, Keep, MAX_REFERENCES};
use super::verified::Verified;
use super::{Gate, GateError, Uploader};
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
    uploader: Uploader,
    in_flight: VecDeque<(Offered, JoinHandle<Result<Hashed, IntakeError>>)>,
    ready: Vec<Ready>,
    ready_memory: usize,
    committing: Option<JoinHandle<Result<(), GateError>>>,
    /// Signatures that are being added to paths that are there.
    merging: JoinSet<Result<(), GateError>>,
    announced: HashSet<StorePath>,
    /// Paths that were valid when this batch last looked.
    valid: HashSet<StorePath>,
    /// How many paths are still to be offered, as far as the uploader has said.
    expected: Option<u64>,
    blocks: Blocks,
}

impl Batch {
    /// Starts a batch.
    #[must_use]
    pub fn new(gate: Arc<Gate>, uploader: Uploader) -> Self {
        Self {
            gate,
            uploader,
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
        let (replaces, damaged) = match self.known(&info, &fingerprint).await? {
            Present::There(narinfo) => {
                self.merge(&info, &fingerprint, narinfo).await?;
                return Ok(Offer::Known);
            }
            Present::Absent { replaces, damaged } => (replaces, damaged),
        };
        self.judge_offer(&info, &fingerprint).await?;
        // A small one is sooner sent than asked for. Where it is there already, it stays.
        let small = replaces.is_none() && info.nar_size <= SMALL_NAR;
        let mut existing = if small || damaged.is_some() { None } else { gate.existing_nar(&info).await? };
        if existing.is_some() && is_going(gate.cache.objects(), &info.nar_hash).await? {
            existing = None;
        }
        let level = gate.cache.compression_level();
        let keep = if existing.is_some() { Keep::Nothing } else { Keep::Bytes { level } };
        let request = AddressRequest::of_path(&info);
        let intake =
            Intake::start(gate.cache.objects(), Some(&info.nar_hash), Some(info.nar_size), request, keep, &self.blocks);
        self.announced.insert(info.path.clone());
        Ok(Offer::Wanted(Box::new(Wanted {
            offered: Offered { info, fingerprint, existing, replaces, damaged },
            intake,
        })))
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
        self.judge_offer(&info, &fingerprint).await?;
        let existing = if damaged.is_some() { None } else { gate.existing_nar(&info).await? };
        let (verified, luggage) = Verified::compare(store_dir, info.clone(), hashed, existing.clone())?;
        self.ready.push(Ready {
            offered: Offered { info, fingerprint, existing, replaces, damaged },
            verified,
            luggage,
        });
        Ok(())
    }

    /// Makes everything visible whose bytes have come and are right. When this returns, it is also on disk.
    ///
    /// # Errors
    /// The first reason why something could not be admitted; what came before it is.
    pub async fn finish(mut self) -> Result<(), GateError> {
        let mut settled = self.settle().await;
        self.commit().await?;
        self.committed().await?;
        while !self.merging.is_empty() {
            settled = settled.and(self.merged_one().await);
        }
        settled
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
            return Err(GateError::Conflict {
                path: store_dir.render_path(&info.path),
                admitted: describe(&narinfo.info),
                offered: describe(info),
            });
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
    async fn judge_offer(&mut self, info: &PathInfo, fingerprint: &Fingerprint) -> Result<(), GateError> {
        let gate = self.gate.clone();
        let store_dir = gate.cache.store_dir();
        if let Some(address) = &info.content_address {
            address.check_path(store_dir, info).map_err(|error| GateError::FalseAddress {
                path: store_dir.render_path(&info.path),
                why: error.to_string(),
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
        let mut decision = decide(None);
        if decision.verdict() != Verdict::Admit
            && let Some((kept, _)) = gate.cache.record(&info.path, &fingerprint.digest()).await?
        {
            decision = decide(Some(&kept));
        }
        if decision.verdict() == Verdict::Admit { Ok(()) } else { Err(refused(store_dir, &info.path, decision)) }
    }

    /// Lists the references of a path that are not admitted, nor about to be. What was valid earlier in this batch is looked at
    /// again when the path becomes visible.
    async fn absent_references(&mut self, info: &PathInfo) -> Result<Vec<StorePath>, GateError> {
        let here = |path: &StorePath| self.announced.contains(path) || self.valid.contains(path);
        let absent = self.gate.absent_references(info, here).await?;
        let valid = info.other_references().filter(|path| !self.announced.contains(*path) && !absent.contains(path));
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
            IntakeError::Nar(source) => GateError::Nar { path: store_dir.render_path(&offered.info.path), source },
            IntakeError::Object(error) => error.into(),
        })?;
        let facts = offered.existing.clone();
        let (verified, luggage) = Verified::compare(store_dir, offered.info.clone(), hashed, facts)?;
        self.ready_memory += luggage.listing.as_ref().map_or(0, Vec::len);
        self.ready_memory += luggage.upload.as_ref().map_or(0, |upload| upload.held());
        self.ready.push(Ready { offered, verified, luggage });
        Ok(())
    }

    /// Starts to make visible what is ready, once what was before it is.
    async fn commit(&mut self) -> Result<(), GateError> {
        self.committed().await?;
        if !self.ready.is_empty() {
            let commit = Commit { gate: self.gate.clone(), uploader: self.uploader.clone() };
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
        if outcome.is_ok() {
            self.note_valid(committed);
        }
        outcome
    }
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

    /// Describes the object that has a path's bytes, if there is one. Such an object is written only after its hash was
    /// checked.
    pub(super) async fn existing_nar(&self, info: &PathInfo) -> Result<Option<FileFacts>, GateError> {
        let file = self.cache.nar_file(&info.nar_hash).await?;
        Ok(file.map(|file| FileFacts { file_hash: None, file_size: file.size }))
    }
}
