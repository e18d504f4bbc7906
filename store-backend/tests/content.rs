//! Content that is added without a path (`AddToStore`, `AddTextToStore`), and build logs.

mod support;

use support::keys::{Rules, alice, bob, two_of_three};
use support::package::{Package, full, nar_of_file, nar_of_files, noise, package};
use support::raw::Raw;
use support::site::Site;
use support::words::{Words, op};
use verifier::{ContentAddressMethod, HashAlgorithm, StorePath};

fn add(name: &str, method: &str, references: &[&Package], payload: &[u8]) -> Words {
    let references: Vec<String> = references.iter().map(|package| package.full_path()).collect();
    Words::op(op::ADD_TO_STORE).str(name).str(method).strings(references).u64(0).framed(payload, 10_000)
}

/// Reads the path info that answers `AddToStore`, as far as its path.
fn added(raw: &mut Raw) -> String {
    let path = raw.str();
    raw.str();
    raw.str();
    raw.strings();
    for _ in 0..3 {
        raw.u64();
    }
    raw.strings();
    raw.str();
    path
}

#[test]
fn content_is_added_under_the_path_that_its_bytes_make() {
    let file = nar_of_file(b"contents");
    let tree = nar_of_files(&[("a", b"one"), ("b", &noise(1, 600_000))]);
    let big = noise(2, 1_500_000);
    let sha256 = HashAlgorithm::Sha256;
    let cases: [(&str, ContentAddressMethod, HashAlgorithm, &[u8], Vec<u8>); 8] = [
        ("text:sha256", ContentAddressMethod::Text, sha256, b"contents", file.clone()),
        ("fixed:sha256", ContentAddressMethod::Flat, sha256, b"contents", file.clone()),
        ("fixed:sha256", ContentAddressMethod::Flat, sha256, b"", nar_of_file(b"")),
        ("fixed:sha256", ContentAddressMethod::Flat, sha256, &big, nar_of_file(&big)),
        ("fixed:sha512", ContentAddressMethod::Flat, HashAlgorithm::Sha512, b"contents", file.clone()),
        ("fixed:r:sha256", ContentAddressMethod::Nar, sha256, &tree, tree.clone()),
        ("fixed:r:sha512", ContentAddressMethod::Nar, HashAlgorithm::Sha512, &file, file.clone()),
        ("fixed:r:blake3", ContentAddressMethod::Nar, HashAlgorithm::Blake3, &file, file.clone()),
    ];
    for (method, kind, algorithm, payload, nar) in cases {
        let site = Site::new(two_of_three());
        let expected = Package::content_addressed("added", nar, kind, algorithm, &[]);
        let mut raw = site.stranger();
        for _ in 0..2 {
            raw.ask(&add("added", method, &[], payload)).unwrap_or_else(|error| panic!("{method}: {error}"));
            assert_eq!(added(&mut raw), expected.full_path(), "{method}");
        }
        assert_eq!(raw.nar(&expected).expect("it is served"), expected.nar, "{method}");
        let info = raw.path_info(expected.path()).expect("it is valid");
        assert_eq!(info.content_address, expected.info.content_address);
        assert!(info.signatures.is_empty());
        assert!(site.temporary_files().is_empty());
    }
}

#[test]
fn text_is_added_with_what_it_refers_to() {
    let site = Site::new(two_of_three());
    let below = package("below").signed_by(&[&alice(), &bob()]);
    let text = below.full_path();
    let words = || Words::op(op::ADD_TEXT_TO_STORE).str("text").str(&text).strings([&text]);
    let mut raw = site.stranger();
    assert!(raw.ask(&words()).expect_err("it refers to what is not there").contains("missing-reference"));
    site.admit(&[&below]);
    raw.ask(&words()).expect("now it is there");
    let path = raw.str();
    let nar = nar_of_file(text.as_bytes());
    let expected =
        Package::content_addressed("text", nar, ContentAddressMethod::Text, HashAlgorithm::Sha256, &[&below]);
    assert_eq!(path, expected.full_path());
    assert_eq!(raw.nar(&expected).expect("it is served"), expected.nar);
    raw.ask(&add("text", "text:sha256", &[&below], text.as_bytes())).expect("it is there already");
    assert_eq!(added(&mut raw), path);
}

#[test]
fn what_no_address_can_stand_for_is_refused_and_nothing_of_it_kept() {
    let weak = Site::new(two_of_three());
    let strict = Site::new(Rules { content_addressed: Some("require"), ..Rules::default() }.policy());
    let big = noise(1, 2_000_000);
    let tree = nar_of_file(&big);
    for (site, method, payload, code) in [
        (&weak, "fixed:md5", &big, "weak-content-address"),
        (&weak, "fixed:r:sha1", &tree, "weak-content-address"),
        (&weak, "fixed:git:sha1", &tree, "weak-content-address"),
        (&strict, "text:sha256", &big, "quorum-missing"),
        (&strict, "fixed:sha256", &big, "quorum-missing"),
        (&strict, "fixed:r:sha256", &tree, "quorum-missing"),
    ] {
        let before = site.files();
        let mut raw = site.stranger();
        let said = raw.ask(&add("added", method, &[], payload)).expect_err(method);
        assert!(said.contains(code), "{method}: {said}");
        assert!(raw.all_paths().is_empty(), "the session goes on");
        assert_eq!(site.files(), before, "{method}");
    }
    // What is admitted already, by signatures, may be added once more.
    let nar = nar_of_file(b"contents");
    let signed = Package::content_addressed("added", nar, ContentAddressMethod::Flat, HashAlgorithm::Sha256, &[]);
    strict.admit(&[&signed.clone().signed_by(&[&alice(), &bob()])]);
    let mut raw = strict.stranger();
    raw.ask(&add("added", "fixed:sha256", &[], b"contents")).expect("it is there");
    assert_eq!(added(&mut raw), signed.full_path());
}

#[test]
fn content_that_cannot_be_is_refused_and_the_session_goes_on() {
    let site = Site::new(two_of_three());
    let below = package("below").signed_by(&[&alice(), &bob()]);
    site.admit(&[&below]);
    let file = nar_of_file(b"contents");
    let cases: [(&str, Words); 10] = [
        ("a NAR that is none", add("x", "fixed:r:sha256", &[], b"not a NAR")),
        ("no NAR at all", add("x", "fixed:r:sha256", &[], b"")),
        ("half a NAR", add("x", "fixed:r:sha256", &[], &file[..file.len() - 8])),
        ("more than a NAR", add("x", "fixed:r:sha256", &[], &[&file[..], &[0; 8]].concat())),
        ("an empty name", add("", "text:sha256", &[], b"x")),
        ("a name with a slash", add("a/b", "text:sha256", &[], b"x")),
        ("a name that hides", add(".", "fixed:sha256", &[], b"x")),
        ("a name that is too long", add(&"n".repeat(212), "fixed:sha256", &[], b"x")),
        ("a flat file that refers to something", add("x", "fixed:sha512", &[&below], b"x")),
        ("a text by another hash", add("x", "text:sha512", &[], b"x")),
    ];
    let before = site.files();
    for (what, words) in cases {
        let mut raw = site.stranger();
        let said = raw.ask(&words).expect_err(what);
        assert!(!said.chars().any(char::is_control), "{what}: {said:?}");
        assert_eq!(raw.all_paths(), [below.path().clone()], "{what}");
        support::eventually("nothing is left of it", || site.files() == before);
    }
}

#[test]
fn a_log_is_kept_in_place_of_an_earlier_one() {
    let site = Site::new(two_of_three());
    let name = full(package("hello.drv").path());
    let name = name.strip_prefix("/nix/store/").expect("a store path");
    let mut raw = site.raw();
    for log in [noise(1, 300_000), b"short".to_vec(), Vec::new()] {
        raw.ask(&Words::op(op::ADD_BUILD_LOG).str(name).framed(&log, 777)).expect("administrators may");
        assert_eq!(raw.u64(), 1);
        assert!(std::fs::read(site.store().join("log").join(name)).expect("it is kept") == log);
    }
    // Half a log takes nothing from the whole one.
    let words = Words::op(op::ADD_BUILD_LOG).str(name).framed(&noise(2, 100_000), 1000);
    let mut broken = site.raw();
    broken.send(&words.0[..words.0.len() / 2]);
    drop(broken);
    support::eventually("nothing is left of it", || site.temporary_files().is_empty());
    assert!(std::fs::read(site.store().join("log").join(name)).expect("it is kept").is_empty());
    let nowhere: Result<StorePath, _> = StorePath::from_basename(b"../../etc/passwd");
    assert!(nowhere.is_err());
    let said = raw.ask(&Words::op(op::ADD_BUILD_LOG).str("../../etc/passwd").framed(b"x", 10));
    said.expect_err("it is no name of a derivation");
}
