//! A NAR on its way from a daemon.
//!
//! A daemon that cannot read on ends the connection, and so does a network that fails. Asked once more, the daemon ends it in the same
//! place again.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use verifier::{NarEnd, PathInfo, StorePath};

use super::connections::{Connection, Connections, PATIENCE, Wait};
use crate::client::ClientError;
use crate::rate::{Rate, TooSlow};
use crate::store::StoreError;

pub(super) struct Passage {
    connections: Arc<Connections>,
    connection: Connection,
    path: StorePath,
    /// How many bytes it has, as was stated.
    size: u64,
    /// How many of them were handed on.
    passed: u64,
    /// How many of them have come over this connection.
    came: u64,
    /// After how many of them the connection before this one ended.
    ended: Option<u64>,
    rate: Rate,
}

impl Passage {
    /// Asks for the NAR of a path.
    pub(super) async fn begin(connections: Arc<Connections>, info: &PathInfo) -> Result<Self, StoreError> {
        let mut connection = connections.take().await?;
        let wait = Wait::for_answer_of(&connection.client);
        if let Err(error) = wait.in_time(&connections, connection.client.nar(&info.path)).await {
            if matches!(error, StoreError::Daemon(ClientError::Remote(_))) {
                connections.give_back(connection);
            }
            return Err(error);
        }
        let (path, size, rate) = (info.path.clone(), info.nar_size, Rate::default());
        Ok(Self { connections, connection, path, size, passed: 0, came: 0, ended: None, rate })
    }

    /// Hands it on, or as many bytes as were stated of one that is larger: where it is smaller than that, nothing comes any more. The
    /// connection is of further use if whoever reads it finds that it is what was stated.
    pub(super) async fn pass(mut self, blocks: mpsc::Sender<io::Result<Bytes>>, whole: oneshot::Receiver<()>) {
        let mut end = NarEnd::default();
        while self.passed < self.size && !end.is_reached() {
            let block = tokio::select! {
                block = self.next() => block,
                () = blocks.closed() => return,
            };
            let failed = block.as_ref().map(|block| end.pass(block)).is_err();
            if blocks.send(block).await.is_err() || failed {
                return;
            }
        }
        drop(blocks);
        if whole.await.is_ok() {
            self.connections.give_back(self.connection);
        }
    }

    /// Returns the next bytes.
    async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            // Whatever it waits for but its reader counts.
            let waits = Instant::now();
            let mut block = match timeout(PATIENCE, self.connection.client.nar_block(self.size - self.came)).await {
                Ok(Ok(block)) if !block.is_empty() => block,
                Ok(broken) => {
                    self.ask_again(broken.err()).await?;
                    continue;
                }
                Err(_) => return Err(io::Error::other(self.connections.stalled(PATIENCE))),
            };
            // What the daemon had to look for has been found when the first of it comes.
            if self.came > 0 && !self.rate.comes(block.len(), waits.elapsed()) {
                let why = format!("{}: {TooSlow}", self.connections.remote);
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            self.came += block.len() as u64;
            // What was handed on before is left out: if it was something else, the hash of the whole tells.
            if self.came > self.passed {
                let news = block.len().min(usize::try_from(self.came - self.passed).unwrap_or(usize::MAX));
                self.passed = self.came;
                return Ok(block.split_off(block.len() - news));
            }
        }
    }

    /// Asks once more, over another connection, after one has ended or failed.
    ///
    /// # Errors
    /// Of kind `UnexpectedEof` where the daemon has no more of it.
    async fn ask_again(&mut self, failed: Option<ClientError>) -> io::Result<()> {
        let why = match &failed {
            Some(error) => error.to_string(),
            None => "the daemon ended the connection".to_owned(),
        };
        let why = format!("{why} after {} of {} bytes", self.came, self.size);
        match self.ended.replace(self.came) {
            None => {}
            Some(before) if before == self.came && failed.is_none() => {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{why}, twice")));
            }
            Some(before) => return Err(io::Error::other(format!("{why}, and before that after {before}"))),
        }
        tracing::debug!(why, "asking again for the NAR of {}", self.path);
        let in_vain = |error: StoreError| match error {
            StoreError::Daemon(ClientError::Remote(said)) => {
                io::Error::new(ErrorKind::UnexpectedEof, format!("{why}, and says when asked again: {said}"))
            }
            error => io::Error::other(format!("{why}, and cannot be asked again: {error}")),
        };
        self.connections.replace(&mut self.connection).await.map_err(in_vain)?;
        let client = &mut self.connection.client;
        Wait::for_answer_of(client).in_time(&self.connections, client.nar(&self.path)).await.map_err(in_vain)?;
        self.came = 0;
        Ok(())
    }
}
