//! Announcements: how uploads and deletions on one store, by any number of gates, keep out of each other's way.
//!
//! Both write down what they are about to touch, and only then look at what others have written. Whichever order their writes
//! have, at least one of two that cross sees the other. A deletion that sees an upload withdraws and tries again later; an
//! upload that sees a deletion waits for its end. So while an upload makes its paths visible, nothing that it rests on goes
//! away, and nothing that was visible has to be taken back.
//!
//! An announcement lasts for minutes, since its maker may have died. One whose work takes longer is made anew from time to time.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use verifier::{NarHash, StorePath, Timestamp, nixbase32};

use super::GateError;
use super::deletion::remove;
use crate::clock::now;
use crate::nonce::nonce;
use crate::object::{Condition, Draft, Etag, Key, Metadata, ObjectStore, Put};
use crate::process::Process;
use crate::store::hash_part_of;

/// Longest announcement that is read, in bytes: some hundred thousand paths.
const MAX_ANNOUNCEMENT: u64 = 32 << 20;

/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long after its maker has died or failed an announcement still counts: what that sent last may still be on its way.
pub(super) const SETTLES: Duration = Duration::from_secs(10);

/// After how many seconds one whose maker has failed is a leftover, should the maker not be there to withdraw it by then. Others' clocks
/// may be somewhat behind or ahead.
const EXPIRES: i64 = 60;

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

    /// After how many seconds an announcement is a crash's leftover, unless it is made anew. Both are made when all bytes have come:
    /// what is left to do are some hundred small writes, or listing the store, which takes minutes for a million paths in a bucket.
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
#[derive(Clone, Serialize, Deserialize)]
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

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers can always be written")
    }

    fn is_left_behind(&self, kind: Kind) -> bool {
        self.maker.as_ref().is_some_and(Process::has_ended) || self.is_over(kind)
    }

    fn is_over(&self, kind: Kind) -> bool {
        self.made.as_unix() + kind.lasts() < now().as_unix()
    }
}

/// An announcement that others can see until it is withdrawn. One that is dropped instead is withdrawn behind the scenes, once what
/// it sent last has settled.
pub(super) struct Announcement {
    kind: Kind,
    key: Key,
    /// What others can see now.
    stands: Mutex<Stands>,
    /// Where it is; none once it was withdrawn.
    objects: Option<Arc<dyn ObjectStore>>,
}

/// An announcement as it was written last.
#[derive(Clone)]
struct Stands {
    document: Document,
    etag: Etag,
}

impl Announcement {
    /// Says no if it has stood for so long that others may soon take it for a leftover.
    pub(super) fn holds(&self) -> Result<(), GateError> {
        let made = self.stands.lock().unwrap_or_else(PoisonError::into_inner).document.made;
        if now().as_unix() < made.as_unix() + self.kind.lasts() / 2 {
            return Ok(());
        }
        Err(GateError::Crossed("this took so long that others no longer wait for it".into()))
    }

    /// Does some work, and lets the announcement stand for as long as that takes.
    pub(super) async fn keep<T>(&self, work: impl Future<Output = T>) -> T {
        self.keep_every(Duration::from_secs(self.kind.lasts().unsigned_abs() / 10), work).await
    }

    async fn keep_every<T>(&self, often: Duration, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(often) => {}
            }
            // Once begun it goes on to its end, lest nobody knows what was written.
            let mut renewal = pin!(self.renew());
            tokio::select! {
                done = &mut work => {
                    renewal.await;
                    return done;
                }
                () = &mut renewal => {}
            }
        }
    }

    /// Makes it anew, if it still stands. Where that fails, it ends when its time is over.
    async fn renew(&self) {
        if self.holds().is_ok() {
            self.make_again(now()).await;
        }
    }

    /// Makes it anew as of so long ago that its time is soon over, whoever looks.
    async fn let_expire(&self) {
        self.make_again(Timestamp::from_unix(now().as_unix() - self.kind.lasts() + EXPIRES)).await;
    }

    async fn make_again(&self, made: Timestamp) {
        let Stands { document, etag } = self.stands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(objects) = &self.objects else {
            return;
        };
        let document = Document { made, ..document };
        let draft = Draft::passing(self.key.clone(), Condition::Matches(etag), document.to_bytes());
        match objects.publish(vec![draft]).await.map(|put| put.into_iter().next()) {
            Ok(Some(Put::Stored(etag))) => {
                *self.stands.lock().unwrap_or_else(PoisonError::into_inner) = Stands { document, etag };
            }
            Ok(_) => tracing::warn!(key = %self.key, "an announcement was cleared away before its work was done"),
            Err(error) => tracing::warn!(%error, key = %self.key, "an announcement could not be made anew"),
        }
    }

    /// Withdraws it, and returns what came of its work. Where the store failed, what was sent to it last may still be on its way: then
    /// others see it for a while longer.
    pub(super) async fn end<T>(self, done: Result<T, GateError>) -> Result<T, GateError> {
        if done.as_ref().is_err_and(|error| !error.is_refusal()) {
            // This process may end before that while is over. A store that fails is not waited for long.
            let _ended_by_others = tokio::time::timeout(SETTLES, self.let_expire()).await;
            return done;
        }
        self.withdraw().await?;
        done
    }

    /// Withdraws it: nothing is under way any more.
    async fn withdraw(mut self) -> Result<(), GateError> {
        if let Some(objects) = self.objects.take() {
            clear(&objects, &self.key, &self.etag()).await?;
        }
        Ok(())
    }

    fn etag(&self) -> Etag {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner).etag.clone()
    }
}

/// Removes an announcement of one's own, in whatever version: of one that was made anew the answer may have been lost.
async fn clear(objects: &Arc<dyn ObjectStore>, key: &Key, etag: &Etag) -> Result<(), GateError> {
    if !objects.delete(key, etag).await? {
        remove(objects, key).await?;
    }
    Ok(())
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let (Some(objects), Ok(runtime)) = (self.objects.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (key, etag) = (self.key.clone(), self.etag());
        runtime.spawn(async move {
            tokio::time::sleep(SETTLES).await;
            // What stays after all is a leftover.
            let _gone = clear(&objects, &key, &etag).await;
        });
    }
}

/// Announces an upload, and waits until nothing that it touches is being deleted.
pub(super) async fn announce_upload(
    objects: &Arc<dyn ObjectStore>,
    touched: &Touched,
) -> Result<Announcement, GateError> {
    let document = Document::of(touched);
    let announcement = announce(objects, Kind::Upload, document.clone()).await?;
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
            let crossed = GateError::Crossed(format!("{what} is being deleted, and this upload rests on it"));
            // Nothing was begun.
            announcement.withdraw().await?;
            return Err(crossed);
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
        let announcement = announce(objects, Kind::Deletion, document.clone()).await?;
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

async fn announce(objects: &Arc<dyn ObjectStore>, kind: Kind, document: Document) -> Result<Announcement, GateError> {
    let key = key(kind, &nonce());
    let put = objects.publish(vec![Draft::passing(key.clone(), Condition::Absent, document.to_bytes())]).await?;
    match put.into_iter().next() {
        Some(Put::Stored(etag)) => {
            let stands = Mutex::new(Stands { document, etag });
            Ok(Announcement { kind, key, stands, objects: Some(objects.clone()) })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Directory, ObjectError};

    const OFTEN: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn an_announcement_stands_while_its_work_goes_on() {
        let folder = tempfile::tempdir().expect("a directory");
        let objects: Arc<dyn ObjectStore> = Arc::new(Directory::open(folder.path()).expect("a directory"));
        let touched = Touched { paths: ["a".to_owned()].into(), nars: BTreeSet::new() };
        let (announcement, _) = announce_deletion(&objects, &touched).await.expect("nobody else is here");
        let version = async || {
            let found = objects.head(&announcement.key).await.expect("it can be read");
            found.map(|found| found.version.etag)
        };
        let first = version().await;
        let made = announcement.keep_every(OFTEN, async {
            while version().await == first {
                tokio::time::sleep(OFTEN).await;
            }
            announced(&objects, Kind::Deletion).await.expect("it can be read").len()
        });
        assert_eq!(made.await, 1, "it was made anew, and says the same");
        announcement.holds().expect("it is new");
        assert_eq!(version().await, Some(announcement.etag()));
        // Somebody took it for a leftover: it does not come back.
        remove(&objects, &announcement.key).await.expect("it is there");
        announcement.keep_every(OFTEN, tokio::time::sleep(10 * OFTEN)).await;
        assert_eq!(version().await, None);
        announcement.withdraw().await.expect("it is gone already");
    }

    #[tokio::test]
    async fn an_announcement_stands_for_a_while_after_the_store_failed() {
        let folder = tempfile::tempdir().expect("a directory");
        let objects: Arc<dyn ObjectStore> = Arc::new(Directory::open(folder.path()).expect("a directory"));
        let stands_after = async |done| {
            let announcement = announce_upload(&objects, &Touched::default()).await.expect("nobody else is here");
            let _done: Result<(), GateError> = announcement.end(done).await;
            let stand = announced(&objects, Kind::Upload).await.expect("it can be read").len();
            stand == 1
        };
        assert!(!stands_after(Ok(())).await);
        let referred = GateError::Referred { path: "one".into(), referrer: "another".into() };
        assert!(!stands_after(Err(referred)).await, "nothing was sent");
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        let failed = ObjectError::Io { action: "write", place: "an object".into(), source };
        assert!(stands_after(Err(failed.into())).await, "perhaps it is written after all");
        // Should this process end, others need not wait for long.
        let left = all(&objects, Kind::Upload).await.expect("it can be read");
        let [(_, _, Document { made, .. })] = &left[..] else { panic!("{} stand", left.len()) };
        let left = made.as_unix() + Kind::Upload.lasts() - now().as_unix();
        assert!((1..=EXPIRES).contains(&left), "{left} s");
    }

    #[tokio::test]
    async fn an_announcement_whose_last_version_is_unknown_is_withdrawn() {
        let folder = tempfile::tempdir().expect("a directory");
        let objects: Arc<dyn ObjectStore> = Arc::new(Directory::open(folder.path()).expect("a directory"));
        let announcement = announce_upload(&objects, &Touched::default()).await.expect("nobody else is here");
        let before = announcement.stands.lock().expect("nobody has panicked").clone();
        announcement.renew().await;
        assert_ne!(before.etag, announcement.etag());
        *announcement.stands.lock().expect("nobody has panicked") = before;
        let key = announcement.key.clone();
        announcement.withdraw().await.expect("it can be removed");
        assert!(objects.head(&key).await.expect("it can be read").is_none());
    }
}
