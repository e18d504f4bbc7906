//! Sweeping away what crashes and broken-off uploads left behind: objects that no path needs and nobody can see.
//!
//! It announces what it is about to delete, and only then looks whether anybody needs it, as every deletion does: so it may run
//! beside any number of gates. What it does not know it leaves alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use verifier::{NarHash, Timestamp};

use super::GateError;
use super::announcement::{Announcement, SETTLES, Touched, announce_deletion, left_behind};
use super::index::{Answer, Index, Known};
use super::promotion::is_candidate;
use super::shelf::{LISTINGS, Shelf};
use crate::object::{Entry, Etag, Key, Leftover, ObjectStore, PROBES};
use crate::store::{BinaryCache, EVIDENCE, MAX_RECORD, NOTES, Record, nar_of_name};

/// Objects that are deleted under one announcement: uploads that need one of them wait so long.
const AT_A_TIME: usize = 2_000;

/// Requests that are under way at once.
const AT_ONCE: usize = 16;

const NARS: &str = "nar/";

/// Where uploads are, or are to be, that a gate may leave unfinished. In a bucket others may have theirs elsewhere.
const UPLOADS: [&str; 3] = [NARS, "log/", "quorum/tmp/"];

/// What was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A NAR that no path has.
    Nar,
    /// The evidence of a path that is not there: its upload broke off before it was admitted, or its deletion before it was done.
    Evidence,
    /// The listing of a path that is not there.
    Listing,
    /// The note, or the listing to be, of something that is held no more.
    Note,
    /// An upload that was never finished.
    Upload,
    /// An announcement whose maker is long gone.
    Announcement,
    /// A test of the provider.
    Probe,
}

/// Something that was left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Its key.
    pub key: String,
    /// Its size in bytes; none where the store does not say.
    pub size: Option<u64>,
    /// When it was written.
    pub written: Timestamp,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// What a sweep needs.
pub struct Sweep {
    /// The store.
    pub cache: BinaryCache,
    /// Its index.
    pub index: Index,
    /// What was written later than this is left alone: it may be somebody's who is still at it.
    pub before: Timestamp,
    /// Whether to delete what is found.
    pub delete: bool,
}

/// An object that nobody needs, and what its deletion touches.
#[derive(Clone)]
struct Stray {
    kind: Kind,
    key: Key,
    etag: Etag,
    size: u64,
    written: Timestamp,
    /// A hash part, or a NAR's hash.
    of: String,
}

impl Stray {
    fn finding(&self, deleted: bool) -> Finding {
        Finding { kind: self.kind, key: self.key.to_string(), size: Some(self.size), written: self.written, deleted }
    }
}

impl Sweep {
    /// Looks for what was left behind, and deletes it if it is to. Calls `found` for each. Returns the keys of the narinfos that
    /// cannot be read: while there are any, NARs are left alone, as they may be theirs.
    ///
    /// # Errors
    /// When the store fails. What was deleted before is gone then; running it again goes on.
    pub async fn run(&self, mut found: impl FnMut(Finding)) -> Result<BTreeSet<String>, GateError> {
        for leftover in self.objects().leftovers(self.before).await? {
            if !UPLOADS.iter().any(|folder| leftover.key.starts_with(folder)) {
                continue;
            }
            if self.delete {
                self.objects().remove_leftover(&leftover).await?;
            }
            let Leftover { key, size, begun, .. } = leftover;
            found(Finding { kind: Kind::Upload, key, size, written: begun, deleted: self.delete });
        }
        let passing = self.passing().await?;
        if self.delete && passing.iter().any(|stray| stray.kind == Kind::Announcement) {
            tokio::time::sleep(SETTLES).await;
        }
        for stray in passing {
            let deleted = self.delete && self.objects().delete(&stray.key, &stray.etag).await?;
            found(stray.finding(deleted));
        }
        let (strays, unreadable) = self.strays().await?;
        let unreadable: BTreeSet<String> = unreadable.iter().map(|part| format!("{part}.narinfo")).collect();
        if !self.delete {
            strays.iter().for_each(|stray| found(stray.finding(false)));
            return Ok(unreadable);
        }
        for strays in strays.chunks(AT_A_TIME) {
            let deleted = self.delete_strays(strays).await?;
            for stray in strays {
                found(stray.finding(deleted.contains(&stray.key)));
            }
        }
        Ok(unreadable)
    }

    fn objects(&self) -> &Arc<dyn ObjectStore> {
        self.cache.objects()
    }

    /// Lists what has no meaning after its time.
    async fn passing(&self) -> Result<Vec<Stray>, GateError> {
        let mut passing = Vec::new();
        for (key, metadata) in left_behind(self.objects()).await? {
            let (size, written) = (metadata.size, metadata.version.modified);
            let (kind, etag) = (Kind::Announcement, metadata.version.etag);
            passing.push(Stray { kind, key, etag, size, written, of: String::new() });
        }
        passing.extend(self.old_in(PROBES, Kind::Probe, |_| Some(String::new())).await?);
        Ok(passing)
    }

    /// Lists the objects of a folder that were written long enough ago and are something's.
    async fn old_in(
        &self,
        folder: &str,
        kind: Kind,
        whose: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<Stray>, GateError> {
        let mut old = Vec::new();
        let mut pages = self.objects().list(folder).await?;
        while let Some(page) = pages.next().await? {
            for Entry { name, metadata } in page {
                let (Some(key), Some(of)) = (Key::new(format!("{folder}{name}")), whose(&name)) else {
                    continue;
                };
                let (size, written, etag) = (metadata.size, metadata.version.modified, metadata.version.etag);
                if written < self.before {
                    old.push(Stray { kind, key, etag, size, written, of });
                }
            }
        }
        Ok(old)
    }

    /// Lists NARs, evidence and listings that belong to nothing that is visible or held, and the hash parts of the narinfos that
    /// cannot be read. A path is there if its narinfo is, readable or not; of what is not, nobody can say which NAR it has.
    async fn strays(&self) -> Result<(Vec<Stray>, Arc<BTreeSet<String>>), GateError> {
        let Answer { known, unreadable } = self.index.all(&self.cache, Instant::now()).await?;
        let here: HashSet<String> = known.iter().map(Known::hash_part).chain(unreadable.iter().cloned()).collect();
        let mut needed: HashSet<NarHash> = known.iter().flat_map(Known::nars).copied().collect();
        drop(known);
        let shelf = Shelf::new(self.objects().clone());
        shelf.look().await?;
        needed.extend(shelf.nars());
        let (evidence, held) = self.evidence_without(&here, &shelf).await?;
        needed.extend(held);
        let nar = |name: &str| nar_of_name(name).filter(|nar| !needed.contains(nar)).map(|nar| nar.to_nix32());
        let mut strays = if unreadable.is_empty() { self.old_in(NARS, Kind::Nar, nar).await? } else { Vec::new() };
        strays.extend(evidence);
        let listing = |name: &str| Some(name.strip_suffix(".ls").filter(|part| part.len() == 32)?.to_owned());
        strays.extend(self.old_in("", Kind::Listing, |name| listing(name).filter(|part| !here.contains(part))).await?);
        strays.extend(self.notes_without().await?);
        Ok((strays, unreadable))
    }

    /// Lists the notes of what is held, and its listings to be, of which there is no evidence.
    async fn notes_without(&self) -> Result<Vec<Stray>, GateError> {
        let whose = |name: &str| Some(name.split_once('-')?.0.to_owned());
        let mut notes = self.old_in(NOTES, Kind::Note, whose).await?;
        notes.extend(self.old_in(LISTINGS, Kind::Note, whose).await?);
        let looks = notes.into_iter().map(|stray| async move {
            let name = stray.key.as_str().rsplit('/').next().unwrap_or_default();
            let evidence = Key::new(format!("{EVIDENCE}{}", name.replacen('-', "/", 1)));
            let there = match evidence {
                Some(evidence) => self.objects().head(&evidence).await?.is_some(),
                None => false,
            };
            Ok::<_, GateError>((!there).then_some(stray))
        });
        let strays: Vec<Option<Stray>> =
            stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(strays.into_iter().flatten().collect())
    }

    /// Lists the evidence of paths that are neither visible nor held, and the NARs of what is held.
    async fn evidence_without(
        &self,
        here: &HashSet<String>,
        shelf: &Shelf,
    ) -> Result<(Vec<Stray>, HashSet<NarHash>), GateError> {
        let folders = self.objects().list_folders(EVIDENCE).await?;
        let absent: Vec<String> = folders.into_iter().filter(|part| !here.contains(part)).collect();
        let looks = absent.iter().map(|part| async move {
            let folder = format!("{EVIDENCE}{part}/");
            let mut found = Vec::new();
            for stray in self.old_in(&folder, Kind::Evidence, |_| Some(part.clone())).await? {
                let Some(object) = self.objects().get(&stray.key, MAX_RECORD).await? else {
                    continue;
                };
                found.push((stray, Record::parse(&object.bytes)));
            }
            Ok::<_, GateError>(found)
        });
        let looks: Vec<_> = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).try_collect().await?;
        let (mut strays, mut held) = (Vec::new(), HashSet::new());
        for (stray, record) in looks.into_iter().flatten() {
            match record {
                // Of one that is about to be admitted, there is a note still.
                Ok(record) if is_candidate(&record) || !shelf.of(&record.info().path).is_empty() => {
                    held.insert(record.info().nar_hash);
                }
                Ok(_) => strays.push(stray),
                // A person should look at it: perhaps a later version wrote it.
                Err(error) => tracing::warn!(key = %stray.key, %error, "leaving alone what cannot be read"),
            }
        }
        Ok((strays, held))
    }

    /// Deletes those of some strays that still belong to nothing when everybody has been told.
    async fn delete_strays(&self, strays: &[Stray]) -> Result<HashSet<Key>, GateError> {
        let mut touched = Touched::default();
        for stray in strays {
            let set = if stray.kind == Kind::Nar { &mut touched.nars } else { &mut touched.paths };
            set.insert(stray.of.clone());
        }
        let (announcement, uploaded) = match announce_deletion(self.objects(), &touched).await {
            Ok(announced) => announced,
            Err(GateError::Crossed(why)) => {
                tracing::warn!(why, "leaving {} objects for the next sweep", strays.len());
                return Ok(HashSet::new());
            }
            Err(error) => return Err(error),
        };
        let deleted = announcement.keep(self.delete_announced(strays, &uploaded, &announcement)).await;
        announcement.end(deleted).await
    }

    async fn delete_announced(
        &self,
        strays: &[Stray],
        uploaded: &BTreeSet<String>,
        announcement: &Announcement,
    ) -> Result<HashSet<Key>, GateError> {
        let now: BTreeMap<Key, Etag> =
            self.strays().await?.0.into_iter().map(|stray| (stray.key, stray.etag)).collect();
        let still = strays.iter().filter(|stray| now.get(&stray.key) == Some(&stray.etag));
        let free = still.filter(|stray| stray.kind != Kind::Nar || !uploaded.contains(&stray.of));
        let deletions = free.map(|stray| async move {
            announcement.holds()?;
            Ok::<_, GateError>(self.objects().delete(&stray.key, &stray.etag).await?.then(|| stray.key.clone()))
        });
        let deleted: Vec<Option<Key>> =
            stream::iter(deletions.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(deleted.into_iter().flatten().collect())
    }
}
