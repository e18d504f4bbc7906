//! Decisions on single paths: every way in which signatures can fall short, and the lines that people read.

mod world;

use policy::{Address, Basis, Code, Decision, Finding, Policy, Strength, Subject, Verdict};
use verifier::{StorePath, Timestamp};
use world::{NOW, fingerprint, key, path, policy, policy_text, sign_again, weigh};

/// A signature by the key of this name and seed over contents 0 of the path.
fn signed(path: &StorePath, name: &str, seed: u8) -> (String, Option<Timestamp>) {
    (key(name, seed).sign(&fingerprint(path, 0)).to_string(), None)
}

fn decide_at(policy: &Policy, path: &StorePath, claims: &[(String, Option<Timestamp>)], now: Timestamp) -> Decision {
    let evidence = weigh(policy, fingerprint(path, 0), claims);
    policy.decide(&Subject { path, evidence: &evidence, address: Address::None, absent_references: &[] }, now)
}

fn decide(path: &StorePath, claims: &[(String, Option<Timestamp>)]) -> Decision {
    decide_at(&policy(), path, claims, NOW)
}

fn codes(decision: &Decision) -> Vec<&'static str> {
    decision.findings().iter().map(|finding| finding.code.as_str()).collect()
}

const BEFORE_JUNE: Timestamp = Timestamp::from_unix(1_780_000_000);
const AFTER_EXPIRY: Timestamp = Timestamp::from_unix(1_830_000_000);

#[test]
fn signatures_are_counted_by_signer() {
    let hello = path(1, "hello-2.12");
    let (eu, us, ap) = (signed(&hello, "ci-eu-2", 2), signed(&hello, "ci-us-1", 3), signed(&hello, "ci-ap-1", 4));
    let nixos = signed(&hello, "cache.nixos.org-1", 1);
    let again = (sign_again("ci-eu-2", 2, &fingerprint(&hello, 0)).to_string(), None);
    let spelled = (eu.0.trim_end_matches('=').to_owned(), None);
    let renamed = signed(&hello, "ci-us-1", 2);
    let unknown = signed(&hello, "mallory-1", 9);
    let elsewhere = (key("ci-us-1", 3).sign(&fingerprint(&path(2, "hello-2.12"), 0)).to_string(), None);
    let other_contents = (key("ci-us-1", 3).sign(&fingerprint(&hello, 1)).to_string(), None);
    let revoked = signed(&hello, "ci-eu-1", 5);
    let malformed = ("ci-us-1:not base64".to_owned(), None);
    let early = |claim: &(String, _)| (claim.0.clone(), Some(BEFORE_JUNE));
    let late = |claim: &(String, _)| (claim.0.clone(), Some(AFTER_EXPIRY));
    let seen = |claim: &(String, _), at| (claim.0.clone(), Some(Timestamp::from_unix(at)));
    let cases = [
        ("nothing", vec![], Verdict::Refuse, vec!["quorum-missing"]),
        ("k-1", vec![eu.clone()], Verdict::Hold, vec!["quorum-missing"]),
        ("k", vec![eu.clone(), us.clone()], Verdict::Admit, vec![]),
        ("k+1", vec![eu.clone(), us.clone(), ap.clone()], Verdict::Admit, vec![]),
        ("the other way", vec![nixos.clone()], Verdict::Admit, vec![]),
        (
            "the same signature twice",
            vec![eu.clone(), eu.clone()],
            Verdict::Hold,
            vec!["quorum-missing", "duplicate-signer"],
        ),
        ("a second nonce", vec![eu.clone(), again], Verdict::Hold, vec!["quorum-missing", "duplicate-signer"]),
        (
            "the same signature spelled otherwise",
            vec![eu.clone(), spelled],
            Verdict::Hold,
            vec!["quorum-missing", "duplicate-signer"],
        ),
        (
            "one key under another signer's key name",
            vec![eu.clone(), renamed],
            Verdict::Hold,
            vec!["quorum-missing", "bad-signature"],
        ),
        ("an unknown key", vec![eu.clone(), unknown.clone()], Verdict::Hold, vec!["quorum-missing", "unknown-key"]),
        ("only an unknown key", vec![unknown], Verdict::Refuse, vec!["quorum-missing", "unknown-key"]),
        (
            "malformed, then good",
            vec![malformed.clone(), eu.clone(), us.clone()],
            Verdict::Admit,
            vec!["malformed-signature"],
        ),
        (
            "good, then malformed",
            vec![eu.clone(), malformed],
            Verdict::Hold,
            vec!["quorum-missing", "malformed-signature"],
        ),
        ("over another path", vec![eu.clone(), elsewhere], Verdict::Hold, vec!["quorum-missing", "bad-signature"]),
        (
            "over other contents",
            vec![eu.clone(), other_contents],
            Verdict::Hold,
            vec!["quorum-missing", "bad-signature"],
        ),
        (
            "a revoked key of a signer",
            vec![revoked.clone(), us.clone()],
            Verdict::Hold,
            vec!["quorum-missing", "revoked-key"],
        ),
        (
            "a revoked key beside its signer's other key",
            vec![revoked, eu.clone(), us.clone()],
            Verdict::Admit,
            vec!["revoked-key"],
        ),
        ("seen before its key expired", vec![eu.clone(), early(&us)], Verdict::Admit, vec![]),
        (
            "seen when its key had expired",
            vec![eu.clone(), late(&us)],
            Verdict::Hold,
            vec!["quorum-missing", "expired-key"],
        ),
        ("seen in the last second of its key", vec![eu.clone(), seen(&us, 1_811_807_999)], Verdict::Admit, vec![]),
        (
            "seen in the second of its key's end",
            vec![eu.clone(), seen(&us, 1_811_808_000)],
            Verdict::Hold,
            vec!["quorum-missing", "expired-key"],
        ),
        (
            "seen before its key's time",
            vec![eu.clone(), early(&ap)],
            Verdict::Hold,
            vec!["quorum-missing", "key-not-yet-valid"],
        ),
        ("seen in the first second of its key", vec![eu, seen(&ap, 1_780_272_000)], Verdict::Admit, vec![]),
    ];
    for (shows, claims, verdict, expected) in cases {
        let decision = decide(&hello, &claims);
        assert_eq!((decision.verdict(), codes(&decision)), (verdict, expected), "{shows}");
    }
}

#[test]
fn rules_apply_on_top_of_the_default() {
    let kernel = path(3, "linux-6.12");
    let nixos = signed(&kernel, "cache.nixos.org-1", 1);
    let alice = signed(&kernel, "alice-1", 6);
    let cases = [
        ("the default alone", vec![nixos.clone()], Verdict::Hold),
        ("the rule alone", vec![alice.clone()], Verdict::Hold),
        ("both", vec![nixos, alice], Verdict::Admit),
        ("neither", vec![], Verdict::Refuse),
    ];
    for (shows, claims, verdict) in cases {
        assert_eq!(decide(&kernel, &claims).verdict(), verdict, "{shows}");
    }
}

#[test]
fn a_strong_address_stands_for_the_default_alone() {
    let policy = policy();
    let demanding = policy_text()
        .replace("[[rules]]\nname = \"kernels", "content-addressed = \"require\"\n\n[[rules]]\nname = \"kernels");
    let demanding = Policy::parse(&demanding, "p").unwrap_or_else(|errors| panic!("{errors}"));
    let (plain, kernel, firmware) = (path(1, "hello-2.12"), path(3, "linux-6.12"), path(4, "wifi-firmware"));
    let strong = [Address::Claimed(Strength::Strong), Address::Proven(Strength::Strong)];
    let weak = [Address::Claimed(Strength::Forgeable), Address::Proven(Strength::Forgeable)];
    let cases = [
        ("a strong address", &policy, &plain, strong, Verdict::Admit, vec![]),
        (
            "one that can be forged",
            &policy,
            &plain,
            weak,
            Verdict::Refuse,
            vec!["quorum-missing", "weak-content-address"],
        ),
        ("none", &policy, &plain, [Address::None; 2], Verdict::Refuse, vec!["quorum-missing"]),
        ("a rule that requires a signer", &policy, &kernel, strong, Verdict::Refuse, vec!["quorum-missing"]),
        ("a rule that requires signatures", &policy, &firmware, strong, Verdict::Refuse, vec!["quorum-missing"]),
        ("a policy that requires signatures", &demanding, &plain, strong, Verdict::Refuse, vec!["quorum-missing"]),
    ];
    for (shows, policy, path, addresses, verdict, expected) in cases {
        let evidence = weigh(policy, fingerprint(path, 0), &[]);
        for address in addresses {
            let decision = policy.decide(&Subject { path, evidence: &evidence, address, absent_references: &[] }, NOW);
            assert_eq!((decision.verdict(), codes(&decision)), (verdict, expected.clone()), "{shows}: {address:?}");
            let basis = if verdict == Verdict::Admit { Basis::ContentAddress } else { decision.basis() };
            assert_eq!(decision.basis(), basis, "{shows}");
        }
        let realised = policy.decide_realisation(path, &evidence, &[], NOW);
        assert_eq!(realised.verdict(), Verdict::Refuse, "{shows}: a realisation needs signatures always");
    }
}

#[test]
fn signatures_that_suffice_are_the_basis_even_of_a_content_addressed_path() {
    let (policy, hello) = (policy(), path(1, "hello-2.12"));
    let evidence = weigh(&policy, fingerprint(&hello, 0), &[signed(&hello, "cache.nixos.org-1", 1)]);
    let address = Address::Claimed(Strength::Strong);
    let subject = Subject { path: &hello, evidence: &evidence, address, absent_references: &[] };
    assert_eq!(policy.decide(&subject, NOW).basis(), Basis::Signatures);
}

#[test]
fn references_have_to_be_admitted() {
    let (policy, hello) = (policy(), path(1, "hello-2.12"));
    let glibc = [path(7, "glibc-2.40")];
    let itself = [hello.clone()];
    let nixos = [signed(&hello, "cache.nixos.org-1", 1)];
    let strong = Address::Proven(Strength::Strong);
    let cases = [
        ("signed, one is absent", &nixos[..], Address::None, &glibc[..], Verdict::Hold),
        ("signed, only itself is absent", &nixos[..], Address::None, &itself[..], Verdict::Admit),
        ("content-addressed, one is absent", &[], strong, &glibc[..], Verdict::Hold),
        ("nobody vouches, one is absent", &[], Address::None, &glibc[..], Verdict::Refuse),
    ];
    for (shows, claims, address, absent_references, verdict) in cases {
        let evidence = weigh(&policy, fingerprint(&hello, 0), claims);
        let subject = Subject { path: &hello, evidence: &evidence, address, absent_references };
        assert_eq!(policy.decide(&subject, NOW).verdict(), verdict, "{shows}");
    }
    let evidence = weigh(&policy, fingerprint(&hello, 0), &nixos);
    assert_eq!(policy.decide_realisation(&hello, &evidence, &glibc, NOW).verdict(), Verdict::Hold);
    assert_eq!(policy.decide_realisation(&hello, &evidence, &[], NOW).verdict(), Verdict::Admit);
}

#[test]
fn an_expired_policy_admits_nothing_new_and_takes_nothing_away() {
    let (policy, hello) = (policy(), path(1, "hello-2.12"));
    let nixos = [signed(&hello, "cache.nixos.org-1", 1)];
    let evidence = weigh(&policy, fingerprint(&hello, 0), &nixos);
    let subject = Subject { path: &hello, evidence: &evidence, address: Address::None, absent_references: &[] };
    let expires = policy.expires().expect("it expires");
    let last = Timestamp::from_unix(expires.as_unix() - 1);
    assert_eq!(policy.decide(&subject, last).verdict(), Verdict::Admit, "the last second");
    let decision = policy.decide(&subject, expires);
    assert_eq!((decision.verdict(), codes(&decision)), (Verdict::Hold, vec!["policy-expired"]), "the second of expiry");
    assert_eq!(policy.stands(&subject, expires).verdict(), Verdict::Admit, "for readers");
    assert_eq!(policy.realisation_stands(&hello, &evidence, &[], expires).verdict(), Verdict::Admit, "for readers");
    let strong = Subject {
        address: Address::Proven(Strength::Strong),
        evidence: &weigh(&policy, fingerprint(&hello, 0), &[]),
        ..subject
    };
    assert_eq!(policy.decide(&strong, expires).verdict(), Verdict::Refuse, "there is no vote to hold it for");
}

#[test]
fn says_when_time_alone_could_change_the_decision() {
    let (policy, hello) = (policy(), path(1, "hello-2.12"));
    let june = Timestamp::from_unix(1_811_808_000);
    let us = signed(&hello, "ci-us-1", 3);
    let recorded = (us.0.clone(), Some(NOW));
    let expires = policy.expires();
    let after = Timestamp::from_unix(expires.expect("it expires").as_unix() + 1);
    let cases = [
        ("the policy's expiry", vec![], NOW, expires, None),
        ("a key's end, as its signature is not recorded", vec![us], NOW, Some(june), Some(june)),
        ("a recorded signature keeps its worth", vec![recorded], NOW, expires, None),
        ("nothing lies ahead", vec![], after, None, None),
    ];
    for (shows, claims, now, for_new, for_readers) in cases {
        let evidence = weigh(&policy, fingerprint(&hello, 0), &claims);
        let subject = Subject { path: &hello, evidence: &evidence, address: Address::None, absent_references: &[] };
        assert_eq!(policy.decide(&subject, now).next_change(), for_new, "{shows}");
        assert_eq!(policy.stands(&subject, now).next_change(), for_readers, "{shows}: for readers");
    }
}

#[test]
fn a_decision_can_only_be_lowered() {
    let hello = path(1, "hello-2.12");
    let admitted = decide(&hello, &[signed(&hello, "cache.nixos.org-1", 1)]);
    let conflict = || Finding::new(Code::Conflict, "two contents are claimed");
    let held = admitted.clone().limited(Verdict::Hold, conflict());
    assert_eq!((held.verdict(), codes(&held)), (Verdict::Hold, vec!["conflict"]));
    let noted = admitted.limited(Verdict::Admit, conflict());
    assert_eq!((noted.verdict(), codes(&noted)), (Verdict::Admit, vec!["conflict"]));
    let refused = Decision::refusal(conflict());
    assert_eq!(refused.clone().limited(Verdict::Admit, conflict()).verdict(), Verdict::Refuse);
}

#[test]
fn summaries_are_one_line() {
    let (policy, hello, kernel) = (policy(), path(1, "hello-2.12"), path(3, "linux-6.12"));
    let all = |path: &StorePath| -> Vec<(String, Option<Timestamp>)> {
        vec![
            signed(path, "ci-eu-2", 2),
            (sign_again("ci-eu-2", 2, &fingerprint(path, 0)).to_string(), None),
            signed(path, "mallory-1", 9),
            signed(path, "ci-eu-1", 5),
            (signed(path, "ci-us-1", 3).0, Some(AFTER_EXPIRY)),
            (signed(path, "ci-ap-1", 4).0, Some(BEFORE_JUNE)),
            (key("ci-us-1", 3).sign(&fingerprint(path, 1)).to_string(), None),
            ("\u{1b}[31m\nno signature at all".to_owned(), None),
        ]
    };
    let mut shown = String::new();
    let mut show = |what: &str, path: &StorePath, decision: Decision| {
        let line = decision.summary(&policy.store_dir().render_path(path));
        assert!(!line.chars().any(char::is_control), "{line}");
        shown.push_str(&format!("#### {what}\n{line}\n\n"));
    };
    show("nobody", &hello, decide(&hello, &[]));
    show("one of two", &hello, decide(&hello, &[signed(&hello, "ci-eu-2", 2)]));
    show("admitted by one", &hello, decide(&hello, &[signed(&hello, "cache.nixos.org-1", 1)]));
    show("admitted by two", &hello, decide(&hello, &[signed(&hello, "ci-us-1", 3), signed(&hello, "ci-eu-2", 2)]));
    show("a rule", &kernel, decide(&kernel, &[signed(&kernel, "cache.nixos.org-1", 1)]));
    show("everything that can be wrong with signatures", &hello, decide(&hello, &all(&hello)));
    let none = weigh(&policy, fingerprint(&hello, 0), &[]);
    let many: Vec<StorePath> = (10..30).map(|number| path(number, "dependency")).collect();
    let subject = |address, absent_references| Subject { path: &hello, evidence: &none, address, absent_references };
    let proven = Address::Proven(Strength::Strong);
    show("content-addressed", &hello, policy.decide(&subject(proven, &[]), NOW));
    show("content-addressed, a reference lacks", &hello, policy.decide(&subject(proven, &many[..1]), NOW));
    show("content-addressed, many references lack", &hello, policy.decide(&subject(proven, &many), NOW));
    show("a weak address", &hello, policy.decide(&subject(Address::Claimed(Strength::Forgeable), &[]), NOW));
    show(
        "who cannot sign any more is not named",
        &hello,
        decide_at(&policy, &hello, &[signed(&hello, "ci-eu-2", 2)], AFTER_EXPIRY),
    );
    show(
        "from outside",
        &hello,
        Decision::refusal(Finding::new(Code::ContentMismatch, "expected 120 bytes, found 121\nand more")),
    );
    let held = decide(&hello, &[signed(&hello, "ci-eu-2", 2)]);
    assert_eq!(held.held_summary("p"), held.summary("p").replacen("refused", "held", 1));
    insta::assert_snapshot!("summaries", shown);

    let mut findings = String::new();
    for finding in decide(&hello, &all(&hello)).findings() {
        findings.push_str(&format!("{finding}\n"));
    }
    insta::assert_snapshot!("findings", findings);
}

#[test]
fn a_summary_is_bounded_and_escapes_the_path_too() {
    let hello = path(1, "hello-2.12");
    let flood: Vec<_> = (0..2_000).map(|n| (format!("key-{n}\n{}:", "x".repeat(500)), None)).collect();
    let line = decide(&hello, &flood).summary("/nix/store/\n\u{202e}evil");
    assert!(line.chars().count() <= 1_500 && !line.chars().any(char::is_control), "{line}");
    assert!(line.starts_with(r"refused /nix/store/\n\u{202e}evil: quorum-missing: "), "{line}");
}

#[test]
fn codes_agree_with_the_verifier() {
    let hello = path(1, "hello-2.12");
    let policy = policy();
    let claims = [
        signed(&hello, "mallory-1", 9),
        signed(&hello, "ci-eu-1", 5),
        signed(&hello, "ci-us-1", 2),
        ("nonsense".to_owned(), None),
        (signed(&hello, "ci-us-1", 3).0, Some(AFTER_EXPIRY)),
        (signed(&hello, "ci-ap-1", 4).0, Some(BEFORE_JUNE)),
        signed(&hello, "ci-eu-2", 2),
        signed(&hello, "ci-eu-2", 2),
    ];
    let evidence = weigh(&policy, fingerprint(&hello, 0), &claims);
    let from_verifier: Vec<_> = evidence.judged().iter().filter_map(|judged| judged.verdict.code()).collect();
    assert_eq!(codes(&decide(&hello, &claims))[1..], from_verifier[..]);
    assert_eq!(from_verifier.len(), 7, "every verdict but the one that counts");
}
