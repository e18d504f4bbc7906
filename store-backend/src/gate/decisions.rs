//! The decision log: what was admitted, refused and deleted, under which policy and by whose word, in one chain.
//!
//! A record is a line of JSON, and carries the SHA-256 of the line before it: none can be changed or left out unless all that
//! follow are written anew. Records are written in segments, objects with numbers that follow each other, each created on the
//! condition that nobody else has created it. So any number of gates write one chain, and those that wait for a segment of a
//! gate share one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use policy::{Code, Policy};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use verifier::{FingerprintDigest, PathInfo, StoreDir, Timestamp, base16};

use super::admission::ATTEMPTS;
use crate::clock::now;
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Entry, Key, ObjectError, ObjectStore, Put};
use crate::store::{Record, SignatureRecord};

/// Where the segments are: in folders of [`FOLDER`] numbers each.
const FOLDERS: &str = "quorum/log/";

/// Segments in one folder: the last one is found by listing the last folder.
const FOLDER: u64 = 1_000;

/// Most records in one segment. One of a path with a few signatures has about a kilobyte.
const MOST_RECORDS: usize = 1_000;

/// Most admissions that are remembered, so that they are not written twice; some hundred bytes each.
const MOST_REMEMBERED: usize = 100_000;

/// Most conflicts of one path that a gate writes.
const MOST_CONFLICTS: usize = 8;

/// Most signatures in one segment, some hundred bytes each.
const MOST_SIGNATURES: usize = 50_000;

/// Longest segment that is read, in bytes. What is written at once may pass the two limits above: 256 paths, of each all
/// signatures of as many keys as a policy has.
const MAX_SEGMENT: u64 = 256 << 20;

/// What comes before the first record.
const NOTHING: [u8; 32] = [0; 32];

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "event")]
pub enum Event {
    /// A path was found to have its quorum, and is about to become visible. If it never does, a crash came between, or another
    /// gate admitted other contents of it just then.
    Admitted {
        /// The fingerprint and its evidence.
        #[serde(flatten)]
        judged: Judged,
    },
    /// A fingerprint that falls short is about to be held until its requirement is met.
    Held {
        /// The fingerprint and its evidence.
        #[serde(flatten)]
        judged: Judged,
        /// What it lacks, in words.
        lacks: String,
    },
    /// Signatures were added to a path that is there, or held.
    Signed {
        /// The fingerprint and its evidence, with these signatures.
        #[serde(flatten)]
        judged: Judged,
    },
    /// Another fingerprint was offered for a path than one that is there.
    Conflict {
        /// The full path.
        path: String,
        /// Whether that one is admitted; otherwise it is held.
        admitted: bool,
        /// Its NAR hash, size and number of references.
        there: String,
        /// Those that were offered.
        offered: String,
        /// By whom.
        by: String,
    },
    /// Something that was held is about to be given up.
    Dropped {
        /// Which fingerprint.
        #[serde(flatten)]
        named: Named,
        /// Why.
        reason: String,
    },
    /// A path that was admitted is about to be deleted.
    Deleted {
        /// Which fingerprint.
        #[serde(flatten)]
        named: Named,
    },
    /// Uploads were refused since this gate wrote last.
    Refused {
        /// How many, by the code of what stood in the way first.
        counts: BTreeMap<String, u64>,
    },
    /// What follows was decided under another policy than what came before.
    Policy {
        /// Its version.
        version: u64,
    },
}

/// What was decided upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Judged {
    /// Which fingerprint, and who brought what was lacking.
    #[serde(flatten)]
    pub named: Named,
    /// The NAR's size in bytes.
    pub nar_size: u64,
    /// The signers that counted.
    pub signers: Vec<String>,
    /// The signatures that are kept of it, with their histories.
    pub signatures: Vec<SignatureRecord>,
}

/// What something was done to, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Named {
    /// The full path.
    pub path: String,
    /// SHA-256 of the fingerprint, in hexadecimal: what its evidence is called.
    pub fingerprint: String,
    /// The NAR's SHA-256, `sha256:` and Nix's base 32.
    pub nar_hash: String,
    /// By whom.
    pub by: String,
}

impl Named {
    pub(super) fn of(info: &PathInfo, fingerprint: &FingerprintDigest, store_dir: &StoreDir, by: &str) -> Self {
        Self {
            path: store_dir.render_path(&info.path),
            fingerprint: fingerprint.to_string(),
            nar_hash: info.nar_hash.to_string(),
            by: by.to_owned(),
        }
    }
}

impl Event {
    fn signatures(&self) -> usize {
        match self {
            Self::Admitted { judged } | Self::Held { judged, .. } | Self::Signed { judged } => judged.signatures.len(),
            _ => 0,
        }
    }

    /// Returns the full path that it is about; none if it is about no one path.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Admitted { judged } | Self::Held { judged, .. } | Self::Signed { judged } => Some(&judged.named.path),
            Self::Dropped { named, .. } | Self::Deleted { named } => Some(&named.path),
            Self::Conflict { path, .. } => Some(path),
            Self::Refused { .. } | Self::Policy { .. } => None,
        }
    }
}

impl Judged {
    pub(super) fn of(record: &Record, signers: &[Arc<str>], store_dir: &StoreDir, by: &str) -> Self {
        let info = record.info();
        Self {
            named: Named::of(info, &record.fingerprint(store_dir).digest(), store_dir, by),
            nar_size: info.nar_size,
            signers: signers.iter().map(ToString::to_string).collect(),
            signatures: record.signatures().to_vec(),
        }
    }
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecisionRecord {
    /// The SHA-256 of the line before, without its end, in hexadecimal.
    pub previous: String,
    /// When it was written, or when the one before was, whichever is later.
    pub time: Timestamp,
    /// SHA-256 of the policy that decided, in hexadecimal.
    pub policy: String,
    /// Its version.
    #[serde(default)]
    pub policy_version: u64,
    /// The same for the records of one segment, and for no others.
    nonce: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Why the log cannot be read or continued.
#[derive(Debug, Error)]
pub enum LogError {
    /// The storage failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A record is not what was written.
    #[error("the decision log is broken in line {line} of {segment}: {why}")]
    Broken {
        /// Which object.
        segment: Key,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Others came first, again and again.
    #[error("other gates wrote to the decision log each time this one was about to; try again")]
    Contended,
    /// What was to be written with others' records was not, and they were told why.
    #[error("the decision log cannot be written: {0}")]
    Shared(String),
}

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tail {
    /// The number of the segment that comes next, from 1.
    next: u64,
    /// The hash of the last record.
    hash: [u8; 32],
    time: Timestamp,
    /// The policy of the last record.
    policy: String,
}

impl Tail {
    /// Returns the end of a log of which nothing before a segment is known.
    fn before(next: u64) -> Self {
        Self { next, hash: NOTHING, time: Timestamp::from_unix(0), policy: String::new() }
    }
}

/// Events that wait to be written.
struct Waiting {
    policy: Arc<Policy>,
    events: Vec<Event>,
    written: oneshot::Sender<Result<(), String>>,
}

/// The decision log of a store, to be written.
pub(super) struct DecisionLog {
    objects: Arc<dyn ObjectStore>,
    end: AsyncMutex<End>,
    waiting: Mutex<Vec<Waiting>>,
    /// Refusals that no record counts yet, by their codes.
    refused: Mutex<BTreeMap<String, u64>>,
    /// How many conflicts this gate has written of each path.
    conflicts: Mutex<HashMap<String, usize>>,
}

/// What the writer knows of the end of the log.
#[derive(Default)]
struct End {
    tail: Option<Tail>,
    admitted: Admitted,
}

/// What recent records say is admitted for each path, and by which policy. Where two gates find at once that a path has its quorum,
/// both are about to write so, and the second one leaves it at that.
#[derive(Default)]
struct Admitted(HashMap<String, (String, String)>);

impl Admitted {
    fn has(&self, named: &Named, policy: &str) -> bool {
        self.0.get(&named.path).is_some_and(|(fingerprint, by)| *fingerprint == named.fingerprint && by == policy)
    }

    fn learn(&mut self, event: &Event, policy: &str) {
        match event {
            Event::Admitted { judged } => {
                if self.0.len() >= MOST_REMEMBERED {
                    self.0.clear();
                }
                self.0.insert(judged.named.path.clone(), (judged.named.fingerprint.clone(), policy.to_owned()));
            }
            Event::Deleted { named }
            | Event::Dropped { named, .. }
            | Event::Held { judged: Judged { named, .. }, .. } => {
                self.0.remove(&named.path);
            }
            _ => {}
        }
    }
}

impl DecisionLog {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Arc<Self> {
        let (end, waiting) = (AsyncMutex::default(), Mutex::default());
        Arc::new(Self { objects, end, waiting, refused: Mutex::default(), conflicts: Mutex::default() })
    }

    /// Says that an upload was refused. It is counted by the next record: who is refused must not be able to fill the log.
    pub(super) fn note_refusal(&self, code: Code) {
        *self.refused().entry(code.as_str().to_owned()).or_default() += 1;
    }

    /// Says whether another conflict of a path is to be written, and not only counted: who has one signer's key must not be able to
    /// fill the log.
    pub(super) fn may_note_conflict(&self, path: &str) -> bool {
        let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        if conflicts.len() >= MOST_REMEMBERED {
            conflicts.clear();
        }
        let count = conflicts.entry(path.to_owned()).or_default();
        *count += 1;
        *count <= MOST_CONFLICTS
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what happened under a policy. When this returns, it is durable.
    ///
    /// # Errors
    /// When it cannot be written: then what it is about must not happen.
    pub(super) async fn record(self: &Arc<Self>, policy: &Arc<Policy>, events: Vec<Event>) -> Result<(), LogError> {
        let (written, outcome) = oneshot::channel();
        self.waiting().push(Waiting { policy: policy.clone(), events, written });
        // Not here: who gives up waiting must not take with them what others wait for as well.
        let this = self.clone();
        tokio::spawn(async move { this.write_waiting().await });
        match outcome.await {
            Ok(written) => written.map_err(LogError::Shared),
            Err(_) => Err(LogError::Shared("its writer ended".into())),
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, one segment after the other. Who comes meanwhile waits for the next one.
    async fn write_waiting(&self) {
        let mut end = self.end.lock().await;
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                return;
            }
            let written = self.append(&mut end, &batch).await.map_err(|error| error.to_string());
            for waiting in batch {
                let _nobody_waits = waiting.written.send(written.clone());
            }
        }
    }

    /// Takes what fits into one segment, and at least one.
    fn next_batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        let (mut records, mut signatures) = (0, 0);
        let fits = waiting.iter().take_while(|waiting| {
            records += waiting.events.len();
            signatures += waiting.events.iter().map(Event::signatures).sum::<usize>();
            records <= MOST_RECORDS && signatures <= MOST_SIGNATURES
        });
        let count = fits.count().max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    async fn append(&self, end: &mut End, batch: &[Waiting]) -> Result<(), LogError> {
        for _ in 0..ATTEMPTS {
            let tail = match &end.tail {
                Some(tail) => tail.clone(),
                None => find_end(&*self.objects, &mut end.admitted).await?,
            };
            // Whatever becomes of this, what others write from here on is seen.
            end.tail = Some(tail.clone());
            let refused = self.refused().clone();
            let (bytes, after) = write_segment(&tail, batch, &refused, &end.admitted);
            if bytes.is_empty() {
                return Ok(());
            }
            let draft = Draft::of_bytes(segment_key(tail.next), Condition::Absent, bytes);
            let put = self.objects.publish(vec![draft]).await?;
            if put.iter().all(|put| matches!(put, Put::Stored(_))) {
                end.tail = Some(after);
                for Waiting { policy, events, .. } in batch {
                    events.iter().for_each(|event| end.admitted.learn(event, policy.digest()));
                }
                self.forget_refusals(&refused);
                return Ok(());
            }
            end.tail = Some(follow(&*self.objects, tail, &mut end.admitted).await?);
        }
        Err(LogError::Contended)
    }

    fn forget_refusals(&self, counted: &BTreeMap<String, u64>) {
        let mut refused = self.refused();
        for (code, count) in counted {
            if let Some(left) = refused.get_mut(code) {
                *left -= count;
            }
        }
        refused.retain(|_, count| *count > 0);
    }
}

/// Makes a segment, which is empty if there is nothing to say; returns also where the log ends after it.
fn write_segment(
    end: &Tail,
    batch: &[Waiting],
    refused: &BTreeMap<String, u64>,
    admitted: &Admitted,
) -> (Vec<u8>, Tail) {
    let (nonce, time) = (nonce(), now().max(end.time));
    let mut after = Tail { next: end.next + 1, time, ..end.clone() };
    let mut bytes = Vec::new();
    let mut write = |policy: &Policy, event: Event| {
        policy.digest().clone_into(&mut after.policy);
        let (previous, policy_version, nonce) = (base16::encode(&after.hash), policy.version(), nonce.clone());
        let policy = after.policy.clone();
        let record = DecisionRecord { previous, time, policy, policy_version, nonce, event };
        let line = serde_json::to_vec(&record).expect("texts, numbers and lists can always be written");
        after.hash = Sha256::digest(&line).into();
        bytes.extend(line);
        bytes.push(b'\n');
    };
    let mut in_force = end.policy.as_str();
    let mut written = HashSet::new();
    for (index, Waiting { policy, events, .. }) in batch.iter().enumerate() {
        if policy.digest() != in_force {
            in_force = policy.digest();
            write(policy, Event::Policy { version: policy.version() });
        }
        if index == 0 && !refused.is_empty() {
            write(policy, Event::Refused { counts: refused.clone() });
        }
        for event in events {
            let known = match event {
                Event::Admitted { judged } => {
                    let fingerprint = judged.named.fingerprint.as_str();
                    admitted.has(&judged.named, policy.digest()) || !written.insert((fingerprint, policy.digest()))
                }
                _ => false,
            };
            if !known {
                write(policy, event.clone());
            }
        }
    }
    (bytes, after)
}

/// Finds where a log ends.
async fn find_end(objects: &dyn ObjectStore, admitted: &mut Admitted) -> Result<Tail, LogError> {
    let Some(folder) = folders(objects).await?.into_iter().max() else {
        return Ok(Tail::before(1));
    };
    let last = numbers_in(objects, folder).await?.into_iter().max();
    follow(objects, Tail::before(last.unwrap_or(1)), admitted).await
}

async fn folders(objects: &dyn ObjectStore) -> Result<Vec<u64>, LogError> {
    Ok(objects.list_folders(FOLDERS).await?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Goes on from an end that is one no more.
async fn follow(objects: &dyn ObjectStore, mut end: Tail, admitted: &mut Admitted) -> Result<Tail, LogError> {
    while let Some(segment) = objects.get(&segment_key(end.next), MAX_SEGMENT).await? {
        let mut after = Tail { next: end.next + 1, ..end.clone() };
        for (line, record) in records_of(segment_key(end.next), &segment.bytes) {
            let record = record?;
            admitted.learn(&record.event, &record.policy);
            after = Tail {
                hash: Sha256::digest(line).into(),
                time: record.time.max(after.time),
                policy: record.policy,
                ..after
            };
        }
        end = after;
    }
    Ok(end)
}

/// Reads the lines of a segment.
fn records_of(segment: Key, bytes: &[u8]) -> impl Iterator<Item = (&[u8], Result<DecisionRecord, LogError>)> {
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
    lines.enumerate().map(move |(index, line)| {
        let broken = |error: serde_json::Error| LogError::Broken {
            segment: segment.clone(),
            line: index + 1,
            why: error.to_string(),
        };
        (line, serde_json::from_slice(line).map_err(broken))
    })
}

async fn numbers_in(objects: &dyn ObjectStore, folder: u64) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    let mut pages = objects.list(&format!("{FOLDERS}{folder:08}/")).await?;
    while let Some(page) = pages.next().await? {
        numbers.extend(page.iter().filter_map(|Entry { name, .. }| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// A log on its way to a reader, from its first segment on. Each record is checked against the one before.
pub struct LogReader {
    objects: Arc<dyn ObjectStore>,
    /// Where the next segment begins, as far as it was read.
    end: Tail,
    /// Whether something before it was read.
    chained: bool,
}

impl LogReader {
    /// Opens the log of a store.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn open(objects: Arc<dyn ObjectStore>) -> Result<Self, LogError> {
        let first = match folders(&*objects).await?.into_iter().min() {
            Some(folder) => numbers_in(&*objects, folder).await?.into_iter().min(),
            None => None,
        };
        Ok(Self { objects, end: Tail::before(first.unwrap_or(1)), chained: first.is_none_or(|first| first == 1) })
    }

    /// Says whether the log begins with its first record: what was before may have been deleted.
    #[must_use]
    pub fn is_from_the_beginning(&self) -> bool {
        self.chained
    }

    /// Returns the SHA-256 of the last record that was read, in hexadecimal.
    #[must_use]
    pub fn last(&self) -> String {
        base16::encode(&self.end.hash)
    }

    /// Returns the records of the next segment; none where the log ends now.
    ///
    /// # Errors
    /// [`LogError::Broken`] at the first record that does not follow the one before, or that is missing.
    pub async fn next(&mut self) -> Result<Option<Vec<DecisionRecord>>, LogError> {
        let segment = segment_key(self.end.next);
        let Some(object) = self.objects.get(&segment, MAX_SEGMENT).await? else {
            return if self.goes_on().await? {
                Err(LogError::Broken { segment, line: 1, why: "it is missing, and there are later ones".into() })
            } else {
                Ok(None)
            };
        };
        let mut records = Vec::new();
        for (index, (line, record)) in records_of(segment.clone(), &object.bytes).enumerate() {
            let broken = |why: String| LogError::Broken { segment: segment.clone(), line: index + 1, why };
            let record = record?;
            if self.chained && record.previous != base16::encode(&self.end.hash) {
                return Err(broken("it does not follow the record before it".into()));
            }
            if record.time < self.end.time {
                return Err(broken("it is older than the record before it".into()));
            }
            self.chained = true;
            (self.end.hash, self.end.time) = (Sha256::digest(line).into(), record.time);
            records.push(record);
        }
        self.end.next += 1;
        Ok(Some(records))
    }

    /// Whether there are segments after one that is missing.
    async fn goes_on(&self) -> Result<bool, LogError> {
        let folder = self.end.next / FOLDER;
        let later = folders(&*self.objects).await?.into_iter().any(|other| other > folder)
            || numbers_in(&*self.objects, folder).await?.into_iter().any(|number| number > self.end.next);
        // One that was written just now is not missing.
        Ok(later && self.objects.head(&segment_key(self.end.next)).await?.is_none())
    }
}

fn segment_key(number: u64) -> Key {
    Key::new(format!("{FOLDERS}{:08}/{number:012}", number / FOLDER)).expect("digits are a key's characters")
}
