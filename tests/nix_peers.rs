//! Clients of users whom the server does not trust: what they may do, what not, and that a refusal ends nothing.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use support::{Client, Closure, Gate, Scratch, Shell, keys, only_as_root, policy};

with_each_client!(a_stranger_may_read_upload_and_sign, a_stranger_may_not_delete_repair_or_add_logs);

const SIZE: u32 = 8;

/// Nobody.
const STRANGER: u32 = 65534;

fn a_stranger_may_read_upload_and_sign(client: &Client) {
    only_as_root(|| {
        let scratch = Scratch::new();
        let Some((_gate, shell, stranger)) = stage(client, scratch.path()) else { return };
        stranger.must_fail("nix copy --from file://$W/once --to $S $C", "1 of 2 of builders");
        stranger.must_fail("nix copy --no-check-sigs --from file://$W/once --to $N $C", "1 of 2 of builders");
        stranger.must("nix copy --from file://$W/twice --to $S $A && nix copy --from file://$W/twice --to $N $C");
        assert_eq!(stranger.must("nix path-info --store $S -r $C | wc -l"), "10");
        assert_eq!(stranger.must("nix store cat --store $N $T/share/a/1.txt"), "node-1-tree 1");
        stranger.must("nix copy --from $N --to file://$W/back $C");
        stranger.must("nix store sign --store $S -k $W/c.sec -r $C");
        stranger.must("nix store add-file --store $N $W/own.txt");
        assert_eq!(shell.must("nix path-info --store $S -r --sigs $C | grep -c builder-c:"), "10");
        let evidence = shell.must("cat $Q/quorum/evidence/*/* | grep -c '\"brought-by\": \"uid 65534\"'");
        assert_eq!(evidence, "30", "a's, b's and c's signature of ten paths, and whose hand brought each");
    });
}

fn a_stranger_may_not_delete_repair_or_add_logs(client: &Client) {
    only_as_root(|| {
        let scratch = Scratch::new();
        let Some((gate, shell, stranger)) = stage(client, scratch.path()) else { return };
        shell.must("nix copy --from $LS --to $S $C");
        shell.must("nix copy --from $L --to $S --derivation $DRV");
        let before = gate.objects();
        for uri in ["$S", "$N"] {
            for (command, what) in [
                ("nix store delete --store URI $C", "delete paths"),
                ("NIX_REMOTE=URI nix-store --delete $C", "delete paths"),
                ("NIX_REMOTE=URI nix-store --verify --check-contents --repair", "repair paths"),
                ("nix store copy-log --from file://$W/logs --to URI $DRV", "add logs"),
            ] {
                let says =
                    format!("you are not privileged to {what}: only root and the user that the server runs as may");
                stranger.must_fail(&command.replace("URI", uri), &says);
            }
            stranger.must_fail(&format!("nix store gc --store {uri}"), "none of it is garbage");
            stranger.must(&format!("nix path-info --store {uri} $C"));
        }
        if client.version >= support::Version::new("2.20") {
            let trusted =
                |shell: &Shell| shell.must("nix store info --json --store $S | jq '.trusted == true or .trusted == 1'");
            assert_eq!((trusted(&shell), trusted(&stranger)), ("true".into(), "false".into()));
        }
        assert_eq!(gate.objects(), before);
        // Root may.
        shell.must("nix store copy-log --from file://$W/../../stranger/w/logs --to $N $DRV");
        shell.must("nix store delete --store $N $C");
        shell.must_fail("nix path-info --store $S $C", "is not valid");
    });
}

/// Starts a gate, and makes a place for root and one for a stranger. The stranger reads binary caches, since it cannot
/// even open a store of root's.
fn stage(client: &Client, scratch: &Path) -> Option<(Gate, Shell, Shell)> {
    let closure = Closure::of(client, SIZE);
    let keys = keys();
    fs::set_permissions(scratch, fs::Permissions::from_mode(0o755)).expect("a directory for all to see");
    let mut shell = Shell::new(client, &scratch.join("root"));
    let gate = Gate::start(&scratch.join("gate"), &policy(&keys, &[]), &[]);
    let mut stranger = Shell::new(client, &scratch.join("stranger"));
    for shell in [&mut shell, &mut stranger] {
        shell.set("S", gate.unix()).set("N", gate.ssh_ng()).set("Q", gate.store().display().to_string());
        shell
            .set("L", closure.unsigned().display().to_string())
            .set("L1", closure.signed_by_one().display().to_string());
        shell.set("LS", closure.signed_by_two().display().to_string());
        shell.set("C", &*closure.top).set("A", closure.path("node-0-file")).set("T", closure.path("node-1-tree"));
        shell.set("DRV", closure.deriver("node-7-file")).set("K3", keys.secret("c"));
    }
    stranger.must(
        "nix copy --from $L1 --to file://$W/once $C
         nix copy --from $LS --to file://$W/twice $C
         nix copy --from $L --to file://$W/logs --derivation $DRV
         nix store copy-log --from $L --to file://$W/logs $DRV
         cp $K3 $W/c.sec
         echo own >$W/own.txt",
    );
    chown_all(&scratch.join("stranger"));
    let stranger = stranger.as_user(STRANGER);
    let reaches = stranger.run("nix --version && nix store ping --store $S");
    if reaches.status == 0 {
        return Some((gate, shell, stranger));
    }
    support::skip(&format!(
        "user {STRANGER} cannot run the client, perhaps for want of access to it: {}",
        reaches.stderr
    ));
    None
}

fn chown_all(place: &Path) {
    chown(place, Some(STRANGER), Some(STRANGER)).expect("root may");
    if place.is_dir() && !place.is_symlink() {
        for entry in fs::read_dir(place).expect("a directory") {
            chown_all(&entry.expect("an entry").path());
        }
    }
}
