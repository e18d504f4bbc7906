//! A binary cache behind HTTP, as stock Nix reads it: what is admitted, with the signatures that are published.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use verifier::{OutputId, StoreDir, StorePath};

use super::StoreError;
use super::binary_cache::{
    CACHE_INFO, MAX_NARINFO, MAX_REALISATION, choose_store_dir, hash_part_of, out_path, parse_cache_info,
    parse_narinfo, realisation_key,
};
use super::derivation::outputs;
use super::reading::{Listed, Nar, Outputs, Pace, Statement, Statements, Store};
use super::web::{Web, WebClient};

/// Narinfos that are asked for at once.
const AT_ONCE: usize = 32;

/// A binary cache behind HTTP.
pub struct WebCache {
    client: WebClient,
    store_dir: StoreDir,
}

impl WebCache {
    /// Opens a cache. `expected` is the store directory that it must be of; without one it may be of any.
    ///
    /// # Errors
    /// When it cannot be reached, is none, or is another store directory's.
    pub async fn open(web: &Web, expected: Option<&StoreDir>) -> Result<Self, StoreError> {
        let client = web.client()?;
        let info = client.get(CACHE_INFO, MAX_NARINFO).await?.ok_or(StoreError::NotACache)?;
        let store_dir = choose_store_dir(parse_cache_info(&info), expected)?;
        Ok(Self { client, store_dir })
    }

    async fn statement(&self, path: &StorePath) -> Result<Option<Statement>, StoreError> {
        let hash_part = hash_part_of(path);
        let Some(bytes) = self.client.get(&format!("{hash_part}.narinfo"), MAX_NARINFO).await? else {
            return Ok(None);
        };
        let (info, file) = parse_narinfo(&self.store_dir, &hash_part, &bytes)?;
        Ok((info.path == *path).then(|| Statement { file: Some(file), ..Statement::of(info) }))
    }
}

#[async_trait]
impl Store for WebCache {
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    fn pace(&self) -> Pace {
        // As many at once as one question has: a slow answer then holds up no more than its share.
        Pace { at_once: AT_ONCE, paths: 1, contents: Pace::CONTENTS }
    }

    async fn statements(&self, paths: Vec<StorePath>) -> Statements {
        let answers = paths.into_iter().map(async |path| {
            let answer = self.statement(&path).await;
            (path, answer)
        });
        stream::iter(answers.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await
    }

    async fn valid_among(&self, paths: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        let looks = paths.into_iter().map(async |path| {
            let there = self.client.exists(&format!("{}.narinfo", hash_part_of(&path))).await?;
            Ok(there.then_some(path))
        });
        let looks = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        looks.try_filter_map(async |path| Ok(path)).try_collect().await
    }

    async fn all_paths(&self) -> Result<Listed, StoreError> {
        Err(StoreError::Unlisted(self.client.to_string()))
    }

    async fn outputs(&self, derivation: &Statement) -> Result<Outputs, StoreError> {
        outputs(self, derivation).await
    }

    async fn realised(&self, id: &OutputId) -> Result<Option<StorePath>, StoreError> {
        let object = self.client.get(realisation_key(id)?.as_str(), MAX_REALISATION).await?;
        object.map(|bytes| out_path(id, &bytes)).transpose()
    }

    async fn open_nar(&self, statement: &Statement) -> Result<Option<Nar>, StoreError> {
        let Some(file) = &statement.file else {
            return Ok(None);
        };
        match self.client.open(&file.url, Nar::most_compressed(&statement.info)).await? {
            Some(body) => Ok(Some(Nar::compressed(body, &statement.info, file, true)?)),
            None => Ok(None),
        }
    }
}
