//! The policy of now decides what can be read: revocation, reloading, admission again, and the gate's own signature.

mod support;

use std::path::Path;

use support::{Client, Closure, Gate, Scratch, Shell, keys, policy};

with_each_client!(
    a_revoked_key_takes_along_what_it_alone_held_up,
    a_broken_policy_leaves_the_old_one_in_force,
    what_the_gate_countersigned_is_believed_without_it,
    damage_is_found_and_named,
);

const SIZE: u32 = 8;

/// The closure is signed by a and b, and all of it but node-2 by c as well. Without b, node-2 falls short, and with it
/// node-5, which refers to it, and the top, which refers to that.
fn a_revoked_key_takes_along_what_it_alone_held_up(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let keys = keys();
    let two_of_three = policy(&keys, &[]);
    let (gate, shell) = stage(client, &closure, scratch.path(), &two_of_three, &[]);
    shell.must("nix copy --from $LS --to $S $C");
    let signed_by_c = "$(nix path-info --store $S -r $C | grep -v node-2-program)";
    shell.must(&format!("nix store sign --store $S -k $K3 {signed_by_c}"));
    assert_eq!(shell.must("NIX_REMOTE=$S nix-store -q --referrers $T | grep -c ."), "4");

    let revoked = format!("{{ key = \"{}\", revoked = \"2026-11-01 disk stolen\" }}", keys.public("b"));
    let said = gate.reload(&policy(&keys, &[("b", &revoked)]));
    assert!(said.contains("policy read again"), "{said}");
    let names = |paths: &str| {
        let mut names: Vec<String> = paths.lines().map(|path| path[44..].to_owned()).collect();
        names.sort();
        names
    };
    let without_b = ["node-0-file", "node-1-tree", "node-3-links", "node-4-outputs", "node-4-outputs-dev"];
    let without_b = [&without_b[..], &["node-4-outputs-doc", "node-6-large"]].concat();
    for uri in ["$S", "$N"] {
        assert_eq!(names(&shell.must(&format!("nix path-info --store {uri} --all"))), without_b);
        for path in ["$N2", "$N5", "$C"] {
            shell.must_fail(&format!("nix path-info --store {uri} {path}"), &format!("path '{path}' is not valid"));
            shell.must_fail(
                &format!("NIX_REMOTE={uri} nix-store --check-validity {path}"),
                &format!("path '{path}' is not valid"),
            );
        }
        assert_eq!(shell.must(&format!("NIX_REMOTE={uri} nix-store -q --referrers $T | grep -c .")), "3");
    }
    shell.must_fail("nix copy --from $N --to $W/no $N2", "path '$N2' is not valid");
    shell.must_fail("nix store cat --store $N $C", "path '$C' is not");
    shell.must_fail("nix store sign --store $S -k $K3 $N2", "path '$N2' is not valid");

    // What a said still counts; c says the same of its own copy, and that is enough.
    let nar = nars(&gate);
    shell.must_fail(
        "nix copy --from $L --to $S $N2",
        "error: refused $N2: quorum-missing: 1 of 2 of builders (a signed; c could still sign); revoked-key: ",
    );
    shell.must(
        "nix copy --no-check-sigs --from $L --to $W/c $N2
         nix store sign --store $W/c -k $K3 $N2
         nix copy --from $W/c --to $S $N2",
    );
    assert_eq!(nars(&gate), nar, "its bytes were there already, and stay as they are");
    assert_eq!(
        shell.must("nix path-info --store $S --all | grep -c ."),
        "10",
        "and what waited for it is back with it"
    );
    for builder in ["builder-a:", "builder-b:", "builder-c:"] {
        assert_eq!(shell.must(&format!("nix path-info --store $S --sigs $N2 | grep -o {builder}")), builder);
    }

    // It was not stolen after all.
    gate.reload(&two_of_three);
    assert_eq!(shell.must("nix path-info --store $S --all | grep -c ."), "10");
}

fn a_broken_policy_leaves_the_old_one_in_force(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let keys = keys();
    let good = policy(&keys, &[]);
    let (gate, shell) = stage(client, &closure, scratch.path(), &good, &[]);
    shell.must("nix copy --from $LS --to $S $T");
    let unknown = good.replace("of = \"builders\"", "of = \"bilders\"");
    let unreachable = good.replace("at-least = 2", "at-least = 4");
    let revoked = |builder| format!("{{ key = \"{}\", revoked = \"\" }}", keys.public(builder));
    let nobody = policy(&keys, &[("a", &revoked("a")), ("b", &revoked("b"))]);
    let elsewhere = format!("store-dir = \"/elsewhere\"\n{good}");
    let broken = [
        ("version = ", "policy.toml"),
        (&*unknown, "bilders"),
        (&*unreachable, "4"),
        (&*nobody, "revoked"),
        (&*elsewhere, "/elsewhere"),
    ];
    for (broken, why) in broken {
        let before = gate.log().len();
        let said = gate.reload(broken);
        assert!(said.contains("could not be read again, the old one stays"), "{broken:?}: {said}");
        assert!(gate.log()[before..].contains(why), "{broken:?}: {}", gate.log());
        assert_eq!(shell.must("nix path-info --store $S --all | grep -c ."), "2");
        shell.must_fail("nix copy --from $L1 --to $S $C", "1 of 2 of builders");
    }
    let strict = good.replace("at-least = 2", "at-least = 3");
    let newer = strict.replace("version = 1", "version = 2");
    assert!(gate.reload(&newer).contains("policy read again"));
    shell.must_fail("nix path-info --store $S $T", "path '$T' is not valid");
    let said = gate.reload(&good);
    assert!(said.contains("the old one stays") && gate.log().contains("policy-rollback"), "{said}");
    shell.must_fail("nix path-info --store $S $T", "path '$T' is not valid");
}

/// Readers without a gate trust one key: the gate's, who signs what the quorum signed and nothing else.
fn what_the_gate_countersigned_is_believed_without_it(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let keys = keys();
    let policy = policy(&keys, &[]);
    let own = Shell::new(client, &scratch.path().join("own"));
    own.must("nix key generate-secret --key-name gate-1 >$W/gate.sec");
    let public = own.must("nix key convert-secret-to-public <$W/gate.sec");
    let key = own.expand("$W/gate.sec");
    let (gate, mut shell) = stage(client, &closure, scratch.path(), &policy, &["--countersign", &key]);
    shell.set("F", gate.file()).set("G", &*public);
    assert!(gate.log().contains(&public), "it says which key to trust: {}", gate.log());
    shell.must_fail("nix copy --from $L1 --to $S $C", "1 of 2 of builders");
    assert_eq!(shell.must("nix path-info --store $F --all"), "", "nothing is signed that was not admitted");
    shell.must("nix copy --from $LS --to $S $C");
    for (number, uri) in ["$F", "$N"].iter().enumerate() {
        shell
            .must(&format!("nix store verify --store {uri} -r --sigs-needed 1 --option trusted-public-keys \"$G\" $C"));
        shell.must(&format!("nix copy --from {uri} --to $W/{number} $C --option trusted-public-keys \"$G\""));
        let signatures =
            format!("nix path-info --store {uri} -r --sigs $C | grep -c 'builder-a:.*builder-b:.*gate-1:'");
        assert_eq!(shell.must(&signatures), "10");
    }
    // A gate that sees a signature later does not sign once more.
    shell.must("nix store sign --store $S -k $K3 $C");
    let signatures = shell.must("nix path-info --store $F --sigs $C | grep -o '[a-z]*-[a-c1]:' | sort");
    assert_eq!(signatures, "builder-a:\nbuilder-b:\nbuilder-c:\ngate-1:");
    // Its word about others' words is none of theirs.
    let signer = scratch.path().join("signer");
    let (status, said) = Gate::refuses_to_start(&signer, &policy, &["--countersign", &keys.secret("a")]);
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("the key that countersigns is signer a's: give the gate a key of its own"), "{said}");
}

fn damage_is_found_and_named(client: &Client) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let (gate, mut shell) = stage(client, &closure, scratch.path(), &policy(&keys(), &[]), &[]);
    shell.set("F", gate.store().display().to_string()).set("LARGE", closure.path("node-6-large"));
    shell.must("nix copy --from $LS --to $S $C");
    let nar = |path: &str| format!("$F/$(sed -n 's/^URL: //p' $F/$(basename {path} | cut -c1-32).narinfo)");
    // Other bytes under one NAR's name, and nothing under another's.
    shell.must(&format!("chmod u+w {large} && cp {top} {large}", large = nar("$LARGE"), top = nar("$C")));
    shell.must(&format!("rm -f {}", nar("$T")));
    shell.must_fail("NIX_REMOTE=$S nix-store --verify", "$T: ");
    let thorough = shell.must_fail("NIX_REMOTE=$S nix-store --verify --check-contents", "$LARGE: ");
    assert!(thorough.contains(closure.path("node-1-tree")), "{thorough}");
    shell.must_fail("NIX_REMOTE=$S nix-store --verify --check-contents --repair", "upload the damaged paths again");
    for path in ["$LARGE", "$T"] {
        shell.must("chmod -R u+w $W/back 2>/dev/null; rm -rf $W/back");
        let ran = shell.run(&format!("nix copy --no-check-sigs --from $N --to $W/back {path}"));
        assert_ne!(ran.status, 0, "{}", ran.stderr);
        let ran = shell.run(&format!("nix path-info --store $W/back {path}"));
        assert_ne!(ran.status, 0, "{}", ran.stdout);
    }
    shell.must("nix copy --no-check-sigs --from $N --to $W/sound $A");
}

fn stage(client: &Client, closure: &Closure, scratch: &Path, policy: &str, options: &[&str]) -> (Gate, Shell) {
    let mut shell = Shell::new(client, &scratch.join("client"));
    let gate = Gate::start(&scratch.join("gate"), policy, options);
    shell.set("S", gate.unix()).set("N", gate.ssh_ng()).set("K3", keys().secret("c"));
    shell.set("L", closure.unsigned().display().to_string()).set("L1", closure.signed_by_one().display().to_string());
    shell.set("LS", closure.signed_by_two().display().to_string());
    shell.set("C", &*closure.top).set("A", closure.path("node-0-file")).set("T", closure.path("node-1-tree"));
    shell.set("N2", closure.path("node-2-program")).set("N5", closure.path("node-5-self"));
    (gate, shell)
}

/// Says when each NAR was last written.
fn nars(gate: &Gate) -> Vec<(String, std::time::SystemTime)> {
    let names = gate.objects().into_iter().filter(|name| name.starts_with("nar/"));
    names
        .map(|name| {
            let written = gate.store().join(&name).metadata().and_then(|metadata| metadata.modified());
            (name, written.expect("a file's time"))
        })
        .collect()
}
