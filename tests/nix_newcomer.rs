//! The way of somebody who has just installed this: keys, a policy, a gate, a first copy.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use support::{Client, Closure, Gate, Scratch, Shell, keys, policy};

with_each_client!(
    a_generated_key_is_one_of_nix,
    a_policy_that_was_begun_for_them_serves_them,
    a_store_without_a_gate_is_served_by_whoever_may_write_it,
);

const SIZE: u32 = 8;

fn nix_quorum(arguments: &[&str]) -> Output {
    let mut command = Command::new(support::PROGRAM);
    command.args(arguments).env("NIX_QUORUM_CONFIG", "/dev/null").output().expect("nix-quorum runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn a_generated_key_is_one_of_nix(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let mut shell = Shell::new(client, scratch.path());
    let file = shell.expand("$W/ci-eu-1.sec");
    shell.set("K", &*file).set("L", closure.unsigned().display().to_string()).set("A", closure.path("node-0-file"));

    let public = stdout(&nix_quorum(&["key", "generate", "--key-name", "ci-eu-1", &file]));
    assert!(public.starts_with("ci-eu-1:"), "{public}");
    let metadata = fs::metadata(&file).expect("a key");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "its owner's alone");
    assert_eq!(shell.must("nix key convert-secret-to-public <$K"), public);
    assert_eq!(stdout(&nix_quorum(&["key", "public", &file])), public);

    let secret = fs::read_to_string(&file).expect("a key");
    let again = nix_quorum(&["key", "generate", "--key-name", "ci-eu-2", &file]);
    assert_eq!(again.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists"), "{again:?}");
    assert_eq!(fs::read_to_string(&file).expect("a key"), secret, "a key is never overwritten");
    let other = nix_quorum(&["key", "generate", "--key-name", "ci-eu-1", &format!("{file}2")]);
    assert_ne!(stdout(&other), public, "and never made twice");

    shell.set("P", &*public);
    shell.must("nix copy --no-check-sigs --from $L --to $W/own $A && nix store sign --store $W/own -k $K $A");
    shell.must("nix store verify --store $W/own --sigs-needed 1 --option trusted-public-keys \"$P\" $A");
    // And the other way about: Nix's key is one of ours.
    shell.must("nix key generate-secret --key-name theirs-1 >$W/theirs.sec");
    let theirs = shell.must("nix key convert-secret-to-public <$W/theirs.sec");
    assert_eq!(stdout(&nix_quorum(&["key", "public", &shell.expand("$W/theirs.sec")])), theirs);
}

fn a_policy_that_was_begun_for_them_serves_them(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let keys = keys();
    let trusted = format!("{} {}", keys.public("a"), keys.public("b"));
    let nix_conf = scratch.path().join("nix.conf");
    fs::write(&nix_conf, format!("substituters =\ntrusted-public-keys = {trusted}\n")).expect("a nix.conf");
    let begun = stdout(&nix_quorum(&["policy", "init", "--nix-conf", &nix_conf.display().to_string()]));
    assert_eq!(stdout(&nix_quorum(&["policy", "init", "--trusted-public-keys", &trusted])), begun);
    assert!(check(scratch.path(), &begun).contains("at least 1 of trusted (builder-a and builder-b)"), "{begun}");

    // What its comments say to do.
    let edited = begun.replace("at-least = 1, of = \"trusted\"", "at-least = 2, of = \"trusted\"");
    assert_ne!(edited, begun);
    let explained = check(scratch.path(), &edited);
    assert!(explained.contains("at least 2 of trusted (builder-a and builder-b)"), "{explained}");

    let gate = Gate::start(&scratch.path().join("gate"), &edited, &[]);
    let mut shell = Shell::new(client, &scratch.path().join("client"));
    shell.set("S", gate.unix()).set("N", gate.ssh_ng()).set("C", &*closure.top).set("P1", keys.public("a"));
    shell.set("L1", closure.signed_by_one().display().to_string());
    shell.set("LS", closure.signed_by_two().display().to_string());
    shell.must_fail(
        "nix copy --from $L1 --to $S $C",
        "quorum-missing: 1 of 2 of trusted (builder-a signed; builder-b could still sign)",
    );
    shell.must("nix copy --from $LS --to $S $C");
    shell.must("nix copy --from $N --to $W/back $C --option trusted-public-keys \"$P1\"");
    assert_eq!(gate.stop(), Some(0), "it ends when told to");
    shell.must_fail("nix store ping --store $N", "no gate answers at ");
}

/// For one user alone: Nix starts the program, which opens the store itself.
fn a_store_without_a_gate_is_served_by_whoever_may_write_it(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let mut shell = Shell::new(client, scratch.path());
    shell.set("C", &*closure.top).set("P1", keys().public("a")).set("PROGRAM", support::PROGRAM);
    shell.set("L1", closure.signed_by_one().display().to_string());
    shell.set("LS", closure.signed_by_two().display().to_string());
    fs::write(shell.expand("$W/policy.toml"), policy(&keys(), &[])).expect("a policy");
    shell.must(
        "printf '#!/bin/sh\\nexec %s \"$@\" --socket %s --store %s --policy %s\\n' \
            $PROGRAM $W/nobody file://$W/store $W/policy.toml >$W/stdio && chmod +x $W/stdio",
    );
    let program = shell.expand("$W/stdio");
    shell.set("S", format!("ssh-ng://localhost?remote-program={program}"));
    shell.must_fail("nix copy --from $L1 --to $S $C", "quorum-missing: 1 of 2 of builders");
    shell.must("nix copy --from $LS --to $S $C");
    shell.must("nix copy --from $S --to $W/back $C --option trusted-public-keys \"$P1\"");
    assert_eq!(shell.must("nix path-info --store file://$W/store -r $C | wc -l"), "10");
}

/// Returns what `policy check` says of a policy; `--json` says the same to programs.
fn check(scratch: &Path, policy: &str) -> String {
    let file = scratch.join("policy.toml");
    fs::write(&file, policy).expect("a policy");
    let file = file.display().to_string();
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&nix_quorum(&["policy", "check", "--json", &file]))).expect("JSON");
    assert!(json.is_object(), "{json}");
    stdout(&nix_quorum(&["policy", "check", &file]))
}
