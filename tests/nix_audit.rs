//! Audits of stores that real Nix filled, of every kind that Nix has.

mod support;

use std::fs;

use support::{
    Client, Closure, EachKind, NixDaemon, PROGRAM, Scratch, Shell, Transport, Version, WebServer, keys, policy,
    verdicts,
};

with_each_client!(
    each_kind_of_store_says_the_same,
    damage_is_found_in_each_kind_of_store,
    paths_are_named_as_in_nix,
    outputs_that_depend_on_their_contents_are_known,
    signatures_elsewhere_count
);

/// How many derivations.
const SIZE: u32 = 8;

/// A store in which one path lacks a signature, and with it what refers to it.
struct World {
    closure: Closure,
    scratch: Scratch,
    shell: Shell,
    client: &'static Client,
}

impl World {
    fn of(client: &'static Client) -> Self {
        let closure = Closure::of(client, SIZE);
        let scratch = Scratch::new();
        let mut shell = Shell::new(client, &scratch.path().join("client"));
        fs::write(scratch.path().join("policy.toml"), policy(&keys(), &[])).expect("a policy");
        let place = scratch.path().join("policy.toml").display().to_string();
        shell.set("Q", format!("{PROGRAM} verify --policy {place}")).set("POLICY", place);
        shell.set("L1", closure.signed_by_one().display().to_string());
        shell.set("LS", closure.signed_by_two().display().to_string());
        shell.set("C", &*closure.top).set("T", closure.path("node-1-tree")).set("A", closure.path("node-0-file"));
        shell.set("D", closure.path("node-4-outputs-doc"));
        shell.must("nix copy --no-check-sigs --from $L1 --to $W/root $A && nix copy --no-check-sigs --from $LS --to $W/root $C");
        Self { closure, scratch, shell, client }
    }

    fn place(&self, name: &str) -> std::path::PathBuf {
        self.shell.place.join(name)
    }

    /// Copies what is in the root into a binary cache.
    fn cache(&self, name: &str, parameters: &str) -> String {
        let uri = format!("file://{}", self.place(name).display());
        self.shell.must(&format!("nix copy --no-check-sigs --from $W/root --to '{uri}?{parameters}' $C"));
        uri
    }

    fn daemon(&self) -> NixDaemon {
        let directory = self.scratch.path().join("daemon");
        NixDaemon::start_over(&self.place("root"), &directory, self.client, &self.shell, &keys())
    }

    /// Returns what an audit says of each path, and its exit code.
    fn verdicts(&self, store: &str, options: &str) -> String {
        verdicts(&self.shell, store, &format!("--policy \"$POLICY\" {options}"))
    }
}

fn each_kind_of_store_says_the_same(client: &'static Client) {
    let world = World::of(client);
    let root = world.place("root");
    let expected = world.verdicts(&root.display().to_string(), "-r $C");
    let lines: Vec<&str> = expected.lines().collect();
    assert_eq!(lines.len(), world.closure.paths.len() + 1, "{expected}");
    assert!(expected.contains("-node-0-file: fails: quorum-missing: a"), "{expected}");
    assert!(expected.contains("-node-1-tree: fails: : a b"), "{expected}");
    assert!(expected.contains("-node-4-outputs-doc: stands: : a b"), "{expected}");
    assert!(expected.ends_with("(exit code 2)"), "{expected}");
    let _xz = world.cache("xz", "");
    let (directory, name) = (world.scratch.path().join("servers"), client.name.replace(['.', '_'], "-"));
    let each = EachKind::start(client, &world.shell, &directory, &root, &world.place("xz"), &format!("audit-{name}"));
    let mut stores =
        ["zstd", "bzip2", "gzip", "br", "none"].map(|name| world.cache(name, &format!("compression={name}"))).to_vec();
    stores.push(world.place("none").display().to_string());
    for store in each.uris.iter().chain(&stores) {
        assert_eq!(world.verdicts(store, "-r $C"), expected, "{store}");
        let unread = world.verdicts(store, "-r --no-contents $C");
        // What stands by its content address alone does so by its bytes.
        assert_eq!(unread.lines().count(), expected.lines().count(), "{store}: {unread}");
        if !store.starts_with("http") {
            assert_eq!(world.verdicts(store, "--all"), expected, "{store}");
            continue;
        }
        let listed = world.shell.run(&format!("$Q --store {store} --all"));
        assert!(listed.stderr.contains("does not list its paths") && listed.status == 4, "{}", listed.stderr);
    }
}

/// One file of a tree is other than it was, and one path's contents are gone.
fn damage_is_found_in_each_kind_of_store(client: &'static Client) {
    let world = World::of(client);
    let caches = ["xz", "zstd", "bzip2", "gzip", "br", "none"];
    let caches = caches.map(|name| world.cache(name, &format!("compression={name}")));
    let whole = world.verdicts(&world.place("root").display().to_string(), "-r $C");
    world.shell.must(
        "file=$(find $W/root$T -type f | head -1); chmod u+w \"$file\" && printf x >>\"$file\"
         chmod u+w $W/root/nix/store; chmod -R u+w $W/root$D; rm -r $W/root$D",
    );
    for cache in &caches {
        let place = cache.strip_prefix("file://").expect("a directory");
        world.shell.must(&format!(
            "cd {place}
             url() {{ sed -n 's/^URL: //p' $(basename $1 | cut -c1-32).narinfo; }}
             cp $(url $A) $(url $T) && rm $(url $D)"
        ));
    }
    let expected = whole
        .replace("-node-1-tree: fails: :", "-node-1-tree: fails: content-mismatch:")
        .replace("-node-4-outputs-doc: stands: :", "-node-4-outputs-doc: fails: missing-content:")
        .replace("(exit code 2)", "(exit code 3)");
    let daemon = world.daemon();
    let web = WebServer::start(&world.place("xz"));
    let stores = [
        world.place("root").display().to_string(),
        daemon.uri(Transport::Unix),
        daemon.socket(),
        daemon.uri(Transport::SshNg),
        web.uri(),
    ];
    for store in stores.iter().chain(&caches) {
        let said = world.verdicts(store, "-r $C");
        // A daemon begins to send what it does not have, and cannot say so any more.
        let sent = *store == daemon.socket() || store.starts_with("ssh");
        let expected = if sent { expected.replace("missing-content", "content-mismatch") } else { expected.clone() };
        assert_eq!(said, expected, "{store}");
        let unread = world.verdicts(store, "-r --no-contents $C");
        assert!(
            unread.contains("-node-4-outputs-doc: stands: : a b") && unread.contains("(exit code 2)"),
            "{store}: {unread}"
        );
    }
}

/// Outputs of derivations, derivations of outputs, and what belongs to them are the same paths as Nix's.
fn paths_are_named_as_in_nix(client: &'static Client) {
    let mut world = World::of(client);
    let root = world.closure.unsigned();
    let derivation = world.closure.deriver("node-4-outputs").to_owned();
    world.shell.set("L", root.display().to_string()).set("DRV", derivation);
    let (shell, keys) = (&world.shell, keys());
    let daemon = NixDaemon::start_over(&root, &world.scratch.path().join("daemon"), client, shell, &keys);
    // Earlier versions take a derivation for its outputs.
    shell.must(
        "nix copy --no-check-sigs --from $L --to file://$W/all $(nix-store --store $L -qR --include-outputs $DRV | grep -v drv$)
         nix copy --no-check-sigs --derivation --from $L --to file://$W/all $DRV",
    );
    let stores =
        [root.display().to_string(), daemon.uri(Transport::Unix), format!("file://{}/all", shell.place.display())];
    let cases = [
        ("$DRV", "echo $DRV"),
        ("$DRV^*", "nix-store --store $L -q --outputs $DRV"),
        ("$DRV^doc", "nix-store --store $L -q --outputs $DRV | grep doc$"),
        ("$DRV^out,dev", "nix-store --store $L -q --outputs $DRV | grep -v doc$"),
        ("-r $DRV^*", "nix-store --store $L -qR $(nix-store --store $L -q --outputs $DRV)"),
        ("--derivation $D", "nix-store --store $L -q --deriver $D"),
        ("--derivation -r $D", "nix-store --store $L -qR $DRV"),
        ("-r $DRV --include-outputs", "nix-store --store $L -qR --include-outputs $DRV"),
        ("-r --derivation $D --include-outputs", "nix-store --store $L -qR --include-outputs $DRV"),
    ];
    for store in &stores {
        for (ours, theirs) in cases {
            let said = shell.run(&format!(
                "env NIX_QUORUM_CONFIG=/dev/null $Q --store '{store}' --no-contents --json {ours} | jq -r '.paths[].path'"
            ));
            let expected = shell.must(&format!("({theirs}) | sed s,.*/,, | LC_ALL=C sort -u"));
            let mut found: Vec<&str> = said.stdout.lines().collect();
            found.sort_unstable();
            assert_eq!(found, expected.lines().collect::<Vec<_>>(), "{store}: {ours}: {}", said.stderr);
        }
        let verify = format!("env NIX_QUORUM_CONFIG=/dev/null $Q --store '{store}' --no-contents");
        let listed = shell.run(&format!("echo \"$DRV^doc\n $T\" | {verify} --stdin --json | jq -r '.totals.paths'"));
        assert_eq!(listed.stdout.trim(), "2", "{}", listed.stderr);
        for (named, says) in [
            ("$DRV^nonsense", "has no output \"nonsense\"; it has dev, doc, out"),
            ("$T^out", "only a derivation has outputs"),
            ("--derivation $W", "is no path in /nix/store"),
        ] {
            let said = shell.run(&format!("{verify} {named}"));
            assert!(said.status == 4 && said.stderr.contains(says), "{store}: {named}: {}", said.stderr);
        }
    }
}

/// Which path such an output is, the store says, whatever it is: a realisation of the derivation itself or of what it came to.
fn outputs_that_depend_on_their_contents_are_known(client: &'static Client) {
    let mut world = World::of(client);
    let root = world.closure.content_addressed();
    world.shell.set("L", root.display().to_string()).set("X", "--extra-experimental-features ca-derivations");
    let listed = world.shell.must("ls $L/nix/store | grep -- '-ca-top.drv$' | sed s,^,/nix/store/,");
    let derivations: Vec<&str> = listed.lines().collect();
    assert_eq!(derivations.len(), 2, "one says what it needs by its derivation, one by its path");
    let daemon = NixDaemon::start_over(&root, &world.scratch.path().join("addressed"), client, &world.shell, &keys());
    let mut stores = vec![root.display().to_string()];
    if client.version >= Version::new("2.26") {
        // The oldest daemon knows no outputs of a derivation that it has not built itself, and its client copies none.
        let outputs = derivations.iter().map(|derivation| format!("{derivation}^out")).collect::<Vec<_>>().join(" ");
        world.shell.must(&format!(
            "nix copy $X --no-check-sigs --derivation --from $L --to file://$W/ca {}
             nix copy $X --no-check-sigs --from $L --to file://$W/ca {outputs}",
            derivations.join(" ")
        ));
        stores.extend([daemon.socket(), format!("file://{}/ca", world.shell.place.display())]);
    }
    for store in &stores {
        for derivation in &derivations {
            let said = world.verdicts(store, &format!("'{derivation}^out'"));
            assert!(said.contains("-ca-top: "), "{store}: {derivation}: {said}");
        }
    }
}

/// What another store knows of the same contents clears what falls short here; what it has otherwise is a conflict.
fn signatures_elsewhere_count(client: &'static Client) {
    let world = World::of(client);
    let shell = &world.shell;
    let root = world.place("root").display().to_string();
    assert!(world.verdicts(&root, "-r $C").ends_with("(exit code 2)"));
    let daemon = NixDaemon::start_over(
        &world.closure.signed_by_two(),
        &world.scratch.path().join("other"),
        client,
        shell,
        &keys(),
    );
    shell.must("nix copy --no-check-sigs --from $LS --to file://$W/other $C");
    let web = WebServer::start(&world.place("other"));
    for other in [daemon.uri(Transport::Unix), format!("file://{}/other", shell.place.display()), web.uri()] {
        let found = world.verdicts(&root, &format!("-r $C -s '{other}'"));
        assert!(!found.contains(": fails") && found.ends_with("(exit code 0)"), "{other}: {found}");
    }
    // One that has built otherwise: the bytes and so the hash and the signatures are others.
    shell.must(
        "cd $W/other && file=$(basename $A | cut -c1-32).narinfo && sed -i 's/^NarSize: .*/NarSize: 12345/' $file",
    );
    let found = world.verdicts(&root, "-r $C -s file://$W/other");
    assert!(found.contains("-node-0-file: fails: conflict quorum-missing: a"), "{found}");
    let gone = world.verdicts(&root, "-r $C -s http://127.0.0.1:1");
    assert!(gone.contains("(exit code 4)") && gone.contains("127.0.0.1:1"), "{gone}");
}
