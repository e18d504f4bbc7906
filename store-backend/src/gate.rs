//! The gate: evidence, then policy, then the store. Nothing becomes valid but through here, and nothing is read but as the
//! policy of now allows.

mod admission;
mod announcement;
mod batch;
mod candidates;
mod commit;
mod content;
mod decisions;
mod deletion;
mod error;
mod index;
mod intake;
mod logs;
mod memory;
mod newest_policy;
mod promotion;
mod realisations;
mod recent;
mod shelf;
mod signatures;
mod staging;
pub mod sweep;
mod upkeep;
mod verified;
mod view;

use std::sync::{Arc, RwLock};

use policy::{Address, Decision, Policy, Subject};
use tokio::sync::Semaphore;
use verifier::{Evidence, SecretKey, StorePath};

pub use admission::MAX_SIGNATURES;
pub use batch::{Batch, Offer, Wanted};
pub use candidates::Candidate;
pub use commit::Committed;
pub use content::ContentAddition;
pub use decisions::{DecisionRecord, Event, Judged, LogError, LogReader, Named};
pub use deletion::Deleted;
pub use error::GateError;
pub use index::Index;
pub use intake::MAX_REFERENCES;
pub use signatures::Kept;
pub use staging::StagingLimits;
pub use view::{Sight, View};

use crate::clock::now;
use crate::store::{BinaryCache, Record};
use decisions::DecisionLog;
use memory::Memory;
use recent::Recent;
use staging::Staging;

/// Whole-store queries (listing, referrers, verification) that run at once; others wait their turn. Each walks the store.
const WHOLE_STORE_QUERIES: usize = 4;

/// Who brings something: what the records say, not what decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploader(pub String);

impl Uploader {
    /// Names a user of this machine.
    #[must_use]
    pub fn of_uid(uid: u32) -> Self {
        Self(format!("uid {uid}"))
    }
}

/// The one way into and out of a store.
pub struct Gate {
    cache: BinaryCache,
    policy: RwLock<Arc<Policy>>,
    countersign: Option<SecretKey>,
    memory: Memory,
    recent: Recent,
    index: Index,
    whole_store: Semaphore,
    decisions: Arc<DecisionLog>,
    staging: Staging,
}

impl Gate {
    /// Puts a gate in front of a store.
    ///
    /// # Errors
    /// [`GateError::OwnKeyIsSigner`] when the key that countersigns is a signer's: the gate's word about others' words must
    /// not count as one of them. [`GateError::StoreDir`] when the store is of another store directory.
    pub fn new(cache: BinaryCache, policy: Policy, countersign: Option<SecretKey>) -> Result<Self, GateError> {
        check(&cache, &policy, countersign.as_ref())?;
        Ok(Self {
            recent: Recent::new(cache.objects().stays()),
            decisions: DecisionLog::new(cache.objects().clone()),
            staging: Staging::new(cache.objects().clone()),
            cache,
            policy: RwLock::new(Arc::new(policy)),
            countersign,
            memory: Memory::default(),
            index: Index::default(),
            whole_store: Semaphore::new(WHOLE_STORE_QUERIES),
        })
    }

    /// Puts another policy in force whatever its version: [`Gate::replace_policy`] takes no older one.
    ///
    /// # Errors
    /// As [`Gate::new`]; then the old policy stays.
    pub fn set_policy(&self, policy: Policy) -> Result<(), GateError> {
        check(&self.cache, &policy, self.countersign.as_ref())?;
        *self.policy.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(policy);
        self.memory.forget_all();
        Ok(())
    }

    /// Writes to the decision log which policy is in force, if it was another before, and how many uploads were refused.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn bring_log_up_to_date(&self) -> Result<(), GateError> {
        Ok(self.decisions.record(&self.policy(), Vec::new()).await?)
    }

    /// Returns the policy of now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Returns the admitted view: what is valid, and nothing else.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::of(self, Sight::Admitted)
    }

    /// Returns one of the views.
    #[must_use]
    pub fn view_of(&self, sight: Sight) -> View<'_> {
        View::of(self, sight)
    }

    /// Returns the store behind the gate.
    #[must_use]
    pub fn cache(&self) -> &BinaryCache {
        &self.cache
    }

    /// Returns the key that countersigns, as the public key that readers may trust.
    #[must_use]
    pub fn countersigner(&self) -> Option<verifier::PublicKey> {
        self.countersign.as_ref().map(SecretKey::public)
    }

    /// Counts an upload that was refused, by what stood in its way first.
    fn note_refusal(&self, decision: &Decision) {
        let code = decision.findings().first().map_or(policy::Code::QuorumMissing, |finding| finding.code);
        self.decisions.note_refusal(code);
    }

    /// Says that something of a path was written.
    fn note_write(&self, path: &StorePath) {
        self.memory.note_write();
        self.recent.forget(path);
        self.index.note_write();
    }

    /// Has the gate keep its index of the store there instead of in memory.
    #[must_use]
    pub fn with_index(self, index: Index) -> Self {
        Self { index, ..self }
    }

    /// Weighs a record under a policy.
    fn evidence(&self, record: &Record, policy: &Policy) -> Evidence {
        Evidence::weigh(record.fingerprint(self.cache.store_dir()), record.claims(), policy.keyring(), now())
    }

    /// Says whether a record stands by itself: its references are not looked at.
    fn stands(&self, record: &Record, policy: &Policy) -> Decision {
        policy.stands(&subject_of(record, &self.evidence(record, policy), &[]), now())
    }
}

/// What a policy decides about a record, of whose references these are not admitted.
fn subject_of<'a>(record: &'a Record, evidence: &'a Evidence, absent: &'a [StorePath]) -> Subject<'a> {
    let address = Address::proven(record.info(), record.nar.address);
    Subject { path: &record.info().path, evidence, address, absent_references: absent }
}

fn check(cache: &BinaryCache, policy: &Policy, countersign: Option<&SecretKey>) -> Result<(), GateError> {
    if policy.store_dir() != cache.store_dir() {
        let found = cache.store_dir().clone();
        return Err(GateError::StoreDir { found, expected: policy.store_dir().clone() });
    }
    let Some(own) = countersign.map(SecretKey::public) else {
        return Ok(());
    };
    for (_, signer) in policy.keyring().signers() {
        if signer.keys.iter().any(|key| key.public.as_bytes() == own.as_bytes()) {
            return Err(GateError::OwnKeyIsSigner { signer: signer.name.to_string() });
        }
    }
    Ok(())
}
