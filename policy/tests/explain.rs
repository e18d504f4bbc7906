//! Explanations: the smallest sets of signers, the warnings, and how both read.

mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use policy::{Completeness, Policy, Requirement, evaluate};
use proptest::prelude::*;
use verifier::{SignerId, Timestamp};
use world::{NOW, policy, policy_text, public};

fn parse(text: &str) -> Policy {
    Policy::parse(text, "policy.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// A policy of signers s0, s1, … with a requirement, in which the group `all` is everybody.
fn with_signers(count: u8, requirement: &str) -> Policy {
    let signers: String = (0..count).map(|n| format!("s{n}.keys = [\"{}\"]\n", public("k-1", n))).collect();
    let names: String = (0..count).map(|n| format!("\"s{n}\", ")).collect();
    parse(&format!("version = 1\n[signers]\n{signers}[groups]\nall = [{names}]\n[default]\nrequire = {requirement}\n"))
}

fn sets(policy: &Policy) -> Vec<String> {
    policy.explain(NOW).default.sets.sets.iter().map(|set| set.join(" ")).collect()
}

#[test]
fn lists_the_smallest_sets() {
    let cases = [
        ("one signer", "\"s0\"", vec!["s0"]),
        ("2 of 3", "{ at-least = 2, of = [\"s0\", \"s1\", \"s2\"] }", vec!["s0 s1", "s0 s2", "s1 s2"]),
        ("one alone absorbs", "{ any = [\"s0\", { all = [\"s0\", \"s1\"] }] }", vec!["s0"]),
        ("parts share a signer", "{ all = [\"s0\", { at-least = 1, of = [\"s0\", \"s1\"] }] }", vec!["s0"]),
        (
            "smaller first",
            "{ any = [{ all = [\"s0\", \"s1\", \"s2\"] }, \"s3\", { all = [\"s1\", \"s2\"] }] }",
            vec!["s3", "s1 s2"],
        ),
        (
            "two groups",
            "{ all = [{ at-least = 1, of = [\"s0\", \"s1\"] }, { at-least = 1, of = [\"s2\", \"s3\"] }] }",
            vec!["s0 s2", "s0 s3", "s1 s2", "s1 s3"],
        ),
    ];
    for (shows, requirement, expected) in cases {
        let policy = with_signers(4, requirement);
        assert_eq!(sets(&policy), expected, "{shows}");
        assert_eq!(policy.explain(NOW).default.sets.completeness, Completeness::All, "{shows}");
    }
}

#[test]
fn leaves_out_who_cannot_sign_any_more() {
    let text = policy_text().replace(
        &format!("[{{ key = \"{}\", not-after = 2027-06-01T00:00:00Z }}]", public("ci-us-1", 3)),
        &format!("[{{ key = \"{}\", revoked = \"lost\" }}]", public("ci-us-1", 3)),
    );
    assert_eq!(sets(&parse(&text)), ["nixos", "ci-eu ci-ap"]);
}

#[test]
fn says_when_there_are_more_than_it_lists() {
    let explanation = with_signers(20, "{ at-least = 3, of = \"all\" }").explain(NOW);
    assert_eq!(explanation.default.sets.sets.len(), 64);
    assert_eq!(explanation.default.sets.completeness, Completeness::Some);
}

#[test]
fn hostile_policies_are_explained_in_reasonable_time() {
    let nested = |depth: usize| {
        (0..depth).fold("\"s0\"".to_owned(), |inner, level| {
            format!(
                "{{ {} = [{inner}, {{ at-least = 20, of = \"all\" }}] }}",
                if level % 2 == 0 { "any" } else { "all" }
            )
        })
    };
    let pairs: String = (0..20).map(|n| format!("{{ any = [\"s{n}\", \"s{}\"] }}, ", n + 20)).collect();
    let wide = "{ at-least = 20, of = \"all\" }, ".repeat(950);
    let cases = [
        ("half of many", "{ at-least = 50, of = \"all\" }".to_owned()),
        ("a million combinations of pairs", format!("{{ all = [{pairs}] }}")),
        ("deeply nested", nested(31)),
        ("all of many alike", format!("{{ all = [{wide}] }}")),
        ("any of many alike", format!("{{ any = [{wide}] }}")),
    ];
    for (shows, requirement) in cases {
        let policy = with_signers(100, &requirement);
        let begun = Instant::now();
        let explanation = policy.explain(NOW);
        assert!(begun.elapsed() < Duration::from_secs(20), "{shows}: {:?}", begun.elapsed());
        assert_eq!(explanation.default.sets.completeness, Completeness::Some, "{shows}");
        assert!(explanation.default.sets.sets.len() <= 64, "{shows}");
        assert!(explanation.to_string().len() < 400_000, "{shows}");
        for set in &explanation.default.sets.sets {
            assert_minimal(policy.default_requirement(), &ids(&policy, set));
        }
    }
}

fn ids(policy: &Policy, names: &[std::sync::Arc<str>]) -> BTreeSet<SignerId> {
    names.iter().map(|name| policy.keyring().find(name).expect("a signer")).collect()
}

fn assert_minimal(requirement: &Requirement, set: &BTreeSet<SignerId>) {
    assert!(evaluate(requirement, set).is_met(), "{set:?}");
    for member in set {
        let without = set.iter().filter(|other| *other != member).copied().collect();
        assert!(!evaluate(requirement, &without).is_met(), "{set:?} does not need {member:?}");
    }
}

/// Random requirements on six signers, as the language spells them. Counts stay within the lists.
fn requirements() -> impl Strategy<Value = String> {
    let names = proptest::sample::subsequence(vec!["s0", "s1", "s2", "s3", "s4", "s5"], 1..6);
    let leaf = prop_oneof![
        (0_u8..6).prop_map(|n| format!("\"s{n}\"")),
        (names, any::<proptest::sample::Index>()).prop_map(|(names, index)| {
            format!("{{ at-least = {}, of = {names:?} }}", index.index(names.len()) + 1)
        }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        (proptest::collection::vec(inner, 1..4), proptest::sample::select(vec!["all", "any"]))
            .prop_map(|(parts, form)| format!("{{ {form} = [{}] }}", parts.join(", ")))
    })
}

proptest! {
    #[test]
    fn every_minimal_set_is_listed_and_nothing_else(requirement in requirements()) {
        let policy = with_signers(6, &requirement);
        let required = policy.default_requirement();
        let all: Vec<SignerId> = policy.keyring().signers().map(|(id, _)| id).collect();
        let subset = |bits: u8| -> BTreeSet<SignerId> {
            all.iter().enumerate().filter(|(place, _)| bits & (1 << place) != 0).map(|(_, id)| *id).collect()
        };
        let met = |bits: u8| evaluate(required, &subset(bits)).is_met();
        let needs = |bits: u8, place: u8| bits & (1 << place) == 0 || !met(bits & !(1 << place));
        let minimal = |bits: &u8| met(*bits) && (0..6).all(|place| needs(*bits, place));
        let expected: BTreeSet<_> = (0..64_u8).filter(minimal).map(subset).collect();
        let explanation = policy.explain(NOW);
        let listed: BTreeSet<_> = explanation.default.sets.sets.iter().map(|set| ids(&policy, set)).collect();
        prop_assert_eq!(explanation.default.sets.completeness, Completeness::All);
        prop_assert_eq!(&listed, &expected);
        let alone = expected.iter().any(|set| set.len() == 1);
        let warned = explanation.warnings.iter().any(|warning| warning.code.as_str() == "one-signer-alone");
        prop_assert_eq!(warned, alone);
    }
}

#[test]
fn warns_of_what_may_not_have_been_meant() {
    let without = |part: &str| policy_text().replace(part, "");
    let june = Timestamp::from_unix(1_811_808_000);
    let us_revoked = policy_text().replace("not-after = 2027-06-01T00:00:00Z", "revoked = \"lost\"");
    let two_required = policy_text()
        .replace("any = [\"nixos\", {", "all = [{")
        .replace("not-before = 2026-06-01T00:00:00Z", "revoked = \"lost\"");
    let five = "{ at-least = 2, of = \"all\" }";
    let cases = [
        ("as it is", policy_text(), NOW, vec!["one-signer-alone"]),
        ("a key's time is over", policy_text(), june, vec!["one-signer-alone", "key-expired"]),
        (
            "the policy has expired",
            policy_text(),
            Timestamp::from_unix(1_826_668_800),
            vec!["policy-expired", "one-signer-alone", "key-expired"],
        ),
        ("no expiry", without("expires = 2027-11-20T00:00:00Z"), NOW, vec!["no-expiry", "one-signer-alone"]),
        ("a signer has no key left", us_revoked, NOW, vec!["one-signer-alone", "signer-revoked"]),
        (
            "too few can sign now",
            two_required,
            june,
            vec!["unreachable", "key-expired", "signer-revoked", "signer-unused"],
        ),
        (
            "a signer and a group nobody asks",
            without(
                "\n[[rules]]\nname = \"kernels need the security team\"\npaths = [\"linux-*\"]\nrequire = { at-least = 1, of = \"security\" }\n",
            ),
            NOW,
            vec!["one-signer-alone", "signer-unused", "group-unused"],
        ),
        (
            "a part that is dead",
            policy_text()
                .replace("at-least = 2, of = \"builders\"", "all = [\"ci-us\"]")
                .replace("not-after = 2027-06-01T00:00:00Z", "revoked = \"lost\""),
            NOW,
            vec!["dead-part", "one-signer-alone", "signer-revoked", "signer-unused", "signer-unused", "group-unused"],
        ),
    ];
    let mut shown = String::new();
    for (shows, text, now, expected) in cases {
        let warnings = parse(&text).explain(now).warnings;
        assert_eq!(warnings.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>(), expected, "{shows}");
        shown.push_str(&format!("#### {shows}\n"));
        warnings.iter().for_each(|warning| shown.push_str(&format!("{}: {}\n", warning.code, warning.message)));
    }
    let disjoint = with_signers(5, five).explain(NOW).warnings;
    shown.push_str("#### two of five\n");
    disjoint.iter().for_each(|warning| shown.push_str(&format!("{}: {}\n", warning.code, warning.message)));
    insta::assert_snapshot!("warnings", shown);
}

#[test]
fn an_explanation_reads_well_and_is_data() {
    let explanation = policy().explain(NOW);
    insta::assert_snapshot!("explanation", explanation);
    insta::assert_snapshot!("explanation_json", serde_json::to_string_pretty(&explanation).expect("it is JSON"));
}
