//! Signatures: one however it is spelled, and what is none.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use support::{cases, fingerprint, fixture, key_name, secret};
use verifier::{KeyError, Signature, SignatureError, StoreDir};

/// The spellings of a signature, each with what it shows. 64 bytes leave four bits in the last character free.
fn spellings(signature: &Signature) -> Vec<(&'static str, String)> {
    let name = signature.key_name();
    let padded = STANDARD.encode(signature.bytes());
    let bare = STANDARD_NO_PAD.encode(signature.bytes());
    let (head, last) = bare.split_at(bare.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = alphabet.find(last).expect("base64");
    let stray = |bits: usize| &alphabet[value | bits..][..1];
    let mut spellings = vec![
        ("as Nix writes it", format!("{name}:{padded}")),
        ("without padding", format!("{name}:{bare}")),
        ("space before", format!("{name}: {padded}")),
        ("line end behind", format!("{name}:{padded}\n")),
        ("broken into lines", format!("{name}:{}\r\n\t{}", &padded[..40], &padded[40..])),
        ("space before the padding", format!("{name}:{bare} =\n=")),
    ];
    spellings.extend((1..16).map(|bits| ("stray bits, padded", format!("{name}:{head}{}==", stray(bits)))));
    spellings.extend((1..16).map(|bits| ("stray bits, bare", format!("{name}:{head}{}", stray(bits)))));
    spellings
}

#[test]
fn every_spelling_is_the_same_signature() {
    let signature = secret("ci-1", 1).sign(&fingerprint());
    for (case, text) in spellings(&signature) {
        let read: Signature = text.parse().unwrap_or_else(|error| panic!("{case}: {text:?}: {error}"));
        assert_eq!(read, signature, "{case}: {text:?}");
        assert_eq!(read.to_string(), format!("ci-1:{}", STANDARD.encode(signature.bytes())), "{case}: {text:?}");
    }
}

#[test]
fn the_same_bytes_under_another_name_are_another_signature() {
    let signature = secret("ci-1", 1).sign(&fingerprint());
    assert_ne!(Signature::new(key_name("ci-2"), *signature.bytes()), signature);
}

#[test]
fn what_is_no_signature_is_refused_for_its_reason() {
    let encoded = STANDARD.encode([1; 64]);
    let length = |got| SignatureError::Length { got };
    let cases: &[(&str, String, SignatureError)] = &[
        ("empty", String::new(), SignatureError::NoColon),
        ("no colon", encoded.clone(), SignatureError::NoColon),
        ("no name", format!(":{encoded}"), SignatureError::BadName(KeyError::BadName(String::new()))),
        ("a space in the name", format!("a b:{encoded}"), SignatureError::BadName(KeyError::BadName("a b".into()))),
        ("nothing behind the name", "k:".into(), length(0)),
        ("padding alone", "k: \n".into(), length(0)),
        ("63 bytes", format!("k:{}", STANDARD.encode([1; 63])), length(63)),
        ("65 bytes", format!("k:{}", STANDARD.encode([1; 65])), length(65)),
        ("a public key", format!("k:{}", STANDARD.encode([1; 32])), length(32)),
        ("64 bytes twice", format!("k:{}", STANDARD.encode([1; 128])), length(128)),
    ];
    for (case, text, expected) in cases {
        assert_eq!(text.parse::<Signature>().as_ref(), Err(expected), "{case}");
    }
    let bare = STANDARD_NO_PAD.encode([1; 64]);
    for (case, text) in [
        ("another name behind the first", format!("a:b:{encoded}")),
        ("base64 of URLs", format!("k:{}", encoded.replace('A', "-"))),
        ("something behind the padding", format!("k:{encoded}x")),
        ("padding in the middle", format!("k:{}=={}", &bare[..42], &bare[42..])),
        ("three padding characters", format!("k:{bare}===")),
        ("a no-break space", format!("k:{bare}\u{a0}")),
        ("a NUL", format!("k:{bare}\0")),
        ("hexadecimal digits with a colon", "k:ab:cd".into()),
    ] {
        assert!(matches!(text.parse::<Signature>(), Err(SignatureError::NotBase64(_))), "{case}: {text:?}");
    }
}

/// Ed25519 takes no randomness, so the same key over the same text gives the same bytes as Nix.
#[test]
fn a_path_is_signed_as_nix_signs_it() {
    for cache in fixture::caches() {
        for cached in &cache.paths {
            let fingerprint = cached.info.fingerprint(&StoreDir::default()).expect("it has a size");
            let signed = cache.key.sign(&fingerprint).to_string();
            let theirs: Vec<&str> = cached.info.signatures.iter().map(String::as_str).collect();
            assert_eq!(theirs, [signed], "Nix {}: {}", cache.nix, cached.info.path);
        }
    }
}

proptest::proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_signature_survives_writing_and_reading(head: [u8; 32], tail: [u8; 32], name in "[!-9;-~]{1,40}") {
        let bytes = [head, tail].concat().try_into().expect("64 bytes");
        let signature = Signature::new(key_name(&name), bytes);
        proptest::prop_assert_eq!(Ok(signature.clone()), signature.to_string().parse());
        for (case, text) in spellings(&signature) {
            proptest::prop_assert_eq!(Ok(signature.clone()), text.parse(), "{}: {:?}", case, text);
        }
    }

    #[test]
    fn no_text_makes_a_signature_panic(text in ".{0,120}") {
        let _ = text.parse::<Signature>();
        let _ = format!("k:{text}").parse::<Signature>();
    }
}
