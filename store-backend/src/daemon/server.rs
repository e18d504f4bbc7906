//! The socket: who may connect, how many at once, and the end.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ServeError;
use super::handover::{Opening, begin};
use super::session::{Peer, serve_connection};
use crate::gate::{Gate, Sight, Uploader};
use crate::protocol::Trust;
use crate::wire::WireError;

/// How long a connection's first eight bytes may take.
const OPENING: Duration = Duration::from_secs(30);

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections at once; further ones wait to be accepted. Each takes up to some megabytes while it uploads.
    pub connections: usize,
    /// Of these, connections of one user whom the server does not trust; further ones are closed.
    pub connections_per_user: usize,
    /// What is seen of the store here.
    pub sight: Sight,
    /// How long sessions may finish what they do when the server stops.
    pub farewell: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connections: 256, connections_per_user: 64, sight: Sight::Admitted, farewell: Duration::from_secs(10) }
    }
}

/// A server at a Unix socket.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    settings: Settings,
    /// How many connections each user has.
    users: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Server {
    /// Listens at a path. Everybody may connect, as with nix-daemon: the policy protects, not the socket. A socket that a dead
    /// server left there is replaced.
    ///
    /// # Errors
    /// When another server answers there, or the socket cannot be made.
    pub async fn bind(path: &Path, settings: Settings) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { path: path.display().to_string(), source };
        if path.exists() {
            if UnixStream::connect(path).await.is_ok() {
                return Err(ServeError::InUse(path.display().to_string()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), settings, users: Arc::default() })
    }

    /// Serves until `stop` comes about; then it accepts no more, lets sessions finish for a while, and removes the socket.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn run(self, gate: Arc<Gate>, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let places = Arc::new(Semaphore::new(self.settings.connections));
        let mut sessions = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&self.listener, &places) => accepted,
                Some(_) = sessions.join_next() => continue,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: wait until a session has ended.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let (peer, uid) = match identify(&stream, self.settings.sight) {
                Ok(identity) => identity,
                Err(error) => {
                    tracing::warn!(%error, "closing a connection of nobody");
                    continue;
                }
            };
            let Some(counted) = self.count(&peer, uid) else {
                tracing::warn!(uid, "closing a connection: its user has too many");
                continue;
            };
            let gate = gate.clone();
            sessions.spawn(async move {
                let by = peer.uploader.0.clone();
                if let Err(error) = serve(gate, peer, stream).await {
                    tracing::info!(%error, by, "a session ended early");
                }
                drop((place, counted));
            });
        }
        drop(self.listener);
        let _gone_already = std::fs::remove_file(&self.path);
        let last = async { while sessions.join_next().await.is_some() {} };
        if tokio::time::timeout(self.settings.farewell, last).await.is_err() {
            tracing::warn!("some sessions did not finish in time and are cut off");
        }
        Ok(())
    }

    /// Counts a connection of a user; none if that is one too many.
    fn count(&self, peer: &Peer, uid: u32) -> Option<Counted> {
        let mut users = self.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = users.entry(uid).or_default();
        if peer.trust == Trust::Untrusted && *count >= self.settings.connections_per_user {
            return None;
        }
        *count += 1;
        Some(Counted { users: self.users.clone(), uid })
    }
}

/// Serves a connection: on itself, or on the pipes that a relay hands over.
async fn serve(gate: Arc<Gate>, peer: Peer, stream: UnixStream) -> Result<(), ServeError> {
    let opening = tokio::time::timeout(OPENING, begin(&stream)).await.map_err(|_| WireError::Stalled(OPENING))??;
    match opening {
        Opening::Pipes(input, output) => serve_connection(gate, peer, input, output).await,
        Opening::Client(first) => {
            let (input, output) = stream.into_split();
            serve_connection(gate, peer, std::io::Cursor::new(first).chain(input), output).await
        }
    }
}

/// One connection of a user; dropped, it counts no more.
struct Counted {
    users: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut users = self.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Finds out who the peer is, as the kernel knows it. Root and the server's own user are trusted.
fn identify(stream: &UnixStream, sight: Sight) -> std::io::Result<(Peer, u32)> {
    let uid = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    let trust = if uid == 0 || uid == own { Trust::Trusted } else { Trust::Untrusted };
    Ok((Peer { sight, trust, uploader: Uploader::of_uid(uid) }, uid))
}
