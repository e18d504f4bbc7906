//! Promotion: what is held is admitted once its requirement is met, and after it what waited for it.
//!
//! Whoever makes a path valid, or adds to what is held, writes first and then looks here: of a path and what waits for it,
//! written by two gates at once, at least one gate sees both.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use policy::{Code, Decision, Finding, Verdict};
use verifier::{FingerprintDigest, PathInfo, StorePath};

use super::admission::{Admissible, Circumstances, Publication, Purpose, Short};
use super::announcement::{Announcement, Touched, announce_upload};
use super::shelf::{Digest, Note};
use super::verified::{Luggage, Verified};
use super::{Gate, GateError, subject_of};
use crate::clock::now;
use crate::object::{Condition, Etag, Version};
use crate::store::{Record, State, describe_info, hash_part_of};

/// Candidates that are looked at together, under one announcement.
const AT_A_TIME: usize = 256;

/// References that they have together, unless one has more: each is announced.
const REFERENCES_AT_A_TIME: usize = 20_000;

/// Objects that are read at once.
const AT_ONCE: usize = 32;

/// What came of an attempt to admit what is held.
#[derive(Debug, Default)]
pub(super) struct Promoted {
    pub(super) admitted: HashSet<StorePath>,
    /// What still falls short of the paths that were asked about, and why.
    pub(super) short: HashMap<FingerprintDigest, Decision>,
    asked: HashSet<StorePath>,
}

impl Promoted {
    fn note_short(&mut self, note: &Note, decision: impl FnOnce() -> Decision) {
        if self.asked.contains(&note.path) {
            self.short.insert(note.fingerprint, decision());
        }
    }
}

/// A candidate as it was read.
struct Read {
    note: Arc<Note>,
    record: Record,
    version: Version,
    shown: Shown,
}

/// What a path shows.
enum Shown {
    /// This fingerprint, which is valid.
    This,
    /// Another one, which is valid.
    Another(Box<PathInfo>),
    /// Nothing that is valid; perhaps there is a narinfo to be replaced.
    Nothing(Option<Etag>),
}

/// A look at all that something may have made admissible.
struct Cascade {
    waiting: VecDeque<Arc<Note>>,
    /// What was not looked at yet, since something that it refers to is held.
    blocked: HashMap<Digest, Vec<Arc<Note>>>,
    /// The hash parts of what is held and not admitted yet, of all that is looked at.
    held: HashSet<Digest>,
    depth: Depth,
}

/// How far a cascade looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// At what waits for nothing that is held: what is read is what may be admitted.
    WhatMayBe,
    /// At everything, also at notes of what is valid long since, and of which a path shows another: who looks for what crashes left,
    /// or somebody put in the way, has to.
    Everything,
}

impl Cascade {
    fn new(waiting: VecDeque<Arc<Note>>, depth: Depth) -> Self {
        let held = waiting.iter().map(|note| note.digest()).collect();
        Self { waiting, blocked: HashMap::new(), held, depth }
    }

    /// Takes what may be looked at next, as if those before it were admitted.
    fn next(&mut self) -> Vec<Arc<Note>> {
        let (mut taken, mut references, mut here) = (Vec::new(), 0, HashSet::new());
        while let Some(note) = self.waiting.pop_front() {
            let waits_for = note.references.iter().find(|reference| {
                self.held.contains(*reference) && !here.contains(*reference) && **reference != note.digest()
            });
            if let Some(reference) = waits_for.filter(|_| self.depth == Depth::WhatMayBe) {
                self.blocked.entry(*reference).or_default().push(note);
                continue;
            }
            references += note.references.len();
            if !taken.is_empty() && (references > REFERENCES_AT_A_TIME || taken.len() == AT_A_TIME) {
                self.waiting.push_front(note);
                break;
            }
            here.insert(note.digest());
            taken.push(note);
        }
        taken
    }

    /// Returns what a candidate waits for, of what is held.
    fn waits_for(&self, note: &Note) -> Option<Digest> {
        let first = note.references.iter().find(|reference| self.held.contains(*reference)).copied();
        first.filter(|digest| *digest != note.digest())
    }

    /// Says that a path is valid, or about to be.
    fn unblock(&mut self, digest: Digest) {
        self.held.remove(&digest);
        for note in self.blocked.remove(&digest).into_iter().flatten() {
            self.waiting.push_front(note);
        }
    }
}

impl Gate {
    /// Admits what can be, of the candidates of some paths and of all that waits for them. What fails is left for
    /// [`Gate::tend_staging`].
    pub(super) async fn promote_after(self: &Arc<Self>, paths: HashSet<StorePath>, by: &str) -> Promoted {
        match self.promote(paths, Depth::WhatMayBe, by).await {
            Ok(promoted) => promoted,
            Err(error) => {
                tracing::warn!(%error, "not everything was admitted that could be: it is tried again");
                self.staging.note_unfinished();
                Promoted::default()
            }
        }
    }

    /// Admits what can be, of the candidates of some paths and of all that waits for them.
    pub(super) async fn promote(
        self: &Arc<Self>,
        paths: HashSet<StorePath>,
        depth: Depth,
        by: &str,
    ) -> Result<Promoted, GateError> {
        let mut seeds: HashSet<Digest> = paths.iter().map(|path| *path.digest()).collect();
        let mut promoted = Promoted { asked: paths, ..Promoted::default() };
        while !seeds.is_empty() {
            // What was held since by others may have been waiting for what has just been admitted.
            self.staging.shelf.look().await?;
            if self.staging.shelf.is_empty() {
                break;
            }
            let before = promoted.admitted.len();
            let mut cascade = Cascade::new(self.staging.shelf.affected(&seeds), depth);
            loop {
                let notes = cascade.next();
                if notes.is_empty() {
                    break;
                }
                self.promote_some(notes, &mut cascade, &mut promoted, by).await?;
            }
            seeds = match promoted.admitted.len() > before {
                true => promoted.admitted.iter().map(|path| *path.digest()).collect(),
                false => HashSet::new(),
            };
        }
        Ok(promoted)
    }

    /// Looks at some candidates, and publishes those that are admissible.
    async fn promote_some(
        self: &Arc<Self>,
        notes: Vec<Arc<Note>>,
        cascade: &mut Cascade,
        promoted: &mut Promoted,
        by: &str,
    ) -> Result<(), GateError> {
        let mut touched = Touched::default();
        for note in &notes {
            touched.add_path(&note.path);
            touched.add_nar(&note.nar_hash);
            touched.add_digests(&note.references);
        }
        let announcement = announce_upload(self.cache.objects(), &touched).await?;
        let outcome = announcement.keep(self.promote_announced(notes, cascade, promoted, by, &announcement)).await;
        announcement.end(outcome).await
    }

    async fn promote_announced(
        self: &Arc<Self>,
        notes: Vec<Arc<Note>>,
        cascade: &mut Cascade,
        promoted: &mut Promoted,
        by: &str,
        announcement: &Announcement,
    ) -> Result<(), GateError> {
        let looks = notes.iter().map(|note| self.read_candidate(note.clone()));
        let looks: Vec<Option<Read>> = stream::iter(looks.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        for (note, _) in notes.iter().zip(&looks).filter(|(_, look)| look.is_none()) {
            // There is nothing that could be waited for.
            cascade.unblock(note.digest());
        }
        let (mut here, mut publications, mut done) = (HashSet::new(), Vec::new(), Vec::new());
        for read in looks.into_iter().flatten() {
            let note = read.note.clone();
            match &read.shown {
                Shown::This => {
                    if self.catch_up(&read.record).await? {
                        cascade.unblock(note.digest());
                        done.push(note);
                    }
                }
                Shown::Another(shown) => {
                    cascade.unblock(note.digest());
                    let decision = self.decide_now(&read.record).await?;
                    let conflict = Finding::new(Code::Conflict, format!("{} is admitted for it", describe_info(shown)));
                    promoted.note_short(&note, || decision.limited(Verdict::Hold, conflict));
                }
                // Another candidate of the same path was faster.
                Shown::Nothing(_) if here.contains(&note.path) => {}
                Shown::Nothing(_) => {
                    if let Some(missing) = cascade.waits_for(&note) {
                        cascade.blocked.entry(missing).or_default().push(note);
                        continue;
                    }
                    match self.judge_candidate(read, &here).await? {
                        Ok(publication) => {
                            here.insert(note.path.clone());
                            publications.push(publication);
                            cascade.unblock(note.digest());
                            done.push(note);
                        }
                        Err(short) => promoted.note_short(&note, || short.decision),
                    }
                }
            }
        }
        if !publications.is_empty() {
            announcement.holds()?;
            match self.publish(publications, by).await {
                // Another candidate of a path was faster, at another gate; the rest is there.
                Err(error @ GateError::Conflict { .. }) => {
                    tracing::warn!(%error, "not everything was admitted that could be: it is tried again");
                    self.staging.note_unfinished();
                    return Ok(());
                }
                published => published?,
            }
            promoted.admitted.extend(here);
        }
        for note in &done {
            promoted.short.remove(&note.fingerprint);
        }
        let removals = done.iter().map(|note| self.staging.shelf.remove(note));
        stream::iter(removals.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Brings the narinfo of a path that is valid up to its evidence; says whether that was done, and not left for later.
    async fn catch_up(&self, record: &Record) -> Result<bool, GateError> {
        match self.show_if_it_stands(record).await {
            Ok(()) => Ok(true),
            Err(error @ (GateError::Store(_) | GateError::Log(_))) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the narinfo lacks signatures: it is tried again");
                self.staging.note_unfinished();
                Ok(false)
            }
        }
    }

    /// Reads a candidate, and what its path shows; none if it is no candidate any more.
    async fn read_candidate(&self, note: Arc<Note>) -> Result<Option<Read>, GateError> {
        let Some((record, version)) = self.record_of(&note.path, &note.fingerprint).await? else {
            return Ok(None);
        };
        let narinfo = match self.cache.narinfo(&hash_part_of(&note.path)).await {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "a narinfo is damaged: nothing takes its place by itself");
                return Ok(None);
            }
            read => read?,
        };
        let shown = match narinfo {
            None => Shown::Nothing(None),
            Some(narinfo) => {
                let is_this = narinfo.info.fingerprint(self.cache.store_dir()).map(|fingerprint| fingerprint.digest());
                match (is_this == Ok(note.fingerprint), self.view().is_valid(&narinfo.info.path).await?) {
                    (true, true) => Shown::This,
                    (false, true) => Shown::Another(Box::new(narinfo.info)),
                    (_, false) => Shown::Nothing(Some(narinfo.version.etag)),
                }
            }
        };
        Ok(Some(Read { note, record, version, shown }))
    }

    /// Judges a candidate as what was just uploaded is judged; `here` are the paths that are published with it.
    async fn judge_candidate(
        &self,
        read: Read,
        here: &HashSet<StorePath>,
    ) -> Result<Result<Publication, Box<Short>>, GateError> {
        let Read { note, record, version, shown } = read;
        if let Err(error) = self.cache.project(&record) {
            tracing::error!(%error, "what is held cannot be shown");
            let decision = self.decide_now(&record).await?;
            return Ok(Err(Box::new(Short { record, decision })));
        }
        let whole = self.existing_nar(record.info()).await?;
        if whole.as_ref().is_none_or(|there| there.file_size != record.nar.file.file_size) {
            let path = self.cache.store_dir().render_path(&note.path);
            tracing::error!(path, "the NAR of what is held is missing or truncated: the next upload replaces it");
            let decision = self.decide_now(&record).await?;
            return Ok(Err(Box::new(Short { record, decision })));
        }
        let policy = self.policy();
        let brought = self.evidence(&record, &policy);
        // Who lacks signatures does not have everybody's references looked up.
        let mut decision = policy.decide(&subject_of(&record, &brought, &[]), now());
        if decision.verdict() != Verdict::Admit {
            if let Some((at_most, conflict)) = self.rival(&note.path, &note.fingerprint).await? {
                decision = decision.limited(at_most, conflict);
            }
            return Ok(Err(Box::new(Short { record, decision })));
        }
        let verified = Verified::on_record(&record);
        let judged = self.judge_now(&verified, record, |path| here.contains(path)).await?;
        let admissible = match judged {
            Ok(admissible) => admissible,
            Err(short) => return Ok(Err(short)),
        };
        let listing = self.staging.shelf.listing(&note).await?;
        let replaces = match shown {
            Shown::Nothing(replaces) => replaces,
            Shown::This | Shown::Another(_) => None,
        };
        let condition = Condition::Matches(version.etag);
        let luggage = Luggage { upload: None, listing };
        Ok(Ok(Publication { admissible, condition, brought, luggage, replaces, damaged: None }))
    }

    /// Judges verified bytes by the policy of now, and by what is there.
    pub(super) async fn judge_now(
        &self,
        verified: &Verified,
        record: Record,
        here: impl Fn(&StorePath) -> bool,
    ) -> Result<Result<Admissible, Box<Short>>, GateError> {
        let store_dir = self.cache.store_dir();
        let absent = &self.absent_references(record.info(), here).await?;
        let rival = self.rival(&record.info().path, &record.fingerprint(store_dir).digest()).await?;
        let policy = &self.policy();
        let circumstances = Circumstances { purpose: Purpose::Admit, policy, store_dir, absent, rival };
        Ok(Admissible::judge(verified, record, circumstances).map(|admissible| admissible.countersigned(self)))
    }
}

/// Says whether a record is of something that is held.
pub(super) fn is_candidate(record: &Record) -> bool {
    matches!(record.state, State::Candidate { .. })
}
