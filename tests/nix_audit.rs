//! Audits of stores that real Nix filled, of every kind that Nix has.

mod support;

use std::fs;

use support::s3::{public_s3s_fs, s3s_fs};
use support::{
    Client, Closure, NixDaemon, PROGRAM, Scratch, Shell, SshServer, Transport, WebServer, keys, only_as_root, policy,
};

with_each_client!(each_kind_of_store_says_the_same, damage_is_found_in_each_kind_of_store);

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
        shell.set("Q", format!("{PROGRAM} verify --policy {}", scratch.path().join("policy.toml").display()));
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
        let shell = &self.shell;
        let command = format!(
            "env NIX_QUORUM_CONFIG=/dev/null AWS_EC2_METADATA_DISABLED=true $Q --store '{store}' {options} --json"
        );
        let ran = shell.run(&format!("{command} >$W/report"));
        let query = r#".paths[] | [.path, .standing, ([.findings[].code] | sort | join(" ")), (.signers | join(" "))] | join(": ")"#;
        let verdicts = shell.must(&format!("jq -r '{query}' $W/report"));
        // What a daemon behind ssh warns of comes through.
        let complaints: Vec<&str> = ran.stderr.lines().filter(|line| !line.starts_with("warning:")).collect();
        format!("{verdicts}\n(exit code {}){}", ran.status, complaints.join("\n"))
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
    let daemon = world.daemon();
    let xz = world.cache("xz", "");
    let stores = [
        format!("local?root={}", root.display()),
        daemon.uri(Transport::Unix),
        daemon.uri(Transport::SshNg),
        xz,
        world.cache("zstd", "compression=zstd"),
        world.cache("none", "compression=none"),
        world.place("none").display().to_string(),
    ];
    for store in &stores {
        assert_eq!(world.verdicts(store, "-r $C"), expected, "{store}");
        let unread = world.verdicts(store, "-r --no-contents $C");
        // What stands by its content address alone does so by its bytes.
        assert_eq!(unread.lines().count(), expected.lines().count(), "{store}: {unread}");
        if !store.starts_with("http") {
            assert_eq!(world.verdicts(store, "--all"), expected, "{store}");
        }
    }
    let web = WebServer::start(&world.place("xz"));
    assert_eq!(world.verdicts(&web.uri(), "-r $C"), expected);
    let listed = world.shell.run(&format!("$Q --store {} --all", web.uri()));
    assert!(listed.stderr.contains("does not list its paths") && listed.status == 4, "{}", listed.stderr);
    if let (Some(server), Some(public)) = (s3s_fs(), public_s3s_fs()) {
        let bucket = format!("audit-{}", client.name.replace(['.', '_'], "-"));
        server.make_bucket(&bucket);
        world.shell.must(&format!("cp -r $W/xz/. {}", server.folder(&bucket).display()));
        // Nobody is asked who they are there.
        assert_eq!(world.verdicts(&public.uri(&bucket), "-r $C"), expected);
        assert_eq!(world.verdicts(&public.uri(&bucket), "--all"), expected);
    }
    only_as_root(|| {
        let ssh = SshServer::start(&world.scratch.path().join("ssh"), &world.shell);
        let program = world.scratch.path().join("daemon/stdio");
        assert_eq!(world.verdicts(&ssh.uri(&program.display().to_string()), "-r $C"), expected);
    });
}

/// One file of a tree is other than it was, and one path's contents are gone.
fn damage_is_found_in_each_kind_of_store(client: &'static Client) {
    let world = World::of(client);
    let caches =
        [world.cache("xz", ""), world.cache("zstd", "compression=zstd"), world.cache("none", "compression=none")];
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
        daemon.uri(Transport::SshNg),
        web.uri(),
    ];
    for store in stores.iter().chain(&caches) {
        let said = world.verdicts(store, "-r $C");
        // A daemon begins to send what it does not have, and cannot say so any more.
        let sent = store.starts_with("unix") || store.starts_with("ssh");
        let expected = if sent { expected.replace("missing-content", "content-mismatch") } else { expected.clone() };
        assert_eq!(said, expected, "{store}");
        let unread = world.verdicts(store, "-r --no-contents $C");
        assert!(
            unread.contains("-node-4-outputs-doc: stands: : a b") && unread.contains("(exit code 2)"),
            "{store}: {unread}"
        );
    }
}
