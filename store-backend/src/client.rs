//! The worker protocol from the other end: asking a daemon, ours or Nix's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use verifier::{PathInfo, StoreDir, StorePath};

use crate::protocol::{
    Greeting, HandshakeError, RawPathInfo, Request, RequestError, Substitutes, greet_server, write_path_info,
};
use crate::store::MAX_PATHS;
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

/// Most log lines of a daemon that are kept until somebody takes them.
const MOST_LINES: usize = 100;

/// Most path infos that are asked for before an answer is taken: their questions fit into a socket's buffer, so a daemon
/// that waits for its answer to be taken never makes us wait for it to take a question.
pub const MOST_ASKED: usize = 64;

/// How long the last words of a program that has ended may take to come.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Longest line of a program's that is passed on whole, in bytes.
const LINE: u64 = 4096;

/// Lines of a program's that are passed on, at most.
const MOST_PASSED_ON: usize = 1_000;

/// Passes on to our standard error what a program says on its own, each line with the program's name, so that nobody takes it for
/// our own words.
async fn pass_on(name: String, said: ChildStderr) {
    let (mut said, mut line) = (BufReader::new(said), Vec::new());
    for passed in 0.. {
        line.clear();
        if !matches!((&mut said).take(LINE).read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
            return;
        }
        let text = match passed {
            ..MOST_PASSED_ON => String::from_utf8_lossy(&line),
            MOST_PASSED_ON => "it says more than is shown".into(),
            _ => continue,
        };
        let shown = policy::bounded(text.trim_end_matches(['\n', '\r']), 2 * line.len().max(100));
        // Where nobody can read it, nothing is lost that anybody could have read.
        let _unread = writeln!(std::io::stderr(), "{name}: {shown}");
    }
}

/// Returns what people call a program.
fn command_name(place: &str) -> String {
    let name = Path::new(place).file_name().unwrap_or_default();
    policy::escaped(&name.to_string_lossy())
}

type Input = Box<dyn AsyncRead + Send + Sync + Unpin>;
type Output = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// A connection to a daemon.
pub struct Client {
    reader: Reader<SocketSource<Input>>,
    writer: Writer<Output>,
    greeting: Greeting,
    store_dir: StoreDir,
    lines: Vec<String>,
    /// What speaks at the other end, where it was started for this connection. It ends with it.
    _process: Option<Child>,
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
        Self::greet(Box::new(input), Box::new(output), None, store_dir).await
    }

    /// Starts a program that speaks the protocol on its standard input and output, such as `ssh HOST nix-daemon --stdio`.
    /// What it says on standard error goes where ours does, escaped: the other end of a connection may have written it.
    ///
    /// # Errors
    /// When it cannot be started, or does not speak the protocol.
    pub async fn start(mut command: Command, store_dir: &StoreDir) -> Result<Self, ClientError> {
        let place = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let connect = |source| ClientError::Connect { place: place.clone(), source };
        let mut process = command.spawn().map_err(connect)?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(output), Some(input), Some(said)) = pipes else {
            return Err(connect(std::io::Error::other("it was started without pipes")));
        };
        let name = command_name(&place);
        let passing = tokio::spawn(pass_on(name, said));
        let greeted = Self::greet(Box::new(input), Box::new(output), Some(process), store_dir).await;
        if greeted.is_err() {
            // It has ended, and what it said says why.
            let _said = timeout(LAST_WORDS, passing).await;
        }
        greeted
    }

    async fn greet(
        input: Input,
        output: Output,
        process: Option<Child>,
        store_dir: &StoreDir,
    ) -> Result<Self, ClientError> {
        let mut reader = Reader::new(SocketSource::new(input));
        let mut writer = Writer::new(output);
        let greeting = greet_server(&mut reader, &mut writer).await?;
        let (store_dir, lines) = (store_dir.clone(), Vec::new());
        Ok(Self { reader, writer, greeting, store_dir, lines, _process: process })
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

    /// Returns where it is counted how many bytes the daemon has sent.
    pub(crate) fn came(&self) -> Arc<AtomicU64> {
        self.reader.came()
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
        self.read_path_info(path).await
    }

    /// Asks for the infos of some paths, one after the other, without waiting for an answer before the next question. The
    /// answers are to be taken in the same order, with [`Client::next_path_info`]. The daemon must be able to keep all of the
    /// questions, so they should be no more than [`MOST_ASKED`].
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn ask_path_infos(&mut self, paths: &[StorePath]) -> Result<(), ClientError> {
        for path in paths {
            Request::QueryPathInfo(path.clone()).write(&mut self.writer, &self.store_dir);
        }
        Ok(self.writer.flush().await?)
    }

    /// Takes the answer to a question that [`Client::ask_path_infos`] asked; none if the path is not valid.
    ///
    /// # Errors
    /// When the daemon says no, or the connection fails. After [`ClientError::Remote`] and [`ClientError::Nonsense`] the next
    /// answer can be taken.
    pub async fn next_path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, ClientError> {
        self.reader.renew_budget();
        wait_for_answer(&mut self.reader, &mut self.lines).await?;
        self.read_path_info(path).await
    }

    async fn read_path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, ClientError> {
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

    /// Returns the outputs of a derivation, by name; none for one whose path is not known.
    ///
    /// # Errors
    /// When the daemon cannot be asked or says no.
    pub async fn outputs(&mut self, drv_path: &StorePath) -> Result<BTreeMap<String, Option<StorePath>>, ClientError> {
        self.ask(&Request::QueryDerivationOutputMap(drv_path.clone())).await?;
        let mut outputs = BTreeMap::new();
        for _ in 0..self.reader.count("an output").await? {
            let name = self.reader.string("an output's name", StringLimit::Short).await?;
            let path = self.reader.string("a store path", StringLimit::Short).await?;
            let path = if path.is_empty() { None } else { Some(self.parse(&path)?) };
            outputs.insert(name, path);
        }
        Ok(outputs)
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
        let (mut paths, count) = (BTreeSet::new(), self.reader.u64().await?);
        if count > MAX_PATHS as u64 {
            return Err(ClientError::Nonsense(format!("{count} paths, more than {MAX_PATHS}")));
        }
        for _ in 0..count {
            self.reader.renew_budget();
            let text = self.reader.string("a store path", StringLimit::Short).await?;
            paths.insert(self.parse(&text)?);
        }
        Ok(paths)
    }

    fn parse(&self, path: &str) -> Result<StorePath, ClientError> {
        self.store_dir.parse_path(path.as_bytes()).map_err(|error| ClientError::Nonsense(error.to_string()))
    }
}

/// Most messages before one answer: who sends more has none.
const MOST_MESSAGES: usize = 10_000;

/// Reads the daemon's messages until its answer begins.
async fn wait_for_answer(reader: &mut Reader<SocketSource<Input>>, lines: &mut Vec<String>) -> Result<(), ClientError> {
    for _ in 0..MOST_MESSAGES {
        match Message::read(reader).await? {
            Message::Last => return Ok(()),
            Message::Error(error) => return Err(ClientError::Remote(error.text)),
            // Nobody need ever take them.
            Message::Next(line) if lines.len() < MOST_LINES => lines.push(line.trim_end().to_owned()),
            _ => {}
        }
    }
    Err(ClientError::Nonsense(format!("more than {MOST_MESSAGES} messages before an answer")))
}
