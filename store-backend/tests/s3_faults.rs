//! A bucket behind a network and a provider that fail in every way they can: nothing is half written, nothing that was
//! acknowledged is lost, and everything ends in time.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Region};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use sha2::{Digest as _, Sha256};
use store_backend::object::{
    Bucket, Condition, Credentials, Draft, Etag, Expected, Key, Location, ObjectError, ObjectStore as _, Patience, Put,
    Upload, Writers, requests_retried,
};
use support::faults::{Answer, Ending, Fault, Operation, Proxy, Random};
use support::package::noise;
use support::s3::{S3, moto, s3s_fs};
use tokio::task::{JoinSet, spawn_blocking};

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(5);

/// Short, so that what never answers is found out soon.
fn patience(total: u64) -> Patience {
    let [connect, attempt, total, lease] = [1, 1, total, 18].map(Duration::from_secs);
    Patience { connect, attempt, total, lease }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

/// A bucket of a real server behind a proxy.
#[derive(Clone)]
struct Site {
    server: &'static S3,
    proxy: Proxy,
    name: String,
    /// Reached through the proxy.
    bucket: Bucket,
    total: Duration,
}

impl Site {
    async fn on(server: &'static S3, writers: Writers, total: u64) -> Self {
        Self::with(server, writers, patience(total)).await
    }

    async fn with(server: &'static S3, writers: Writers, patience: Patience) -> Self {
        let (proxy, name) = Self::empty(server).await;
        let bucket = open(&proxy, &name, server, writers, patience).await.expect("no fault yet");
        Self { server, proxy, name, bucket, total: patience.total }
    }

    async fn empty(server: &'static S3) -> (Proxy, String) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("faulty-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.make_bucket(&name);
        (Proxy::start(server.port).await, name)
    }

    /// Returns the bucket, reached without the proxy.
    async fn direct(&self) -> Bucket {
        let location = Location::parse(&self.server.uri(&self.name)).expect("a location");
        Bucket::connect(location, Patience::default(), credentials(self.server)).await.expect("nobody is asked yet")
    }

    /// Waits for an operation that makes so many requests on an object; returns what it said, or why it failed.
    async fn ends<T>(
        &self,
        requests: u32,
        name: &str,
        work: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, String> {
        let limit = self.total * requests + SLACK;
        let ended = tokio::time::timeout(limit, work).await;
        let ended = ended.unwrap_or_else(|_| panic!("{name}: it has not ended after {limit:?}"));
        ended.map_err(|error| {
            let error = error.to_string();
            let place = format!("s3://{}/{name}", self.name);
            let (_, why) = error.split_once(&place).unwrap_or_else(|| panic!("{place} is not in {error:?}"));
            assert!(why.len() > 10 && !error.contains('\n'), "{error:?} says nothing");
            error
        })
    }

    async fn put(&self, name: &str, condition: Condition, bytes: impl Into<Bytes>) -> Result<Put, String> {
        let draft = Draft::of_bytes(key(name), condition, bytes);
        let mut puts = self.ends(2, name, self.bucket.publish(vec![draft])).await?;
        assert_eq!(puts.len(), 1);
        Ok(puts.remove(0))
    }

    async fn get(&self, name: &str) -> Result<Option<(Bytes, Etag)>, String> {
        let found = self.ends(1, name, self.bucket.get(&key(name), 1 << 30)).await?;
        Ok(found.map(|found| (found.bytes, found.version.etag)))
    }

    async fn head(&self, name: &str) -> Result<Option<u64>, String> {
        Ok(self.ends(1, name, self.bucket.head(&key(name))).await?.map(|found| found.size))
    }

    async fn delete(&self, name: &str, etag: &Etag) -> Result<bool, String> {
        self.ends(3, name, self.bucket.delete(&key(name), etag)).await
    }

    async fn list(&self, folder: &str) -> Result<BTreeSet<String>, String> {
        let listed = self.ends(1, folder, async {
            let (mut pages, mut names) = (self.bucket.list(folder).await?, BTreeSet::new());
            while let Some(page) = pages.next().await? {
                names.extend(page.into_iter().map(|entry| entry.name));
            }
            Ok(names)
        });
        listed.await
    }

    /// Reads an object as a stream, from a byte on.
    async fn read(&self, name: &str, from: u64) -> Result<Vec<u8>, String> {
        let Some((_, mut reader)) = self.ends(1, name, self.bucket.open(&key(name), from)).await? else {
            return Err(format!("there is no {name}"));
        };
        let read = spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        read.await.expect("it ends").map_err(|error| error.to_string())
    }

    /// Writes an object as an upload.
    async fn upload(&self, name: &str, known: bool, bytes: &[u8]) -> Result<Put, String> {
        let expected = Expected { key: known.then(|| key(name)), at_most: None };
        let (bucket, bytes, name_of) = (self.bucket.clone(), bytes.to_vec(), key(name));
        let work = async move {
            let upload = bucket.upload(expected).await?;
            let upload = spawn_blocking(move || write_all(upload, &bytes)).await.expect("it ends")?;
            let mut puts = bucket.publish(vec![Draft::of_upload(name_of, Condition::Absent, upload)]).await?;
            Ok(puts.remove(0))
        };
        // It starts, sends the parts together, looks, completes, and looks again.
        self.ends(5, name, work).await
    }

    /// Returns a client of the server, reached without the proxy.
    fn client(&self) -> aws_sdk_s3::Client {
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://127.0.0.1:{}", self.server.port))
            .force_path_style(true)
            .http_client(http)
            .credentials_provider(credentials(self.server).expect("there are some"));
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// Returns the keys of the uploads in parts that are neither completed nor given up.
    async fn uploads(&self) -> Vec<String> {
        let listed = self.client().list_multipart_uploads().bucket(&self.name).send().await.expect("no fault here");
        listed.uploads().iter().filter_map(|upload| upload.key().map(str::to_owned)).collect()
    }
}

fn write_all(mut upload: Box<dyn Upload>, bytes: &[u8]) -> Result<Box<dyn Upload>, ObjectError> {
    for piece in bytes.chunks(100_000) {
        upload.write(piece)?;
    }
    upload.finish()?;
    Ok(upload)
}

fn credentials(server: &S3) -> Option<Credentials> {
    Some(Credentials::new(&server.account.access_key, &server.account.secret_key, None, None, "test"))
}

async fn open(
    proxy: &Proxy,
    name: &str,
    server: &S3,
    writers: Writers,
    patience: Patience,
) -> Result<Bucket, ObjectError> {
    let uri = format!("s3://{name}?endpoint=http://127.0.0.1:{}&region=us-east-1&multipart-threshold=0", proxy.port);
    let location = Location::parse(&uri).expect("a location");
    Bucket::open(location, patience, credentials(server), writers).await
}

/// Returns bytes that say themselves whether they are whole, and that nobody else writes.
fn own_bytes(length: usize) -> Vec<u8> {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let body = noise(COUNT.fetch_add(1, Ordering::Relaxed), length.max(8));
    [&Sha256::digest(&body)[..], &body].concat()
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() > 32 && bytes[..32] == Sha256::digest(&bytes[32..])[..]
}

fn slow_down() -> Fault {
    Fault::Answer(Answer::error(503, "SlowDown", "Please reduce your request rate."))
}

fn internal_error() -> Fault {
    Fault::Answer(Answer::error(500, "InternalError", "We encountered an internal error. Please try again."))
}

fn too_many_requests() -> Fault {
    Fault::Answer(Answer::error(429, "TooManyRequests", "Please reduce your request rate."))
}

fn conflict() -> Fault {
    let message = "The conditional request cannot succeed due to a conflicting operation against this resource.";
    Fault::Answer(Answer::error(409, "ConditionalRequestConflict", message))
}

/// An error that came too late for its status.
fn late_error() -> Fault {
    Fault::Answer(Answer::error(200, "InternalError", "We encountered an internal error. Please try again."))
}

/// Returns what happens to small requests, and how often in a row.
fn faults() -> Vec<(&'static str, usize, Fault)> {
    use Ending::{Close, Reset, Silence};
    vec![
        // What takes longest comes first.
        ("a connection that falls silent in the body", 1, Fault::Request(500, Silence)),
        ("an answer that never comes", 1, Fault::Lost(Silence)),
        ("an answer that falls silent", 1, Fault::Body(40, Silence)),
        ("an answer that is late", 1, Fault::Delay(Duration::from_millis(300))),
        ("a provider that asks to slow down", 4, slow_down()),
        ("a provider that fails", 3, internal_error()),
        ("a provider that is asked too often", 3, too_many_requests()),
        ("a gateway's page", 2, Fault::Answer(Answer::new(502, "text/html", "<html>Bad Gateway</html>"))),
        ("a connection that is reset before the body", 2, Fault::Request(0, Reset)),
        ("a connection that is reset in the body", 2, Fault::Request(500, Reset)),
        ("a connection that is closed in the body", 2, Fault::Request(500, Close)),
        ("an answer that is lost in a reset", 2, Fault::Lost(Reset)),
        ("an answer that is lost in a close", 2, Fault::Lost(Close)),
        ("an answer that is reset", 2, Fault::Body(40, Reset)),
        ("an answer that is cut off", 2, Fault::Body(40, Close)),
        ("an answer in drops", 1, Fault::Drip(100, Duration::from_millis(5))),
        ("a connection that is closed when nobody looks", 3, Fault::Leave),
    ]
}

/// Goes through the life of an object, each step with the fault.
async fn lives(site: &Site, folder: &str, times: usize, fault: &Fault) {
    let name = &format!("{folder}/object");
    let meet = |operation| site.proxy.next(folder, operation, times, fault.clone());
    let (first, second) = (own_bytes(2000), own_bytes(1000));
    meet(Operation::Put);
    let created = site.put(name, Condition::Absent, first.clone()).await;
    let Ok(Put::Stored(etag)) = created else { panic!("{folder}: {created:?}") };
    meet(Operation::Get);
    assert_eq!(site.get(name).await, Ok(Some((first.clone().into(), etag.clone()))), "{folder}");
    meet(Operation::Get);
    assert_eq!(site.read(name, 100).await.as_deref(), Ok(&first[100..]), "{folder}");
    meet(Operation::Head);
    assert_eq!(site.head(name).await, Ok(Some(2032)), "{folder}");
    meet(Operation::Put);
    let swapped = site.put(name, Condition::Matches(etag.clone()), second.clone()).await;
    let Ok(Put::Stored(newer)) = swapped else { panic!("{folder}: {swapped:?}") };
    meet(Operation::Put);
    assert_eq!(site.put(name, Condition::Matches(etag), own_bytes(1)).await, Ok(Put::Refused), "{folder}");
    meet(Operation::List);
    assert_eq!(site.list(&format!("{folder}/")).await, Ok(BTreeSet::from(["object".into()])), "{folder}");
    assert_eq!(site.get(name).await, Ok(Some((second.into(), newer.clone()))), "{folder}");
    meet(Operation::Delete);
    assert_eq!(site.delete(name, &newer).await, Ok(true), "{folder}");
    assert_eq!(site.get(name).await, Ok(None), "{folder}");
}

async fn every_operation_outlasts_every_fault(server: &'static S3, writers: Writers) {
    let site = Site::on(server, writers, 20).await;
    let before = requests_retried();
    let cases = faults().into_iter().enumerate().map(|(number, (case, times, fault))| {
        let site = site.clone();
        async move {
            let begun = Instant::now();
            lives(&site, &format!("case-{number}"), times, &fault).await;
            support::measured(&format!("{case}: {:?}", begun.elapsed()));
        }
    });
    stream::iter(cases).buffer_unordered(6).collect::<()>().await;
    assert!(requests_retried() > before + 50, "what is made again is counted");
    site.bucket.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_outlasts_every_fault_where_conditions_hold() {
    let Some(server) = moto() else { return };
    every_operation_outlasts_every_fault(server, Writers::Any).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_outlasts_every_fault_of_a_lone_writer() {
    let Some(server) = s3s_fs() else { return };
    every_operation_outlasts_every_fault(server, Writers::One).await;
}

async fn an_upload_outlasts_every_fault(server: &'static S3, writers: Writers) {
    const PART: u64 = 5 << 20;
    // Servers take their time with parts, and s3s-fs forgets what it was completing if nobody waits for it.
    let [connect, attempt, total, lease] = [2, 4, 24, 30].map(Duration::from_secs);
    let site = Site::with(server, writers, Patience { connect, attempt, total, lease }).await;
    let (small, large) = (3_000, 2 * PART as usize + 1000);
    let cases = [
        ("small", small, Operation::Put, 2, Fault::Request(1000, Ending::Reset)),
        ("small-lost", small, Operation::Put, 1, Fault::Lost(Ending::Close)),
        ("start", large, Operation::Create, 2, slow_down()),
        ("start-cut", large, Operation::Create, 1, Fault::Body(40, Ending::Close)),
        ("reset", large, Operation::Part, 3, Fault::Request(PART / 2, Ending::Reset)),
        ("closed", large, Operation::Part, 3, Fault::Request(PART / 2, Ending::Close)),
        ("silent", large, Operation::Part, 1, Fault::Request(PART / 2, Ending::Silence)),
        ("part-lost", large, Operation::Part, 2, Fault::Lost(Ending::Reset)),
        ("part-refused", large, Operation::Part, 4, slow_down()),
        ("complete-lost", large, Operation::Complete, 1, Fault::Lost(Ending::Reset)),
        ("complete-cut", large, Operation::Complete, 1, Fault::Body(40, Ending::Close)),
        ("complete-failed", large, Operation::Complete, 2, internal_error()),
        ("complete-late-error", large, Operation::Complete, 1, late_error()),
        ("complete-conflict", large, Operation::Complete, 1, conflict()),
    ];
    let uploads = cases.into_iter().enumerate().map(|(number, (case, size, operation, times, fault))| {
        let site = site.clone();
        async move {
            let bytes = own_bytes(size);
            site.proxy.next(case, operation, times, fault);
            let stored = site.upload(case, number % 2 == 0, &bytes).await;
            assert!(matches!(stored, Ok(Put::Stored(_))), "{case}: {stored:?}");
            assert!(site.read(case, 0).await == Ok(bytes), "{case}: it is what was written");
        }
    });
    stream::iter(uploads).buffer_unordered(2).collect::<()>().await;
    site.bucket.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_outlasts_every_fault_where_conditions_hold() {
    let Some(server) = moto() else { return };
    an_upload_outlasts_every_fault(server, Writers::Any).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_outlasts_every_fault_of_a_lone_writer() {
    let Some(server) = s3s_fs() else { return };
    an_upload_outlasts_every_fault(server, Writers::One).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_without_end_end_at_the_deadline() {
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 5).await;
    let written = site.put("there", Condition::Absent, own_bytes(1000)).await;
    let Ok(Put::Stored(etag)) = written else { panic!("{written:?}") };
    let faults: [(Fault, &[&str]); 7] = [
        (slow_down(), &["503", "SlowDown", "tried"]),
        (internal_error(), &["500", "InternalError", "tried"]),
        (too_many_requests(), &["429", "TooManyRequests", "tried"]),
        (conflict(), &["409", "ConditionalRequestConflict", "tried"]),
        (Fault::Request(0, Ending::Reset), &["check the network", "tried"]),
        (Fault::Request(0, Ending::Silence), &["did not answer in time", "check the network", "tried"]),
        (Fault::Lost(Ending::Close), &["check the network", "tried"]),
    ];
    let bytes = own_bytes(7 << 20);
    let works = faults.into_iter().enumerate().map(async |(number, (fault, words))| {
        let name = |name: &str| format!("{number}/{name}");
        for operation in
            [Operation::Put, Operation::Get, Operation::Head, Operation::Delete, Operation::List, Operation::Create]
        {
            site.proxy.next(&name(""), operation, usize::MAX, fault.clone());
        }
        let [new, there, folder, large] = ["new", "there", "", "large"].map(name);
        let (put, get, head, delete, list, upload) = tokio::join!(
            site.put(&new, Condition::Absent, "bytes"),
            site.get(&there),
            site.head(&there),
            site.delete(&there, &etag),
            site.list(&folder),
            site.upload(&large, true, &bytes),
        );
        let errors = [
            put.map(|_| ()),
            get.map(|_| ()),
            head.map(|_| ()),
            delete.map(|_| ()),
            list.map(|_| ()),
            upload.map(|_| ()),
        ];
        for (number, error) in errors.into_iter().enumerate() {
            let error = error.expect_err("nothing gets through");
            // Answers to HEAD have no bodies, and so no codes.
            let words = words.iter().filter(|word| ![2, 3].contains(&number) || !word.ends_with(char::is_alphabetic));
            for word in words {
                assert!(error.contains(word), "{fault:?}: {word:?} is not in {error:?}");
            }
        }
    });
    futures_util::future::join_all(works).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_tried_again() {
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 20).await;
    let written = site.put("there", Condition::Absent, own_bytes(10)).await;
    let Ok(Put::Stored(etag)) = written else { panic!("{written:?}") };
    let once = |name: &str, operation| {
        assert_eq!(site.proxy.count(name, operation), 1, "{name}, {operation:?}: once is enough");
    };
    assert_eq!(site.get("missing-get").await, Ok(None));
    once("missing-get", Operation::Get);
    assert_eq!(site.head("missing-head").await, Ok(None));
    once("missing-head", Operation::Head);
    assert_eq!(site.put("missing-swap", Condition::Matches(etag.clone()), "x").await, Ok(Put::Refused));
    once("missing-swap", Operation::Put);
    let before = site.proxy.count("there", Operation::Put);
    assert_eq!(site.put("there", Condition::Absent, "x").await, Ok(Put::Refused));
    assert_eq!(site.proxy.count("there", Operation::Put), before + 1);
    for operation in [Operation::Get, Operation::Head, Operation::Put, Operation::List, Operation::Create] {
        let denied = Answer::error(403, "AccessDenied", "Access Denied");
        site.proxy.next("denied", operation, usize::MAX, Fault::Answer(denied));
    }
    let errors = [
        site.get("denied-get").await.map(|_| ()),
        site.head("denied-head").await.map(|_| ()),
        site.put("denied-put", Condition::Absent, "x").await.map(|_| ()),
        site.list("denied-list/").await.map(|_| ()),
        site.upload("denied-upload", true, &own_bytes(6 << 20)).await.map(|_| ()),
    ];
    for error in errors {
        assert!(error.as_ref().is_err_and(|error| error.contains("access is denied")), "{error:?}");
    }
    assert_eq!(site.proxy.requests("denied").len(), 5, "once is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_creators_is_told_so_even_if_answers_are_lost() {
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 20).await;
    for round in 0..8_usize {
        let name = format!("round-{round}");
        // More answers are lost from round to round: the winner's alone, or everybody's once.
        site.proxy.next(&name, Operation::Put, 1 + round, Fault::Lost(Ending::Reset));
        let mut creators = JoinSet::new();
        for _ in 0..6 {
            let (site, name, bytes) = (site.clone(), name.clone(), Bytes::from(own_bytes(500)));
            creators.spawn(async move { (bytes.clone(), site.put(&name, Condition::Absent, bytes).await) });
        }
        let mut winners = Vec::new();
        while let Some(created) = creators.join_next().await {
            let (bytes, created) = created.expect("it ends");
            if let Put::Stored(etag) = created.expect("not all answers are lost") {
                winners.push((bytes, etag));
            }
        }
        assert_eq!(winners.len(), 1, "{name}: one creates it");
        assert_eq!(site.get(&name).await, Ok(winners.pop()), "{name}: what was acknowledged is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_increment_is_counted_once_if_answers_are_lost() {
    const EACH: usize = 6;
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 5).await;
    let name = "counter";
    // The counter's value is how many lines there are. Each is one increment's own.
    let written = site.put(name, Condition::Absent, "").await;
    assert!(matches!(written, Ok(Put::Stored(_))), "{written:?}");
    let mut random = Random(11);
    site.proxy.plan(move |request| match (request.operation(), random.below(4)) {
        (Operation::Put, 0) => Fault::Lost(Ending::Reset),
        (Operation::Put, 1) => Fault::Lost(Ending::Close),
        _ => Fault::None,
    });
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let site = site.clone();
        writers.spawn(async move {
            let (mut acknowledged, mut unknown, mut number) = (Vec::new(), Vec::new(), 0);
            while acknowledged.len() < EACH {
                let Ok(Some((bytes, etag))) = site.get(name).await else { continue };
                let line = format!("{writer}/{number}\n");
                number += 1;
                let longer = [&bytes[..], line.as_bytes()].concat();
                match site.put(name, Condition::Matches(etag), longer).await {
                    Ok(Put::Stored(_)) => acknowledged.push(line),
                    // It may have been stored, its answer lost, and then have been replaced by another's.
                    Ok(Put::Refused) | Err(_) => unknown.push(line),
                }
            }
            (acknowledged, unknown)
        });
    }
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    while let Some(wrote) = writers.join_next().await {
        let wrote = wrote.expect("it ends");
        acknowledged.extend(wrote.0);
        unknown.extend(wrote.1);
    }
    site.proxy.heal();
    let (bytes, _) = site.get(name).await.expect("no fault any more").expect("it is there");
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let counted: BTreeSet<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    assert_eq!(counted.len(), text.lines().count(), "nothing is counted twice");
    assert!(acknowledged.is_subset(&counted), "{acknowledged:?} are in {counted:?}");
    assert!(counted.iter().all(|line| acknowledged.contains(line) || unknown.contains(line)), "{counted:?}");
    let mistaken = counted.len() - acknowledged.len();
    support::measured(&format!("{} increments were acknowledged, {mistaken} others took place", acknowledged.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_a_counter_counts_exactly_what_was_acknowledged() {
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 5).await;
    let written = site.put("counter", Condition::Absent, "0 0").await;
    assert!(matches!(written, Ok(Put::Stored(_))), "{written:?}");
    site.proxy.plan(move |request| match request.operation() {
        Operation::Put if request.earlier % 3 != 0 => Fault::Lost(Ending::Reset),
        _ => Fault::None,
    });
    for count in 1..=12_u32 {
        let (bytes, etag) = site.get("counter").await.expect("it can be read").expect("it is there");
        let before: u32 = String::from_utf8_lossy(&bytes).split(' ').next().expect("a count").parse().expect("digits");
        assert_eq!(before + 1, count, "each increment is counted once");
        let swapped = site.put("counter", Condition::Matches(etag), format!("{count} {}", noise(1, 1)[0])).await;
        assert!(matches!(swapped, Ok(Put::Stored(_))), "{count}: {swapped:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_breaks_off_again_and_again_is_whole() {
    let Some(server) = s3s_fs() else { return };
    let site = Site::on(server, Writers::One, 5).await;
    let bytes = own_bytes(11 << 20);
    assert!(matches!(site.put("large", Condition::Absent, bytes.clone()).await, Ok(Put::Stored(_))));
    let mut random = Random(7);
    site.proxy.plan(move |request| {
        if request.operation() != Operation::Get || request.is_internal() || request.earlier >= 40 {
            return Fault::None;
        }
        let some = random.below(400_000) as usize;
        match random.below(12) {
            0 => Fault::Body(some, Ending::Silence),
            1 => Fault::Drip(100_000, Duration::from_millis(20)),
            2 => slow_down(),
            3 => Fault::Lost(Ending::Close),
            number if number % 2 == 0 => Fault::Body(some, Ending::Reset),
            _ => Fault::Body(some, Ending::Close),
        }
    });
    for from in [0, 1, 5_000_000] {
        assert!(site.read("large", from as u64).await.expect("it can be read") == bytes[from..], "from byte {from}");
    }
    let (whole, _) = site.get("large").await.expect("it can be read").expect("it is there");
    assert!(whole == bytes);
    assert!(site.proxy.count("large", Operation::Get) > 20, "it broke off");
    site.bucket.close().await;
}

/// As the narinfos are that Nix writes with `narinfo-compression`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compressed_for_the_transport_is_read_as_it_was_before() {
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 20).await;
    let text = "StorePath: ".repeat(300).into_bytes();
    let mut gzip = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(&text[..], flate2::Compression::default());
    encoder.read_to_end(&mut gzip).expect("memory is enough");
    let put = async |name: &str, encoding: &str| {
        let request = site.client().put_object().bucket(&site.name).key(name).body(gzip.clone().into());
        request.content_encoding(encoding).send().await.expect("no fault here");
    };
    put("gzip", "gzip").await;
    put("unknown", "compress").await;
    put("none", "").await;
    assert_eq!(site.get("gzip").await.expect("it is read").expect("it is there").0, text);
    assert_eq!(site.get("none").await.expect("it is read").expect("it is there").0, gzip);
    assert!(site.get("unknown").await.expect_err("nobody can").contains("compressed with compress"));
    let error = site.bucket.get(&key("gzip"), text.len() as u64 - 1).await.expect_err("it is too long").to_string();
    assert!(error.contains("more than 3299 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_does_not_go_on_ends_at_the_deadline() {
    let Some(server) = s3s_fs() else { return };
    let site = Site::on(server, Writers::One, 5).await;
    let works = [
        Fault::Body(0, Ending::Silence),
        Fault::Body(0, Ending::Reset),
        Fault::Body(10, Ending::Silence),
        // Each drop comes in time, all of them do not.
        Fault::Drip(10, Duration::from_millis(500)),
    ];
    let works = works.into_iter().enumerate().map(async |(number, fault)| {
        let name = &format!("{number}");
        assert!(matches!(site.put(name, Condition::Absent, own_bytes(1000)).await, Ok(Put::Stored(_))));
        site.proxy.next(name, Operation::Get, usize::MAX, fault.clone());
        let got = site.get(name).await.expect_err("it never comes");
        assert!(got.contains("of 1032 bytes"), "{fault:?}: {got:?} says how far it came");
        // A stream goes on as long as anything comes.
        if matches!(fault, Fault::Body(0, _)) {
            let read = tokio::time::timeout(2 * site.total + SLACK, site.read(name, 0)).await.expect("it ends");
            let read = read.expect_err("it never comes");
            assert!(read.contains("0 of 1032 bytes"), "{fault:?}: {read:?} says how far it came");
        }
    });
    futures_util::future::join_all(works).await;
    site.bucket.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_is_given_up_at_the_provider() {
    let Some(server) = moto() else { return };
    let site = Site::on(server, Writers::Any, 5).await;
    let upload = |name: &'static str, size: usize| {
        let bucket = site.bucket.clone();
        async move {
            let expected = Expected { key: Some(key(name)), at_most: None };
            let upload = bucket.upload(expected).await.expect("there is room");
            spawn_blocking(move || write_all(upload, &own_bytes(size)).expect("no fault yet")).await.expect("it ends")
        }
    };
    // While it starts, while its parts are on their way, and when they have come.
    site.proxy.next("starting", Operation::Create, 1, Fault::Delay(Duration::from_millis(300)));
    let expected = Expected { key: Some(key("starting")), at_most: None };
    let mut starting = site.bucket.upload(expected).await.expect("there is room");
    let starting = spawn_blocking(move || starting.write(&own_bytes(6 << 20)).map(|()| starting)).await;
    while site.proxy.count("starting", Operation::Create) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(starting);
    site.proxy.next("sending", Operation::Part, 1, Fault::Delay(Duration::from_millis(500)));
    let sending = upload("sending", 6 << 20).await;
    let sent = upload("sent", 6 << 20).await;
    while site.proxy.count("sent", Operation::Part) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((sending, sent));
    // Refused where it was to be.
    assert!(matches!(site.put("refused", Condition::Absent, "x").await, Ok(Put::Stored(_))));
    assert_eq!(site.upload("refused", true, &own_bytes(6 << 20)).await, Ok(Put::Refused));
    // A part that the provider does not take.
    let denied = Fault::Answer(Answer::error(403, "AccessDenied", "Access Denied"));
    site.proxy.next("denied", Operation::Part, usize::MAX, denied.clone());
    assert!(site.upload("denied", true, &own_bytes(6 << 20)).await.is_err());
    site.proxy.next("incomplete", Operation::Complete, usize::MAX, denied);
    assert!(site.upload("incomplete", false, &own_bytes(6 << 20)).await.is_err());
    let begun = Instant::now();
    while ["starting", "sending", "sent", "refused", "denied", "incomplete"]
        .iter()
        .any(|name| site.proxy.count(name, Operation::Abort) == 0)
        || !site.uploads().await.is_empty()
    {
        assert!(begun.elapsed() < site.total + SLACK, "left: {:?}", site.uploads().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(site.list("").await, Ok(BTreeSet::from(["refused".into()])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_makes_of_conditions_is_found_out_if_answers_are_lost() {
    let Some(server) = moto() else { return };
    // The first writes of the test are made one by one, those after the fourth together.
    let cases = [Fault::Lost(Ending::Reset), internal_error()]
        .into_iter()
        .flat_map(|fault| [0, 2, 4, 8].map(|at| (fault.clone(), at)));
    let works = cases.map(async |(fault, at)| {
        let (proxy, name) = Site::empty(server).await;
        let (mut puts, case) = (0, format!("{fault:?} at write {at}"));
        proxy.plan(move |request| {
            let probes = request.operation() == Operation::Put && request.key().starts_with("quorum/probe/");
            puts += usize::from(probes);
            if probes && puts == at + 1 { fault.clone() } else { Fault::None }
        });
        let opened = open(&proxy, &name, server, Writers::Any, patience(20)).await;
        assert!(opened.is_ok(), "{case}: {:?}", opened.err());
    });
    futures_util::future::join_all(works).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_looked_at_for_too_long_is_not_written_without_a_lease() {
    let Some(server) = s3s_fs() else { return };
    let (proxy, name) = Site::empty(server).await;
    let location = Location::parse(&format!("s3://{name}?endpoint=http://127.0.0.1:{}", proxy.port));
    let [connect, attempt, total, lease] = [1, 2, 4, 12].map(Duration::from_secs);
    let patience = Patience { connect, attempt, total, lease };
    let opened = Bucket::open(location.expect("a location"), patience, credentials(server), Writers::One).await;
    let bucket = opened.expect("nobody else writes");
    let names: Vec<Key> = (0..16).map(|number| key(&format!("late-{number}"))).collect();
    let drafts = names.iter().map(|name| Draft::of_bytes(name.clone(), Condition::Absent, "content")).collect();
    let puts = bucket.publish(drafts).await.expect("no fault yet");
    // The lease cannot be renewed any more, and each look takes almost as long as it may.
    let mut seen = BTreeSet::new();
    proxy.plan(move |request| match (request.operation(), request.key()) {
        (_, key) if key == "quorum/writer" => slow_down(),
        (Operation::Head, key) if seen.insert(key.clone()) => Fault::Request(0, Ending::Silence),
        (Operation::Head, _) => Fault::Delay(Duration::from_millis(1400)),
        _ => Fault::None,
    });
    let cut = Instant::now();
    let mut deletions = JoinSet::new();
    for (name, put) in names.into_iter().zip(puts) {
        let (bucket, Put::Stored(etag)) = (bucket.clone(), put) else { panic!("nobody else writes") };
        deletions.spawn(async move { bucket.delete(&name, &etag).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let ended = deletions.join_all().await;
    assert!(ended.iter().any(Result::is_ok), "at first the lease is held");
    let no_lease = |ended: &Result<_, ObjectError>| {
        ended.as_ref().is_err_and(|error| error.to_string().contains("could not be renewed"))
    };
    assert!(ended.iter().any(no_lease), "it is not renewed: {ended:?}");
    // Others wait for as long as the lease lasts; requests under way take a third of that; and the rest is for a busy machine.
    let latest = proxy.requests("late-").into_iter().filter(|request| request.operation() == Operation::Delete);
    let latest = latest.map(|request| request.at.saturating_duration_since(cut)).max().expect("there were some");
    support::measured(&format!("the last deletion came {latest:?} after the last renewal"));
    assert!(latest < lease / 2 + lease / 6, "a request was made {latest:?} after the last renewal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lone_writer_gave_up_is_over_before_anything_else_is_written() {
    let Some(server) = s3s_fs() else { return };
    let site = Site::on(server, Writers::One, 5).await;
    let stored = async |name: &str, bytes: &'static str| match site.put(name, Condition::Absent, bytes).await {
        Ok(Put::Stored(etag)) => etag,
        other => panic!("{other:?}"),
    };
    let delay = Duration::from_millis(1500);
    let given_up = async |name: &str, operation, work: &mut (dyn Future<Output = ()> + Unpin)| {
        site.proxy.next(name, operation, 1, Fault::Delay(delay));
        let waited = tokio::time::timeout(delay / 3, work).await;
        assert!(waited.is_err(), "{name}: it takes longer than that");
    };
    let write = async |name: &str, etag: &Etag, bytes: &'static str| {
        let _given_up = site.put(name, Condition::Matches(etag.clone()), bytes).await;
    };

    let etag = stored("written", "before").await;
    given_up("written", Operation::Put, &mut Box::pin(write("written", &etag, "given up"))).await;
    let next = site.put("written", Condition::Matches(etag), "next").await;
    assert!(matches!(next, Ok(Put::Refused)), "it saw what was there before: {next:?}");
    assert_eq!(site.get("written").await.expect("it is read").expect("it is there").0, "given up");

    let etag = stored("deleted", "before").await;
    let mut deletion = Box::pin(async { drop(site.delete("deleted", &etag).await) });
    given_up("deleted", Operation::Delete, &mut deletion).await;
    drop(deletion);
    stored("deleted", "next").await;
    assert_eq!(site.get("deleted").await.expect("it is read").expect("it is there").0, "next");

    let etag = stored("last", "before").await;
    given_up("last", Operation::Put, &mut Box::pin(write("last", &etag, "given up"))).await;
    site.bucket.close().await;
    let found = site.direct().await.get(&key("last"), 100).await.expect("it can be read").expect("it is there");
    assert_eq!(found.bytes, "given up", "nothing is under way when another gate may write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_written_in_time_is_not_tried_for_ever() {
    let Some(server) = s3s_fs() else { return };
    let (proxy, name) = Site::empty(server).await;
    let location = Location::parse(&format!("s3://{name}?endpoint=http://127.0.0.1:{}", proxy.port));
    proxy.next("quorum/writer", Operation::Put, usize::MAX, Fault::Delay(Duration::from_millis(300)));
    let patience = Patience { lease: Duration::from_secs(6), ..patience(5) };
    let open = Bucket::open(location.expect("a location"), patience, credentials(server), Writers::One);
    let opened = tokio::time::timeout(Duration::from_secs(40), open).await.expect("it ends");
    let error = opened.err().expect("it takes too long").to_string();
    assert!(error.contains(&name) && error.contains("quorum/writer") && error.contains("too slow"), "{error}");
}

/// What was written under one key, by whom.
#[derive(Default)]
struct Wrote {
    acknowledged: Vec<Bytes>,
    unknown: Vec<Bytes>,
    deleted: bool,
}

async fn anything_at_once(server: &'static S3, writers: Writers, seed: u64) {
    const KEYS: u64 = 12;
    const WRITERS: u64 = 4;
    let site = Site::on(server, writers, 5).await;
    // What happens to a request depends on the request alone, whoever comes first.
    site.proxy.plan(move |request| {
        if request.is_internal() {
            return Fault::None;
        }
        let name = request.target.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut random = Random(name.wrapping_add(request.earlier as u64));
        let some = random.below(1500);
        match random.below(40) {
            0 => Fault::Lost(Ending::Reset),
            1 => Fault::Lost(Ending::Close),
            2 => Fault::Request(some, Ending::Reset),
            3 => Fault::Request(some, Ending::Close),
            4 => Fault::Body(some as usize, Ending::Reset),
            5 => Fault::Body(some as usize, Ending::Close),
            6 => Fault::Drip(200, Duration::from_millis(1)),
            7 | 8 => slow_down(),
            9 => internal_error(),
            10 => too_many_requests(),
            11 => Fault::Delay(Duration::from_millis(some / 10)),
            12 => Fault::Leave,
            13 if some < 200 => Fault::Lost(Ending::Silence),
            14 if some < 200 => Fault::Request(some, Ending::Silence),
            _ => Fault::None,
        }
    });
    let done = Arc::new(AtomicBool::new(false));
    let (watched, watching) = (done.clone(), site.clone());
    let reader = tokio::spawn(async move {
        let mut random = Random(seed);
        while !watched.load(Ordering::Relaxed) {
            let name = format!("key-{}", random.below(KEYS));
            match random.below(3) {
                0 => {
                    if let Ok(Some((bytes, _))) = watching.get(&name).await {
                        assert!(is_whole(&bytes), "{name} is half written");
                    }
                }
                1 => {
                    if let Ok(bytes) = watching.read(&name, 0).await {
                        assert!(is_whole(&bytes), "{name} is half written");
                    }
                }
                _ => {
                    let _listed_or_not = watching.list("").await;
                }
            }
        }
    });
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let site = site.clone();
        tasks.spawn(async move {
            let mut random = Random(seed * 100 + writer);
            let mut wrote: BTreeMap<String, Wrote> = BTreeMap::new();
            for step in 0..10 {
                let name = format!("key-{}", random.below(KEYS));
                // Every so often something goes up in parts.
                let size = if step == 4 { 6 << 20 } else { random.below(3000) as usize };
                let bytes = Bytes::from(own_bytes(size));
                let entry = wrote.entry(name.clone()).or_default();
                let put = match random.below(8) {
                    0 => {
                        if let Ok(Some((_, etag))) = site.get(&name).await {
                            entry.deleted = true;
                            let _done_or_not = site.delete(&name, &etag).await;
                        }
                        continue;
                    }
                    1 | 2 => match site.get(&name).await {
                        Ok(Some((_, etag))) => site.put(&name, Condition::Matches(etag), bytes.clone()).await,
                        _ => continue,
                    },
                    3 | 4 => site.upload(&name, step % 2 == 0, &bytes).await,
                    _ => site.put(&name, Condition::Absent, bytes.clone()).await,
                };
                match put {
                    Ok(Put::Stored(_)) => entry.acknowledged.push(bytes),
                    Ok(Put::Refused) | Err(_) => entry.unknown.push(bytes),
                }
            }
            wrote
        });
    }
    let mut all: BTreeMap<String, Wrote> = BTreeMap::new();
    while let Some(wrote) = tasks.join_next().await {
        for (name, wrote) in wrote.expect("it ends") {
            let entry = all.entry(name).or_default();
            entry.acknowledged.extend(wrote.acknowledged);
            entry.unknown.extend(wrote.unknown);
            entry.deleted |= wrote.deleted;
        }
    }
    done.store(true, Ordering::Relaxed);
    reader.await.expect("nobody saw half a write");
    site.proxy.heal();
    let (direct, mut acknowledged) = (site.direct().await, 0);
    for (name, wrote) in all {
        acknowledged += wrote.acknowledged.len();
        let found = direct.get(&key(&name), 1 << 30).await.expect("no fault here").map(|found| found.bytes);
        match found {
            Some(bytes) => {
                let by_somebody = wrote.acknowledged.contains(&bytes) || wrote.unknown.contains(&bytes);
                assert!(by_somebody, "{name}: nobody wrote this");
            }
            None => assert!(wrote.deleted || wrote.acknowledged.is_empty(), "{name}: what was acknowledged is gone"),
        }
    }
    assert!(acknowledged > 10, "most faults pass");
    support::measured(&format!("{acknowledged} writes, {} requests", site.proxy.requests("").len()));
    site.bucket.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_at_once_where_conditions_hold() {
    let Some(server) = moto() else { return };
    anything_at_once(server, Writers::Any, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_at_once_by_a_lone_writer() {
    let Some(server) = s3s_fs() else { return };
    anything_at_once(server, Writers::One, 2).await;
}
