//! Orders of events that only happen now and then, made to happen: one gate is stopped in the middle of what it does, another
//! one does something meanwhile, and then the first goes on.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use store_backend::gate::{Batch, Deleted, Gate, GateError, Offer, Sight, Uploader};
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use support::keys::{alice, bob, carol, two_of_three};
use support::package::{Package, nar_of_file, noise, package, path};
use support::site::{bring, files, open_gate, person};
use support::stepping::{Step, Stepping};
use tempfile::TempDir;
use verifier::{OutputId, Realisation, StoreDir};

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
    let mut batch = Batch::new(gate.clone(), Sight::Admitted, Uploader("a test".into()));
    for package in packages {
        bring(&mut batch, package).await?;
    }
    batch.finish().await.map(drop)
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

/// Something that another gate does meanwhile, which has to wait.
async fn waits<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    let work = tokio::spawn(work);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!work.is_finished(), "it waits for the other");
    work
}

fn upload_of(gate: &Arc<Gate>, package: &Package) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
    let (gate, package) = (gate.clone(), package.clone());
    async move { upload(&gate, &[&package]).await }
}

fn deletion_of(
    gate: &Arc<Gate>,
    package: &Package,
) -> impl Future<Output = Result<Deleted, GateError>> + Send + 'static {
    let (gate, path) = (gate.clone(), package.path().clone());
    async move { gate.delete(&[path], &person()).await }
}

#[test]
fn a_referrer_is_uploaded_while_what_it_refers_to_is_deleted() {
    block_on(async {
        let pair = Pair::new().await;
        let below = signed("below");
        let above = package("above").referring_to([below.path()]).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&below]).await.expect("it is signed");
        // The deletion has looked for referrers, and is about to hide the path.
        let stop = pair.steps.stop_before(Step::Delete, narinfo(&below));
        let deleting = tokio::spawn(deletion_of(&pair.stepping, &below));
        stop.reached().await;
        let uploading = waits(upload_of(&pair.plain, &above)).await;
        stop.go_on();
        let deleted = deleting.await.expect("it ends").expect("nobody refers to it yet");
        assert!(deleted.paths.contains(below.path()));
        let refused = uploading.await.expect("it ends");
        assert!(matches!(refused, Err(GateError::Refused { .. })), "{refused:?}");
        pair.is_whole(&[&below, &above]).await;
        assert_eq!(pair.read(&above).await.expect("no error"), None);
    });
}

#[test]
fn what_a_path_refers_to_is_deleted_while_it_is_uploaded() {
    block_on(async {
        let pair = Pair::new().await;
        let below = signed("below");
        let above = package("above").referring_to([below.path()]).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&below]).await.expect("it is signed");
        // The upload was judged, and is about to become visible.
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&above));
        let uploading = tokio::spawn(upload_of(&pair.stepping, &above));
        stop.reached().await;
        let deleting = waits(deletion_of(&pair.plain, &below)).await;
        stop.go_on();
        uploading.await.expect("it ends").expect("what it refers to is there");
        let refused = deleting.await.expect("it ends");
        assert!(matches!(refused, Err(GateError::Referred { .. })), "{refused:?}");
        pair.is_whole(&[&below, &above]).await;
        assert!(pair.read(&above).await.expect("no error").is_some());
    });
}

#[test]
fn a_path_is_uploaded_again_while_it_is_deleted() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = signed("hello");
        upload(&pair.plain, &[&hello]).await.expect("it is signed");
        let stop = pair.steps.stop_before(Step::Delete, format!("quorum/evidence/{}/", hello.hash_part()));
        let deleting = tokio::spawn(deletion_of(&pair.stepping, &hello));
        stop.reached().await;
        let uploading = waits(upload_of(&pair.plain, &hello)).await;
        stop.go_on();
        deleting.await.expect("it ends").expect("nobody refers to it");
        uploading.await.expect("it ends").expect("it is signed, and nobody has it");
        pair.is_whole(&[&hello]).await;
        assert!(pair.read(&hello).await.expect("no error").is_some());
    });
}

/// Two paths have one NAR. One of them is deleted while the other is on its way up, with bytes of its own.
#[test]
fn a_nar_that_is_being_uploaded_is_not_deleted_with_another_path() {
    block_on(async {
        let pair = Pair::new().await;
        let nar = nar_of_file(b"the same");
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar("second", nar).signed_by(&[&alice(), &bob()]);
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&first));
        let uploading = tokio::spawn(upload_of(&pair.stepping, &first));
        stop.reached().await;
        upload(&pair.plain, &[&second]).await.expect("it is signed");
        let deleted = pair.plain.delete(&[second.path().clone()], &person()).await.expect("nobody refers to it");
        assert_eq!((deleted.paths.len(), deleted.bytes_freed), (1, 0), "the other one needs the NAR");
        stop.go_on();
        uploading.await.expect("it ends").expect("it is signed");
        pair.is_whole(&[&first, &second]).await;
        assert!(pair.read(&first).await.expect("no error").is_some());
    });
}

#[test]
fn a_nar_is_uploaded_while_it_is_deleted_with_another_path() {
    block_on(async {
        let pair = Pair::new().await;
        let nar = nar_of_file(b"the same");
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar("second", nar).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&first]).await.expect("it is signed");
        // The deletion has seen nobody who needs the NAR.
        let stop = pair.steps.stop_before(Step::Delete, "nar/");
        let deleting = tokio::spawn(deletion_of(&pair.stepping, &first));
        stop.reached().await;
        let uploading = waits(upload_of(&pair.plain, &second)).await;
        stop.go_on();
        deleting.await.expect("it ends").expect("nobody refers to it");
        uploading.await.expect("it ends").expect("it brought the bytes");
        pair.is_whole(&[&first, &second]).await;
        assert!(pair.read(&second).await.expect("no error").is_some());
    });
}

/// Evidence that a crash left said that the NAR is whole when the upload began, so its bytes were not kept; then another path's
/// deletion took it.
#[test]
fn a_nar_is_deleted_during_an_upload_that_relies_on_it() {
    block_on(async {
        let pair = Pair::new().await;
        // A small one would be brought all the same.
        let nar = nar_of_file(&noise(1, 400_000));
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar("second", nar).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&first, &second]).await.expect("they are signed");
        std::fs::remove_file(pair.directory.path().join(narinfo(&second))).expect("it is there");
        let mut batch = Batch::new(pair.stepping.clone(), Sight::Admitted, Uploader("a test".into()));
        let Offer::Wanted(mut wanted) = batch.offer(second.info.clone()).await.expect("it is signed") else {
            panic!("nobody has the path");
        };
        wanted.feed(second.nar.clone().into()).await.expect("no error");
        batch.accept(*wanted).await.expect("they are its bytes");
        pair.plain.delete(&[first.path().clone()], &person()).await.expect("nobody refers to it");
        let refused = batch.finish().await;
        assert!(matches!(refused, Err(GateError::Crossed(_))), "{refused:?}");
        pair.is_whole(&[&first, &second]).await;
        upload(&pair.plain, &[&second]).await.expect("the next time it is taken");
        assert!(pair.read(&second).await.expect("no error").is_some());
    });
}

/// Neither needs it, but either might for the other; who comes last takes it along.
#[test]
fn two_paths_of_one_nar_are_deleted_at_once() {
    block_on(async {
        let pair = Pair::new().await;
        let nar = nar_of_file(b"the same");
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar("second", nar).signed_by(&[&alice(), &bob()]);
        upload(&pair.plain, &[&first, &second]).await.expect("they are signed");
        let stop = pair.steps.stop_before(Step::Delete, narinfo(&first));
        let deleting = tokio::spawn(deletion_of(&pair.stepping, &first));
        stop.reached().await;
        pair.plain.delete(&[second.path().clone()], &person()).await.expect("nobody refers to it");
        stop.go_on();
        deleting.await.expect("it ends").expect("nobody refers to it");
        let left = files(pair.directory.path());
        assert!(!left.keys().any(|name| name.starts_with("nar/")), "{left:?}");
    });
}

/// A bucket publishes what is of one stage in any order, and a crash may come in between.
#[test]
fn a_realisation_is_shown_after_the_history_of_its_signatures() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = signed("hello");
        upload(&pair.plain, &[&hello]).await.expect("it is signed");
        let mut realisation = Realisation {
            id: OutputId::of_path(path("hello.drv"), "out").expect("an id"),
            out_path: hello.path().clone(),
            signatures: BTreeSet::new(),
            dependent_realisations: BTreeMap::new(),
        };
        let fingerprint = realisation.fingerprint();
        realisation.signatures = [alice(), bob()].iter().map(|key| key.sign(&fingerprint).to_string()).collect();
        pair.stepping.register_realisation(realisation, &person()).await.expect("it is signed");
        let published = pair.steps.published();
        let stage = |folder: &str| published.iter().find(|(key, _)| key.starts_with(folder)).expect("it is there").1;
        assert!(stage("quorum/realisations/") < stage("build-trace-v2/"), "{published:?}");
    });
}

/// Another gate, perhaps with another version of zstd, stores the same NAR first.
#[test]
fn a_nar_that_another_gate_compressed_otherwise_is_described_as_it_is() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = Package::of_nar("hello", nar_of_file(&[7; 100_000])).signed_by(&[&alice(), &bob()]);
        let stop = pair.steps.stop_before(Step::Publish, narinfo(&hello));
        let uploading = tokio::spawn(upload_of(&pair.stepping, &hello));
        stop.reached().await;
        let otherwise = zstd::bulk::compress(&hello.nar, -20).expect("it can be compressed");
        let place = pair.directory.path().join(format!("nar/{}.nar.zst", hello.info.nar_hash.to_nix32()));
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("it can be made");
        std::fs::write(&place, &otherwise).expect("it can be written");
        stop.go_on();
        uploading.await.expect("it ends").expect("it is signed");
        assert_eq!(std::fs::read(&place).expect("it is there"), otherwise);
        let text = std::fs::read_to_string(pair.directory.path().join(narinfo(&hello))).expect("text");
        assert!(text.contains(&format!("FileSize: {}\n", otherwise.len())), "{text}");
        assert!(!text.contains("FileHash"), "it would be that of other bytes: {text}");
        pair.is_whole(&[&hello]).await;
    });
}

#[test]
fn a_signature_arrives_while_a_path_is_admitted() {
    block_on(async {
        let pair = Pair::new().await;
        let hello = signed("hello");
        // One gate has judged two signatures, and is about to store them and to show the path.
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
        // Judged by what is said of it; its bytes have come, and it is about to be judged with them.
        let stop = pair.steps.stop_before(Step::Publish, "quorum/uploading/");
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
