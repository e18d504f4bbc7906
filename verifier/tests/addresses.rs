//! Content addresses: the ones Nix and Git make, recomputed from the bytes, and what must not share one.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use support::address::{ALGORITHMS, address, hash, recomputed, request};
use support::nar::Tree;
use support::{cases, fixture, path_info, store_path, vectors};
use verifier::{
    AddressError, CAHash, ContentAddress, ContentAddressMethod, HashAlgorithm, NarError, NixHash, PathInfo, StoreDir,
};

fn parse(text: &str) -> ContentAddress {
    ContentAddress::parse_optional(text).expect("a content address").expect("not the empty one")
}

// Against Nix and Git.

#[test]
fn the_bytes_make_the_address_and_the_address_makes_the_path_as_in_nix() {
    let mut seen = BTreeSet::new();
    for cache in fixture::caches() {
        for cached in &cache.paths {
            let Some(claimed) = &cached.info.content_address else { continue };
            let what = format!("Nix {}: {} ({claimed})", cache.nix, cached.info.path);
            assert_eq!(claimed.check_path(&StoreDir::default(), &cached.info), Ok(()), "{what}");
            if cached.is_self_referential() && cache.nix != "2.8" {
                continue; // See self_references.rs.
            }
            let made = recomputed(cached, &cached.nar).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(&made, claimed.hash(), "{what}");
            // What an uploader does who does not know the path yet.
            let unknown = address(&cached.nar, &request(claimed.method(), claimed.algorithm(), None)).expect("a file");
            assert_eq!(made == unknown, !cached.is_self_referential(), "{what}");
            let others: BTreeSet<_> = cached.info.other_references().cloned().collect();
            let path = ContentAddress::new(made).make_path(
                &StoreDir::default(),
                cached.info.path.name(),
                &others,
                cached.is_self_referential(),
            );
            assert_eq!(path.as_ref(), Ok(&cached.info.path), "{what}");
            seen.insert(format!("{} {}", claimed.method(), claimed.algorithm()));
        }
    }
    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(
        seen,
        [
            "flat blake3",
            "flat md5",
            "flat sha1",
            "flat sha256",
            "flat sha512",
            "git sha1",
            "git sha256",
            "nar blake3",
            "nar md5",
            "nar sha1",
            "nar sha256",
            "nar sha512",
            "text sha256",
        ]
    );
}

/// Both make the same objects of the same file system: see `fixtures/git`.
#[test]
fn a_git_address_is_the_hash_git_gives() {
    let cache = fixture::cache("2.8");
    let hashes = fixture::text("git/hashes.txt");
    let sub = Tree::directory([
        ("deep", Tree::directory([("deeper", Tree::directory([("nothing", Tree::file(""))]))])),
        ("file", Tree::file("in sub")),
        ("run", Tree::program("#!/bin/sh\n")),
    ]);
    let mut compared = 0;
    for line in hashes.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, algorithm, hexadecimal] = words[..] else { panic!("{line}") };
        let nar = match what {
            "sub" => sub.to_nar(),
            "empty" => Tree::directory([]).to_nar(),
            name => cache.named(name).nar.clone(),
        };
        let algorithm: HashAlgorithm = algorithm.parse().expect("an algorithm");
        let made = address(&nar, &request(ContentAddressMethod::Git, algorithm, None)).expect("it has a Git hash");
        let expected = NixHash::parse(&format!("{algorithm}:{hexadecimal}")).expect("a hash");
        assert_eq!(made, CAHash::Git(expected), "{line}");
        compared += 1;
    }
    assert_eq!(compared, 8);
}

// Attacks: other bytes under a path that an address made. Nobody has to sign it, so the bytes must decide.

#[test]
fn a_lying_address_over_other_bytes_is_found_out() {
    for cache in fixture::caches() {
        for cached in &cache.paths {
            let Some(claimed) = &cached.info.content_address else { continue };
            // Nothing in the path info shows it.
            assert_eq!(claimed.check_path(&StoreDir::default(), &cached.info), Ok(()));
            for other in &cache.paths {
                let same_bytes = other.nar == cached.nar;
                let proven = recomputed(cached, &other.nar).is_ok_and(|made| &made == claimed.hash());
                assert!(!proven || same_bytes, "{} for {}", other.info.path, cached.info.path);
            }
        }
    }
}

/// Nix (2.8, 2.26 and 2.34) admits the executable twin of a flat file without a signature.
#[test]
fn an_executable_file_shares_no_flat_address() {
    for method in [ContentAddressMethod::Flat, ContentAddressMethod::Text] {
        let request = request(method, HashAlgorithm::Sha256, None);
        assert!(address(&Tree::file("echo hello\n").to_nar(), &request).is_ok());
        for other in [Tree::program("echo hello\n"), Tree::link("echo hello\n"), Tree::directory([])] {
            let result = address(&other.to_nar(), &request);
            assert!(matches!(result, Err(NarError::NotOneFile(_))), "{other:?}: {result:?}");
        }
        let directory = Tree::directory([("one", Tree::file("echo hello\n"))]);
        assert!(matches!(address(&directory.to_nar(), &request), Err(NarError::NotOneFile(_))));
    }
}

/// Git's hash of a blob does not say what kind of file it is. Nix (2.26 and 2.34) admits all three without a signature.
#[test]
fn an_executable_file_or_link_shares_no_git_address() {
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256] {
        let request = request(ContentAddressMethod::Git, algorithm, None);
        assert!(address(&Tree::file("echo hello\n").to_nar(), &request).is_ok());
        for other in [Tree::program("echo hello\n"), Tree::link("echo hello\n")] {
            let result = address(&other.to_nar(), &request);
            assert!(matches!(result, Err(NarError::NoGitRoot)), "{other:?}: {result:?}");
            // In a directory the entry says it.
            let file = Tree::directory([("hello", Tree::file("echo hello\n"))]);
            let inside = Tree::directory([("hello", other)]);
            let (file, inside) = (address(&file.to_nar(), &request), address(&inside.to_nar(), &request));
            assert_ne!(file.expect("a directory"), inside.expect("a directory"));
        }
    }
}

#[test]
fn the_name_references_and_store_directory_belong_to_the_path_that_an_address_makes() {
    let cache = fixture::cache("2.8");
    let top = cache.named("top");
    let address = top.info.content_address.as_ref().expect("it has one");
    let refused = |what: &str, info: &PathInfo| {
        let result = address.check_path(&StoreDir::default(), info);
        assert!(matches!(result, Err(AddressError::OtherPath { .. })), "{what}: {result:?}");
    };
    assert_eq!(address.check_path(&StoreDir::default(), &top.info), Ok(()));
    let mut info = top.info.clone();
    info.references.remove(&top.info.path);
    refused("without the reference to itself", &info);
    let mut info = top.info.clone();
    info.references = BTreeSet::from([top.info.path.clone()]);
    refused("without the reference to another", &info);
    let mut info = top.info.clone();
    info.references.insert(store_path("0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p-stranger"));
    refused("one reference more", &info);
    refused("another path", &PathInfo { path: store_path("0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p-top"), ..top.info.clone() });
    let elsewhere = StoreDir::new("/gnu/store").expect("a store directory");
    assert!(address.check_path(&elsewhere, &top.info).is_err());
}

#[test]
fn an_address_says_what_it_makes_instead() {
    let cache = fixture::cache("2.8");
    let cached = cache.named("file");
    let address = cached.info.content_address.clone().expect("it has one");
    let claimed = store_path("0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p-file");
    let info = PathInfo { path: claimed.clone(), ..cached.info.clone() };
    let expected = AddressError::OtherPath {
        address: address.clone(),
        made: Box::new(cached.info.path.clone()),
        claimed: Box::new(claimed),
    };
    assert_eq!(address.check_path(&StoreDir::default(), &info), Err(expected));
}

#[test]
fn an_address_that_cannot_have_references_makes_no_path_with_them() {
    let other = BTreeSet::from([store_path("0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p-other")]);
    let none = BTreeSet::new();
    let store_dir = StoreDir::default();
    for algorithm in ALGORITHMS {
        let hash = hash(algorithm, b"");
        let mut addresses = vec![CAHash::Flat(hash.clone())];
        if matches!(algorithm, HashAlgorithm::Sha1 | HashAlgorithm::Sha256) {
            addresses.push(CAHash::Git(hash.clone()));
        }
        if algorithm != HashAlgorithm::Sha256 {
            addresses.push(CAHash::Nar(hash));
        }
        for address in addresses.into_iter().map(ContentAddress::new) {
            assert!(address.make_path(&store_dir, "name", &none, false).is_ok(), "{address}");
            for (references, self_reference) in [(&other, false), (&none, true)] {
                let result = address.make_path(&store_dir, "name", references, self_reference);
                assert!(matches!(result, Err(AddressError::Impossible { .. })), "{address}: {result:?}");
            }
        }
    }
    let text = ContentAddress::new(CAHash::Text([0; 32]));
    assert!(text.make_path(&store_dir, "name", &other, false).is_ok());
    assert!(matches!(text.make_path(&store_dir, "name", &other, true), Err(AddressError::Impossible { .. })));
    let nar = ContentAddress::new(CAHash::Nar(hash(HashAlgorithm::Sha256, b"")));
    let paths = [(&none, false), (&none, true), (&other, false), (&other, true)]
        .map(|(references, itself)| nar.make_path(&store_dir, "name", references, itself).expect("all are possible"));
    assert_eq!(BTreeSet::from(paths).len(), 4, "four paths");
}

#[test]
fn a_name_that_no_path_has_makes_none() {
    let address = ContentAddress::new(CAHash::Text([0; 32]));
    let long = "n".repeat(212);
    for name in ["", ".", "..", "a/b", "a b", "é", "../x", "a\0", &long] {
        let result = address.make_path(&StoreDir::default(), name, &BTreeSet::new(), false);
        assert!(matches!(result, Err(AddressError::Impossible { .. })), "{name:?}: {result:?}");
    }
}

// What is asked for.

#[test]
fn an_address_that_does_not_exist_is_refused_by_name() {
    let (file, tree) = (Tree::file("text").to_nar(), Tree::directory([]).to_nar());
    for algorithm in ALGORITHMS {
        let git = address(&tree, &request(ContentAddressMethod::Git, algorithm, None));
        let text = address(&file, &request(ContentAddressMethod::Text, algorithm, None));
        match algorithm {
            HashAlgorithm::Sha1 => assert!(git.is_ok()),
            HashAlgorithm::Sha256 => assert!(git.is_ok() && text.is_ok()),
            _ => assert!(matches!(git, Err(NarError::NoGitHash(name)) if name == algorithm.as_str()), "{git:?}"),
        }
        if algorithm != HashAlgorithm::Sha256 {
            assert!(matches!(text, Err(NarError::NoTextHash(name)) if name == algorithm.as_str()), "{text:?}");
        }
    }
}

#[test]
fn only_md5_and_sha1_are_forgeable() {
    for algorithm in ALGORITHMS {
        let address = ContentAddress::new(CAHash::Nar(hash(algorithm, b"")));
        let weak = matches!(algorithm, HashAlgorithm::Md5 | HashAlgorithm::Sha1);
        assert_eq!(address.is_forgeable(), weak, "{address}");
        assert_eq!((address.method(), address.algorithm()), (ContentAddressMethod::Nar, algorithm));
    }
    assert!(!parse(&format!("text:{}", path_info().nar_hash)).is_forgeable());
    assert!(parse("fixed:git:sha1:0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p").is_forgeable());
}

// Spellings.

#[test]
fn an_address_survives_reading_and_writing() {
    for cache in fixture::caches() {
        for address in cache.paths.iter().filter_map(|cached| cached.info.content_address.as_ref()) {
            assert_eq!(&parse(&address.to_string()), address);
        }
    }
    assert_eq!(ContentAddress::parse_optional(""), Ok(None));
    let nix32 = path_info().nar_hash.to_nix32();
    let spellings = [format!("sha256:{nix32}"), format!("sha256:{}", path_info().nar_hash.to_base16())];
    for method in ["fixed:", "fixed:r:", "fixed:git:", "text:"] {
        for spelling in &spellings {
            assert_eq!(parse(&format!("{method}{spelling}")).to_string(), format!("{method}sha256:{nix32}"));
        }
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let hash = path_info().nar_hash.to_nix32();
    for (case, text) in [
        ("a hash alone", format!("sha256:{hash}")),
        ("an unknown method", format!("recursive:sha256:{hash}")),
        ("a method in capitals", format!("Fixed:sha256:{hash}")),
        ("two methods", format!("fixed:r:git:sha256:{hash}")),
        ("r: for a text", format!("text:r:sha256:{hash}")),
        ("nothing hashed", "fixed:r:sha256:".into()),
        ("no algorithm", format!("fixed:r:{hash}")),
        ("an unknown algorithm", format!("fixed:sha3:{hash}")),
        ("one digit short", format!("fixed:r:sha256:{}", &hash[1..])),
        ("bits beyond the 256th", format!("fixed:r:sha256:z{}", &hash[1..])),
        ("white space", format!(" fixed:r:sha256:{hash}")),
        ("white space behind", format!("fixed:r:sha256:{hash}\n")),
        ("a text of another algorithm", "text:sha1:0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p".into()),
        ("a Git hash that Git has not", format!("fixed:git:blake3:{hash}")),
        ("the hash of another algorithm", format!("fixed:sha512:{hash}")),
    ] {
        let result = ContentAddress::parse_optional(&text);
        assert!(matches!(result, Err(AddressError::Unreadable(_))), "{case}: {text:?}: {result:?}");
    }
}

#[test]
fn nix_writes_the_same_addresses_on_the_wire() {
    let Some(vectors) = vectors() else { return };
    let wire = fixture::read(&vectors.join("common-protocol/content-address.bin"));
    let json = fixture::read(&vectors.join("common-protocol/content-address.json"));
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let mut rest = &wire[..];
    for value in json.as_array().expect("a list") {
        let (length, behind) = rest.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let (text, _) = behind.split_at(usize::try_from(length).expect("small"));
        rest = &behind[text.len().next_multiple_of(8)..];
        let text = std::str::from_utf8(text).expect("text");
        let address = parse(text);
        assert_eq!(address.to_string(), text);
        assert_eq!(address.method().as_str(), value["method"]);
        assert_eq!(address.hash().hash().to_sri_string(), value["hash"].as_str().expect("text"));
    }
    assert_eq!(rest, b"");
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_file_has_the_flat_address_of_its_bytes(contents: Vec<u8>, algorithm in 0..ALGORITHMS.len()) {
        let algorithm = ALGORITHMS[algorithm];
        let expected = CAHash::Flat(hash(algorithm, &contents));
        let request = request(ContentAddressMethod::Flat, algorithm, None);
        prop_assert_eq!(address(&Tree::file(contents).to_nar(), &request).expect("a file"), expected);
    }

    #[test]
    fn no_text_makes_an_address_panic(text in ".{0,80}") {
        let _ = ContentAddress::parse_optional(&text);
        for method in ["fixed:", "fixed:r:sha256:", "text:sha256:", "fixed:git:sha1:"] {
            let _ = ContentAddress::parse_optional(&format!("{method}{text}"));
        }
    }
}
