//! Signatures that come again, alone or with their path: they are merged, nothing is lost, and nothing is kept twice.
//!
//! Stock Nix never sends again what the server states already, so this one speaks the protocol itself, with the bytes that
//! a real Nix built.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use store_backend::client::Client as Wire;
use support::{Client, Closure, Gate, Scratch, Shell, keys, policy};
use verifier::{PathInfo, StoreDir, StorePath};

with_each_client!(sent_again_alone_changes_nothing, sent_again_with_its_path_adds_what_is_new);

const SIZE: u32 = 8;

struct Stage {
    gate: Gate,
    shell: Shell,
    closure: Closure,
    path: StorePath,
    _scratch: Scratch,
}

fn sent_again_alone_changes_nothing(client: &Client) {
    let stage = Stage::set(client);
    let info = stage.info();
    assert_eq!(info.signatures.len(), 2);
    let before = stage.written();
    let lines = stage.speak(async |wire, path| {
        wire.add_signatures(path, info.signatures.iter().cloned().collect()).await.expect("they are known");
        wire.add_signatures(path, vec![]).await.expect("none are none");
        // Another spelling of the same bytes, and no spelling of any.
        let known = info.signatures.first().expect("two");
        let respelled = known.trim_end_matches('=').to_owned();
        wire.add_signatures(path, vec![respelled, "builder-c:AAAA".into(), "nonsense".into()])
            .await
            .expect("passed over");
        wire.take_lines()
    });
    assert_eq!(stage.written(), before, "no object was written");
    for malformed in ["builder-c:AAAA", "nonsense"] {
        let says = |line: &String| line.contains("malformed-signature") && line.contains(malformed);
        assert_eq!(lines.iter().filter(|line| says(line)).count(), 1, "{malformed}: {lines:#?}");
    }
    assert_eq!(stage.info(), info);
}

fn sent_again_with_its_path_adds_what_is_new(client: &Client) {
    let stage = Stage::set(client);
    let shell = &stage.shell;
    let info = stage.info();
    shell.must("nix-store --store $L --dump $L$C >$W/nar");
    let nar = std::fs::read(shell.expand("$W/nar")).expect("a NAR");
    assert_eq!(nar.len() as u64, info.nar_size);
    let before = stage.written();
    stage.speak(async |wire, _| wire.add_to_store(&info, &nar).await.expect("it is known"));
    assert_eq!(stage.written(), before, "the same words about the same bytes");

    // c signed its own copy, and says nothing of what a and b said.
    shell.must(
        "nix copy --no-check-sigs --from $L --to $W/c $C
         nix store sign --store $W/c -k $K3 $C
         nix path-info --store $W/c --sigs $C | grep -o 'builder-c:[^ ]*' >$W/signature",
    );
    let mut by_c = info.clone();
    by_c.signatures = [shell.must("cat $W/signature")].into();
    stage.speak(async |wire, _| wire.add_to_store(&by_c, &nar).await.expect("it is known"));
    let all: Vec<_> = stage.info().signatures.into_iter().collect();
    let signers: Vec<&str> = all.iter().filter_map(|signature| signature.split(':').next()).collect();
    assert_eq!(signers, ["builder-a", "builder-b", "builder-c"]);

    let after = stage.written();
    let names = |written: &BTreeMap<String, SystemTime>| written.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "no object more, and none less");
    let hash_part = &stage.closure.top["/nix/store/".len()..][..32];
    let changed: Vec<&String> =
        after.iter().filter(|(name, time)| before[*name] != **time).map(|(name, _)| name).collect();
    assert!(changed.iter().all(|name| name.contains(hash_part) && !name.starts_with("nar/")), "{changed:?}");
    assert_eq!(changed.len(), 2, "its evidence, and the narinfo that shows it: {changed:?}");
    // What stock Nix then sees.
    shell.must("nix store verify --store $N --sigs-needed 3 --option trusted-public-keys \"$P1 $P2 $P3\" $C");
    assert_eq!(shell.must("nix store copy-sigs --store $S -s $W/c $C 2>&1"), "imported 0 signatures");
}

impl Stage {
    /// Starts a gate that has admitted a closure with the signatures of a and b.
    fn set(client: &Client) -> Self {
        let closure = Closure::of(client, SIZE);
        let scratch = Scratch::new();
        let keys = keys();
        let mut shell = Shell::new(client, &scratch.path().join("client"));
        let gate = Gate::start(&scratch.path().join("gate"), &policy(&keys, &[]), &[]);
        shell.set("S", gate.unix()).set("N", gate.ssh_ng()).set("C", &*closure.top).set("K3", keys.secret("c"));
        shell.set("P1", keys.public("a")).set("P2", keys.public("b")).set("P3", keys.public("c"));
        shell.set("L", closure.unsigned().display().to_string());
        shell.set("LS", closure.signed_by_two().display().to_string());
        shell.must("nix copy --from $LS --to $S $C");
        let path = store_dir().parse_path(closure.top.as_bytes()).expect("a store path");
        Self { gate, shell, closure, path, _scratch: scratch }
    }

    /// Says something over the wire, and checks that the session is in step afterwards.
    fn speak<T>(&self, speech: impl AsyncFnOnce(&mut Wire, &StorePath) -> T) -> T {
        let socket = self.gate.unix();
        let socket = Path::new(socket.strip_prefix("unix://").expect("a socket"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut wire = Wire::connect(socket, &store_dir()).await.expect("a session");
            let said = speech(&mut wire, &self.path).await;
            wire.path_info(&self.path).await.expect("a session in step").expect("a valid path");
            said
        })
    }

    fn info(&self) -> PathInfo {
        self.speak(async |wire, path| wire.path_info(path).await.expect("an answer").expect("a valid path"))
    }

    /// Says when each object was last written.
    fn written(&self) -> BTreeMap<String, SystemTime> {
        let written = |name: &String| self.gate.store().join(name).metadata().and_then(|metadata| metadata.modified());
        self.gate.objects().into_iter().map(|name| (name.clone(), written(&name).expect("a time"))).collect()
    }
}

fn store_dir() -> StoreDir {
    StoreDir::new("/nix/store").expect("Nix's own")
}
