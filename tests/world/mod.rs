//! A small store with one thing wrong in each corner, and a large one.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ed25519_dalek::SigningKey;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use nix_archive::nar::{Node, encode_tree};
use sha2::Sha512;
use store_backend::store::hash_part_of;
use tempfile::TempDir;
use verifier::{
    AddressRequest, ContentAddress, ContentAddressMethod, HashAlgorithm, KeyName, PathInfo, SecretKey, Signature,
    StoreDir, StorePath, digest_nar,
};

/// A key that is the same each time.
pub fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(KeyName::new(name).expect("a key's name"), &[seed(name); 32])
}

fn seed(name: &str) -> u8 {
    name.bytes().next().expect("keys have names")
}

/// A path on its way into a cache.
pub struct Package {
    pub info: PathInfo,
    pub nar: Vec<u8>,
}

fn nar(text: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    encode_tree(&mut nar, &Node::Regular { executable: false, contents: text.as_bytes() }).expect("one file");
    nar
}

/// A digest that comes from a number.
fn digest_of(number: u32) -> [u8; 20] {
    match u8::try_from(number) {
        Ok(byte) => [byte; 20],
        Err(_) => {
            let mut digest = [0; 20];
            digest[..4].copy_from_slice(&number.to_be_bytes());
            digest
        }
    }
}

/// A path that holds its name, signed by these keys.
pub fn package(number: u32, name: &str, references: &[&Package], keys: &[&str]) -> Package {
    let nar = nar(name);
    let digest = digest_nar(&*nar, None).expect("a NAR");
    let mut info = PathInfo {
        path: StorePath::from_parts(digest_of(number), name).expect("a store path"),
        deriver: None,
        nar_hash: digest.nar_hash,
        nar_size: digest.nar_size,
        references: references.iter().map(|package| package.info.path.clone()).collect(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    info.signatures = keys.iter().map(|name| signed(&info, name)).collect();
    Package { info, nar }
}

/// Returns the signature by a key.
pub fn signed(info: &PathInfo, name: &str) -> String {
    let fingerprint = info.fingerprint(&StoreDir::default()).expect("a size");
    key(name).sign(&fingerprint).to_string()
}

/// Returns another signature by a key over the same, made with another nonce.
pub fn signed_again(info: &PathInfo, name: &str) -> String {
    let fingerprint = info.fingerprint(&StoreDir::default()).expect("a size");
    let signing = SigningKey::from_bytes(&[seed(name); 32]);
    let mut expanded = ExpandedSecretKey::from(&signing.to_bytes());
    expanded.hash_prefix = [0xA5; 32];
    let made = raw_sign::<Sha512>(&expanded, fingerprint.as_bytes(), &signing.verifying_key());
    Signature::new(KeyName::new(name).expect("a key's name"), made.to_bytes()).to_string()
}

/// A path that nobody signed, whose content address is of one text while it holds perhaps another.
pub fn addressed(method: ContentAddressMethod, name: &str, says: &str, holds: &str) -> Package {
    with_address(HashAlgorithm::Sha256, method, name, says, holds)
}

/// A path that nobody signed, with a content address by some algorithm.
pub fn addressed_by(algorithm: HashAlgorithm, method: ContentAddressMethod, name: &str, holds: &str) -> Package {
    with_address(algorithm, method, name, holds, holds)
}

fn with_address(
    algorithm: HashAlgorithm,
    method: ContentAddressMethod,
    name: &str,
    says: &str,
    holds: &str,
) -> Package {
    let request = AddressRequest { method, algorithm, own_hash_part: None };
    let digest = digest_nar(&*nar(says), Some(&request)).expect("a NAR");
    let address = ContentAddress::new(digest.address.expect("one file has every address"));
    let mut package = package(0, holds, &[], &[]);
    let made = address.make_path(&StoreDir::default(), name, &BTreeSet::new(), false);
    package.info.path = made.expect("a path without references");
    package.info.content_address = Some(address);
    package
}

pub fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let place = folder.join(name);
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("room for a folder");
    std::fs::write(place, bytes).expect("room for a file");
}

pub fn put(folder: &Path, package: &Package) {
    let info = &package.info;
    let url = format!("nar/{}.nar", info.nar_hash.to_nix32());
    let references: Vec<String> = info.references.iter().map(StorePath::to_basename).collect();
    let mut narinfo = format!(
        "StorePath: {}\nURL: {url}\nCompression: none\nNarHash: {}\nNarSize: {}\nReferences: {}\n",
        full(package),
        info.nar_hash,
        info.nar_size,
        references.join(" ")
    );
    info.signatures.iter().for_each(|signature| narinfo += &format!("Sig: {signature}\n"));
    info.content_address.iter().for_each(|address| narinfo += &format!("CA: {address}\n"));
    write(folder, &url, &package.nar);
    write(folder, &format!("{}.narinfo", hash_part_of(&info.path)), narinfo);
}

fn full(package: &Package) -> String {
    StoreDir::default().render_path(&package.info.path)
}

/// A policy that wants two of three, a binary cache in which most things are wrong, and another one that has a signature to add,
/// and other contents.
pub fn world() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let place = folder.path();
    let mut policy = "version = 7\n".to_owned();
    for (signer, name) in [("ann", "a-1"), ("bob", "b-1"), ("cid", "c-1")] {
        let _ = write!(policy, "[signers.{signer}]\nkeys = [\"{}\"]\n", key(name).public());
    }
    policy += "[groups]\nbuilders = [\"ann\", \"bob\", \"cid\"]\n[default]\n";
    write(place, "policy.toml", policy + "require = { at-least = 2, of = \"builders\" }\n");
    let (cache, other) = (place.join("cache"), place.join("other"));
    write(&other, "nix-cache-info", "StoreDir: /nix/store\n");
    put(&other, &package(3, "lonely", &[], &["b-1"]));
    put(&other, &renamed(package(1, "another", &[], &["c-1"]), "library"));
    write(&cache, "nix-cache-info", "StoreDir: /nix/store\n");
    let library = package(1, "library", &[], &["a-1", "b-1"]);
    let program = package(2, "program", &[&library], &["b-1", "c-1"]);
    let lonely = package(3, "lonely", &[], &["a-1", "x-1"]);
    let damaged = package(4, "damaged", &[], &["a-1", "b-1"]);
    let victim = package(5, "victim", &[&damaged, &lonely], &["a-1", "b-1"]);
    let absent = package(6, "absent", &[], &[]);
    let orphan = package(7, "orphan", &[&absent], &["a-1", "b-1"]);
    let source = addressed(ContentAddressMethod::Nar, "source", "source", "source");
    let text = addressed(ContentAddressMethod::Flat, "text", "text", "text");
    let liar = addressed(ContentAddressMethod::Nar, "liar", "truth", "lie");
    for package in [&library, &program, &lonely, &damaged, &victim, &orphan, &source, &text, &liar] {
        put(&cache, package);
    }
    write(&cache, &format!("nar/{}.nar", damaged.info.nar_hash.to_nix32()), nar("demagad"));
    std::os::unix::fs::symlink(full(&program), place.join("result")).expect("a link");
    folder
}

/// Puts contents under another name, with the signatures of their own.
fn renamed(package: Package, name: &str) -> Package {
    let path = StorePath::from_parts(*package.info.path.digest(), name).expect("a store path");
    Package { info: PathInfo { path, ..package.info }, nar: package.nar }
}

/// A binary cache with many paths, each of which refers to some that came before: of every ten one lacks a signature.
pub fn crowd(place: &Path, size: u32) -> PathBuf {
    let cache = place.join("crowd");
    write(&cache, "nix-cache-info", "StoreDir: /nix/store\n");
    let mut packages: Vec<Package> = Vec::new();
    for number in 0..size {
        let keys: &[&str] = if number % 10 == 7 { &["a-1"] } else { &["a-1", "b-1"] };
        let below = [number / 2, number / 3, number.saturating_sub(5)];
        let references: BTreeSet<u32> = below.into_iter().filter(|below| *below < number && number > 20).collect();
        let references: Vec<&Package> = references.iter().map(|below| &packages[*below as usize]).collect();
        packages.push(package(1_000 + number, &format!("path-{number}"), &references, keys));
    }
    packages.iter().for_each(|package| put(&cache, package));
    cache
}

/// The program, where it sees nothing of the machine's configuration.
pub fn quorum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nix-quorum"));
    write(folder, "config.toml", "");
    command.args(arguments).current_dir(folder).env_clear().env("NIX_QUORUM_CONFIG", folder.join("config.toml"));
    command
}
