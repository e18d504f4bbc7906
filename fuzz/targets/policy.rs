//! Policies: whatever the text, it is read or refused, explained, and decides, in bounded time; and more signatures never
//! make a decision worse.
//!
//! Input: a policy's text, and after the first zero byte lines about a path: first its name, then a signature each. A
//! signature is three bytes (which is not looked at further if the first is odd: then the line is the signature): whose,
//! and when it was first seen.
#![no_main]

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use gauge::quickly;
use libfuzzer_sys::fuzz_target;
use policy::{Address, Basis, Policy, Requirement, Strength, Subject, Verdict, evaluate};
use verifier::{
    Claim, Evidence, Fingerprint, KeyName, NarHash, PathInfo, PublicKey, SecretKey, Signature, SignerId, StorePath,
    Timestamp,
};

/// The moment at which all is decided: 2027-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp::from_unix(1_798_761_600);

/// Longest time for reading, explaining or deciding, of a processor all to itself, with every check of the fuzzer in
/// place. The policy's own bounds are a fraction of a second without them.
const TIME: Duration = Duration::from_secs(4);

/// Most signatures that are weighed.
const MOST: usize = 12;

fuzz_target!(|input: &[u8]| {
    let zero = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let text = String::from_utf8_lossy(&input[..zero]);
    let lines = input.get(zero + 1..).unwrap_or_default();
    let policy = match quickly(TIME, "reading", || Policy::parse(&text, "policy.toml")) {
        Ok(policy) => policy,
        Err(errors) => {
            assert!(!errors.mistakes().is_empty(), "a refusal says why");
            quickly(TIME, "showing mistakes", || {
                for mistake in errors.mistakes() {
                    let _told = (mistake.line(), mistake.column(), mistake.error().advice());
                }
                errors.to_string()
            });
            return;
        }
    };
    explain(&policy);
    decide(&policy, lines);
});

fn explain(policy: &Policy) {
    let explanation = quickly(TIME, "explaining", || policy.explain(NOW));
    quickly(TIME, "showing an explanation", || explanation.to_string());
    serde_json::to_string(&explanation).expect("texts, numbers and lists");
    let demands = policy.rules().iter().zip(&explanation.rules);
    let demands = demands.filter_map(|(rule, told)| Some((rule.requirement()?, told.demand.as_ref()?)));
    for (requirement, demand) in demands.chain([(policy.default_requirement(), &explanation.default)]) {
        for set in demand.sets.sets.iter().take(8) {
            is_smallest(policy, requirement, set.iter().map(|name| &**name));
        }
    }
}

/// Checks that signers meet a requirement, and that none of them could be missing.
fn is_smallest<'a>(policy: &Policy, requirement: &Requirement, names: impl Iterator<Item = &'a str>) {
    let ids: HashMap<&str, SignerId> = policy.keyring().signers().map(|(id, signer)| (&*signer.name, id)).collect();
    let mut set: BTreeSet<SignerId> = names.map(|name| ids[name]).collect();
    assert!(evaluate(requirement, &set).is_met(), "a set that is said to be enough is not");
    for id in set.clone().into_iter().take(8) {
        set.remove(&id);
        assert!(!evaluate(requirement, &set).is_met(), "a set that is said to be smallest is not");
        set.insert(id);
    }
}

fn decide(policy: &Policy, lines: &[u8]) {
    let mut lines = lines.split(|byte| *byte == b'\n');
    let name = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let path = StorePath::from_parts([5; 20], &name);
    let path = path.unwrap_or_else(|_| StorePath::from_parts([5; 20], "linux-6.1").expect("a store path"));
    let other = StorePath::from_parts([6; 20], "other").expect("a store path");
    let fingerprint = fingerprint(policy, &path);
    let keys: Vec<&PublicKey> =
        policy.keyring().signers().flat_map(|(_, signer)| &signer.keys).map(|key| &key.public).collect();
    let claims: Vec<_> = lines.take(MOST).map(|line| claim(line, &keys, &fingerprint)).collect();
    // No signatures, the first half of them, and all.
    let weighed = [0, claims.len() / 2, claims.len()].map(|count| {
        let claims = claims[..count].iter().map(|(text, first_seen)| Claim { text, first_seen: *first_seen });
        quickly(TIME, "weighing", || Evidence::weigh(fingerprint.clone(), claims, policy.keyring(), NOW))
    });
    let addresses = [
        Address::None,
        Address::Claimed(Strength::Strong),
        Address::Claimed(Strength::Forgeable),
        Address::Proven(Strength::Strong),
        Address::Proven(Strength::Forgeable),
    ];
    for address in addresses {
        for absent in [&[][..], std::slice::from_ref(&other)] {
            let mut before = Verdict::Refuse;
            for evidence in &weighed {
                let subject = Subject { path: &path, evidence, address, absent_references: absent };
                let decision = quickly(TIME, "deciding", || policy.decide(&subject, NOW));
                let verdict = decision.verdict();
                assert!(verdict >= before, "more signatures made it worse");
                assert!(policy.stands(&subject, NOW).verdict() >= verdict, "what is admitted stands");
                assert_eq!(verdict == Verdict::Admit, lacks_nothing(policy, &subject, decision.basis()));
                for line in [decision.summary(&name), decision.held_summary(&name)] {
                    assert!(!line.chars().any(char::is_control), "a summary is one line: {line:?}");
                    assert!(line.chars().count() < 1_600, "a summary is short");
                }
                before = verdict;
            }
        }
    }
    let realisation = policy.decide_realisation(&path, &weighed[2], &[], NOW);
    assert!(realisation.basis() == Basis::Signatures, "no address stands for a realisation");
}

/// Says once more, in as few words as possible, whether a path may be admitted.
fn lacks_nothing(policy: &Policy, subject: &Subject<'_>, basis: Basis) -> bool {
    let met = |requirement: &Requirement| evaluate(requirement, subject.evidence.signers()).is_met();
    let strong = matches!(subject.address, Address::Claimed(Strength::Strong) | Address::Proven(Strength::Strong));
    let default = met(policy.default_requirement()) || (strong && basis == Basis::ContentAddress);
    let mut rules = policy.rules().iter().filter(|rule| rule.matches(subject.path.name()));
    default
        && rules.all(|rule| rule.requirement().is_none_or(met))
        && subject.absent_references.is_empty()
        && policy.expires().is_none_or(|moment| NOW < moment)
}

fn fingerprint(policy: &Policy, path: &StorePath) -> Fingerprint {
    let info = PathInfo {
        path: path.clone(),
        deriver: None,
        nar_hash: NarHash::from_sha256([9; 32]),
        nar_size: 120,
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    info.fingerprint(policy.store_dir()).expect("a size above 0")
}

/// Makes a signature of a line, with the time at which it was first seen.
fn claim(line: &[u8], keys: &[&PublicKey], fingerprint: &Fingerprint) -> (String, Option<Timestamp>) {
    let &[kind, whose, when, ..] = line else {
        return (String::from_utf8_lossy(line).into_owned(), None);
    };
    if kind % 2 == 1 || keys.is_empty() {
        return (String::from_utf8_lossy(line).into_owned(), None);
    }
    let key = keys[usize::from(whose) % keys.len()];
    let signature = match SEEDS.get(key.as_bytes()) {
        Some(seed) => SecretKey::from_seed(key.name().clone(), &[*seed; 32]).sign(fingerprint),
        None => Signature::new(key.name().clone(), [whose; 64]),
    };
    // A month each, some years around the present.
    let first_seen = (when != 0).then(|| Timestamp::from_unix(NOW.as_unix() + (i64::from(when) - 128) * 2_592_000));
    (signature.to_string(), first_seen)
}

/// The keys whose secret halves are known here: those made of 32 equal bytes, 1 to 20.
static SEEDS: LazyLock<HashMap<[u8; 32], u8>> = LazyLock::new(|| {
    let name = KeyName::new("seed").expect("a key's name");
    let public = |seed: u8| *SecretKey::from_seed(name.clone(), &[seed; 32]).public().as_bytes();
    (1..=20).map(|seed| (public(seed), seed)).collect()
});
