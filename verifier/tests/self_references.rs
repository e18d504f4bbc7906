//! Self-references: addresses modulo a path's own hash part, which Nix has not always taken in the same way.

mod support;

use proptest::prelude::*;
use support::address::{address, hash, recomputed, request};
use support::cases;
use support::fixture::{self, Cached};
use support::nar::{Tree, any_tree};
use support::reader::Dribble;
use verifier::{CAHash, ContentAddressMethod, HashAlgorithm, NarError, NixHash, digest_nar};

/// Whether the offsets of self-references are hashed behind them.
#[derive(Clone, Copy)]
enum Offsets {
    Hashed,
    Forgotten,
}

/// Where a needle stands, one occurrence behind the other.
fn occurrences(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + needle.len() <= bytes.len() {
        if &bytes[at..at + needle.len()] == needle {
            found.push(at);
            at += needle.len();
        } else {
            at += 1;
        }
    }
    found
}

/// The SHA-256 of bytes modulo a hash part, as slowly and plainly as it can be said.
fn modulo(bytes: &[u8], part: &str, offsets: Offsets) -> NixHash {
    let mut text = bytes.to_vec();
    let found = occurrences(bytes, part.as_bytes());
    for &at in &found {
        text[at..at + part.len()].fill(0);
    }
    if let Offsets::Hashed = offsets {
        text.extend(found.iter().flat_map(|at| format!("|{at}").into_bytes()));
    }
    hash(HashAlgorithm::Sha256, &text)
}

// Against Nix.

/// Nix 2.8 to 2.16 hash the offsets of self-references too, and so does Nix since 2.35.
#[test]
fn a_path_that_names_itself_has_the_address_of_nix_2_8_and_2_35() {
    let cache = fixture::cache("2.8");
    let selves: Vec<&Cached> =
        cache.with_address("fixed:r:sha256:").into_iter().filter(|cached| cached.is_self_referential()).collect();
    assert_eq!(selves.iter().map(|cached| cached.info.path.name()).collect::<Vec<_>>(), ["low", "top"]);
    for cached in selves {
        let claimed = cached.info.content_address.as_ref().expect("it claims one");
        assert_eq!(&recomputed(cached, &cached.nar).expect("a NAR"), claimed.hash());
        assert_eq!(modulo(&cached.nar, &cached.hash_part(), Offsets::Hashed), claimed.hash().hash());
    }
}

/// Nix 2.17 to 2.34 forgot the offsets. Their addresses are not ours: other bytes share them, as the next test shows.
#[test]
fn a_path_that_names_itself_has_not_the_address_of_nix_2_26_and_2_34() {
    for nix in ["2.26", "2.34"] {
        let cache = fixture::cache(nix);
        let all = cache.with_address("fixed:r:sha256:");
        let selves: Vec<&Cached> = all.into_iter().filter(|cached| cached.is_self_referential()).collect();
        assert_eq!(selves.len(), 2, "Nix {nix}");
        for cached in selves {
            let claimed = cached.info.content_address.as_ref().expect("it claims one").hash();
            assert_eq!(modulo(&cached.nar, &cached.hash_part(), Offsets::Forgotten), claimed.hash(), "Nix {nix}");
            assert_ne!(&recomputed(cached, &cached.nar).expect("a NAR"), claimed, "Nix {nix}");
        }
    }
}

// Attacks: other bytes under a path that an address made.

/// Nix 2.17 to 2.34 admits the archive with a zeroed self-reference without a signature.
#[test]
fn an_archive_whose_self_reference_was_zeroed_has_another_address() {
    let cache = fixture::cache("2.8");
    let mut forged = 0;
    for cached in cache.paths.iter().filter(|cached| cached.is_self_referential()) {
        let Some(claimed) = &cached.info.content_address else { continue };
        let part = cached.hash_part();
        assert_eq!(&recomputed(cached, &cached.nar).expect("a NAR"), claimed.hash());
        for at in occurrences(&cached.nar, part.as_bytes()) {
            let mut nar = cached.nar.clone();
            nar[at..at + 32].fill(0);
            assert_ne!(&recomputed(cached, &nar).expect("a NAR"), claimed.hash(), "{}", cached.info.path);
            assert_eq!(modulo(&nar, &part, Offsets::Forgotten), modulo(&cached.nar, &part, Offsets::Forgotten));
            forged += 1;
        }
    }
    assert_eq!(forged, 3);
}

/// A flat file can spell out what would be hashed behind it, so no flat address may be taken modulo anything. Nix (2.8,
/// 2.26 and 2.34) takes it so, and admits both without a signature.
#[test]
fn a_flat_file_that_names_itself_shares_no_address_with_one_that_spells_it_out() {
    let part = "0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p";
    let names_itself = Tree::file(format!("/nix/store/{part}-hello"));
    let spells_it_out = Tree::file(format!("/nix/store/{}-hello|11", "\0".repeat(32)));
    for method in [ContentAddressMethod::Flat, ContentAddressMethod::Text] {
        let request = request(method, HashAlgorithm::Sha256, Some(part));
        let one = address(&names_itself.to_nar(), &request).expect("a file");
        let other = address(&spells_it_out.to_nar(), &request).expect("a file");
        assert_ne!(one, other);
    }
}

// However it stands in the bytes, and however they come.

#[test]
fn a_self_reference_is_found_across_the_edge_of_every_block() {
    let part = PARTS[0];
    let request = request(ContentAddressMethod::Nar, HashAlgorithm::Sha256, Some(part));
    // The contents begin at offset 96 of the NAR, which is read 64 KiB at a time.
    for before in (65536 - 96 - 34)..(65536 - 96 + 2) {
        let nar = Tree::file(format!("{}{part}{part}", "x".repeat(before))).to_nar();
        let expected = CAHash::Nar(modulo(&nar, part, Offsets::Hashed));
        assert_eq!(address(&nar, &request).expect("a NAR"), expected, "{before} bytes before it");
    }
}

#[test]
fn more_than_a_million_self_references_are_not_counted() {
    let part = PARTS[0];
    let request = request(ContentAddressMethod::Nar, HashAlgorithm::Sha256, Some(part));
    let nar = Tree::file(part.repeat(1 << 20)).to_nar();
    assert!(address(&nar, &request).is_ok());
    let nar = Tree::file(part.repeat((1 << 20) + 1)).to_nar();
    assert!(matches!(address(&nar, &request), Err(NarError::TooManySelfReferences)));
    assert!(digest_nar(&nar[..], None).is_ok(), "without the question it is a NAR like any other");
}

/// Contents made of hash parts, pieces of them, and what stands around them.
fn crowded(part: &'static str) -> impl Strategy<Value = Vec<u8>> + Clone {
    let piece = prop_oneof![
        3 => Just(part.as_bytes().to_vec()),
        2 => (0..32_usize).prop_map(move |end| part.as_bytes()[..end].to_vec()),
        2 => (0..32_usize).prop_map(move |start| part.as_bytes()[start..].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => Just(vec![0; 32]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// One that is like any other, one that overlaps itself at every letter, one at every second, one only at its ends.
const PARTS: [&str; 4] = [
    "0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababababababababab",
    "abcd00000000000000000000000abcda",
];

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn an_address_modulo_a_hash_part_is_what_the_slow_way_gives(
        (part, tree) in prop::sample::select(&PARTS[..]).prop_flat_map(|part| (Just(part), any_tree(crowded(part)))),
        sizes in prop::collection::vec(1..80_usize, 1..5),
    ) {
        let nar = tree.to_nar();
        let request = request(ContentAddressMethod::Nar, HashAlgorithm::Sha256, Some(part));
        let expected = CAHash::Nar(modulo(&nar, part, Offsets::Hashed));
        let digest = digest_nar(Dribble::new(&nar, &sizes), Some(&request)).expect("a good archive");
        prop_assert_eq!(digest.address.as_ref(), Some(&expected));
        prop_assert_eq!(address(&nar, &request).expect("a good archive"), expected);
        prop_assert_eq!(digest.nar_hash, digest_nar(&nar[..], None).expect("a good archive").nar_hash);
    }

    #[test]
    fn the_same_tree_under_another_hash_part_has_the_same_address(tree in any_tree(crowded(PARTS[0]))) {
        let (one, other) = (PARTS[0], "1rygvz1d7s3l8wqmkxj5b2nfa4hc6i9q");
        let nar = tree.to_nar();
        let mut rewritten = nar.clone();
        for at in occurrences(&nar, one.as_bytes()) {
            rewritten[at..at + 32].copy_from_slice(other.as_bytes());
        }
        let address = |nar: &[u8], part| {
            address(nar, &request(ContentAddressMethod::Nar, HashAlgorithm::Sha256, Some(part))).ok()
        };
        prop_assert_eq!(address(&nar, one), address(&rewritten, other));
    }

    #[test]
    fn any_file_has_the_flat_address_of_its_bytes_even_if_it_names_itself(contents in crowded(PARTS[0])) {
        let expected = CAHash::Flat(hash(HashAlgorithm::Sha256, &contents));
        let request = request(ContentAddressMethod::Flat, HashAlgorithm::Sha256, Some(PARTS[0]));
        prop_assert_eq!(address(&Tree::file(contents).to_nar(), &request).expect("a file"), expected);
    }

    #[test]
    fn no_hash_part_makes_hashing_panic(part in "a{0,40}", contents in "[ab]{0,100}") {
        let request = request(ContentAddressMethod::Nar, HashAlgorithm::Sha256, Some(&part));
        prop_assert!(address(&Tree::file(contents).to_nar(), &request).is_ok());
    }
}
