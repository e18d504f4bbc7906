//! The Nix clients that tests/nix/install has put on this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where they are listed: "<version> <bin dir>" per line, oldest first.
const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nix/clients");

/// How many there may be.
const MOST: usize = 3;

/// With fewer, a test that says "with each client" says too little.
const FEWEST: usize = 2;

/// The numbers of a version, which compare as versions do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Vec<u32>);

impl Version {
    /// Reads `2.34.8`; what is not a number counts as 0.
    pub fn new(text: &str) -> Self {
        Self(text.split('.').map(|part| part.parse().unwrap_or(0)).collect())
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it calls itself.
    pub name: String,
    /// The same, to compare.
    pub version: Version,
    /// The directory with `nix`, `nix-store` and the others.
    pub bin: PathBuf,
}

/// Returns all of them, oldest first.
pub fn clients() -> &'static [Client] {
    static CLIENTS: OnceLock<Vec<Client>> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        let list = std::fs::read_to_string(LIST).unwrap_or_default();
        let clients = list.lines().filter_map(|line| line.split_once(' ')).map(|(version, bin)| Client {
            name: version.to_owned(),
            version: Version::new(version),
            bin: bin.into(),
        });
        clients.filter(|client| client.bin.join("nix").exists()).collect()
    })
}

/// Returns the newest, whose `nix-daemon` is what others are compared with.
pub fn newest() -> &'static Client {
    clients().last().expect("a test with a client has one")
}

/// Runs a test with the oldest (0), the middle (1) or the newest (2) client. Without that client it says so, past cargo's
/// capture, and where `CI` is set and there are too few, it fails.
pub fn with_client(which: usize, test: impl FnOnce(&'static Client)) {
    let clients = clients();
    assert!(
        clients.len() >= FEWEST || std::env::var_os("CI").is_none(),
        "CI is set and {LIST} names {} Nix clients, expected {FEWEST} or more: run tests/nix/install",
        clients.len()
    );
    let client = match which {
        0 => clients.first(),
        last if last == MOST - 1 => clients.get(1..).and_then(<[_]>::last),
        middle => clients.get(middle).filter(|_| clients.len() == MOST),
    };
    match client {
        Some(client) => test(client),
        None => skip(&format!("this needs Nix client {} of {MOST}; run tests/nix/install", which + 1)),
    }
}

/// Runs a test if this is root, who alone can be somebody else as well.
pub fn only_as_root(test: impl FnOnce()) {
    if rustix::process::geteuid().is_root() {
        test();
    } else {
        skip("this needs root, to run a client as another user");
    }
}

/// Says, past cargo's capture, that a test is not run.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not eprintln, which cargo keeps to itself when a test passes.
    let _unread = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Returns a file of tests/nix.
pub fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nix").join(name)
}
