//! One client's session: a greeting, then one operation after another.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use verifier::{StoreDir, StorePath};

use super::ahead::Ahead;
use super::{DAEMON_VERSION, OperationError, ServeError};
use crate::gate::{Gate, Sight, Uploader, View};
use crate::protocol::{Greeting, Operation, ProtocolVersion, Request, Trust, greet_client};
use crate::wire::{ErrorMessage, Frames, Message, Pumped, Reader, SocketSource, WireError, Writer};

/// How long a client may send nothing in the middle of a request. Between requests it may wait as long as it likes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Chunks of an upload that are read before they are asked for, so that the client can go on sending while a path is judged or
/// waits for its turn. They have 128 KiB at the most.
const AHEAD: usize = 32;

/// How long the greeting may take in all.
const GREETING: Duration = Duration::from_secs(30);

/// The first version whose clients take no for an answer to `NarFromPath`. Older ones (seen with Nix 2.8) wait for the NAR
/// all the same, for ever, unless the connection ends.
const MINDS_REFUSED_NARS: ProtocolVersion = ProtocolVersion { major: 1, minor: 38 };

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What it sees of the store, by where it has connected.
    pub sight: Sight,
    /// Whether it may do what belongs to administrators.
    pub trust: Trust,
    /// What records call it.
    pub uploader: Uploader,
}

pub(super) type In<R> = Reader<SocketSource<R>>;

/// A session past its greeting.
pub(super) struct Session<R, W> {
    pub(super) gate: Arc<Gate>,
    pub(super) peer: Peer,
    pub(super) greeting: Greeting,
    pub(super) reader: In<R>,
    pub(super) writer: Writer<W>,
    /// None where reading ahead gains nothing.
    pub(super) ahead: Option<Ahead>,
}

/// Serves a client until it goes.
///
/// # Errors
/// When the greeting fails or the connection breaks in the middle of something. The end of the connection between two
/// requests is none.
pub async fn serve_connection<R, W>(gate: Arc<Gate>, peer: Peer, input: R, output: W) -> Result<(), ServeError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = Reader::new(SocketSource::new(input));
    let mut writer = Writer::new(output);
    let greeting = greet_client(&mut reader, &mut writer, DAEMON_VERSION, peer.trust);
    let greeting = tokio::time::timeout(GREETING, greeting).await.map_err(|_| WireError::Stalled(GREETING))??;
    tracing::debug!(version = %greeting.version, by = peer.uploader.0, "connected");
    let ahead = gate.view().reads_ahead().then(Ahead::default);
    Session { gate, peer, greeting, reader, writer, ahead }.run().await
}

impl<R, W> Session<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    async fn run(mut self) -> Result<(), ServeError> {
        loop {
            self.reader.set_patience(None);
            self.reader.renew_budget();
            if self.reader.is_at_end().await? {
                return Ok(());
            }
            self.reader.set_patience(Some(PATIENCE));
            let number = self.reader.u64().await?;
            let Some(operation) = Operation::from_number(number) else {
                // Its arguments cannot be skipped, since nobody knows how long they are: say so and close, as Nix does.
                self.fail(format!("unknown operation {number}: nix-quorum speaks protocol 1.32 to 1.38")).await?;
                return Ok(());
            };
            tracing::debug!(%operation, "asked");
            match self.perform(operation).await {
                Ok(()) => self.writer.flush().await?,
                Err(OperationError::Reply(why)) => {
                    self.refuse(operation, why).await?;
                    if operation == Operation::NarFromPath && self.greeting.version < MINDS_REFUSED_NARS {
                        return Ok(());
                    }
                }
                Err(OperationError::Fatal(error)) => {
                    self.writer.discard();
                    // Where the connection failed nobody hears this; and a NAR is cut off by saying nothing more, since
                    // words would be taken for its last bytes.
                    if !matches!(error, WireError::Io(_)) {
                        let _told = self.fail(error.to_string()).await;
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Carries out one operation. What follows a request in frames is read here, so that an operation cannot forget it.
    async fn perform(&mut self, operation: Operation) -> Result<(), OperationError> {
        let store_dir = self.gate.cache().store_dir().clone();
        let request = Request::read(operation, &mut self.reader, &store_dir, &self.greeting.features).await;
        if !operation.is_framed() {
            return self.answer(request?).await;
        }
        let mut frames = Frames::new(&mut self.reader);
        let (ahead, pumped) = mpsc::channel(AHEAD);
        let mut pump = pin!(frames.pump(ahead));
        let mut read = None;
        let outcome = match request {
            Err(error) => {
                drop(pumped);
                Err(error.into())
            }
            Ok(request) => {
                let mut work = pin!(super::add::take_in(&self.gate, &self.peer, request, Pumped::new(pumped)));
                let outcome = tokio::select! {
                    biased;
                    outcome = &mut work => outcome,
                    end = &mut pump => {
                        // Where the frames broke off, what came whole before that is kept.
                        read = Some(end);
                        work.await
                    }
                };
                match outcome {
                    // What the frames hold breaks the wire's rules, the frames do not: the session need not end.
                    Err(OperationError::Fatal(error)) => Err(OperationError::Reply(error.to_string())),
                    outcome => outcome,
                }
            }
        };
        if let Some(Err(error)) = read {
            return Err(error.into());
        }
        match outcome {
            Ok((answer, lines)) => {
                if read.is_none() {
                    pump.await?;
                }
                for line in lines {
                    Message::Next(format!("{}\n", shown(&line))).write(&mut self.writer);
                }
                Message::Last.write(&mut self.writer);
                answer.write(&mut self.writer, &store_dir);
                Ok(())
            }
            Err(OperationError::Reply(why)) => {
                // The client reads while it writes: told at once, it stops early. What it still sends is passed over.
                let why = shown(&why);
                Message::Error(ErrorMessage::new(why.clone())).write(&mut self.writer);
                self.writer.flush().await?;
                tracing::info!(%operation, why, by = self.peer.uploader.0, "refused");
                if read.is_none() {
                    pump.await?;
                }
                Ok(())
            }
            Err(fatal) => Err(fatal),
        }
    }

    /// Carries out an operation that has come whole.
    async fn answer(&mut self, request: Request) -> Result<(), OperationError> {
        match request {
            Request::IsValidPath(path) => self.is_valid_path(&path).await,
            Request::QueryReferrers(path) => self.query_referrers(&path).await,
            Request::QueryValidPaths { paths, .. } => self.query_valid_paths(&paths).await,
            Request::QueryAllValidPaths => self.query_all_valid_paths().await,
            Request::QueryPathInfo(path) => self.query_path_info(&path).await,
            Request::QueryPathFromHashPart(part) => self.query_path_from_hash_part(&part).await,
            Request::QueryDeriver(path) => self.query_deriver(&path).await,
            Request::QueryValidDerivers(path) => self.query_valid_derivers(&path).await,
            Request::QueryDerivationOutputs(path) => self.query_derivation_outputs(&path).await,
            Request::QueryDerivationOutputNames(path) => self.query_derivation_output_names(&path).await,
            Request::QueryDerivationOutputMap(path) => self.query_derivation_output_map(&path).await,
            Request::QuerySubstitutablePaths(_) | Request::QuerySubstitutablePathInfos(_) => self.no_substitutes(),
            Request::QuerySubstitutablePathInfo(_) => self.no_substitutes(),
            Request::QueryMissing(targets) => self.query_missing(&targets).await,
            Request::QueryRealisation(id) => self.query_realisation(&id).await,
            Request::RegisterDrvOutput(realisation) => self.register_drv_output(realisation).await,
            Request::AddSignatures { path, signatures } => self.add_signatures(&path, &signatures).await,
            Request::AddTextToStore { name, text, references } => self.add_text_to_store(name, text, references).await,
            Request::NarFromPath(path) => self.nar_from_path(&path).await,
            Request::EnsurePath(path) => self.ensure_path(&path).await,
            Request::BuildPaths { targets, mode } => self.build_paths(&targets, mode).await,
            Request::BuildPathsWithResults { targets, mode } => self.build_paths_with_results(&targets, mode).await,
            Request::BuildDerivation { drv_path, derivation, .. } => {
                self.build_derivation(&drv_path, &derivation).await
            }
            Request::AddTempRoot(_) | Request::AddIndirectRoot(_) | Request::SyncWithGC | Request::OptimiseStore => {
                self.nothing_to_do()
            }
            Request::FindRoots => self.find_roots(),
            Request::AddPermRoot { .. } => Err(OperationError::Reply(
                "AddPermRoot: this store needs no roots, since it deletes nothing by itself; make a link on your side"
                    .into(),
            )),
            Request::CollectGarbage(request) => self.collect_garbage(&request).await,
            Request::VerifyStore { contents, repair } => self.verify_store(contents, repair).await,
            Request::SetOptions(_) => {
                Message::Last.write(&mut self.writer);
                Ok(())
            }
            Request::AddToStore(_)
            | Request::AddToStoreNar(_)
            | Request::AddMultipleToStore
            | Request::AddBuildLog(_) => unreachable!("framed operations are carried out where their frames are read"),
        }
    }

    /// Tells the client why an operation failed; the session goes on.
    async fn refuse(&mut self, operation: Operation, why: String) -> Result<(), WireError> {
        tracing::info!(%operation, why, by = self.peer.uploader.0, "refused");
        self.writer.discard();
        self.fail(why).await
    }

    async fn fail(&mut self, why: String) -> Result<(), WireError> {
        Message::Error(ErrorMessage::new(shown(&why))).write(&mut self.writer);
        self.writer.flush().await
    }

    /// Sends a line of log to the person at the other end.
    pub(super) async fn say(&mut self, line: String) -> Result<(), WireError> {
        Message::Next(format!("{}\n", shown(&line))).write(&mut self.writer);
        self.writer.flush().await
    }

    pub(super) fn view(&self) -> View<'_> {
        self.gate.view_of(self.peer.sight)
    }

    pub(super) fn store_dir(&self) -> StoreDir {
        self.gate.cache().store_dir().clone()
    }

    pub(super) fn put_path(&mut self, path: Option<&StorePath>) {
        let text = path.map_or_else(String::new, |path| self.gate.cache().store_dir().render_path(path));
        self.writer.put_str(&text);
    }

    pub(super) fn put_paths<'a>(&mut self, paths: impl ExactSizeIterator<Item = &'a StorePath>) {
        let store_dir = self.store_dir();
        self.writer.put_strings(paths.map(|path| store_dir.render_path(path)));
    }

    /// Refuses what only administrators may do.
    pub(super) fn require_trust(&self, what: &str) -> Result<(), OperationError> {
        match self.peer.trust {
            Trust::Trusted => Ok(()),
            Trust::Untrusted => Err(OperationError::Reply(format!(
                "you are not privileged to {what}: only root and the user that the server runs as may"
            ))),
        }
    }
}

/// Longest line that is sent to the person at the other end, in characters.
const MAX_LINE: usize = 4_000;

/// Makes a text one line: parts of it may be a peer's, and it ends up on somebody's terminal.
fn shown(text: &str) -> String {
    policy::bounded(text, MAX_LINE)
}
