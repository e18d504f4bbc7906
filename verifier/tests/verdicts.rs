//! Verdicts: what each signature is worth, one by one and in any pile.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use support::weigh::{NOW, at, codes, keyring, signers, weigh};
use support::{cases, fingerprint, other_fingerprint, secret, signer, trusted};
use verifier::{Claim, Evidence, Fingerprint, Keyring, KeyringError, Timestamp, TrustedKey, Verdict, Window};

/// A signature by the key of a seed, under a name, over one of the two fingerprints, first seen or not.
struct Signed {
    name: &'static str,
    seed: u8,
    over: fn() -> Fingerprint,
    first_seen: Option<i64>,
}

const fn signed(name: &'static str, seed: u8) -> Signed {
    Signed { name, seed, over: fingerprint, first_seen: None }
}

const fn seen(name: &'static str, seed: u8, first_seen: i64) -> Signed {
    Signed { name, seed, over: fingerprint, first_seen: Some(first_seen) }
}

struct Case {
    name: &'static str,
    given: &'static [Signed],
    codes: &'static [&'static str],
    signers: &'static [&'static str],
    next_change: Option<i64>,
}

const HOUR: i64 = 3600;

/// - `ci`: two keys without a limit, `ci-1` and `ci-2`;
/// - `old`: `old-1`, revoked; `old-2`, in use
/// - `past`: until an hour ago; `future`: from in two hours; `present`: from an hour ago until in an hour;
/// - `edge`: `edge-1` until just now, `edge-2` from just now;
/// - `gone`: revoked, and until in an hour.
fn many_signers() -> Keyring {
    let key = |name, seed, window, revoked: Option<&str>| TrustedKey {
        window,
        revoked: revoked.map(Into::into),
        ..trusted(&secret(name, seed))
    };
    let always = Window::default();
    let until = |not_after| Window { not_before: None, not_after: Some(at(not_after)) };
    let from = |not_before| Window { not_before: Some(at(not_before)), not_after: None };
    let between = Window { not_before: Some(at(NOW - HOUR)), not_after: Some(at(NOW + HOUR)) };
    keyring(vec![
        signer("ci", vec![key("ci-1", 1, always, None), key("ci-2", 2, always, None)]),
        signer("old", vec![key("old-1", 3, always, Some("disk stolen")), key("old-2", 4, always, None)]),
        signer("past", vec![key("past-1", 5, until(NOW - HOUR), None)]),
        signer("future", vec![key("future-1", 6, from(NOW + 2 * HOUR), None)]),
        signer("present", vec![key("present-1", 7, between, None)]),
        signer("edge", vec![key("edge-1", 8, until(NOW), None), key("edge-2", 9, from(NOW), None)]),
        signer("gone", vec![key("gone-1", 10, until(NOW + HOUR), Some("left"))]),
    ])
}

const CASES: &[Case] = &[
    Case { name: "no signature at all", given: &[], codes: &[], signers: &[], next_change: None },
    Case {
        name: "one good signature",
        given: &[signed("ci-1", 1)],
        codes: &["counts"],
        signers: &["ci"],
        next_change: None,
    },
    Case {
        name: "a key that no signer has",
        given: &[signed("mallory-1", 66)],
        codes: &["unknown-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "another's key under a signer's name",
        given: &[signed("ci-1", 66)],
        codes: &["bad-signature"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "two keys of one signer",
        given: &[signed("ci-1", 1), signed("ci-2", 2)],
        codes: &["counts", "duplicate-signer"],
        signers: &["ci"],
        next_change: None,
    },
    Case {
        name: "a key of one signer under the name of its other key",
        given: &[signed("ci-1", 2)],
        codes: &["bad-signature"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "two signers between strangers",
        given: &[signed("mallory-1", 66), signed("present-1", 7), signed("ci-1", 66), signed("ci-2", 2)],
        codes: &["unknown-key", "counts", "bad-signature", "counts"],
        signers: &["ci", "present"],
        next_change: Some(NOW + HOUR),
    },
    Case {
        name: "a good signature over another fingerprint",
        given: &[Signed { over: other_fingerprint, ..signed("ci-1", 1) }],
        codes: &["bad-signature"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "a revoked key",
        given: &[signed("old-1", 3)],
        codes: &["revoked-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "a revoked key, first seen long ago",
        given: &[seen("old-1", 3, 0)],
        codes: &["revoked-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "a revoked key, twice",
        given: &[signed("old-1", 3), signed("old-1", 3)],
        codes: &["revoked-key", "revoked-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "a revoked key takes nothing from its signer's other key",
        given: &[signed("old-1", 3), signed("old-2", 4)],
        codes: &["revoked-key", "counts"],
        signers: &["old"],
        next_change: None,
    },
    Case {
        name: "a revoked key with a window: revocation comes first, and time changes nothing",
        given: &[signed("gone-1", 10)],
        codes: &["revoked-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "another's signature under a revoked key's name is no revocation",
        given: &[signed("old-1", 66)],
        codes: &["bad-signature"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "expired, and nobody recorded when it was first seen",
        given: &[signed("past-1", 5)],
        codes: &["expired-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "expired now, but first seen in time: a rotation empties nothing",
        given: &[seen("past-1", 5, NOW - HOUR - 1)],
        codes: &["counts"],
        signers: &["past"],
        next_change: None,
    },
    Case {
        name: "first seen at the moment of expiry",
        given: &[seen("past-1", 5, NOW - HOUR)],
        codes: &["expired-key"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "not yet valid: the beginning of its window changes that",
        given: &[signed("future-1", 6)],
        codes: &["key-not-yet-valid"],
        signers: &[],
        next_change: Some(NOW + 2 * HOUR),
    },
    Case {
        name: "first seen before its window: waiting changes nothing",
        given: &[seen("future-1", 6, NOW)],
        codes: &["key-not-yet-valid"],
        signers: &[],
        next_change: None,
    },
    Case {
        name: "first seen when its window began",
        given: &[seen("future-1", 6, NOW + 2 * HOUR)],
        codes: &["counts"],
        signers: &["future"],
        next_change: None,
    },
    Case {
        name: "inside its window: the end will change that",
        given: &[signed("present-1", 7)],
        codes: &["counts"],
        signers: &["present"],
        next_change: Some(NOW + HOUR),
    },
    Case {
        name: "first seen inside its window: no end changes that",
        given: &[seen("present-1", 7, NOW - HOUR)],
        codes: &["counts"],
        signers: &["present"],
        next_change: None,
    },
    Case {
        name: "the end of a window is excluded, its beginning included",
        given: &[signed("edge-1", 8), signed("edge-2", 9)],
        codes: &["expired-key", "counts"],
        signers: &["edge"],
        next_change: None,
    },
    Case {
        name: "the earlier of two changes, which comes last",
        given: &[signed("future-1", 6), signed("present-1", 7)],
        codes: &["key-not-yet-valid", "counts"],
        signers: &["present"],
        next_change: Some(NOW + HOUR),
    },
    Case {
        name: "the earlier of two changes, which comes first",
        given: &[signed("present-1", 7), signed("future-1", 6)],
        codes: &["counts", "key-not-yet-valid"],
        signers: &["present"],
        next_change: Some(NOW + HOUR),
    },
    Case {
        name: "one signature twice, first seen too late and in time",
        given: &[signed("past-1", 5), seen("past-1", 5, NOW - HOUR - 1)],
        codes: &["expired-key", "counts"],
        signers: &["past"],
        next_change: None,
    },
    Case {
        name: "one signature three times, twice in time",
        given: &[signed("past-1", 5), seen("past-1", 5, 1), seen("past-1", 5, 2)],
        codes: &["expired-key", "counts", "duplicate-signer"],
        signers: &["past"],
        next_change: None,
    },
];

#[test]
fn each_signature_gets_its_verdict() {
    let keyring = many_signers();
    for case in CASES {
        let sign = |signed: &Signed| secret(signed.name, signed.seed).sign(&(signed.over)()).to_string();
        let texts: Vec<String> = case.given.iter().map(sign).collect();
        let first_seen = |signed: &Signed| signed.first_seen.map(at);
        let claims = texts.iter().zip(case.given).map(|(text, signed)| Claim { text, first_seen: first_seen(signed) });
        let evidence = Evidence::weigh(fingerprint(), claims, &keyring, at(NOW));
        assert_eq!(codes(&evidence), case.codes, "{}", case.name);
        assert_eq!(signers(&keyring, &evidence), case.signers, "{}", case.name);
        assert_eq!(evidence.next_change(), case.next_change.map(at), "{}", case.name);
        assert_eq!(evidence.fingerprint(), &fingerprint(), "{}", case.name);
        let judged: Vec<&str> = evidence.judged().iter().map(|judged| judged.text.as_str()).collect();
        assert_eq!(judged, texts, "{}", case.name);
    }
}

#[test]
fn a_verdict_says_whose_key_and_why() {
    let keyring = many_signers();
    let verdict = |name, seed| {
        let text = secret(name, seed).sign(&fingerprint()).to_string();
        weigh(&keyring, &[&text]).judged()[0].verdict.clone()
    };
    let signer = |name| keyring.find(name).expect("a signer");
    assert_eq!(verdict("old-1", 3), Verdict::Revoked { signer: signer("old"), reason: "disk stolen".into() });
    assert_eq!(verdict("past-1", 5), Verdict::Expired { signer: signer("past"), not_after: at(NOW - HOUR) });
    let not_before = at(NOW + 2 * HOUR);
    assert_eq!(verdict("future-1", 6), Verdict::NotYetValid { signer: signer("future"), not_before });
    assert_eq!(verdict("ci-2", 2), Verdict::Counts(signer("ci")));
}

#[test]
fn a_verdict_names_the_key_that_verifies_whether_it_counts_or_not() {
    let keyring = many_signers();
    let by = |name, seed, text: &str| {
        let evidence = weigh(&keyring, &[text, text]);
        let expected = Some(*secret(name, seed).public().as_bytes());
        assert_eq!(evidence.judged()[0].verified_by, expected, "{name}");
        assert_eq!(evidence.judged()[1].verified_by, expected, "{name}, again");
    };
    for (name, seed) in [("ci-2", 2), ("old-1", 3), ("past-1", 5), ("future-1", 6), ("gone-1", 10)] {
        by(name, seed, &secret(name, seed).sign(&fingerprint()).to_string());
    }
    let over_another = secret("ci-1", 1).sign(&other_fingerprint()).to_string();
    let strangers = secret("mallory-1", 66).sign(&fingerprint()).to_string();
    for text in [over_another.as_str(), &strangers, "ci-1:AAAA"] {
        assert_eq!(weigh(&keyring, &[text]).judged()[0].verified_by, None, "{text}");
    }
}

#[test]
fn nothing_changes_before_the_next_change_and_something_at_it() {
    let keyring = many_signers();
    for (name, seed) in [("present-1", 7), ("future-1", 6)] {
        let text = secret(name, seed).sign(&fingerprint()).to_string();
        let code = |now| {
            let claim = Claim { text: &text, first_seen: None };
            let evidence = Evidence::weigh(fingerprint(), [claim], &keyring, at(now));
            (codes(&evidence)[0], evidence.next_change())
        };
        let (before, change) = code(NOW);
        let change = change.expect("a window ends or begins").as_unix();
        assert_eq!(code(change - 1).0, before, "{name}");
        assert_ne!(code(change).0, before, "{name}");
        assert_eq!(code(change).1, None, "{name}");
    }
}

#[test]
fn nobody_signs_for_an_empty_keyring() {
    let evidence = weigh(&Keyring::default(), &[&secret("ci-1", 1).sign(&fingerprint()).to_string()]);
    assert_eq!(codes(&evidence), ["unknown-key"]);
    assert!(evidence.signers().is_empty());
}

// Keyrings.

#[test]
fn two_signers_of_one_name_make_no_keyring() {
    let twice = vec![signer("ci", vec![trusted(&secret("a", 1))]), signer("ci", vec![trusted(&secret("b", 2))])];
    assert_eq!(Keyring::new(twice).err(), Some(KeyringError::SignerTwice("ci".into())));
}

#[test]
fn a_keyring_finds_its_signers_by_name_and_in_order() {
    let keyring = many_signers();
    let names: Vec<&str> = keyring.signers().map(|(_, signer)| &*signer.name).collect();
    assert_eq!(names, ["ci", "old", "past", "future", "present", "edge", "gone"]);
    for (id, signer) in keyring.signers() {
        assert_eq!(keyring.find(&signer.name), Some(id));
        assert_eq!(keyring.signer(id), signer);
    }
    assert_eq!(keyring.find("mallory"), None);
    assert_eq!(keyring.find("ci-1"), None, "a key's name is no signer's");
}

// What holds for any pile of signatures.

/// Any signature over either fingerprint, by any key, respelled or not, seen at any time.
fn any_claim() -> impl Strategy<Value = (String, Option<Timestamp>)> {
    let names = ["ci-1", "ci-2", "old-1", "old-2", "past-1", "future-1", "present-1", "edge-1", "edge-2", "gone-1"];
    let times = prop::option::of(prop::sample::select(vec![NOW - 2 * HOUR, NOW - HOUR, NOW, NOW + HOUR]));
    (0..names.len(), 1..12_u8, any::<bool>(), any::<bool>(), any::<bool>(), times).prop_map(
        move |(name, any_seed, own, right, bare, first_seen)| {
            let seed = if own { u8::try_from(name).expect("a small number") + 1 } else { any_seed };
            let over = if right { fingerprint() } else { other_fingerprint() };
            let text = secret(names[name], seed).sign(&over).to_string();
            let text = if bare { text.trim_end_matches('=').to_owned() } else { text };
            (text, first_seen.map(at))
        },
    )
}

fn weigh_claims(keyring: &Keyring, claims: &[(String, Option<Timestamp>)]) -> Evidence {
    let claims = claims.iter().map(|(text, first_seen)| Claim { text, first_seen: *first_seen });
    Evidence::weigh(fingerprint(), claims, keyring, at(NOW))
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn the_order_of_signatures_decides_nothing(claims in prop::collection::vec(any_claim(), 0..12).prop_shuffle()) {
        let keyring = many_signers();
        let evidence = weigh_claims(&keyring, &claims);
        let (mut reversed, mut sorted) = (claims.clone(), claims);
        reversed.reverse();
        sorted.sort();
        for claims in [reversed, sorted] {
            let other = weigh_claims(&keyring, &claims);
            prop_assert_eq!(other.signers(), evidence.signers());
        }
    }

    #[test]
    fn who_counts_together_is_who_counts_alone(claims in prop::collection::vec(any_claim(), 0..12)) {
        let keyring = many_signers();
        let evidence = weigh_claims(&keyring, &claims);
        let alone = claims.iter().flat_map(|claim| weigh_claims(&keyring, std::slice::from_ref(claim)).signers().clone());
        let alone: BTreeSet<_> = alone.collect();
        prop_assert_eq!(evidence.signers(), &alone);
        let counts = codes(&evidence).iter().filter(|code| **code == "counts").count();
        prop_assert_eq!(counts, alone.len(), "each signer's vote is cast by one signature");
        prop_assert_eq!(evidence.judged().len(), claims.len());
    }

    #[test]
    fn no_pile_of_texts_makes_weighing_panic(texts in prop::collection::vec("(ci-1:)?.{0,100}", 0..8)) {
        let keyring = many_signers();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        prop_assert!(weigh(&keyring, &texts).signers().is_empty());
    }
}
