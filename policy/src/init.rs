//! A policy to start from, made of the keys that a Nix configuration trusts today.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use verifier::{PublicKey, StoreDir};

/// The group that the starting policy puts everybody in.
const GROUP: &str = "trusted";
/// Longest signer name that is derived from a key's, in bytes: it leaves room for a number within the language's limit.
const MAX_NAME: usize = 56;

/// Returns the text of a commented policy that trusts `keys` as Nix does: any one of them. It is there to be edited.
///
/// Keys that differ only in the number at the end of their names are taken for keys of one signer, so that a rotation
/// makes no second vote. A key that comes twice, under whatever name, is listed once. Without keys the text shows what
/// to fill in; it is not a policy yet, because nothing can meet it.
#[must_use]
pub fn starting_policy(keys: &[PublicKey], store_dir: &StoreDir) -> String {
    let signers = signers(keys);
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "store-dir = {}\n\n{SIGNERS}", quoted(store_dir.as_str()));
    for (name, keys) in &signers {
        let keys: Vec<String> = keys.iter().map(|key| quoted(&key.to_string())).collect();
        let _ = writeln!(text, "[signers.{name}]\nkeys = [{}]\n", keys.join(", "));
    }
    if signers.is_empty() {
        text.push_str(NO_SIGNERS);
    } else {
        let names: Vec<String> = signers.iter().map(|(name, _)| quoted(name)).collect();
        let _ = writeln!(text, "[groups]\n{GROUP} = [{}]\n", names.join(", "));
        text.push_str(DEFAULT);
    }
    text.push_str(RULES);
    text
}

const HEAD: &str = "\
# Which signers have to vouch for a path before this store admits it.
# After every change: nix-quorum policy check FILE

version = 1                            # raise it with every change; a store never takes a lower one
# expires = 2030-01-01T00:00:00Z       # from then on nothing new is admitted
";

const SIGNERS: &str = "\
# A signer is one party with one vote, however many keys it has. A key can be limited:
#   keys = [{ key = \"ci-2:…\", not-before = 2027-01-01T00:00:00Z },
#           { key = \"ci-1:…\", not-after = 2027-02-01T00:00:00Z },
#           { key = \"ci-0:…\", revoked = \"2026-10-01 disk stolen\" }]
";

const NO_SIGNERS: &str = "\
# Nobody is trusted yet. `nix key convert-secret-to-public` prints the public key of a builder's secret key;
# `nix config show trusted-public-keys` prints those that Nix trusts. Take the # away and fill them in:

# [signers.alice]
# keys = [\"alice-1:…\"]

# [signers.bob]
# keys = [\"bob-1:…\"]

# [groups]
# trusted = [\"alice\", \"bob\"]

# [default]
# require = { at-least = 2, of = \"trusted\" }
";

const DEFAULT: &str = "\
[default]
# Any one of them is enough, as in Nix itself. Where several of them build the same paths, ask for more:
# raise at-least, or write { any = [\"one\", { at-least = 2, of = \"others\" }] } or { all = [\"one\", \"other\"] }.
require = { at-least = 1, of = \"trusted\" }
content-addressed = \"recompute\"        # such paths prove themselves; \"require\" asks for signatures too
";

const RULES: &str = "
# Rules ask for more where the name after the hash matches, and never for less:
# [[rules]]
# name = \"kernels need two\"
# paths = [\"linux-*\"]
# require = { at-least = 2, of = \"trusted\" }
";

/// Gathers keys into signers with names that are unique and need no quotes in TOML.
fn signers(keys: &[PublicKey]) -> Vec<(String, Vec<&PublicKey>)> {
    let mut seen = BTreeSet::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut taken: BTreeSet<String> = [GROUP.to_owned()].into();
    let mut signers: Vec<(String, Vec<&PublicKey>)> = Vec::new();
    for key in keys.iter().filter(|key| seen.insert(*key.as_bytes())) {
        let stem = stem(key.name().as_str());
        if let Some(place) = places.get(stem) {
            signers[*place].1.push(key);
            continue;
        }
        let plain = plain(stem);
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        let name = names.find(|name| !taken.contains(name)).expect("there is always a higher number");
        taken.insert(name.clone());
        places.insert(stem, signers.len());
        signers.push((name, vec![key]));
    }
    signers
}

/// Takes the number off the end of a key's name: `cache.example.org-1` is a key of `cache.example.org`.
fn stem(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, number)) if !stem.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => stem,
        _ => name,
    }
}

fn plain(stem: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let replaced: String = stem.chars().map(fine).take(MAX_NAME).collect();
    let trimmed = replaced.trim_matches('-');
    if trimmed.is_empty() { "signer".to_owned() } else { trimmed.to_owned() }
}

/// Writes a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
