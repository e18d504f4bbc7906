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
use verifier::{NarHash, StorePath, Timestamp, nixbase32};

use super::GateError;
use crate::clock::now;
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Etag, Key, Metadata, ObjectStore, Put};
use crate::process::Process;
use crate::store::hash_part_of;

/// Longest announcement that is read, in bytes: some hundred thousand paths.
const MAX_ANNOUNCEMENT: u64 = 32 << 20;

/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long after its maker has died an announcement still counts: what that sent last may still be on its way.
pub(super) const SETTLES: Duration = Duration::from_secs(10);

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
#[derive(Debug, Clone, Default)]
pub(super) struct Touched {
    /// The hash parts of the paths themselves, and of what an upload's paths refer to.
    pub(super) paths: BTreeSet<String>,
    /// Their NARs, by their hash in Nix's base 32.
    pub(super) nars: BTreeSet<String>,
}

impl Touched {
    pub(super) fn add_path(&mut self, path: &StorePath) {
        self.paths.insert(hash_part_of(path));
    }

    pub(super) fn add_digests(&mut self, digests: &[[u8; 20]]) {
        self.paths.extend(digests.iter().map(|digest| nixbase32::encode(digest)));
    }

    pub(super) fn add_nar(&mut self, nar: &NarHash) {
        self.nars.insert(nar.to_nix32());
    }
}

/// An announcement as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    made: Timestamp,
    /// By whom, where its writer says so.
    #[serde(default)]
    maker: Option<Process>,
    paths: BTreeSet<String>,
    nars: BTreeSet<String>,
}

impl Document {
    fn of(touched: &Touched) -> Self {
        let Touched { paths, nars } = touched.clone();
        Self { made: now(), maker: Some(Process::own()), paths, nars }
    }

    fn is_left_behind(&self, kind: Kind) -> bool {
        self.maker.as_ref().is_some_and(Process::has_ended) || self.is_over(kind)
    }

    fn is_over(&self, kind: Kind) -> bool {
        self.made.as_unix() + kind.lasts() < now().as_unix()
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

/// Announces an upload, and waits until nothing that it touches is being deleted.
pub(super) async fn announce_upload(
    objects: &Arc<dyn ObjectStore>,
    touched: &Touched,
) -> Result<Announcement, GateError> {
    let document = Document::of(touched);
    let announcement = announce(objects, Kind::Upload, &document).await?;
    let since = Instant::now();
    loop {
        let deletions = announced(objects, Kind::Deletion).await?;
        let crosses =
            |other: &&Document| !other.paths.is_disjoint(&document.paths) || !other.nars.is_disjoint(&document.nars);
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

/// Announces a deletion, and waits until nobody uploads its paths or what refers to them. Also returns the NARs that are being
/// uploaded, for other paths.
pub(super) async fn announce_deletion(
    objects: &Arc<dyn ObjectStore>,
    touched: &Touched,
) -> Result<(Announcement, BTreeSet<String>), GateError> {
    let since = Instant::now();
    loop {
        let document = Document::of(touched);
        let announcement = announce(objects, Kind::Deletion, &document).await?;
        let uploads = announced(objects, Kind::Upload).await?;
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
pub(super) async fn is_going(objects: &Arc<dyn ObjectStore>, nar: &NarHash) -> Result<bool, GateError> {
    let nar = nar.to_nix32();
    Ok(announced(objects, Kind::Deletion).await?.iter().any(|deletion| deletion.nars.contains(&nar)))
}

/// Lists announcements whose makers are long gone.
pub(super) async fn left_behind(objects: &Arc<dyn ObjectStore>) -> Result<Vec<(Key, Metadata)>, GateError> {
    let mut left = Vec::new();
    for kind in [Kind::Upload, Kind::Deletion] {
        for (key, metadata, document) in all(objects, kind).await? {
            if document.is_left_behind(kind) {
                left.push((key, metadata));
            }
        }
    }
    Ok(left)
}

async fn announce(objects: &Arc<dyn ObjectStore>, kind: Kind, document: &Document) -> Result<Announcement, GateError> {
    let key = key(kind, &nonce());
    let bytes = serde_json::to_vec(document).expect("texts and numbers can always be written");
    let put = objects.publish(vec![Draft::passing(key.clone(), Condition::Absent, bytes)]).await?;
    match put.into_iter().next() {
        Some(Put::Stored(etag)) => {
            Ok(Announcement { kind, made: document.made, key, etag, objects: Some(objects.clone()) })
        }
        _ => Err(GateError::Contended(key.to_string())),
    }
}

/// Returns what is announced, and clears away what crashes left.
async fn announced(objects: &Arc<dyn ObjectStore>, kind: Kind) -> Result<Vec<Document>, GateError> {
    let (left, found): (Vec<_>, Vec<_>) =
        all(objects, kind).await?.into_iter().partition(|(_, _, document)| document.is_left_behind(kind));
    if left.iter().any(|(_, _, document)| !document.is_over(kind)) {
        tokio::time::sleep(SETTLES).await;
    }
    for (key, metadata, _) in left {
        objects.delete(&key, &metadata.version.etag).await?;
    }
    Ok(found.into_iter().map(|(_, _, document)| document).collect())
}

async fn all(objects: &Arc<dyn ObjectStore>, kind: Kind) -> Result<Vec<(Key, Metadata, Document)>, GateError> {
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
            found.push((key, Metadata { size: object.bytes.len() as u64, version: object.version }, document));
        }
    }
    Ok(found)
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(format!("{}{name}", kind.folder())).expect("nonces are made of a key's characters")
}
