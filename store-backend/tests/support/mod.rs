//! What the tests of several nouns need: keys and policies, packages to upload, a gate with its server, and a client that
//! writes the wire byte by byte, since the crate's own is under test too.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod any;
pub mod child;
pub mod doors;
pub mod faults;
pub mod keys;
pub mod mortal;
pub mod package;
pub mod pieces;
pub mod raw;
pub mod s3;
pub mod site;
pub mod stepping;
pub mod words;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngSeed};

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
    skip(&format!("no vectors at {}", path.display()));
    None
}

/// Says loudly that a test proves nothing here; in CI that is a failure.
pub fn skip(why: &str) {
    let in_ci = ["CI", "ci"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!in_ci, "CI must be able to run this: {why}");
    // Unlike what the print macros write, this is seen when the test passes.
    writeln!(std::io::stderr(), "SKIPPED: {why}: this test proves nothing here")
        .expect("standard error can be written to");
}

/// Tells the reader of a test's output a number that it measured.
pub fn measured(what: &str) {
    writeln!(std::io::stderr(), "measured: {what}").expect("standard error can be written to");
}

/// Waits until something holds that is going to happen soon.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "still waiting after 20 seconds until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
