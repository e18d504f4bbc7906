//! What can be read is what the policy of now vouches for, by whichever operation it is asked: when a key is revoked, all
//! that rests on it is gone from every answer, and when it is signed again, it is back in every answer.

mod support;

use std::collections::BTreeSet;

use support::keys::{Rules, alice, bob, carol, parse, two_of_three};
use support::package::{Package, full, nar_of_file, package};
use support::raw::Raw;
use support::site::Site;
use support::words::{Words, op};
use verifier::StorePath;

/// A build's result, as far as it says whether the path is there.
fn read_result(raw: &mut Raw) -> bool {
    let status = raw.u64();
    raw.str();
    for _ in 0..4 {
        raw.u64();
    }
    for _ in 0..2 {
        if raw.u64() == 1 {
            raw.u64();
        }
    }
    for _ in 0..raw.u64() {
        raw.str();
        raw.str();
    }
    status == 2
}

fn garbage(action: u64) -> Words {
    Words::op(op::COLLECT_GARBAGE).u64(action).strings([""; 0]).u64(0).u64(u64::MAX).u64(0).u64(0).u64(0)
}

/// Asks for a path in every way there is; names the ways in which it is there.
fn readable(raw: &mut Raw, package: &Package, refers_to: Option<&Package>) -> BTreeSet<&'static str> {
    let path = package.path();
    let text = package.full_path();
    let mut ways = BTreeSet::new();
    let mut note = |way: &'static str, is: bool| {
        if is {
            ways.insert(way);
        }
    };
    note("IsValidPath", raw.is_valid(path));
    note("QueryValidPaths", raw.valid_among(&[path]) == [path.clone()]);
    note("QueryPathInfo", raw.path_info(path).is_some());
    note("QueryAllValidPaths", raw.all_paths().contains(path));
    if let Some(below) = refers_to {
        raw.ask(&Words::op(op::QUERY_REFERRERS).str(&below.full_path())).expect("an answer");
        note("QueryReferrers", raw.paths().contains(path));
    }
    raw.ask(&Words::op(op::QUERY_PATH_FROM_HASH_PART).str(&package.hash_part())).expect("an answer");
    note("QueryPathFromHashPart", raw.str() == text);
    let asked = raw.ask(&Words::op(op::QUERY_DERIVER).str(&text));
    note("QueryDeriver", asked.map(|()| raw.str()).is_ok());
    note("NarFromPath", raw.nar(package).is_ok_and(|nar| nar == package.nar));
    for (way, words) in [
        ("EnsurePath", Words::op(op::ENSURE_PATH).str(&text)),
        ("BuildPaths", Words::op(op::BUILD_PATHS).strings([&text]).u64(0)),
    ] {
        let asked = raw.ask(&words);
        note(way, asked.map(|()| raw.u64()).is_ok());
    }
    raw.ask(&Words::op(op::BUILD_PATHS_WITH_RESULTS).strings([&text]).u64(0)).expect("an answer");
    assert_eq!((raw.u64(), raw.str()), (1, text.clone()));
    note("BuildPathsWithResults", read_result(raw));
    let derivation = Words::op(op::BUILD_DERIVATION).str(&full(support::package::package("any.drv").path()));
    let derivation = derivation.u64(1).str("out").str(&text).str("").str("");
    raw.ask(&derivation.u64(0).str("").str("").u64(0).u64(0).u64(0)).expect("an answer");
    note("BuildDerivation", read_result(raw));
    raw.ask(&Words::op(op::QUERY_MISSING).strings([&text])).expect("an answer");
    let (to_build, to_fetch, unknown) = (raw.paths(), raw.paths(), raw.paths());
    assert_eq!((to_build.len(), to_fetch.len(), raw.u64(), raw.u64()), (0, 0, 0, 0));
    note("QueryMissing", unknown.is_empty());
    raw.ask(&garbage(0)).expect("an answer");
    note("CollectGarbage", raw.paths().contains(path));
    raw.u64();
    raw.u64();
    raw.ask(&garbage(1)).expect("an answer");
    assert!(raw.paths().is_empty(), "nothing here is garbage");
    raw.u64();
    raw.u64();
    note("AddSignatures", raw.add_signatures(path, &[]).is_ok());
    ways
}

const EVERY_WAY: [&str; 15] = [
    "AddSignatures",
    "BuildDerivation",
    "BuildPaths",
    "BuildPathsWithResults",
    "CollectGarbage",
    "EnsurePath",
    "IsValidPath",
    "NarFromPath",
    "QueryAllValidPaths",
    "QueryDeriver",
    "QueryMissing",
    "QueryPathFromHashPart",
    "QueryPathInfo",
    "QueryReferrers",
    "QueryValidPaths",
];

/// A closure that rests on Alice and Bob, what is built on it by others, and something that has nothing to do with it.
struct World {
    site: Site,
    glibc: Package,
    hello: Package,
    above: Package,
    apart: Package,
}

impl World {
    fn new() -> Self {
        let site = Site::new(two_of_three());
        let glibc = package("glibc").signed_by(&[&alice(), &bob()]);
        let hello = package("hello").referring_to([glibc.path()]).signed_by(&[&alice(), &bob()]);
        let above = package("above").referring_to([hello.path()]).signed_by(&[&bob(), &carol()]);
        let apart = package("apart");
        let apart = apart.clone().referring_to([apart.path()]).signed_by(&[&bob(), &carol()]);
        site.admit(&[&glibc, &hello, &above, &apart]);
        Self { site, glibc, hello, above, apart }
    }

    /// Each path with what it refers to.
    fn closure(&self) -> [(&Package, Option<&Package>); 3] {
        [(&self.glibc, None), (&self.hello, Some(&self.glibc)), (&self.above, Some(&self.hello))]
    }

    fn check(&self, raw: &mut Raw, package: &Package, below: Option<&Package>, expected: &[&str], what: &str) {
        let mut expected: BTreeSet<&str> = expected.iter().copied().collect();
        if below.is_none() {
            expected.remove("QueryReferrers");
        }
        let found = readable(raw, package, below);
        assert_eq!(found, expected, "{} {what}", package.full_path());
    }

    fn set(&self, rules: Rules) {
        self.site.gate.set_policy(rules.policy()).expect("a policy for this store");
    }
}

const REVOKED: &[&str] = &["alice"];

#[test]
fn what_rests_on_a_revoked_key_is_gone_from_every_answer_and_comes_back() {
    let world = World::new();
    // One session that lives through it all, one of a stranger, and new ones.
    let (mut old, mut stranger) = (world.site.raw(), world.site.stranger());
    for (package, below) in world.closure() {
        world.check(&mut old, package, below, &EVERY_WAY, "before");
    }
    world.set(Rules { revoked: REVOKED, ..Rules::default() });
    for round in 0..2 {
        for (package, below) in world.closure() {
            for raw in [&mut old, &mut stranger, &mut world.site.raw()] {
                world.check(raw, package, below, &[], &format!("after Alice's key was revoked, round {round}"));
            }
        }
        world.check(&mut old, &world.apart, Some(&world.apart), &EVERY_WAY, "has nothing to do with Alice");
        assert_eq!(old.all_paths(), [world.apart.path().clone()]);
    }
    // A gate that has never known another policy says the same.
    let restarted = Site::over(world.site.store(), Rules { revoked: REVOKED, ..Rules::default() }.policy());
    assert_eq!(restarted.raw().all_paths(), [world.apart.path().clone()]);
    // Nothing can be built on it.
    let more = package("more").referring_to([world.hello.path()]).signed_by(&[&bob(), &carol()]);
    assert!(old.upload(&[&more]).expect_err("it refers to what is not admitted").contains("missing-reference"));
    // Without Alice's signature, Carol's makes it whole: from below, each brings back what rests on it.
    let again = world.glibc.clone().unsigned().signed_by(&[&carol()]);
    old.upload(&[&again]).expect("Bob's signature is still there");
    world.check(&mut stranger, &world.glibc, None, &EVERY_WAY, "after Carol signed");
    world.check(&mut stranger, &world.hello, Some(&world.glibc), &[], "lacks a signature of its own");
    let again = world.hello.clone().unsigned().signed_by(&[&carol()]);
    stranger.upload(&[&again]).expect("Bob's signature is still there");
    for (package, below) in world.closure() {
        for raw in [&mut old, &mut stranger, &mut world.site.raw()] {
            world.check(raw, package, below, &EVERY_WAY, "after Carol signed");
        }
    }
    // And the key that was revoked by mistake is back with one word.
    world.set(Rules { revoked: REVOKED, ..Rules::default() });
    world.set(Rules::default());
    for (package, below) in world.closure() {
        world.check(&mut old, package, below, &EVERY_WAY, "with the first policy again");
    }
}

#[test]
fn a_policy_that_asks_for_more_takes_away_what_has_less() {
    let world = World::new();
    let mut raw = world.site.raw();
    world.set(Rules { at_least: Some(3), ..Rules::default() });
    assert!(raw.all_paths().is_empty());
    raw.upload(&[&world.apart.clone().signed_by(&[&alice()])]).expect("now all three have signed");
    assert_eq!(raw.all_paths(), [world.apart.path().clone()]);
    let rule = "[[rules]]\nname = \"hello needs Carol\"\npaths = [\"hello\"]\nrequire = \"carol\"\n";
    world.set(Rules { more: rule.into(), ..Rules::default() });
    let expected = BTreeSet::from([world.glibc.path().clone(), world.apart.path().clone()]);
    assert_eq!(raw.all_paths().into_iter().collect::<BTreeSet<_>>(), expected);
    let said = raw.upload(&[&world.hello]).expect_err("Carol has not signed");
    assert!(said.contains("hello needs Carol"), "{said}");
}

#[test]
fn what_stands_by_its_content_address_falls_with_what_it_refers_to_and_with_the_policy() {
    let world = World::new();
    let mut raw = world.site.raw();
    let free = Package::addressed_file("free", b"x");
    let bound = Package::content_addressed(
        "bound",
        nar_of_file(b"y"),
        verifier::ContentAddressMethod::Nar,
        verifier::HashAlgorithm::Sha256,
        &[&world.hello],
    );
    raw.upload(&[&free, &bound]).expect("their addresses stand for them");
    world.check(&mut raw, &bound, Some(&world.hello), &EVERY_WAY, "its address stands for it");
    world.set(Rules { revoked: REVOKED, ..Rules::default() });
    world.check(&mut raw, &bound, Some(&world.hello), &[], "refers to what is not admitted");
    world.check(&mut raw, &free, None, &EVERY_WAY, "refers to nothing");
    world.set(Rules { content_addressed: Some("require"), ..Rules::default() });
    world.check(&mut raw, &free, None, &[], "has no signatures");
    world.check(&mut raw, &bound, Some(&world.hello), &[], "has no signatures");
    raw.upload(&[&free.clone().signed_by(&[&alice(), &bob()])]).expect("now it has");
    world.check(&mut raw, &free, None, &EVERY_WAY, "is signed");
}

#[test]
fn a_signer_renamed_or_reordered_keeps_its_votes_and_no_others() {
    let world = World::new();
    let mut raw = world.site.raw();
    assert_eq!(raw.all_paths().len(), 4);
    // Signers are told apart by their place in a policy: another policy has other places for the same names. What Alice and
    // Bob signed must not become what Bob and Carol signed.
    let text = Rules::default().text();
    let rotated = text
        .replace(&alice().public().to_string(), "A")
        .replace(&bob().public().to_string(), &alice().public().to_string())
        .replace(&carol().public().to_string(), &bob().public().to_string())
        .replace("\"A\"", &format!("\"{}\"", carol().public()));
    assert_ne!(rotated, text);
    let need = |text: &str, who: &str| text.replace("at-least = 2, of = \"builders\"", &format!("all = [{who}]"));
    // In the first policy's names: signed by Alice and Bob. In the rotated one's: Alice's key is bob's, Bob's is carol's.
    for (text, expected) in [
        (need(&text, "\"alice\", \"bob\""), 2),
        (need(&text, "\"bob\", \"carol\""), 1),
        (need(&rotated, "\"bob\", \"carol\""), 2),
        (need(&rotated, "\"alice\", \"bob\""), 0),
        (need(&rotated, "\"alice\", \"carol\""), 1),
    ] {
        world.site.gate.set_policy(parse(&text)).expect("a policy for this store");
        assert_eq!(raw.all_paths().len(), expected, "{text}");
    }
}

#[test]
fn an_expired_policy_shows_what_was_admitted_and_admits_nothing() {
    let world = World::new();
    let mut raw = world.site.raw();
    world.set(Rules { expires: Some("2020-01-01T00:00:00Z"), ..Rules::default() });
    for (package, below) in world.closure() {
        world.check(&mut raw, package, below, &EVERY_WAY, "was admitted before");
    }
    let new = package("new").signed_by(&[&alice(), &bob()]);
    assert!(raw.upload(&[&new]).expect_err("nothing new").contains("policy-expired"));
    // What is there may be copied again, and signed: that admits nothing.
    raw.upload(&[&world.glibc]).expect("it is there");
    let more = world.glibc.clone().unsigned().signed_by(&[&carol()]);
    raw.upload(&[&more]).expect("signatures always merge");
    let signatures: Vec<String> =
        world.hello.clone().unsigned().signed_by(&[&carol()]).info.signatures.into_iter().collect();
    raw.add_signatures(world.hello.path(), &signatures).expect("signatures always merge");
    for package in [&world.glibc, &world.hello] {
        assert_eq!(raw.path_info(package.path()).expect("it is valid").signatures.len(), 3);
    }
}

/// Nor does an expired policy admit again what is no longer admitted.
#[test]
fn an_expired_policy_brings_nothing_back() {
    let world = World::new();
    let mut raw = world.site.raw();
    world.set(Rules { revoked: REVOKED, expires: Some("2020-01-01T00:00:00Z"), ..Rules::default() });
    assert!(!raw.is_valid(world.glibc.path()));
    let again = world.glibc.clone().unsigned().signed_by(&[&carol()]);
    assert!(raw.upload(&[&again]).expect_err("nothing new").contains("policy-expired"));
    assert!(!raw.is_valid(world.glibc.path()), "it was refused");
    let restarted = Site::over(world.site.store(), world.site.gate.policy().as_ref().clone());
    assert!(!restarted.raw().is_valid(world.glibc.path()), "it was refused");
}

// Derivations, and what they say of their outputs.

fn derivation(name: &str, output: &str) -> Package {
    let text = format!(
        "Derive([(\"out\",\"{output}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"name\",\"{}\"),(\"out\",\"{output}\")])",
        name.trim_end_matches(".drv"),
    );
    Package::of_nar(name, nar_of_file(text.as_bytes()))
}

#[test]
fn a_derivation_that_is_not_admitted_says_nothing() {
    let world = World::new();
    let output = world.apart.full_path();
    let drv = derivation("apart.drv", &output).signed_by(&[&alice(), &bob()]);
    world.site.admit(&[&drv]);
    let mut apart = world.apart.clone();
    apart.info.deriver = Some(drv.path().clone());
    let mut raw = world.site.raw();
    let text = drv.full_path();
    let target = format!("{text}!out");
    // Outputs, their names, both; a build of it; what is missing for it; and who derives its output.
    let ask = |raw: &mut Raw| {
        let mut ways = BTreeSet::new();
        if raw.ask(&Words::op(op::QUERY_DERIVATION_OUTPUTS).str(&text)).is_ok() {
            assert_eq!(raw.strings(), std::slice::from_ref(&output));
            ways.insert("QueryDerivationOutputs");
        }
        if raw.ask(&Words::op(op::QUERY_DERIVATION_OUTPUT_NAMES).str(&text)).is_ok() {
            assert_eq!(raw.strings(), ["out"]);
            ways.insert("QueryDerivationOutputNames");
        }
        if raw.ask(&Words::op(op::QUERY_DERIVATION_OUTPUT_MAP).str(&text)).is_ok() {
            assert_eq!((raw.u64(), raw.str(), raw.str()), (1, "out".to_owned(), output.clone()));
            ways.insert("QueryDerivationOutputMap");
        }
        if raw.ask(&Words::op(op::BUILD_PATHS).strings([&target]).u64(0)).is_ok() {
            raw.u64();
            ways.insert("BuildPaths");
        }
        raw.ask(&Words::op(op::BUILD_PATHS_WITH_RESULTS).strings([&target]).u64(0)).expect("an answer");
        assert_eq!((raw.u64(), raw.str()), (1, target.clone()));
        if read_result(raw) {
            ways.insert("BuildPathsWithResults");
        }
        raw.ask(&Words::op(op::QUERY_MISSING).strings([&target])).expect("an answer");
        let (to_build, _, unknown): (Vec<StorePath>, _, _) = (raw.paths(), raw.paths(), raw.paths());
        raw.u64();
        raw.u64();
        if to_build.is_empty() && unknown.is_empty() {
            ways.insert("QueryMissing");
        }
        ways
    };
    let every = BTreeSet::from([
        "BuildPaths",
        "BuildPathsWithResults",
        "QueryDerivationOutputMap",
        "QueryDerivationOutputNames",
        "QueryDerivationOutputs",
        "QueryMissing",
    ]);
    assert_eq!(ask(&mut raw), every);
    world.set(Rules { revoked: REVOKED, ..Rules::default() });
    assert!(raw.is_valid(world.apart.path()), "its output rests on others");
    assert_eq!(ask(&mut raw), BTreeSet::new());
    raw.upload(&[&drv.clone().unsigned().signed_by(&[&carol()])]).expect("Bob's signature is still there");
    assert_eq!(ask(&mut raw), every);
    // An output that is not admitted is not there, whatever the derivation says.
    world.set(Rules {
        more: "[[rules]]\nname = \"x\"\npaths = [\"apart\"]\nrequire = \"alice\"\n".into(),
        ..Rules::default()
    });
    let says = BTreeSet::from(["QueryDerivationOutputMap", "QueryDerivationOutputNames", "QueryDerivationOutputs"]);
    assert_eq!(ask(&mut raw), says);
}

#[test]
fn a_deriver_is_named_where_it_is_valid_and_has_that_output() {
    let site = Site::new(two_of_three());
    let hello = package("hello");
    let drv = derivation("hello.drv", &hello.full_path()).signed_by(&[&alice(), &bob()]);
    let liar = derivation("liar.drv", &package("other").full_path()).signed_by(&[&alice(), &bob()]);
    for (deriver, named) in [(&drv, true), (&liar, false)] {
        let site = Site::new(two_of_three());
        let mut said = hello.clone().signed_by(&[&bob(), &carol()]);
        said.info.deriver = Some(deriver.path().clone());
        site.admit(&[deriver, &said]);
        let ask = |raw: &mut Raw| {
            raw.ask(&Words::op(op::QUERY_VALID_DERIVERS).str(&hello.full_path())).expect("an answer");
            raw.paths()
        };
        let mut raw = site.raw();
        assert_eq!(ask(&mut raw).len(), usize::from(named));
        site.gate.set_policy(Rules { revoked: REVOKED, ..Rules::default() }.policy()).expect("a policy");
        assert!(ask(&mut raw).is_empty(), "it is not valid any more");
    }
    let mut raw = site.raw();
    raw.ask(&Words::op(op::QUERY_VALID_DERIVERS).str(&hello.full_path())).expect("an answer");
    assert!(raw.paths().is_empty());
}

#[test]
fn verifying_the_store_looks_at_what_is_admitted_and_names_no_more() {
    let world = World::new();
    world.set(Rules { revoked: REVOKED, ..Rules::default() });
    let nar = world.site.store().join(format!("nar/{}.nar.zst", world.glibc.info.nar_hash.to_nix32()));
    std::fs::write(nar, "damaged").expect("it can be written");
    let mut raw = world.site.stranger();
    raw.ask(&Words::op(op::VERIFY_STORE).u64(1).u64(0)).expect("an answer");
    assert_eq!((raw.u64(), raw.lines.len()), (0, 0), "{:?}", raw.lines);
    world.set(Rules::default());
    raw.ask(&Words::op(op::VERIFY_STORE).u64(1).u64(0)).expect("an answer");
    assert_eq!((raw.u64(), raw.lines.len()), (1, 1), "{:?}", raw.lines);
}

/// No signature covers a content address: who uploads first may state it or not. What the bytes prove stays proven.
#[test]
fn a_content_address_counts_whoever_stated_it_first_and_last() {
    let stated = Package::addressed_file("tool", b"contents");
    let mut silent = stated.clone();
    silent.info.content_address = None;
    let silent = silent.signed_by(&[&alice(), &bob()]);
    let strict = || Rules { content_addressed: Some("require"), ..Rules::default() }.policy();
    let revoked = || Rules { revoked: REVOKED, ..Rules::default() }.policy();
    // First without, then with it.
    let site = Site::new(two_of_three());
    let mut raw = site.raw();
    raw.upload(&[&silent]).expect("it is signed");
    site.gate.set_policy(revoked()).expect("a policy");
    assert!(!raw.is_valid(stated.path()));
    raw.upload(&[&stated]).expect("its address stands for it");
    assert!(raw.is_valid(stated.path()));
    assert_eq!(raw.path_info(stated.path()).expect("it is valid").content_address, stated.info.content_address);
    // First with, then without it, under a policy that wants signatures: the proof is not forgotten.
    let site = Site::new(two_of_three());
    let mut raw = site.raw();
    raw.upload(&[&stated]).expect("its address stands for it");
    site.gate.set_policy(strict()).expect("a policy");
    assert!(!raw.is_valid(stated.path()));
    raw.upload(&[&silent]).expect("it is signed");
    assert!(raw.is_valid(stated.path()));
    site.gate.set_policy(revoked()).expect("a policy");
    assert!(raw.is_valid(stated.path()), "its address stands for it, as it did at first");
}

/// Where another fingerprint takes the place of one that is no longer admitted, nothing of the first is left to be seen.
#[test]
fn what_takes_the_place_of_something_revoked_takes_all_of_it() {
    let site = Site::new(two_of_three());
    let first = Package::of_nar("disputed", support::package::nar_of_files(&[("first", b"1")]));
    let first = first.signed_by(&[&alice(), &bob()]);
    let second = Package::of_nar("disputed", support::package::nar_of_files(&[("second", b"22")]));
    let second = second.signed_by(&[&bob(), &carol()]);
    site.admit(&[&first]);
    let text = |ending: &str| {
        std::fs::read_to_string(site.store().join(format!("{}.{ending}", first.hash_part()))).expect("text")
    };
    assert!(text("ls").contains("first"));
    assert!(site.upload(&[&second]).expect_err("the first is admitted").contains("conflict"));
    site.gate.set_policy(Rules { revoked: REVOKED, ..Rules::default() }.policy()).expect("a policy");
    site.admit(&[&second]);
    let mut raw = site.raw();
    assert_eq!(raw.nar(&second).expect("it is served"), second.nar);
    assert!(text("narinfo").contains(&second.info.nar_hash.to_string()));
    assert!(text("ls").contains("second") && !text("ls").contains("first"), "{}", text("ls"));
    assert!(raw.upload(&[&first]).expect_err("the second is admitted").contains("conflict"));
    // With Alice's key back, the second stays: what is admitted and stands is not replaced.
    site.gate.set_policy(two_of_three()).expect("a policy");
    assert_eq!(raw.path_info(first.path()).expect("it is valid").nar_hash, second.info.nar_hash);
}

/// A closure as deep as it likes is judged without recursion, and each path once.
#[test]
fn a_chain_of_a_thousand_paths_stands_and_falls_with_its_first() {
    let site = Site::new(two_of_three());
    let mut chain: Vec<Package> = vec![package("link-0").signed_by(&[&alice(), &bob()])];
    for number in 1..1000 {
        let last = chain.last().expect("there is a first").path().clone();
        chain.push(package(&format!("link-{number}")).referring_to([&last]).signed_by(&[&bob(), &carol()]));
    }
    site.admit(&chain.iter().collect::<Vec<_>>());
    let last = chain.last().expect("there is a last");
    let restarted = Site::over(site.store(), two_of_three());
    let mut raw = restarted.raw();
    assert!(raw.is_valid(last.path()));
    restarted.gate.set_policy(Rules { revoked: REVOKED, ..Rules::default() }.policy()).expect("a policy");
    assert!(!raw.is_valid(last.path()));
    assert!(raw.all_paths().is_empty());
    raw.upload(&[&chain[0].clone().unsigned().signed_by(&[&carol()])]).expect("Bob's signature is still there");
    assert!(raw.is_valid(last.path()));
    assert_eq!(raw.all_paths().len(), 1000);
}
