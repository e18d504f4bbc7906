//! The starting policy: it is a policy, and reads like one.

mod world;

use policy::{Policy, starting_policy};
use verifier::{KeyName, PublicKey, StoreDir};
use world::{NOW, key};

fn keys(names: &[(&str, u8)]) -> Vec<PublicKey> {
    names.iter().map(|(name, seed)| key(name, *seed).public()).collect()
}

fn signers(text: &str) -> Vec<(String, usize)> {
    let policy = Policy::parse(text, "policy.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    policy.keyring().signers().map(|(_, signer)| (signer.name.to_string(), signer.keys.len())).collect()
}

#[test]
fn names_signers_after_their_keys() {
    type Case = (&'static str, &'static [(&'static str, u8)], &'static [(&'static str, usize)]);
    let cases: [Case; 7] = [
        ("a host", &[("cache.nixos.org-1", 1)], &[("cache-nixos-org", 1)]),
        ("two keys of one signer", &[("ci-1", 1), ("ci-2", 2)], &[("ci", 2)]),
        ("two hosts that look alike", &[("a.b-1", 1), ("a-b-1", 2)], &[("a-b", 1), ("a-b-2", 1)]),
        ("the name of the group", &[("trusted-1", 1)], &[("trusted-2", 1)]),
        ("one key under two names", &[("a-1", 1), ("b-1", 1)], &[("a", 1)]),
        ("nothing that a name could hold", &[("日本-1", 1), ("\"\\", 2)], &[("signer", 1), ("signer-2", 1)]),
        ("a number alone", &[("1", 1), ("-2", 2)], &[("1", 1), ("2", 1)]),
    ];
    for (shows, names, expected) in cases {
        let text = starting_policy(&keys(names), &StoreDir::default());
        let found = signers(&text);
        assert_eq!(found.iter().map(|(name, keys)| (name.as_str(), *keys)).collect::<Vec<_>>(), expected, "{shows}");
    }
}

#[test]
fn is_a_policy_whatever_the_names_and_the_directory() {
    let long = "x".repeat(250);
    let names = ["a-1", "\"", "'''", "\\u0041", "#", "[signers]", "=", "a.b.c", &long, "\u{200b}"];
    let keys: Vec<PublicKey> = (10..)
        .zip(names)
        .map(|(seed, name)| {
            PublicKey::new(KeyName::new(name).expect(name), key("k", seed).public().as_bytes()).expect(name)
        })
        .collect();
    for directory in ["/nix/store", "/", "/data/\"quoted\"/store", "/tab\t/\u{7f}\\n"] {
        let store_dir = StoreDir::new(directory).expect(directory);
        let text = starting_policy(&keys, &store_dir);
        assert_eq!(signers(&text).len(), names.len());
        assert_eq!(Policy::parse(&text, "p").expect("a policy").store_dir(), &store_dir);
    }
}

#[test]
fn reads_like_a_policy() {
    let text = starting_policy(&keys(&[("cache.nixos.org-1", 1), ("ci-1", 2), ("ci-2", 3)]), &StoreDir::default());
    let explanation = Policy::parse(&text, "policy.toml").expect("a policy").explain(NOW);
    insta::assert_snapshot!("starting_policy", format!("{text}\n#### explained\n{explanation}"));
}

#[test]
fn shows_what_to_fill_in_where_there_are_no_keys() {
    let text = starting_policy(&[], &StoreDir::default());
    insta::assert_snapshot!("starting_policy_without_keys", text);
    assert!(Policy::parse(&text, "policy.toml").is_err(), "nothing can meet it yet");
    let filled = text
        .replace("# [", "[")
        .replace("# keys", "keys")
        .replace("# trusted", "trusted")
        .replace("# require", "require");
    let filled =
        filled.replace("alice-1:…", &world::public("alice-1", 1)).replace("bob-1:…", &world::public("bob-1", 2));
    let filled: String = filled.split("\n# Rules").next().expect("a first part").to_owned();
    assert_eq!(signers(&filled).len(), 2, "once it is filled in");
}
