//! `nix-quorum log`, as people and programs see it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use verifier::{HashAlgorithm, KeyName, NixHasher, SecretKey};

/// How long a gate may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

fn quorum(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nix-quorum"));
    command.args(arguments).current_dir(folder).env("NIX_QUORUM_CONFIG", "/dev/null").env("NO_COLOR", "1");
    command
}

fn log(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        quorum(folder, &[&["log"], arguments, &["--store", "cache"]].concat()).output().expect("it runs");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// Starts a gate under a policy of this version, and stops it.
fn serve_once(folder: &Path, version: u64) {
    let key = SecretKey::from_seed(KeyName::new("a").expect("a key's name"), &[1; 32]).public();
    let policy = format!("version = {version}\n[signers.a]\nkeys = [\"{key}\"]\n[default]\nrequire = \"a\"\n");
    fs::write(folder.join("policy.toml"), policy).expect("it can be written");
    let arguments = ["serve", "--store", "cache", "--policy", "policy.toml", "--socket", "s"];
    let mut gate = quorum(folder, &arguments).spawn().expect("it starts");
    let begun = Instant::now();
    while !folder.join("s").exists() {
        assert!(begun.elapsed() < PATIENCE, "it listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&gate), Signal::TERM).expect("it runs");
    assert!(gate.wait().expect("it ends").success());
}

fn segment(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("cache/quorum/log/00000000/{number:012}"))
}

#[test]
fn it_shows_what_happened_and_whether_the_log_is_whole() {
    let folder = TempDir::new().expect("a directory");
    let folder = folder.path();
    for version in [1, 2, 2, 3] {
        serve_once(folder, version);
    }
    let (code, shown) = log(folder, &[]);
    assert_eq!((code, shown.lines().count()), (Some(0), 3), "{shown}");
    for (line, version) in shown.lines().zip(1..) {
        assert!(line.ends_with(&format!("Z  policy   version {version} is in force from here on")), "{line}");
    }
    assert_eq!(log(folder, &["--path", "hello"]), (Some(0), String::new()));
    assert_eq!(log(folder, &["--since", "2999-01-01"]), (Some(0), String::new()));
    assert_eq!(log(folder, &["--since", "2020-01-01"]), (Some(0), shown));
    let (code, said) = log(folder, &["--since", "yesterday"]);
    assert!(code == Some(4) && said.contains("expected a day such as"), "{said}");
    let (_, json) = log(folder, &["--json"]);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[2]["event"], &lines[2]["version"]), (3, &"policy".into(), &3.into()));
    // A line is hashed as it stands: what is shown can be checked with sha256sum.
    let stored = fs::read_to_string(segment(folder, 2)).expect("it is there");
    let mut hasher = NixHasher::new(HashAlgorithm::Sha256);
    hasher.update(stored.trim_end().as_bytes());
    let digest: String = hasher.finalize().digest_as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(lines[2]["previous"], Value::from(digest));

    let (code, said) = log(folder, &["verify"]);
    assert!(code == Some(0) && said.starts_with("3 records in one chain, the last one "), "{said}");
    fs::write(segment(folder, 2), stored.replace("\"version\":2", "\"version\":9")).expect("it can be written");
    let (code, said) = log(folder, &["verify"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2 records in one chain"), "{said}");
    assert!(
        said.contains("broken: the decision log is broken in line 1 of quorum/log/00000000/000000000003"),
        "{said}"
    );
    let (code, json) = log(folder, &["verify", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &json["records"], &json["from-the-beginning"]), (Some(1), &2.into(), &true.into()));
    let (code, said) = log(folder, &[]);
    assert!(code == Some(4) && said.contains("it does not follow the record before it"), "{said}");

    fs::write(segment(folder, 2), stored).expect("it can be written");
    fs::remove_file(segment(folder, 1)).expect("it is there");
    let (code, said) = log(folder, &["verify"]);
    assert!(code == Some(1) && said.contains("What was before the first of them is not there any more."), "{said}");
}

#[test]
fn there_is_none_where_there_is_no_store() {
    let folder = TempDir::new().expect("a directory");
    for arguments in [&[][..], &["verify"]] {
        let (code, said) = log(folder.path(), arguments);
        assert!(code == Some(4) && !said.is_empty(), "{said}");
    }
    assert!(!folder.path().join("cache").exists(), "nothing is made");
}
