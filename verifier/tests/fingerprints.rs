//! Fingerprints: what cache.nixos.org really signed, and that nothing beside it is covered.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::{cases, fixture, path_info, signer, store_path, vectors};
use verifier::{
    Claim, ContentAddress, Evidence, Keyring, NarHash, NarHashError, PathInfo, PathInfoError, StoreDir, StorePath,
    Timestamp, TrustedKey, Window,
};

fn text(info: &PathInfo) -> String {
    info.fingerprint(&StoreDir::default()).expect("it has a size").to_string()
}

#[test]
fn a_fingerprint_is_what_nix_signs_letter_by_letter() {
    assert_eq!(
        text(&path_info()),
        "1;/nix/store/1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-hello-2.12;\
         sha256:01q70w3hf1q70w3hf1q70w3hf1q70w3hf1q70w3hf1q70w3hf1q7;226560;\
         /nix/store/0c0b3g3bl6lxgsyj1x5wf8pmi8xz1i7d-glibc-2.39,\
         /nix/store/1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-hello-2.12"
    );
}

#[test]
fn a_path_without_references_ends_with_the_semicolon() {
    let info = PathInfo { references: BTreeSet::new(), ..path_info() };
    assert!(text(&info).ends_with(";226560;"), "{}", text(&info));
}

#[test]
fn another_store_directory_makes_another_fingerprint() {
    let store_dir = StoreDir::new("/gnu/store").expect("a store directory");
    let fingerprint = path_info().fingerprint(&store_dir).expect("it has a size");
    assert_eq!(fingerprint.as_str(), text(&path_info()).replace("/nix/store", "/gnu/store"));
    assert_ne!(fingerprint.digest(), path_info().fingerprint(&StoreDir::default()).expect("it has a size").digest());
}

#[test]
fn a_path_of_size_0_has_no_fingerprint() {
    let info = PathInfo { nar_size: 0, ..path_info() };
    assert_eq!(info.fingerprint(&StoreDir::default()), Err(PathInfoError::NoSize));
    assert!(PathInfo { nar_size: 1, ..path_info() }.fingerprint(&StoreDir::default()).is_ok());
    let largest = PathInfo { nar_size: u64::MAX, ..path_info() };
    assert!(text(&largest).contains(";18446744073709551615;"));
}

#[test]
fn what_no_signature_covers_changes_nothing() {
    let plain = text(&path_info());
    let address = ContentAddress::parse_optional(&format!("text:{}", NarHash::from_sha256([1; 32])));
    let info = PathInfo {
        deriver: Some(store_path("0c0b3g3bl6lxgsyj1x5wf8pmi8xz1i7d-hello.drv")),
        registration_time: 1,
        ultimate: true,
        signatures: BTreeSet::from(["a:b".into()]),
        content_address: address.expect("a content address"),
        ..path_info()
    };
    assert_eq!(text(&info), plain);
}

#[test]
fn a_digest_is_the_sha256_of_the_text_in_64_hexadecimal_digits() {
    let fingerprint = path_info().fingerprint(&StoreDir::default()).expect("it has a size");
    let expected = Sha256::digest(text(&path_info()));
    assert_eq!(fingerprint.digest().as_bytes()[..], expected[..]);
    let hexadecimal: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(fingerprint.digest().to_string(), hexadecimal);
    assert_eq!(hexadecimal.len(), 64);
}

// Hashes.

#[test]
fn a_nar_hash_is_read_in_every_spelling_of_nix() {
    let hash = NarHash::from_sha256(std::array::from_fn(|index| index as u8));
    let base16 = hash.to_base16();
    let nix32 = hash.to_nix32();
    let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    assert_eq!(base16, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    assert_eq!(hash.to_string(), format!("sha256:{nix32}"));
    assert_eq!(format!("{hash:?}"), hash.to_string());
    for spelling in [
        base16.clone(),
        nix32.clone(),
        format!("sha256:{base16}"),
        format!("sha256:{nix32}"),
        format!("sha256:{base64}"),
        format!("sha256-{base64}"),
        base16.to_uppercase(),
    ] {
        assert_eq!(NarHash::parse(&spelling), Ok(hash), "{spelling}");
    }
}

#[test]
fn what_is_no_nar_hash_is_refused() {
    let nix32 = NarHash::from_sha256([7; 32]).to_nix32();
    let base16 = NarHash::from_sha256([7; 32]).to_base16();
    for (case, text) in [
        ("empty", String::new()),
        ("algorithm alone", "sha256:".into()),
        ("one digit short", base16[1..].into()),
        ("one digit more", format!("{base16}0")),
        ("one nix32 digit short", nix32[1..].into()),
        ("a letter nix32 has not", nix32.replacen('7', "e", 1)),
        ("bits beyond the 256th", format!("z{}", &nix32[1..])),
        ("white space", format!(" {base16}")),
        ("a line end", format!("sha256:{nix32}\n")),
        ("two algorithms", format!("sha256:sha256:{nix32}")),
        ("an unknown algorithm", format!("sha3:{nix32}")),
        ("an algorithm in capitals", format!("SHA256:{nix32}")),
        ("not ASCII", "é".repeat(32)),
    ] {
        assert!(matches!(NarHash::parse(&text), Err(NarHashError::Unreadable(_))), "{case}: {text:?}");
    }
    let sha1 = "sha1:0c0b3g3bl6lxgsyj1x5wf8pmi8xz1i7d";
    assert_eq!(NarHash::parse(sha1), Err(NarHashError::NotSha256("sha1")));
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert_eq!(NarHash::parse(&sha512), Err(NarHashError::NotSha256("sha512")));
}

// The real thing.

fn cache_nixos_org() -> Keyring {
    let public = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=".parse().expect("a good key");
    let key = TrustedKey { public, window: Window::default(), revoked: None };
    Keyring::new(vec![signer("nixos", vec![key])]).expect("one key")
}

/// The verdicts on a path's signatures, if it were what `info` says.
fn verdicts(keyring: &Keyring, info: &PathInfo) -> Vec<Option<&'static str>> {
    let fingerprint = info.fingerprint(&StoreDir::default()).expect("it has a size");
    let claims = info.signatures.iter().map(|text| Claim { text, first_seen: None });
    let evidence = Evidence::weigh(fingerprint, claims, keyring, Timestamp::from_unix(0));
    evidence.judged().iter().map(|judged| judged.verdict.code()).collect()
}

/// What an attacker would say instead, one bit away each: in the hash, the size, the path, a reference.
fn one_bit_away(info: &PathInfo, salt: usize) -> Vec<(&'static str, PathInfo)> {
    let mut forged = Vec::new();
    for round in 0..4 {
        let bit = (salt * 37 + round * 71) % 256;
        let mut hash = *info.nar_hash.as_bytes();
        hash[bit / 8] ^= 1 << (bit % 8);
        forged.push(("hash", PathInfo { nar_hash: NarHash::from_sha256(hash), ..info.clone() }));
        let nar_size = info.nar_size ^ (1 << ((salt + round * 17) % 64));
        forged.push(("size", PathInfo { nar_size, ..info.clone() }));
        forged.push(("path", PathInfo { path: flip_path(&info.path, bit), ..info.clone() }));
        if let Some(reference) = info.references.iter().nth((salt + round) % info.references.len().max(1)) {
            let mut references = info.references.clone();
            references.remove(reference);
            forged.push(("one reference fewer", PathInfo { references: references.clone(), ..info.clone() }));
            references.insert(flip_path(reference, bit));
            forged.push(("reference", PathInfo { references, ..info.clone() }));
        }
    }
    let references = info.references.iter().cloned().chain([flip_path(&info.path, salt)]).collect();
    forged.push(("one reference more", PathInfo { references, ..info.clone() }));
    forged
}

/// Flips a bit of a path's digest, or the lowest of a letter of its name that stays one.
fn flip_path(path: &StorePath, bit: usize) -> StorePath {
    let (mut digest, mut name) = (*path.digest(), path.name().to_owned().into_bytes());
    match digest.get_mut(bit / 8) {
        Some(byte) => *byte ^= 1 << (bit % 8),
        None => {
            let letter = name.iter().position(u8::is_ascii_alphanumeric).expect("a letter or digit");
            name[letter] = if name[letter] == b'x' { b'y' } else { b'x' };
        }
    }
    StorePath::from_parts(digest, std::str::from_utf8(&name).expect("ASCII")).expect("a good name")
}

#[test]
fn seven_hundred_real_signatures_verify_and_none_over_anything_else() {
    let Some(vectors) = vectors() else { return };
    let compressed = fixture::read(&vectors.join("cache-nixos-org/narinfo.zst"));
    let narinfos = String::from_utf8(zstd::decode_all(&compressed[..]).expect("zstd")).expect("text");
    let keyring = cache_nixos_org();
    let (mut paths, mut addressed) = (0, 0);
    for (salt, narinfo) in narinfos.split("\n\n").filter(|narinfo| !narinfo.trim().is_empty()).enumerate() {
        let (info, _) = fixture::path_info(narinfo.as_bytes());
        assert_eq!(verdicts(&keyring, &info), [None], "{}", info.path);
        for (what, forged) in one_bit_away(&info, salt) {
            assert_ne!(forged, info, "{what} of {}: nothing was forged", info.path);
            assert_eq!(verdicts(&keyring, &forged), [Some("bad-signature")], "{what} of {}", info.path);
        }
        if let Some(address) = &info.content_address {
            assert_eq!(address.check_path(&StoreDir::default(), &info), Ok(()), "{}", info.path);
            addressed += 1;
        }
        paths += 1;
    }
    assert_eq!((paths, addressed), (700, 7));
}

#[test]
fn a_path_that_nix_signed_verifies_under_its_key_and_no_other() {
    let caches = fixture::caches();
    for cache in &caches {
        let key = TrustedKey { public: cache.key.public(), window: Window::default(), revoked: None };
        let keyring = Keyring::new(vec![signer("nix", vec![key])]).expect("one key");
        for (salt, cached) in cache.paths.iter().enumerate() {
            assert_eq!(verdicts(&keyring, &cached.info), [None], "Nix {}: {}", cache.nix, cached.info.path);
            for (what, forged) in one_bit_away(&cached.info, salt) {
                assert_eq!(verdicts(&keyring, &forged), [Some("bad-signature")], "{what} of {}", cached.info.path);
            }
        }
    }
}

fn any_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-z0-9+_?=-][a-zA-Z0-9+._?=-]{0,20}")
        .prop_map(|(digest, name)| StorePath::from_parts(digest, &name).expect("a good name"))
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn references_stand_in_the_order_of_their_letters(references in prop::collection::btree_set(any_path(), 0..20)) {
        let mut expected: Vec<String> = references.iter().map(StorePath::to_absolute_path).collect();
        expected.sort();
        let fingerprint = text(&PathInfo { references, ..path_info() });
        let written = fingerprint.rsplit(';').next().map(ToOwned::to_owned);
        prop_assert_eq!(written, Some(expected.join(",")));
    }

    #[test]
    fn two_path_infos_that_differ_have_two_fingerprints(
        one in (any_path(), any::<[u8; 32]>(), 1_u64.., prop::collection::btree_set(any_path(), 0..4)),
        two in (any_path(), any::<[u8; 32]>(), 1_u64.., prop::collection::btree_set(any_path(), 0..4)),
        which in 0..16_u8,
    ) {
        let info = |(path, hash, nar_size, references): (StorePath, [u8; 32], u64, BTreeSet<StorePath>)| {
            PathInfo { path, nar_hash: NarHash::from_sha256(hash), nar_size, references, ..path_info() }
        };
        let (one, two) = (info(one), info(two));
        let mixed = PathInfo {
            path: if which & 1 == 0 { &one } else { &two }.path.clone(),
            nar_hash: if which & 2 == 0 { &one } else { &two }.nar_hash,
            nar_size: if which & 4 == 0 { &one } else { &two }.nar_size,
            references: if which & 8 == 0 { &one } else { &two }.references.clone(),
            ..path_info()
        };
        prop_assert_eq!(text(&one) == text(&mixed), one == mixed);
        prop_assert_eq!(text(&two) == text(&mixed), two == mixed);
    }

    #[test]
    fn a_nar_hash_survives_every_spelling(bytes: [u8; 32]) {
        let hash = NarHash::from_sha256(bytes);
        for text in [hash.to_string(), hash.to_nix32(), hash.to_base16(), format!("sha256:{}", hash.to_base16())] {
            prop_assert_eq!(NarHash::parse(&text), Ok(hash));
        }
    }

    #[test]
    fn no_text_makes_a_hash_panic(text in ".{0,80}") {
        let _ = NarHash::parse(&text);
        let _ = NarHash::parse(&format!("sha256:{text}"));
    }
}
