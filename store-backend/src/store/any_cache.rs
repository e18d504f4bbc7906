//! A binary cache as a store to read: ours, or one that stock Nix wrote.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use verifier::{FingerprintDigest, OutputId, PathInfo, StoreDir, StorePath};

use super::binary_cache::{BinaryCache, EVIDENCE, NOTES, StoreError, hash_part_of, narinfo_key, out_path};
use super::derivation::outputs;
use super::reading::{History, Listed, MAX_PATHS, Nar, Outputs, Pace, StatedSignature, Statement, Statements, Store};
use super::record::Record;
use crate::object::{Key, ObjectError};

/// Where everything is that stock Nix does not know.
const OWN: &str = "quorum/";

/// Paths that are looked up at once.
const AT_ONCE: usize = 32;

/// Most narinfos of one store that are looked at, and most notes of what is held.
const MOST_LISTED: usize = if cfg!(test) { 1_000 } else { MAX_PATHS };

/// Most contents of one path that are looked at beside the admitted ones: one is a conflict, and each is read.
const MOST_RIVALS: usize = 16;

impl BinaryCache {
    /// Says whether there is evidence of any path: stock Nix's caches have none, and need not be asked for that of each. Where that
    /// cannot be told, there may be.
    async fn keeps_evidence(&self) -> bool {
        let look = || async {
            let folders = self.objects().list_folders(OWN).await;
            folders.map_or(true, |folders| folders.iter().any(|folder| EVIDENCE == format!("{OWN}{folder}/")))
        };
        *self.keeps_evidence.get_or_init(look).await
    }

    /// Lists what else is held for a path. Where nothing can be listed, nothing is known of any.
    async fn rivals(&self, path: &StorePath, shown: Option<&FingerprintDigest>) -> Vec<PathInfo> {
        let held = self.held.get_or_init(|| async { self.list_held().await.unwrap_or_default() }).await;
        let mut rivals = Vec::new();
        for digest in held.get(&hash_part_of(path)).into_iter().flatten().filter(|digest| Some(*digest) != shown) {
            if let Ok(Some((record, _))) = self.record(path, digest).await {
                rivals.push(record.info().clone());
            }
        }
        rivals
    }

    /// Returns what is said of a path; none if it is not there.
    async fn statement(&self, path: &StorePath) -> Result<Option<Statement>, StoreError> {
        let Some(narinfo) = self.narinfo(&hash_part_of(path)).await? else {
            return Ok(None);
        };
        let info = narinfo.info;
        if info.path != *path {
            return Ok(None);
        }
        let digest = info.fingerprint(self.store_dir()).ok().map(|fingerprint| fingerprint.digest());
        let record = match digest {
            Some(digest) if self.keeps_evidence().await => self.record(path, &digest).await,
            _ => Ok(None),
        };
        let (record, history) = match record {
            Ok(Some((record, _))) => (Some(record), History::Recorded),
            Ok(None) => (None, History::None),
            // Whoever may read the paths need not be let see who brought them.
            Err(StoreError::Object(ObjectError::Io { source, .. })) if source.kind() == ErrorKind::PermissionDenied => {
                (None, History::Closed(source.to_string()))
            }
            Err(error) => return Err(error),
        };
        let mut signatures: Vec<StatedSignature> = Vec::new();
        for kept in record.iter().flat_map(Record::signatures) {
            signatures.push(StatedSignature { text: kept.signature.clone(), first_seen: Some(kept.first_seen) });
        }
        let in_record = |text: &String| record.as_ref().is_some_and(|record| record.info().signatures.contains(text));
        for text in info.signatures.iter().filter(|text| !in_record(text)) {
            signatures.push(StatedSignature { text: text.clone(), first_seen: None });
        }
        let rivals = self.rivals(path, digest.as_ref()).await;
        Ok(Some(Statement { info, signatures, history, rivals, file: Some(narinfo.file) }))
    }

    async fn list_held(&self) -> Result<HashMap<String, Vec<FingerprintDigest>>, ObjectError> {
        let mut held: HashMap<String, Vec<FingerprintDigest>> = HashMap::new();
        let mut pages = self.objects().list(NOTES).await?;
        let mut left = MOST_LISTED;
        while left > 0
            && let Some(mut page) = pages.next().await?
        {
            page.truncate(left);
            left -= page.len();
            for entry in page {
                let Some((hash_part, digest)) = entry.name.split_once('-') else {
                    continue;
                };
                let of_path = held.entry(hash_part.to_owned()).or_default();
                if let Ok(digest) = digest.parse()
                    && of_path.len() < MOST_RIVALS
                {
                    of_path.push(digest);
                }
            }
        }
        Ok(held)
    }
}

#[async_trait]
impl Store for BinaryCache {
    fn store_dir(&self) -> &StoreDir {
        self.store_dir()
    }

    fn pace(&self) -> Pace {
        let contents = if self.objects().is_remote() { Pace::CONTENTS } else { Pace::CONTENTS_AT_HAND };
        Pace { at_once: 2, paths: AT_ONCE, contents }
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
            let there = self.objects().head(&narinfo_key(&path)).await?.is_some();
            Ok(there.then_some(path))
        });
        let looks = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        looks.try_filter_map(async |path| Ok(path)).try_collect().await
    }

    async fn all_paths(&self) -> Result<Listed, StoreError> {
        let mut listed = Listed::default();
        let mut pages = self.objects().list("").await?;
        let mut left = MOST_LISTED;
        while let Some(page) = pages.next().await? {
            let mut named: Vec<&str> = page.iter().filter_map(|entry| entry.name.strip_suffix(".narinfo")).collect();
            let goes_on = named.len() > left;
            if goes_on {
                listed.add_unreadable(format!("there are more than {MOST_LISTED} narinfos, and the rest was left out"));
                named.truncate(left);
            }
            left -= named.len();
            let reads: Vec<_> = named.into_iter().map(|hash_part| self.narinfo(hash_part)).collect();
            let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
            while let Some(read) = reads.next().await {
                match read {
                    Ok(Some(narinfo)) => {
                        listed.add(narinfo.info.path);
                    }
                    // It was deleted since the page was read.
                    Ok(None) => {}
                    Err(error) => listed.add_unreadable(error.to_string()),
                }
            }
            if goes_on {
                break;
            }
        }
        listed.unreadable.sort();
        Ok(listed)
    }

    async fn outputs(&self, derivation: &Statement) -> Result<Outputs, StoreError> {
        outputs(self, derivation).await
    }

    async fn realised(&self, id: &OutputId) -> Result<Option<StorePath>, StoreError> {
        let object = self.realisation(id).await?;
        object.map(|(bytes, _)| out_path(id, &bytes)).transpose()
    }

    async fn open_nar(&self, statement: &Statement) -> Result<Option<Nar>, StoreError> {
        let Some(file) = &statement.file else {
            return Ok(None);
        };
        let Some(key) = Key::new(file.url.as_str()) else {
            let why = format!("its URL {:?} is no place in this cache", file.url);
            return Err(StoreError::Narinfo { key: narinfo_key(&statement.info.path), why });
        };
        match self.objects().open(&key, 0).await? {
            Some((_, compressed)) => {
                Ok(Some(Nar::compressed(compressed, &statement.info, file, self.objects().is_remote())?))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::object::Directory;

    #[tokio::test]
    async fn no_more_is_listed_than_there_can_be() {
        let folder = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("room for a file");
        write("nix-cache-info", "StoreDir: /nix/store\n");
        (0..MOST_LISTED).for_each(|number| write(&format!("{number:032}.narinfo"), "nonsense"));
        let count = async || {
            let directory = Arc::new(Directory::existing(folder.path()).expect("a directory"));
            let listed = BinaryCache::open_existing(directory, None).await.expect("a cache").all_paths().await;
            let listed = listed.expect("it can be listed");
            listed.unreadable.len() + listed.more_unreadable
        };
        assert_eq!(count().await, MOST_LISTED);
        (0..700).for_each(|number| write(&format!("1{number:031}.narinfo"), "nonsense"));
        assert_eq!(count().await, MOST_LISTED + 1, "so many were looked at, and there are more");
    }
}
