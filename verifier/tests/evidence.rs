//! Evidence: who verifiably signed, under every attack that makes stock Nix count one signer twice or none.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use sha2::{Digest, Sha512};
use support::weigh::{NOW, alice_and_bob, at, codes, keyring, signers, weigh};
use support::{fingerprint, secret, signer, trusted};
use verifier::{Fingerprint, KeyError, Keyring, KeyringError, PublicKey, SecretKey, Signature, TrustedKey, Window};

/// Signs as the key does, but with another nonce: as valid, and other bytes.
fn sign_with_another_nonce(key: &SecretKey, seed: u8, fingerprint: &Fingerprint) -> Signature {
    let mut expanded = ExpandedSecretKey::from(&[seed; 32]);
    expanded.hash_prefix = [0xab; 32];
    let public = ed25519_dalek::VerifyingKey::from_bytes(key.public().as_bytes()).expect("a good key");
    let signature = raw_sign::<Sha512>(&expanded, fingerprint.as_bytes(), &public);
    Signature::new(key.name().clone(), signature.to_bytes())
}

fn encoded(name: &str, bytes: &[u8]) -> String {
    format!("{name}:{}", STANDARD.encode(bytes))
}

// The attacks, each beside a legitimate twin that passes.

#[test]
fn one_key_signing_twice_with_two_nonces_is_one_signer() {
    let key = secret("alice-1", 1);
    let first = key.sign(&fingerprint());
    let second = sign_with_another_nonce(&key, 1, &fingerprint());
    assert_ne!(first.bytes(), second.bytes());
    let keyring = alice_and_bob();
    let evidence = weigh(&keyring, &[&first.to_string(), &second.to_string()]);
    assert_eq!(signers(&keyring, &evidence), ["alice"]);
    assert_eq!(codes(&evidence), ["counts", "duplicate-signer"]);
    // The second nonce alone is a signature like any other.
    let evidence = weigh(&keyring, &[&second.to_string()]);
    assert_eq!(codes(&evidence), ["counts"]);
    // Its twin: two keys of two signers.
    let twin = weigh(&keyring, &[&first.to_string(), &secret("bob-1", 2).sign(&fingerprint()).to_string()]);
    assert_eq!(signers(&keyring, &twin), ["alice", "bob"]);
}

#[test]
fn one_key_under_two_names_makes_no_keyring() {
    let renamed = trusted(&secret("bob-1", 1));
    let expected = |first: &str, second: &str| KeyringError::KeyTwice {
        key: Box::new(renamed.public.clone()),
        first: first.into(),
        second: second.into(),
    };
    let alice = || trusted(&secret("alice-1", 1));
    let two_signers = vec![signer("alice", vec![alice()]), signer("bob", vec![renamed.clone()])];
    assert_eq!(Keyring::new(two_signers).err(), Some(expected("alice", "bob")));
    let one_signer = vec![signer("alice", vec![alice(), renamed.clone()])];
    assert_eq!(Keyring::new(one_signer).err(), Some(expected("alice", "alice")));
    // Neither a revocation nor a window makes the second entry another key.
    let revoked = TrustedKey { revoked: Some("renamed".into()), ..renamed.clone() };
    assert!(Keyring::new(vec![signer("alice", vec![alice()]), signer("bob", vec![revoked])]).is_err());
    let window = Window { not_before: Some(at(NOW)), not_after: None };
    let later = TrustedKey { window, ..renamed.clone() };
    assert!(Keyring::new(vec![signer("alice", vec![alice()]), signer("bob", vec![later])]).is_err());
    // Its twin: two keys, whatever their names.
    let twin = vec![signer("alice", vec![alice()]), signer("bob", vec![trusted(&secret("alice-1", 2))])];
    assert!(Keyring::new(twin).is_ok());
}

#[test]
fn one_signature_encoded_in_several_ways_is_one_signer() {
    let signature = secret("alice-1", 1).sign(&fingerprint());
    let padded = signature.to_string();
    let bare = padded.trim_end_matches('=');
    let (head, last) = bare.split_at(bare.len() - 1);
    // "A", "Q", "g" and "w" are the four characters that end 64 bytes without stray bits.
    let stray = match last {
        "A" => "B",
        "Q" => "R",
        "g" => "h",
        _ => "x",
    };
    let respelled = format!("{head}{stray}==");
    let texts = [padded.as_str(), bare, &respelled, &padded.replacen(':', ": ", 1)];
    let keyring = alice_and_bob();
    let evidence = weigh(&keyring, &texts);
    assert_eq!(signers(&keyring, &evidence), ["alice"]);
    assert_eq!(codes(&evidence), ["counts", "duplicate-signer", "duplicate-signer", "duplicate-signer"]);
    // Its twins: each spelling alone counts.
    for text in texts {
        assert_eq!(codes(&weigh(&keyring, &[text])), ["counts"], "{text:?}");
    }
}

/// Under a key of small order, `R` = -k A and `S` = 0 verify for one message in eight, signed by nobody.
#[test]
fn a_key_under_which_anybody_can_sign_is_refused() {
    let weak = "weak-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert_eq!(weak.parse::<PublicKey>(), Err(KeyError::Weak));
    let twice = encoded("weak-1", &[&[0xee], &[0xff; 30][..], &[0x7f]].concat());
    assert_eq!(twice.parse::<PublicKey>(), Err(KeyError::NotCanonical));
    assert!(secret("strong-1", 1).public().to_string().parse::<PublicKey>().is_ok());
}

#[test]
fn a_malformed_signature_takes_nothing_from_the_good_ones_beside_it() {
    let keyring = alice_and_bob();
    let alice = secret("alice-1", 1).sign(&fingerprint()).to_string();
    let bob = secret("bob-1", 2).sign(&fingerprint()).to_string();
    let evil = ["alice-1", "", "alice-1:", "alice-1:AAAA", "alice-1:not base64!", "bob-1:\0", ":", &alice[..40]];
    for malformed in evil {
        let evidence = weigh(&keyring, &[malformed, &alice, malformed, &bob, malformed]);
        assert_eq!(signers(&keyring, &evidence), ["alice", "bob"], "{malformed:?}");
        let bad = "malformed-signature";
        assert_eq!(codes(&evidence), [bad, "counts", bad, "counts", bad], "{malformed:?}");
        assert_eq!(evidence.judged()[0].text, malformed);
        assert_eq!(evidence.judged()[0].signature, None);
    }
}

#[test]
fn a_signature_is_tried_against_every_key_of_its_name() {
    let old = secret("ci-1", 1);
    let new = secret("ci-1", 2);
    let one_signer = keyring(vec![signer("ci", vec![trusted(&old), trusted(&new)])]);
    let two_signers = keyring(vec![signer("a", vec![trusted(&old)]), signer("b", vec![trusted(&new)])]);
    let (by_old, by_new) = (old.sign(&fingerprint()).to_string(), new.sign(&fingerprint()).to_string());
    for text in [&by_old, &by_new] {
        assert_eq!(codes(&weigh(&one_signer, &[text])), ["counts"]);
    }
    let evidence = weigh(&two_signers, &[&by_new, &by_old]);
    assert_eq!(signers(&two_signers, &evidence), ["a", "b"]);
    assert_eq!(codes(&weigh(&one_signer, &[&by_new, &by_old])), ["counts", "duplicate-signer"]);
}

#[test]
fn a_signature_is_tried_against_no_key_of_another_name() {
    let keyring = alice_and_bob();
    let signature = secret("alice-1", 1).sign(&fingerprint());
    for (name, code) in [("bob-1", "bad-signature"), ("carol-1", "unknown-key"), ("Alice-1", "unknown-key")] {
        let evidence = weigh(&keyring, &[&encoded(name, signature.bytes())]);
        assert_eq!(codes(&evidence), [code], "{name}");
        assert!(evidence.signers().is_empty(), "{name}");
    }
    assert_eq!(codes(&weigh(&keyring, &[&encoded("alice-1", signature.bytes())])), ["counts"]);
}

/// `R` = 0 and `S` = k a: the equation holds, and libsodium refuses it as well.
#[test]
fn a_signature_with_a_nonce_of_small_order_is_none() {
    let key = secret("alice-1", 1);
    let scalar = ExpandedSecretKey::from(&[1; 32]).scalar;
    let nonce = EdwardsPoint::identity().compress().to_bytes();
    for nonce in [nonce, [&[0xee], &[0xff; 30][..], &[0x7f]].concat().try_into().expect("32 bytes")] {
        let text = fingerprint();
        let hash = Sha512::new().chain_update(nonce).chain_update(key.public().as_bytes());
        let hash = hash.chain_update(text.as_bytes()).finalize();
        let response = Scalar::from_bytes_mod_order_wide(&hash.into()) * scalar;
        let forged = [nonce, response.to_bytes()].concat();
        assert_eq!(codes(&weigh(&alice_and_bob(), &[&encoded("alice-1", &forged)])), ["bad-signature"]);
    }
}

/// Whoever sees a signature can add the group's order to its `S`: the same signature to careless verifiers.
#[test]
fn a_signature_whose_scalar_was_raised_by_the_order_is_none() {
    let order: [u8; 32] = [&[0_u8; 16][..], &[0; 15], &[0x10]].concat().try_into().expect("32 bytes");
    let low = [0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14];
    let signature = secret("alice-1", 1).sign(&fingerprint());
    let mut raised = *signature.bytes();
    let mut carry = 0;
    for (index, byte) in raised[32..].iter_mut().enumerate() {
        let addend = low.get(index).copied().unwrap_or(order[index]);
        let sum = u16::from(*byte) + u16::from(addend) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    let reduced = Scalar::from_bytes_mod_order(raised[32..].try_into().expect("32 bytes"));
    assert_eq!(reduced.as_bytes(), &signature.bytes()[32..], "the same scalar");
    let evidence = weigh(&alice_and_bob(), &[&encoded("alice-1", &raised), &signature.to_string()]);
    assert_eq!(codes(&evidence), ["bad-signature", "counts"]);
}

#[test]
fn no_bit_of_a_signature_is_free() {
    let signature = secret("alice-1", 1).sign(&fingerprint());
    let keyring = alice_and_bob();
    for bit in 0..64 * 8 {
        let mut bytes = *signature.bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(codes(&weigh(&keyring, &[&encoded("alice-1", &bytes)])), ["bad-signature"], "bit {bit}");
    }
}
