//! Audits of small stores with one thing wrong each, as a directory and behind a gate.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use nix_archive::nar::{Node, encode_tree};
use policy::{Code, Policy, Standing};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;
use verifier::{
    AddressRequest, CAHash, ContentAddress, ContentAddressMethod, HashAlgorithm, KeyName, PathInfo, SecretKey,
    StoreDir, StorePath, Timestamp, digest_nar,
};

use super::contents::{Complaint, complaint};
use super::files::digest_files;
use super::hashing::Count;
use super::signatures::Source;
use super::{Audit, Contents, Measure, Outputs, Progress, ReadingLog, Scope, Substituter, audit};
use crate::client::Client;
use crate::daemon::{Server, Settings};
use crate::gate::Gate;
use crate::object::Directory;
use crate::store::{BinaryCache, Daemon, Installable, Meaning, Remote, StatedSignature, Store, hash_part_of};

/// The moment at which the audits take place, long after the tests: 2100-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp::from_unix(4_102_444_800);

fn key(signer: &str) -> SecretKey {
    let seed = signer.bytes().next().expect("signers have names");
    SecretKey::from_seed(KeyName::new(&format!("{signer}-1")).expect("a key's name"), &[seed; 32])
}

fn policy(limit: &str) -> Policy {
    let mut text = "version = 1\n[default]\nrequire = { at-least = 2, of = \"builders\" }\n".to_owned();
    text += "[groups]\nbuilders = [\"a\", \"b\", \"c\"]\n";
    for signer in ["a", "b", "c"] {
        let limit = if signer == "a" { limit } else { "" };
        let _ = write!(text, "[signers.{signer}]\nkeys = [{{ key = \"{}\"{limit} }}]\n", key(signer).public());
    }
    Policy::parse(&text, "test").expect("a policy")
}

/// A path on its way into a store.
struct Package {
    info: PathInfo,
    nar: Vec<u8>,
}

fn nar(text: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    let node = Node::Regular { executable: false, contents: text.as_bytes() };
    encode_tree(&mut nar, &node).expect("one file makes a NAR");
    nar
}

fn package(name: &str, number: u8, references: &[&Package], signers: &[&str]) -> Package {
    let nar = nar(name);
    let digest = digest_nar(&*nar, None).expect("a NAR");
    let info = PathInfo {
        path: StorePath::from_parts([number; 20], name).expect("a store path"),
        deriver: None,
        nar_hash: digest.nar_hash,
        nar_size: digest.nar_size,
        references: references.iter().map(|package| package.info.path.clone()).collect(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    Package { info, nar }.signed(signers)
}

impl Package {
    fn signed(mut self, signers: &[&str]) -> Self {
        let fingerprint = self.info.fingerprint(&StoreDir::default()).expect("a size");
        self.info.signatures.extend(signers.iter().map(|signer| key(signer).sign(&fingerprint).to_string()));
        self
    }

    /// A path whose name and address come from one text, and whose bytes perhaps from another.
    fn addressed(method: ContentAddressMethod, says: &str, holds: &str) -> Self {
        let request = AddressRequest { method, algorithm: HashAlgorithm::Sha256, own_hash_part: None };
        let hash: CAHash = digest_nar(&*nar(says), Some(&request)).expect("a NAR").address.expect("an address");
        let address = ContentAddress::new(hash);
        let mut package = package(holds, 9, &[], &[]);
        let made = address.make_path(&StoreDir::default(), "source", &BTreeSet::new(), false);
        package.info.path = made.expect("a file without references");
        package.info.content_address = Some(address);
        package
    }

    fn narinfo(&self) -> String {
        let info = &self.info;
        let references: Vec<String> = info.references.iter().map(StorePath::to_basename).collect();
        let mut text = format!(
            "StorePath: {}\nURL: nar/{}.nar\nCompression: none\nNarHash: {}\nNarSize: {}\nReferences: {}\n",
            StoreDir::default().render_path(&info.path),
            info.nar_hash.to_nix32(),
            info.nar_hash,
            info.nar_size,
            references.join(" "),
        );
        info.signatures.iter().for_each(|signature| text += &format!("Sig: {signature}\n"));
        info.content_address.iter().for_each(|address| text += &format!("CA: {address}\n"));
        text
    }
}

/// A binary cache in a directory, with narinfos as `edit` leaves them.
fn cache(packages: &[&Package], edit: impl Fn(&Package, String) -> String) -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("room for a file");
    write("nix-cache-info", b"StoreDir: /nix/store\n");
    std::fs::create_dir(folder.path().join("nar")).expect("a directory");
    for package in packages {
        write(&format!("nar/{}.nar", package.info.nar_hash.to_nix32()), &package.nar);
        let narinfo = edit(package, package.narinfo());
        write(&format!("{}.narinfo", hash_part_of(&package.info.path)), narinfo.as_bytes());
    }
    folder
}

async fn audit_cache(folder: &Path, scope: Scope, contents: Contents) -> Audit {
    let directory = Arc::new(Directory::existing(folder).expect("a directory"));
    let cache = BinaryCache::open_existing(directory, Some(&StoreDir::default())).await.expect("a binary cache");
    run(Arc::new(cache), scope, contents, policy("")).await
}

async fn run(store: Arc<dyn Store>, scope: Scope, contents: Contents, policy: Policy) -> Audit {
    let measure = Measure { policy: Arc::new(policy), substituters: Vec::new(), contents, read_before: None, now: NOW };
    audit(store, scope, measure, Arc::default()).await.expect("a store that answers")
}

/// The bits, and the codes of every path that does not stand by itself.
fn outcome(audit: &Audit) -> (u8, Vec<String>) {
    let codes = audit.report.causes.iter().map(|cause| {
        let codes: Vec<&str> = cause.codes.iter().map(|code| code.as_str()).collect();
        format!("{}: {}", cause.path.name(), codes.join(" "))
    });
    (audit.faults.bits(), codes.collect())
}

fn of(package: &Package) -> BTreeSet<StorePath> {
    [package.info.path.clone()].into()
}

#[tokio::test]
async fn signatures_are_counted_by_signer() {
    let cases: [(&str, &[&str], u8, &[&str]); 5] = [
        ("two signers", &["a", "b"], 0, &[]),
        ("three signers", &["a", "b", "c"], 0, &[]),
        ("one signer", &["a"], 2, &["lib: quorum-missing"]),
        ("nobody", &[], 2, &["lib: quorum-missing"]),
        ("one signer and a stranger", &["a", "x"], 2, &["lib: quorum-missing unknown-key"]),
    ];
    for (shows, signers, bits, codes) in cases {
        let lib = package("lib", 1, &[], signers);
        let app = package("app", 2, &[&lib], &["a", "b"]);
        let folder = cache(&[&lib, &app], |_, text| text);
        for scope in [Scope::Closures(of(&app), Outputs::LeaveOut), Scope::Everything] {
            let audit = audit_cache(folder.path(), scope, Contents::Read).await;
            assert_eq!(outcome(&audit), (bits, codes.iter().map(ToString::to_string).collect()), "{shows}");
            assert_eq!(
                audit.report.totals.fails,
                if bits == 0 { 0 } else { 2 },
                "{shows}: what refers to it falls too"
            );
        }
        let alone = audit_cache(folder.path(), Scope::Paths(of(&app)), Contents::Read).await;
        assert_eq!(alone.faults.bits(), 0, "{shows}: alone, its references are counted on");
    }
}

#[tokio::test]
async fn one_thing_wrong_is_one_bit() {
    type Edit = fn(&Package, String) -> String;
    let respell = |_: &Package, text: String| {
        let line = text.lines().find(|line| line.starts_with("Sig: a-1")).map(str::to_owned).expect("a's signature");
        let spare = line.find("==").expect("64 bytes leave two characters over") - 1;
        let other = match &line[spare..=spare] {
            "A" => "B",
            "Q" => "R",
            "g" => "h",
            _ => "x",
        };
        text.replace("Sig: b-1:", "Gone: ") + &format!("{}{other}==\n", &line[..spare])
    };
    let cases: [(&str, Edit, u8, &[&str]); 9] = [
        ("nothing", |_, text| text, 0, &[]),
        ("a signature that is none", |_, text| text + "Sig: nonsense\n", 0, &[]),
        ("one signature, spelled twice", respell, 2, &["lib: quorum-missing duplicate-signer"]),
        (
            "another size",
            |_, text| text.replace("NarSize: 1", "NarSize: 2"),
            3,
            &["lib: content-mismatch quorum-missing bad-signature"],
        ),
        ("a NAR that is not there", |_, text| text.replace("URL: nar/", "URL: nar/0"), 1, &["lib: missing-content"]),
        ("a NAR elsewhere", |_, text| text.replace("URL: ", "URL: ../"), 4, &["lib: missing-content"]),
        ("another's NAR", |_, text| other_nar(&text), 1, &["lib: content-mismatch"]),
        (
            "a compression that is not read",
            |_, text| text.replace("Compression: none", "Compression: lrzip"),
            4,
            &["lib: missing-content"],
        ),
        ("a narinfo that is none", |_, _| "nonsense".into(), 4, &["lib: missing-content"]),
    ];
    for (shows, edit, bits, codes) in cases {
        let lib = package("lib", 1, &[], &["a", "b"]);
        let folder = cache(&[&lib], edit);
        std::fs::write(folder.path().join("nar/other.nar"), nar("bil")).expect("room for a file");
        let audit = audit_cache(folder.path(), Scope::Paths(of(&lib)), Contents::Read).await;
        assert_eq!(outcome(&audit), (bits, codes.iter().map(ToString::to_string).collect()), "{shows}");
    }
}

/// Points a narinfo to a file of the same size with other contents.
fn other_nar(text: &str) -> String {
    let lines = text.lines().map(|line| if line.starts_with("URL: ") { "URL: nar/other.nar" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_content_address_counts_once_it_is_proven() {
    use ContentAddressMethod::{Flat, Nar};
    let unproven: &'static [&'static str] = &["source: unproven-content-address"];
    let lie: &'static [&'static str] = &["source: false-content-address quorum-missing"];
    type Case = (&'static str, ContentAddressMethod, &'static str, Contents, u8, &'static [&'static str]);
    let cases: [Case; 8] = [
        ("over the NAR", Nar, "text", Contents::Read, 0, &[]),
        ("over the NAR: its hash is the NAR's", Nar, "text", Contents::Leave, 0, &[]),
        ("over the NAR, a lie", Nar, "lie", Contents::Read, 3, lie),
        ("over the NAR, a lie that the NAR hash shows", Nar, "lie", Contents::Leave, 3, lie),
        ("over the file", Flat, "text", Contents::Read, 0, &[]),
        ("over the file: only the bytes can tell", Flat, "text", Contents::Leave, 4, unproven),
        ("over the file, a lie", Flat, "lie", Contents::Read, 3, lie),
        ("over the file, a lie that only the bytes can tell", Flat, "lie", Contents::Leave, 4, unproven),
    ];
    for (shows, method, holds, contents, bits, codes) in cases {
        let source = Package::addressed(method, "text", holds);
        let folder = cache(&[&source], |_, text| text);
        let audit = audit_cache(folder.path(), Scope::Everything, contents).await;
        assert_eq!(outcome(&audit), (bits, codes.iter().map(ToString::to_string).collect()), "{shows}");
    }
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let lib = package("lib", 1, &[], &["a", "b"]);
    let app = package("app", 2, &[&lib], &["a", "b"]);
    let folder = cache(&[&app], |_, text| text);
    for scope in [Scope::Paths(of(&app)), Scope::Closures(of(&app), Outputs::LeaveOut), Scope::Everything] {
        let audit = audit_cache(folder.path(), scope.clone(), Contents::Read).await;
        assert_eq!(outcome(&audit), (2, vec!["app: missing-reference".to_owned()]), "{scope:?}");
    }
    let audit = audit_cache(folder.path(), Scope::Closures(of(&lib), Outputs::LeaveOut), Contents::Read).await;
    assert_eq!(outcome(&audit), (4, vec!["lib: invalid-path".to_owned()]), "nothing is known of what was asked for");
    std::fs::write(folder.path().join("00000000000000000000000000000000.narinfo"), "nonsense").expect("room");
    let audit = audit_cache(folder.path(), Scope::Everything, Contents::Read).await;
    assert_eq!((audit.faults.bits(), audit.notes.len()), (6, 1), "what is no narinfo may have been a path");
}

/// Signatures that nobody asked for, in any number and by whatever name, do not crowd out those that count.
#[tokio::test]
async fn no_signature_crowds_out_another() {
    let mut app = package("app", 1, &[], &[]);
    let good = package("app", 1, &[], &["a", "b"]).info.signatures;
    // By strangers, in the names of the policy's keys, and no signatures at all.
    let junk = |count: usize, name: &str| {
        let made = key("x").sign(&app.info.fingerprint(&StoreDir::default()).expect("a fingerprint")).to_string();
        let (_, bytes) = made.split_once(':').expect("a name");
        (0..count).map(|number| format!("{name}{number}:{bytes}")).collect::<Vec<_>>()
    };
    let strangers = junk(3_000, "0");
    let nonsense = (0..3_000).map(|number| format!("0-{number}"));
    app.info.signatures = strangers.into_iter().chain(nonsense).chain(good.clone()).collect();
    let folder = cache(&[&app], |_, text| text);
    let audit = audit_cache(folder.path(), Scope::Everything, Contents::Read).await;
    assert_eq!(outcome(&audit), (0, Vec::new()));
    let kept: usize = audit.facts.iter().flatten().map(|facts| facts.signatures.len()).sum();
    assert_eq!(kept, 16 + good.len(), "the rest is counted");
}

/// More could be the matter than with the paths that are listed.
#[tokio::test]
async fn what_could_not_be_looked_at_does_not_stand() {
    let (lib, app) = (package("lib", 1, &[], &["a", "b"]), package("app", 2, &[], &["a", "b"]));
    let folder = cache(&[&lib, &app], |_, text| text);
    let whole = audit_cache(folder.path(), Scope::Everything, Contents::Read).await;
    assert_eq!((whole.standing(), whole.incomplete, whole.faults.bits()), (Standing::Stands, false, 0));
    let narinfo = folder.path().join(format!("{}.narinfo", hash_part_of(&lib.info.path)));
    std::fs::write(narinfo, "nonsense").expect("the owner's right");
    let part = audit_cache(folder.path(), Scope::Everything, Contents::Read).await;
    assert_eq!(part.report.totals.stands, 1, "the other one does");
    assert_eq!((part.standing(), part.incomplete, part.faults.bits()), (Standing::Unchecked, true, 4));
}

/// Deeper than anybody parses, it may be what was vouched for all the same.
#[test]
fn what_is_too_deep_is_not_called_damaged() {
    let folder = tempfile::tempdir().expect("a directory");
    let deep = (0..100).fold(folder.path().join("top"), |path, _| path.join("d"));
    std::fs::create_dir_all(deep).expect("room for directories");
    let flat =
        AddressRequest { method: ContentAddressMethod::Nar, algorithm: HashAlgorithm::Sha512, own_hash_part: None };
    for request in [None, Some(&flat)] {
        let digest = digest_files(&folder.path().join("top"), request, Count::up_to(u64::MAX, Arc::default()));
        let error = digest.expect_err("it is too deep");
        assert!(matches!(complaint(&error), Complaint::Unknown(Code::LimitExceeded)), "{error}");
    }
}

/// A pipe or a folder in the place of a file is an error, and one that comes at once.
#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let (lib, app) = (package("lib", 1, &[], &["a", "b"]), package("app", 2, &[], &["a", "b"]));
    let folder = cache(&[&lib, &app], |_, text| text);
    let narinfo = folder.path().join(format!("{}.narinfo", hash_part_of(&lib.info.path)));
    let nar = folder.path().join(format!("nar/{}.nar", app.info.nar_hash.to_nix32()));
    for place in [&narinfo, &nar] {
        std::fs::remove_file(place).expect("the owner's right");
        rustix::fs::mknodat(CWD, place, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    }
    let both = Scope::Paths([lib.info.path.clone(), app.info.path.clone()].into());
    let audit = audit_cache(folder.path(), both, Contents::Read).await;
    let unknown = ["lib: missing-content", "app: missing-content"].map(ToOwned::to_owned).to_vec();
    assert_eq!(outcome(&audit), (4, unknown));
}

/// Nix reads what links lead to, so that is what is looked at.
#[tokio::test]
async fn links_in_a_cache_are_followed() {
    let lib = package("lib", 1, &[], &["a"]);
    let folder = cache(&[&lib], |_, text| text);
    let narinfo = folder.path().join(format!("{}.narinfo", hash_part_of(&lib.info.path)));
    let hidden = folder.path().join("hidden");
    std::fs::rename(&narinfo, &hidden).expect("the owner's right");
    std::os::unix::fs::symlink("hidden", &narinfo).expect("a link");
    let audit = audit_cache(folder.path(), Scope::Everything, Contents::Read).await;
    assert_eq!(outcome(&audit), (2, vec!["lib: quorum-missing".to_owned()]));
}

/// A derivation with this text, under the path that is made of it.
fn derivation(text: &str) -> Package {
    let mut package = package("app.drv", 1, &[], &[]);
    package.nar = nar(text);
    let digest = digest_nar(&*package.nar, None).expect("a NAR");
    (package.info.nar_hash, package.info.nar_size) = (digest.nar_hash, digest.nar_size);
    package.info.path = StoreDir::default().build_text_path("app.drv", text.as_bytes(), []).expect("a path");
    package
}

/// What a derivation makes is what its text says, and no store can pass another text off as it.
#[tokio::test]
async fn a_derivation_is_the_one_that_its_path_names() {
    let dir = StoreDir::default();
    let other = dir.render_path(&package("admitted", 3, &[], &[]).info.path);
    let text = format!(r#"Derive([("out","{other}","","")],[],[],"system","/bin/sh",[],[("out","{other}")])"#);
    let (honest, mut lie) = (derivation(&text), derivation(&text));
    lie.info.path = StorePath::from_parts([7; 20], "app.drv").expect("a path");
    let (true_path, false_path) = (honest.info.path.clone(), lie.info.path.clone());
    let folder = cache(&[&honest, &lie], |_, text| text);
    let directory = Arc::new(Directory::existing(folder.path()).expect("a directory"));
    let store = BinaryCache::open_existing(directory, Some(&dir)).await.expect("a binary cache");
    let outputs = async |path: &StorePath| {
        let named = format!("{}^out", dir.render_path(path));
        Installable::parse(&named, &dir).expect("a derivation").resolve(&store, Meaning::Paths).await
    };
    let paths = outputs(&true_path).await.expect("it says so");
    assert_eq!(paths.iter().map(|path| dir.render_path(path)).collect::<Vec<_>>(), std::slice::from_ref(&other));
    let said = outputs(&false_path).await.expect_err("it is another's text").to_string();
    assert!(said.contains(&format!("its text is that of {}", dir.render_path(&true_path))), "{said}");
}

/// Which derivation made a path, the store says; a derivation says itself what it makes.
#[tokio::test]
async fn what_makes_others_has_not_made_it() {
    let dir = StoreDir::default();
    let mut made = package("made", 3, &[], &[]);
    let made_path = dir.render_path(&made.info.path);
    let text = format!(r#"Derive([("out","{made_path}","","")],[],[],"system","/bin/sh",[],[("out","{made_path}")])"#);
    let maker = derivation(&text);
    let floating = derivation(r#"Derive([("out","","r:sha256","")],[],[],"system","/bin/sh",[],[("out","")])"#);
    let mut either = package("either", 6, &[], &[]);
    either.info.deriver = Some(floating.info.path.clone());
    let mut other = package("other", 4, &[], &[]);
    let mut odd = package("odd", 5, &[], &[]);
    for made in [&mut made, &mut other] {
        made.info.deriver = Some(maker.info.path.clone());
    }
    odd.info.deriver = Some(made.info.path.clone());
    let packages = [&maker, &floating, &made, &other, &either, &odd];
    let folder = cache(&packages, |package, text| match &package.info.deriver {
        Some(deriver) => format!("{text}Deriver: {}\n", deriver.to_basename()),
        None => text,
    });
    let realisations = folder.path().join("build-trace-v2").join(floating.info.path.to_basename());
    std::fs::create_dir_all(&realisations).expect("room for directories");
    let of_made = format!(r#"{{"outPath":"{}","signatures":[]}}"#, made.info.path.to_basename());
    std::fs::write(realisations.join("out.doi"), of_made).expect("room for a file");
    let directory = Arc::new(Directory::existing(folder.path()).expect("a directory"));
    let store = BinaryCache::open_existing(directory, Some(&dir)).await.expect("a binary cache");
    let deriver = async |path: &StorePath| {
        let named = Installable::parse(&dir.render_path(path), &dir).expect("a path");
        named.resolve(&store, Meaning::Derivations).await.map_err(|error| error.to_string())
    };
    assert_eq!(deriver(&made.info.path).await, Ok([maker.info.path.clone()].into()));
    let said = deriver(&other.info.path).await.expect_err("it makes another");
    assert!(said.contains(&format!("but that makes {made_path}: ")), "{said}");
    // Where it depends on its contents, the store's word is not held against the store's word.
    let output = Installable::parse(&format!("{}^out", dir.render_path(&floating.info.path)), &dir).expect("an output");
    let output = output.resolve(&store, Meaning::Paths).await.expect("the store says so");
    assert_eq!(output, [made.info.path.clone()].into());
    assert_eq!(deriver(&either.info.path).await, Ok([floating.info.path.clone()].into()));
    let said = deriver(&odd.info.path).await.expect_err("it is no derivation");
    assert!(said.contains("does not say which derivation"), "{said}");
}

/// Each output may be asked for, and a text of some megabytes can have a hundred thousand.
#[tokio::test]
async fn a_derivation_has_no_more_outputs_than_can_be_looked_for() {
    let dir = StoreDir::default();
    let outputs = async |count: usize| {
        let each = (0..count).map(|number| format!(r#"("o{number:06}","","r:sha256","")"#)).collect::<Vec<_>>();
        let text = format!(r#"Derive([{}],[],[],"system","/bin/sh",[],[])"#, each.join(","));
        let package = derivation(&text);
        let folder = cache(&[&package], |_, text| text);
        let directory = Arc::new(Directory::existing(folder.path()).expect("a directory"));
        let store = BinaryCache::open_existing(directory, Some(&dir)).await.expect("a binary cache");
        let named = format!("{}^*", dir.render_path(&package.info.path));
        let found = Installable::parse(&named, &dir).expect("a derivation").resolve(&store, Meaning::Paths).await;
        found.expect_err("nobody knows where they are").to_string()
    };
    assert!(outputs(256).await.contains("where its output \"o000000\" is"));
    assert!(outputs(257).await.contains("it has 257 outputs, more than the 256"));
}

#[tokio::test]
async fn a_store_that_names_nothing_was_not_checked() {
    let folder = cache(&[], |_, text| text);
    let audit = audit_cache(folder.path(), Scope::Everything, Contents::Read).await;
    assert_eq!((audit.faults.bits(), audit.notes.len()), (4, 1));
}

/// A store that makes its paths up does not fill the memory of who audits it.
#[tokio::test]
async fn references_beyond_the_limit_are_not_gone_through() {
    let mut packages: Vec<Package> = Vec::new();
    for number in 0..20 {
        let below: Vec<&Package> = packages.iter().collect();
        packages.push(package(&format!("path-{number}"), number, &below, &["a", "b"]));
    }
    let folder = cache(&packages.iter().collect::<Vec<_>>(), |_, text| text);
    let audit = |number: usize| {
        let scope = Scope::Closures(of(&packages[number]), Outputs::LeaveOut);
        let folder = folder.path();
        async move { outcome(&audit_cache(folder, scope, Contents::Leave).await) }
    };
    // 0 + 1 + … + 13 are 91 references, and 14 more are too many.
    assert_eq!(audit(13).await, (0, Vec::new()));
    let (bits, causes) = audit(14).await;
    assert_eq!(bits, 4);
    assert!(!causes.is_empty() && causes.iter().all(|cause| cause.ends_with(": limit-exceeded")), "{causes:?}");
}

#[tokio::test]
async fn a_gate_and_its_directory_are_audited_alike() {
    let folder = tempfile::tempdir().expect("a directory");
    let (kept, socket) = (folder.path().join("store"), folder.path().join("socket"));
    let directory = Arc::new(Directory::open(&kept).expect("a directory"));
    let cache = BinaryCache::open(directory, &StoreDir::default()).await.expect("a store");
    let gate = Arc::new(Gate::new(cache.clone(), policy(""), None).expect("a gate"));
    let server = Server::bind(&socket, Settings::default()).await.expect("a socket");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(gate, async {
        let _told = stopped.await;
    }));
    let lib = package("lib", 1, &[], &["a", "b"]);
    let app = package("app", 2, &[&lib], &["b", "c"]);
    let mut client = Client::connect(&socket, &StoreDir::default()).await.expect("a gate that listens");
    for package in [&lib, &app] {
        client.add_to_store(&package.info, &package.nar).await.expect("two signers");
    }
    client.close().await.expect("a socket");
    let daemon: Arc<dyn Store> =
        Arc::new(Daemon::connect(Remote::Socket(socket.clone()), &StoreDir::default()).await.expect("a gate"));
    for (store, times) in [(daemon.clone(), false), (Arc::new(cache) as Arc<dyn Store>, true)] {
        let audit = run(store.clone(), Scope::Everything, Contents::Read, policy("")).await;
        assert_eq!((outcome(&audit), audit.report.totals.stands), ((0, vec![]), 2));
        let seen = audit
            .facts
            .iter()
            .flatten()
            .flat_map(|facts| &facts.signatures)
            .map(|signature| signature.first_seen.is_some());
        assert_eq!(seen.collect::<Vec<_>>(), vec![times; 4], "only the directory tells when it saw a signature");
        let limit = policy(", not-after = 2099-01-01T00:00:00Z");
        let over = run(store, Scope::Closures(of(&lib), Outputs::LeaveOut), Contents::Read, limit).await;
        let expired = (2, vec!["lib: quorum-missing expired-key".to_owned()]);
        assert_eq!(outcome(&over), if times { (0, vec![]) } else { expired }, "the gate saw it before that");
    }
    let nar = kept.join(format!("nar/{}.nar.zst", lib.info.nar_hash.to_nix32()));
    let mut bytes = std::fs::read(&nar).expect("a NAR");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&nar, bytes).expect("the owner's right");
    let audit = run(daemon, Scope::Closures(of(&app), Outputs::LeaveOut), Contents::Read, policy("")).await;
    assert_eq!((audit.faults.bits(), audit.report.totals.fails), (1, 2), "{:?}", audit.report.causes);
    let _stops = stop.send(());
    serving.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_an_error() {
    let folder = tempfile::tempdir().expect("a directory");
    let nobody = Daemon::connect(Remote::Socket(folder.path().join("socket")), &StoreDir::default()).await;
    assert!(nobody.err().is_some_and(|error| error.to_string().starts_with("cannot connect to")));
    let not_a_cache =
        BinaryCache::open_existing(Arc::new(Directory::existing(folder.path()).expect("it is there")), None);
    assert!(not_a_cache.await.err().is_some_and(|error| error.to_string().contains("no nix-cache-info")));
    assert!(Directory::existing(folder.path().join("absent")).is_err());
}

#[test]
fn progress_is_counted() {
    let progress = Progress::default();
    progress.found(2);
    progress.done(1);
    progress.read(10);
    let now = progress.snapshot();
    assert_eq!((now.found, now.done, now.bytes), (2, 1, 10));
}

/// Other caches add the signatures that they have of the same contents, and no others.
#[tokio::test]
async fn signatures_of_other_stores_count_for_the_same_contents() {
    let open = async |folder: &Path| {
        let directory = Arc::new(Directory::existing(folder).expect("a directory"));
        let cache = BinaryCache::open_existing(directory, Some(&StoreDir::default())).await;
        Arc::new(cache.expect("a binary cache")) as Arc<dyn Store>
    };
    let lib = package("lib", 1, &[], &["a"]);
    let same = package("lib", 1, &[], &["b", "x"]);
    let nar = nar("another library");
    let digest = digest_nar(&*nar, None).expect("a NAR");
    let info = PathInfo { nar_hash: digest.nar_hash, nar_size: digest.nar_size, ..package("lib", 1, &[], &[]).info };
    let different = Package { info, nar }.signed(&["b", "c"]);
    let main = cache(&[&lib], |_, narinfo| narinfo);
    let others = [
        ("same", cache(&[&same], |_, narinfo| narinfo)),
        ("different", cache(&[&different], |_, narinfo| narinfo)),
        ("empty", cache(&[], |_, narinfo| narinfo)),
        ("damaged", cache(&[&same], |_, narinfo| narinfo.replace("NarHash", "NarHush"))),
    ];
    let cases: [(&[&str], u8, &str); 6] = [
        (&[], 2, "quorum-missing"),
        (&["same"], 0, "unknown-key"),
        (&["different"], 2, "quorum-missing conflict"),
        (&["empty"], 2, "quorum-missing"),
        (&["damaged"], 2, "quorum-missing unreachable"),
        (&["different", "empty", "damaged", "same"], 0, "unknown-key conflict unreachable"),
    ];
    for (names, bits, codes) in cases {
        let mut substituters = Vec::new();
        for name in names {
            let folder = &others.iter().find(|(other, _)| other == name).expect("one of them").1;
            substituters.push(Substituter::new(name, open(folder.path()).await));
        }
        let policy = Arc::new(policy(""));
        let measure = Measure { policy, substituters, contents: Contents::Read, read_before: None, now: NOW };
        let store = open(main.path()).await;
        let found = audit(store, Scope::Paths(of(&lib)), measure, Arc::default()).await.expect("stores that answer");
        let said: Vec<&str> = found.report.paths[0].findings.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!((found.faults.bits(), &*said.join(" ")), (bits, codes), "{names:?}");
        let from = found.facts[0].iter().flat_map(|facts| &facts.signatures).filter_map(|made| made.from.as_deref());
        let expected: &[&str] = if names.contains(&"same") { &["same", "same"] } else { &[] };
        assert_eq!(from.collect::<Vec<_>>(), expected, "{names:?}");
    }
}

/// What was read of a path says nothing of an address, or of references, that are stated later.
#[tokio::test]
async fn what_was_read_before_proves_only_the_address_that_was_stated() {
    let folder = tempfile::tempdir().expect("a directory");
    let log = folder.path().join("log");
    let honest = Package::addressed(ContentAddressMethod::Nar, "text", "text");
    let weak = {
        let request =
            AddressRequest { method: ContentAddressMethod::Nar, algorithm: HashAlgorithm::Sha1, own_hash_part: None };
        let hash = digest_nar(&*honest.nar, Some(&request)).expect("a NAR").address.expect("an address");
        let address = ContentAddress::new(hash);
        let path = address.make_path(&StoreDir::default(), "source", &BTreeSet::new(), false).expect("a path");
        Package {
            info: PathInfo { path, content_address: Some(address), ..honest.info.clone() },
            nar: honest.nar.clone(),
        }
    };
    let read = async |package: &Package, said: &Package| {
        let folder =
            cache(&[package], |package, _| Package { info: said.info.clone(), nar: package.nar.clone() }.narinfo());
        let directory = Arc::new(Directory::existing(folder.path()).expect("a directory"));
        let store = BinaryCache::open_existing(directory, Some(&StoreDir::default())).await.expect("a binary cache");
        let read_before = Some(Arc::new(ReadingLog::open(&log, "a store").expect("a log")));
        let policy = Arc::new(policy(""));
        let measure = Measure { policy, substituters: Vec::new(), contents: Contents::Read, read_before, now: NOW };
        let found = audit(Arc::new(store), Scope::Paths(of(said)), measure, Arc::default()).await;
        found.expect("a store that answers").faults.bits()
    };
    assert_eq!(read(&honest, &honest).await, 0);
    assert_eq!(read(&honest, &honest).await, 0, "nothing is read again");
    assert_eq!(read(&weak, &weak).await, 2, "a weak address stands for nothing");
    // The same path and the same bytes, and another address that would stand for them.
    let address = honest.info.content_address.clone();
    let forged = Package { info: PathInfo { content_address: address, ..weak.info.clone() }, nar: weak.nar.clone() };
    assert_eq!(read(&weak, &forged).await, 3, "the address does not make the path");
    let mut fewer = honest.info.clone();
    fewer.references.insert(weak.info.path.clone());
    let more = Package { info: fewer, nar: honest.nar.clone() };
    assert_eq!(read(&honest, &more).await, 3, "nor does it with other references");
}

/// When another store first saw a signature is that store's word alone.
#[test]
fn other_stores_do_not_date_signatures_back() {
    let stated = StatedSignature { text: "a:b".into(), first_seen: Some(NOW) };
    let own = Source { stated: &stated, from: None };
    let uri = "file:///other".into();
    assert_eq!((own.first_seen(), Source { from: Some(&uri), ..own }.first_seen()), (Some(NOW), None));
}
