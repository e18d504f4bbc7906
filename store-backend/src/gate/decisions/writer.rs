//! The log's writer: what waits is written together, behind what other gates have written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use policy::{Code, Policy};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use verifier::base16;

use super::segment::{MAX_SEGMENT, Tail, folders, numbers_in, records_of, segment_key};
use super::{DecisionRecord, Event, Judged, LogError, Named};
use crate::clock::now;
use crate::gate::admission::ATTEMPTS;
use crate::nonce::nonce;
use crate::object::{Condition, Draft, ObjectStore, Put};

/// Most records in one segment. One of a path with a few signatures has about a kilobyte.
const MOST_RECORDS: usize = 1_000;

/// Most admissions that are remembered, so that they are not written twice; some hundred bytes each.
const MOST_REMEMBERED: usize = 100_000;

/// Most conflicts of one path that a gate writes.
const MOST_CONFLICTS: usize = 8;

/// Most signatures in one segment, some hundred bytes each.
const MOST_SIGNATURES: usize = 50_000;

/// The decision log of a store, to be written.
pub(in crate::gate) struct DecisionLog {
    objects: Arc<dyn ObjectStore>,
    end: AsyncMutex<End>,
    waiting: Mutex<Vec<Waiting>>,
    /// Refusals that no record counts yet, by their codes.
    refused: Mutex<BTreeMap<String, u64>>,
    /// How many conflicts this gate has written of each path.
    conflicts: Mutex<HashMap<String, usize>>,
}

/// Events that wait to be written.
struct Waiting {
    policy: Arc<Policy>,
    events: Vec<Event>,
    written: oneshot::Sender<Result<(), String>>,
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
    pub(in crate::gate) fn new(objects: Arc<dyn ObjectStore>) -> Arc<Self> {
        let (end, waiting) = (AsyncMutex::default(), Mutex::default());
        Arc::new(Self { objects, end, waiting, refused: Mutex::default(), conflicts: Mutex::default() })
    }

    /// Says that an upload was refused. It is counted by the next record: who is refused must not be able to fill the log.
    pub(in crate::gate) fn note_refusal(&self, code: Code) {
        *self.refused().entry(code.as_str().to_owned()).or_default() += 1;
    }

    /// Says whether another conflict of a path is to be written, and not only counted: who has one signer's key must not be able to
    /// fill the log.
    pub(in crate::gate) fn may_note_conflict(&self, path: &str) -> bool {
        let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        if conflicts.len() >= MOST_REMEMBERED {
            conflicts.clear();
        }
        let count = conflicts.entry(path.to_owned()).or_default();
        *count += 1;
        *count <= MOST_CONFLICTS
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what happened under a policy. When this returns, it is durable.
    ///
    /// # Errors
    /// When it cannot be written: then what it is about must not happen.
    pub(in crate::gate) async fn record(
        self: &Arc<Self>,
        policy: &Arc<Policy>,
        events: Vec<Event>,
    ) -> Result<(), LogError> {
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

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
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
        // Where nothing happened, nothing is left out either.
        let mut up_to_date = end.tail.is_none() || batch.iter().all(|waiting| waiting.events.is_empty());
        for _ in 0..ATTEMPTS {
            let tail = match &end.tail {
                Some(tail) => tail.clone(),
                None => find_end(&*self.objects, &mut end.admitted).await?,
            };
            // Whatever becomes of this, what others write from here on is seen.
            end.tail = Some(tail.clone());
            let refused = self.refused().clone();
            let (bytes, after) = write_segment(&tail, batch, &refused, &end.admitted);
            if bytes.is_empty() && up_to_date {
                return Ok(());
            }
            // What is known to be admitted another gate may have deleted since, and written so.
            if !bytes.is_empty() {
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
            }
            end.tail = Some(follow(&*self.objects, tail, &mut end.admitted).await?);
            up_to_date = true;
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
