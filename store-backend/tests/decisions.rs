//! The decision log: nothing is admitted without a record, whoever writes at once makes one chain, and what was changed in it
//! afterwards is found.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use store_backend::gate::{DecisionRecord, Event, LogError};
use support::keys::{Rules, alice, bob, carol, mallory, parse, two_of_three};
use support::package::{Package, nar_of_file, package};
use support::site::{Site, log_of, person};

fn signed(name: &str) -> Package {
    package(name).signed_by(&[&alice(), &bob()])
}

fn records(site: &Site) -> Vec<DecisionRecord> {
    site.runtime.block_on(log_of(site.store())).expect("it is whole")
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(store.join("quorum/log")).expect("it is there") {
        let files = fs::read_dir(folder.expect("an entry").path()).expect("a folder");
        found.extend(files.map(|file| file.expect("an entry").path()));
    }
    found.sort();
    found
}

fn names(records: &[DecisionRecord]) -> Vec<&'static str> {
    let name = |record: &DecisionRecord| match record.event {
        Event::Admitted { .. } => "admitted",
        Event::Held { .. } => "held",
        Event::Dropped { .. } => "dropped",
        Event::Deleted { .. } => "deleted",
        Event::Signed { .. } => "signed",
        Event::Conflict { .. } => "conflict",
        Event::Refused { .. } => "refused",
        Event::Policy { .. } => "policy",
    };
    records.iter().map(name).collect()
}

#[test]
fn what_happens_is_written_down() {
    let site = Site::new(two_of_three());
    assert_eq!(names(&records(&site)), [""; 0]);
    let one = signed("one");
    let mut raw = site.raw();
    raw.upload(&[&one]).expect("it has its quorum");
    for _ in 0..3 {
        raw.upload(&[&package("short").signed_by(&[&alice()])]).expect_err("it falls short");
    }
    raw.upload(&[&package("one").signed_by(&[&carol()])]).expect("one more signature");
    raw.upload(&[&package("one").signed_by(&[&carol()])]).expect("nothing new");
    let other = Package::of_nar("one", nar_of_file(b"other bytes"));
    raw.upload(&[&other.clone().signed_by(&[&mallory()])]).expect_err("another is admitted");
    raw.upload(&[&other.signed_by(&[&bob()])]).expect_err("another is admitted");
    let found = records(&site);
    assert_eq!(names(&found), ["policy", "admitted", "refused", "signed", "refused", "conflict"]);
    let Event::Admitted { judged } = &found[1].event else { panic!("{found:?}") };
    assert_eq!((&judged.named.path, judged.nar_size), (&one.full_path(), one.info.nar_size));
    assert_eq!(judged.named.nar_hash, one.info.nar_hash.to_string());
    assert_eq!((&judged.signers[..], judged.signatures.len()), (&["alice".into(), "bob".into()][..], 2));
    assert_eq!(found[2].event, Event::Refused { counts: [("quorum-missing".to_owned(), 3)].into() });
    let Event::Signed { judged } = &found[3].event else { panic!("{found:?}") };
    assert_eq!((judged.signers.len(), judged.signatures.len()), (3, 3));
    assert_eq!(found[4].event, Event::Refused { counts: [("conflict".to_owned(), 1)].into() });
    let Event::Conflict { path, .. } = &found[5].event else { panic!("{found:?}") };
    assert_eq!(*path, one.full_path());
    let policy = two_of_three();
    assert!(found.iter().all(|record| record.policy == policy.digest()));
}

#[test]
fn a_change_of_policy_is_written_down() {
    let site = Site::new(two_of_three());
    let up_to_date = || site.runtime.block_on(site.gate.bring_log_up_to_date()).expect("it can be written");
    up_to_date();
    up_to_date();
    let stricter = Rules { at_least: Some(3), ..Rules::default() }.policy();
    let digest = stricter.digest().to_owned();
    site.gate.set_policy(stricter).expect("it fits");
    up_to_date();
    let found = records(&site);
    assert_eq!(names(&found), ["policy", "policy"]);
    assert_eq!(found[1].policy, digest);
}

/// A gate remembers what it admitted; what another one wrote since then counts all the same.
#[test]
fn what_is_admitted_again_after_another_gate_deleted_it_is_written_down_again() {
    let first = Site::new(two_of_three());
    let second = Site::over(first.store(), two_of_three());
    let one = signed("one");
    for _ in 0..2 {
        first.admit(&[&one]);
        let deleted = second.runtime.block_on(second.gate.delete(&[one.path().clone()], &person()));
        assert_eq!(deleted.expect("nobody refers to it").paths.len(), 1);
    }
    assert_eq!(names(&records(&first)), ["policy", "admitted", "deleted", "admitted", "deleted"]);
}

#[test]
fn no_older_policy_is_taken_again() {
    let versioned =
        |version: u64| parse(&Rules::default().text().replace("version = 1", &format!("version = {version}")));
    let site = Site::new(versioned(7));
    let other = Site::over(site.store(), versioned(6));
    let remembers = |site: &Site| site.runtime.block_on(site.gate.remember_policy());
    let replaces = |site: &Site, version| site.runtime.block_on(site.gate.replace_policy(versioned(version)));
    remembers(&site).expect("it is the first");
    for error in [remembers(&other), replaces(&other, 6), replaces(&site, 6)] {
        let said = error.expect_err("one of version 7 was in force").to_string();
        assert!(said.starts_with("policy-rollback: this policy has version 6, and one of version 7 was"), "{said}");
    }
    assert_eq!(site.gate.policy().version(), 7, "the old one stays");
    replaces(&site, 7).expect("it is no older");
    replaces(&other, 9).expect("it is newer");
    replaces(&site, 8).expect_err("the other gate knows a newer one");
    std::fs::write(site.store().join("quorum/policy"), "{").expect("the owner's right");
    replaces(&site, 10).expect_err("nobody can tell what was in force");
}

#[test]
fn gates_that_write_at_once_make_one_chain() {
    const EACH: usize = 12;
    let first = Site::new(two_of_three());
    let others: Vec<Site> = (0..3).map(|_| Site::over(first.store(), two_of_three())).collect();
    let sites: Vec<&Site> = others.iter().chain([&first]).collect();
    std::thread::scope(|scope| {
        for (number, site) in sites.iter().enumerate() {
            for half in 0..2 {
                scope.spawn(move || {
                    let mut raw = site.raw();
                    for count in 0..EACH {
                        raw.upload(&[&signed(&format!("{number}-{half}-{count}"))]).expect("it has its quorum");
                    }
                });
            }
        }
    });
    let found = records(&first);
    let admitted: Vec<&String> = found
        .iter()
        .filter_map(|record| match &record.event {
            Event::Admitted { judged } => Some(&judged.named.path),
            _ => None,
        })
        .collect();
    let different: BTreeSet<&&String> = admitted.iter().collect();
    assert_eq!((admitted.len(), different.len()), (4 * 2 * EACH, 4 * 2 * EACH));
    assert_eq!(names(&found).iter().filter(|name| **name == "policy").count(), 1);
}

#[test]
fn what_was_changed_afterwards_is_found() {
    let site = Site::new(two_of_three());
    for number in 0..6 {
        let pair = [signed(&format!("{number}")), signed(&format!("{number}-too"))];
        site.raw().upload(&[&pair[0], &pair[1]]).expect("they have their quorum");
    }
    let whole = records(&site).len();
    let segments = segments(site.store());
    let texts: Vec<String> = segments.iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    let line = |text: &str, number: usize| text.lines().nth(number).expect("a line").to_owned() + "\n";
    let second = &texts[1];
    // Each with the segment and the line at which it is found: the one after what was changed.
    let changes: [(&str, usize, Option<String>, usize, usize); 5] = [
        ("another word", 1, Some(second.replacen("alice", "carol", 1)), 1, 2),
        ("no first line", 1, Some(line(second, 1)), 1, 1),
        ("no last line", 1, Some(line(second, 0)), 2, 1),
        ("the lines the other way round", 1, Some(line(second, 1) + &line(second, 0)), 1, 1),
        ("a segment less", 2, None, 2, 1),
    ];
    for (what, changed, text, segment, line) in changes {
        match text {
            Some(text) => fs::write(&segments[changed], text).expect("it can be written"),
            None => fs::remove_file(&segments[changed]).expect("it is there"),
        }
        match site.runtime.block_on(log_of(site.store())) {
            Err(LogError::Broken { segment: found, line: at, .. }) => {
                assert!(segments[segment].ends_with(found.as_str()), "{what}: {found}");
                assert_eq!(at, line, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        fs::write(&segments[changed], &texts[changed]).expect("it can be written");
        assert_eq!(records(&site).len(), whole);
    }
}

#[test]
fn nothing_is_admitted_without_a_record() {
    let site = Site::new(two_of_three());
    let (one, two) = (signed("one"), signed("two"));
    fs::write(site.store().join("quorum/log"), "in the way").expect("it can be written");
    let said = site.raw().upload(&[&one]).expect_err("nothing can be written down");
    assert!(said.contains("nothing was admitted"), "{said}");
    assert!(!site.raw().is_valid(one.path()));
    assert!(!site.store().join(format!("{}.narinfo", one.hash_part())).exists());
    fs::remove_file(site.store().join("quorum/log")).expect("it is there");
    site.raw().upload(&[&one]).expect("it has its quorum");
    // What cannot be continued is not continued.
    let last = segments(site.store()).pop().expect("one");
    let text = fs::read_to_string(&last).expect("text");
    fs::write(&last, &text[..text.len() / 2]).expect("it can be written");
    let other = Site::over(site.store(), two_of_three());
    let said = other.raw().upload(&[&two]).expect_err("the log is broken");
    assert!(said.contains("the decision log is broken in line"), "{said}");
    assert!(!other.raw().is_valid(two.path()));
    assert!(other.raw().is_valid(one.path()));
}
