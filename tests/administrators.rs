//! A policy that administrators must have signed, with real minisign: every command that loads one asks for it.
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

const POLICY: &str = "version = 1
[signers.ci]
keys = [\"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\"]
[default]
require = \"ci\"
";

/// Runs minisign in a folder; false if there is none.
fn minisign(folder: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new("minisign");
    let ran = command.args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    match ran {
        Ok(output) => {
            assert!(output.status.success(), "minisign {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "minisign: {error}; tests/nix/install gets it");
            eprintln!("skipped, since there is no minisign: tests/nix/install gets it");
            false
        }
    }
}

/// Runs the program in a folder, with nothing to read, and not longer than it takes to serve nobody.
fn program(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", "-s", "TERM", "8", env!("CARGO_BIN_EXE_nix-quorum")]);
    command.args(arguments).current_dir(folder).env_clear().env("NIX_QUORUM_CONFIG", folder.join("config.toml"));
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).output().expect("the program runs")
}

/// Each command that loads a policy, and what it says once it was loaded.
fn commands(store: &str) -> Vec<(Vec<&str>, &'static str)> {
    vec![
        (vec!["policy", "check", "policy.toml"], "ci"),
        (vec!["serve", "--store", store, "--policy", "policy.toml", "--socket", "sock"], "serving"),
        (vec!["--stdio", "--socket", "none", "--store", store, "--policy", "policy.toml"], "the connection ended"),
        (vec!["verify", "--all", "--store", store, "--policy", "policy.toml"], "0 paths"),
    ]
}

#[test]
fn every_command_asks_for_the_administrators_signatures() {
    let place = tempfile::TempDir::new().expect("a directory");
    let folder = place.path();
    std::fs::write(folder.join("config.toml"), "").expect("room for a file");
    std::fs::write(folder.join("policy.toml"), POLICY).expect("room for a file");
    let mut keys = Vec::new();
    for name in ["alice", "bob"] {
        if !minisign(folder, &["-G", "-W", "-p", &format!("{name}.pub"), "-s", &format!("{name}.key")]) {
            return;
        }
        let text = std::fs::read_to_string(folder.join(format!("{name}.pub"))).expect("a public key");
        keys.push(text.lines().nth(1).expect("a key").to_owned());
    }
    let sign = |name: &str| {
        let (key, signature) = (format!("{name}.key"), format!("policy.toml.{name}.minisig"));
        minisign(folder, &["-S", "-W", "-s", &key, "-m", "policy.toml", "-x", &signature]);
    };
    let store = format!("file://{}/store", folder.display());
    let both = ["--policy-signer", &keys[0], "--policy-signer", &keys[1], "--policy-threshold", "2"];
    let refused = |why: &str| {
        for (arguments, _) in commands(&store) {
            let output = program(folder, &[&arguments[..], &both].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{arguments:?}");
            assert!(said.contains(why), "{arguments:?}: {said}");
            assert!(!folder.join("store").exists(), "{arguments:?}: nothing is made under a policy that nobody signed");
        }
    };
    refused("policy-unsigned: the policy lacks signatures: 0 of 2 of the administrators");
    sign("alice");
    refused("the policy lacks signatures: 1 of 2 of the administrators");
    sign("bob");
    for (arguments, expected) in commands(&store) {
        let output = program(folder, &[&arguments[..], &both].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("lacks signatures"), "{arguments:?}: {said}");
    }
    // One byte changed after it was signed.
    std::fs::remove_dir_all(folder.join("store")).expect("it was made");
    std::fs::write(folder.join("policy.toml"), format!("{POLICY}# more\n")).expect("room for a file");
    refused("policy-unsigned: the policy lacks signatures: 0 of 2 of the administrators");
}
