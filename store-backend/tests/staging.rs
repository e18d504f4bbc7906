//! Staging: signatures of several builders add up, what is complete is admitted with what waited for it, and nobody can fill it
//! or block others there.

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use store_backend::daemon::Settings;
use store_backend::gate::{Event, Gate, GateError, Sight, StagingLimits};
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use support::keys::{Rules, alice, bob, carol, gate_key, key, mallory, two_of_three};
use support::package::{Package, full, nar_of_file, noise, package};
use support::site::{Site, log_of, notes, person};
use support::words::{Words, add_multiple, op};
use verifier::{SecretKey, StoreDir, StorePath};

fn by(name: &str, key: &SecretKey) -> Package {
    package(name).signed_by(&[key])
}

/// The same path with other bytes.
fn other(name: &str, key: &SecretKey) -> Package {
    Package::of_nar(name, nar_of_file(b"other bytes")).signed_by(&[key])
}

fn path(name: &str) -> StorePath {
    package(name).info.path
}

fn events(site: &Site) -> Vec<Event> {
    let records = site.runtime.block_on(log_of(site.store())).expect("it is whole");
    records.into_iter().map(|record| record.event).collect()
}

/// Whether a path is readable, with all that it refers to.
fn is_admitted(site: &Site, package: &Package) -> bool {
    let mut raw = site.raw();
    let valid = raw.is_valid(package.path());
    assert!(!valid || raw.nar(package).expect("what is valid can be read") == package.nar);
    valid
}

fn candidates(site: &Site, name: &str) -> usize {
    site.runtime.block_on(site.gate.candidates(&path(name))).expect("it can be read").len()
}

fn drop_all(site: &Site, gate: &Gate, name: &str) {
    site.runtime.block_on(async {
        for candidate in gate.candidates(&path(name)).await.expect("they can be read") {
            gate.drop_candidate(&path(name), &candidate.fingerprint, "a test", "a person").await.expect("it is held");
        }
    });
}

#[test]
fn two_builders_add_up_to_a_quorum() {
    let site = Site::new(two_of_three());
    let (mut one, mut two) = (site.staging("one"), site.staging("two"));
    one.upload(&[&by("hello", &alice())]).expect("it is held");
    let [line] = &one.lines[..] else { panic!("{:?}", one.lines) };
    assert!(line.contains("held") && line.contains("quorum-missing: 1 of 2 of builders (alice signed"), "{line}");
    let path = path("hello");
    assert_eq!((is_admitted(&site, &package("hello")), notes(site.store())), (false, 1));
    assert!(site.raw().path_info(&path).is_none(), "the store's own view does not show it");
    let info = one.path_info(&path).expect("staging shows it");
    assert_eq!(info.signatures, by("hello", &alice()).info.signatures);
    assert!(one.is_valid(&path));
    assert_eq!(one.valid_among(&[&path]), [], "or nobody would bring it again");
    two.upload(&[&by("hello", &bob())]).expect("it has its quorum");
    assert_eq!(two.lines, [""; 0]);
    assert_eq!((is_admitted(&site, &package("hello")), notes(site.store())), (true, 0));
    assert_eq!(two.valid_among(&[&path]), std::slice::from_ref(&path));
    assert!(site.store().join(format!("{}.ls", package("hello").hash_part())).exists());
    let left: Vec<String> = site.files().into_keys().filter(|name| name.starts_with("quorum/staging")).collect();
    assert_eq!(left, [""; 0]);
    let names: Vec<&str> = events(&site)
        .iter()
        .map(|event| match event {
            Event::Policy { .. } => "policy",
            Event::Held { .. } => "held",
            Event::Signed { .. } => "signed",
            Event::Admitted { .. } => "admitted",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["policy", "held", "admitted"]);
}

#[test]
fn a_signature_alone_completes_a_quorum() {
    let site = Site::new(two_of_three());
    let mut raw = site.staging("one");
    let hello = by("hello", &alice());
    raw.upload(&[&hello]).expect("it is held");
    let sign = |key: &SecretKey| vec![key.sign(&hello.fingerprint()).to_string()];
    let said = site.raw().add_signatures(hello.path(), &sign(&bob())).expect_err("not on the store's own socket");
    assert!(said.contains("is not valid"), "{said}");
    raw.add_signatures(hello.path(), &sign(&mallory())).expect("kept for a later policy");
    assert!(!is_admitted(&site, &hello));
    let false_one = vec![bob().sign(&other("hello", &bob()).fingerprint()).to_string()];
    raw.lines.clear();
    raw.add_signatures(hello.path(), &false_one).expect("an answer");
    assert!(raw.lines.iter().any(|line| line.contains("bad-signature")), "{:?}", raw.lines);
    assert!(!is_admitted(&site, &hello));
    raw.add_signatures(hello.path(), &sign(&carol())).expect("it is held");
    assert!(is_admitted(&site, &hello));
    assert_eq!(raw.path_info(hello.path()).expect("valid").signatures.len(), 3);
    let unknown = package("unknown");
    let said = raw.add_signatures(unknown.path(), &sign(&carol())).expect_err("nobody brought it");
    assert!(said.contains("is not valid"), "{said}");
}

#[test]
fn what_nobody_counted_signed_is_refused() {
    let site = Site::new(two_of_three());
    for (what, package) in [
        ("no signature", package("hello")),
        ("an unknown key's", by("hello", &mallory())),
        ("another path's", package("hello").with_signature(alice().sign(&package("bye").fingerprint()).to_string())),
        (
            "none, and a content address that waits for what it refers to",
            Package::content_addressed(
                "text",
                nar_of_file(b"text"),
                verifier::ContentAddressMethod::Nar,
                verifier::HashAlgorithm::Sha256,
                &[&package("absent")],
            ),
        ),
    ] {
        let said = site.staging("one").upload(&[&package]).expect_err(what);
        assert!(said.contains("refused"), "{what}: {said}");
    }
    let files: Vec<String> = site.files().into_keys().collect();
    assert_eq!(files, ["nix-cache-info"]);
}

#[test]
fn nothing_of_what_falls_short_is_kept_on_the_other_socket() {
    let site = Site::new(two_of_three());
    site.raw().upload(&[&by("hello", &alice())]).expect_err("it falls short");
    let files: Vec<String> = site.files().into_keys().collect();
    assert_eq!(files, ["nix-cache-info"]);
}

#[test]
fn contents_of_what_is_held_cannot_be_read() {
    let site = Site::new(two_of_three());
    site.staging("one").upload(&[&by("hello", &alice())]).expect("it is held");
    let hello = package("hello");
    for request in [op::NAR_FROM_PATH, op::ENSURE_PATH] {
        let said = site.staging("two").ask(&Words::op(request).str(&hello.full_path())).expect_err("it is not valid");
        assert!(said.contains("is held in staging"), "{said}");
        let said = site.raw().ask(&Words::op(request).str(&hello.full_path())).expect_err("it is not valid");
        assert!(said.contains("is not valid") && !said.contains("staging"), "{said}");
    }
    assert_eq!(site.staging("two").all_paths(), []);
}

/// Paths of which each refers to the one before it.
fn chain(length: usize) -> Vec<Package> {
    let mut chain: Vec<Package> = Vec::new();
    for number in 0..length {
        let link = package(&format!("link-{number}"));
        let before = chain.last().map(|link| link.info.path.clone());
        chain.push(link.referring_to(before.iter()));
    }
    chain
}

fn all_signed_by(packages: &[Package], keys: &[&SecretKey]) -> Vec<Package> {
    packages.iter().map(|package| package.clone().signed_by(keys)).collect()
}

#[test]
fn what_waited_is_admitted_after_what_it_waited_for() {
    let site = Site::new(two_of_three());
    let chain = chain(300);
    let mut whole = all_signed_by(&chain, &[&alice(), &bob()]);
    whole[0] = chain[0].clone().signed_by(&[&alice()]);
    let mut raw = site.staging("one");
    raw.upload(&whole.iter().collect::<Vec<_>>()).expect("they are held");
    assert_eq!((notes(site.store()), site.raw().all_paths().len()), (300, 0));
    let said = raw.lines.join("");
    assert!(said.contains("300 paths are held"), "{said}");
    let last = chain.last().expect("one");
    let candidates = site.runtime.block_on(site.gate.candidates(last.path())).expect("it is held");
    let summary = candidates[0].decision.held_summary(&last.full_path());
    assert!(summary.contains("missing-reference: it refers to"), "{summary}");
    raw.add_signatures(chain[0].path(), &[carol().sign(&chain[0].fingerprint()).to_string()]).expect("it is held");
    assert_eq!((notes(site.store()), site.raw().all_paths().len()), (0, 300));
    for link in [&chain[0], &chain[150], last] {
        assert!(is_admitted(&site, link));
    }
    // In the log as in the store: none before what it refers to.
    let admitted: Vec<String> = events(&site)
        .into_iter()
        .filter_map(|event| match event {
            Event::Admitted { judged } => Some(judged.named.path),
            _ => None,
        })
        .collect();
    assert_eq!(admitted, chain.iter().map(Package::full_path).collect::<Vec<_>>());
}

#[test]
fn a_closure_in_any_order_of_builders_is_admitted() {
    let site = Site::new(two_of_three());
    let chain = chain(40);
    let (ones, twos) = (all_signed_by(&chain, &[&alice()]), all_signed_by(&chain, &[&bob()]));
    site.staging("one").upload(&ones.iter().collect::<Vec<_>>()).expect("they are held");
    // One by one from the end: each has its quorum when it comes, and waits.
    for link in twos.iter().rev() {
        site.staging("two").upload(&[link]).expect("it is held");
    }
    assert_eq!((notes(site.store()), site.raw().all_paths().len()), (0, 40));
}

#[test]
fn the_other_socket_completes_what_is_held() {
    let site = Site::new(two_of_three());
    let chain = chain(3);
    let held = all_signed_by(&chain, &[&alice()]);
    site.staging("one").upload(&held.iter().collect::<Vec<_>>()).expect("they are held");
    site.staging("one").upload(&[&chain[2].clone().signed_by(&[&bob()])]).expect("it is held");
    // With what is kept already these have a quorum; the last one has waited for them.
    site.raw()
        .upload(&[&chain[0].clone().signed_by(&[&bob()]), &chain[1].clone().signed_by(&[&bob()])])
        .expect("admitted");
    assert_eq!((notes(site.store()), site.raw().all_paths().len()), (0, 3));
    assert_eq!(site.raw().path_info(chain[0].path()).expect("valid").signatures.len(), 2);
}

#[test]
fn conflicting_contents_are_counted_apart() {
    let site = Site::new(two_of_three());
    let mut raw = site.staging("one");
    raw.upload(&[&by("hello", &alice())]).expect("it is held");
    raw.lines.clear();
    raw.upload(&[&other("hello", &bob())]).expect("it is held too");
    let said = raw.lines.join("");
    assert!(said.contains("held") && said.contains("conflict: "), "{said}");
    assert_eq!((candidates(&site, "hello"), is_admitted(&site, &package("hello"))), (2, false));
    let path = path("hello");
    let hashes = [by("hello", &alice()).info.nar_hash.to_string(), other("hello", &bob()).info.nar_hash.to_string()];
    for request in [op::QUERY_PATH_INFO, op::IS_VALID_PATH] {
        let said = site.staging("two").ask(&Words::op(request).str(&full(&path))).expect_err("it is in conflict");
        assert!(said.contains("is in conflict") && hashes.iter().all(|hash| said.contains(hash)), "{said}");
        assert!(said.contains("signed by alice") && said.contains("signed by bob"), "{said}");
    }
    assert!(!site.raw().is_valid(&path));
    let conflicts = events(&site).into_iter().filter(|event| matches!(event, Event::Conflict { admitted: false, .. }));
    assert_eq!(conflicts.count(), 1);
    // Carol agrees with bob: that is a quorum, whatever alice says.
    site.staging("three").upload(&[&other("hello", &carol())]).expect("it has its quorum");
    assert!(is_admitted(&site, &other("hello", &carol())));
    assert_eq!(site.staging("two").path_info(&path).expect("valid").nar_hash, other("hello", &bob()).info.nar_hash);
    // Alice's stays as evidence, with its NAR, and nothing more is taken that contradicts what is admitted.
    assert_eq!(notes(site.store()), 1);
    assert!(site.store().join(format!("nar/{}.nar.zst", by("hello", &alice()).info.nar_hash.to_nix32())).exists());
    let said = site.staging("two").upload(&[&by("hello", &carol())]).expect_err("another is admitted");
    assert!(said.contains("conflict"), "{said}");
    let all = site.runtime.block_on(site.gate.candidates(&path)).expect("it can be read");
    assert_eq!(all.len(), 2, "what is admitted, and its rival");
}

/// What was admitted while other bytes were on their way stands in theirs.
#[test]
fn what_comes_too_late_is_a_conflict() {
    let site = Site::new(two_of_three());
    let late = Package::of_nar("hello", nar_of_file(&noise(1, 800_000))).signed_by(&[&bob()]);
    let request = add_multiple(&[&late]);
    let (first, second) = request.0.split_at(request.0.len() / 2);
    let mut raw = site.staging("two");
    raw.send(first);
    std::thread::sleep(Duration::from_millis(50));
    site.admit(&[&package("hello").signed_by(&[&alice(), &carol()])]);
    raw.send(second);
    let said = raw.answer().expect_err("another is admitted");
    assert!(said.contains("conflict"), "{said}");
    assert_eq!(notes(site.store()), 0);
    assert!(events(&site).iter().any(|event| matches!(event, Event::Conflict { admitted: true, .. })));
}

#[test]
fn a_signature_counts_for_the_contents_that_it_is_over() {
    let site = Site::new(two_of_three());
    site.staging("one").upload(&[&by("hello", &alice())]).expect("it is held");
    site.staging("two").upload(&[&other("hello", &bob())]).expect("it is held too");
    let over_bobs = carol().sign(&other("hello", &bob()).fingerprint()).to_string();
    site.staging("three").add_signatures(&path("hello"), &[over_bobs]).expect("it is held");
    assert!(is_admitted(&site, &other("hello", &bob())));
}

#[test]
fn a_person_decides_on_a_conflict_where_the_policy_says_so() {
    let rules = Rules { more: "on-conflict = \"hold\"\n".into(), ..Rules::default() };
    let site = Site::new(rules.policy());
    let hello = package("hello").signed_by(&[&alice(), &carol()]);
    site.staging("two").upload(&[&other("hello", &bob())]).expect("it is held");
    let mut raw = site.staging("one");
    raw.upload(&[&hello]).expect("it is held for all its quorum");
    assert!(raw.lines.join("").contains("conflict"), "{:?}", raw.lines);
    let said = site.raw().upload(&[&hello]).expect_err("there is another");
    assert!(said.contains("refused") && said.contains("conflict"), "{said}");
    assert_eq!((candidates(&site, "hello"), is_admitted(&site, &hello)), (2, false));
    let bobs = other("hello", &bob()).fingerprint().digest();
    site.runtime.block_on(async {
        site.gate.drop_candidate(&path("hello"), &bobs, "not reproducible", "a person").await.expect("it is held");
        site.gate.tend_staging().await.expect("it can be");
    });
    assert!(is_admitted(&site, &hello));
    assert!(events(&site).iter().any(
        |event| matches!(event, Event::Dropped { reason, named } if reason == "not reproducible" && named.by == "a person")
    ));
}

#[test]
fn a_signer_has_one_candidate_for_each_path() {
    let site = Site::new(two_of_three());
    let mut raw = site.staging("one");
    raw.upload(&[&by("hello", &alice())]).expect("it is held");
    let said = raw.upload(&[&other("hello", &alice())]).expect_err("alice has one already");
    assert!(said.contains("limit-exceeded") && said.contains("one candidate for each signer and path"), "{said}");
    let third = Package::of_nar("hello", nar_of_file(b"third bytes"));
    raw.upload(&[&third.clone().signed_by(&[&alice(), &bob()])]).expect("bob has none: and that is a quorum");
    assert!(is_admitted(&site, &third));
    assert_eq!(candidates(&site, "hello"), 2);
}

/// A gate of another process's kind, over the same store.
fn gate_with(site: &Site, limits: StagingLimits) -> Arc<Gate> {
    site.runtime.block_on(async {
        let objects = Directory::open(site.store()).expect("the directory can be written");
        let cache = BinaryCache::open(Arc::new(objects), &StoreDir::default()).await.expect("a binary cache");
        Arc::new(Gate::new(cache, two_of_three(), None).expect("a gate").with_staging_limits(limits))
    })
}

#[test]
fn nobody_can_fill_it() {
    let size = package("one").info.nar_size;
    let unlimited = StagingLimits::default();
    for (what, limits, uploaders, words) in [
        ("paths of one", StagingLimits { uploader_paths: 2, ..unlimited }, ["x"; 3], "x would have more than 2 paths"),
        ("bytes of one", StagingLimits { uploader_bytes: 2 * size, ..unlimited }, ["x"; 3], "x would have more than"),
        ("paths", StagingLimits { paths: 2, ..unlimited }, ["x", "y", "z"], "there would be more than 2 paths"),
        ("bytes", StagingLimits { bytes: 2 * size, ..unlimited }, ["x", "y", "z"], "there would be more than"),
    ] {
        let site = Site::new(two_of_three());
        let gate = gate_with(&site, limits);
        for (name, uploader) in ["one", "two"].into_iter().zip(uploaders) {
            site.staging_through(&gate, uploader)
                .upload(&[&by(name, &alice())])
                .unwrap_or_else(|said| panic!("{what}: {said}"));
        }
        let said = site.staging_through(&gate, uploaders[2]).upload(&[&by("six", &alice())]).expect_err(what);
        assert!(said.contains("limit-exceeded") && said.contains(words), "{what}: {said}");
        assert_eq!(notes(site.store()), 2, "{what}");
        // In one upload as well.
        drop_all(&site, &gate, "one");
        drop_all(&site, &gate, "two");
        let all = ["one", "two", "six"].map(|name| by(name, &alice()));
        if uploaders == ["x"; 3] {
            site.staging_through(&gate, "x").upload(&all.iter().collect::<Vec<_>>()).expect_err(what);
            assert_eq!(notes(site.store()), 2, "{what}");
            // What has its quorum needs no room, nor does a signature for what is there.
            site.staging_through(&gate, "x").upload(&[&package("full").signed_by(&[&alice(), &bob()])]).expect(what);
            site.staging_through(&gate, "x").upload(&[&by("two", &bob())]).expect(what);
            assert!(site.raw().is_valid(&path("two")));
        }
    }
}

#[test]
fn what_is_dropped_is_gone_with_its_nar() {
    let site = Site::new(two_of_three());
    site.staging("one").upload(&[&by("hello", &alice())]).expect("it is held");
    drop_all(&site, &site.gate, "hello");
    let left: Vec<String> = site.files().into_keys().filter(|name| !name.starts_with("quorum/log/")).collect();
    assert_eq!(left, ["nix-cache-info"]);
    assert!(!site.staging("one").is_valid(&path("hello")));
    let again = site.runtime.block_on(site.gate.drop_candidate(
        &path("hello"),
        &package("hello").fingerprint().digest(),
        "once more",
        "a person",
    ));
    assert!(matches!(again, Err(GateError::NotHeld(_))), "{again:?}");
    // The signatures that it had count no more.
    site.staging("one").upload(&[&by("hello", &bob())]).expect("it is held");
    assert!(!is_admitted(&site, &package("hello")));
}

#[test]
fn what_waits_too_long_is_given_up() {
    let site = Site::new(two_of_three());
    site.staging("one").upload(&[&by("hello", &alice())]).expect("it is held");
    let patient = gate_with(&site, StagingLimits { keep: Duration::from_secs(60), ..StagingLimits::default() });
    site.runtime.block_on(patient.tend_staging()).expect("it can be");
    assert_eq!(notes(site.store()), 1);
    std::thread::sleep(Duration::from_millis(2_100));
    let hasty = gate_with(&site, StagingLimits { keep: Duration::ZERO, ..StagingLimits::default() });
    site.runtime.block_on(hasty.tend_staging()).expect("it can be");
    assert_eq!(notes(site.store()), 0);
    assert!(
        events(&site)
            .iter()
            .any(|event| matches!(event, Event::Dropped { reason, .. } if reason.contains("held for more than")))
    );
}

#[test]
fn a_policy_that_asks_for_less_admits_what_is_held() {
    let site = Site::new(two_of_three());
    let chain = chain(5);
    let held = all_signed_by(&chain, &[&alice()]);
    site.staging("one").upload(&held.iter().collect::<Vec<_>>()).expect("they are held");
    site.gate.set_policy(Rules { at_least: Some(1), ..Rules::default() }.policy()).expect("it fits");
    site.runtime.block_on(site.gate.tend_staging()).expect("it can be");
    assert_eq!((notes(site.store()), site.raw().all_paths().len()), (0, 5));
}

#[test]
fn what_a_revoked_key_held_up_takes_its_next_signature_here() {
    let site = Site::new(two_of_three());
    let chain = chain(3);
    let held = all_signed_by(&chain, &[&alice(), &bob()]);
    site.admit(&held.iter().collect::<Vec<_>>());
    site.gate.set_policy(Rules { revoked: &["bob"], ..Rules::default() }.policy()).expect("it fits");
    assert!(!is_admitted(&site, &chain[0]));
    let mut raw = site.staging("one");
    assert_eq!(raw.path_info(chain[0].path()).expect("it can be completed").nar_hash, chain[0].info.nar_hash);
    raw.add_signatures(chain[0].path(), &[carol().sign(&chain[0].fingerprint()).to_string()]).expect("it is known");
    assert!(is_admitted(&site, &chain[0]));
    raw.upload(&[&chain[1].clone().signed_by(&[&carol()])]).expect("it has its quorum");
    assert!(is_admitted(&site, &chain[1]));
    // Other contents may take the place of what is no more admitted, once they have a quorum.
    let instead = Package::of_nar("link-2", nar_of_file(b"instead")).referring_to([chain[1].path()]);
    raw.upload(&[&instead.clone().signed_by(&[&carol()])]).expect("it is held");
    assert!(!site.raw().is_valid(instead.path()));
    raw.upload(&[&instead.clone().signed_by(&[&alice()])]).expect("it has its quorum");
    assert!(is_admitted(&site, &instead));
}

#[test]
fn what_is_lost_of_a_held_nar_comes_with_the_next_upload() {
    for (what, left) in [("some bytes", Some(20)), ("all of them", None)] {
        let site = Site::new(two_of_three());
        let hello = Package::of_nar("hello", nar_of_file(&noise(1, 2_000)));
        site.staging("one").upload(&[&hello.clone().signed_by(&[&alice()])]).expect("it is held");
        let file = site.store().join(format!("nar/{}.nar.zst", hello.info.nar_hash.to_nix32()));
        let whole = fs::read(&file).expect("it is there");
        match left {
            Some(length) => fs::write(&file, &whole[..length]).expect("it can be written"),
            None => fs::remove_file(&file).expect("it is there"),
        }
        // A signature alone does not make up for it.
        let signature = [bob().sign(&hello.fingerprint()).to_string()];
        site.staging("two").add_signatures(hello.path(), &signature).expect("it is held");
        assert!(!site.raw().is_valid(hello.path()), "{what}");
        site.staging("two")
            .upload(&[&hello.clone().signed_by(&[&bob()])])
            .unwrap_or_else(|said| panic!("{what}: {said}"));
        assert!(is_admitted(&site, &hello), "{what}");
    }
}

/// What cannot be shown must not be held either: it would stand in the way of what is admitted with it.
#[test]
fn what_is_too_long_to_be_shown_is_refused() {
    let site = Site::new(two_of_three());
    let with_references = |name: &str, count: usize| {
        let references: Vec<StorePath> = (0..count).map(|number| path(&format!("{number:0200}"))).collect();
        package(name).referring_to(&references).signed_by(&[&alice(), &bob()])
    };
    let said = site.staging("one").upload(&[&with_references("too-many", 9_000)]).expect_err("its narinfo is too long");
    assert!(said.contains("more than 1048576"), "{said}");
    site.staging("one").upload(&[&with_references("many", 4_000)]).expect("it waits for all of them");
    site.staging("one").upload(&[&by("hello", &alice())]).expect("it is held");
    assert_eq!(notes(site.store()), 2);
    site.runtime.block_on(site.gate.tend_staging()).expect("it can be");
    site.staging("two").upload(&[&by("hello", &bob())]).expect("it has its quorum");
    assert!(is_admitted(&site, &package("hello")));
}

/// Whatever lies in the folder of what is held, and is damaged there, takes nothing from the rest.
#[test]
fn damage_stands_in_nobodys_way() {
    let site = Site::new(two_of_three());
    let chain = chain(3);
    let held = all_signed_by(&chain, &[&alice()]);
    site.staging("one").upload(&held.iter().collect::<Vec<_>>()).expect("they are held");
    let staging = site.store().join("quorum/staging");
    let fingerprint = package("no").fingerprint().digest();
    let spoilt = format!("{}-{fingerprint}", package("no").hash_part());
    fs::write(staging.join(&spoilt), vec![b' '; 2 << 20]).expect("it can be written");
    fs::write(staging.join("not-a-note"), b"{}").expect("it can be written");
    let broken = &chain[1];
    let evidence = format!("quorum/evidence/{}/{}", broken.hash_part(), broken.fingerprint().digest());
    fs::write(site.store().join(evidence), b"{").expect("it can be written");
    let narinfo = site.store().join(format!("{}.narinfo", chain[2].hash_part()));
    fs::write(narinfo, b"StorePath: what").expect("it can be written");
    let other = gate_with(&site, StagingLimits::default());
    site.runtime.block_on(other.tend_staging()).expect("it can be");
    assert_eq!(site.runtime.block_on(other.staged()).expect("it can be listed").len(), 2);
    site.staging_through(&other, "two").upload(&[&chain[0].clone().signed_by(&[&bob()])]).expect("it has its quorum");
    assert!(is_admitted(&site, &chain[0]));
}

/// A reader may trust the gate's key alone: nothing has its signature but what was admitted.
#[test]
fn what_is_held_has_no_signature_of_the_gates() {
    let site = Site::with(two_of_three(), Some(gate_key()), Settings::default());
    let hello = by("hello", &alice());
    let of_gate = gate_key().sign(&hello.fingerprint()).to_string();
    let mut raw = site.staging("one");
    let is_written = || {
        let texts = site.files().into_keys().map(|name| fs::read(site.store().join(name)).expect("it is there"));
        texts.into_iter().any(|text| String::from_utf8_lossy(&text).contains(&of_gate))
    };
    raw.upload(&[&hello]).expect("it is held");
    raw.upload(&[&hello]).expect("it is held");
    raw.add_signatures(hello.path(), &[mallory().sign(&hello.fingerprint()).to_string()]).expect("kept for later");
    assert!(!raw.path_info(hello.path()).expect("it is held").signatures.contains(&of_gate) && !is_written());
    raw.upload(&[&by("hello", &bob())]).expect("it has its quorum");
    assert!(raw.path_info(hello.path()).expect("valid").signatures.contains(&of_gate) && is_written());
    // What a revocation takes back is shown without it.
    site.gate.set_policy(Rules { revoked: &["bob"], ..Rules::default() }.policy()).expect("it fits");
    let info = raw.path_info(hello.path()).expect("it can be completed");
    assert!(!info.signatures.contains(&of_gate) && info.signatures.len() == 3, "{:?}", info.signatures);
}

/// Two contents of a path may have the same NAR and refer to different paths: a fingerprint is more than a hash.
#[test]
fn the_same_bytes_with_other_references_are_other_contents() {
    let site = Site::new(two_of_three());
    let hello = package("hello");
    let rival = hello.clone().referring_to([&path("elsewhere")]);
    site.staging("one").upload(&[&hello.clone().signed_by(&[&alice()])]).expect("it is held");
    let said = site.staging("two").upload(&[&rival.clone().signed_by(&[&alice()])]).expect_err("alice has one");
    assert!(said.contains("one candidate for each signer and path"), "{said}");
    site.staging("two").upload(&[&rival.clone().signed_by(&[&bob()])]).expect("it is held too");
    assert_eq!(candidates(&site, "hello"), 2);
    let digest = rival.fingerprint().digest();
    site.runtime.block_on(site.gate.drop_candidate(hello.path(), &digest, "a test", "a person")).expect("it is held");
    site.staging("three").upload(&[&hello.clone().signed_by(&[&carol()])]).expect("it has its quorum");
    assert!(is_admitted(&site, &hello), "its NAR has stayed");
}

/// A signature over what is held, while another content is admitted, is not said to have been taken.
#[test]
fn a_signature_for_the_loser_of_a_conflict_counts_for_nothing() {
    let site = Site::new(two_of_three());
    site.staging("one").upload(&[&by("hello", &alice())]).expect("it is held");
    site.staging("two").upload(&[&other("hello", &bob()).signed_by(&[&carol()])]).expect("it has its quorum");
    let signature = [carol().sign(&package("hello").fingerprint()).to_string()];
    let (hello, person) = (path("hello"), person());
    let kept = site.gate.add_signatures(&hello, &signature, Sight::Staging, &person);
    let kept = site.runtime.block_on(kept).expect("an answer");
    assert_eq!((kept.counted.len(), kept.dropped.len(), kept.held.is_none()), (0, 1, true));
}

#[test]
fn what_anybody_can_sign_fills_no_log() {
    let site = Site::new(two_of_three());
    let hello = package("hello").signed_by(&[&alice(), &bob()]);
    site.admit(&[&hello]);
    let before = events(&site).len();
    for number in 0..4 {
        let unknown = key(&format!("unknown-{number}"), 50 + number);
        site.raw().add_signatures(hello.path(), &[unknown.sign(&hello.fingerprint()).to_string()]).expect("kept");
    }
    assert_eq!(events(&site).len(), before);
}

#[test]
fn what_is_admitted_again_is_written_down_again() {
    let site = Site::new(two_of_three());
    let hello = package("hello").signed_by(&[&alice(), &bob()]);
    site.admit(&[&hello]);
    let expired = Rules { revoked: &["bob"], expires: Some("2020-01-01T00:00:00Z"), ..Rules::default() };
    site.gate.set_policy(expired.policy()).expect("it fits");
    let signature = [carol().sign(&hello.fingerprint()).to_string()];
    let said = site.staging("one").add_signatures(hello.path(), &signature).expect_err("nothing is admitted any more");
    assert!(said.contains("policy-expired"), "{said}");
    assert!(!site.raw().is_valid(hello.path()));
    site.gate.set_policy(Rules { revoked: &["bob"], ..Rules::default() }.policy()).expect("it fits");
    site.staging("one").add_signatures(hello.path(), &signature).expect("it has its quorum");
    assert!(is_admitted(&site, &hello));
    let admissions = events(&site).into_iter().filter(|event| matches!(event, Event::Admitted { .. })).count();
    assert_eq!(admissions, 2);
}

#[test]
fn deletions_leave_what_is_held() {
    let site = Site::new(two_of_three());
    // Two paths with the same NAR, one admitted and one held.
    let nar = nar_of_file(b"the same");
    let (here, held) = (Package::of_nar("here", nar.clone()), Package::of_nar("held", nar));
    site.admit(&[&here.clone().signed_by(&[&alice(), &bob()])]);
    site.staging("one").upload(&[&held.clone().signed_by(&[&alice()])]).expect("it is held");
    site.staging("one")
        .upload(&[&Package::of_nar("here", nar_of_file(b"rival")).signed_by(&[&carol()])])
        .expect_err("admitted");
    site.runtime.block_on(async {
        site.gate.delete(std::slice::from_ref(here.path()), &person()).await.expect("nothing refers to it");
    });
    site.staging("two").upload(&[&held.clone().signed_by(&[&bob()])]).expect("it has its quorum");
    assert!(is_admitted(&site, &held));
}
