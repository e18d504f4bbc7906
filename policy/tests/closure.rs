//! Closures: what fails, because of what, and in reasonable time.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::{Address, Closure, Code, Finding, Node, Own, Report, Standing, Subject};
use proptest::prelude::*;
use verifier::StorePath;
use world::{NOW, fingerprint, key, path, policy, weigh};

fn stands() -> Own {
    let (policy, hello) = (policy(), path(0, "hello-2.12"));
    let signature = key("cache.nixos.org-1", 1).sign(&fingerprint(&hello, 0)).to_string();
    let evidence = weigh(&policy, fingerprint(&hello, 0), &[(signature, None)]);
    let subject = Subject { path: &hello, evidence: &evidence, address: Address::None, absent_references: &[] };
    Own::of(&policy.stands(&subject, NOW))
}

fn fails() -> Own {
    let (policy, hello) = (policy(), path(0, "hello-2.12"));
    let evidence = weigh(&policy, fingerprint(&hello, 0), &[]);
    let subject = Subject { path: &hello, evidence: &evidence, address: Address::None, absent_references: &[] };
    Own::of(&policy.stands(&subject, NOW))
}

fn unchecked() -> Own {
    Own::unchecked(Finding::new(Code::MissingContent, "the store did not answer"))
}

fn node(number: u32, references: &[u32], own: Own) -> Node {
    let name = |number| Arc::new(path(number, "p"));
    Node { path: name(number), references: references.iter().copied().map(name).collect(), own }
}

/// How each path stands, and the numbers of its causes.
fn standings(report: &Report) -> Vec<(Standing, Vec<u32>)> {
    let number = |path: &StorePath| u32::from_be_bytes(path.digest()[..4].try_into().expect("four bytes"));
    let line = |path: &policy::PathReport| (path.standing, path.causes.iter().map(|cause| number(cause)).collect());
    report.paths.iter().map(line).collect()
}

#[test]
fn failures_reach_whatever_refers_to_them() {
    use Standing::{Fails, Stands, Unchecked};
    type Case = (&'static str, Vec<Node>, Vec<(Standing, Vec<u32>)>);
    let cases: Vec<Case> = vec![
        ("nothing", vec![], vec![]),
        ("one that stands", vec![node(1, &[], stands())], vec![(Stands, vec![])]),
        ("one that refers to itself", vec![node(1, &[1], stands())], vec![(Stands, vec![])]),
        (
            "a failure two steps below",
            vec![node(1, &[2], stands()), node(2, &[3], stands()), node(3, &[], fails()), node(4, &[], stands())],
            vec![(Fails, vec![3]), (Fails, vec![3]), (Fails, vec![3]), (Stands, vec![])],
        ),
        (
            "two failures, reached by two ways",
            vec![node(1, &[2, 3], stands()), node(2, &[4], stands()), node(3, &[4], fails()), node(4, &[], fails())],
            vec![(Fails, vec![3, 4]), (Fails, vec![4]), (Fails, vec![3, 4]), (Fails, vec![4])],
        ),
        (
            "unchecked below, and a failure beside it",
            vec![node(1, &[2], stands()), node(2, &[], unchecked()), node(3, &[2, 4], stands()), node(4, &[], fails())],
            vec![(Unchecked, vec![2]), (Unchecked, vec![2]), (Fails, vec![4, 2]), (Fails, vec![4])],
        ),
        (
            "a circle, one above it and one below",
            vec![node(1, &[2], stands()), node(2, &[3], stands()), node(3, &[2, 4], stands()), node(4, &[], stands())],
            vec![(Fails, vec![2, 3]), (Fails, vec![2, 3]), (Fails, vec![2, 3]), (Stands, vec![])],
        ),
        (
            "a missing reference",
            vec![node(1, &[2], stands()), node(2, &[9], stands())],
            vec![(Fails, vec![2]), (Fails, vec![2])],
        ),
        (
            "one path twice: the worse holds, and both sets of references",
            vec![node(1, &[2], stands()), node(1, &[3], fails()), node(2, &[], stands()), node(3, &[], fails())],
            vec![(Fails, vec![1, 3]), (Stands, vec![]), (Fails, vec![3])],
        ),
    ];
    for (shows, nodes, expected) in cases {
        assert_eq!(standings(&Closure::new(nodes).judge()), expected, "{shows}");
    }
}

#[test]
fn references_that_are_present_are_not_missing() {
    let nodes = || vec![node(1, &[2, 3], stands())];
    let present = |numbers: &[u32]| numbers.iter().map(|number| path(*number, "p")).collect::<BTreeSet<_>>();
    assert_eq!(Closure::with_present(nodes(), &present(&[2, 3])).judge().standing(), Standing::Stands);
    assert_eq!(Closure::with_present(nodes(), &present(&[2])).judge().standing(), Standing::Fails);
}

#[test]
fn what_a_caller_found_counts() {
    let mismatch = || Finding::new(Code::ContentMismatch, "expected 120 bytes, found 121");
    let report = Closure::new(vec![
        node(1, &[], stands().failing(mismatch())),
        node(2, &[], stands().noting(Finding::new(Code::Conflict, "other contents are claimed"))),
        node(3, &[], unchecked().failing(mismatch())),
        node(4, &[], stands().noting(Finding::new(Code::Conflict, "other contents are claimed"))),
        node(4, &[], unchecked()),
    ]);
    let report = report.judge();
    let codes: Vec<_> = report.paths.iter().map(|path| (path.standing, path.findings[0].code)).collect();
    assert_eq!(codes[0], (Standing::Fails, Code::ContentMismatch));
    assert_eq!(codes[1], (Standing::Stands, Code::Conflict));
    assert_eq!(codes[2], (Standing::Fails, Code::ContentMismatch));
    assert_eq!(codes[3], (Standing::Unchecked, Code::MissingContent));
}

#[test]
fn the_report_as_json() {
    let nodes = vec![
        node(4, &[1, 9], stands()),
        node(3, &[2], stands()),
        node(2, &[3], stands()),
        node(1, &[], fails()),
        node(5, &[5], stands()),
        node(6, &[], unchecked()),
    ];
    let json = serde_json::to_string_pretty(&Closure::new(nodes).judge()).expect("a report is JSON");
    insta::assert_snapshot!("report", json);
}

/// A chain of paths of which only the last fails.
fn chain(length: u32) -> Vec<Node> {
    let sound = stands();
    let own = |number| if number + 1 == length { fails() } else { sound.clone() };
    (0..length).map(|number| node(number, &[number + 1][..usize::from(number + 1 < length)], own(number))).collect()
}

#[test]
fn a_long_chain_takes_no_stack_and_little_time() {
    const LENGTH: u32 = 100_000;
    let nodes = chain(LENGTH);
    let begun = Instant::now();
    let judge = move || Closure::new(nodes).judge();
    let judging = std::thread::Builder::new().stack_size(256 << 10).spawn(judge).expect("a thread");
    let report = judging.join().expect("a small stack is enough");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((report.totals.fails, report.totals.causes), (LENGTH as usize, 1));
    assert_eq!(report.causes[0].affected, Some(LENGTH as usize));
}

#[test]
fn a_large_circle_is_found_whole() {
    const LENGTH: u32 = 50_000;
    let sound = stands();
    let nodes = (0..LENGTH).map(|number| node(number, &[(number + 1) % LENGTH], sound.clone())).collect();
    let report = Closure::new(nodes).judge();
    assert_eq!(report.totals.fails, LENGTH as usize);
    assert!(report.paths.iter().all(|path| path.findings[0].code == Code::ReferenceCycle && path.causes.len() == 10));
}

#[test]
fn causes_are_counted_exactly_up_to_the_limit_and_bounded_past_it() {
    for causes in [1, 10, 11, 63, 64, 65, 2_048, 2_049, 5_000] {
        let (bad, sound) = (fails(), stands());
        let all: Vec<u32> = (1..=causes).collect();
        let mut nodes: Vec<Node> = all.iter().map(|number| node(*number, &[], bad.clone())).collect();
        nodes.push(node(0, &all, sound));
        let report = Closure::new(nodes).judge();
        let (top, counted) = (&report.paths[0], causes.min(2_048) as usize);
        assert_eq!((top.causes.len(), top.causes_total), (causes.min(10) as usize, counted), "{causes}");
        assert_eq!((report.totals.causes, report.totals.counted_causes), (causes as usize, counted));
        assert!(report.causes[..counted].iter().all(|cause| cause.affected == Some(2)));
        assert!(report.causes[counted..].iter().all(|cause| cause.affected.is_none()));
    }
}

/// For each number: what it refers to, and whether it fails by itself.
fn graphs() -> impl Strategy<Value = Vec<(Vec<u32>, bool)>> {
    (1_usize..12).prop_flat_map(|size| {
        let references = proptest::collection::vec(0..u32::try_from(size).expect("small"), 0..4);
        proptest::collection::vec((references, proptest::bool::weighted(0.2)), size)
    })
}

/// Everything that can be reached from a number, itself included, one step at a time.
fn reachable(graph: &[(Vec<u32>, bool)], from: u32) -> BTreeSet<u32> {
    let mut reached: BTreeSet<u32> = [from].into();
    loop {
        let next: BTreeSet<u32> = reached.iter().flat_map(|at| graph[*at as usize].0.iter().copied()).collect();
        let before = reached.len();
        reached.extend(next);
        if reached.len() == before {
            return reached;
        }
    }
}

/// A path that nixos alone could complete, or, where a builder has signed, another builder as well.
fn short_of(signed: bool) -> Own {
    let (policy, hello) = (policy(), path(0, "hello-2.12"));
    let signature = key("ci-eu-2", 2).sign(&fingerprint(&hello, 0)).to_string();
    let signatures: &[_] = if signed { &[(signature, None)] } else { &[] };
    let evidence = weigh(&policy, fingerprint(&hello, 0), signatures);
    let subject = Subject { path: &hello, evidence: &evidence, address: Address::None, absent_references: &[] };
    Own::of(&policy.stands(&subject, NOW))
}

proptest! {
    /// What one signer would clear is what would stand if that signer had signed.
    #[test]
    fn remedies_are_what_would_happen(graph in graphs(), kinds in proptest::collection::vec(0..4_usize, 12)) {
        // By kind: what a path is worth, and whom it takes alone.
        let owns = [stands(), short_of(false), short_of(true), fails().failing(Finding::new(Code::ContentMismatch, "damaged"))];
        let takes: [&[&str]; 4] = [&[], &["nixos"], &["nixos", "ci-us", "ci-ap"], &[]];
        let judge = |mended: Option<&str>| {
            let numbers = 0..u32::try_from(graph.len()).expect("small");
            let nodes = numbers.zip(&graph).zip(&kinds).map(|((number, (references, _)), kind)| {
                let mends = mended.is_some_and(|signer| takes[*kind].contains(&signer));
                node(number, references, owns[if mends { 0 } else { *kind }].clone())
            });
            Closure::new(nodes.collect()).judge()
        };
        let report = judge(None);
        for signer in ["nixos", "ci-us", "ci-ap"] {
            let completes = kinds.iter().take(graph.len()).filter(|kind| takes[**kind].contains(&signer)).count();
            let clears = judge(Some(signer)).totals.stands - report.totals.stands;
            let found = report.remedies.iter().find(|remedy| &*remedy.signer == signer);
            let in_circles = |cause: &policy::Cause| cause.codes.contains(&Code::ReferenceCycle);
            if report.causes.iter().any(in_circles) {
                // Those in a circle are mended by nobody, whatever they lack.
                prop_assert!(found.map_or(0, |remedy| remedy.completes) <= completes);
            } else {
                prop_assert_eq!(found.map_or(0, |remedy| remedy.completes), completes, "{}", signer);
            }
            prop_assert_eq!(found.map_or(0, |remedy| remedy.clears), clears, "{}", signer);
        }
    }

    #[test]
    fn agrees_with_reachability(graph in graphs()) {
        let (bad, sound) = (fails(), stands());
        let own = |fails: bool| if fails { bad.clone() } else { sound.clone() };
        let numbers = 0..u32::try_from(graph.len()).expect("small");
        let nodes = numbers.clone().zip(&graph).map(|(n, (references, fails))| node(n, references, own(*fails)));
        let report = Closure::new(nodes.collect()).judge();
        let reach: BTreeMap<u32, BTreeSet<u32>> = numbers.clone().map(|n| (n, reachable(&graph, n))).collect();
        let in_circle = |n: u32| reach[&n].iter().any(|other| *other != n && reach[other].contains(&n));
        let causes: BTreeSet<u32> = numbers.clone().filter(|n| graph[*n as usize].1 || in_circle(*n)).collect();
        for (number, (standing, named)) in numbers.zip(standings(&report)) {
            let expected: Vec<u32> = reach[&number].intersection(&causes).copied().collect();
            prop_assert_eq!(standing == Standing::Fails, !expected.is_empty());
            prop_assert_eq!(report.paths[number as usize].causes_total, expected.len());
            prop_assert_eq!(named, expected.into_iter().take(10).collect::<Vec<_>>());
        }
        for cause in &report.causes {
            let number = u32::from_be_bytes(cause.path.digest()[..4].try_into().expect("four bytes"));
            prop_assert_eq!(cause.affected, Some(reach.values().filter(|reached| reached.contains(&number)).count()));
        }
    }
}
