//! `nix-quorum verify`, as people and programs see it: a small store with one thing wrong in each corner.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix_archive::nar::{Node, encode_tree};
use store_backend::client::Client;
use store_backend::store::hash_part_of;
use tempfile::TempDir;
use verifier::{
    AddressRequest, ContentAddress, ContentAddressMethod, HashAlgorithm, KeyName, PathInfo, SecretKey, StoreDir,
    StorePath, digest_nar,
};

/// How long a gate may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A key that is the same each time.
fn key(name: &str) -> SecretKey {
    let seed = name.bytes().next().expect("keys have names");
    SecretKey::from_seed(KeyName::new(name).expect("a key's name"), &[seed; 32])
}

struct Package {
    info: PathInfo,
    nar: Vec<u8>,
}

fn nar(text: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    encode_tree(&mut nar, &Node::Regular { executable: false, contents: text.as_bytes() }).expect("one file");
    nar
}

/// A path that holds its name, signed by these keys.
fn package(number: u8, name: &str, references: &[&Package], keys: &[&str]) -> Package {
    let nar = nar(name);
    let digest = digest_nar(&*nar, None).expect("a NAR");
    let mut info = PathInfo {
        path: StorePath::from_parts([number; 20], name).expect("a store path"),
        deriver: None,
        nar_hash: digest.nar_hash,
        nar_size: digest.nar_size,
        references: references.iter().map(|package| package.info.path.clone()).collect(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    let fingerprint = info.fingerprint(&StoreDir::default()).expect("a size");
    info.signatures = keys.iter().map(|name| key(name).sign(&fingerprint).to_string()).collect();
    Package { info, nar }
}

/// A path that nobody signed, whose content address is of one text while it holds perhaps another.
fn addressed(method: ContentAddressMethod, name: &str, says: &str, holds: &str) -> Package {
    let request = AddressRequest { method, algorithm: HashAlgorithm::Sha256, own_hash_part: None };
    let digest = digest_nar(&*nar(says), Some(&request)).expect("a NAR");
    let address = ContentAddress::new(digest.address.expect("one file has every address"));
    let mut package = package(0, holds, &[], &[]);
    let made = address.make_path(&StoreDir::default(), name, &BTreeSet::new(), false);
    package.info.path = made.expect("a path without references");
    package.info.content_address = Some(address);
    package
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let place = folder.join(name);
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("room for a folder");
    std::fs::write(place, bytes).expect("room for a file");
}

fn put(folder: &Path, package: &Package) {
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

/// A policy that wants two of three, and a binary cache in which most things are wrong.
fn world() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let place = folder.path();
    let mut policy = "version = 7\n".to_owned();
    for (signer, name) in [("ann", "a-1"), ("bob", "b-1"), ("cid", "c-1")] {
        let _ = write!(policy, "[signers.{signer}]\nkeys = [\"{}\"]\n", key(name).public());
    }
    policy += "[groups]\nbuilders = [\"ann\", \"bob\", \"cid\"]\n[default]\n";
    write(place, "policy.toml", policy + "require = { at-least = 2, of = \"builders\" }\n");
    let cache = place.join("cache");
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

/// The program, where it sees nothing of the machine's configuration.
fn quorum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nix-quorum"));
    write(folder, "config.toml", "");
    command.args(arguments).current_dir(folder).env_clear().env("NIX_QUORUM_CONFIG", folder.join("config.toml"));
    command
}

/// What a person sees: the command, what it prints, and its exit code.
fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = quorum(folder, arguments).output().expect("the program runs");
    let place = folder.display().to_string();
    let mut text = format!("$ nix-quorum {}\n", arguments.join(" "));
    for part in [&output.stdout, &output.stderr] {
        text += &String::from_utf8_lossy(part);
    }
    text += &format!("(exit code {})\n\n", output.status.code().expect("it was not killed"));
    without_times(&text.replace(&place, "$PWD"))
}

/// Replaces moments such as 2027-06-01T12:00:00Z, which are those of the test.
fn without_times(text: &str) -> String {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let is_time = |bytes: &[u8]| {
        bytes.iter().zip(FORM).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form })
    };
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.as_bytes().windows(FORM.len()).position(is_time) {
        kept += &rest[..at];
        kept += "NOW";
        rest = &rest[at + FORM.len()..];
    }
    kept + rest
}

const POLICY: [&str; 5] = ["verify", "--store", "cache", "--policy", "policy.toml"];

#[test]
fn reads_the_same_to_people_and_programs() {
    let folder = world();
    let mut text = String::new();
    for arguments in [
        &["--recursive", "result"][..],
        &["result"],
        &["--all"],
        &["--all", "--no-contents"],
        &["--all", "--verbose"],
        &["--recursive", "result", "--explain", "result"],
        &["result", "--explain", "/nix/store/0l2ha1850l2ha1850l2ha1850l2ha185-victim"],
        &["--all", "--explain", "/nix/store/0l2ha1850l2ha1850l2ha1850l2ha185-victim"],
        &["/nix/store/00000000000000000000000000000000-nothing"],
    ] {
        text += &shown(folder.path(), &[&POLICY, arguments].concat());
    }
    for arguments in [
        &["why", "040h2081040h2081040h2081040h2081-library"][..],
        &["why", "040h2081040h2081040h2081040h2081-library", "result"],
    ] {
        text += &shown(folder.path(), &[arguments, &POLICY[1..]].concat());
    }
    insta::assert_snapshot!("people", text);
    for format in ["junit", "sarif", "dot"] {
        let shown = shown(folder.path(), &[&POLICY[..], &["--all", "--format", format]].concat());
        insta::assert_snapshot!(format, shown);
    }
    insta::assert_snapshot!("programs", shown(folder.path(), &[&POLICY[..], &["--all", "--json"]].concat()));
}

#[test]
fn keys_and_a_number_stand_for_a_policy() {
    let folder = world();
    let keys = |names: &[&str]| names.iter().map(|name| key(name).public().to_string()).collect::<Vec<_>>().join(" ");
    let renamed = keys(&["a-1"]).replace("a-1:", "other:");
    let mut text = String::new();
    for (keys, needed) in [
        (keys(&["a-1", "b-1"]), "2"),
        (keys(&["a-1", "b-1"]), "1"),
        (format!("{} {renamed}", keys(&["a-1"])), "2"),
        (keys(&["a-1"]), "2"),
        (keys(&["a-1"]), "0"),
        ("nonsense".to_owned(), "1"),
    ] {
        let options = ["verify", "--store", "cache", "--trusted-public-keys", &keys, "--sigs-needed", needed];
        text += &shown(folder.path(), &[&options[..], &["--recursive", "result"]].concat());
    }
    insta::assert_snapshot!("keys", text);
}

#[test]
fn what_cannot_be_checked_exits_with_4() {
    let folder = world();
    write(folder.path(), "bad.toml", "version = 0\n");
    let mut text = String::new();
    for arguments in [
        &["verify", "--store", "absent", "--policy", "policy.toml", "--all"][..],
        &["verify", "--store", ".", "--policy", "policy.toml", "--all"],
        &["verify", "--store", "unix://absent", "--policy", "policy.toml", "--all"],
        &["verify", "--store", "gs://bucket", "--policy", "policy.toml", "--all"],
        &["verify", "--store", "cache", "--policy", "absent.toml", "--all"],
        &["verify", "--store", "cache", "--policy", "bad.toml", "--all"],
        &["verify", "--store", "cache", "--policy", "policy.toml"],
        &["verify", "--store", "cache", "--all"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "policy.toml"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "--all", "result"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "--sigs-needed", "1", "result"],
    ] {
        let one = shown(folder.path(), arguments);
        assert!(one.ends_with("(exit code 4)\n\n"), "{one}");
        text += &one;
    }
    insta::assert_snapshot!("unusable", text);
}

/// A gate that runs until it is dropped.
struct Gate(Child);

impl Gate {
    fn start(folder: &Path) -> Self {
        let store = format!("file://{}", folder.join("store").display());
        let mut serve = quorum(folder, &["serve", "--store", &store, "--policy", "policy.toml", "--socket", "socket"]);
        let gate = Self(serve.stderr(Stdio::null()).spawn().expect("the program runs"));
        let began = Instant::now();
        while !folder.join("socket").exists() {
            assert!(began.elapsed() < PATIENCE, "the gate does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        gate
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[tokio::test]
async fn a_live_gate_and_its_directory_say_the_same() {
    let folder = world();
    let place = folder.path();
    let gate = Gate::start(place);
    let library = package(1, "library", &[], &["a-1", "b-1"]);
    let program = package(2, "program", &[&library], &["b-1", "c-1"]);
    let mut client = Client::connect(&place.join("socket"), &StoreDir::default()).await.expect("the gate listens");
    for package in [&library, &program] {
        client.add_to_store(&package.info, &package.nar).await.expect("two signers");
    }
    let verify = |store: &str, rest: &[&str]| {
        shown(place, &[&["verify", "--store", store, "--policy", "policy.toml", "-r", "result"], rest].concat())
    };
    let (live, kept) = (verify("unix://socket", &[]), verify("store", &[]));
    assert_eq!(live.replace("unix://socket", "store"), kept);
    insta::assert_snapshot!("gate", live);
    // A directory also knows since when it has had each signature.
    let json = |text: String| -> String {
        let lines = text.lines().skip(1).filter(|line| !line.contains("\"firstSeen\"") && !line.contains("\"store\""));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert!(verify("store", &["--json"]).contains("\"firstSeen\": 1"));
    assert!(verify("unix://socket", &["--json"]).contains("\"firstSeen\": null"));
    assert_eq!(json(verify("unix://socket", &["--json"])), json(verify("store", &["--json"])));
    let nar = format!("store/nar/{}.nar.zst", library.info.nar_hash.to_nix32());
    std::fs::remove_file(place.join(nar)).expect("it was there");
    for store in ["unix://socket", "store"] {
        let text = verify(store, &[]);
        assert!(text.contains("missing-content") && text.ends_with("(exit code 1)\n\n"), "{text}");
    }
    drop(gate);
    assert!(verify("unix://socket", &[]).ends_with("(exit code 4)\n\n"));
}
