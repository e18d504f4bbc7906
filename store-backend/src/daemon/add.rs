//! What brings content, signatures and statements.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use policy::{Code, Finding};
use tokio::io::{AsyncRead, AsyncWrite};
use verifier::{ContentAddressMethod, HashAlgorithm, Judged, PathInfo, Realisation, StoreDir, StorePath, Verdict};

use super::OperationError;
use super::session::{Peer, Session};
use crate::gate::{Batch, Committed, ContentAddition, Gate, GateError, Offer};
use crate::protocol::{RawPathInfo, Request, Trust, write_path_info};
use crate::wire::{ByteSource, Message, Pumped, Reader, WireError, Writer};

/// What is sent after a framed operation has succeeded.
pub(super) enum Answer {
    Nothing,
    One,
    Info(Box<PathInfo>),
}

impl Answer {
    pub(super) fn write<W: AsyncWrite + Unpin + Send>(&self, writer: &mut Writer<W>, store_dir: &StoreDir) {
        match self {
            Self::Nothing => {}
            Self::One => writer.put_u64(1),
            Self::Info(info) => write_path_info(writer, store_dir, info),
        }
    }
}

/// Carries out an operation whose content comes in frames. The caller reads on to their end, whatever comes of it. Also returns
/// what is to be said to the person at the other end.
pub(super) async fn take_in(
    gate: &Arc<Gate>,
    peer: &Peer,
    request: Request,
    frames: Pumped,
) -> Result<(Answer, Vec<String>), OperationError> {
    let mut stream = Reader::new(frames);
    match request {
        Request::AddToStoreNar(info) => {
            let mut batch = Batch::new(gate.clone(), peer.sight, peer.uploader.clone());
            let taken = take_path(&mut batch, info, &mut stream).await;
            let finished = batch.finish().await;
            taken?;
            let held = finished?;
            end_of(&mut stream).await?;
            Ok((Answer::Nothing, say_held(held)))
        }
        Request::AddMultipleToStore => {
            let mut batch = Batch::new(gate.clone(), peer.sight, peer.uploader.clone());
            let taken = take_paths(gate, &mut batch, &mut stream).await;
            // What came whole before something went wrong is kept: a client that tries again sends only the rest.
            let finished = batch.finish().await;
            taken?;
            let held = finished?;
            end_of(&mut stream).await?;
            Ok((Answer::Nothing, say_held(held)))
        }
        Request::AddToStore(add) => {
            let addition = ContentAddition {
                name: add.name,
                method: add.method,
                algorithm: add.algorithm,
                references: add.references,
            };
            let info = gate.add_content(addition, &mut stream, &peer.uploader).await?;
            Ok((Answer::Info(Box::new(info)), Vec::new()))
        }
        Request::AddBuildLog(derivation) => {
            if peer.trust == Trust::Untrusted {
                let why = "you are not privileged to add logs: only root and the user that the server runs as may";
                return Err(OperationError::Reply(why.into()));
            }
            gate.add_build_log(&derivation, &mut stream).await?;
            Ok((Answer::One, Vec::new()))
        }
        other => unreachable!("{} has no frames", other.operation()),
    }
}

/// Says in one line that paths are held. Who copies a closure is not told of each.
fn say_held(Committed { held, first }: Committed) -> Vec<String> {
    let line = first.map(|first| match held {
        1 => format!("nix-quorum: {first}"),
        _ => format!("nix-quorum: {held} paths are held until their requirements are met, the first: {first}"),
    });
    line.into_iter().collect()
}

/// Takes in the items of `AddMultipleToStore`: their number, then each path info with its NAR.
async fn take_paths<S: ByteSource>(
    gate: &Gate,
    batch: &mut Batch,
    stream: &mut Reader<S>,
) -> Result<(), OperationError> {
    let count = stream.u64().await?;
    batch.expect(count);
    for _ in 0..count {
        stream.renew_budget();
        let info = RawPathInfo::read(stream).await?.parse(gate.cache().store_dir())?;
        take_path(batch, info, stream).await?;
    }
    Ok(())
}

/// Takes in one NAR, as long as its path info says. One that is longer or shorter than that is not parsed on into the next.
async fn take_path<S: ByteSource>(
    batch: &mut Batch,
    info: PathInfo,
    stream: &mut Reader<S>,
) -> Result<(), OperationError> {
    let mut left = info.nar_size;
    let mut offer = batch.offer(info).await?;
    while left > 0 {
        let chunk: Bytes = stream.take(left).await?;
        if chunk.is_empty() {
            return Err(OperationError::Reply(format!("the stream ended {left} bytes before its NAR did")));
        }
        left -= chunk.len() as u64;
        if let Offer::Wanted(wanted) = &mut offer {
            wanted.feed(chunk).await?;
        }
    }
    if let Offer::Wanted(wanted) = offer {
        batch.accept(*wanted).await?;
    }
    Ok(())
}

/// Checks that nothing follows what was announced.
async fn end_of<S: ByteSource>(stream: &mut Reader<S>) -> Result<(), OperationError> {
    if stream.is_at_end().await? {
        return Ok(());
    }
    Err(OperationError::Reply("more bytes came than NarSize announced; what was announced is admitted".into()))
}

impl<R, W> Session<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    pub(super) async fn add_text_to_store(
        &mut self,
        name: String,
        text: Vec<u8>,
        references: BTreeSet<StorePath>,
    ) -> Result<(), OperationError> {
        let addition =
            ContentAddition { name, method: ContentAddressMethod::Text, algorithm: HashAlgorithm::Sha256, references };
        let mut stream = Reader::new(Once(text.into()));
        let info = self.gate.add_content(addition, &mut stream, &self.peer.uploader).await?;
        Message::Last.write(&mut self.writer);
        self.put_path(Some(&info.path));
        Ok(())
    }

    pub(super) async fn add_signatures(
        &mut self,
        path: &StorePath,
        signatures: &[String],
    ) -> Result<(), OperationError> {
        let kept = self.gate.add_signatures(path, signatures, self.peer.sight, &self.peer.uploader).await?;
        // Who signs a closure is not told of each path that it waits for the one before.
        let lacks = |finding: &Finding| matches!(finding.code, Code::QuorumMissing | Code::Conflict);
        if let Some(held) = kept.held.filter(|held| held.findings().iter().any(lacks)) {
            let held = held.held_summary(&self.store_dir().render_path(path));
            self.say(format!("nix-quorum: {held}")).await?;
        }
        for dropped in &kept.dropped {
            let line = describe(&self.store_dir().render_path(path), dropped);
            self.say(line).await?;
        }
        self.nothing_to_do()
    }

    pub(super) async fn register_drv_output(&mut self, realisation: Realisation) -> Result<(), OperationError> {
        self.gate.register_realisation(realisation, &self.peer.uploader).await?;
        Message::Last.write(&mut self.writer);
        Ok(())
    }

    /// Sends a NAR. Its last block comes only once its hash is known to be right; the first one decides whether the answer
    /// begins at all, so that a small NAR that is damaged is an error in words. A larger one can only be cut off.
    pub(super) async fn nar_from_path(&mut self, path: &StorePath) -> Result<(), OperationError> {
        if let Some(ahead) = &mut self.ahead {
            self.gate.view().read_nars_ahead(ahead.after(path));
        }
        let mut nar = self.view().nar(path).await?;
        let mut block = nar.next().await.map_err(GateError::from)?;
        Message::Last.write(&mut self.writer);
        while let Some(bytes) = block {
            self.writer.stream(&bytes).await?;
            block = nar.next().await.map_err(|error| {
                tracing::error!(%error, "cutting off a NAR");
                OperationError::Fatal(WireError::Io(std::io::Error::other(error.to_string())))
            })?;
        }
        Ok(())
    }
}

/// Says in one line why a signature was not kept.
fn describe(path: &str, dropped: &Judged) -> String {
    let code = dropped.verdict.code().unwrap_or("kept");
    let shown = policy::escaped(&dropped.text.chars().take(120).collect::<String>()).to_string();
    let why = match &dropped.verdict {
        Verdict::Malformed(error) => error.to_string(),
        _ => "it is not this key's signature over this path, hash, size and references".to_owned(),
    };
    format!("nix-quorum: {code}: the signature \"{shown}\" of {path} is not kept: {why}")
}

/// One chunk that is there already.
struct Once(Bytes);

impl ByteSource for Once {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        Ok(std::mem::take(&mut self.0))
    }
}
