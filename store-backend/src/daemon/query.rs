//! Questions about paths.

use std::collections::{BTreeMap, BTreeSet};

use nix_derivation::{DerivedPath, SingleDerivedPath};
use tokio::io::{AsyncRead, AsyncWrite};
use verifier::{OutputId, StorePath};

use super::OperationError;
use super::session::Session;
use crate::gate::GateError;
use crate::protocol::{write_realisation, write_unkeyed_path_info};
use crate::wire::Message;

impl<R, W> Session<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    pub(super) async fn is_valid_path(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let known = self.view().is_valid(path).await? || self.view().held_info(path).await?.is_some();
        Message::Last.write(&mut self.writer);
        self.writer.put_flag(known);
        Ok(())
    }

    pub(super) async fn query_valid_paths(&mut self, paths: &[StorePath]) -> Result<(), OperationError> {
        let valid = self.view().held_among(paths).await?;
        Message::Last.write(&mut self.writer);
        self.put_paths(valid.iter());
        Ok(())
    }

    pub(super) async fn query_all_valid_paths(&mut self) -> Result<(), OperationError> {
        let paths = self.view().all_paths().await?;
        Message::Last.write(&mut self.writer);
        self.put_paths(paths.iter());
        Ok(())
    }

    pub(super) async fn query_referrers(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let referrers = self.view().referrers(path).await?;
        Message::Last.write(&mut self.writer);
        self.put_paths(referrers.iter());
        Ok(())
    }

    pub(super) async fn query_path_info(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let info = match self.view().path_info(path).await? {
            None => self.view().held_info(path).await?,
            info => info,
        };
        Message::Last.write(&mut self.writer);
        self.writer.put_flag(info.is_some());
        if let Some(info) = info {
            if let Some(ahead) = &mut self.ahead {
                ahead.note_info(&info);
            }
            write_unkeyed_path_info(&mut self.writer, self.gate.cache().store_dir(), &info);
        }
        Ok(())
    }

    pub(super) async fn query_path_from_hash_part(&mut self, hash_part: &str) -> Result<(), OperationError> {
        let is_hash_part = hash_part.len() == 32 && hash_part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_hash_part {
            let shown: String = hash_part.chars().take(64).collect();
            return Err(OperationError::Reply(format!("expected the 32 characters of a hash part, found {shown:?}")));
        }
        let path = self.view().from_hash_part(hash_part).await?;
        Message::Last.write(&mut self.writer);
        self.put_path(path.as_ref());
        Ok(())
    }

    pub(super) async fn query_deriver(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let info = self.view().path_info(path).await?;
        let info = info.ok_or_else(|| GateError::not_valid(self.gate.cache().store_dir(), path))?;
        Message::Last.write(&mut self.writer);
        self.put_path(info.deriver.as_ref());
        Ok(())
    }

    /// Answers with the stated deriver if it is valid itself and really has this output: no signature covers the statement.
    pub(super) async fn query_valid_derivers(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let mut derivers = BTreeSet::new();
        let stated = self.view().path_info(path).await?.and_then(|info| info.deriver);
        if let Some(deriver) = stated
            && self.view().is_valid(&deriver).await?
            && self.outputs_of(&deriver).await?.values().any(|output| output.as_ref() == Some(path))
        {
            derivers.insert(deriver);
        }
        Message::Last.write(&mut self.writer);
        self.put_paths(derivers.iter());
        Ok(())
    }

    pub(super) async fn query_derivation_outputs(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let outputs: BTreeSet<StorePath> = self.outputs_of(path).await?.into_values().flatten().collect();
        Message::Last.write(&mut self.writer);
        self.put_paths(outputs.iter());
        Ok(())
    }

    pub(super) async fn query_derivation_output_names(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let outputs = self.outputs_of(path).await?;
        Message::Last.write(&mut self.writer);
        self.writer.put_strings(outputs.keys());
        Ok(())
    }

    pub(super) async fn query_derivation_output_map(&mut self, path: &StorePath) -> Result<(), OperationError> {
        let outputs = self.outputs_of(path).await?;
        Message::Last.write(&mut self.writer);
        self.writer.put_u64(outputs.len() as u64);
        for (name, path) in &outputs {
            self.writer.put_str(name);
            self.put_path(path.as_ref());
        }
        Ok(())
    }

    /// This store fetches nothing from others: there are no substitutes, and no information on any. A list of 0 items and a
    /// "no" are the same word.
    pub(super) fn no_substitutes(&mut self) -> Result<(), OperationError> {
        Message::Last.write(&mut self.writer);
        self.writer.put_u64(0);
        Ok(())
    }

    /// Answers as Nix does for a store without substituters: a derivation that is valid "will be built" where its outputs are
    /// not, and then building says that this store does not build; everything else that is missing is unknown.
    pub(super) async fn query_missing(&mut self, targets: &[DerivedPath]) -> Result<(), OperationError> {
        let (mut to_build, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for target in targets {
            let base = target.base();
            match target {
                DerivedPath::Opaque(path) => {
                    if !self.view().is_valid(path).await? && self.view().held_info(path).await?.is_none() {
                        unknown.insert(path.clone());
                    }
                }
                DerivedPath::Built { .. } if !self.view().is_valid(base).await? => {
                    unknown.insert(base.clone());
                }
                DerivedPath::Built { .. } => {
                    if self.valid_outputs(target).await?.is_err() {
                        to_build.insert(base.clone());
                    }
                }
            }
        }
        Message::Last.write(&mut self.writer);
        self.put_paths(to_build.iter());
        self.put_paths([].iter());
        self.put_paths(unknown.iter());
        self.writer.put_u64(0);
        self.writer.put_u64(0);
        Ok(())
    }

    pub(super) async fn query_realisation(&mut self, id: &OutputId) -> Result<(), OperationError> {
        let realisation = self.gate.realisation(id).await?;
        Message::Last.write(&mut self.writer);
        // A set of at most one, or an optional one without its key: the number before it is the same.
        self.writer.put_flag(realisation.is_some());
        let Some(realisation) = realisation else {
            return Ok(());
        };
        let store_dir = self.store_dir();
        match id {
            OutputId::Hash { .. } => write_realisation(&mut self.writer, &store_dir, &realisation),
            OutputId::Path { .. } => {
                self.writer.put_str(&store_dir.render_path(&realisation.out_path));
                self.writer.put_strings(realisation.signatures.iter());
            }
        }
        Ok(())
    }

    /// Returns the outputs of a valid derivation with their paths, as far as they can be told: that of a content-addressed
    /// one is known from an admitted realisation.
    pub(super) async fn outputs_of(
        &self,
        drv_path: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, OperationError> {
        let derivation = self.view().derivation(drv_path).await?;
        let mut outputs = BTreeMap::new();
        for (name, output) in derivation.outputs() {
            let stated = output.path_in(derivation.store_dir(), derivation.name(), name).ok().flatten();
            let path = match stated {
                Some(path) => Some(path),
                None => self.realised(drv_path, name).await?,
            };
            outputs.insert(name.clone(), path);
        }
        Ok(outputs)
    }

    async fn realised(&self, drv_path: &StorePath, output: &str) -> Result<Option<StorePath>, OperationError> {
        let Ok(id) = OutputId::of_path(drv_path.clone(), output) else {
            return Ok(None);
        };
        Ok(self.gate.realisation(&id).await?.map(|realisation| realisation.out_path))
    }

    /// Returns the outputs that a target asks for, if all of them are valid; otherwise, in words, what is lacking.
    pub(super) async fn valid_outputs(
        &self,
        target: &DerivedPath,
    ) -> Result<Result<Vec<(String, StorePath)>, String>, OperationError> {
        let store_dir = self.store_dir();
        let (drv_path, wanted) = match target {
            DerivedPath::Opaque(path) => {
                if self.view().is_valid(path).await? {
                    return Ok(Ok(Vec::new()));
                }
                return match self.view().not_valid(path).await? {
                    // Whoever brought it need not be told to do so.
                    held @ GateError::OnlyHeld(_) => Err(held.into()),
                    error => Ok(Err(error.to_string())),
                };
            }
            DerivedPath::Built { drv_path: SingleDerivedPath::Opaque(drv_path), outputs } => (drv_path, outputs),
            DerivedPath::Built { .. } => {
                return Ok(Err(format!("{} is a derivation that has to be built first", target.render(&store_dir))));
            }
        };
        if !self.view().is_valid(drv_path).await? {
            return Ok(Err(format!("derivation '{}' is not valid", store_dir.render_path(drv_path))));
        }
        let all = self.outputs_of(drv_path).await?;
        let mut found = Vec::new();
        for (name, path) in &all {
            let asked = wanted.is_empty() || wanted.iter().any(|wanted| wanted == name || wanted == "*");
            if !asked {
                continue;
            }
            match path {
                Some(path) if self.view().is_valid(path).await? => found.push((name.clone(), path.clone())),
                _ => return Ok(Err(format!("output '{name}' of '{}' is not valid", store_dir.render_path(drv_path)))),
            }
        }
        if let Some(missing) = wanted.iter().find(|wanted| *wanted != "*" && !all.contains_key(*wanted)) {
            return Ok(Err(format!("'{}' has no output '{missing}'", store_dir.render_path(drv_path))));
        }
        Ok(Ok(found))
    }
}
