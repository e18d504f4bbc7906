//! Several gates on one bucket, killed and started again, while many builders bring the same paths: no signature is lost,
//! nothing is admitted twice or by half, and the sweep leaves nothing that no path needs.

mod support;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use store_backend::daemon::{Server, Settings};
use store_backend::gate::sweep::{Finding, Sweep};
use store_backend::gate::{Event, Gate, Index, Sight};
use store_backend::object::{Bucket, Credentials, Expected, Key, Location, ObjectStore, Patience, Writers};
use store_backend::store::BinaryCache;
use support::child::{self, Worker};
use support::keys::{key, parse};
use support::measured;
use support::package::{Package, nar_of_file, path};
use support::raw::Raw;
use support::s3::{S3, moto, s3s_fs};
use support::site::read_log;
use support::words::{CLIENT_MAGIC, Words, add_multiple};
use tempfile::TempDir;
use verifier::{SecretKey, StoreDir, Timestamp};

/// How many builders the policy knows.
const BUILDERS: usize = 32;

/// Who brings what to which of a gate's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crowd {
    builders: usize,
    paths: usize,
    sight: Sight,
}

/// Each brings a quorum with its paths.
const WITH_QUORUMS: Crowd = Crowd { builders: BUILDERS, paths: 200, sight: Sight::Admitted };

/// Each brings its own signature alone, for paths that refer to each other.
const WITH_SINGLE_SIGNATURES: Crowd = Crowd { builders: 6, paths: 40, sight: Sight::Staging };

/// Paths in one upload: few enough that most uploads end before their gate does.
const AT_A_TIME: usize = 5;

/// How long a builder tries before the test has failed.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// So many builders, of whom two must agree.
fn builders() -> (Vec<SecretKey>, String) {
    let keys: Vec<SecretKey> = (0..BUILDERS).map(|number| key(&format!("b{number}-1"), 100 + number as u8)).collect();
    let mut text = "version = 1\n".to_owned();
    for (number, key) in keys.iter().enumerate() {
        text += &format!("[signers.b{number}]\nkeys = [\"{}\"]\n", key.public());
    }
    let names: Vec<String> = (0..BUILDERS).map(|number| format!("\"b{number}\"")).collect();
    text += &format!("[groups]\nall = [{}]\n[default]\nrequire = {{ at-least = 2, of = \"all\" }}\n", names.join(", "));
    (keys, text)
}

/// Paths of which one in five has bytes of its own. On staging the others refer to the one before them: whoever brings them in
/// another order has them wait.
fn packages(crowd: Crowd) -> Vec<Package> {
    let nar = |number: usize| nar_of_file(format!("contents {}", number - number % 5).as_bytes());
    let name = |number: usize| format!("path-{number}");
    let package = |number: usize| {
        let package = Package::of_nar(&name(number), nar(number));
        let refers = crowd.sight == Sight::Staging && !number.is_multiple_of(5);
        if refers { package.referring_to([&path(&name(number - 1))]) } else { package }
    };
    (0..crowd.paths).map(package).collect()
}

fn patience() -> Patience {
    let [connect, attempt, total, lease] = [5, 30, 60, 30].map(Duration::from_secs);
    Patience { connect, attempt, total, lease }
}

async fn open(uri: &str, credentials: &[String; 2], writers: Writers) -> Result<Bucket, String> {
    let [access, secret] = credentials;
    let credentials = Credentials::new(access, secret, None, None, "test");
    let location = Location::parse(uri).expect("a bucket");
    Bucket::open(location, patience(), Some(credentials), writers).await.map_err(|error| error.to_string())
}

async fn cache(bucket: Bucket) -> BinaryCache {
    BinaryCache::open(Arc::new(bucket), &StoreDir::default()).await.expect("a binary cache")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// What a gate's process is told.
#[derive(Clone)]
struct Stage {
    uri: String,
    credentials: [String; 2],
    alone: bool,
    crowd: Crowd,
}

impl Stage {
    fn of(server: &S3, bucket: &str, alone: bool, crowd: Crowd) -> Self {
        server.make_bucket(bucket);
        let credentials = [server.account.access_key.clone(), server.account.secret_key.clone()];
        Self { uri: server.uri(bucket), credentials, alone, crowd }
    }

    fn writers(&self) -> Writers {
        if self.alone { Writers::One } else { Writers::Any }
    }

    fn gate(&self, place: &Path) -> Worker {
        let [access, secret] = self.credentials.clone();
        let alone = u8::from(self.alone).to_string();
        let settings = [("T_URI", self.uri.clone()), ("T_ACCESS", access), ("T_SECRET", secret), ("T_ALONE", alone)];
        let staging = u8::from(self.crowd.sight == Sight::Staging).to_string();
        Worker::start("child_is_a_gate", place, &[&settings[..], &[("T_STAGING", staging)]].concat())
    }
}

#[test]
#[ignore = "it is run as a process of its own"]
fn child_is_a_gate() {
    let Some(place) = child::place() else { return };
    let variable = |name: &str| std::env::var(name).expect("the parent says it");
    let credentials = [variable("T_ACCESS"), variable("T_SECRET")];
    let crowd = if variable("T_STAGING") == "1" { WITH_SINGLE_SIGNATURES } else { WITH_QUORUMS };
    let stage = Stage { uri: variable("T_URI"), credentials, alone: variable("T_ALONE") == "1", crowd };
    runtime().block_on(async {
        let bucket = match open(&stage.uri, &stage.credentials, stage.writers()).await {
            Ok(bucket) => bucket,
            Err(why) if why.contains("only one gate may") => return child::say("refused"),
            Err(why) => return child::say(&format!("{why}\nfailed")),
        };
        let gate = Gate::new(cache(bucket).await, parse(&builders().1), None).expect("a gate");
        let settings = Settings { sight: stage.crowd.sight, ..Settings::default() };
        let server = Server::bind(&place.join("socket"), settings).await.expect("a socket");
        child::say("serving");
        server.run(Arc::new(gate), std::future::pending()).await.expect("it serves");
    });
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.roll(last + 1));
        }
    }
}

/// Uploads; says whether it was acknowledged. The gate may die at any moment.
fn upload(socket: &Path, packages: &[&Package]) -> bool {
    const LAST: [u8; 8] = 0x616c_7473_u64.to_le_bytes();
    let Ok(stream) = UnixStream::connect(socket) else { return false };
    let mut raw = Raw::over(stream);
    raw.stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
    let greeting = Words::new().u64(CLIENT_MAGIC).u64(0x122).u64(0).u64(0);
    if !raw.try_send(&greeting.raw(&add_multiple(packages).0).0) {
        return false;
    }
    let mut answer = Vec::new();
    let _killed = raw.stream.shutdown(Shutdown::Write);
    let _killed = raw.stream.read_to_end(&mut answer);
    // The end of the greeting, and the end of the answer.
    answer.chunks(8).filter(|word| *word == LAST).count() == 2
}

/// Brings all paths with one's own signature, and a neighbour's if a quorum is asked for, in an order of one's own, until all are
/// acknowledged.
fn bring(number: usize, stage: &Stage, keys: &[SecretKey], packages: &[Package], sockets: &[PathBuf]) -> usize {
    let mut signers = vec![&keys[number]];
    if stage.crowd.sight == Sight::Admitted {
        signers.push(&keys[(number + 1) % BUILDERS]);
    }
    let mut mine: Vec<Package> = packages.iter().map(|package| package.clone().signed_by(&signers)).collect();
    let mut dice = Dice(number as u64);
    dice.shuffle(&mut mine);
    let begun = Instant::now();
    let mut failures = 0;
    for chunk in mine.chunks(AT_A_TIME) {
        let chunk: Vec<&Package> = chunk.iter().collect();
        while !upload(&sockets[dice.roll(sockets.len())], &chunk) {
            failures += 1;
            assert!(begun.elapsed() < DEADLINE, "builder {number} did not get through");
            std::thread::sleep(Duration::from_millis(50 + dice.roll(200) as u64));
        }
    }
    failures
}

/// Keeps a gate running, killing it again and again, until told to stop; returns how often it was killed, and how often refused.
fn keep(stage: &Stage, place: &Path, seed: u64, stop: &AtomicBool) -> (usize, usize) {
    let (mut killed, mut refused) = (0, 0);
    let mut dice = Dice(seed);
    while !stop.load(Ordering::Relaxed) {
        let mut gate = stage.gate(place);
        let said = gate.wait_for_any(&["serving", "refused", "failed"]);
        if said != "serving" {
            refused += usize::from(said == "refused");
            gate.finish();
            std::thread::sleep(Duration::from_millis(500));
            continue;
        }
        let until = Instant::now() + Duration::from_millis(4_000 + dice.roll(8_000) as u64);
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        gate.kill();
        killed += 1;
    }
    (killed, refused)
}

/// Lets builders loose on gates, and checks what is left.
fn crowd(stage: &Stage, gates: usize) -> (usize, usize) {
    let directory = TempDir::new().expect("a directory");
    let places: Vec<PathBuf> = (0..gates).map(|gate| directory.path().join(gate.to_string())).collect();
    let sockets: Vec<PathBuf> = places.iter().map(|place| place.join("socket")).collect();
    places.iter().for_each(|place| std::fs::create_dir(place).expect("a directory"));
    let (keys, _) = builders();
    let packages = packages(stage.crowd);
    let (stop, failures) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begun = Instant::now();
    let (killed, refused) = std::thread::scope(|scope| {
        let keepers: Vec<_> = (0_u64..)
            .zip(&places)
            .map(|(seed, place)| (seed, place, &stop))
            .map(|(seed, place, stop)| scope.spawn(move || keep(stage, place, seed, stop)))
            .collect();
        let bringing: Vec<_> = (0..stage.crowd.builders)
            .map(|number| (number, &keys, &packages, &sockets, &failures))
            .map(|(number, keys, packages, sockets, failures)| {
                scope
                    .spawn(move || failures.fetch_add(bring(number, stage, keys, packages, sockets), Ordering::Relaxed))
            })
            .collect();
        let brought: Vec<_> = bringing.into_iter().map(|builder| builder.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let kept = keepers.into_iter().map(|keeper| keeper.join().expect("it ends"));
        let kept = kept.fold((0, 0), |sum, (killed, refused)| (sum.0 + killed, sum.1 + refused));
        assert!(brought.iter().all(Result::is_ok), "every builder got through");
        kept
    });
    measured(&format!(
        "{} builders brought {} paths through {gates} gates in {} s; {killed} kills, {refused} refusals, {} uploads tried again",
        stage.crowd.builders,
        stage.crowd.paths,
        begun.elapsed().as_secs(),
        failures.load(Ordering::Relaxed)
    ));
    runtime().block_on(is_whole(stage, &keys, &packages));
    (killed, refused)
}

/// Checks a bucket through a gate that has not seen it before, then object by object.
async fn is_whole(stage: &Stage, keys: &[SecretKey], packages: &[Package]) {
    let bucket = open(&stage.uri, &stage.credentials, stage.writers()).await.expect("no gate runs any more");
    let cache = cache(bucket.clone()).await;
    let gate = Arc::new(Gate::new(cache.clone(), parse(&builders().1), None).expect("a gate"));
    // What the last gate that was killed had left to do.
    gate.tend_staging().await.expect("it can be");
    assert_eq!(gate.staged().await.expect("it can be listed").len(), 0);
    is_logged(&bucket, packages).await;
    let all: Vec<&SecretKey> = keys.iter().take(stage.crowd.builders).collect();
    let mut expected: BTreeSet<String> = ["nix-cache-info", "quorum/provider"].map(str::to_owned).into();
    if stage.alone {
        expected.insert("quorum/writer".into());
    }
    for package in packages {
        let signed = package.clone().signed_by(&all);
        let info = gate.view().path_info(package.path()).await.expect("it can be read").expect("it is valid");
        assert_eq!(info.signatures, signed.info.signatures, "every signature is there");
        let narinfo = cache.narinfo(&package.hash_part()).await.expect("it can be read").expect("it is there");
        assert_eq!(narinfo.info.signatures, signed.info.signatures, "the narinfo says what the evidence says");
        let mut nar = gate.view().nar(package.path()).await.expect("it is served");
        let mut bytes = Vec::new();
        while let Some(block) = nar.next().await.expect("it is whole") {
            bytes.extend_from_slice(&block);
        }
        assert_eq!(bytes, package.nar);
        let part = package.hash_part();
        expected.insert(format!("{part}.narinfo"));
        expected.insert(format!("nar/{}.nar.zst", package.info.nar_hash.to_nix32()));
        expected.insert(format!("quorum/evidence/{part}/{}", package.fingerprint().digest()));
    }
    let listed = sweep(&cache, false).await;
    assert!(listed.iter().all(|finding| !finding.deleted));
    let swept = sweep(&cache, true).await;
    assert_eq!(swept.len(), listed.len(), "what would be deleted is what is deleted");
    assert!(swept.iter().all(|finding| finding.deleted), "{swept:?}");
    assert_eq!(sweep(&cache, true).await, [], "nothing is left");
    let listings: BTreeSet<String> = packages.iter().map(|package| format!("{}.ls", package.hash_part())).collect();
    let needed = |key: &String| !listings.contains(key) && !key.starts_with("quorum/log/");
    let found: BTreeSet<String> = everything(&bucket).await.into_iter().filter(needed).collect();
    assert_eq!(found, expected, "no object is there that nothing needs");
    let mut kinds: Vec<_> = swept.iter().map(|finding| format!("{:?}", finding.kind)).collect();
    kinds.sort();
    kinds.dedup_by_key(|kind| kind.clone());
    measured(&format!("swept {} leftovers, of {kinds:?}", swept.len()));
    bucket.close().await;
}

/// Somebody else may keep something in the bucket, and be at it for days.
#[test]
fn a_sweep_gives_up_no_uploads_of_others() {
    let Some(server) = moto() else { return };
    let stage = Stage::of(server, "others-uploads", false, WITH_QUORUMS);
    runtime().block_on(async {
        let bucket = open(&stage.uri, &stage.credentials, stage.writers()).await.expect("it can be opened");
        let cache = cache(bucket.clone()).await;
        for name in ["backup/monday", "nar/left", "log/left.drv"] {
            let expected = Expected { key: Key::new(name), at_most: None };
            let mut left = bucket.upload(expected).await.expect("there is room");
            let left = tokio::task::spawn_blocking(move || {
                left.write(&vec![7; 12 << 20]).expect("there is room");
                left.finish().expect("there is room");
                left
            });
            let left = left.await.expect("it ends");
            while left.held() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // As a crash leaves it.
            std::mem::forget(left);
        }
        let mut swept: Vec<String> = sweep(&cache, true).await.into_iter().map(|finding| finding.key).collect();
        swept.sort();
        assert_eq!(swept, ["log/left.drv", "nar/left"]);
        let left = bucket.leftovers(Timestamp::from_unix(i64::MAX)).await.expect("they can be listed");
        assert_eq!(left.iter().map(|leftover| &leftover.key).collect::<Vec<_>>(), ["backup/monday"]);
    });
}

/// Checks that the log is one chain, and has a record of each path's admission.
async fn is_logged(bucket: &Bucket, packages: &[Package]) {
    let log = read_log(Arc::new(bucket.clone())).await.expect("it is one chain");
    let records = log.len();
    let mut admitted = BTreeSet::new();
    for record in log {
        if let Event::Admitted { judged } = record.event {
            admitted.insert(judged.named.fingerprint);
        }
    }
    let expected: BTreeSet<String> =
        packages.iter().map(|package| package.fingerprint().digest().to_string()).collect();
    assert_eq!(admitted, expected, "nothing is admitted without a record");
    measured(&format!("{records} records in one chain"));
}

async fn sweep(cache: &BinaryCache, delete: bool) -> Vec<Finding> {
    let before = Timestamp::from_unix(i64::MAX);
    let mut found = Vec::new();
    let sweep = Sweep { cache: cache.clone(), index: Index::default(), before, delete };
    sweep.run(|finding| found.push(finding)).await.expect("it can be swept");
    found
}

/// Lists every object of a bucket.
async fn everything(bucket: &Bucket) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        let mut pages = bucket.list(&folder).await.expect("it can be listed");
        while let Some(page) = pages.next().await.expect("it can be listed") {
            found.extend(page.into_iter().map(|entry| format!("{folder}{}", entry.name)));
        }
        let below = bucket.list_folders(&folder).await.expect("it can be listed");
        folders.extend(below.into_iter().map(|name| format!("{folder}{name}/")));
    }
    found
}

#[test]
fn four_gates_that_are_killed_lose_no_signature() {
    let Some(server) = moto() else { return };
    let (killed, refused) = crowd(&Stage::of(server, "crowd", false, WITH_QUORUMS), 4);
    assert!(killed >= 8 && refused == 0, "{killed} were killed, {refused} refused");
}

#[test]
fn gates_that_are_killed_add_up_single_signatures() {
    let Some(server) = moto() else { return };
    let (killed, refused) = crowd(&Stage::of(server, "staging", false, WITH_SINGLE_SIGNATURES), 3);
    assert!(killed >= 3 && refused == 0, "{killed} were killed, {refused} refused");
}

#[test]
fn one_gate_alone_that_is_killed_while_another_tries_loses_no_signature() {
    let Some(server) = s3s_fs() else { return };
    let (killed, refused) = crowd(&Stage::of(server, "alone", true, WITH_QUORUMS), 2);
    assert!(killed >= 2 && refused >= 1, "{killed} were killed, {refused} refused");
}
