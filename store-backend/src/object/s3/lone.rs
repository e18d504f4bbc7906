//! A bucket that one gate alone writes, because its provider does not keep writers apart. A lease in the bucket tells other gates
//! to stop, and this one when to.
//!
//! The holder renews the lease again and again, and writes only while its last renewal is young. Whoever finds a lease watches it
//! for longer than that: if it changes, somebody holds it; if it does not, nobody does. No clock is compared with another's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::Bucket;
use super::provider::Conditions;
use crate::nonce::nonce;
use crate::object::{Etag, Key, ObjectError, ObjectStore as _};
use crate::process::Process;

/// Where the lease is.
const LEASE: &str = "quorum/writer";

/// Longest lease that is read, in bytes.
const MAX_LEASE: u64 = 64 << 10;

/// How many keys may be written at once.
const LOCKS: usize = 256;

/// How often taking the lease is begun anew because writing it took long.
const STARTS: usize = 12;

/// So many renewals in the time for which a lease is watched.
const RENEWALS: u32 = 12;

/// What keeps this process's writers apart, and other processes away.
pub(super) struct Lone {
    /// Whether the provider looks at conditions at all.
    pub(super) conditions: Conditions,
    locks: Vec<tokio::sync::Mutex<()>>,
    lease: Arc<Lease>,
    renewing: JoinHandle<()>,
}

struct Lease {
    bucket: Bucket,
    key: Key,
    holder: Holder,
    /// How long it is watched by others.
    lasts: Duration,
    state: Mutex<State>,
}

enum State {
    Held { until: Instant },
    Lost(String),
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Holder {
    nonce: String,
    host: String,
    process: Process,
    renewed: u64,
}

impl Lone {
    /// Takes the lease of a bucket.
    ///
    /// # Errors
    /// When another gate holds it.
    pub(super) async fn take(bucket: &Bucket, conditions: Conditions) -> Result<Self, ObjectError> {
        let lease = Lease::take(bucket).await?;
        let renewing = tokio::spawn(lease.clone().renew());
        let locks = (0..LOCKS).map(|_| tokio::sync::Mutex::new(())).collect();
        Ok(Self { conditions, locks, lease, renewing })
    }

    /// Waits until nobody else of this process writes an object; says no when this process may not write any more.
    pub(super) async fn turn(&self, key: &Key) -> Result<tokio::sync::MutexGuard<'_, ()>, ObjectError> {
        let sum = key.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let turn = self.locks[sum % LOCKS].lock().await;
        self.check()?;
        Ok(turn)
    }

    /// Says no when this process may not write any more, or does not know.
    pub(super) fn check(&self) -> Result<(), ObjectError> {
        self.lease.check()
    }

    /// Returns how long a request of this process's that was not answered may still be at work.
    pub(super) fn settles(&self) -> Duration {
        self.lease.settles()
    }

    /// Gives the lease back, once nothing is under way any more.
    pub(super) async fn give_back(&self) {
        let held = self.lease.end();
        for lock in &self.locks {
            let _over = lock.lock().await;
        }
        self.renewing.abort();
        if held {
            self.lease.give_back().await;
        }
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Lease {
    fn settles(&self) -> Duration {
        self.lasts / RENEWALS
    }

    async fn take(bucket: &Bucket) -> Result<Arc<Self>, ObjectError> {
        let lasts = bucket.0.patience.lease;
        let key = Key::new(LEASE).expect("it is one");
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = Holder { nonce: nonce(), host, process: Process::own(), renewed: 0 };
        let state = Mutex::new(State::Held { until: Instant::now() });
        let lease = Arc::new(Self { bucket: bucket.clone(), key, holder, lasts, state });
        let settles = lease.settles();
        for _ in 0..STARTS {
            lease.watch().await?;
            let begun = Instant::now();
            lease.write(0).await?;
            // Somebody who looked before this was written writes before this is read again, or looks again.
            if begun.elapsed() > settles / 2 {
                continue;
            }
            tokio::time::sleep(settles).await;
            return match lease.read().await? {
                Some((found, _)) if found.nonce == lease.holder.nonce => {
                    lease.held(begun);
                    Ok(lease)
                }
                found => Err(lease.taken(found.map(|(found, _)| found))),
            };
        }
        let most = (settles / 2).as_millis();
        Err(lease.error(format!(
            "each time it takes more than {most} ms to write {LEASE}: the provider, or the way to it, is too slow for a lease"
        )))
    }

    /// Returns when nobody holds the lease.
    async fn watch(&self) -> Result<(), ObjectError> {
        let Some((found, etag)) = self.read().await? else {
            return Ok(());
        };
        if found.nonce == self.holder.nonce || found.process.has_ended() {
            return Ok(());
        }
        let seconds = self.lasts.as_secs();
        tracing::warn!(host = found.host, process = %found.process, "a lease is there: watching it for {seconds} s");
        let begun = Instant::now();
        while begun.elapsed() < self.lasts {
            tokio::time::sleep(self.settles() / 2).await;
            match self.read().await? {
                None => return Ok(()),
                Some((_, now)) if now == etag => {}
                Some((found, _)) => return Err(self.taken(Some(found))),
            }
        }
        tracing::warn!(host = found.host, process = %found.process, "nobody renews the lease: taking it over");
        Ok(())
    }

    async fn renew(self: Arc<Self>) {
        for count in 1.. {
            tokio::time::sleep(self.settles()).await;
            let begun = Instant::now();
            let renewed = match self.read().await {
                Ok(Some((found, _))) if found.nonce == self.holder.nonce => self.write(count).await,
                Ok(found) => {
                    let why = self.taken(found.map(|(found, _)| found)).to_string();
                    tracing::error!("{why}: nothing is written any more");
                    *self.state() = State::Lost(why);
                    return;
                }
                Err(error) => Err(error),
            };
            match renewed {
                Ok(()) => self.held(begun),
                Err(error) => tracing::warn!(%error, "the lease could not be renewed"),
            }
        }
    }

    /// Notes that the lease was held at a moment: for half of the time for which others watch it, it still is. The other half is
    /// for requests that are under way then.
    fn held(&self, since: Instant) {
        // What is lost or given back is not held again.
        if let State::Held { until } = &mut *self.state() {
            *until = since + self.lasts / 2;
        }
    }

    fn check(&self) -> Result<(), ObjectError> {
        match &*self.state() {
            State::Held { until } if Instant::now() < *until => Ok(()),
            State::Held { .. } => Err(self.error("the lease on this bucket could not be renewed for too long".into())),
            State::Lost(why) => Err(self.error(why.clone())),
        }
    }

    /// Has nothing more written; says whether the lease was held.
    fn end(&self) -> bool {
        let before = std::mem::replace(&mut *self.state(), State::Lost("the lease was given back".into()));
        matches!(before, State::Held { .. })
    }

    async fn give_back(&self) {
        if let Ok(Some((found, _))) = self.read().await
            && found.nonce == self.holder.nonce
            && let Err(error) = self.bucket.delete_regardless(&self.key).await
        {
            tracing::warn!(%error, "the lease could not be given back");
        }
    }

    async fn read(&self) -> Result<Option<(Holder, Etag)>, ObjectError> {
        let Some(found) = self.bucket.get(&self.key, MAX_LEASE).await? else {
            return Ok(None);
        };
        let holder = serde_json::from_slice(&found.bytes).map_err(|error| {
            self.error(format!("the lease cannot be understood ({error}): if no other gate runs, delete it"))
        })?;
        Ok(Some((holder, found.version.etag)))
    }

    async fn write(&self, renewed: u64) -> Result<(), ObjectError> {
        let document = Holder { renewed, ..self.holder.clone() };
        let bytes = serde_json::to_vec_pretty(&document).expect("texts and numbers can always be written");
        self.bucket.put_regardless(&self.key, bytes.into()).await.map(|_| ())
    }

    fn taken(&self, by: Option<Holder>) -> ObjectError {
        let who = by.map_or("somebody else".to_owned(), |by| format!("process {} on {}", by.process, by.host));
        self.error(format!("{who} writes this bucket: where conditions do not hold, only one gate may"))
    }

    fn error(&self, why: String) -> ObjectError {
        let place = format!("s3://{}", self.bucket.name());
        ObjectError::Io { action: "write", place, source: std::io::Error::other(why) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
