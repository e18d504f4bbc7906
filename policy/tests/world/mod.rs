//! What the tests share: keys, paths, evidence, and a policy to try them on.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeSet;

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{SigningKey, VerifyingKey};
use policy::Policy;
use verifier::{
    Claim, Evidence, Fingerprint, KeyName, NarHash, PathInfo, SecretKey, Signature, StoreDir, StorePath, Timestamp,
};

/// The moment at which the tests take place: 2027-01-01T00:00:00Z.
pub const NOW: Timestamp = Timestamp::from_unix(1_798_761_600);

/// Makes a key of a name from a seed byte; one seed under two names is one key renamed.
pub fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(KeyName::new(name).expect("a key's name"), &[seed; 32])
}

/// The public half of [`key`], as a policy spells it.
pub fn public(name: &str, seed: u8) -> String {
    key(name, seed).public().to_string()
}

/// A second signature by the same key over the same fingerprint, made with another nonce.
pub fn sign_again(name: &str, seed: u8, fingerprint: &Fingerprint) -> Signature {
    let signing = SigningKey::from_bytes(&[seed; 32]);
    let mut expanded = ExpandedSecretKey::from(&signing.to_bytes());
    expanded.hash_prefix = [0xA5; 32];
    let verifying: VerifyingKey = signing.verifying_key();
    let signature = raw_sign::<sha2::Sha512>(&expanded, fingerprint.as_bytes(), &verifying);
    Signature::new(KeyName::new(name).expect("a key's name"), signature.to_bytes())
}

/// A store path of a name, whose hash part comes from a number.
pub fn path(number: u32, name: &str) -> StorePath {
    let mut digest = [0; 20];
    digest[..4].copy_from_slice(&number.to_be_bytes());
    StorePath::from_parts(digest, name).expect("a store path")
}

/// The fingerprint of a path without references, whose contents come from a number.
pub fn fingerprint(path: &StorePath, contents: u8) -> Fingerprint {
    let info = PathInfo {
        path: path.clone(),
        deriver: None,
        nar_hash: NarHash::from_sha256([contents; 32]),
        nar_size: 120,
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    info.fingerprint(&StoreDir::default()).expect("a size above 0")
}

/// Weighs signature texts that were first seen at some time, or now.
pub fn weigh(policy: &Policy, fingerprint: Fingerprint, claims: &[(String, Option<Timestamp>)]) -> Evidence {
    let claims = claims.iter().map(|(text, first_seen)| Claim { text, first_seen: *first_seen });
    Evidence::weigh(fingerprint, claims, policy.keyring(), NOW)
}

/// Four signers, of whom three are builders; seeds 1 to 4, and seed 5 for a key of ci-eu that is revoked.
pub fn policy_text() -> String {
    format!(
        r#"version = 7
expires = 2027-11-20T00:00:00Z

[signers.nixos]
keys = ["{nixos}"]
[signers.ci-eu]
keys = ["{eu}", {{ key = "{old}", revoked = "2026-10-01 disk stolen" }}]
[signers.ci-us]
keys = [{{ key = "{us}", not-after = 2027-06-01T00:00:00Z }}]
[signers.ci-ap]
keys = [{{ key = "{ap}", not-before = 2026-06-01T00:00:00Z }}]
[signers.alice]
keys = ["{alice}"]

[groups]
builders = ["ci-eu", "ci-us", "ci-ap"]
security = ["alice"]

[default]
require = {{ any = ["nixos", {{ at-least = 2, of = "builders" }}] }}

[[rules]]
name = "kernels need the security team"
paths = ["linux-*"]
require = {{ at-least = 1, of = "security" }}

[[rules]]
name = "firmware is signed"
paths = ["*-firmware", "microcode-?"]
content-addressed = "require"
"#,
        nixos = public("cache.nixos.org-1", 1),
        eu = public("ci-eu-2", 2),
        old = public("ci-eu-1", 5),
        us = public("ci-us-1", 3),
        ap = public("ci-ap-1", 4),
        alice = public("alice-1", 6),
    )
}

/// [`policy_text`] as a policy.
pub fn policy() -> Policy {
    Policy::parse(&policy_text(), "policy.toml").unwrap_or_else(|errors| panic!("{errors}"))
}
