//! The worker protocol from the other end: asking a daemon, ours or Nix's.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use verifier::{PathInfo, StoreDir, StorePath};

use crate::protocol::{
    Greeting, HandshakeError, RawPathInfo, Request, RequestError, Substitutes, greet_server, write_path_info,
};
use crate::wire::{FrameWriter, Message, Reader, SocketSource, StringLimit, WireError, Writer};

/// Why a daemon did not answer as asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// It could not be reached. Whoever gave its place should look there.
    #[error("cannot connect to {place}: {source}")]
    Connect {
        /// Where.
        place: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The greeting failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection broke.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It answered with an error: that is its answer, and the next question may be asked.
    #[error("{0}")]
    Remote(String),
    /// It answered what cannot be.
    #[error("the daemon answered what cannot be: {0}")]
    Nonsense(String),
}

impl From<RequestError> for ClientError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Wire(error) => Self::Wire(error),
            RequestError::Invalid(why) => Self::Nonsense(why),
        }
    }
}

/// A connection to a daemon.
pub struct Client {
    reader: Reader<SocketSource<OwnedReadHalf>>,
    writer: Writer<OwnedWriteHalf>,
    greeting: Greeting,
    store_dir: StoreDir,
    lines: Vec<String>,
}

impl Client {
    /// Connects to a daemon's socket.
    ///
    /// # Errors
    /// When nobody answers there, or what answers is no Nix daemon.
    pub async fn connect(socket: &Path, store_dir: &StoreDir) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| ClientError::Connect { place: socket.display().to_string(), source })?;
        let (input, output) = stream.into_split();
        let mut reader = Reader::new(SocketSource::new(input));
        let mut writer = Writer::new(output);
        let greeting = greet_server(&mut reader, &mut writer).await?;
        Ok(Self { reader, writer, greeting, store_dir: store_dir.clone(), lines: Vec::new() })
    }

    /// Returns what the greeting agreed on.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Returns the store directory.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Returns the log lines that the daemon has sent since they were last asked for.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Returns a path's info; none if it is not valid.
    ///
    /// # Errors
    /// When the daemon cannot be asked or says no.
    pub async fn path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, ClientError> {
        self.ask(&Request::QueryPathInfo(path.clone())).await?;
        if !self.reader.flag().await? {
            return Ok(None);
        }
        let rendered = self.store_dir.render_path(path);
        let info = RawPathInfo::read_unkeyed(&mut self.reader, rendered).await?;
        Ok(Some(info.parse(&self.store_dir)?))
    }

    /// Returns the valid ones of some paths.
    ///
    /// # Errors
    /// When the daemon cannot be asked or says no.
    pub async fn valid_among(&mut self, paths: Vec<StorePath>) -> Result<BTreeSet<StorePath>, ClientError> {
        self.ask(&Request::QueryValidPaths { paths, substitutes: Substitutes::Forbidden }).await?;
        self.paths().await
    }

    /// Returns every valid path.
    ///
    /// # Errors
    /// When the daemon cannot be asked or says no.
    pub async fn all_paths(&mut self) -> Result<BTreeSet<StorePath>, ClientError> {
        self.ask(&Request::QueryAllValidPaths).await?;
        self.paths().await
    }

    /// Adds signatures to a path.
    ///
    /// # Errors
    /// When the daemon cannot be asked or says no.
    pub async fn add_signatures(&mut self, path: &StorePath, signatures: Vec<String>) -> Result<(), ClientError> {
        self.ask(&Request::AddSignatures { path: path.clone(), signatures }).await?;
        self.reader.u64().await?;
        Ok(())
    }

    /// Adds a path with its NAR. If the daemon refuses, it may do so before all is sent: then the connection is of no more use.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn add_to_store(&mut self, info: &PathInfo, nar: &[u8]) -> Result<(), ClientError> {
        self.reader.renew_budget();
        Request::AddMultipleToStore.write(&mut self.writer, &self.store_dir);
        let mut head = Writer::new(Vec::new());
        head.put_u64(1);
        write_path_info(&mut head, &self.store_dir, info);
        head.flush().await?;
        let head = head.into_inner();
        let (writer, reader, lines) = (&mut self.writer, &mut self.reader, &mut self.lines);
        let sending = async {
            let mut frames = FrameWriter::new(writer);
            frames.write(&head).await?;
            for piece in nar.chunks(64 << 10) {
                frames.write(piece).await?;
            }
            frames.finish().await
        };
        let answer = wait_for_answer(reader, lines);
        tokio::pin!(sending, answer);
        tokio::select! {
            sent = &mut sending => {
                sent?;
                answer.await
            }
            answered = &mut answer => answered,
        }
    }

    /// Asks for the NAR of a path. Its blocks are to be taken with [`Client::nar_block`] until `size` bytes have come.
    ///
    /// # Errors
    /// When the daemon cannot be asked or says no.
    pub async fn nar(&mut self, path: &StorePath) -> Result<(), ClientError> {
        self.ask(&Request::NarFromPath(path.clone())).await
    }

    /// Takes up to `most` bytes of the NAR that was asked for; an empty block means that the daemon has cut it off.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn nar_block(&mut self, most: u64) -> Result<Bytes, ClientError> {
        Ok(self.reader.take(most).await?)
    }

    /// Ends the connection.
    ///
    /// # Errors
    /// When the system fails.
    pub async fn close(self) -> Result<(), ClientError> {
        self.writer.into_inner().shutdown().await.map_err(WireError::from)?;
        Ok(())
    }

    /// Sends a request and waits until its answer begins.
    async fn ask(&mut self, request: &Request) -> Result<(), ClientError> {
        self.reader.renew_budget();
        request.write(&mut self.writer, &self.store_dir);
        self.writer.flush().await?;
        wait_for_answer(&mut self.reader, &mut self.lines).await
    }

    async fn paths(&mut self) -> Result<BTreeSet<StorePath>, ClientError> {
        let mut paths = BTreeSet::new();
        for _ in 0..self.reader.u64().await? {
            self.reader.renew_budget();
            let text = self.reader.string("a store path", StringLimit::Short).await?;
            let path = self.store_dir.parse_path(text.as_bytes());
            paths.insert(path.map_err(|error| ClientError::Nonsense(error.to_string()))?);
        }
        Ok(paths)
    }
}

/// Reads the daemon's messages until its answer begins.
async fn wait_for_answer(
    reader: &mut Reader<SocketSource<OwnedReadHalf>>,
    lines: &mut Vec<String>,
) -> Result<(), ClientError> {
    loop {
        match Message::read(reader).await? {
            Message::Last => return Ok(()),
            Message::Error(error) => return Err(ClientError::Remote(error.text)),
            Message::Next(line) => lines.push(line.trim_end().to_owned()),
            _ => {}
        }
    }
}
