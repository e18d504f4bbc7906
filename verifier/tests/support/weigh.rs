//! Weighing signatures over the one fingerprint of the tests, at the one moment.

use verifier::{Claim, Evidence, Keyring, Signer, Timestamp};

use super::{fingerprint, secret, signer, trusted};

pub const NOW: i64 = 1_800_000_000;

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds)
}

pub fn keyring(signers: Vec<Signer>) -> Keyring {
    Keyring::new(signers).expect("each key stands once")
}

/// Alice and Bob with a key each.
pub fn alice_and_bob() -> Keyring {
    keyring(vec![
        signer("alice", vec![trusted(&secret("alice-1", 1))]),
        signer("bob", vec![trusted(&secret("bob-1", 2))]),
    ])
}

pub fn weigh(keyring: &Keyring, texts: &[&str]) -> Evidence {
    let claims = texts.iter().map(|&text| Claim { text, first_seen: None });
    Evidence::weigh(fingerprint(), claims, keyring, at(NOW))
}

/// The names of the signers that count, in the order of the keyring.
pub fn signers<'a>(keyring: &'a Keyring, evidence: &Evidence) -> Vec<&'a str> {
    evidence.signers().iter().map(|&id| &*keyring.signer(id).name).collect()
}

/// What each signature is worth: a finding's code, or `counts`.
pub fn codes(evidence: &Evidence) -> Vec<&'static str> {
    evidence.judged().iter().map(|judged| judged.verdict.code().unwrap_or("counts")).collect()
}
