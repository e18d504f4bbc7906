//! Connections to a daemon: no more than may be, each kept for the next question, and none waited for without end.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use verifier::StoreDir;

use crate::client::{Client, ClientError};
use crate::rate::earned;
use crate::store::{Remote, StoreError};

/// How long a daemon may take to answer, or to send the next bytes of a NAR. It may have to look for them first.
pub(super) const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 300 });

/// Connections to a daemon on this machine that are open at once, unless told otherwise: more than an audit has use for.
const NEAR: usize = 64;

/// Connections to any other daemon, unless told otherwise, as in Nix. A server turns away who starts many sessions at once.
///
/// Source: Nix `RemoteStoreConfig::maxConnections`; sshd_config(5), `MaxStartups`.
const FAR: usize = 1;

pub(super) struct Connections {
    pub(super) remote: Remote,
    store_dir: StoreDir,
    /// Those that nobody uses. With those that somebody uses, or opens, they are no more than may be.
    idle: Mutex<Vec<Client>>,
    room: Arc<Semaphore>,
}

/// A connection that somebody uses. Whoever has one asks for no other before it is given back or dropped: there may be just one.
pub(super) struct Connection {
    pub(super) client: Client,
    /// Left after the client has gone.
    room: OwnedSemaphorePermit,
}

impl Connections {
    /// Connects, with no more connections at once than `most`, or else as many as suit the place.
    pub(super) async fn open(remote: Remote, most: Option<usize>, store_dir: &StoreDir) -> Result<Self, StoreError> {
        let most = most.unwrap_or(if remote.is_near() { NEAR } else { FAR }).clamp(1, Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(most));
        let connections = Self { remote, store_dir: store_dir.clone(), idle: Mutex::default(), room };
        let first = connections.connect().await?;
        connections.idle().push(first);
        Ok(connections)
    }

    /// Waits until there may be another connection.
    pub(super) async fn take(&self) -> Result<Connection, StoreError> {
        let room = self.room.clone().acquire_owned().await.expect("nobody closes it");
        let idle = self.idle().pop();
        let client = match idle {
            Some(client) => client,
            None => self.connect().await?,
        };
        Ok(Connection { client, room })
    }

    /// Keeps a connection for the next one who needs one.
    pub(super) fn give_back(&self, connection: Connection) {
        let Connection { client, room } = connection;
        self.idle().push(client);
        // Whoever waits for it finds the connection.
        drop(room);
    }

    /// Connects in the place of a connection that has ended.
    pub(super) async fn replace(&self, connection: &mut Connection) -> Result<(), StoreError> {
        connection.client = self.connect().await?;
        Ok(())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Client, StoreError> {
        match timeout(PATIENCE, self.remote.connect(&self.store_dir)).await {
            Ok(client) => Ok(client?),
            Err(_) => Err(self.stalled(PATIENCE)),
        }
    }

    pub(super) fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    pub(super) fn stalled(&self, waited: Duration) -> StoreError {
        StoreError::Stalled { place: self.remote.to_string(), seconds: waited.as_secs() }
    }
}

/// How long one waits for the answer to a question: what has come of it has to be worth the time.
pub(super) struct Wait {
    begun: Instant,
    came: Arc<AtomicU64>,
    before: u64,
}

impl Wait {
    pub(super) fn for_answer_of(client: &Client) -> Self {
        let came = client.came();
        Self { begun: Instant::now(), before: came.load(Ordering::Relaxed), came }
    }

    fn until(&self) -> Instant {
        self.begun + PATIENCE + earned(self.came.load(Ordering::Relaxed) - self.before)
    }

    /// Waits for an answer, or for one of several that the question has.
    pub(super) async fn in_time<T>(
        &self,
        connections: &Connections,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, StoreError> {
        let mut answer = pin!(answer);
        loop {
            let until = self.until();
            match timeout_at(until, &mut answer).await {
                Ok(answer) => return Ok(answer?),
                Err(_) if self.until() > until => {}
                Err(_) => return Err(connections.stalled(self.begun.elapsed())),
            }
        }
    }
}
