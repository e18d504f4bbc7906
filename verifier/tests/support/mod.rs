//! What the tests of several nouns need: keys, path infos, NARs token by token, and where the fixtures are.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod address;
pub mod fixture;
pub mod nar;
pub mod reader;
pub mod weigh;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::test_runner::{Config, RngSeed};
use verifier::{Fingerprint, KeyName, NarHash, PathInfo, SecretKey, Signer, StoreDir, StorePath, TrustedKey, Window};

/// A secret key that is the same each time.
pub fn secret(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(key_name(name), &[seed; 32])
}

pub fn key_name(name: &str) -> KeyName {
    KeyName::new(name).expect("a key's name")
}

/// A key that always counts.
pub fn trusted(secret: &SecretKey) -> TrustedKey {
    TrustedKey { public: secret.public(), window: Window::default(), revoked: None }
}

pub fn signer(name: &str, keys: Vec<TrustedKey>) -> Signer {
    Signer { name: Arc::from(name), keys }
}

pub fn store_path(base_name: &str) -> StorePath {
    StorePath::from_basename(base_name.as_bytes()).expect("a store path's base name")
}

/// A path with two references, one of them itself.
pub fn path_info() -> PathInfo {
    let path = store_path("1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-hello-2.12");
    PathInfo {
        references: BTreeSet::from([path.clone(), store_path("0c0b3g3bl6lxgsyj1x5wf8pmi8xz1i7d-glibc-2.39")]),
        path,
        deriver: None,
        nar_hash: NarHash::from_sha256([7; 32]),
        nar_size: 226_560,
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    }
}

pub fn fingerprint() -> Fingerprint {
    path_info().fingerprint(&StoreDir::default()).expect("it has a size")
}

/// A fingerprint that differs from [`fingerprint`] in the size alone.
pub fn other_fingerprint() -> Fingerprint {
    PathInfo { nar_size: 226_568, ..path_info() }.fingerprint(&StoreDir::default()).expect("it has a size")
}

/// So many cases, the same ones each time.
pub fn cases(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x5eed), failure_persistence: None, ..Config::default() }
}

/// Where the vectors lie beside the repository; where they are not, says so and returns none, and fails in CI.
pub fn vectors() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have the vectors at {}", path.display());
    // Unlike what the print macros write, this is seen when the test passes.
    writeln!(std::io::stderr(), "SKIPPED: no vectors at {}: this test proves nothing here", path.display())
        .expect("standard error can be written to");
    None
}
