//! A gate over a directory of its own, with a server at a socket.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use policy::Policy;
use store_backend::client::Client;
use store_backend::daemon::{Peer, Server, Settings, serve_connection};
use store_backend::gate::{Batch, DecisionRecord, Gate, GateError, LogError, LogReader, Offer, Sight, Uploader};
use store_backend::object::{Directory, ObjectStore};
use store_backend::protocol::Trust;
use store_backend::store::BinaryCache;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use verifier::{SecretKey, StoreDir};

use super::package::Package;
use super::raw::Raw;

/// Opens a gate over a directory.
pub async fn open_gate(directory: &Path, policy: Policy, countersign: Option<SecretKey>) -> Arc<Gate> {
    let objects = Directory::open(directory).expect("the directory can be written");
    let cache = BinaryCache::open(Arc::new(objects), &StoreDir::default()).await.expect("a binary cache");
    Arc::new(Gate::new(cache, policy, countersign).expect("a gate"))
}

/// Whom records name.
pub fn person() -> Uploader {
    Uploader("a person".into())
}

/// A store, its gate, and a server. Everything goes when it is dropped.
pub struct Site {
    pub gate: Arc<Gate>,
    pub runtime: Runtime,
    store: PathBuf,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    _directory: Option<TempDir>,
}

impl Site {
    /// A new store.
    pub fn new(policy: Policy) -> Self {
        Self::with(policy, None, Settings::default())
    }

    pub fn with(policy: Policy, countersign: Option<SecretKey>, settings: Settings) -> Self {
        let directory = TempDir::new().expect("a directory");
        let store = directory.path().join("store");
        Self::start(Some(directory), store, policy, countersign, settings)
    }

    /// Another gate over a store that is there, with a socket of its own.
    pub fn over(store: &Path, policy: Policy) -> Self {
        Self::start(None, store.to_owned(), policy, None, Settings::default())
    }

    fn start(
        directory: Option<TempDir>,
        store: PathBuf,
        policy: Policy,
        countersign: Option<SecretKey>,
        settings: Settings,
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let sockets = TempDir::new().expect("a directory").keep();
        let socket = sockets.join("s");
        let (stop, stopped) = oneshot::channel();
        let gate = runtime.block_on(async {
            let gate = open_gate(&store, policy, countersign).await;
            let server = Server::bind(&socket, settings).await.expect("a socket");
            tokio::spawn(server.run(gate.clone(), async {
                let _dropped_is_told_too = stopped.await;
            }));
            gate
        });
        Self { gate, runtime, store, socket, stop: Some(stop), _directory: directory }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Connects over the socket. These tests run as the server's own user, so they are trusted.
    pub fn raw(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    /// Connects as somebody whom the server does not trust.
    pub fn stranger(&self) -> Raw {
        let mut raw = self.dial_as(Trust::Untrusted);
        raw.greet(38, &[]);
        assert_eq!(raw.trusted, Some(2));
        raw
    }

    /// Connects to staging, as an uploader of some name whom the server does not trust.
    pub fn staging(&self, by: &str) -> Raw {
        self.staging_through(&self.gate, by)
    }

    /// Connects to staging through another gate.
    pub fn staging_through(&self, gate: &Arc<Gate>, by: &str) -> Raw {
        let peer = Peer { sight: Sight::Staging, trust: Trust::Untrusted, uploader: Uploader(by.into()) };
        let mut raw = self.dial(gate, peer);
        raw.greet(38, &[]);
        raw
    }

    /// A connection, before its greeting, of somebody with or without trust.
    pub fn dial_as(&self, trust: Trust) -> Raw {
        self.dial(&self.gate, Peer { sight: Sight::Admitted, trust, uploader: Uploader("a test".into()) })
    }

    fn dial(&self, gate: &Arc<Gate>, peer: Peer) -> Raw {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.set_nonblocking(true).expect("a socket");
        let gate = gate.clone();
        self.runtime.spawn(async move {
            let theirs = tokio::net::UnixStream::from_std(theirs).expect("within the runtime");
            let (input, output) = theirs.into_split();
            let _ended = serve_connection(gate, peer, input, output).await;
        });
        Raw::over(ours)
    }

    /// Connects with this crate's own client.
    pub fn client(&self) -> Client {
        self.runtime.block_on(Client::connect(&self.socket, &StoreDir::default())).expect("a greeting")
    }

    /// Uploads over a connection of its own.
    pub fn upload(&self, packages: &[&Package]) -> Result<(), String> {
        self.raw().upload(packages)
    }

    /// Uploads what must be admitted.
    pub fn admit(&self, packages: &[&Package]) {
        self.upload(packages).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Every file of the store with its size, but for the locks and the log of what was decided.
    pub fn files(&self) -> BTreeMap<String, u64> {
        files(&self.store)
    }

    /// What is being written.
    pub fn temporary_files(&self) -> Vec<String> {
        self.files().into_keys().filter(|name| name.starts_with("quorum/tmp/")).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _gone_already = self.socket.parent().map(fs::remove_dir_all);
    }
}

/// Every file below a store's directory with its size, but for the locks and the log of what was decided.
pub fn files(root: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.path().strip_prefix(root).expect("below the root").display().to_string();
            if !name.starts_with("quorum/lock/") && !name.starts_with("quorum/log/") {
                found.insert(name, metadata.len());
            }
        }
    }
    found
}

/// How many notes of what is held there are below a store's directory.
pub fn notes(root: &Path) -> usize {
    let entries = fs::read_dir(root.join("quorum/staging")).into_iter().flatten();
    entries.flatten().filter(|entry| entry.path().is_file()).count()
}

/// Reads the decision log below a store's directory.
pub async fn log_of(root: &Path) -> Result<Vec<DecisionRecord>, LogError> {
    read_log(Arc::new(Directory::existing(root).expect("it is there"))).await
}

/// Reads a decision log from its beginning, each record checked against the one before.
pub async fn read_log(objects: Arc<dyn ObjectStore>) -> Result<Vec<DecisionRecord>, LogError> {
    let mut log = LogReader::open(objects).await?;
    let mut records = Vec::new();
    while let Some(segment) = log.next().await? {
        records.extend(segment);
    }
    Ok(records)
}

/// Offers a package, and brings its bytes if they are wanted.
pub async fn bring(batch: &mut Batch, package: &Package) -> Result<(), GateError> {
    if let Offer::Wanted(mut wanted) = batch.offer(package.info.clone()).await? {
        wanted.feed(package.nar.clone().into()).await?;
        batch.accept(*wanted).await?;
    }
    Ok(())
}

/// Settings for tests that stop servers.
pub fn hasty() -> Settings {
    Settings { farewell: Duration::from_millis(100), ..Settings::default() }
}
