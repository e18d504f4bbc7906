//! The rebuild loop, with real builders: each builds in a store of its own, signs there, and copies to staging. What enough of
//! them built alike is admitted; what they built differently is told.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use serde_json::Value;
use support::{Client, Closure, Gate, PROGRAM, Ran, Scratch, Shell, Transport, keys, policy, with_client};

with_each_client!(
    what_two_builders_built_alike_is_admitted,
    a_reviewers_signature_admits_what_is_held,
    signatures_copied_alone_admit_what_is_held,
);

/// How many derivations the builders build: some have several outputs.
const SIZE: u32 = 90;

/// How many a third one builds of them, and a last one that is not among them.
const PART: u32 = 20;

/// How many derivations make a closure that takes a while to copy.
const MANY: u32 = 150;

/// What each builder builds differently: of three files two.
const IRREPRODUCIBLE: &str = r#"
derivation {
  name = "irreproducible";
  system = builtins.currentSystem;
  PATH = "/usr/bin:/bin";
  builder = "/bin/sh";
  args = [ "-euc" ''
    umask 022
    mkdir -p $out/bin
    echo 'the same for all' >$out/README
    printf 'name: irreproducible\nbuild: %s\nend\n' $(cat /proc/sys/kernel/random/uuid) >$out/build.txt
    printf '#!/bin/sh\necho %s\n' $(cat /proc/sys/kernel/random/uuid) >$out/bin/hello
    chmod +x $out/bin/hello
  '' ];
}
"#;

/// A gate with both sockets, and a place for builders. `$S` and `$N` are what is admitted, over a socket and over ssh-ng; `$T` and
/// `$TN` are staging; `$Q` is nix-quorum.
struct Stage {
    gate: Gate,
    shell: Shell,
    scratch: Scratch,
}

fn what_two_builders_built_alike_is_admitted(client: &Client) {
    let mut stage = Stage::set(client);
    let closure = |size: u32| format!("-f $NIX_FILE --argstr n {size}");
    let (one, two) = at_once(|| stage.builds("a", &closure(SIZE)), || stage.builds("b", &closure(SIZE)));
    assert_eq!(one, two, "they build the same");
    stage.shell.set("C", &*one);
    let shell = &stage.shell;
    let all = paths(&shell.must("nix path-info --store $W/a -r $C"));
    assert!(all.len() > 100, "{} paths", all.len());

    let said = stage.says("nix copy --from $W/a --to $T $C");
    let [line] = &said[..] else { panic!("one line says so: {said:?}") };
    let (many, why) =
        (format!("{} paths are held until", all.len()), "1 of 2 of builders (a signed; b or c could still sign)");
    assert!(line.starts_with(&many) && line.contains(why), "{line}");
    assert_eq!(stage.admitted(), BTreeSet::new());
    assert_eq!(paths(&shell.must("nix path-info --store $T -r $C")), all, "staging shows what is held");
    shell.must_fail("nix path-info --store $S $C", "path '$C' is not valid");
    shell.must_fail(
        "nix copy --no-check-sigs --from $TN --to $W/none $C",
        "path '$C' is not valid: it is held in staging",
    );
    shell.must_fail("nix copy --no-check-sigs --from $N --to $W/none $C", "path '$C' is not valid");

    assert_eq!(stage.says("nix copy --from $W/b --to $T $C"), [""; 0]);
    assert_eq!(stage.admitted(), all);
    assert_eq!(paths(&shell.must("nix path-info --store $S -r $C")), all);
    shell.must("nix copy --from $N --to $W/user $C --option trusted-public-keys \"$P1\"");
    shell.must("nix store verify --store $W/user -r --sigs-needed 2 --option trusted-public-keys \"$P1 $P2\" $C");
    assert_eq!(shell.must("$Q staging list"), "Nothing is held.");

    // The third one comes late, and has built a part of it, and something of its own.
    let part = stage.builds("c", &closure(PART));
    let ours = paths(&shell.must(&format!("nix path-info --store $W/c -r {part}")));
    let shared: Vec<&str> = ours.intersection(&all).map(String::as_str).collect();
    assert_eq!(ours.len(), shared.len() + 1);
    let said = stage.says(&format!("nix copy --from $W/c --to $T {part}"));
    assert!(said.len() == 1 && said[0].contains(&format!("held {part}: quorum-missing: 1 of 2")), "{said:?}");
    let shared = shared.join(" ");
    shell.must(&format!("nix store copy-sigs --store $S -s $W/c {shared}"));
    let signed =
        shell.must(&format!("nix path-info --store $S --sigs {shared} | grep -c 'builder-a:.*builder-b:.*builder-c:'"));
    assert_eq!(signed, (ours.len() - 1).to_string());
    assert_eq!(stage.admitted(), all, "and nothing more");
    assert_eq!(stage.gate.stop(), Some(0));
}

fn a_reviewers_signature_admits_what_is_held(client: &Client) {
    let (stage, all) = Stage::with_closure(client, MANY);
    stage.shell.must("nix copy --from $A --to $TN $C");
    assert_eq!(stage.admitted(), BTreeSet::new());
    stage.shell.must("nix store sign --store $T -k $K3 -r $C");
    assert_eq!(stage.admitted(), all);
    stage.shell.must("nix copy --from $N --to $W/user $C --option trusted-public-keys \"$P3\"");
}

fn signatures_copied_alone_admit_what_is_held(client: &Client) {
    let (stage, all) = Stage::with_closure(client, MANY);
    stage.shell.must("nix copy --from $B --to file://$W/cache $C");
    stage.shell.must("nix copy --from $A --to $T $C");
    stage.shell.must_fail("nix store copy-sigs --store $S -s file://$W/cache -r $C", "path '$C' is not valid");
    assert_eq!(stage.admitted(), BTreeSet::new());
    let said = stage.shell.must("nix store copy-sigs --store $TN -s file://$W/cache -r $C 2>&1");
    assert!(said.contains(&format!("imported {} signatures", all.len())), "{said}");
    assert_eq!(stage.admitted(), all);
    stage.shell.must("nix copy --from $N --to $W/user $C --option trusted-public-keys \"$P2\"");
}

#[test]
fn paths_that_come_one_by_one_in_any_order_are_admitted() {
    with_client(2, |client| {
        let (stage, all) = Stage::with_closure(client, MANY);
        // One in the order of their hashes, which is none; the other from the top down.
        let copy = |order: &str, from: &str, to: &str| {
            stage.shell.must(&format!(
                "for path in $(nix-store --store $A -qR $C | {order}); do nix copy --no-recursive --from {from} --to {to} $path; done"
            ));
        };
        at_once(|| copy("sort", "$A", "$T"), || copy("tac", "$B", "$TN"));
        assert_eq!(stage.admitted(), all);
        assert_eq!(stage.shell.must("$Q staging list"), "Nothing is held.");
    });
}

#[test]
fn closures_that_come_at_the_same_time_are_admitted() {
    with_client(2, |client| {
        let (stage, all) = Stage::with_closure(client, MANY);
        at_once(
            || stage.shell.must("nix copy --from $A --to $T $C"),
            || stage.shell.must("nix copy --from $B --to $TN $C"),
        );
        assert_eq!(stage.admitted(), all);
        assert_eq!(stage.shell.must("$Q staging list"), "Nothing is held.");
        let admitted = stage.log("").iter().filter(|event| event["event"] == "admitted").count();
        assert_eq!(admitted, all.len(), "each once");
    });
}

#[test]
fn what_builders_built_differently_is_a_conflict_until_two_agree() {
    with_client(2, |client| {
        let mut stage = Stage::set(client);
        let [ones, twos] = stage.conflict();
        let shell = &stage.shell;
        assert_eq!(stage.admitted(), BTreeSet::new());
        for command in
            ["nix path-info --store $T $C", "nix path-info --store $TN $C", "nix store sign --store $T -k $K3 $C"]
        {
            let said = shell.must_fail(command, "path '$C' is in conflict: ");
            assert!(said.contains(&ones) && said.contains(&twos), "{said}");
        }
        assert_explains(&stage, [&ones, &twos]);
        let events: Vec<Value> = stage.log("irreproducible").iter().map(|record| record["event"].clone()).collect();
        assert_eq!(events, ["held", "conflict", "held"]);

        // The third one has built what the second one built. An export has no signatures, so its own is all it has.
        shell.must(
            "mkdir -p $W/c && nix-store --store $W/b --export $C | nix-store --store $W/c --import
             nix store sign --store $W/c -k $K3 $C",
        );
        assert_eq!(stage.says("nix copy --from $W/c --to $T $C"), [""; 0]);
        assert_eq!(stage.admitted(), paths(&shell.expand("$C")));
        shell.must(
            "nix copy --from $N --to $W/user $C --option trusted-public-keys \"$P2\" && diff -r $W/b$C $W/user$C",
        );
        let sigs = shell.must("nix path-info --store $S --sigs $C");
        assert!(!sigs.contains("builder-a:") && sigs.contains("builder-b:") && sigs.contains("builder-c:"), "{sigs}");

        // nix copy skips what is valid; whoever sends the first one's bytes all the same is told.
        assert_eq!(stage.says("nix copy --from $W/a --to $T $C"), [""; 0]);
        let import = "nix-store --store $W/a --export $C | NIX_REMOTE=$T nix-store --import";
        let said = shell.must_fail(import, "refused $C: conflict: ");
        assert!(said.contains(&ones) && said.contains(&twos), "{said}");
        shell.must(
            "nix copy --from $N --to $W/user2 $C --option trusted-public-keys \"$P3\" && diff -r $W/b$C $W/user2$C",
        );
        let left = stage.json("$Q staging list --json");
        assert_eq!((left["held"].as_array().map(Vec::len), &left["held"][0]["narHash"]), (Some(1), &ones.into()));
    });
}

/// What nix-quorum says of a conflict, to people and to programs.
fn assert_explains(stage: &Stage, hashes: [&String; 2]) {
    let diff = stage.ends_with(1, "$Q staging diff $C").stdout;
    for says in [
        "~ build.txt: other contents",
        " name: irreproducible\n",
        "~ bin/hello: other contents",
        "-build: ",
        "+build: ",
    ] {
        assert!(diff.contains(says), "{says}: {diff}");
    }
    assert!(hashes.iter().all(|hash| diff.contains(*hash)) && !diff.contains("README"), "{diff}");
    let diff: Value = serde_json::from_str(&stage.ends_with(1, "$Q staging diff --json $C").stdout).expect("JSON");
    let entries: Vec<&Value> = diff["entries"].as_array().expect("a list").iter().map(|entry| &entry["path"]).collect();
    assert_eq!(entries, ["bin/hello", "build.txt"]);
    // Which is the older one cannot be told within a second.
    let mut contents = [&diff["first"], &diff["second"]];
    contents.sort_by_key(|content| content["signers"].to_string());
    for (content, (hash, signer)) in contents.into_iter().zip(hashes.into_iter().zip(["a", "b"])) {
        assert_eq!((&content["narHash"], &content["signers"]), (&hash.as_str().into(), &vec![signer].into()));
        assert_eq!((&content["state"], &content["verdict"]), (&"held".into(), &"hold".into()));
    }
    let text = diff["entries"][1]["contents"]["text"].as_str().expect("a diff");
    assert_eq!(text.lines().count(), 5, "{text}");
    for command in ["$Q staging show $C", "$Q staging list"] {
        let said = stage.shell.must(command);
        assert!(hashes.iter().all(|hash| said.contains(&format!("conflict: NAR {hash}"))), "{command}: {said}");
    }
    let shown = stage.json("$Q staging show --json $C");
    for content in shown["candidates"].as_array().expect("a list") {
        assert_eq!(content["findings"][0]["code"], "conflict");
    }
}

#[test]
fn a_person_looks_into_what_is_held_and_decides() {
    with_client(2, |client| {
        let (mut stage, all) = Stage::with_closure(client, 8);
        let leaf = all.iter().find(|path| path.ends_with("-node-0-file")).expect("a path").clone();
        stage.shell.set("LEAF", leaf).set("NOPE", "/nix/store/00000000000000000000000000000000-nope");
        stage.shell.must("nix copy --from $A --to $T $C");
        let held = stage.json("$Q staging list --json");
        assert_eq!((held["held"].as_array().map(Vec::len), &held["policy"]["version"]), (Some(all.len()), &1.into()));
        let said = stage.shell.must("$Q staging list");
        assert!(said.ends_with("signatures are missing that could come from b for 10, c for 10"), "{said}");
        assert_shows_and_fetches(&stage);
        assert_approves(&stage);
        assert_drops(&stage);
        // Nothing that was done beside the gate has confused it.
        stage.shell.must("nix copy --from $B --to $T $C && nix copy --from $A --to $T $C");
        assert_eq!(stage.admitted(), all);
        stage.ends_with(4, "$Q staging show $NOPE");
        stage.ends_with(0, "$Q log verify");
    });
}

fn assert_shows_and_fetches(stage: &Stage) {
    let shown = stage.json("$Q staging show --json $LEAF");
    let [candidate] = &shown["candidates"].as_array().expect("a list")[..] else { panic!("{shown}") };
    assert_eq!((&candidate["signers"], &candidate["couldComplete"]), (&vec!["a"].into(), &vec!["b", "c"].into()));
    assert_eq!(candidate["signatures"][0]["verdict"], "counts");
    let said = stage.shell.must("$Q staging show $LEAF");
    assert!(said.contains("quorum-missing: 1 of 2") && said.contains("builder-a (a): counts"), "{said}");
    stage.refuses("$Q staging diff $LEAF", "there is nothing to compare it with");
    let said = stage.shell.must("$Q staging fetch -o $W/fetched $C && diff -r $W/fetched $A$C");
    assert!(said.contains("it has no quorum: look into it, do not run it"), "{said}");
    stage.refuses("$Q staging fetch -o $W/fetched $C", "exists already");
    stage.shell.must("$Q staging fetch --nar -o $W/nar $C && nix-store --store $A --dump $A$C | cmp - $W/nar");
}

fn assert_approves(stage: &Stage) {
    stage.refuses("$Q staging approve -k $K3 $LEAF", "standard input is no terminal");
    stage.shell.must("nix key generate-secret --key-name builder-x >$W/x.sec");
    stage.refuses("$Q staging approve --yes -k $W/x.sec $LEAF", "no key in use of the policy's");
    stage.ends_with(4, "$Q staging approve --json -k $K3 $LEAF");
    assert_eq!(stage.admitted(), BTreeSet::new(), "nobody said yes");
    // What refers to others waits for them.
    let approved = stage.json("$Q staging approve --yes --json -k $K3 $C");
    assert!(approved["admitted"] == false && approved["lacks"].to_string().contains("missing-reference"), "{approved}");
    let said = stage.shell.must("$Q staging approve --yes -k $K3 $LEAF");
    assert!(
        said.contains(&stage.shell.expand("signed; admitted $LEAF")) && said.contains("As c, over the finger"),
        "{said}"
    );
    assert_eq!(stage.admitted(), paths(&stage.shell.expand("$LEAF")), "the gate sees it at once");
    stage.refuses("$Q staging approve --yes -k $K3 $LEAF", "nothing such is held");
}

fn assert_drops(stage: &Stage) {
    stage.ends_with(4, "$Q staging drop $C");
    stage.refuses("$Q staging drop --reason ' ' $C", "--reason: say why");
    stage.shell.must("nix path-info --store $T $C");
    let dropped = stage.json("$Q staging drop --json --reason 'built with a bad compiler' $C");
    assert_eq!(dropped["dropped"]["path"].as_str(), Some(&*stage.shell.expand("$C")));
    stage.shell.must_fail("nix path-info --store $T $C", "path '$C' is not valid");
    stage.refuses("$Q staging drop --reason again $C", "nothing such is held");
    let log = stage.log(&stage.shell.expand("$C"));
    let last = log.last().expect("a record");
    assert_eq!((&last["event"], &last["reason"]), (&"dropped".into(), &"built with a bad compiler".into()));
}

#[test]
fn what_a_killed_gate_had_begun_is_completed_by_the_next_upload() {
    with_client(2, |client| {
        let (mut stage, all) = Stage::with_closure(client, MANY);
        for (from, appears) in [("$A", "quorum/staging/*"), ("$B", "*.narinfo")] {
            stage.cut_off_when(appears);
            let ran = stage.shell.run(&format!("nix copy --from {from} --to $CUT $C"));
            assert_ne!(ran.status, 0, "it lost its gate: {}", ran.stderr);
            stage.shell.must_fail("nix path-info --store $S --all", "Connection refused");
            stage.ends_with(0, "$Q log verify");
            stage = stage.again();
            let admitted = stage.admitted();
            assert_eq!(admitted.is_empty(), from == "$A");
            assert!(admitted.is_subset(&all) && admitted.len() < all.len(), "{} paths", admitted.len());
        }
        stage.shell.must("nix copy --from $A --to $T $C");
        stage.shell.must("nix copy --from $B --to $T $C");
        assert_eq!(stage.admitted(), all);
        assert_eq!(stage.shell.must("$Q staging list"), "Nothing is held.");
        stage.ends_with(0, "$Q log verify");
        stage.shell.must("nix copy --from $N --to $W/user $C --option trusted-public-keys \"$P2\"");
    });
}

impl Stage {
    fn set(client: &Client) -> Self {
        let scratch = Scratch::new();
        let shell = Shell::new(client, &scratch.path().join("client"));
        let gate = Gate::start_staging(&scratch.path().join("gate"), &policy(&keys(), &[]));
        let mut stage = Self { gate, shell, scratch };
        let keys = keys();
        let expression = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nix/closure.nix");
        let (gate, shell) = (&stage.gate, &mut stage.shell);
        shell.set("S", gate.unix()).set("N", gate.ssh_ng()).set("Q", gate.quorum());
        shell.set("T", gate.staging(Transport::Unix)).set("TN", gate.staging(Transport::SshNg));
        shell.set("K1", keys.secret("a")).set("K2", keys.secret("b")).set("K3", keys.secret("c"));
        shell.set("P1", keys.public("a")).set("P2", keys.public("b")).set("P3", keys.public("c"));
        shell.set("NIX_FILE", expression.display().to_string());
        stage
    }

    /// Sets a stage with two stores, in which builders a and b have signed the same closure.
    fn with_closure(client: &Client, size: u32) -> (Self, BTreeSet<String>) {
        let closure = Closure::of(client, size);
        let mut stage = Self::set(client);
        let root = |root: std::path::PathBuf| root.display().to_string();
        stage.shell.set("L", root(closure.unsigned())).set("A", root(closure.signed_by_one()));
        stage.shell.must("cp -a $L $W/b && nix store sign --store $W/b -k $K2 --all");
        let own = stage.shell.expand("$W/b");
        stage.shell.set("B", own).set("C", &*closure.top);
        (stage, closure.paths.into_iter().collect())
    }

    /// Starts another gate on the same store, where one was killed.
    fn again(self) -> Self {
        let Self { gate, shell, scratch } = self;
        drop(gate);
        let gate = Gate::start_staging(&scratch.path().join("gate"), &policy(&keys(), &[]));
        Self { gate, shell, scratch }
    }

    /// Builds something in a builder's own store, and signs it there, with all that it refers to.
    fn builds(&self, builder: &str, what: &str) -> String {
        let key = keys().secret(builder);
        self.shell.must(&format!(
            "top=$(nix build --store $W/{builder} --json --no-link {what} | jq -r '.[].outputs.out')
             nix store sign --store $W/{builder} -k {key} -r $top && echo $top"
        ))
    }

    /// Has builders a and b build `$C` differently and bring it; returns the NAR hashes of what they built.
    fn conflict(&mut self) -> [String; 2] {
        std::fs::write(self.shell.place.join("irreproducible.nix"), IRREPRODUCIBLE).expect("an expression");
        let built = ["a", "b"].map(|builder| self.builds(builder, "-f $W/irreproducible.nix"));
        assert_eq!(built[0], built[1]);
        self.shell.set("C", &*built[0]);
        let hashes = ["a", "b"].map(|builder| self.shell.must(&format!("nix-store --store $W/{builder} -q --hash $C")));
        assert_ne!(hashes[0], hashes[1]);
        let said = self.says("nix copy --from $W/a --to $T $C");
        assert!(
            said.len() == 1 && said[0].contains("quorum-missing: 1 of 2") && !said[0].contains("conflict"),
            "{said:?}"
        );
        let said = self.says("nix copy --from $W/b --to $TN $C");
        assert!(said.len() == 1 && said[0].contains(&format!("conflict: NAR {}", hashes[0])), "{said:?}");
        hashes
    }

    /// Makes `$CUT` a way to staging that keeps the last fifth of [`MANY`] derivations' NARs back, until the store has files of such
    /// a name; then the gate is killed.
    fn cut_off_when(&mut self, appears: &str) {
        let place = |uri: &str| uri.split_once("://").expect("a URI").1.to_owned();
        let (store, socket) = (place(&self.gate.file()), place(&self.gate.staging(Transport::Unix)));
        let script = format!(
            "#!/bin/sh\n{{\n    dd bs=64K iflag=count_bytes count=6000000 status=none
    until ls {store}/{appears} >/dev/null 2>&1; do sleep 0.01; done
    kill -9 {}; cat\n}} | {PROGRAM} --stdio --view staging --staging-socket {socket}",
            self.gate.pid()
        );
        self.shell.must(&format!("echo '{script}' >$W/cut && chmod 755 $W/cut"));
        let program = self.shell.expand("ssh-ng://localhost?remote-program=$W/cut");
        self.shell.set("CUT", program);
    }

    /// Lists what is valid on the store's own socket.
    fn admitted(&self) -> BTreeSet<String> {
        paths(&self.shell.must("nix path-info --store $S --all"))
    }

    /// Runs a client's command that must succeed, and returns what the gate says meanwhile.
    fn says(&self, command: &str) -> Vec<String> {
        let said = self.shell.must(&format!("{{ {command}; }} 2>&1"));
        said.lines().filter_map(|line| Some(line.split_once("nix-quorum: ")?.1.to_owned())).collect()
    }

    fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.shell.must(command)).expect("JSON")
    }

    /// Returns what the decision log has on paths with this in their names.
    fn log(&self, name: &str) -> Vec<Value> {
        let log = self.shell.must(&format!("$Q log --json --path '{name}'"));
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[track_caller]
    fn ends_with(&self, status: i32, command: &str) -> Ran {
        let ran = self.shell.run(command);
        assert_eq!(ran.status, status, "{command}\n{}{}", ran.stdout, ran.stderr);
        ran
    }

    /// Runs a command of nix-quorum's that must not do what it is asked, and say why.
    #[track_caller]
    fn refuses(&self, command: &str, says: &str) {
        let ran = self.ends_with(4, command);
        assert!(ran.stderr.contains(says), "{command}\nshould say: {says}\n{}", ran.stderr);
    }
}

/// Does two things at once.
fn at_once<T: Send, U>(one: impl FnOnce() -> T + Send, other: impl FnOnce() -> U) -> (T, U) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().expect("it does not panic"), other)
    })
}

fn paths(lines: &str) -> BTreeSet<String> {
    lines.lines().map(str::to_owned).collect()
}
