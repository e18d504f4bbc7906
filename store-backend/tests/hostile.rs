//! Peers that break the protocol, lie, or go away. Whatever they do, nothing half-written is visible, the session goes on
//! where the stream is still in step, and everybody else is served.

mod support;

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use store_backend::gate::{MAX_REFERENCES, MAX_SIGNATURES};
use support::child::{self, Worker};
use support::keys::{alice, bob, carol, key, two_of_three};
use support::package::{Package, full, nar_of_file, noise, package};
use support::raw::Raw;
use support::site::Site;
use support::words::{Words, add_multiple, add_to_store_nar, items, op};
use support::{eventually, vectors};
use verifier::{StorePath, digest_nar};

/// A site with one path that everybody may read.
struct Scene {
    site: Site,
    known: Package,
}

impl Scene {
    fn new() -> Self {
        let site = Site::new(two_of_three());
        let known = signed("known");
        site.admit(&[&known]);
        Self { site, known }
    }

    /// Sends a request that must be refused on a session that must go on, and returns what was said.
    fn refused(&self, request: &Words) -> String {
        let mut raw = self.site.stranger();
        let said = raw.ask(request).expect_err("it must be refused");
        assert!(!said.chars().any(char::is_control), "{said:?}");
        self.goes_on(&mut raw);
        said
    }

    /// The same session takes an upload, and so does another one.
    fn goes_on(&self, raw: &mut Raw) {
        assert!(raw.is_valid(self.known.path()));
        raw.upload(&[&self.known]).expect("it is admitted already");
        self.others_are_served();
    }

    fn others_are_served(&self) {
        let mut other = self.site.raw();
        assert_eq!(other.nar(&self.known).expect("it is served"), self.known.nar);
    }

    /// Everything that can be seen is whole, and nothing else is there.
    fn is_tidy(&self) {
        eventually("what was being written is gone", || self.site.temporary_files().is_empty());
        let files = self.site.files();
        for path in self.site.raw().all_paths() {
            let mut raw = self.site.raw();
            let info = raw.path_info(&path).expect("it is listed");
            let package = Package { info, nar: Vec::new() };
            assert!(files.contains_key(&format!("nar/{}.nar.zst", package.info.nar_hash.to_nix32())));
            let evidence = format!("quorum/evidence/{}/{}", package.hash_part(), package.fingerprint().digest());
            assert!(files.contains_key(&evidence), "{evidence}");
        }
        for name in files.keys().filter_map(|name| name.strip_suffix(".narinfo")) {
            let path = self.site.raw().all_paths().into_iter().find(|path| path.to_basename().starts_with(name));
            assert!(path.is_some(), "{name} is half admitted");
        }
    }
}

fn signed(name: &str) -> Package {
    package(name).signed_by(&[&alice(), &bob()])
}

// Connections that end too early.

/// Sends each beginning of some bytes over a connection of its own, closes it, and looks what was left behind.
fn cut_everywhere(scene: &Scene, request: &Words, step: usize, allowed: impl Fn(usize, &BTreeSet<StorePath>) -> bool) {
    for length in (0..request.0.len()).step_by(step).chain([request.0.len()]) {
        let mut raw = scene.site.dial_as(store_backend::protocol::Trust::Untrusted);
        raw.greet(38, &[]);
        raw.send(&request.0[..length]);
        if length % 2 == 0 {
            // Half of them wait for what the server says to it, half are gone.
            raw.hang_up();
            let mut rest = Vec::new();
            let _cut_off = std::io::Read::read_to_end(&mut raw.stream, &mut rest);
        }
        drop(raw);
        if length % 16 == 0 || length == request.0.len() {
            scene.is_tidy();
        }
        let valid: BTreeSet<StorePath> = scene.site.raw().all_paths().into_iter().collect();
        assert!(allowed(length, &valid), "cut off after {length} of {}: {valid:?}", request.0.len());
    }
    scene.is_tidy();
    scene.others_are_served();
}

#[test]
fn a_connection_cut_at_every_byte_leaves_nothing_half_written() {
    let scene = Scene::new();
    let first = signed("first");
    let second = package("second").referring_to([first.path()]).signed_by(&[&alice(), &bob()]);
    let request = add_multiple(&[&first, &second]);
    // Three words, a frame's length and the number of items stand before the first item.
    let whole_first = 3 * 8 + 8 + 8 + Words::new().item(&first).0.len();
    cut_everywhere(&scene, &request, 1, |length, valid| {
        let (has_first, has_second) = (valid.contains(first.path()), valid.contains(second.path()));
        let first_may = length >= whole_first;
        // The frames' end may be missing where all items have come: the client got no answer, and asks again.
        (!has_first || first_may) && (!has_second || (has_first && length >= request.0.len() - 8))
    });
    assert!(scene.site.raw().is_valid(second.path()), "the last one was not cut");
}

#[test]
fn a_single_path_cut_at_every_byte_leaves_nothing_half_written() {
    let scene = Scene::new();
    let only = signed("only");
    let request = add_to_store_nar(&only);
    let nar_ends = request.0.len() - 8;
    cut_everywhere(&scene, &request, 1, |length, valid| !valid.contains(only.path()) || length >= nar_ends);
    assert!(scene.site.raw().is_valid(only.path()), "the last one was not cut");
}

#[test]
fn content_cut_at_every_byte_leaves_nothing_half_written() {
    for (method, payload) in [("text:sha256", b"text".to_vec()), ("fixed:r:sha256", nar_of_file(b"x"))] {
        let scene = Scene::new();
        let words = Words::op(op::ADD_TO_STORE).str("added").str(method).strings([""; 0]).u64(0);
        let request = words.framed(&payload, 64);
        cut_everywhere(&scene, &request, 1, |length, valid| valid.len() == 1 || length == request.0.len());
        assert_eq!(scene.site.raw().all_paths().len(), 2, "the last one was not cut");
    }
}

#[test]
fn a_large_upload_that_is_cut_leaves_nothing() {
    let scene = Scene::new();
    let large = Package::of_nar("large", nar_of_file(&noise(1, 3 << 20))).signed_by(&[&alice(), &bob()]);
    let before = scene.site.files();
    cut_everywhere(&scene, &add_multiple(&[&large]), 300_007, |length, valid| {
        !valid.contains(large.path()) || length > large.nar.len()
    });
    let after = scene.site.files();
    let new: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert_eq!(new.len(), 4, "a narinfo, a listing, a NAR and evidence, by the one that was not cut: {new:?}");
}

/// An upload whose bytes the store has already relies on them: a peer that goes away must not leave that behind.
#[test]
fn an_upload_of_stored_bytes_that_is_cut_leaves_nothing() {
    let scene = Scene::new();
    let large = Package::of_nar("large", nar_of_file(&noise(1, 700_000))).signed_by(&[&alice(), &bob()]);
    scene.site.admit(&[&large]);
    let twin = Package::of_nar("twin", large.nar.clone()).signed_by(&[&alice(), &bob()]);
    let before = scene.site.files();
    let request = add_multiple(&[&twin]);
    for length in [request.0.len() / 2, request.0.len() - 100, 900] {
        let mut raw = scene.site.stranger();
        raw.send(&request.0[..length]);
        drop(raw);
        eventually("nothing is left of it", || scene.site.files() == before);
    }
    // Nor does one whose bytes turn out to be others.
    let lie = Package { nar: nar_of_file(&noise(2, 700_000)), ..twin.clone() };
    assert!(scene.refused(&add_multiple(&[&lie])).contains("content-mismatch"));
    eventually("nothing is left of it", || scene.site.files() == before);
    scene.site.admit(&[&twin]);
    assert_eq!(scene.site.raw().nar(&twin).expect("it is served"), twin.nar);
}

// What is not what it says it is.

#[test]
fn malformed_nars_are_refused_whoever_signed_them() {
    let Some(vectors) = vectors() else { return };
    let scene = Scene::new();
    let mut refused = 0;
    for entry in std::fs::read_dir(vectors.join("nars")).expect("the vectors have NARs") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_str().expect("text").to_owned();
        let nar = std::fs::read(&path).expect("it can be read");
        let well_formed = digest_nar(&nar[..], None).is_ok();
        let offered = Package::of_nar(&name, nar).signed_by(&[&alice(), &bob(), &carol()]);
        for request in [add_multiple(&[&offered]), add_to_store_nar(&offered)] {
            if well_formed {
                scene.site.raw().ask(&request).unwrap_or_else(|error| panic!("{name}: {error}"));
                continue;
            }
            let said = scene.refused(&request);
            assert!(said.contains("malformed NAR"), "{name}: {said}");
            assert!(!scene.site.raw().is_valid(offered.path()), "{name}");
            refused += 1;
        }
    }
    scene.is_tidy();
    assert!(refused >= 20, "most of the vectors are malformed: {refused}");
}

#[test]
fn a_nar_that_is_damaged_anywhere_is_refused() {
    let scene = Scene::new();
    let good = signed("good");
    for bit in (0..good.nar.len() * 8).step_by(5) {
        let mut damaged = good.clone();
        damaged.nar[bit / 8] ^= 1 << (bit % 8);
        let mut raw = scene.site.stranger();
        raw.upload(&[&damaged]).expect_err("it is not what was signed");
        assert!(!raw.is_valid(good.path()));
    }
    for length in 0..good.nar.len() {
        let mut short = good.clone();
        short.nar.truncate(length);
        let mut raw = scene.site.stranger();
        let said = raw.upload(&[&short]).expect_err("it breaks off");
        assert!(said.contains(&format!("the stream ended {} bytes before", good.nar.len() - length)), "{said}");
        assert!(!raw.is_valid(good.path()));
    }
    scene.is_tidy();
    scene.site.admit(&[&good]);
}

#[test]
fn what_follows_the_last_item_is_an_error() {
    let scene = Scene::new();
    let good = signed("good");
    let payload = [items(&[&good]), vec![0; 8]].concat();
    let request = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).framed(&payload, 1000);
    let said = scene.refused(&request);
    assert!(said.contains("more bytes came than NarSize announced"), "{said}");
    let request = Words::op(op::ADD_TO_STORE_NAR).info(&good.info).u64(0).u64(0);
    let said = scene.refused(&request.framed(&[&good.nar[..], b"x"].concat(), 1000));
    assert!(said.contains("more bytes came than NarSize announced"), "{said}");
    assert!(scene.site.raw().is_valid(good.path()), "what came before it is admitted, as it says");
}

#[test]
fn fewer_items_than_announced_are_an_error_and_the_session_goes_on() {
    let scene = Scene::new();
    let good = signed("good");
    for announced in [2, 3, 1 << 32, 1 << 63, u64::MAX] {
        let mut payload = items(&[&good]);
        payload[..8].copy_from_slice(&u64::to_le_bytes(announced));
        let request = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).framed(&payload, 1000);
        let said = scene.refused(&request);
        assert!(said.contains("ended in the middle of"), "{said}");
        assert!(scene.site.raw().is_valid(good.path()), "what came whole is admitted");
    }
    // No items are fine, and so they are when nothing says how many there are.
    scene.site.raw().ask(&add_multiple(&[])).expect("nothing is admitted easily");
    let none = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).u64(0);
    assert!(scene.refused(&none).contains("ended in the middle of"));
}

/// A path info in the frames that breaks the wire's own rules: the frames are in step all the same.
#[test]
fn nonsense_within_frames_does_not_cost_the_session() {
    let scene = Scene::new();
    let good = signed("good");
    let head = Words::new().u64(1);
    let nonsense = [
        ("a length that cannot be", head.clone().u64(1 << 63)),
        ("padding that is not zero", head.clone().u64(1).raw(b"x1234567").raw(&[0; 64])),
        ("a name that is not UTF-8", head.clone().bytes(b"caf\xe9")),
        ("a list without end", head.clone().str(&good.full_path()).str("").str(&"0".repeat(64)).u64(1 << 63)),
        ("a path info that breaks off", head.clone().str(&good.full_path())),
        ("a string over its limit", head.clone().bytes(&[b'x'; 9000])),
        ("half a word", Words::new().raw(b"1234")),
    ];
    for (what, payload) in nonsense {
        for frame in [1, 7, 1 << 20] {
            let request = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).framed(&payload.0, frame);
            let mut raw = scene.site.stranger();
            raw.send(&request.0);
            let said = raw.answer().expect_err(what);
            assert!(!said.chars().any(char::is_control), "{what}: {said:?}");
            scene.goes_on(&mut raw);
        }
    }
    scene.is_tidy();
}

#[test]
fn whatever_bits_are_flipped_only_what_was_signed_becomes_valid() {
    let scene = Scene::new();
    let first = signed("first");
    let second = package("second").referring_to([first.path()]).signed_by(&[&alice(), &bob()]);
    let good = [scene.known.path(), first.path(), second.path()];
    let request = add_multiple(&[&first, &second]);
    for bit in (64..request.0.len() * 8).step_by(23) {
        let mut damaged = request.0.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut raw = scene.site.stranger();
        // It may be refused, cut off, or understood; a length that is now too long would be waited for.
        let _sent = raw.try_send(&damaged);
        let _closed = raw.stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _cut_off = std::io::Read::read_to_end(&mut raw.stream, &mut rest);
        for path in scene.site.raw().all_paths() {
            assert!(good.contains(&&path), "bit {bit} made {} valid", full(&path));
        }
    }
    scene.is_tidy();
    let mut raw = scene.site.raw();
    for package in [&first, &second] {
        if raw.is_valid(package.path()) {
            assert_eq!(raw.nar(package).expect("it is served"), package.nar);
        }
    }
    scene.others_are_served();
}

#[test]
fn garbage_after_a_request_ends_only_that_session() {
    let scene = Scene::new();
    for package in [signed("good"), package("bad").signed_by(&[&alice()])] {
        let mut raw = scene.site.stranger();
        raw.send(&add_multiple(&[&package]).raw(&noise(1, 800)).0);
        let _admitted_or_not = raw.answer();
        let said = raw.answer().expect_err("garbage is no operation");
        assert!(said.contains("unknown operation"), "{said}");
        assert!(raw.is_closed());
        scene.others_are_served();
    }
    assert!(scene.site.raw().is_valid(signed("good").path()));
    scene.is_tidy();
}

#[test]
fn operations_that_do_not_exist_are_named_and_end_the_session() {
    let scene = Scene::new();
    for number in [0, 2, 3, 4, 5, 15, 16, 17, 24, 25, 27, 48, 1000, 1001, 1 << 32, 1 << 63, u64::MAX] {
        let mut raw = scene.site.stranger();
        let said = raw.ask(&Words::op(number)).expect_err("it does not exist");
        assert!(said.contains(&format!("unknown operation {number}")), "{said}");
        assert!(raw.is_closed());
    }
    scene.others_are_served();
}

#[test]
fn paths_of_another_store_directory_are_refused() {
    let scene = Scene::new();
    let good = signed("good");
    let elsewhere = |text: String| text.replace("/nix/store/", "/home/mallory/store/");
    let (path, other) = (good.full_path(), full(package("other").path()));
    let info = |path: &str, deriver: &str, reference: &str| {
        let references = if reference.is_empty() { vec![] } else { vec![reference] };
        let words = Words::new().str(path).str(deriver).str(&good.info.nar_hash.to_base16()).strings(references);
        words.u64(0).u64(good.info.nar_size).u64(0).strings(good.info.signatures.iter()).str("")
    };
    for said in [
        info(&elsewhere(path.clone()), "", ""),
        info(&path, &elsewhere(other.clone()), ""),
        info(&path, "", &elsewhere(other.clone())),
        info("/nix/store/../../etc/passwd", "", ""),
        info("/nix/store/", "", ""),
        info("", "", ""),
        info(&format!("{path}/bin"), "", ""),
    ] {
        let one = Words::op(op::ADD_TO_STORE_NAR).raw(&said.0).u64(0).u64(0).framed(&good.nar, 1000);
        let many = [&1_u64.to_le_bytes()[..], &said.0, &good.nar].concat();
        let many = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).framed(&many, 1000);
        for request in [one, many] {
            let text = scene.refused(&request);
            assert!(text.contains("expected a path in /nix/store"), "{text}");
        }
    }
    assert!(!scene.site.raw().is_valid(good.path()));
}

// Frames of unusual sizes.

#[test]
fn frames_of_one_byte_are_frames() {
    let scene = Scene::new();
    let good = Package::of_nar("good", nar_of_file(&noise(1, 2_000))).signed_by(&[&alice(), &bob()]);
    let request = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).framed(&items(&[&good]), 1);
    scene.site.stranger().ask(&request).expect("it is signed");
    assert_eq!(scene.site.raw().nar(&good).expect("it is served"), good.nar);
}

#[test]
fn a_frame_without_end_holds_up_only_who_sent_it() {
    let scene = Scene::new();
    let good = signed("good");
    for length in [1 << 63, u64::MAX] {
        let mut raw = scene.site.stranger();
        raw.send(&Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).u64(length).raw(&items(&[&good])).0);
        scene.others_are_served();
        raw.hang_up();
        assert!(raw.answer().is_err() || raw.is_closed());
    }
    // Of a refused upload the rest is passed over, however long it says it is.
    let bad = package("bad").signed_by(&[&alice()]);
    let mut raw = scene.site.stranger();
    raw.send(&Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).u64(1 << 63).raw(&items(&[&bad])).0);
    assert!(raw.answer().expect_err("it must be refused").contains("quorum-missing"));
    raw.send(&noise(1, 4 << 20));
    drop(raw);
    scene.others_are_served();
    scene.is_tidy();
}

// References.

#[test]
fn a_reference_that_is_not_admitted_is_refused() {
    let scene = Scene::new();
    let glibc = signed("glibc");
    let hello = package("hello").referring_to([glibc.path()]).signed_by(&[&alice(), &bob()]);
    let said = scene.refused(&add_multiple(&[&hello]));
    assert!(said.contains("missing-reference") && said.contains(&glibc.full_path()), "{said}");
    // In the wrong order it is not admitted either; what came first is refused, and the batch with it.
    let said = scene.refused(&add_multiple(&[&hello, &glibc]));
    assert!(said.contains("missing-reference"), "{said}");
    assert!(!scene.site.raw().is_valid(glibc.path()));
    // A reference to a path that was itself refused.
    let unsigned = package("unsigned").signed_by(&[&carol()]);
    let above = package("above").referring_to([unsigned.path()]).signed_by(&[&alice(), &bob()]);
    assert!(scene.refused(&add_multiple(&[&unsigned, &above])).contains("quorum-missing"));
    assert!(scene.refused(&add_multiple(&[&above])).contains("missing-reference"));
    // A content address does not make up for it.
    let addressed = Package::content_addressed(
        "text",
        nar_of_file(b"x"),
        verifier::ContentAddressMethod::Nar,
        verifier::HashAlgorithm::Sha256,
        &[&glibc],
    );
    assert!(scene.refused(&add_multiple(&[&addressed])).contains("missing-reference"));
    scene.site.admit(&[&glibc, &hello]);
    scene.site.admit(&[&addressed]);
    assert_eq!(scene.site.raw().path_info(hello.path()).expect("it is valid").references, hello.info.references);
}

#[test]
fn another_name_with_the_hash_part_of_a_valid_path_is_another_path() {
    let scene = Scene::new();
    let digest = *scene.known.path().digest();
    let other = StorePath::from_parts(digest, "known-and-more").expect("a store path");
    let mut raw = scene.site.stranger();
    assert!(raw.is_valid(scene.known.path()));
    // Asked often, since what is remembered of the one must not be said of the other.
    for _ in 0..3 {
        assert!(!raw.is_valid(&other));
        assert_eq!(raw.valid_among(&[scene.known.path(), &other]), [scene.known.path().clone()]);
        assert_eq!(raw.path_info(&other), None);
        assert!(raw.ask(&Words::op(op::ENSURE_PATH).str(&full(&other))).is_err());
        assert!(raw.ask(&Words::op(op::NAR_FROM_PATH).str(&full(&other))).is_err());
        assert!(raw.add_signatures(&other, &["a:b".into()]).is_err());
    }
    let referring = package("referring").referring_to([&other]).signed_by(&[&alice(), &bob()]);
    assert!(scene.refused(&add_multiple(&[&referring])).contains("missing-reference"));
    // Nor can it take the place of the one that is there, whoever signs it.
    let mut usurper = package("usurper");
    usurper.info.path = other;
    let usurper = usurper.signed_by(&[&alice(), &bob(), &carol()]);
    assert!(scene.refused(&add_multiple(&[&usurper])).contains("conflict"));
    assert!(scene.refused(&add_to_store_nar(&usurper)).contains("conflict"));
    scene.others_are_served();
}

#[test]
fn a_path_may_refer_to_itself_but_not_in_a_circle() {
    let scene = Scene::new();
    let own = package("own");
    let own = own.clone().referring_to([own.path()]).signed_by(&[&alice(), &bob()]);
    scene.site.admit(&[&own]);
    assert_eq!(scene.site.raw().path_info(own.path()).expect("it is valid").references, own.info.references);
    let (one, two, three) = (package("one"), package("two"), package("three"));
    let circle = [
        one.clone().referring_to([three.path()]).signed_by(&[&alice(), &bob()]),
        two.clone().referring_to([one.path()]).signed_by(&[&alice(), &bob()]),
        three.clone().referring_to([two.path()]).signed_by(&[&alice(), &bob()]),
    ];
    for turn in 0..3 {
        let batch: Vec<&Package> = (0..3).map(|number| &circle[(turn + number) % 3]).collect();
        assert!(scene.refused(&add_multiple(&batch)).contains("missing-reference"));
    }
    assert_eq!(scene.site.raw().all_paths().len(), 2);
}

#[test]
fn a_path_with_too_many_references_is_refused() {
    let scene = Scene::new();
    let others: Vec<StorePath> =
        (0..=MAX_REFERENCES).map(|number| support::package::path(&format!("r{number}"))).collect();
    assert_eq!(others.len(), 10_001);
    let many = package("many").referring_to(&others).signed_by(&[&alice(), &bob()]);
    for request in [add_multiple(&[&many]), add_to_store_nar(&many)] {
        let said = scene.refused(&request);
        assert!(said.contains("10001 references, over 10000"), "{said}");
    }
    // One fewer is looked at, and refused for what it lacks.
    let fewer = package("many").referring_to(&others[1..]).signed_by(&[&alice(), &bob()]);
    let said = scene.refused(&add_multiple(&[&fewer]));
    assert!(said.contains("missing-reference") && said.len() < 5_000, "{} bytes: {said}", said.len());
}

// One path, two contents.

#[test]
fn a_path_twice_in_a_batch_with_other_bytes_is_a_conflict() {
    let scene = Scene::new();
    let one = Package::of_nar("disputed", nar_of_file(b"one")).signed_by(&[&alice(), &bob()]);
    let two = Package::of_nar("disputed", nar_of_file(b"two")).signed_by(&[&bob(), &carol()]);
    let said = scene.refused(&add_multiple(&[&one, &two]));
    assert!(said.contains("conflict"), "{said}");
    let mut raw = scene.site.raw();
    assert_eq!(raw.nar(&one).expect("the first is served"), one.nar);
    // The same bytes twice are no conflict, and signatures of both count.
    let again = Package::of_nar("disputed", nar_of_file(b"one")).signed_by(&[&carol()]);
    raw.upload(&[&one, &again, &one]).expect("they are the same");
    assert_eq!(raw.path_info(one.path()).expect("it is valid").signatures.len(), 3);
}

#[test]
fn two_fingerprints_of_one_path_never_add_up() {
    let scene = Scene::new();
    let one = Package::of_nar("disputed", nar_of_file(b"one"));
    let two = Package::of_nar("disputed", nar_of_file(b"two"));
    // Two builders, each for contents of its own: neither has two votes.
    for attack in [one.clone().signed_by(&[&alice()]), two.clone().signed_by(&[&bob()])] {
        assert!(scene.refused(&add_multiple(&[&attack])).contains("quorum-missing: 1 of 2"));
    }
    let mixed = one.clone().signed_by(&[&alice()]).with_signature(bob().sign(&two.fingerprint()).to_string());
    assert!(scene.refused(&add_multiple(&[&mixed])).contains("bad-signature"));
    // Once one is admitted, the other is refused whoever signed it, and so are its signatures.
    scene.site.admit(&[&one.clone().signed_by(&[&alice(), &bob()])]);
    let said = scene.refused(&add_multiple(&[&two.clone().signed_by(&[&alice(), &bob(), &carol()])]));
    assert!(said.contains("conflict") && said.contains("nobody's word makes both true"), "{said}");
    let mut raw = scene.site.stranger();
    raw.add_signatures(one.path(), &[carol().sign(&two.fingerprint()).to_string()]).expect("it is valid");
    assert!(raw.lines.iter().any(|line| line.contains("bad-signature")), "{:?}", raw.lines);
    assert_eq!(raw.path_info(one.path()).expect("it is valid").signatures.len(), 2);
}

// Limits of signatures, and what is said of them.

#[test]
fn five_hundred_and_thirteen_signatures_are_too_many() {
    let scene = Scene::new();
    let good = signed("good");
    let flood = |count: usize| {
        (0..count).fold(good.clone(), |package, number| package.with_signature(format!("flood-{number}:AAAA")))
    };
    assert_eq!(MAX_SIGNATURES, 512);
    for request in [add_multiple(&[&flood(511)]), add_to_store_nar(&flood(511))] {
        assert!(scene.refused(&request).contains("513 signatures, over 512"));
    }
    scene.site.admit(&[&flood(510)]);
    assert_eq!(scene.site.raw().path_info(good.path()).expect("it is valid").signatures, good.info.signatures);
    let texts: Vec<String> = (0..513).map(|number| format!("flood-{number}:AAAA")).collect();
    let said = scene.refused(&Words::op(op::ADD_SIGNATURES).str(&good.full_path()).strings(&texts));
    assert!(said.contains("513 signatures at once, over 512"), "{said}");
}

/// What is kept of what a peer chose must be such that it can be written down, read again, and read by Nix.
#[test]
fn names_of_keys_and_derivers_of_any_kind_poison_no_path() {
    let names = [
        "ключ-1",
        "a/b",
        "a;b",
        "a,b",
        "🔑",
        "\u{202e}gnp",
        "-",
        ".",
        "..",
        "a=b",
        "\"quoted\"",
        "{}",
        "\\n",
        "%n",
        "a\u{ad}b",
        "\u{feff}bom",
        "\u{200b}",
        "é\u{301}",
        "Sig",
        "x&y",
        "<b>",
        "'",
    ];
    for name in names.into_iter().map(str::to_owned).chain(["n".repeat(256), "ü".repeat(128)]) {
        let scene = Scene::new();
        let good = signed("good");
        let strange = key(&name, 9).sign(&good.fingerprint()).to_string();
        let offered = good.clone().with_signature(&strange);
        let mut raw = scene.site.stranger();
        raw.upload(&[&offered]).unwrap_or_else(|error| panic!("{name}: {error}"));
        scene.goes_on(&mut raw);
        let third = carol().sign(&good.fingerprint()).to_string();
        raw.add_signatures(good.path(), &[third.clone(), strange.clone()])
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        raw.add_signatures(scene.known.path(), &[key(&name, 9).sign(&scene.known.fingerprint()).to_string()])
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = Site::over(scene.site.store(), two_of_three());
        let info = again.raw().path_info(good.path()).unwrap_or_else(|| panic!("{name}: it is valid"));
        assert!(info.signatures.is_superset(&good.clone().with_signature(third).info.signatures), "{name}");
        assert_eq!(again.raw().nar(&good).expect("it is served"), good.nar);
        scene.is_tidy();
    }
    for deriver in ["no-derivation", "x.drv.chroot", "a.drv"] {
        let scene = Scene::new();
        let mut offered = signed("good");
        offered.info.deriver = Some(support::package::path(deriver));
        let mut raw = scene.site.stranger();
        raw.upload(&[&offered]).unwrap_or_else(|error| panic!("{deriver}: {error}"));
        raw.add_signatures(offered.path(), &[carol().sign(&offered.fingerprint()).to_string()]).expect("it is valid");
        let again = Site::over(scene.site.store(), two_of_three());
        assert!(again.raw().path_info(offered.path()).is_some(), "{deriver}");
        scene.is_tidy();
    }
}

#[test]
fn nothing_that_a_peer_chose_reaches_a_terminal_unescaped() {
    let scene = Scene::new();
    let evil = "\u{1b}]0;owned\u{7}\r\n\u{202e}\u{9b}31m";
    let shown = |text: &str| {
        let harmless = text.chars().all(|c| !c.is_control() && c != '\u{202e}');
        assert!(harmless, "{text:?}");
    };
    let good = signed("good");
    let path = good.full_path();
    let info = |deriver: &str, hash: &str, reference: &str, signature: &str, address: &str| {
        let words = Words::new().str(&path).str(deriver).str(hash).strings([reference]).u64(0);
        words.u64(good.info.nar_size).u64(0).strings([signature]).str(address)
    };
    let hash = good.info.nar_hash.to_base16();
    let add = |info: Words| Words::op(op::ADD_TO_STORE_NAR).raw(&info.0).u64(0).u64(0).framed(&good.nar, 1000);
    let requests = [
        Words::op(op::IS_VALID_PATH).str(evil),
        Words::op(op::QUERY_PATH_INFO).str(&format!("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{evil}")),
        Words::op(op::QUERY_VALID_PATHS).strings([evil]).u64(0),
        Words::op(op::QUERY_PATH_FROM_HASH_PART).str(evil),
        Words::op(op::QUERY_MISSING).strings([evil]),
        Words::op(op::BUILD_PATHS).strings([format!("{path}!{evil}")]).u64(0),
        Words::op(op::QUERY_REALISATION).str(evil),
        Words::op(op::QUERY_REALISATION).str(&format!("sha256:{}!{evil}", "0".repeat(64))),
        Words::op(op::REGISTER_DRV_OUTPUT).str(&format!("{{\"id\": {:?}}}", evil)),
        Words::op(op::REGISTER_DRV_OUTPUT).str(evil),
        Words::op(op::ADD_SIGNATURES).str(evil).strings([evil]),
        Words::op(op::ADD_TEXT_TO_STORE).str(evil).str("text").strings([""; 0]),
        Words::op(op::ADD_TO_STORE).str(evil).str("text:sha256").strings([""; 0]).u64(0).framed(b"x", 9),
        Words::op(op::ADD_TO_STORE).str(evil).str("fixed:git:sha1").strings([""; 0]).u64(0).framed(b"x", 9),
        Words::op(op::ADD_TO_STORE).str("x").str(evil).strings([""; 0]).u64(0).framed(b"x", 9),
        Words::op(op::ADD_BUILD_LOG).str(evil).framed(b"x", 9),
        add(info(evil, &hash, &path, "a:b", "")),
        add(info("", evil, &path, "a:b", "")),
        add(info("", &hash, evil, "a:b", "")),
        add(info("", &hash, &path, evil, "")),
        add(info("", &hash, &path, &format!("{evil}:{evil}"), "")),
        add(info("", &hash, &path, &format!("alice-1:{evil}"), "")),
        add(info("", &hash, &path, &format!("{}:AAAA", "ü\u{1b}".repeat(900)), "")),
        add(info("", &hash, &path, "a:b", evil)),
        add(info("", &hash, &path, "a:b", &format!("fixed:r:sha256:{evil}"))),
    ];
    for (number, request) in requests.iter().enumerate() {
        let mut raw = scene.site.stranger();
        let said = raw.ask(request);
        let said = said.err().unwrap_or_else(|| panic!("request {number} must be refused"));
        shown(&said);
        assert!(said.len() < 10_000, "request {number}: {} bytes", said.len());
        scene.goes_on(&mut raw);
    }
    // What is no error but a line of log.
    let mut raw = scene.site.stranger();
    scene.site.admit(&[&good]);
    let texts = [evil.to_owned(), format!("{evil}:AAAA"), format!("alice-1:{evil}"), evil.repeat(200)];
    raw.add_signatures(good.path(), &texts).expect("it is valid");
    assert_eq!(raw.lines.len(), 4, "{:?}", raw.lines);
    raw.lines.iter().for_each(|line| shown(line.strip_suffix('\n').expect("a line")));
    // What is told in a build's result.
    let derivation = Words::op(op::BUILD_DERIVATION).str("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x.drv");
    let output = derivation.u64(1).str(evil).str("").str("").str("");
    let rest = output.u64(0).str("").str("").u64(0).u64(0).u64(0);
    raw.ask(&rest).expect("an answer");
    assert_eq!(raw.u64(), 9, "it is not built here");
    shown(&raw.str());
}

#[test]
fn names_in_a_nar_reach_no_terminal_unescaped() {
    let scene = Scene::new();
    // A token that is none, a name that is none, and names in the wrong order: the errors show them.
    let token = |text: &[u8]| Words::new().bytes(text).0;
    let evil = b"\x1b[2J\r\n".as_slice();
    let start = [token(b"nix-archive-1"), token(b"("), token(b"type"), token(b"directory")].concat();
    let entry = |name: &[u8]| {
        let file = [token(b"("), token(b"type"), token(b"regular"), token(b")")].concat();
        [token(b"entry"), token(b"("), token(b"name"), token(name), token(b"node"), file, token(b")")].concat()
    };
    let nars = [
        [token(b"nix-archive-1"), token(evil), vec![0; 96]].concat(),
        [start.clone(), entry(&[evil, b"/"].concat()), token(b")")].concat(),
        [start.clone(), entry(&[evil, b"b"].concat()), entry(&[evil, b"a"].concat()), token(b")")].concat(),
        [start, entry(evil), token(evil), vec![0; 96]].concat(),
    ];
    for nar in nars {
        let offered = Package::of_nar("evil", nar).signed_by(&[&alice(), &bob()]);
        assert!(scene.refused(&add_multiple(&[&offered])).contains("malformed NAR"));
    }
}

// What only some may do.

#[test]
fn strangers_add_no_logs_and_delete_nothing() {
    let scene = Scene::new();
    let log = Words::op(op::ADD_BUILD_LOG).str("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x.drv").framed(b"log", 2);
    assert!(scene.refused(&log).contains("not privileged"));
    let delete = Words::op(op::COLLECT_GARBAGE).u64(3).strings([scene.known.full_path()]);
    let delete = delete.u64(0).u64(u64::MAX).u64(0).u64(0).u64(0);
    assert!(scene.refused(&delete).contains("not privileged"));
    assert!(!scene.site.files().keys().any(|name| name.starts_with("log/")));
    let mut raw = scene.site.raw();
    raw.ask(&log).expect("administrators may");
    assert_eq!(raw.u64(), 1);
    let kept = scene.site.store().join("log/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x.drv");
    assert_eq!(std::fs::read(kept).expect("it is kept"), b"log");
    raw.ask(&delete).expect("administrators may");
    assert_eq!(raw.paths(), [scene.known.path().clone()]);
    raw.u64();
    raw.u64();
    assert!(!raw.is_valid(scene.known.path()));
}

#[test]
fn nobody_deletes_what_others_refer_to() {
    let scene = Scene::new();
    let above = package("above").referring_to([scene.known.path()]).signed_by(&[&alice(), &bob()]);
    scene.site.admit(&[&above]);
    let delete = |paths: &[&Package], ignore_liveness: u64| {
        let paths: Vec<String> = paths.iter().map(|package| package.full_path()).collect();
        Words::op(op::COLLECT_GARBAGE).u64(3).strings(paths).u64(ignore_liveness).u64(u64::MAX).u64(0).u64(0).u64(0)
    };
    let mut raw = scene.site.raw();
    assert!(raw.ask(&delete(&[&scene.known], 0)).expect_err("above refers to it").contains("refers to it"));
    assert!(raw.ask(&delete(&[&scene.known], 1)).expect_err("never").contains("liveness"));
    scene.goes_on(&mut raw);
    raw.ask(&delete(&[&scene.known, &above], 0)).expect("both at once");
    assert_eq!((raw.paths().len(), raw.u64() > 0, raw.u64()), (2, true, 0));
    let left = scene.site.files();
    let stays = |name: &&String| !["nix-cache-info"].contains(&name.as_str());
    assert_eq!(left.keys().filter(stays).count(), 0, "{left:?}");
}

// Those who are slow, and those who are many.

#[test]
fn who_stalls_holds_up_nobody() {
    let scene = Scene::new();
    let large = Package::of_nar("large", nar_of_file(&noise(3, 1 << 20))).signed_by(&[&alice(), &bob()]);
    let request = add_multiple(&[&large]);
    let reading = Package::of_nar("reading", nar_of_file(&noise(4, 8 << 20))).signed_by(&[&alice(), &bob()]);
    scene.site.admit(&[&reading]);
    let mut stalled = Vec::new();
    for number in 0..24 {
        let mut raw = scene.site.stranger();
        match number % 4 {
            // In the middle of a NAR, of a path info, of a word; and one that asks and does not listen.
            0 => raw.send(&request.0[..request.0.len() / 2]),
            1 => raw.send(&request.0[..100]),
            2 => raw.send(&request.0[..3]),
            _ => raw.send(&Words::op(op::NAR_FROM_PATH).str(&reading.full_path()).0),
        }
        stalled.push(raw);
    }
    let start = Instant::now();
    for _ in 0..20 {
        scene.others_are_served();
    }
    scene.site.admit(&[&large]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // One of them goes on after all.
    let mut slow = stalled.remove(0);
    slow.send(&request.0[request.0.len() / 2..]);
    slow.answer().expect("it is signed");
    drop(stalled);
    scene.is_tidy();
}

/// As many stalled uploads as the server takes connections, each in the middle of a large NAR: one that is not stalled is
/// still served.
#[test]
fn as_many_stalled_uploads_as_there_are_connections_hold_up_nobody() {
    let settings = store_backend::daemon::Settings { connections: 256, ..support::site::hasty() };
    let site = Site::with(two_of_three(), None, settings);
    let good = signed("good");
    let large = Package::of_nar("large", nar_of_file(&noise(5, 600 << 10))).signed_by(&[&alice(), &bob()]);
    let request = add_multiple(&[&large]);
    let mut stalled = Vec::new();
    for _ in 0..255 {
        let mut raw = site.raw();
        raw.send(&request.0[..4000]);
        stalled.push(raw);
    }
    let start = Instant::now();
    let mut raw = site.raw();
    raw.stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    raw.upload(&[&good]).expect("it is signed");
    assert!(raw.is_valid(good.path()));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn three_hundred_connections_at_once_are_all_served() {
    let scene = Scene::new();
    let socket = scene.site.socket().to_owned();
    let path = scene.known.path().clone();
    let clients: Vec<_> = (0..300)
        .map(|number| {
            let (socket, path) = (socket.clone(), path.clone());
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn(move || {
                    let mut raw = Raw::connect(&socket);
                    let own = signed(&format!("package-{}", number % 40));
                    raw.upload(&[&own]).expect("it is signed");
                    assert!(raw.is_valid(own.path()));
                    assert!(raw.is_valid(&path));
                })
                .expect("a thread")
        })
        .collect();
    for client in clients {
        client.join().expect("it was served");
    }
    assert_eq!(scene.site.raw().all_paths().len(), 41);
    scene.is_tidy();
}

/// Who a client is the kernel says: somebody else than the server's own user is not trusted, and has so many connections.
#[test]
fn a_stranger_is_known_by_the_kernel_and_has_so_many_connections() {
    if !rustix::process::geteuid().is_root() {
        return support::skip("only root can start a process as somebody else");
    }
    let settings = store_backend::daemon::Settings { connections_per_user: 3, ..support::site::hasty() };
    let site = Site::with(two_of_three(), None, settings);
    let folder = site.socket().parent().expect("a folder");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut own: Vec<Raw> = (0..8).map(|_| site.raw()).collect();
    assert!(own.iter().all(|raw| raw.trusted == Some(1)), "the server's own user is trusted, and not counted");
    let worker = Worker::start_as(Some(65534), "child_connects_as_a_stranger", site.socket(), &[]);
    worker.finish();
    assert!(own.iter_mut().all(|raw| raw.all_paths().is_empty()));
}

#[test]
#[ignore = "is run by a_stranger_is_known_by_the_kernel_and_has_so_many_connections, as another user"]
fn child_connects_as_a_stranger() {
    let Some(socket) = child::place() else { return };
    for _ in 0..2 {
        let mut open: Vec<Raw> = (0..3).map(|_| Raw::connect(&socket)).collect();
        assert!(open.iter().all(|raw| raw.trusted == Some(2)));
        let mut one_more = Raw::dial(&socket);
        assert!(one_more.is_closed(), "the fourth is closed without a word");
        assert!(open.iter_mut().all(|raw| raw.all_paths().is_empty()));
        // With one gone there is room for one more.
        drop(open.pop());
        let start = Instant::now();
        loop {
            let mut raw = Raw::dial(&socket);
            let _closed = raw.try_send(&Words::new().u64(support::words::CLIENT_MAGIC).0);
            if raw.try_u64().is_ok() {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        drop(open);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_flood_of_signatures_by_one_key_name_is_looked_at_in_time() {
    let scene = Scene::new();
    let hello = package("hello");
    let flood = (0..MAX_SIGNATURES as u8 as usize + 500).fold(hello.clone(), |package, number| {
        let other = key("alice-1", 70).sign(&signed(&format!("x{number}")).fingerprint());
        package.with_signature(other.to_string())
    });
    let start = Instant::now();
    assert!(scene.refused(&add_multiple(&[&flood])).contains("quorum-missing"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
