//! What real Nix wrote: see `fixtures/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use nix_narinfo::NarInfo;
use verifier::{ContentAddress, NarHash, PathInfo, SecretKey, StoreDir};

/// A fixture, by its path below `fixtures/`.
pub fn path(below: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(below)
}

pub fn text(below: &str) -> String {
    read_text(&path(below))
}

fn read_text(path: &Path) -> String {
    String::from_utf8(read(path)).expect("text")
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a directory whose names end so, sorted.
pub fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    found.sort();
    found
}

/// A path in a binary cache that Nix wrote.
pub struct Cached {
    pub info: PathInfo,
    pub nar: Vec<u8>,
    pub listing: Vec<u8>,
}

impl Cached {
    pub fn is_self_referential(&self) -> bool {
        self.info.references.contains(&self.info.path)
    }

    pub fn hash_part(&self) -> String {
        self.info.path.to_basename()[..32].to_owned()
    }
}

/// A binary cache that Nix wrote, and the key with which it signed.
pub struct Cache {
    pub nix: &'static str,
    pub key: SecretKey,
    pub paths: Vec<Cached>,
}

impl Cache {
    /// Lists the paths whose content address begins so.
    pub fn with_address(&self, prefix: &str) -> Vec<&Cached> {
        let address = |cached: &Cached| cached.info.content_address.as_ref().map(ToString::to_string);
        self.paths.iter().filter(|cached| address(cached).is_some_and(|text| text.starts_with(prefix))).collect()
    }

    /// Finds the first path with this name, whatever its hash.
    pub fn named(&self, name: &str) -> &Cached {
        self.paths.iter().find(|cached| cached.info.path.name() == name).expect("a path of this name")
    }
}

pub fn cache(nix: &'static str) -> Cache {
    let directory = path("nix").join(nix);
    let key = read_text(&directory.join("key.sec")).parse().expect("a secret key");
    let narinfos = files(&directory, ".narinfo");
    let paths = narinfos.iter().map(|path| {
        let (info, url) = path_info(&read(path));
        Cached { info, nar: read(&directory.join(url)), listing: read(&path.with_extension("ls")) }
    });
    Cache { nix, key, paths: paths.collect() }
}

/// Every cache there is.
pub fn caches() -> Vec<Cache> {
    ["2.8", "2.26", "2.34"].map(cache).into()
}

/// Reads a narinfo: what it says of the path, and its URL.
pub fn path_info(narinfo: &[u8]) -> (PathInfo, String) {
    let narinfo = NarInfo::parse_in(&StoreDir::default(), narinfo).expect("a narinfo");
    let info = PathInfo {
        path: narinfo.store_path().clone(),
        deriver: narinfo.deriver().cloned(),
        nar_hash: NarHash::parse(&narinfo.nar_hash().to_nix_nixbase32_string()).expect("a SHA-256"),
        nar_size: narinfo.nar_size(),
        references: narinfo.references().clone(),
        registration_time: 0,
        ultimate: false,
        signatures: narinfo.signatures().iter().map(ToString::to_string).collect(),
        content_address: narinfo.content_address().cloned().map(ContentAddress::new),
    };
    (info, narinfo.url().to_owned())
}
