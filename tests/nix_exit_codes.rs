//! `nix store verify` and `nix-quorum verify` on the same input: the same exit code, but for what docs/verify.md lists.

mod support;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use store_backend::store::hash_part_of;
use support::{Closure, PROGRAM, Scratch, Shell, with_client};
use verifier::{ContentAddressMethod, HashAlgorithm, PathInfo, StoreDir, StorePath};
use world::{Package, addressed, addressed_by, key, package, put, signed, signed_again, write};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify.md");

/// The keys that are trusted, and one that is not.
const TRUSTED: [&str; 3] = ["a-1", "b-1", "c-1"];
const STRANGER: &str = "x-1";

/// What both are asked.
struct Case {
    store: &'static str,
    path: String,
    needed: usize,
    options: &'static str,
    /// Which keys are trusted.
    keys: &'static str,
    /// The exit codes of Nix's command and of ours, and why they differ; none where they are to be the same.
    differs: Option<(i32, i32, &'static str)>,
}

/// A binary cache in the making, and the cases about it.
struct Cases {
    cache: std::path::PathBuf,
    next: u32,
    all: Vec<Case>,
    /// What is copied into a store of its own as well.
    sound: Vec<String>,
}

impl Cases {
    fn package(&mut self, references: &[&Package], keys: &[&str]) -> Package {
        self.next += 1;
        let package = package(self.next, &format!("path-{}", self.next), references, keys);
        put(&self.cache, &package);
        package
    }

    fn damage(&self, package: &Package) {
        let mut nar = package.nar.clone();
        let at = nar.len() / 2;
        nar[at] ^= 1;
        write(&self.cache, &format!("nar/{}.nar", package.info.nar_hash.to_nix32()), nar);
    }

    fn ask(&mut self, store: &'static str, package: &Package, needed: usize, options: &'static str) {
        self.differ(store, package, needed, options, None);
    }

    fn differ(
        &mut self,
        store: &'static str,
        package: &Package,
        needed: usize,
        options: &'static str,
        differs: Option<(i32, i32, &'static str)>,
    ) {
        let path = StoreDir::default().render_path(&package.info.path);
        self.all.push(Case { store, path, needed, options, keys: "$K", differs });
    }
}

fn subsets() -> Vec<Vec<&'static str>> {
    let chosen = |bits: usize| (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| TRUSTED[bit]).collect();
    (0..8).map(chosen).collect()
}

#[test]
fn exit_codes_are_those_of_nix_store_verify() {
    with_client(2, |client| {
        let scratch = Scratch::new();
        let mut shell = Shell::new(client, &scratch.path().join("client"));
        let cache = shell.place.join("cache");
        write(&cache, "nix-cache-info", "StoreDir: /nix/store\n");
        let mut cases = Cases { cache, next: 300, all: Vec::new(), sound: Vec::new() };
        signatures_and_contents(&mut cases);
        strange_signatures(&mut cases);
        references(&mut cases);
        addresses(&mut cases);
        lies(&mut cases);
        let sound = cases.sound.join(" ");
        shell.must(&format!("nix copy --no-check-sigs --from file://$W/cache --to $W/root {sound}"));
        let ultimate = Closure::of(client, 8);
        let keys = TRUSTED.map(|name| key(name).public().to_string()).join(" ");
        let twice = format!("{keys} {}", key("a-1").public().to_string().replace("a-1:", "a-2:"));
        let same = format!("{} {}", key(STRANGER).public().to_string().replace("x-1:", "a-1:"), key("a-1").public());
        shell.set("TWICE", twice).set("SAME", same);
        shell.set("Q", format!("env NIX_QUORUM_CONFIG=/dev/null {PROGRAM}")).set("K", keys);
        shell.set("U", ultimate.unsigned().display().to_string());
        let built = ultimate.path("node-1-tree").to_owned();
        let why = "A path that Nix calls \"ultimate\" was built there";
        cases.all.push(Case {
            store: "$U",
            path: built,
            needed: 0,
            options: "",
            keys: "$K",
            differs: Some((0, 2, why)),
        });
        let alike = cases.all.iter().filter(|case| case.differs.is_none()).count();
        assert!(alike >= 200, "{alike} cases are to be alike");
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        let mut wrong = Vec::new();
        for case in &cases.all {
            if let Err(said) = compare(&shell, case) {
                wrong.push(said);
            }
            if let Some((_, _, why)) = case.differs {
                *reasons.entry(why).or_default() += 1;
            }
        }
        assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
        let listed = listed_differences();
        assert_eq!(
            reasons.keys().map(|why| (*why).to_owned()).collect::<BTreeSet<_>>(),
            listed,
            "docs/verify.md lists each"
        );
    });
}

/// Runs both, and says what is not as it should be, with the commands.
fn compare(shell: &Shell, case: &Case) -> Result<(), String> {
    let Case { store, path, needed, options, keys, differs } = case;
    let number = if *needed == 0 { String::new() } else { format!("--sigs-needed {needed}") };
    let common = format!("verify --store {store} {number} {options}");
    let theirs = format!("nix store {common} --option trusted-public-keys \"{keys}\" {path}");
    let ours = format!("$Q {common} --trusted-public-keys \"{keys}\" {path}");
    let (they, we) = (shell.run(&theirs), shell.run(&ours));
    let right = match differs {
        None => they.status == we.status,
        Some((nix, quorum, _)) => (they.status, we.status) == (*nix, *quorum),
    };
    if right {
        return Ok(());
    }
    Err(format!("{theirs}: {}\n{}{ours}: {}\n{}{}", they.status, they.stderr, we.status, we.stdout, we.stderr))
}

/// Who signed, how many must have, and whether the bytes are there: what both commands are for.
fn signatures_and_contents(cases: &mut Cases) {
    for keys in subsets() {
        let (sound, damaged) = (cases.package(&[], &keys), cases.package(&[], &keys));
        cases.damage(&damaged);
        cases.sound.push(StoreDir::default().render_path(&sound.info.path));
        for needed in 1..=3 {
            for options in ["", "--no-contents"] {
                cases.ask("file://$W/cache", &sound, needed, options);
                cases.ask("file://$W/cache", &damaged, needed, options);
                cases.ask("$W/root", &sound, needed, options);
            }
        }
    }
}

/// Signatures that count for nothing take nothing from others.
fn strange_signatures(cases: &mut Cases) {
    for keys in [&[][..], &["a-1"], &["a-1", "b-1"]] {
        let by_stranger = cases.package(&[], &[keys, &[STRANGER]].concat());
        // One that was made over something else.
        let mut false_one = cases.package(&[], keys);
        let elsewhere = cases.package(&[], &["c-1"]);
        false_one.info.signatures.extend(elsewhere.info.signatures.clone());
        put(&cases.cache, &false_one);
        // A key of a trusted name that is another key.
        let mut renamed = cases.package(&[], keys);
        let stolen = signed(&renamed.info, STRANGER).replace("x-1:", "c-1:");
        renamed.info.signatures.insert(stolen);
        put(&cases.cache, &renamed);
        for package in [&by_stranger, &false_one, &renamed] {
            for needed in 1..=3 {
                cases.ask("file://$W/cache", package, needed, "");
            }
        }
    }
    let mut twice = cases.package(&[], &["a-1"]);
    let text = twice.info.signatures.first().expect("one signature").clone();
    twice.info.signatures.insert(text.trim_end_matches('=').to_owned());
    put(&cases.cache, &twice);
    cases.ask("file://$W/cache", &twice, 2, "");
    cases.differ("file://$W/cache", &twice, 4, "", Some((2, 4, "More signatures are asked for than there are keys")));
    // A key can sign the same thing in as many ways as it likes.
    let mut again = cases.package(&[], &["a-1"]);
    again.info.signatures.insert(signed_again(&again.info, "a-1"));
    put(&cases.cache, &again);
    cases.differ("file://$W/cache", &again, 2, "", Some((0, 2, "Two signatures by one key")));
    let mut malformed = cases.package(&[], &["a-1"]);
    malformed.info.signatures.insert("a-1:nonsense".to_owned());
    put(&cases.cache, &malformed);
    cases.differ("file://$W/cache", &malformed, 1, "", Some((4, 0, "A malformed signature beside a good one")));
    // Two keys of one name, the second of which has signed.
    let second = cases.package(&[], &["a-1"]);
    cases.differ(
        "file://$W/cache",
        &second,
        1,
        "",
        Some((2, 0, "Two keys of one name, of which the second has signed")),
    );
    cases.all.last_mut().expect("a case").keys = "$SAME";
    // The same key under two trusted names.
    let mut renamed = cases.package(&[], &["a-1"]);
    let text = renamed.info.signatures.first().expect("one signature").replace("a-1:", "a-2:");
    renamed.info.signatures.insert(text);
    put(&cases.cache, &renamed);
    cases.differ("file://$W/cache", &renamed, 2, "", Some((0, 4, "One key under two names")));
    cases.all.last_mut().expect("a case").keys = "$TWICE";
}

/// What a path refers to is checked with it where that is asked for.
fn references(cases: &mut Cases) {
    let full = &["a-1", "b-1", "c-1"];
    let (fine, short, damaged) = (cases.package(&[], full), cases.package(&[], &["a-1"]), cases.package(&[], full));
    cases.damage(&damaged);
    for below in [&fine, &short, &damaged] {
        let middle = cases.package(&[below], full);
        let top = cases.package(&[&middle, &fine], full);
        for needed in 1..=3 {
            for options in ["-r", "-r --no-contents"] {
                cases.ask("file://$W/cache", &top, needed, options);
            }
            cases.ask("file://$W/cache", &top, needed, "");
        }
    }
    let absent = package(9_999, "absent", &[], &[]);
    let orphan = cases.package(&[&absent], full);
    let missing = "What a path refers to is missing";
    cases.differ("file://$W/cache", &orphan, 1, "", Some((0, 2, missing)));
    cases.differ("file://$W/cache", &orphan, 1, "-r", Some((1, 2, missing)));
    cases.ask("file://$W/cache", &absent, 1, "");
}

/// Content addresses stand for themselves.
fn addresses(cases: &mut Cases) {
    let sound = addressed(ContentAddressMethod::Nar, "source", "source", "source");
    let flat = addressed(ContentAddressMethod::Flat, "flat", "flat", "flat");
    let lie = addressed(ContentAddressMethod::Nar, "liar", "truth", "lie");
    let weak = addressed_by(HashAlgorithm::Sha1, ContentAddressMethod::Nar, "weak", "weak");
    for package in [&sound, &flat, &lie, &weak] {
        put(&cases.cache, package);
    }
    cases.sound.extend([&sound, &flat].map(|package| StoreDir::default().render_path(&package.info.path)));
    for needed in 1..=3 {
        for store in ["file://$W/cache", "$W/root"] {
            cases.ask(store, &sound, needed, "");
            cases.ask(store, &sound, needed, "--no-contents");
            cases.ask(store, &flat, needed, "");
        }
    }
    let unread = "A content address that only the bytes can prove, with `--no-contents`";
    cases.differ("file://$W/cache", &flat, 1, "--no-contents", Some((0, 4, unread)));
    let false_one = "A content address that is not that of the bytes";
    cases.differ("file://$W/cache", &lie, 1, "", Some((0, 3, false_one)));
    cases.differ("file://$W/cache", &weak, 1, "", Some((0, 2, "A content address by MD5 or SHA-1")));
}

/// What is said of the bytes is not so.
fn lies(cases: &mut Cases) {
    let gone = cases.package(&[], &["a-1"]);
    let nar = format!("nar/{}.nar", gone.info.nar_hash.to_nix32());
    std::fs::remove_file(cases.cache.join(nar)).expect("it was there");
    cases.differ("file://$W/cache", &gone, 1, "", Some((4, 1, "The contents are gone")));
    // The bytes are right; what zstd has of its own against damage is not.
    let spoilt = cases.package(&[], &["a-1"]);
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("memory is enough");
    encoder.include_checksum(true).expect("it can");
    encoder.write_all(&spoilt.nar).expect("memory is enough");
    let mut compressed = encoder.finish().expect("memory is enough");
    *compressed.last_mut().expect("a checksum") ^= 1;
    write(&cases.cache, &format!("nar/{}.nar", spoilt.info.nar_hash.to_nix32()), compressed);
    let narinfo = format!("{}.narinfo", hash_part_of(&spoilt.info.path));
    let text = std::fs::read_to_string(cases.cache.join(&narinfo)).expect("it was written");
    write(&cases.cache, &narinfo, text.replace("Compression: none", "Compression: zstd"));
    let checksum = "Zstandard's own checksum of a NAR is not that of the bytes, which are right";
    cases.differ("file://$W/cache", &spoilt, 1, "", Some((4, 0, checksum)));
    let honest = cases.package(&[], &[]);
    let mut info = PathInfo { nar_size: honest.info.nar_size + 8, ..honest.info.clone() };
    info.path = StorePath::from_parts([251; 20], "long").expect("a store path");
    info.signatures = [signed(&info, "a-1")].into();
    let long = Package { info, nar: honest.nar.clone() };
    put(&cases.cache, &long);
    cases.differ("file://$W/cache", &long, 1, "", Some((0, 1, "The size is not the stated one")));
}

/// The differences that the document lists: the first column of its table of them.
fn listed_differences() -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(DOCUMENT)).expect("a document");
    let rows = text.lines().skip_while(|line| !line.starts_with("| input ")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1).map(|cell| cell.trim().to_owned()))
        .collect()
}
