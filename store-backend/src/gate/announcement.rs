//! Announcements: how uploads and deletions on one store, by any number of gates, keep out of each other's way.
//!
//! Both write down what they are about to touch, and only then look at what others have written. Whichever order their writes
//! have, at least one of two that cross sees the other. A deletion that sees an upload withdraws and tries again later; an
//! upload that sees a deletion waits for its end. So while an upload makes its paths visible, nothing that it rests on goes
//! away, and nothing that was visible has to be taken back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use verifier::{NarHash, StorePath, Timestamp};

use super::{Gate, GateError, now};
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Etag, Key, ObjectStore, Put};
use crate::store::hash_part_of;

/// Longest announcement that is read, in bytes: some hundred thousand paths.
const MAX_ANNOUNCEMENT: u64 = 32 << 20;

/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Paths that are about to become visible.
    Upload,
    /// Paths that are about to be deleted.
    Deletion,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Upload => "quorum/uploading/",
            Self::Deletion => "quorum/deleting/",
        }
    }

    /// After how many seconds an announcement is a crash's leftover. Both are made when all bytes have come: what is left to
    /// do are some hundred small writes, or listing the store, which takes two minutes for a million paths.
    fn lasts(self) -> i64 {
        match self {
            Self::Upload => 60 * 60,
            Self::Deletion => 10 * 60,
        }
    }
}

/// What an upload or a deletion touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The paths themselves, and what an upload's paths refer to.
    pub(super) paths: BTreeSet<StorePath>,
    /// Their NARs.
    pub(super) nars: BTreeSet<NarHash>,
}

/// An announcement as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    made: Timestamp,
    /// Hash parts.
    paths: BTreeSet<String>,
    nars: BTreeSet<String>,
}

impl Document {
    fn of(touched: &Touched) -> Self {
        let paths = touched.paths.iter().map(hash_part_of).collect();
        Self { made: now(), paths, nars: touched.nars.iter().map(NarHash::to_nix32).collect() }
    }
}

/// An announcement that others can see until it is withdrawn. One that is dropped instead, because its work failed, is
/// withdrawn behind the scenes.
pub(super) struct Announcement {
    kind: Kind,
    made: Timestamp,
    key: Key,
    etag: Etag,
    /// Where it is; none once it was withdrawn.
    objects: Option<Arc<dyn ObjectStore>>,
}

impl Announcement {
    /// Says no if it has stood for so long that others may soon take it for a leftover.
    pub(super) fn holds(&self) -> Result<(), GateError> {
        if now().as_unix() < self.made.as_unix() + self.kind.lasts() / 2 {
            return Ok(());
        }
        Err(GateError::Crossed("this took so long that others no longer wait for it".into()))
    }

    /// Withdraws it: its work is done.
    pub(super) async fn withdraw(mut self) -> Result<(), GateError> {
        if let Some(objects) = self.objects.take() {
            objects.delete(&self.key, &self.etag).await?;
        }
        Ok(())
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let (Some(objects), Ok(runtime)) = (self.objects.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (key, etag) = (self.key.clone(), self.etag.clone());
        runtime.spawn(async move {
            // What stays after all is a leftover.
            let _gone = objects.delete(&key, &etag).await;
        });
    }
}

impl Gate {
    /// Announces an upload, and waits until nothing that it touches is being deleted.
    pub(super) async fn announce_upload(&self, touched: &Touched) -> Result<Announcement, GateError> {
        let document = Document::of(touched);
        let announcement = self.announce(Kind::Upload, &document).await?;
        let since = Instant::now();
        loop {
            let deletions = self.announced(Kind::Deletion).await?;
            let crosses = |other: &&Document| {
                !other.paths.is_disjoint(&document.paths) || !other.nars.is_disjoint(&document.nars)
            };
            let Some(crossing) = deletions.iter().find(crosses) else {
                return Ok(announcement);
            };
            if since.elapsed() > PATIENCE {
                let what = crossing.paths.intersection(&document.paths).next();
                let what = what.or_else(|| crossing.nars.intersection(&document.nars).next());
                let what = what.map_or("", String::as_str);
                return Err(GateError::Crossed(format!("{what} is being deleted, and this upload rests on it")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Announces a deletion, and waits until nobody uploads its paths or what refers to them. Also returns the NARs that are
    /// being uploaded, for other paths.
    pub(super) async fn announce_deletion(
        &self,
        touched: &Touched,
    ) -> Result<(Announcement, BTreeSet<String>), GateError> {
        let since = Instant::now();
        loop {
            let document = Document::of(touched);
            let announcement = self.announce(Kind::Deletion, &document).await?;
            let uploads = self.announced(Kind::Upload).await?;
            let Some(crossing) = uploads.iter().find(|other| !other.paths.is_disjoint(&document.paths)) else {
                return Ok((announcement, uploads.into_iter().flat_map(|upload| upload.nars).collect()));
            };
            announcement.withdraw().await?;
            if since.elapsed() > PATIENCE {
                let what = crossing.paths.intersection(&document.paths).next().map_or("", String::as_str);
                return Err(GateError::Crossed(format!("{what} is being uploaded, or something that refers to it")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says whether somebody is about to delete a NAR.
    pub(super) async fn is_going(&self, nar: &NarHash) -> Result<bool, GateError> {
        let nar = nar.to_nix32();
        Ok(self.announced(Kind::Deletion).await?.iter().any(|deletion| deletion.nars.contains(&nar)))
    }

    async fn announce(&self, kind: Kind, document: &Document) -> Result<Announcement, GateError> {
        let key = key(kind, &nonce());
        let bytes = serde_json::to_vec(document).expect("texts and numbers can always be written");
        let objects = self.cache.objects();
        let put = objects.publish(vec![Draft::passing(key.clone(), Condition::Absent, bytes)]).await?;
        match put.into_iter().next() {
            Some(Put::Stored(etag)) => {
                Ok(Announcement { kind, made: document.made, key, etag, objects: Some(objects.clone()) })
            }
            _ => Err(GateError::Contended(key.to_string())),
        }
    }

    /// Reads what is announced, and clears away what crashes left.
    async fn announced(&self, kind: Kind) -> Result<Vec<Document>, GateError> {
        let objects = self.cache.objects();
        let mut found = Vec::new();
        let mut pages = objects.list(kind.folder()).await?;
        while let Some(page) = pages.next().await? {
            for entry in page {
                let Some(key) = Key::new(format!("{}{}", kind.folder(), entry.name)) else {
                    continue;
                };
                let Some(object) = objects.get(&key, MAX_ANNOUNCEMENT).await? else {
                    continue;
                };
                let document: Document = serde_json::from_slice(&object.bytes)
                    .map_err(|error| GateError::Crossed(format!("{key} cannot be read ({error}): delete it")))?;
                if document.made.as_unix() + kind.lasts() < now().as_unix() {
                    objects.delete(&key, &object.version.etag).await?;
                } else {
                    found.push(document);
                }
            }
        }
        Ok(found)
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(format!("{}{name}", kind.folder())).expect("nonces are made of a key's characters")
}
