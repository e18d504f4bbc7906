//! Asking a daemon on a socket of ours that answers as it is told.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Duration;

use nix_archive::nar::{Node, encode_tree};
use policy::Policy;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use verifier::{KeyName, PathInfo, SecretKey, Timestamp, digest_nar};

use super::connections::PATIENCE;
use super::*;
use crate::audit::{self, Contents, Measure, Scope, audit};
use crate::protocol::{Operation, Request, Trust, greet_client, write_unkeyed_path_info};
use crate::rate::{LEAST, PERIOD};
use crate::wire::{ErrorMessage, Message, Reader, SocketSource, WireError, Writer};

/// What a daemon has, and how it answers.
struct Plan {
    packages: Vec<(PathInfo, Vec<u8>)>,
    /// So many messages come before each answer.
    messages: u64,
    /// What is said instead of an answer about a path.
    failure: Option<String>,
    /// So many bytes are sent at once.
    piece: usize,
    /// And this long is waited between them.
    pause: Duration,
    /// Of the next NARs that are asked for, so many bytes are sent before the connection is ended.
    cuts: Mutex<VecDeque<usize>>,
    /// So many connections are taken, and no more.
    connections: usize,
    /// How many there are, and the most that there were at once.
    open: Mutex<(usize, usize)>,
}

impl Default for Plan {
    fn default() -> Self {
        let (piece, pause) = (1 << 20, Duration::ZERO);
        Self {
            packages: Vec::new(),
            messages: 0,
            failure: None,
            piece,
            pause,
            cuts: Mutex::default(),
            connections: usize::MAX,
            open: Mutex::default(),
        }
    }
}

/// A daemon of ours.
struct Fake {
    folder: TempDir,
    plan: Arc<Plan>,
}

impl Fake {
    fn start(plan: Plan) -> Self {
        let (folder, plan) = (tempfile::tempdir().expect("a directory"), Arc::new(plan));
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let serving = plan.clone();
        tokio::spawn(async move {
            for _ in 0..serving.connections {
                let (stream, _) = listener.accept().await.expect("a client");
                let plan = serving.clone();
                // It ends when the client does, or when the plan says so.
                tokio::spawn(async move { plan.serve(stream).await });
            }
        });
        Self { folder, plan }
    }

    async fn connect(&self) -> Daemon {
        self.connect_with(None).await
    }

    async fn connect_with(&self, most: Option<usize>) -> Daemon {
        let socket = Remote::Socket(self.folder.path().join("socket"));
        Daemon::connect_with(socket, None, most, &StoreDir::default()).await.expect("it listens")
    }

    fn paths(&self) -> Vec<StorePath> {
        self.plan.packages.iter().map(|(info, _)| info.path.clone()).collect()
    }

    /// Asks for the NAR of the first path, and reads it as fast as it comes.
    async fn read_nar(&self, daemon: &Daemon) -> io::Result<Vec<u8>> {
        let statement = Statement::of(self.plan.packages[0].0.clone());
        let nar = daemon.open_nar(&statement).await.map_err(io::Error::other)?;
        let Some(Nar::Bytes(mut reader)) = nar else { panic!("it is sent") };
        let reading = spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            reader.was_whole();
            Ok(bytes)
        });
        reading.await.expect("nobody panics here")
    }
}

impl Plan {
    async fn serve(&self, stream: UnixStream) -> Result<(), WireError> {
        {
            let mut open = self.open.lock().expect("nobody panics here");
            *open = (open.0 + 1, open.1.max(open.0 + 1));
        }
        let served = self.answer(stream).await;
        self.open.lock().expect("nobody panics here").0 -= 1;
        served
    }

    async fn answer(&self, stream: UnixStream) -> Result<(), WireError> {
        let (input, output) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(SocketSource::new(input)), Writer::new(output));
        let greeting = greet_client(&mut reader, &mut writer, "test", Trust::Trusted).await.expect("a client");
        let mut output = writer.into_inner();
        let store_dir = StoreDir::default();
        while !reader.is_at_end().await? {
            reader.renew_budget();
            let operation = Operation::from_number(reader.u64().await?).expect("an operation");
            let request = Request::read(operation, &mut reader, &store_dir, &greeting.features).await;
            let (mut answer, mut ends) = (Writer::new(Vec::new()), false);
            for activity in 0..self.messages {
                Message::StopActivity(activity).write(&mut answer);
            }
            if let Some(failure) = &self.failure {
                Message::Error(ErrorMessage::new(failure.clone())).write(&mut answer);
                answer.flush().await?;
                output.write_all(&answer.into_inner()).await?;
                continue;
            }
            Message::Last.write(&mut answer);
            match request.expect("a question") {
                Request::QueryPathInfo(path) => {
                    let found = self.packages.iter().find(|(info, _)| info.path == path);
                    answer.put_flag(found.is_some());
                    found.iter().for_each(|(info, _)| write_unkeyed_path_info(&mut answer, &store_dir, info));
                }
                Request::NarFromPath(path) => {
                    let found = self.packages.iter().find(|(info, _)| info.path == path);
                    let nar = &found.expect("it is there").1;
                    let cut = self.cuts.lock().expect("nobody panics here").pop_front();
                    answer.stream(&nar[..cut.unwrap_or(nar.len())]).await?;
                    ends = cut.is_some();
                }
                other => panic!("nobody asks {other:?} here"),
            }
            answer.flush().await?;
            for piece in answer.into_inner().chunks(self.piece) {
                output.write_all(piece).await?;
                sleep(self.pause).await;
            }
            if ends {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Makes a path whose NAR has so many bytes of content.
fn package(number: u8, size: usize) -> (PathInfo, Vec<u8>) {
    let (mut nar, contents) = (Vec::new(), vec![number; size]);
    encode_tree(&mut nar, &Node::Regular { executable: false, contents: &contents }).expect("one file makes a NAR");
    let digest = digest_nar(&*nar, None).expect("a NAR");
    let info = PathInfo {
        path: StorePath::from_parts([number; 20], "path").expect("a store path"),
        deriver: None,
        nar_hash: digest.nar_hash,
        nar_size: digest.nar_size,
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    (info, nar)
}

#[tokio::test]
async fn who_sends_a_byte_now_and_then_is_not_waited_for() {
    let began = Instant::now();
    let plan =
        Plan { packages: vec![package(1, 100_000)], piece: 1, pause: Duration::from_millis(50), ..Plan::default() };
    let fake = Fake::start(plan);
    let daemon = fake.connect().await;
    let error = fake.read_nar(&daemon).await.expect_err("it comes too slowly");
    assert!(error.to_string().contains("less than"), "{error}");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "what has not come may be all right");
    // Each of these comes sooner than one waits for a single answer, and all of them do not.
    let plan = Plan {
        packages: (0..64).map(|number| package(number, 1)).collect(),
        piece: 100,
        pause: Duration::from_millis(100),
        ..Plan::default()
    };
    let fake = Fake::start(plan);
    let answers = fake.connect().await.statements(fake.paths()).await;
    assert!(answers.len() > 2 && answers.len() < 64, "{} answers", answers.len());
    let (last, before) = answers.split_last().expect("there are several");
    assert!(before.iter().all(|(_, answer)| matches!(answer, Ok(Some(_)))));
    let error = last.1.as_ref().expect_err("it takes too long");
    assert!(matches!(error, StoreError::Stalled { .. }) && error.ends_it(), "{error}");
    assert!(began.elapsed() < 6 * PERIOD);
}

#[tokio::test]
async fn who_has_much_to_say_and_no_answer_is_not_listened_to() {
    let info = |messages: u64| async move {
        let fake = Fake::start(Plan { packages: vec![package(1, 1)], messages, ..Plan::default() });
        fake.connect().await.statements(fake.paths()).await.remove(0).1
    };
    assert!(matches!(info(9_999).await, Ok(Some(_))));
    let error = info(10_000).await.expect_err("there might be no end to it");
    assert!(error.to_string().contains("messages before an answer"), "{error}");
    let failure = Some("\u{1f4a3}".repeat(1 << 20));
    let fake = Fake::start(Plan { packages: vec![package(1, 1)], failure, ..Plan::default() });
    let error = fake.connect().await.statements(fake.paths()).await.remove(0).1.expect_err("that is what it says");
    let length = error.to_string().len();
    assert!((10_000..20_000).contains(&length), "{length} bytes are more than anybody reads");
}

/// An answer is read whole, but not all of them are kept.
#[tokio::test]
async fn who_says_too_much_of_each_path_is_not_remembered() {
    let mut packages: Vec<_> = (0..8).map(|number| package(number, 1)).collect();
    for (info, _) in &mut packages[..6] {
        info.signatures = (0..10_000).map(|number| format!("key:{number}")).collect();
    }
    let fake = Fake::start(Plan { packages, ..Plan::default() });
    let daemon = fake.connect().await;
    let answers = daemon.statements(fake.paths()).await;
    let kept = answers.iter().filter(|(_, answer)| matches!(answer, Ok(Some(_)))).count();
    assert_eq!((answers.len(), kept), (8, 3), "each says more than a quarter of what there is room for");
    let error = answers[3].1.as_ref().expect_err("there is no room");
    assert!(error.to_string().contains("bytes about 8 paths") && !error.ends_it(), "{error}");
    assert!(daemon.statements(fake.paths()[5..].to_vec()).await.iter().all(|(_, answer)| answer.is_ok()));
}

/// Half as fast again as it has to be, and for longer than one waits for an answer to begin.
#[tokio::test]
async fn who_is_slow_is_waited_for() {
    let pause = PERIOD / 50;
    let nar = package(1, 3 * LEAST);
    let fake = Fake::start(Plan { packages: vec![nar.clone()], piece: LEAST / 33, pause, ..Plan::default() });
    let began = Instant::now();
    assert!(fake.read_nar(&fake.connect().await).await.expect("it comes") == nar.1);
    assert!(began.elapsed() > PERIOD && began.elapsed() > PATIENCE);
    // Much is said of few paths.
    let mut packages: Vec<_> = (0..40).map(|number| package(number, 1)).collect();
    for (info, _) in &mut packages {
        info.signatures = (0..160).map(|number| format!("signer-{number}:{}", "A".repeat(88))).collect();
    }
    let fake = Fake::start(Plan { packages, piece: LEAST / 33, pause, ..Plan::default() });
    let began = Instant::now();
    let answers = fake.connect().await.statements(fake.paths()).await;
    assert!(answers.len() == 40 && answers.iter().all(|(_, answer)| matches!(answer, Ok(Some(_)))));
    assert!(began.elapsed() > PATIENCE, "{:?}", began.elapsed());
}

/// A connection that ends before a NAR does is no damage by itself: the network may have ended it.
#[tokio::test]
async fn a_nar_that_breaks_off_is_asked_for_once_more() {
    const SIZE: usize = 500_000;
    let damaged = Some(ErrorKind::UnexpectedEof);
    // Whatever is not this kind of error is no damage.
    let unknown = Some(ErrorKind::Other);
    let cases: [(&str, &[usize], usize, Option<ErrorKind>); 9] = [
        ("it does not break off", &[], 9, None),
        ("it breaks off once", &[300_000], 9, None),
        ("it breaks off once, before anything came", &[0], 9, None),
        ("it breaks off once, near its end", &[SIZE], 9, None),
        ("it ends in the same place again", &[300_000, 300_000], 9, damaged),
        ("nothing comes of it, again", &[0, 0], 9, damaged),
        ("it breaks off earlier", &[300_000, 200_000], 9, unknown),
        ("it breaks off later", &[300_000, 400_000], 9, unknown),
        ("there is nobody to ask again", &[300_000], 1, unknown),
    ];
    for (shows, cuts, connections, error) in cases {
        let nar = package(1, SIZE);
        let cuts = Mutex::new(cuts.iter().copied().collect());
        let fake = Fake::start(Plan { packages: vec![nar.clone()], cuts, connections, ..Plan::default() });
        let read = fake.read_nar(&fake.connect().await).await;
        assert_eq!(read.as_ref().err().map(io::Error::kind), error, "{shows}: {:?}", read.as_ref().err());
        assert!(read.is_err() || read.is_ok_and(|bytes| bytes == nar.1), "{shows}");
    }
}

/// Contents and questions wait for each other's connections, and never for ever.
#[tokio::test]
async fn there_are_no_more_connections_than_may_be() {
    const POLICY: &str = "version = 1\n[default]\nrequire = { at-least = 1, of = \"all\" }\n[groups]\nall = [\"a\"]\n";
    let key = SecretKey::from_seed(KeyName::new("a-1").expect("a key's name"), &[1; 32]);
    let policy = format!("{POLICY}[signers.a]\nkeys = [{{ key = \"{}\" }}]\n", key.public());
    let policy = Arc::new(Policy::parse(&policy, "test").expect("a policy"));
    for (most, cuts) in [(1, 0), (2, 0), (3, 1)] {
        // Each path refers to the one before, so that there is always something to ask while contents are read.
        let mut packages: Vec<(PathInfo, Vec<u8>)> = Vec::new();
        for number in 0..100 {
            let (mut info, nar) = package(number, 300_000);
            info.references.extend(packages.last().map(|(before, _)| before.path.clone()));
            let fingerprint = info.fingerprint(&StoreDir::default()).expect("a size");
            info.signatures.insert(key.sign(&fingerprint).to_string());
            packages.push((info, nar));
        }
        let cuts = Mutex::new(vec![100_000; cuts].into());
        let roots: BTreeSet<StorePath> = packages.iter().map(|(info, _)| info.path.clone()).step_by(10).collect();
        let fake = Fake::start(Plan { packages, cuts, ..Plan::default() });
        let daemon = Arc::new(fake.connect_with(Some(most)).await);
        let (substituters, read_before, now) = (Vec::new(), None, Timestamp::from_unix(0));
        let measure = Measure { policy: policy.clone(), substituters, contents: Contents::Read, read_before, now };
        let auditing = audit(daemon, Scope::Closures(roots, audit::Outputs::LeaveOut), measure, Arc::default());
        let found = timeout(Duration::from_secs(60), auditing).await.expect("it ends").expect("a daemon that answers");
        assert_eq!((found.faults.bits(), found.report.totals.stands), (0, 91), "{most}: {:?}", found.report.causes);
        let (_, peak) = *fake.plan.open.lock().expect("nobody panics here");
        assert_eq!(peak, most);
    }
}
