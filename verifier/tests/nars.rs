//! NARs: read as Nix reads them, refused as Nix refuses them, and never twice the same hash.

mod support;

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::fixture;
use support::nar::{Tree, any_tree, directory_of, empty_directory, link_to, nested, padding, token, tokens};
use support::reader::{Broken, Dribble, Wide};
use support::{cases, vectors};
use verifier::{AddressRequest, ContentAddressMethod, HashAlgorithm, NarDigest, NarEnd, NarError, NarHash, digest_nar};

fn digest(nar: &[u8]) -> Result<NarDigest, NarError> {
    digest_nar(nar, None)
}

/// The hash and size of bytes, which NARs have like all others.
fn plain(bytes: &[u8]) -> (NarHash, u64) {
    (NarHash::from_sha256(Sha256::digest(bytes).into()), bytes.len() as u64)
}

/// No request, and one by each method.
fn requests() -> Vec<Option<AddressRequest>> {
    let own_hash_part = || Some("0123456789abcdfghijklmnpqrsvwxyz".to_owned());
    let request = |method, algorithm, own_hash_part| Some(AddressRequest { method, algorithm, own_hash_part });
    vec![
        None,
        request(ContentAddressMethod::Nar, HashAlgorithm::Sha256, own_hash_part()),
        request(ContentAddressMethod::Nar, HashAlgorithm::Blake3, None),
        request(ContentAddressMethod::Flat, HashAlgorithm::Sha512, own_hash_part()),
        request(ContentAddressMethod::Flat, HashAlgorithm::Md5, None),
        request(ContentAddressMethod::Text, HashAlgorithm::Sha256, None),
        request(ContentAddressMethod::Git, HashAlgorithm::Sha1, None),
        request(ContentAddressMethod::Git, HashAlgorithm::Sha256, None),
    ]
}

/// One plain file; a tree with one of everything.
fn good_nars() -> Vec<(&'static str, Vec<u8>)> {
    let tree = Tree::directory([
        ("bin", Tree::directory([("run", Tree::program("#!/bin/sh\n")), ("link", Tree::link("run"))])),
        ("empty", Tree::directory([])),
        ("nothing", Tree::file("")),
        ("share", Tree::directory([("text", Tree::file("some text, 19 long"))])),
    ]);
    vec![
        ("file", Tree::file("hello").to_nar()),
        ("program", Tree::program("hello, hello").to_nar()),
        ("link", Tree::link("/nowhere").to_nar()),
        ("tree", tree.to_nar()),
    ]
}

/// Whether a result says that such an archive has no such address.
fn has_no_address(result: &Result<NarDigest, NarError>) -> bool {
    matches!(result, Err(NarError::NotOneFile(_) | NarError::NoGitRoot))
}

fn is_malformed(result: &Result<NarDigest, NarError>) -> bool {
    matches!(result, Err(NarError::Malformed { .. }))
}

#[test]
fn the_hash_and_size_are_those_of_the_bytes() {
    for (name, nar) in good_nars() {
        let digest = digest(&nar).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((digest.nar_hash, digest.nar_size), plain(&nar), "{name}");
        assert_eq!(digest.address, None, "{name}");
    }
}

#[test]
fn the_hash_and_size_are_those_nix_states() {
    for cache in fixture::caches() {
        for cached in &cache.paths {
            let digest = digest(&cached.nar).expect("Nix wrote it");
            assert_eq!(digest.nar_hash, cached.info.nar_hash, "Nix {}: {}", cache.nix, cached.info.path);
            assert_eq!(digest.nar_size, cached.info.nar_size, "Nix {}: {}", cache.nix, cached.info.path);
        }
    }
}

/// `nix store verify` lets a lying `NarSize` of a content-addressed path pass: it looks at the hash alone.
#[test]
fn a_lying_size_is_seen_beside_a_true_hash() {
    let cache = fixture::cache("2.8");
    let cached = cache.with_address("fixed:r:sha256:")[0];
    let lying = verifier::PathInfo { nar_size: cached.info.nar_size + 8, ..cached.info.clone() };
    let digest = digest(&cached.nar).expect("Nix wrote it");
    assert_eq!(digest.nar_hash, lying.nar_hash);
    assert_ne!(digest.nar_size, lying.nar_size);
    assert_eq!(digest.nar_size, cached.info.nar_size);
}

// Nix's own malformed archives.

#[test]
fn the_archives_of_nixs_own_tests_are_refused_and_read_as_nix_does() {
    let Some(vectors) = vectors() else { return };
    let files = fixture::files(&vectors.join("nars"), ".nar");
    let mut good = Vec::new();
    for path in &files {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let nar = fixture::read(path);
        match digest(&nar) {
            Ok(digest) => {
                assert_eq!((digest.nar_hash, digest.nar_size), plain(&nar));
                good.push(name);
            }
            Err(error) => assert!(matches!(error, NarError::Malformed { .. }), "{name}: {error}"),
        }
    }
    assert_eq!(good, ["regular-one-byte-zero-padding"]);
    assert_eq!(files.len(), 12);
}

#[test]
fn each_malformed_archive_is_refused_beside_its_good_twin() {
    let magic = b"nix-archive-1".as_slice();
    let entry = |name: &'static str| -> Vec<&[u8]> {
        vec![b"entry", b"(", b"name", name.as_bytes(), b"node", b"(", b"type", b"regular", b"contents", b"", b")", b")"]
    };
    let directory = |entries: &[&[&[u8]]]| {
        let head: &[&[u8]] = &[magic, b"(", b"type", b"directory"];
        let mut list: Vec<&[u8]> = head.to_vec();
        entries.iter().for_each(|entry| list.extend_from_slice(entry));
        list.push(b")");
        tokens(&list)
    };
    let file = |between: &[&[u8]]| tokens(&[&[magic, b"(", b"type", b"regular"], between, &[b")"]].concat());
    let (a, b) = (entry("a"), entry("b"));
    let twins: &[(&str, Vec<u8>, Vec<u8>)] = &[
        ("another magic", tokens(&[b"nix-archive-2", b"(", b"type", b"directory", b")"]), directory(&[])),
        ("no contents", file(&[]), file(&[b"contents", b""])),
        ("no type", tokens(&[magic, b"(", b"directory", b")"]), directory(&[])),
        ("an unknown type", tokens(&[magic, b"(", b"type", b"socket", b")"]), directory(&[])),
        (
            "executable with a value",
            file(&[b"executable", b"x", b"contents", b""]),
            file(&[b"executable", b"", b"contents", b""]),
        ),
        (
            "executable twice",
            file(&[b"executable", b"", b"executable", b"", b"contents", b""]),
            file(&[b"contents", b""]),
        ),
        ("contents twice", file(&[b"contents", b"a", b"contents", b"b"]), file(&[b"contents", b"a"])),
        ("an entry without a node", directory(&[&[b"entry", b"(", b"name", b"a", b")"]]), directory(&[&a])),
        (
            "an entry without a name",
            directory(&[&[b"entry", b"(", b"node", b"(", b"type", b"directory", b")", b")"]]),
            directory(&[&a]),
        ),
        ("entries out of order", directory(&[&b, &a]), directory(&[&a, &b])),
        ("an entry twice", directory(&[&a, &a]), directory(&[&a])),
        ("a link without a target", tokens(&[magic, b"(", b"type", b"symlink", b")"]), link_to(b"x")),
        (
            "a directory in place of a target",
            tokens(&[magic, b"(", b"type", b"symlink", b"entry", b"x", b")"]),
            link_to(b"x"),
        ),
        ("a second archive behind the first", [directory(&[]), directory(&[])].concat(), directory(&[])),
        ("one byte behind the end", [directory(&[]), vec![0]].concat(), directory(&[])),
        ("eight bytes behind the end", [directory(&[]), vec![0; 8]].concat(), directory(&[])),
        ("nothing at all", Vec::new(), directory(&[])),
    ];
    for (case, bad, good) in twins {
        let result = digest(bad);
        assert!(is_malformed(&result), "{case}: {result:?}");
        assert!(digest(good).is_ok(), "{case}: its twin");
    }
}

#[test]
fn a_name_that_could_leave_its_directory_is_refused() {
    for name in [&b""[..], b".", b"..", b"/", b"a/b", b"../a", b"/etc", b"a\0", b"\0"] {
        assert!(is_malformed(&digest(&directory_of(&[name]))), "{name:?}");
    }
    for name in [&b"..."[..], b".a", b"..a", b"a\\b", b"\xff\xfe", b" ", b"a\nb", b"~nix~case~hack~1"] {
        assert!(digest(&directory_of(&[name])).is_ok(), "{name:?}");
    }
}

#[test]
fn names_stand_in_strictly_rising_order_of_their_bytes() {
    let good: [&[&[u8]]; 4] =
        [&[b"a", b"a-", b"a.", b"a0", b"aa"], &[b"A", b"a"], &[b"a", b"\x80"], &[b"Z", b"a", b"\xc3"]];
    for names in good {
        assert!(digest(&directory_of(names)).is_ok(), "{names:?}");
        let mut backwards = names.to_vec();
        backwards.reverse();
        assert!(is_malformed(&digest(&directory_of(&backwards))), "{backwards:?}");
        assert!(is_malformed(&digest(&directory_of(&[names[0], names[0]]))), "{:?} twice", names[0]);
    }
}

/// No Linux file system has longer ones, and Nix (2.31.5, 2.34.7 and later) refuses them.
#[test]
fn names_and_targets_are_as_long_as_nix_reads_them() {
    assert!(digest(&directory_of(&[&[b'n'; 255]])).is_ok());
    assert!(is_malformed(&digest(&directory_of(&[&[b'n'; 256]]))));
    assert!(digest(&link_to(&[b't'; 4095])).is_ok());
    assert!(is_malformed(&digest(&link_to(&[b't'; 4096]))));
}

/// The system call would cut the target at the NUL: what lies on the disk is not what was hashed.
#[test]
fn a_target_that_no_link_can_have_is_refused() {
    for target in [&b""[..], b"\0", b"a\0b"] {
        assert!(is_malformed(&digest(&link_to(target))), "{target:?}");
    }
    assert!(digest(&link_to(b"../a/./b//c \xff\n")).is_ok());
}

#[test]
fn a_name_or_token_that_claims_to_be_huge_takes_no_memory() {
    for length in [1 << 20, 1 << 32, u64::MAX - 7, u64::MAX] {
        let head = tokens(&[b"nix-archive-1", b"(", b"type", b"directory", b"entry", b"(", b"name"]);
        for head in [
            head,
            Vec::new(),
            tokens(&[b"nix-archive-1"]),
            tokens(&[b"nix-archive-1", b"(", b"type", b"symlink", b"target"]),
        ] {
            let nar = [&head[..], &length.to_le_bytes(), b"name"].concat();
            assert!(is_malformed(&digest(&nar)), "{length} behind {} bytes", head.len());
        }
        let head = tokens(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
        let nar = [&head[..], &length.to_le_bytes(), b"contents"].concat();
        for request in requests() {
            let result = digest_nar(&nar[..], request.as_ref());
            assert!(is_malformed(&result), "{length} bytes of contents for {request:?}: {result:?}");
        }
    }
}

// Every cut, every bit.

#[test]
fn no_archive_that_was_cut_off_is_read() {
    for (name, nar) in good_nars() {
        for request in requests() {
            for end in 0..nar.len() {
                let result = digest_nar(&nar[..end], request.as_ref());
                assert!(
                    is_malformed(&result) || has_no_address(&result),
                    "{name} cut at {end} for {request:?}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn no_padding_bit_is_free() {
    let mut flipped = 0;
    for (name, nar) in good_nars() {
        for offset in padding(&nar) {
            for bit in 0..8 {
                let mut bad = nar.clone();
                bad[offset] ^= 1 << bit;
                let result = digest(&bad);
                assert!(is_malformed(&result), "{name}: bit {bit} of byte {offset}: {result:?}");
                flipped += 1;
            }
        }
    }
    assert!(flipped > 1000, "{flipped} bits: hardly any");
}

#[test]
fn no_bit_can_be_flipped_and_the_hash_stay() {
    for (name, nar) in good_nars() {
        let hash = digest(&nar).expect("a good archive").nar_hash;
        for offset in 0..nar.len() {
            for bit in 0..8 {
                let mut other = nar.clone();
                other[offset] ^= 1 << bit;
                if let Ok(digest) = digest(&other) {
                    assert_ne!(digest.nar_hash, hash, "{name}: bit {bit} of byte {offset}");
                }
            }
        }
    }
}

// Depth, width, limits.

#[test]
fn directories_are_nested_as_deep_as_in_nix() {
    assert!(digest(&nested(64)).is_ok());
    assert!(is_malformed(&digest(&nested(65))));
    assert!(is_malformed(&digest(&nested(100_000))), "without using up the stack");
}

#[test]
fn a_directory_of_thousands_is_read() {
    let names: Vec<String> = (0..20_000).map(|number| format!("{number:05}")).collect();
    let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    let nar = directory_of(&names);
    let digest = digest(&nar).expect("a good archive");
    assert_eq!((digest.nar_hash, digest.nar_size), plain(&nar));
    let listing: serde_json::Value = serde_json::from_slice(&digest.listing.expect("short enough")).expect("JSON");
    assert_eq!(listing["root"]["entries"].as_object().expect("a directory").len(), 20_000);
}

/// Of an archive with a million entries more, the reading stops at the limit.
#[test]
fn an_archive_of_more_than_four_million_entries_is_refused() {
    let mut wide = Wide::new(5_000_000);
    let result = digest_nar(&mut wide, None);
    assert!(matches!(result, Err(NarError::TooManyEntries)), "{result:?}");
    assert!((997_000..=1_000_000).contains(&wide.left), "{} entries were not asked for", wide.left);
}

#[test]
fn a_git_tree_of_more_entries_than_can_wait_is_refused_as_too_large() {
    let request =
        AddressRequest { method: ContentAddressMethod::Git, algorithm: HashAlgorithm::Sha1, own_hash_part: None };
    let result = digest_nar(Wide::new(250_001), Some(&request));
    assert!(matches!(result, Err(NarError::TooManyForGit)), "{result:?}");
    assert!(digest_nar(Wide::new(250_000), Some(&request)).is_ok());
}

#[test]
fn a_git_tree_of_many_smaller_directories_is_read() {
    let mut entries = Vec::new();
    for number in 0..100_000 {
        entries.extend(empty_directory(format!("{number:08}").as_bytes()));
    }
    let mut nar = tokens(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for name in [b"a", b"b", b"c"] {
        nar.extend(tokens(&[b"entry", b"(", b"name", name, b"node", b"(", b"type", b"directory"]));
        nar.extend_from_slice(&entries);
        nar.extend(tokens(&[b")", b")"]));
    }
    nar.extend(token(b")"));
    for request in requests().iter().flatten().filter(|request| request.method == ContentAddressMethod::Git) {
        assert!(digest_nar(&nar[..], Some(request)).is_ok(), "{request:?}");
    }
}

// Readers.

#[test]
fn a_reader_that_fails_is_blamed_and_not_the_archive() {
    for (name, nar) in good_nars() {
        for request in requests() {
            for end in 0..nar.len() {
                let result = digest_nar(Broken(&nar[..end]), request.as_ref());
                let blamed = matches!(result, Err(NarError::Read { .. }));
                assert!(blamed || has_no_address(&result), "{name} broken at {end} for {request:?}: {result:?}");
            }
        }
    }
}

#[test]
fn an_error_says_how_far_reading_came() {
    let (_, nar) = good_nars().remove(3);
    match digest(&nar[..100]) {
        Err(NarError::Malformed { offset, .. }) => assert!((88..=100).contains(&offset), "{offset}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reader_that_is_interrupted_and_slow_changes_nothing() {
    for (name, nar) in good_nars() {
        for request in requests() {
            let expected = digest_nar(&nar[..], request.as_ref());
            for sizes in [&[1][..], &[7], &[3, 1, 200], &[8]] {
                let result = digest_nar(Dribble::new(&nar, sizes), request.as_ref());
                match (&result, &expected) {
                    (Ok(result), Ok(expected)) => assert_eq!(result, expected, "{name}, {request:?}"),
                    (Err(_), Err(_)) => assert!(has_no_address(&result) && has_no_address(&expected), "{result:?}"),
                    _ => panic!("{name}, {request:?}, {sizes:?}: {result:?} instead of {expected:?}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn any_tree_has_the_hash_and_size_of_its_bytes(tree in any_tree(prop::collection::vec(any::<u8>(), 0..300))) {
        let nar = tree.to_nar();
        let digest = digest(&nar).expect("a good archive");
        prop_assert_eq!((digest.nar_hash, digest.nar_size), plain(&nar));
    }

    #[test]
    fn any_reader_gives_the_same_result(
        tree in any_tree(prop::collection::vec(any::<u8>(), 0..300)),
        sizes in prop::collection::vec(1..100_usize, 1..6),
    ) {
        let nar = tree.to_nar();
        for request in requests() {
            let whole = digest_nar(&nar[..], request.as_ref());
            let pieces = digest_nar(Dribble::new(&nar, &sizes), request.as_ref());
            prop_assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "{:?}", request);
        }
    }

    #[test]
    fn its_end_is_found_whatever_it_holds_and_whatever_follows(
        tree in any_tree(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            // What looks like the end of one, or like the beginning of a string.
            Just(token(b")")),
            Just(tokens(&[b"(", b"type", b"regular", b"contents"])),
            Just(b")".to_vec()),
        ]),
        behind in prop::collection::vec(any::<u8>(), 0..40),
        sizes in prop::collection::vec(1..100_usize, 1..6),
    ) {
        let nar = tree.to_nar();
        let all = [&nar[..], &behind].concat();
        let (mut end, mut at, mut sizes) = (NarEnd::default(), 0, sizes.iter().cycle());
        while at < all.len() && !end.is_reached() {
            let size = sizes.next().expect("it goes round");
            at += end.pass(&all[at..all.len().min(at + size)]);
        }
        prop_assert_eq!((at, end.is_reached()), (nar.len(), true));
        let mut early = NarEnd::default();
        prop_assert_eq!((early.pass(&nar[..nar.len() - 1]), early.is_reached()), (nar.len() - 1, false));
    }

    #[test]
    fn no_garbage_is_a_nar(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0..10_usize) {
        for request in requests() {
            prop_assert!(digest_nar(&bytes[..], request.as_ref()).is_err());
        }
        // Garbage behind a good beginning.
        let (_, good) = good_nars().remove(3);
        let nar = [&good[..at * 16], &bytes].concat();
        prop_assert!(digest(&nar).is_err());
    }

    #[test]
    fn damage_never_makes_reading_panic(
        tree in any_tree(prop::collection::vec(any::<u8>(), 0..40)),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let good = tree.to_nar();
        let mut bad = good.clone();
        for (index, byte) in damage {
            bad[index.index(good.len())] = byte;
        }
        for request in requests() {
            if let Ok(digest) = digest_nar(&bad[..], request.as_ref()) {
                prop_assert_eq!((digest.nar_hash, digest.nar_size), plain(&bad));
            }
        }
    }
}
