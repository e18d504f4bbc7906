//! Uploads: path infos are judged before their bytes, bytes while they arrive, and a batch becomes visible together.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use policy::{Address, Subject, Verdict};
use tokio::task::JoinHandle;
use verifier::{AddressRequest, Claim, Evidence, Fingerprint, PathInfo, StorePath};

use super::admission::{MAX_SIGNATURES, describe, refused};
use super::commit::{Commit, Offered, Ready};
use super::intake::{Blocks, Demand, Hashed, Intake, IntakeError, Keep, MAX_REFERENCES};
use super::verified::Verified;
use super::{Gate, GateError, Uploader, now};
use crate::object::{Etag, ObjectError};
use crate::store::{FileFacts, Record};

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

/// Bytes of memory that they may take: their listings, and small NARs on their way to where there are no files to wait in.
const BATCH_MEMORY: usize = 16 << 20;

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
    announced: HashSet<StorePath>,
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
            announced: HashSet::new(),
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
        let replaces = match self.known(&info, &fingerprint).await? {
            Present::Merged => return Ok(Offer::Known),
            Present::Absent(replaces) => replaces,
        };
        self.judge_offer(&info, &fingerprint).await?;
        let mut existing = gate.existing_nar(&info).await?;
        if existing.is_some() && gate.is_going(&info.nar_hash).await? {
            existing = None;
        }
        let level = gate.cache.compression_level();
        let keep = if existing.is_some() { Keep::Nothing } else { Keep::Bytes { level } };
        let request = AddressRequest::of_path(&info);
        let intake =
            Intake::start(gate.cache.objects(), Some(&info.nar_hash), Some(info.nar_size), request, keep, &self.blocks);
        self.announced.insert(info.path.clone());
        Ok(Offer::Wanted(Box::new(Wanted { offered: Offered { info, fingerprint, existing, replaces }, intake })))
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
        let existing = self.gate.existing_nar(&info).await?;
        let (verified, luggage) = Verified::compare(store_dir, info.clone(), hashed, existing.clone())?;
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
        self.committed().await?;
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
                Ok(Present::Absent(Some(narinfo.version.etag)))
            };
        }
        // What the policy no longer admits has to be admitted again, by all rules for what is new; until then nothing is kept
        // of what this upload brings.
        if !gate.view().is_valid(&info.path).await? {
            return Ok(Present::Absent(Some(narinfo.version.etag)));
        }
        let evidence = gate.weigh_claims(fingerprint, info.signatures.iter());
        if gate.merge_stored(&info.path, &evidence, &self.uploader.0).await?.is_none() {
            return Ok(Present::Absent(Some(narinfo.version.etag)));
        }
        gate.refresh(&info.path, fingerprint).await?;
        let Some(narinfo) = gate.cache.narinfo(&crate::store::hash_part_of(&info.path)).await? else {
            return Ok(Present::Absent(None));
        };
        match gate.cache.nar_file_size(&info.nar_hash).await? {
            Some(_) => Ok(Present::Merged),
            // Its bytes are lost: these take their place.
            None => Ok(Present::Absent(Some(narinfo.version.etag))),
        }
    }

    /// Decides on a path by what is said of it, before its bytes.
    async fn judge_offer(&self, info: &PathInfo, fingerprint: &Fingerprint) -> Result<(), GateError> {
        let gate = &self.gate;
        let store_dir = gate.cache.store_dir();
        if let Some(address) = &info.content_address {
            address.check_path(store_dir, info).map_err(|error| GateError::FalseAddress {
                path: store_dir.render_path(&info.path),
                why: error.to_string(),
            })?;
        }
        let address = Address::claimed(info);
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
        self.announced.clear();
        self.announced.extend(self.in_flight.iter().map(|(offered, _)| offered.info.path.clone()));
        self.announced.extend(self.ready.iter().map(|ready| ready.offered.info.path.clone()));
        outcome
    }
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

    /// Describes the object that has a path's bytes, if there is one. Such an object is written only after its hash was
    /// checked.
    pub(super) async fn existing_nar(&self, info: &PathInfo) -> Result<Option<FileFacts>, GateError> {
        let size = self.cache.nar_file_size(&info.nar_hash).await?;
        Ok(size.map(|file_size| FileFacts { file_hash: None, file_size }))
    }
}
