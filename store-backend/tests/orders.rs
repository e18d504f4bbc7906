//! Orders of events that only happen now and then, made to happen: one gate is stopped in the middle of what it does, another
//! one does something meanwhile, and then the first goes on.

mod support;

use std::sync::Arc;

use store_backend::gate::{Batch, Gate, GateError, Offer, Uploader};
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use support::keys::{alice, bob, carol, two_of_three};
use support::package::{Package, nar_of_file, package};
use support::site::{files, open_gate};
use support::stepping::{Step, Stepping};
use tempfile::TempDir;
use verifier::StoreDir;

/// Two gates on one store, of which one can be stopped.
struct Pair {
    directory: TempDir,
    steps: Arc<Stepping>,
    stepping: Arc<Gate>,
    plain: Arc<Gate>,
}

impl Pair {
    async fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let objects = Directory::open(directory.path()).expect("it can be written");
        let steps = Arc::new(Stepping::new(Arc::new(objects)));
        let cache = BinaryCache::open(steps.clone(), &StoreDir::default()).await.expect("a binary cache");
        let stepping = Arc::new(Gate::new(cache, two_of_three(), None).expect("a gate"));
        let plain = open_gate(directory.path(), two_of_three(), None).await;
        Self { directory, steps, stepping, plain }
    }

    /// Whether a path can be read to its end through a gate that has not seen it before; says why not.
    async fn read(&self, package: &Package) -> Result<Option<Vec<u8>>, GateError> {
        let gate = open_gate(self.directory.path(), two_of_three(), None).await;
        if !gate.view().is_valid(package.path()).await? {
            return Ok(None);
        }
        let mut nar = gate.view().nar(package.path()).await?;
        let mut bytes = Vec::new();
        while let Some(block) = nar.next().await? {
            bytes.extend_from_slice(&block);
        }
        Ok(Some(bytes))
    }

    /// Each narinfo is that of a valid path, whose bytes are there.
    async fn is_whole(&self, packages: &[&Package]) {
        let there = files(self.directory.path());
        for package in packages {
            let named = there.contains_key(&format!("{}.narinfo", package.hash_part()));
            let read = self.read(package).await.unwrap_or_else(|error| panic!("{}: {error}", package.full_path()));
            assert_eq!(read.is_some(), named, "{}: a narinfo is that of a valid path", package.full_path());
            assert!(read.is_none_or(|bytes| bytes == package.nar));
        }
    }
}

async fn upload(gate: &Arc<Gate>, packages: &[&Package]) -> Result<(), GateError> {
    let mut batch = Batch::new(gate.clone(), Uploader("a test".into()));
    for package in packages {
        if let Offer::Wanted(mut wanted) = batch.offer(package.info.clone()).await? {
            wanted.feed(package.nar.clone().into()).await;
            batch.accept(*wanted).await?;
        }
    }
    batch.finish().await
}

fn signed(name: &str) -> Package {
    package(name).signed_by(&[&alice(), &bob()])
}

fn narinfo(package: &Package) -> String {
    format!("{}.narinfo", package.hash_part())
}

fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

#[test]
fn a_referrer_is_uploaded_before_the_deletion_looks() {
    block_on(async {
        let pair = Pair::new().await;
        let below = signed("below");
        let above = package("above").referring_to([below.path()]).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&below]).await.expect("it is signed");
        // The deletion has looked for referrers once, and is about to hide the path.
        let stop = pair.steps.stop_before(Step::Delete, narinfo(&below));
        let (gate, path) = (pair.stepping.clone(), below.path().clone());
        let deleting = tokio::spawn(async move { gate.delete(&[path]).await });
        stop.reached().await;
        upload(&pair.plain, &[&above]).await.expect("what it refers to is there");
        stop.go_on();
        let deleted = deleting.await.expect("it ends");
        assert!(matches!(deleted, Err(GateError::Referred { .. })), "{deleted:?}");
        pair.is_whole(&[&below, &above]).await;
        assert!(pair.read(&below).await.expect("no error").is_some(), "it was put back");
    });
}

#[test]
fn a_referrer_is_shown_while_what_it_refers_to_is_deleted() {
    block_on(async {
        let pair = Pair::new().await;
        let below = signed("below");
        let above = package("above").referring_to([below.path()]).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&below]).await.expect("it is signed");
        // The upload is about to make its narinfo visible.
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&above));
        let (gate, package) = (pair.stepping.clone(), above.clone());
        let uploading = tokio::spawn(async move { upload(&gate, &[&package]).await });
        stop.reached().await;
        pair.plain.delete(&[below.path().clone()]).await.expect("nobody refers to it yet");
        stop.go_on();
        assert!(uploading.await.expect("it ends").is_err(), "what it refers to is gone");
        pair.is_whole(&[&below, &above]).await;
        assert_eq!(pair.read(&above).await.expect("no error"), None);
    });
}

/// A deletion hides a path and then removes what was known of it before, and nothing that was written since.
#[test]
fn a_path_is_uploaded_again_while_it_is_deleted() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = signed("hello");
        upload(&pair.plain, &[&hello]).await.expect("it is signed");
        let stop = pair.steps.stop_before(Step::Delete, format!("quorum/evidence/{}/", hello.hash_part()));
        let (gate, path) = (pair.stepping.clone(), hello.path().clone());
        let deleting = tokio::spawn(async move { gate.delete(&[path]).await });
        stop.reached().await;
        upload(&pair.plain, &[&hello]).await.expect("it is signed, and nobody has it");
        stop.go_on();
        deleting.await.expect("it ends").expect("nobody refers to it");
        pair.is_whole(&[&hello]).await;
    });
}

/// An upload that stores a NAR itself claims nothing. It looks whether it is still there once its own narinfo is visible: a
/// deletion that could not see that one has announced itself by then.
#[test]
fn a_nar_just_stored_is_deleted_with_another_path() {
    block_on(async {
        let pair = Pair::new().await;
        let nar = nar_of_file(b"the same");
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar("second", nar).signed_by(&[&alice(), &bob()]);
        // Its NAR and its evidence are stored; its narinfo is not.
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&first));
        let (gate, package) = (pair.stepping.clone(), first.clone());
        let uploading = tokio::spawn(async move { upload(&gate, &[&package]).await });
        stop.reached().await;
        upload(&pair.plain, &[&second]).await.expect("it is signed");
        pair.plain.delete(&[second.path().clone()]).await.expect("nobody refers to it");
        stop.go_on();
        let refused = uploading.await.expect("it ends");
        assert!(matches!(refused, Err(GateError::Contended(_))), "{refused:?}");
        pair.is_whole(&[&first, &second]).await;
        upload(&pair.stepping, &[&first]).await.expect("the next time it is taken");
        assert!(pair.read(&first).await.expect("no error").is_some());
    });
}

#[test]
fn a_nar_is_relied_on_while_it_is_doomed() {
    block_on(async {
        let pair = Pair::new().await;
        let nar = nar_of_file(b"the same");
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar("second", nar).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&first]).await.expect("it is signed");
        // The deletion has announced that it wants the NAR gone, and has seen nobody who needs it.
        let stop = pair.steps.stop_before(Step::Delete, "nar/");
        let (gate, path) = (pair.stepping.clone(), first.path().clone());
        let deleting = tokio::spawn(async move { gate.delete(&[path]).await });
        stop.reached().await;
        let uploaded = upload(&pair.plain, &[&second]).await;
        stop.go_on();
        deleting.await.expect("it ends").expect("nobody refers to it");
        pair.is_whole(&[&first, &second]).await;
        if uploaded.is_err() {
            upload(&pair.plain, &[&second]).await.expect("the next time it is taken");
        }
        assert!(pair.read(&second).await.expect("no error").is_some());
    });
}

#[test]
fn a_signature_arrives_while_a_path_is_admitted() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = signed("hello");
        // One gate has stored evidence with two signatures, and is about to show the path.
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&hello));
        let (gate, package) = (pair.stepping.clone(), hello.clone());
        let uploading = tokio::spawn(async move { upload(&gate, &[&package]).await });
        stop.reached().await;
        let third = hello.clone().unsigned().signed_by(&[&bob(), &carol()]);
        upload(&pair.plain, &[&third]).await.expect("it is signed");
        stop.go_on();
        uploading.await.expect("it ends").expect("it is signed");
        let all = hello.clone().signed_by(&[&carol()]).info.signatures;
        for gate in [&pair.plain, &pair.stepping] {
            let info = gate.view().path_info(hello.path()).await.expect("no error").expect("it is valid");
            assert_eq!(info.signatures, all);
        }
        let text = std::fs::read_to_string(pair.directory.path().join(narinfo(&hello))).expect("text");
        assert_eq!(text.matches("Sig: ").count(), 3, "{text}");
        pair.is_whole(&[&hello]).await;
    });
}

#[test]
fn two_contents_are_shown_at_once() {
    block_on(async {
        let pair = Pair::new().await;
        let one = Package::of_nar("disputed", nar_of_file(b"one")).signed_by(&[&alice(), &bob()]);
        let two = Package::of_nar("disputed", nar_of_file(b"two")).signed_by(&[&bob(), &carol()]);
        let above = package("above").referring_to([one.path()]).signed_by(&[&alice(), &bob()]);
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&one));
        let (gate, package, referrer) = (pair.stepping.clone(), one.clone(), above.clone());
        let uploading = tokio::spawn(async move { upload(&gate, &[&package, &referrer]).await });
        stop.reached().await;
        upload(&pair.plain, &[&two]).await.expect("it is signed");
        stop.go_on();
        let refused = uploading.await.expect("it ends");
        assert!(matches!(refused, Err(GateError::Conflict { .. })), "{refused:?}");
        assert_eq!(pair.read(&two).await.expect("no error").expect("it is valid"), two.nar);
        pair.is_whole(&[&two]).await;
    });
}

#[test]
fn a_policy_changes_between_the_judgement_and_the_commit() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = signed("hello");
        // Judged once more already: the NAR and the evidence are about to be stored.
        let stop = pair.steps.stop_before(Step::Publish, "nar/");
        let (gate, package) = (pair.stepping.clone(), hello.clone());
        let uploading = tokio::spawn(async move { upload(&gate, &[&package]).await });
        stop.reached().await;
        let revoked = support::keys::Rules { revoked: &["bob"], ..Default::default() };
        pair.stepping.set_policy(revoked.policy()).expect("a policy");
        stop.go_on();
        let refused = uploading.await.expect("it ends");
        assert!(matches!(refused, Err(GateError::Refused { .. })), "{refused:?}");
        assert!(!files(pair.directory.path()).contains_key(&narinfo(&hello)));
        assert!(!pair.stepping.view().is_valid(hello.path()).await.expect("no error"));
    });
}
