//! The newest policy that was in force in a store: no older one is taken again, whoever signed it.

use policy::Policy;
use serde::{Deserialize, Serialize};

use super::{Gate, GateError, check};
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Key, Put};
use crate::store::{RecordError, StoreError};

/// Where its version is remembered.
const PLACE: &str = "quorum/policy";

/// Most bytes of what is remembered.
const MAX_SIZE: u64 = 4096;

/// How often it is tried to write it, where others write it too.
const TRIES: usize = 16;

/// What is remembered of it.
#[derive(Debug, Serialize, Deserialize)]
struct Newest {
    version: u64,
    /// SHA-256 of the policy that had it first, in hexadecimal.
    digest: String,
    nonce: String,
}

impl Gate {
    /// Puts another policy in force, from the next decision on, unless one of a higher version was in force before: in this gate, or
    /// in any other of this store. What it no longer vouches for is no longer readable.
    ///
    /// # Errors
    /// As [`Gate::new`] and [`Gate::remember_policy`]; then the old policy stays.
    pub async fn replace_policy(&self, policy: Policy) -> Result<(), GateError> {
        check(&self.cache, &policy, self.countersign.as_ref())?;
        self.remember(&policy).await?;
        self.set_policy(policy)
    }

    /// Remembers in the store that the policy of now was in force.
    ///
    /// # Errors
    /// [`GateError::PolicyRollback`] where one of a higher version was; and when the store fails.
    pub async fn remember_policy(&self) -> Result<(), GateError> {
        self.remember(&self.policy()).await
    }

    async fn remember(&self, policy: &Policy) -> Result<(), GateError> {
        let key = Key::new(PLACE).ok_or_else(|| StoreError::Name(PLACE.into()))?;
        for _ in 0..TRIES {
            let condition = match self.cache.objects().get(&key, MAX_SIZE).await? {
                None => Condition::Absent,
                Some(object) => {
                    let newest: Newest = serde_json::from_slice(&object.bytes).map_err(|error| StoreError::Record {
                        key: key.clone(),
                        source: RecordError::Unreadable(error),
                    })?;
                    if policy.version() < newest.version {
                        let (version, newest) = (policy.version(), newest.version);
                        return Err(GateError::PolicyRollback { version, newest });
                    }
                    if policy.version() == newest.version {
                        return Ok(());
                    }
                    Condition::Matches(object.version.etag)
                }
            };
            let newest = Newest { version: policy.version(), digest: policy.digest().to_owned(), nonce: nonce() };
            let bytes = serde_json::to_vec(&newest).expect("texts and numbers can always be written");
            let puts = self.cache.objects().publish(vec![Draft::of_bytes(key.clone(), condition, bytes)]).await?;
            if puts.iter().all(|put| matches!(put, Put::Stored(_))) {
                return Ok(());
            }
        }
        Err(GateError::Contended(PLACE.into()))
    }
}
