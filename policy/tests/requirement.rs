//! The one threshold rule: tables of named cases, and properties on random requirements.

mod world;

use std::collections::BTreeSet;

use policy::{Outcome, Requirement, Shortfall, evaluate};
use proptest::prelude::*;
use verifier::{Keyring, Signer, SignerId, TrustedKey, Window};

/// A keyring of signers a, b, c, …, in which those at `revoked` have no key in use.
fn keyring(count: u8, revoked: &[u8]) -> Keyring {
    let signer = |seed: u8| Signer {
        name: char::from(b'a' + seed).to_string().into(),
        keys: vec![TrustedKey {
            public: world::key("key-1", seed).public(),
            window: Window::default(),
            revoked: revoked.contains(&seed).then(|| "lost".to_owned()),
        }],
    };
    Keyring::new((0..count).map(signer).collect()).expect("each key once")
}

/// The signers of a keyring whose names are letters of `names`.
fn set(keyring: &Keyring, names: &str) -> BTreeSet<SignerId> {
    names.chars().map(|name| keyring.find(&name.to_string()).expect("a signer")).collect()
}

fn at_least(keyring: &Keyring, count: usize, names: &str) -> Requirement {
    Requirement::AtLeast { count, of: set(keyring, names), group: Some("team".into()) }
}

fn one(keyring: &Keyring, name: &str) -> Requirement {
    Requirement::Signer(keyring.find(name).expect("a signer"))
}

#[test]
fn counts_to_the_threshold() {
    let keys = keyring(4, &[]);
    let any = Requirement::Any(vec![one(&keys, "a"), at_least(&keys, 2, "bcd")]);
    let all = Requirement::All(vec![one(&keys, "a"), at_least(&keys, 2, "bcd")]);
    let nested =
        Requirement::All(vec![any.clone(), Requirement::Any(vec![one(&keys, "d"), at_least(&keys, 3, "abc")])]);
    let cases = [
        ("k-1", at_least(&keys, 2, "abc"), "a", "1 of 2 of team (a signed; b or c could still sign)"),
        ("k", at_least(&keys, 2, "abc"), "ac", ""),
        ("k+1", at_least(&keys, 2, "abc"), "abc", ""),
        ("others do not count", at_least(&keys, 2, "abc"), "ad", "1 of 2 of team (a signed; b or c could still sign)"),
        ("nobody", at_least(&keys, 2, "abc"), "", "0 of 2 of team (any 2 of a, b and c could still sign)"),
        ("all of them", at_least(&keys, 3, "abc"), "b", "1 of 3 of team (b signed; a and c could still sign)"),
        ("one signer, who has", one(&keys, "a"), "a", ""),
        ("one signer, who has not", one(&keys, "a"), "b", "a (has not signed)"),
        ("any: neither", any.clone(), "b", "a (has not signed) or 1 of 2 of team (b signed; c or d could still sign)"),
        ("any: the first", any.clone(), "a", ""),
        ("any: the second", any.clone(), "bd", ""),
        ("all: only the first", all.clone(), "a", "0 of 2 of team (any 2 of b, c and d could still sign)"),
        ("all: only the second", all.clone(), "bc", "a (has not signed)"),
        ("all: neither", all.clone(), "b", "a (has not signed) and 1 of 2 of team (b signed; c or d could still sign)"),
        ("all: both", all, "acd", ""),
        (
            "nested: brackets",
            nested.clone(),
            "b",
            "[a (has not signed) or 1 of 2 of team (b signed; c or d could still sign)] and \
             [d (has not signed) or 1 of 3 of team (b signed; a and c could still sign)]",
        ),
        ("nested: one signer serves two parts", nested, "ad", ""),
        ("demanding nothing is never met: all of nothing", Requirement::All(Vec::new()), "abcd", "-"),
        ("demanding nothing is never met: any of nothing", Requirement::Any(Vec::new()), "abcd", "-"),
        ("demanding nothing is never met: at least 0", at_least(&keys, 0, "ab"), "ab", "-"),
        ("more than there are", at_least(&keys, 3, "ab"), "ab", "-"),
    ];
    for (shows, requirement, signers, lacking) in cases {
        match evaluate(&requirement, &set(&keys, signers)) {
            Outcome::Met => assert_eq!(lacking, "", "{shows}: met"),
            Outcome::Short(_) if lacking == "-" => {}
            Outcome::Short(shortfall) => assert_eq!(shortfall.describe(&keys), lacking, "{shows}"),
        }
    }
}

#[test]
fn does_not_name_who_cannot_sign() {
    let keys = keyring(4, &[1, 2]);
    let cases = [
        ("one is left", at_least(&keys, 2, "abcd"), "a", "1 of 2 of team (a signed; d could still sign)"),
        ("too few are left", at_least(&keys, 3, "abcd"), "a", "1 of 3 of team (a signed; only d could still sign)"),
        ("nobody is left", at_least(&keys, 2, "abc"), "a", "1 of 2 of team (a signed; nobody else has a key in use)"),
        ("the only one", one(&keys, "b"), "a", "b (has not signed, and has no key in use)"),
    ];
    for (shows, requirement, signers, lacking) in cases {
        let Outcome::Short(shortfall) = evaluate(&requirement, &set(&keys, signers)) else { panic!("{shows}: met") };
        assert_eq!(shortfall.describe(&keys), lacking, "{shows}");
    }
}

#[test]
fn a_shortfall_is_data() {
    let keys = keyring(3, &[]);
    let outcome = evaluate(&at_least(&keys, 2, "abc"), &set(&keys, "b"));
    let Outcome::Short(Shortfall::Count { have, need, others, group }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((have, need, others, group.as_deref()), (set(&keys, "b"), 2, set(&keys, "ac"), Some("team")));
}

#[test]
fn a_description_is_bounded_however_large_the_requirement() {
    let keys = keyring(26, &[]);
    let all = "abcdefghijklmnopqrstuvwxyz";
    let large = at_least(&keys, 20, all);
    let parts = Requirement::Any((0..1_000).map(|_| large.clone()).collect());
    let nested = (0..30).fold(parts, |inner, _| Requirement::All(vec![one(&keys, "z"), inner]));
    let Outcome::Short(shortfall) = evaluate(&nested, &set(&keys, "a")) else { panic!("met") };
    assert!(shortfall.describe(&keys).chars().count() <= 600);
    assert!(nested.describe(&keys).chars().count() <= 600);
    let Outcome::Short(shortfall) = evaluate(&large, &BTreeSet::new()) else { panic!("met") };
    assert_eq!(shortfall.describe(&keys), "0 of 20 of team (any 20 of a, b, c, d, e and 21 others could still sign)");
}

/// What a requirement means, written down as plainly as can be.
fn means(requirement: &Requirement, signers: &BTreeSet<SignerId>) -> bool {
    match requirement {
        Requirement::Signer(id) => signers.contains(id),
        Requirement::AtLeast { count, of, .. } => {
            let mut signed = 0;
            for id in of {
                if signers.contains(id) {
                    signed += 1;
                }
            }
            *count > 0 && signed >= *count
        }
        Requirement::All(parts) => !parts.is_empty() && parts.iter().filter(|part| !means(part, signers)).count() == 0,
        Requirement::Any(parts) => parts.iter().filter(|part| means(part, signers)).count() > 0,
    }
}

/// Subsets of the eight signers of [`keyring`], as bits.
fn members(keyring: &Keyring, bits: u8) -> BTreeSet<SignerId> {
    let ids = keyring.signers().map(|(id, _)| id);
    ids.enumerate().filter(|(place, _)| bits & (1 << place) != 0).map(|(_, id)| id).collect()
}

fn requirements() -> impl Strategy<Value = Requirement> {
    let ids: Vec<SignerId> = keyring(8, &[]).signers().map(|(id, _)| id).collect();
    let leaf = prop_oneof![
        proptest::sample::select(ids).prop_map(Requirement::Signer),
        (0_usize..5, any::<u8>()).prop_map(|(count, bits)| Requirement::AtLeast {
            count,
            of: members(&keyring(8, &[]), bits),
            group: None,
        }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Requirement::All),
            proptest::collection::vec(inner, 0..4).prop_map(Requirement::Any),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_the_plain_definition(requirement in requirements(), bits: u8) {
        let signers = members(&keyring(8, &[]), bits);
        prop_assert_eq!(evaluate(&requirement, &signers).is_met(), means(&requirement, &signers));
    }

    #[test]
    fn more_signers_never_meet_less(requirement in requirements(), bits: u8, more: u8) {
        let keys = keyring(8, &[]);
        if evaluate(&requirement, &members(&keys, bits)).is_met() {
            prop_assert!(evaluate(&requirement, &members(&keys, bits | more)).is_met());
        }
    }

    #[test]
    fn a_completion_completes_and_only_the_impossible_has_none(requirement in requirements(), bits: u8) {
        let keys = keyring(8, &[]);
        let signers = members(&keys, bits);
        if let Outcome::Short(shortfall) = evaluate(&requirement, &signers) {
            match shortfall.completion() {
                Some(completion) => {
                    prop_assert!(completion.is_disjoint(&signers));
                    prop_assert!(evaluate(&requirement, &(&signers | &completion)).is_met());
                }
                None => prop_assert!(!evaluate(&requirement, &members(&keys, u8::MAX)).is_met()),
            }
        }
    }
}
