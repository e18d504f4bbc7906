//! Listings: the `.ls` files that Nix writes beside narinfos.

mod support;

use proptest::prelude::*;
use support::nar::{Tree, any_tree, directory_of, link_to};
use support::{cases, fixture, vectors};
use verifier::{NarDigest, digest_nar};

fn digest(nar: &[u8]) -> NarDigest {
    digest_nar(nar, None).expect("a good archive")
}

#[test]
fn a_listing_is_the_one_nix_writes() {
    for cache in fixture::caches() {
        for cached in &cache.paths {
            let listing = digest(&cached.nar).listing.expect("all names are UTF-8");
            let ours: serde_json::Value = serde_json::from_slice(&listing).expect("JSON");
            let theirs: serde_json::Value = serde_json::from_slice(&cached.listing).expect("JSON");
            assert_eq!(ours, theirs, "Nix {}: {}", cache.nix, cached.info.path);
            if cache.nix != "2.8" {
                // Nix 2.8 has its members in another order.
                let (ours, theirs) = (String::from_utf8_lossy(&listing), String::from_utf8_lossy(&cached.listing));
                assert_eq!(ours, theirs, "Nix {}: {}", cache.nix, cached.info.path);
            }
        }
    }
}

/// Nix's own `deep.json` is of a source without offsets, and says so of each file that is not executable.
#[test]
fn a_listing_has_the_shape_of_nixs_own_tests() {
    let Some(vectors) = vectors() else { return };
    let deep: serde_json::Value =
        serde_json::from_slice(&fixture::read(&vectors.join("nar-listing/deep.json"))).expect("JSON");
    let tree = Tree::directory([
        ("bar", Tree::directory([("baz", Tree::program([b'x'; 19])), ("quux", Tree::link("/over/there"))])),
        ("foo", Tree::file([b'x'; 15])),
    ]);
    let listing = digest(&tree.to_nar()).listing.expect("short");
    let mut listing: serde_json::Value = serde_json::from_slice(&listing).expect("JSON");
    assert_eq!(listing["version"], 1);
    let mut root = listing["root"].take();
    fn adapt(node: &mut serde_json::Value) {
        let members = node.as_object_mut().expect("an object");
        members.remove("narOffset");
        if members["type"] == "regular" {
            members.entry("executable").or_insert(false.into());
        }
        if let Some(entries) = members.get_mut("entries") {
            entries.as_object_mut().expect("an object").values_mut().for_each(adapt);
        }
    }
    adapt(&mut root);
    assert_eq!(root, deep);
}

#[test]
fn a_name_or_target_that_json_cannot_say_has_no_listing() {
    for nar in [directory_of(&[b"\xff"]), link_to(b"\xff"), directory_of(&[b"a", b"b\xc3"])] {
        assert_eq!(digest(&nar).listing, None);
    }
    for nar in [directory_of(&["é".as_bytes()]), link_to("\u{1f600}".as_bytes()), directory_of(&[b"\x01\"\\\x7f"])] {
        let listing = digest(&nar).listing.expect("it is UTF-8");
        assert!(serde_json::from_slice::<serde_json::Value>(&listing).is_ok());
    }
}

#[test]
fn a_listing_beyond_8_mib_is_none_and_the_rest_stands() {
    let names: Vec<String> = (0..36_000).map(|number| format!("{number:0240}")).collect();
    let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    let nar = directory_of(&names);
    let digest = digest(&nar);
    assert_eq!(digest.nar_size, nar.len() as u64);
    assert_eq!(digest.listing, None);
}

/// Checks a listing against the tree: nothing more, nothing less, and the offsets point at the contents.
fn check_listing(nar: &[u8], tree: &Tree, node: &serde_json::Value) {
    let members = node.as_object().expect("an object");
    match tree {
        Tree::File { executable, contents } => {
            assert_eq!(members["type"], "regular");
            assert_eq!(members.get("executable"), executable.then_some(&true.into()));
            assert_eq!(members["size"], contents.len());
            let offset = members["narOffset"].as_u64().expect("a number");
            let offset = usize::try_from(offset).expect("small");
            assert_eq!(&nar[offset..offset + contents.len()], contents);
        }
        Tree::Link(target) => {
            assert_eq!(members["type"], "symlink");
            assert_eq!(members["target"].as_str().map(str::as_bytes), Some(&target[..]));
        }
        Tree::Directory(entries) => {
            assert_eq!(members["type"], "directory");
            let listed = members["entries"].as_object().expect("an object");
            assert_eq!(listed.len(), entries.len());
            for (name, tree) in entries {
                let name = std::str::from_utf8(name).expect("it has a listing");
                check_listing(nar, tree, &listed[name]);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn a_listing_says_all_of_a_tree_and_where_its_contents_lie(
        tree in any_tree(prop::collection::vec(any::<u8>(), 0..300)),
    ) {
        let nar = tree.to_nar();
        if let Some(listing) = digest(&nar).listing {
            let listing: serde_json::Value = serde_json::from_slice(&listing).expect("JSON");
            check_listing(&nar, &tree, &listing["root"]);
        }
    }
}
