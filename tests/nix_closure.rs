//! A closure of real builds, brought by real clients: what a quorum signed is admitted whole, and nothing else leaves a trace.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use support::{Client, Closure, Gate, Scratch, Shell, Transport, keys, policy};

with_each_client!(
    goes_in_over_unix_and_out_again,
    goes_in_over_ssh_ng_and_out_again,
    is_read_by_stock_nix_without_the_gate
);

/// How many derivations: some have several outputs.
const SIZE: u32 = 150;

/// All that a path info says and a signature or a person relies on, whichever form a client prints it in.
const PATH_INFOS: &str = "jq -S '[if type == \"object\" then to_entries[] | {path: .key} + .value else .[] end
    | {path, narHash, narSize, deriver, references: (.references | sort), signatures: (.signatures | sort)}] | sort_by(.path)'";

fn goes_in_over_unix_and_out_again(client: &Client) {
    goes_in_and_out_again(client, Transport::Unix);
}

fn goes_in_over_ssh_ng_and_out_again(client: &Client) {
    goes_in_and_out_again(client, Transport::SshNg);
}

fn goes_in_and_out_again(client: &Client, transport: Transport) {
    let closure = Closure::of(client, SIZE);
    assert!(closure.paths.len() >= 150, "{} paths", closure.paths.len());
    let scratch = Scratch::new();
    let (gate, shell) = stage(client, &closure, scratch.path(), transport);
    let empty = gate.objects();

    let unsigned = shell.must_fail("nix copy --from $L --to $S $C", "refused /nix/store/");
    assert_says(&unsigned, &closure, "quorum-missing: 0 of 2 of builders (any 2 of a, b and c could still sign)");
    let once = shell.must_fail("nix copy --from $L1 --to $S $C", "refused /nix/store/");
    assert_says(&once, &closure, "quorum-missing: 1 of 2 of builders (a signed; b or c could still sign)");
    shell.must_fail("nix copy --no-check-sigs --from $L1 --to $S $C", "1 of 2 of builders");
    assert_eq!(gate.objects(), empty, "what is refused leaves nothing behind");
    assert_eq!(shell.must("nix path-info --store $S --all"), "");

    shell.must("nix copy --from $LS --to $S $C");
    let expected: BTreeSet<&str> = closure.paths.iter().map(String::as_str).collect();
    let valid = shell.must("nix path-info --store $S -r $C");
    assert_eq!(valid.lines().collect::<BTreeSet<_>>(), expected);
    let infos = shell.must(&format!("nix path-info --store $LS -r --json $C | {PATH_INFOS}"));
    assert_eq!(shell.must(&format!("nix path-info --store $S -r --json $C | {PATH_INFOS}")), infos);
    assert_every_object_has_its_place(&gate, &infos, closure.paths.len());

    shell.must("nix copy --from $N --to $W/back $C --option trusted-public-keys \"$P1\"");
    assert_eq!(shell.must(&format!("nix path-info --store $W/back -r --json $C | {PATH_INFOS}")), infos);
    shell.must("nix store verify --store $W/back -r --sigs-needed 2 --option trusted-public-keys \"$P1 $P2\" $C");
    assert_eq!(gate.stop(), Some(0));
}

/// Stock Nix reads the directory as the binary cache that it is, trusting single keys.
fn is_read_by_stock_nix_without_the_gate(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let (gate, mut shell) = stage(client, &closure, scratch.path(), Transport::Unix);
    shell.must("nix copy --from $LS --to $S $C");
    shell.must("nix copy --from $L --to $S --derivation $DRV");
    shell.must("nix store copy-log --from $L --to $S $DRV");
    shell.set("F", gate.file());
    assert_eq!(gate.stop(), Some(0));

    let infos = shell.must(&format!("nix path-info --store $LS -r --json $C | {PATH_INFOS}"));
    assert_eq!(shell.must(&format!("nix path-info --store $F -r --json $C | {PATH_INFOS}")), infos);
    shell.must("nix store verify --store $F -r --sigs-needed 2 --option trusted-public-keys \"$P1 $P2\" $C");
    shell.must_fail(
        "nix store verify --store $F --sigs-needed 3 --option trusted-public-keys \"$P1 $P2\" $C",
        "path '$C' is untrusted",
    );
    shell.must("nix copy --from $F --to $W/back $C --option trusted-public-keys \"$P2\"");
    shell.must("nix store verify --store $W/back -r --no-trust $C");
    for path in ["$C", "$T", "$SELF"] {
        let listed = shell.must(&format!("nix store ls --store $LS --json -R {path} | jq -S 'del(.. | .narOffset?)'"));
        let ours = shell.must(&format!("nix store ls --store $F --json -R {path} | jq -S 'del(.. | .narOffset?)'"));
        assert_eq!(ours, listed);
    }
    assert_eq!(shell.must("nix store ls --store $F -lR $T"), shell.must("nix store ls --store $LS -lR $T"));
    assert_eq!(shell.must("nix store cat --store $F $T/share/a/1.txt"), "node-1-tree 1");
    assert_eq!(shell.must("nix log --store $F $DRV"), shell.must("nix log --store $L $DRV"));
}

fn stage(client: &Client, closure: &Closure, scratch: &Path, transport: Transport) -> (Gate, Shell) {
    let keys = keys();
    let mut shell = Shell::new(client, scratch);
    let gate = Gate::start(&scratch.join("gate"), &policy(&keys, &[]), &[]);
    shell.set("C", &*closure.top).set("T", closure.path("node-1-tree")).set("SELF", closure.path("node-5-self"));
    shell.set("DRV", closure.deriver("node-149-program"));
    shell.set("L", closure.unsigned().display().to_string()).set("L1", closure.signed_by_one().display().to_string());
    shell.set("LS", closure.signed_by_two().display().to_string());
    shell.set("S", if transport == Transport::Unix { gate.unix() } else { gate.ssh_ng() }).set("N", gate.ssh_ng());
    shell.set("P1", keys.public("a")).set("P2", keys.public("b"));
    (gate, shell)
}

/// One line says of one path of the closure what it lacks.
fn assert_says(stderr: &str, closure: &Closure, what: &str) {
    let line = stderr.lines().find(|line| line.contains("refused ")).expect("a line that says so");
    let named = line.strip_prefix("error: refused ").and_then(|rest| rest.split_once(": "));
    let (path, why) = named.unwrap_or_else(|| panic!("expected \"error: refused PATH: WHY\", found {line:?}"));
    assert!(closure.paths.iter().any(|known| known == path), "{path} is not in the closure");
    assert_eq!(why, what);
}

/// Each path has a narinfo, a listing and one record of evidence, and each NAR is there once.
fn assert_every_object_has_its_place(gate: &Gate, infos: &str, paths: usize) {
    let infos: Vec<Value> = serde_json::from_str(infos).expect("path infos");
    let nars: BTreeSet<String> = infos.iter().map(|info| info["narHash"].to_string()).collect();
    let objects = gate.objects();
    let (mut counts, mut others) = ([0; 4], Vec::new());
    for name in &objects {
        let kinds = [
            name.ends_with(".narinfo"),
            name.ends_with(".ls"),
            name.starts_with("quorum/evidence/"),
            name.starts_with("nar/"),
        ];
        match kinds.iter().position(|is| *is) {
            Some(kind) => counts[kind] += 1,
            None => others.push(name.as_str()),
        }
    }
    assert_eq!(counts, [paths, paths, paths, nars.len()], "narinfos, listings, records, NARs");
    assert_eq!(others, ["nix-cache-info", "quorum/policy"]);
}
