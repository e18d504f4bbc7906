//! A closure of real builds in a bucket: real clients bring it and fetch it through the gate, from S3 servers that run here.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use support::s3::{S3, garage, moto, public_s3s_fs, s3s_fs};
use support::{Client, Closure, Gate, Scratch, Shell, Storage, keys, policy, with_client};

with_each_client!(goes_into_a_bucket_and_out_again_beside_other_gates, goes_into_a_bucket_and_out_again_alone);

/// How many derivations: some have several outputs.
const SIZE: u32 = 150;

fn goes_into_a_bucket_and_out_again_beside_other_gates(client: &Client) {
    if let Some(server) = moto() {
        goes_in_and_out_again(client, server, &[]);
    }
}

fn goes_into_a_bucket_and_out_again_alone(client: &Client) {
    if let Some(server) = s3s_fs() {
        goes_in_and_out_again(client, server, &["--single-writer"]);
    }
}

/// Over a provider that does not look at conditions.
#[test]
#[ignore = "tests/s3/garage runs it"]
fn the_newest_nix_goes_into_a_bucket_of_garage_and_out_again() {
    with_client(2, |client| goes_in_and_out_again(client, garage(), &["--single-writer"]));
}

fn goes_in_and_out_again(client: &Client, server: &S3, options: &[&str]) {
    let closure = Closure::of(client, SIZE);
    let scratch = Scratch::new();
    let bucket = format!("closure-{}", client.name.replace(['.', '_'], "-"));
    server.make_bucket(&bucket);
    let (gate, shell) = stage(client, &closure, scratch.path(), &Storage::bucket(server, &bucket), options);
    shell.must_fail("nix copy --from $L1 --to $S $C", "1 of 2 of builders");
    shell.must("nix copy --from $LS --to $S $C");
    let expected: BTreeSet<&str> = closure.paths.iter().map(String::as_str).collect();
    let valid = shell.must("nix path-info --store $N -r $C");
    assert_eq!(valid.lines().collect::<BTreeSet<_>>(), expected);
    assert_eq!(shell.must("nix path-info --store $S --all").lines().collect::<BTreeSet<_>>(), expected);
    shell.must("nix copy --from $N --to $W/back $C --option trusted-public-keys \"$P1\"");
    shell.must("nix store verify --store $W/back -r --sigs-needed 2 --option trusted-public-keys \"$P1 $P2\" $C");
    assert_eq!(gate.stop(), Some(0));
}

/// Stock Nix reads a public bucket as the binary cache that it is; earlier ones have no S3, or cannot read without credentials.
#[test]
fn the_newest_nix_reads_a_public_bucket_without_the_gate() {
    with_client(2, |client| {
        let (Some(server), Some(public)) = (s3s_fs(), public_s3s_fs()) else { return };
        let closure = Closure::of(client, SIZE);
        let scratch = Scratch::new();
        server.make_bucket("public");
        let storage = Storage::bucket(server, "public");
        let (gate, mut shell) = stage(client, &closure, scratch.path(), &storage, &["--single-writer"]);
        shell.must("nix copy --from $LS --to $S $C");
        assert_eq!(gate.stop(), Some(0));
        shell.set("F", public.uri("public"));
        let anonymous = "export AWS_EC2_METADATA_DISABLED=true;";
        shell.must(&format!("{anonymous} nix copy --from $F --to $W/back $C --option trusted-public-keys \"$P2\""));
        shell.must("nix store verify --store $W/back -r --no-trust $C");
        shell.must(&format!("{anonymous} nix store ls --store $F -lR $C"));
    });
}

fn stage(client: &Client, closure: &Closure, scratch: &Path, storage: &Storage, options: &[&str]) -> (Gate, Shell) {
    let keys = keys();
    let mut shell = Shell::new(client, scratch);
    let gate = Gate::start_on(&scratch.join("gate"), storage, &policy(&keys, &[]), options);
    shell.set("C", &*closure.top);
    shell.set("L1", closure.signed_by_one().display().to_string());
    shell.set("LS", closure.signed_by_two().display().to_string());
    shell.set("S", gate.unix()).set("N", gate.ssh_ng());
    shell.set("P1", keys.public("a")).set("P2", keys.public("b"));
    (gate, shell)
}
