//! What asks for a build. This store builds nothing: what is valid is there, and what is not has to be brought.

use nix_derivation::DerivedPath;
use policy::escaped;
use tokio::io::{AsyncRead, AsyncWrite};
use verifier::StorePath;

use super::OperationError;
use super::session::Session;
use crate::protocol::{BasicDerivation, BuildMode, BuildOutcome, BuildResult, BuildStatus};
use crate::wire::Message;

/// What a person can do who asked this store to build.
const ADVICE: &str = "this store does not build: build it in your own store, then copy it here with its signatures";

impl<R, W> Session<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    pub(super) async fn ensure_path(&mut self, path: &StorePath) -> Result<(), OperationError> {
        if !self.view().is_valid(path).await? {
            return Err(self.view().not_valid(path).await?.into());
        }
        self.nothing_to_do()
    }

    pub(super) async fn build_paths(&mut self, targets: &[DerivedPath], mode: BuildMode) -> Result<(), OperationError> {
        refuse_mode(mode)?;
        for target in targets {
            if let Err(lacking) = self.valid_outputs(target).await? {
                return Err(OperationError::Reply(format!("{lacking}, and {ADVICE}")));
            }
        }
        self.nothing_to_do()
    }

    pub(super) async fn build_paths_with_results(
        &mut self,
        targets: &[DerivedPath],
        mode: BuildMode,
    ) -> Result<(), OperationError> {
        refuse_mode(mode)?;
        let mut results = Vec::with_capacity(targets.len());
        for target in targets {
            results.push(self.result_of(target).await?);
        }
        let store_dir = self.store_dir();
        Message::Last.write(&mut self.writer);
        self.writer.put_u64(results.len() as u64);
        for (target, result) in targets.iter().zip(&results) {
            self.writer.put_str(&target.render_legacy(&store_dir));
            result.write(&mut self.writer, &store_dir, self.greeting.version, &self.greeting.features);
        }
        Ok(())
    }

    /// Answers by the outputs that the derivation states; nothing of it is believed beyond which paths to look for.
    pub(super) async fn build_derivation(
        &mut self,
        drv_path: &StorePath,
        derivation: &BasicDerivation,
    ) -> Result<(), OperationError> {
        let store_dir = self.store_dir();
        let mut found = Vec::new();
        let mut lacking = None;
        for output in &derivation.outputs {
            let path = store_dir.parse_path(output.path.as_bytes()).ok();
            match path {
                Some(path) if self.view().is_valid(&path).await? => found.push((output.name.clone(), path)),
                _ => lacking = lacking.or(Some(&output.name)),
            }
        }
        let result = match lacking {
            None => valid(found),
            Some(output) => {
                let drv_path = store_dir.render_path(drv_path);
                failed(format!("output '{}' of '{drv_path}' is not valid", escaped(output)))
            }
        };
        Message::Last.write(&mut self.writer);
        result.write(&mut self.writer, &store_dir, self.greeting.version, &self.greeting.features);
        Ok(())
    }

    /// Answers 1: for what is true already, or needs nothing done here (roots, since this store deletes nothing by itself).
    pub(super) fn nothing_to_do(&mut self) -> Result<(), OperationError> {
        Message::Last.write(&mut self.writer);
        self.writer.put_u64(1);
        Ok(())
    }

    async fn result_of(&self, target: &DerivedPath) -> Result<BuildResult, OperationError> {
        Ok(match self.valid_outputs(target).await? {
            Ok(outputs) => valid(outputs),
            Err(lacking) => failed(lacking),
        })
    }
}

fn refuse_mode(mode: BuildMode) -> Result<(), OperationError> {
    match mode {
        BuildMode::Normal => Ok(()),
        BuildMode::Repair | BuildMode::Check => {
            Err(OperationError::Reply(format!("repairing and checking are builds, and {ADVICE}")))
        }
    }
}

fn valid(outputs: Vec<(String, StorePath)>) -> BuildResult {
    let built = |(output, path)| BuildOutcome { output, path, signatures: Vec::new() };
    BuildResult::new(BuildStatus::AlreadyValid, "", outputs.into_iter().map(built).collect())
}

fn failed(lacking: String) -> BuildResult {
    BuildResult::new(BuildStatus::MiscFailure, format!("{lacking}, and {ADVICE}"), Vec::new())
}
