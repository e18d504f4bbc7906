//! A daemon as a store to read: a gate, or nix-daemon.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use verifier::{StoreDir, StorePath};

use super::StoreError;
use super::reading::{History, Listed, NarReader, StatedSignature, Statement, Store};
use crate::client::{Client, ClientError};

/// How long a daemon may take to answer, or to send the next bytes of a NAR. It may have to look for them first.
const PATIENCE: Duration = Duration::from_secs(300);

/// Blocks of a NAR that may wait for whoever hashes it; a block has at most 128 KiB.
const WAITING: usize = 8;

/// A daemon at a Unix socket. One connection asks the questions; each NAR comes over one of its own, because whether a daemon
/// has sent the whole of it can only be told from its contents.
pub struct Daemon {
    socket: PathBuf,
    store_dir: StoreDir,
    questions: Mutex<Option<Client>>,
}

impl Daemon {
    /// Connects to a daemon's socket. The protocol does not say which store directory it serves.
    ///
    /// # Errors
    /// When nobody answers there, or what answers is no Nix daemon.
    pub async fn connect(socket: &Path, store_dir: &StoreDir) -> Result<Self, StoreError> {
        let this = Self { socket: socket.to_owned(), store_dir: store_dir.clone(), questions: Mutex::new(None) };
        let client = this.open().await?;
        *this.questions.lock().await = Some(client);
        Ok(this)
    }

    async fn open(&self) -> Result<Client, StoreError> {
        self.in_time(Client::connect(&self.socket, &self.store_dir)).await
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, StoreError> {
        match timeout(PATIENCE, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(stalled(&self.socket)),
        }
    }

    /// Asks a question. The connection is kept for the next one only where its answer came whole.
    async fn ask<T>(&self, question: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, StoreError> {
        let mut questions = self.questions.lock().await;
        let mut client = match questions.take() {
            Some(client) => client,
            None => self.open().await?,
        };
        let answer = self.in_time(question(&mut client)).await;
        if matches!(answer, Ok(_) | Err(StoreError::Daemon(ClientError::Remote(_)))) {
            *questions = Some(client);
        }
        answer
    }
}

fn stalled(socket: &Path) -> StoreError {
    StoreError::Stalled { place: socket.display().to_string(), seconds: PATIENCE.as_secs() }
}

#[async_trait]
impl Store for Daemon {
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    async fn statement(&self, path: &StorePath) -> Result<Option<Statement>, StoreError> {
        let info = self.ask(async |client: &mut Client| client.path_info(path).await).await?;
        Ok(info.map(|info| {
            let stated = |text: &String| StatedSignature { text: text.clone(), first_seen: None };
            let signatures = info.signatures.iter().map(stated).collect();
            Statement { info, signatures, history: History::None, rivals: Vec::new(), file: None }
        }))
    }

    async fn valid_among(&self, paths: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(paths);
        }
        self.ask(async |client: &mut Client| client.valid_among(paths.into_iter().collect()).await).await
    }

    async fn all_paths(&self) -> Result<Listed, StoreError> {
        let paths = self.ask(async |client: &mut Client| client.all_paths().await).await?;
        Ok(Listed { paths, unreadable: Vec::new() })
    }

    async fn open_nar(&self, statement: &Statement) -> Result<Option<NarReader>, StoreError> {
        let mut client = self.open().await?;
        self.in_time(client.nar(&statement.info.path)).await?;
        let (blocks, receiver) = mpsc::channel(WAITING);
        tokio::spawn(pass(client, statement.info.nar_size, blocks, self.socket.clone()));
        Ok(Some(Box::new(Blocks { blocks: receiver, pending: Bytes::new() })))
    }
}

/// Hands on so many bytes of a NAR.
async fn pass(mut client: Client, size: u64, blocks: mpsc::Sender<io::Result<Bytes>>, socket: PathBuf) {
    let mut left = size;
    while left > 0 {
        let block = match timeout(PATIENCE, client.nar_block(left)).await {
            Ok(Ok(block)) if block.is_empty() => {
                let why = format!("the daemon ended the connection after {} of {size} bytes", size - left);
                Err(io::Error::new(ErrorKind::UnexpectedEof, why))
            }
            Ok(Ok(block)) => {
                left -= block.len() as u64;
                Ok(block)
            }
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::other(stalled(&socket))),
        };
        let failed = block.is_err();
        if blocks.send(block).await.is_err() || failed {
            return;
        }
    }
}

/// Blocks from a channel, for a thread that may block.
struct Blocks {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    pending: Bytes,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pending.is_empty() {
            match self.blocks.blocking_recv() {
                Some(block) => self.pending = block?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.pending.len());
        self.pending.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
