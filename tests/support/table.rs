//! Runs a table of commands against the gate and against nix-daemon, side by side.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::case::{Case, Like};
use super::client::{Client, newest};
use super::closure::{Closure, keys};
use super::server::{Gate, NixDaemon, Transport, policy};
use super::shell::{Ran, Scratch, Shell};

/// How many derivations the commands are about: one of each shape of tests/nix/closure.nix, and one more.
const SIZE: u32 = 8;

/// Sets the stage, and runs the cases that apply, one after the other: what one leaves, the next finds.
pub fn compare(client: &Client, transport: Transport, cases: Vec<Case>) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let mut ours = stage(client, &closure, &scratch.path().join("gate"));
    let mut theirs = stage(client, &closure, &scratch.path().join("daemon"));
    let keys = keys();
    let gate = Gate::start(&scratch.path().join("gate"), &policy(&keys, &[]), &[]);
    let daemon = NixDaemon::start(
        &scratch.path().join("daemon"),
        &Shell::new(newest(), &scratch.path().join("nix-daemon")),
        &keys,
    );
    ours.set("S", gate.uri(transport, &closure.view()));
    theirs.set("S", daemon.uri(transport));
    let mut wrong = String::new();
    let mut applied = 0;
    for case in cases.iter().filter(|case| case.applies(&client.version, transport)) {
        applied += 1;
        let answer = ours.run(case.command);
        if let Err(why) = check(case, &ours, &answer).and_then(|()| check_likeness(case, &ours, &answer, &theirs)) {
            let _ = writeln!(wrong, "--- {}: {}\n{why}\n", case.name, case.command);
        }
    }
    assert!(applied > 0, "no case applies to Nix {}", client.name);
    assert!(wrong.is_empty(), "Nix {} over {transport:?}:\n{wrong}{}", client.name, gate.log());
}

fn check(case: &Case, shell: &Shell, answer: &Ran) -> Result<(), String> {
    let shows = shell.expand(case.shows);
    let shown = if case.succeeds {
        answer.stdout.contains(&shows) || answer.stderr.contains(&shows)
    } else {
        answer.stderr.lines().any(|line| line.contains(&shows))
    };
    if (answer.status == 0) == case.succeeds && shown {
        return Ok(());
    }
    let expected = if case.succeeds { "succeed and show" } else { "fail and say" };
    Err(format!("should {expected}: {shows}\n{}", describe(answer)))
}

fn check_likeness(case: &Case, ours: &Shell, answer: &Ran, theirs: &Shell) -> Result<(), String> {
    let other = theirs.run(case.command);
    let same_status = answer.status == other.status;
    let same_output = ours.normalize(&answer.stdout) == theirs.normalize(&other.stdout);
    let as_said = match case.like {
        Like::Same => same_status && same_output,
        Like::SameStatus => same_status,
        Like::Not(_) => !(same_status && same_output),
    };
    if as_said {
        return Ok(());
    }
    Err(format!("{:?} is not so\ngate: {}\nnix-daemon: {}", case.like, describe(answer), describe(&other)))
}

fn describe(ran: &Ran) -> String {
    format!("exit status {}\n{}{}", ran.status, ran.stdout, ran.stderr)
}

/// Makes a place to run the commands in, with the files and the names that they use.
fn stage(client: &Client, closure: &Closure, place: &Path) -> Shell {
    let mut shell = Shell::new(client, place);
    let work = place.join("w");
    fs::create_dir_all(work.join("tree/sub")).expect("a tree");
    for (name, text) in [("tree/a", "a\n"), ("tree/sub/b", "b\n"), ("one.txt", "one\n"), ("two.txt", "two\n")] {
        fs::write(work.join(name), text).expect("a file");
    }
    fs::set_permissions(work.join("tree/sub/b"), fs::Permissions::from_mode(0o755)).expect("a program");
    symlink("a", work.join("tree/link")).expect("a link");
    for name in ["hello", "hello2", "hello3", "hello4", "hello5", "fail"] {
        let script = if name == "fail" { "exit 1".to_owned() } else { format!("echo {name} > $out") };
        let text = format!(
            "derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"{script}\" ]; }}"
        );
        fs::write(work.join(format!("{name}.nix")), text).expect("an expression");
    }
    for name in ["closure.nix", "closure.sh"] {
        fs::copy(super::client::tool(name), work.join(name)).expect("an expression");
    }
    fs::copy(closure.content_addressed_expression(), work.join("ca.nix")).expect("an expression");
    let keys = keys();
    let root = |root: std::path::PathBuf| root.display().to_string();
    shell.set("L", root(closure.unsigned())).set("L1", root(closure.signed_by_one()));
    shell.set("LS", root(closure.signed_by_two())).set("LCA", root(closure.content_addressed()));
    shell.set("C", &*closure.top).set("A", closure.path("node-0-file")).set("T", closure.path("node-1-tree"));
    shell.set("OUTPUTS", closure.path("node-4-outputs")).set("DEV", closure.path("node-4-outputs-dev"));
    shell.set("SELF", closure.path("node-5-self")).set("LARGE", closure.path("node-6-large"));
    shell.set("DRV", closure.deriver("node-7-file")).set("DRV4", closure.deriver("node-4-outputs"));
    shell.set("NOPE", "/nix/store/00000000000000000000000000000000-nope");
    shell.set("K1", keys.secret("a")).set("K2", keys.secret("b")).set("K3", keys.secret("c"));
    shell.set("P1", keys.public("a")).set("P2", keys.public("b"));
    shell
}
