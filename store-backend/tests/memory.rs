//! The memory of a server stays bounded whatever clients send or announce. The server runs in a process of its own, so that
//! only its memory is measured.

mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use store_backend::daemon::{Server, Settings};
use store_backend::gate::Gate;
use store_backend::object::{Bucket, Credentials, Location, Patience, Writers};
use store_backend::store::BinaryCache;
use support::child::{self, Worker};
use support::keys::{alice, bob, two_of_three};
use support::measured;
use support::package::{Package, nar_of_file, noise, package};
use support::raw::Raw;
use support::s3::{Account, s3s_fs};
use support::site::open_gate;
use support::words::{Words, op};
use tempfile::TempDir;
use verifier::{NarHash, PathInfo, StoreDir};

const MIB: u64 = 1 << 20;

/// What one client may make a server take at the most, above what it has taken before.
const ONE_CLIENT: u64 = 48 * MIB;

/// What a server in front of a bucket may take in all: parts wait in memory while they are sent.
const BUCKET: u64 = 128 * MIB;

/// A server in a process of its own.
struct Served {
    worker: Worker,
    directory: TempDir,
}

impl Served {
    fn with_files(files: u64) -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut worker = Worker::start("child_serves", directory.path(), &[("FILES", files.to_string())]);
        worker.wait_for("serving");
        Self { worker, directory }
    }

    /// In front of a bucket.
    fn bucket(name: &str) -> Option<Self> {
        let server = s3s_fs()?;
        server.make_bucket(name);
        let directory = TempDir::new().expect("a directory");
        let Account { access_key, secret_key } = server.account.clone();
        let settings = [
            ("FILES", "1024".into()),
            ("BUCKET", server.uri(name)),
            ("ACCESS_KEY", access_key),
            ("SECRET_KEY", secret_key),
        ];
        let mut worker = Worker::start("child_serves", directory.path(), &settings);
        worker.wait_for("serving");
        Some(Self { worker, directory })
    }

    fn new() -> Self {
        let served = Self::with_files(1024);
        // What a server takes once and for all: threads, their stacks, a compressor for each.
        for number in 0..8 {
            let warm = Package::of_nar(&format!("warm-{number}"), nar_of_file(&noise(number, 900_000)));
            served.raw().upload(&[&warm.signed_by(&[&alice(), &bob()])]).expect("it is signed");
        }
        served
    }

    fn raw(&self) -> Raw {
        Raw::connect(&self.directory.path().join("socket"))
    }

    /// Checks by how much the server grew at the most since `before`, and that it still serves.
    fn grew_by_no_more_than(&self, before: u64, limit: u64, what: &str) {
        let (_, peak) = self.worker.memory();
        let grown = peak.saturating_sub(before);
        measured(&format!("{what}: {} MiB more", grown / MIB));
        assert!(grown <= limit, "{what}: {} MiB more than before, {} allowed", grown / MIB, limit / MIB);
        let good = package("good").signed_by(&[&alice(), &bob()]);
        let mut raw = self.raw();
        raw.upload(&[&good]).expect("it is signed");
        assert_eq!(raw.nar(&good).expect("it is served"), good.nar);
    }

    fn peak(&self) -> u64 {
        self.worker.memory().1
    }
}

#[test]
#[ignore = "is run by the tests of this file, in a process of its own"]
fn child_serves() {
    let Some(place) = child::place() else { return };
    let files: u64 = std::env::var("FILES").expect("the parent sets it").parse().expect("a number");
    let limit = Rlimit { current: Some(files), maximum: Some(files) };
    setrlimit(Resource::Nofile, limit).expect("less is always allowed");
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime").block_on(
        async {
            let gate = match std::env::var("BUCKET") {
                Ok(uri) => gate_of_bucket(&uri).await,
                Err(_) => open_gate(&place.join("store"), two_of_three(), None).await,
            };
            let server = Server::bind(&place.join("socket"), Settings::default()).await.expect("a socket");
            child::say("serving");
            server.run(gate, std::future::pending()).await.expect("it serves");
        },
    );
}

async fn gate_of_bucket(uri: &str) -> Arc<Gate> {
    let variable = |name: &str| std::env::var(name).expect("the parent sets it");
    let credentials = Credentials::new(variable("ACCESS_KEY"), variable("SECRET_KEY"), None, None, "test");
    let location = Location::parse(uri).expect("a bucket");
    let bucket = Bucket::open(location, Patience::default(), Some(credentials), Writers::One).await.expect("a bucket");
    let cache = BinaryCache::open(Arc::new(bucket), &StoreDir::default()).await.expect("a binary cache");
    Arc::new(Gate::new(cache, two_of_three(), None).expect("a gate"))
}

/// A NAR of one file of so many MiB, made of one block again and again, in pieces.
struct Stream {
    head: Vec<u8>,
    block: Vec<u8>,
    times: u64,
    tail: Vec<u8>,
}

impl Stream {
    fn new(block: Vec<u8>, times: u64) -> Self {
        let size = block.len() as u64 * times;
        let empty = nar_of_file(b"");
        // The one token after the contents is `)`; before it stands the length.
        let (head, tail) = empty.split_at(empty.len() - 16);
        let head = [&head[..head.len() - 8], &size.to_le_bytes()].concat();
        Self { head, block, times, tail: tail.to_vec() }
    }

    fn each(&self, mut visit: impl FnMut(&[u8])) {
        visit(&self.head);
        (0..self.times).for_each(|_| visit(&self.block));
        visit(&self.tail);
    }

    fn package(&self, name: &str) -> Package {
        let mut sha256 = Sha256::new();
        let mut nar_size = 0;
        self.each(|piece| {
            sha256.update(piece);
            nar_size += piece.len() as u64;
        });
        let mut package = package(name);
        package.info = PathInfo { nar_hash: NarHash::from_sha256(sha256.finalize().into()), nar_size, ..package.info };
        package.signed_by(&[&alice(), &bob()])
    }

    fn send(&self, raw: &mut Raw) {
        self.each(|piece| {
            raw.send(&(piece.len() as u64).to_le_bytes());
            raw.send(piece);
        });
        raw.send(&0_u64.to_le_bytes());
    }
}

/// Noise that does not repeat for the compressor: each block is longer than its window.
fn noisy(mebibytes: u64) -> Stream {
    Stream::new(noise(1, 16 << 20), mebibytes / 16)
}

fn upload(served: &Served, package: &Package, stream: &Stream) -> Raw {
    let mut raw = served.raw();
    raw.send(&Words::op(op::ADD_TO_STORE_NAR).info(&package.info).u64(0).u64(0).0);
    stream.send(&mut raw);
    raw.answer().expect("it is signed");
    assert!(raw.is_valid(package.path()));
    raw
}

/// Reads a NAR to its end, and holds its hash against what was announced.
fn read_whole(raw: &mut Raw, package: &Package) {
    raw.ask(&Words::op(op::NAR_FROM_PATH).str(&package.full_path())).expect("it is valid");
    let mut sha256 = Sha256::new();
    let mut left = package.info.nar_size as usize;
    while left > 0 {
        let piece = raw.try_exact(left.min(1 << 20)).expect("it comes whole");
        left -= piece.len();
        sha256.update(&piece);
    }
    assert_eq!(NarHash::from_sha256(sha256.finalize().into()), package.info.nar_hash);
}

/// Sends a large NAR into a bucket and fetches it again.
fn flows_through_a_bucket(name: &str, mebibytes: u64) {
    let Some(served) = Served::bucket(name) else { return };
    let stream = noisy(mebibytes);
    let package = stream.package("large");
    let mut raw = upload(&served, &package, &stream);
    let up = served.peak();
    read_whole(&mut raw, &package);
    let down = served.peak();
    measured(&format!("{mebibytes} MiB through a bucket: {} MiB up, {} MiB in all", up / MIB, down / MIB));
    assert!(down < BUCKET, "{} MiB, {} allowed", down / MIB, BUCKET / MIB);
}

#[test]
fn half_a_gibibyte_flows_through_a_bucket() {
    flows_through_a_bucket("half-a-gibibyte", 512);
}

#[test]
#[ignore = "takes minutes, and 8 GiB where temporary files are"]
fn eight_gibibytes_flow_through_a_bucket() {
    flows_through_a_bucket("eight-gibibytes", 8192);
}

#[test]
fn a_gibibyte_of_zeros_and_of_noise_flow_through() {
    let served = Served::new();
    for (name, stream) in [("zeros", Stream::new(vec![0; 4 << 20], 256)), ("noise", noisy(192))] {
        let before = served.peak();
        let package = stream.package(name);
        let mut raw = upload(&served, &package, &stream);
        served.grew_by_no_more_than(
            before,
            ONE_CLIENT,
            &format!("uploading {} MiB of {name}", package.info.nar_size / MIB),
        );
        let before = served.peak();
        read_whole(&mut raw, &package);
        served.grew_by_no_more_than(
            before,
            ONE_CLIENT,
            &format!("reading {} MiB of {name}", package.info.nar_size / MIB),
        );
    }
}

#[test]
fn a_refused_gibibyte_takes_nothing() {
    let served = Served::new();
    let before = served.peak();
    let stream = Stream::new(vec![0; 4 << 20], 256);
    let mut info = package("refused").signed_by(&[&alice()]).info;
    info.nar_size = 1 << 30;
    let mut raw = served.raw();
    raw.send(&Words::op(op::ADD_TO_STORE_NAR).info(&info).u64(0).u64(0).0);
    stream.send(&mut raw);
    raw.answer().expect_err("it must be refused");
    assert!(!raw.is_valid(&info.path));
    served.grew_by_no_more_than(before, 8 * MIB, "refusing a GiB");
}

/// A size is what somebody says: memory is for what comes.
#[test]
fn announced_sizes_take_nothing() {
    let served = Served::new();
    let before = served.peak();
    let mut waiting = Vec::new();
    for number in 0..32_u64 {
        let mut raw = served.raw();
        let mut huge = package(&format!("huge-{number}"));
        huge.info.nar_size = (1 << 62) + number * 8;
        let huge = huge.signed_by(&[&alice(), &bob()]);
        let words = match number % 4 {
            0 => Words::op(op::ADD_TO_STORE_NAR).info(&huge.info).u64(0).u64(0).u64(1 << 63).raw(&huge.nar[..64]),
            1 => {
                let info = Words::new().u64(u64::MAX).info(&huge.info).0;
                let words = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0);
                words.u64(info.len() as u64).raw(&info).u64(u64::MAX)
            }
            2 => Words::op(op::QUERY_VALID_PATHS).u64(700_000),
            _ => Words::op(op::ADD_TEXT_TO_STORE).str("text").u64(8 << 20),
        };
        raw.send(&words.0);
        waiting.push(raw);
    }
    std::thread::sleep(Duration::from_millis(300));
    served.grew_by_no_more_than(before, 160 * MIB, "32 clients that announce what they do not send");
    drop(waiting);
}

/// Bytes that trickle in must not each hold on to the large block that they were read into.
#[test]
fn bytes_that_trickle_in_take_no_more_than_they_are() {
    let served = Served::new();
    let nar = |seed: u64, size: usize| {
        Package::of_nar(&format!("n-{seed}"), nar_of_file(&noise(seed, size))).signed_by(&[&alice(), &bob()])
    };
    let offer = |package: &Package| Words::op(op::ADD_TO_STORE_NAR).info(&package.info).u64(0).u64(0);
    let (small, large) = (nar(3, 150_000), nar(4, 530_000));
    let flat = Words::op(op::ADD_TO_STORE).str("file").str("fixed:sha256").strings([""; 0]).u64(0);
    let cases = [
        ("a small NAR", offer(&small), small.nar.clone(), 1),
        ("a large NAR", offer(&large), large.nar.clone(), 1),
        ("a file", flat, noise(5, 150_000), 1),
        // Slowly enough that the server reads each byte by itself.
        ("a small NAR, slowly", offer(&nar(6, 15_000)), nar(6, 15_000).nar, 50),
    ];
    for (what, request, bytes, microseconds) in cases {
        let before = served.peak();
        let mut raw = served.raw();
        raw.send(&request.0);
        // Each byte in a frame of its own, each frame in a write of its own.
        for byte in &bytes {
            raw.stream.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, *byte]).expect("the server reads");
            if microseconds > 1 {
                std::thread::sleep(Duration::from_micros(microseconds));
            }
        }
        raw.send(&0_u64.to_le_bytes());
        raw.answer().expect("it is signed, or its address stands for it");
        served.grew_by_no_more_than(before, 16 * MIB, &format!("{what}, byte by byte"));
    }
}

#[test]
fn many_small_paths_in_one_upload_take_no_more_than_a_few() {
    let served = Served::new();
    let before = served.peak();
    let packages: Vec<Package> = (0..600)
        .map(|number| Package::of_nar(&format!("p-{number}"), nar_of_file(&noise(number, 100_000))))
        .map(|package| package.signed_by(&[&alice(), &bob()]))
        .collect();
    let packages: Vec<&Package> = packages.iter().collect();
    served.raw().upload(&packages).expect("they are signed");
    served.grew_by_no_more_than(before, ONE_CLIENT, "600 paths of 100 KB");
}

/// The lists of a request have one budget, whoever fills it.
#[test]
fn long_lists_take_no_more_than_their_budget_allows() {
    let served = Served::new();
    let before = served.peak();
    let path = package("listed").full_path();
    for _ in 0..3 {
        let mut raw = served.raw();
        raw.send(&Words::op(op::QUERY_VALID_PATHS).strings(vec![&path; 250_000]).u64(0).0);
        raw.answer().expect("within the budget");
        assert_eq!(raw.u64(), 0);
        let mut raw = served.raw();
        let _closed = raw.try_send(&Words::op(op::QUERY_VALID_PATHS).strings(vec![&path; 400_000]).u64(0).0);
    }
    served.grew_by_no_more_than(before, 128 * MIB, "lists of 250,000 paths");
}

/// Files that wait to be published are many; a server has 1,024 descriptors unless somebody gave it more.
#[test]
fn many_uploads_at_once_do_not_run_out_of_descriptors() {
    let served = Served::with_files(1024);
    let socket = served.directory.path().join("socket");
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let packages: Vec<Package> = (0..150)
                    .map(|number| package(&format!("p-{client}-{number}")).signed_by(&[&alice(), &bob()]))
                    .collect();
                let packages: Vec<&Package> = packages.iter().collect();
                Raw::connect(&socket).upload(&packages)
            })
        })
        .collect();
    for client in clients {
        client.join().expect("it ends").expect("it is signed");
    }
    assert_eq!(served.raw().all_paths().len(), 16 * 150);
}
