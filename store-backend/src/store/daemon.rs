//! A daemon as a store to read: a gate or nix-daemon, at a socket or behind `ssh`.

mod connections;
mod passage;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use tokio::sync::{mpsc, oneshot};
use verifier::{OutputId, PathInfo, StoreDir, StorePath};

use super::StoreError;
use super::derivation::fixed_outputs;
use super::reading::{Listed, Nar, Outputs, Pace, ReadNar, Statement, Statements, Store};
use super::remote::Remote;
use crate::client::{Client, ClientError, MOST_ASKED};
use connections::{Connections, Wait};
use passage::Passage;

/// Blocks of a NAR that may wait for whoever hashes it; a block has at most 128 KiB.
const WAITING: usize = 8;

/// Most bytes that a daemon may say of the paths of one question, roughly.
const MOST_SAID: usize = if cfg!(test) { 4 << 20 } else { 64 << 20 };

/// A daemon. Each question has a connection of its own for as long as it takes; then the next one may have it.
pub struct Daemon {
    connections: Arc<Connections>,
    /// Where the daemon's files are on this machine, if they are here.
    files: Option<PathBuf>,
}

impl Daemon {
    /// Connects to a daemon, with as many connections as suit the place. The protocol does not say which store directory it serves.
    ///
    /// # Errors
    /// When nobody answers there, or what answers is no Nix daemon.
    pub async fn connect(remote: Remote, store_dir: &StoreDir) -> Result<Self, StoreError> {
        Self::connect_with(remote, None, None, store_dir).await
    }

    /// Connects to a daemon, with no more connections at once than are given, but at least one. Where its files are in a directory on
    /// this machine, there is no need to have them sent.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with(
        remote: Remote,
        files: Option<PathBuf>,
        most: Option<usize>,
        store_dir: &StoreDir,
    ) -> Result<Self, StoreError> {
        let connections = Arc::new(Connections::open(remote, most, store_dir).await?);
        Ok(Self { connections, files })
    }

    /// Asks a question. The connection is kept for the next one only where its answer came whole.
    async fn ask<T>(&self, question: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, StoreError> {
        let mut connection = self.connections.take().await?;
        let wait = Wait::for_answer_of(&connection.client);
        let answer = wait.in_time(&self.connections, question(&mut connection.client)).await;
        if matches!(answer, Ok(_) | Err(StoreError::Daemon(ClientError::Remote(_)))) {
            self.connections.give_back(connection);
        }
        answer
    }

    /// Asks about some paths at once, and appends what was answered, as far as there is room for it. The first error that leaves
    /// the connection of no more use ends this.
    async fn ask_about(
        &self,
        client: &mut Client,
        paths: &[StorePath],
        answers: &mut Statements,
        room: &mut usize,
    ) -> Result<(), StoreError> {
        let mut fits = |info: Option<PathInfo>| {
            let statement = info.map(Statement::of);
            *room = room.saturating_sub(statement.as_ref().map_or(0, Statement::size));
            let too_much = || ClientError::Nonsense(format!("more than {MOST_SAID} bytes about {} paths", paths.len()));
            if *room == 0 { Err(too_much().into()) } else { Ok(statement) }
        };
        let wait = Wait::for_answer_of(client);
        wait.in_time(&self.connections, client.ask_path_infos(paths)).await?;
        for path in paths {
            match wait.in_time(&self.connections, client.next_path_info(path)).await {
                Ok(info) => answers.push((path.clone(), fits(info))),
                Err(error @ StoreError::Daemon(ClientError::Remote(_) | ClientError::Nonsense(_))) => {
                    answers.push((path.clone(), Err(error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Daemon {
    fn store_dir(&self) -> &StoreDir {
        self.connections.store_dir()
    }

    fn pace(&self) -> Pace {
        // To start another connection over a network takes longer than to ask one more question.
        let at_once = if self.connections.remote.is_near() { 2 } else { 1 };
        Pace { at_once, paths: MOST_ASKED, contents: Pace::CONTENTS }
    }

    async fn statements(&self, paths: Vec<StorePath>) -> Statements {
        let (mut answers, mut room) = (Statements::with_capacity(paths.len()), MOST_SAID);
        while answers.len() < paths.len() {
            let done = match self.connections.take().await {
                Ok(mut connection) => {
                    let rest = &paths[answers.len()..];
                    let asked = self.ask_about(&mut connection.client, rest, &mut answers, &mut room).await;
                    asked.map(|()| self.connections.give_back(connection))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                let ends = error.ends_it();
                answers.push((paths[answers.len()].clone(), Err(error)));
                if ends {
                    break;
                }
            }
        }
        answers
    }

    async fn valid_among(&self, paths: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(paths);
        }
        self.ask(async |client: &mut Client| client.valid_among(paths.into_iter().collect()).await).await
    }

    async fn all_paths(&self) -> Result<Listed, StoreError> {
        let paths = self.ask(async |client: &mut Client| client.all_paths().await).await?;
        Ok(Listed { paths, ..Listed::default() })
    }

    async fn outputs(&self, derivation: &Statement) -> Result<Outputs, StoreError> {
        let (mut outputs, _) = fixed_outputs(self, derivation).await?;
        // It has to be believed only where nothing else says it.
        if outputs.values().any(Option::is_none) {
            let mut said = self.ask(async |client: &mut Client| client.outputs(&derivation.info.path).await).await?;
            for (name, path) in outputs.iter_mut().filter(|(_, path)| path.is_none()) {
                *path = said.remove(name).flatten();
            }
        }
        Ok(outputs)
    }

    async fn realised(&self, _: &OutputId) -> Result<Option<StorePath>, StoreError> {
        // It was asked for the outputs themselves.
        Ok(None)
    }

    async fn open_nar(&self, statement: &Statement) -> Result<Option<Nar>, StoreError> {
        if let Some(files) = &self.files {
            return Ok(super::local::files_of(files, &statement.info.path));
        }
        let passage = Passage::begin(self.connections.clone(), &statement.info).await?;
        let (blocks, receiver) = mpsc::channel(WAITING);
        let (whole, was_whole) = oneshot::channel();
        tokio::spawn(passage.pass(blocks, was_whole));
        Ok(Some(Nar::Bytes(Box::new(Blocks { blocks: receiver, pending: Bytes::new(), whole: Some(whole) }))))
    }
}

/// Blocks from a channel, for a thread that may block.
struct Blocks {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    pending: Bytes,
    whole: Option<oneshot::Sender<()>>,
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

impl ReadNar for Blocks {
    fn was_whole(&mut self) {
        if let Some(whole) = self.whole.take() {
            // The connection has failed since, or nobody needs it any more.
            let _unneeded = whole.send(());
        }
    }
}

#[cfg(test)]
mod tests;
