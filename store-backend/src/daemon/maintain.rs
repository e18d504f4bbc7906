//! Looking after the store.

use policy::escaped;
use tokio::io::{AsyncRead, AsyncWrite};

use super::OperationError;
use super::session::Session;
use crate::protocol::{GarbageAction, GarbageRequest};
use crate::wire::{ActivityKind, Field, Message, Verbosity};

/// The one activity of a session.
const ACTIVITY: u64 = 1;

/// Nix's number for the result "so many done, of so many, so many running, so many failed".
const PROGRESS: u64 = 105;

/// After how many paths the client is told how far it is.
const REPORT_EVERY: usize = 32;

impl<R, W> Session<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    /// Answers with no roots: nothing is collected here, so nothing has to be held.
    pub(super) fn find_roots(&mut self) -> Result<(), OperationError> {
        Message::Last.write(&mut self.writer);
        self.writer.put_u64(0);
        Ok(())
    }

    pub(super) async fn collect_garbage(&mut self, request: &GarbageRequest) -> Result<(), OperationError> {
        if request.ignore_liveness {
            return Err(OperationError::Reply("you are not allowed to ignore liveness".into()));
        }
        let (paths, bytes_freed) = match request.action {
            GarbageAction::ReturnLive => (self.view().all_paths().await?, 0),
            GarbageAction::ReturnDead => Default::default(),
            GarbageAction::DeleteDead => {
                let why = "this store keeps what it admitted, so none of it is garbage; \
                           delete paths by name with 'nix store delete'";
                return Err(OperationError::Reply(why.into()));
            }
            GarbageAction::DeleteSpecific => {
                self.require_trust("delete paths")?;
                let deleted = self.gate.delete(&request.paths, &self.peer.uploader).await?;
                (deleted.paths, deleted.bytes_freed)
            }
        };
        Message::Last.write(&mut self.writer);
        self.put_paths(paths.iter());
        self.writer.put_u64(bytes_freed);
        self.writer.put_u64(0);
        Ok(())
    }

    /// Looks at every path that the store has: whether its NAR is there, and, where asked, at every byte. Answers 1 if
    /// something is wrong, as Nix does. Unlike Nix, it repairs nothing, since it has nowhere to fetch from: it says what to do.
    pub(super) async fn verify_store(&mut self, contents: bool, repair: bool) -> Result<(), OperationError> {
        if repair {
            self.require_trust("repair paths")?;
        }
        let store_dir = self.store_dir();
        let paths = self.view().all_paths().await?;
        self.begin("checking the store").await?;
        let mut failed = 0;
        for (done, path) in paths.iter().enumerate() {
            if done % REPORT_EVERY == 0 {
                self.progress(done, paths.len(), failed).await?;
            }
            let looked = if contents { self.read_through(path).await } else { self.look(path).await };
            if let Err(error) = looked {
                failed += 1;
                let line = format!("{}: {}", store_dir.render_path(path), escaped(&error));
                self.say(line).await?;
            }
        }
        if repair && failed > 0 {
            self.say("this store cannot repair by itself: upload the damaged paths again".into()).await?;
        }
        Message::StopActivity(ACTIVITY).write(&mut self.writer);
        Message::Last.write(&mut self.writer);
        self.writer.put_flag(failed > 0);
        Ok(())
    }

    async fn look(&self, path: &verifier::StorePath) -> Result<(), String> {
        self.view().nar(path).await.map(drop).map_err(|error| error.to_string())
    }

    async fn read_through(&self, path: &verifier::StorePath) -> Result<(), String> {
        let mut nar = self.view().nar(path).await.map_err(|error| error.to_string())?;
        while nar.next().await.map_err(|error| error.to_string())?.is_some() {}
        Ok(())
    }

    async fn begin(&mut self, text: &str) -> Result<(), OperationError> {
        Message::StartActivity {
            id: ACTIVITY,
            level: Verbosity::Info as u64,
            kind: ActivityKind::VerifyPaths as u64,
            text: text.to_owned(),
            fields: Vec::new(),
            parent: 0,
        }
        .write(&mut self.writer);
        Ok(self.writer.flush().await?)
    }

    async fn progress(&mut self, done: usize, expected: usize, failed: u64) -> Result<(), OperationError> {
        let fields = [done as u64, expected as u64, 1, failed].map(Field::Number).to_vec();
        Message::Result { id: ACTIVITY, kind: PROGRESS, fields }.write(&mut self.writer);
        Ok(self.writer.flush().await?)
    }
}
