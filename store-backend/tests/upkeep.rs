//! Looking after a store: what crashes left is swept away and nothing else, what was lost is replaced by the next upload, and the
//! index is only ever a copy.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store_backend::gate::sweep::{Finding, Kind, Sweep};
use store_backend::gate::{Gate, Index};
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use support::keys::{Rules, alice, bob, carol, two_of_three};
use support::package::{Package, nar_hash, nar_of_file, noise, package};
use support::site::{Site, files, person};
use tempfile::TempDir;
use verifier::{StoreDir, StorePath, Timestamp};

/// Later than anything.
const EVER: Timestamp = Timestamp::from_unix(i64::MAX);

/// How long what failed stays announced.
const SETTLES: Duration = Duration::from_secs(10);

fn signed(name: &str) -> Package {
    package(name).signed_by(&[&alice(), &bob()])
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
    fs::write(path, bytes).expect("it can be written");
}

fn nar_file(package: &Package) -> String {
    format!("nar/{}.nar.zst", package.info.nar_hash.to_nix32())
}

fn evidence_file(package: &Package) -> String {
    format!("quorum/evidence/{}/{}", package.hash_part(), package.fingerprint().digest())
}

fn sweep(site: &Site, before: Timestamp, delete: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let sweep = Sweep { cache: site.gate.cache().clone(), index: Index::default(), before, delete };
    site.runtime.block_on(sweep.run(|finding| found.push(finding))).expect("it can be swept");
    found
}

fn names(root: &Path) -> BTreeSet<String> {
    files(root).into_keys().collect()
}

/// What a store has after crashes at every place: paths that are whole, and leftovers of each kind.
struct Littered {
    site: Site,
    clean: BTreeSet<String>,
    litter: Vec<(Kind, String)>,
}

fn littered() -> Littered {
    let site = Site::new(two_of_three());
    let below = signed("below");
    let above = package("above").referring_to([below.path()]).signed_by(&[&alice(), &bob()]);
    site.admit(&[&below, &above]);
    site.staging("somebody").upload(&[&package("held").signed_by(&[&alice()])]).expect("it is held");
    let clean = names(site.store());
    // An upload that broke off after its evidence, as another store has it.
    let broken = signed("broken-off");
    let other = Site::new(two_of_three());
    other.admit(&[&broken]);
    let mut litter = Vec::new();
    let mut drop_litter = |kind: Kind, name: String, bytes: &[u8]| {
        write(site.store(), &name, bytes);
        litter.push((kind, name));
    };
    let copy = |name: &str| fs::read(other.store().join(name)).expect("it is there");
    drop_litter(Kind::Nar, nar_file(&broken), &copy(&nar_file(&broken)));
    drop_litter(Kind::Evidence, evidence_file(&broken), &copy(&evidence_file(&broken)));
    drop_litter(Kind::Listing, format!("{}.ls", broken.hash_part()), b"{}");
    drop_litter(Kind::Upload, "quorum/tmp/0123456789".into(), b"half of something");
    drop_litter(Kind::Probe, "quorum/probe/0123456789".into(), b"one");
    let note = format!("{}-{}", broken.hash_part(), package("never-held").fingerprint().digest());
    drop_litter(Kind::Note, format!("quorum/staging/{note}"), b"{}");
    drop_litter(Kind::Note, format!("quorum/staging/listings/{note}"), b"{}");
    let old = format!(r#"{{"made":1000,"paths":["{}"],"nars":[]}}"#, broken.hash_part());
    drop_litter(Kind::Announcement, "quorum/uploading/0123456789".into(), old.as_bytes());
    litter.sort();
    Littered { site, clean, litter }
}

fn found(findings: &[Finding]) -> Vec<(Kind, String)> {
    let mut found: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.key.clone())).collect();
    found.sort();
    found
}

#[test]
fn a_sweep_finds_what_crashes_left_and_deletes_it_when_told_to() {
    let Littered { site, clean, litter } = littered();
    let before = names(site.store());
    let listed = sweep(&site, EVER, false);
    assert_eq!(found(&listed), litter);
    assert!(listed.iter().all(|finding| !finding.deleted && finding.size.is_some()));
    assert_eq!(names(site.store()), before, "listing changes nothing");
    let swept = sweep(&site, EVER, true);
    assert_eq!(found(&swept), litter);
    assert!(swept.iter().all(|finding| finding.deleted));
    assert_eq!(names(site.store()), clean, "what paths need is there, and nothing else");
    assert_eq!(sweep(&site, EVER, true), []);
    for name in ["below", "above"] {
        assert_eq!(site.raw().nar(&package(name)).expect("it is served"), package(name).nar);
    }
}

#[test]
fn what_is_young_is_left_alone() {
    let Littered { site, litter, .. } = littered();
    let young = sweep(&site, Timestamp::from_unix(1_000_000_000), true);
    // When an announcement is over, it says itself.
    assert_eq!(found(&young), litter.into_iter().filter(|(kind, _)| *kind == Kind::Announcement).collect::<Vec<_>>());
}

#[test]
fn what_nobody_knows_is_left_alone() {
    let site = Site::new(two_of_three());
    site.admit(&[&signed("hello")]);
    let evidence = format!("quorum/evidence/{}/of-a-later-version", signed("other").hash_part());
    for name in ["notes.txt", "nar/other.nar.xz", "nar/short.nar.zst", "log/x.drv", "quorum/later/thing", &evidence] {
        write(site.store(), name, b"{\"format\":9}");
    }
    let before = names(site.store());
    assert_eq!(sweep(&site, EVER, true), []);
    assert_eq!(names(site.store()), before);
}

/// Writes the narinfo of a path as stock Nix does, with its NAR in an object of this name.
fn write_foreign(site: &Site, package: &Package, nar: &str) {
    let (path, info) = (package.full_path(), &package.info);
    let text = format!(
        "StorePath: {path}\nURL: {nar}\nCompression: zstd\nNarHash: {}\nNarSize: {}\nReferences: \n",
        info.nar_hash, info.nar_size
    );
    write(site.store(), &format!("{}.narinfo", package.hash_part()), text.as_bytes());
}

/// Stock Nix calls a NAR's object by the hash of the compressed file, which looks like a gate's name of another NAR.
#[test]
fn the_nars_of_a_cache_that_stock_nix_wrote_are_kept() {
    let site = Site::new(two_of_three());
    let nar = format!("nar/{}.nar.zst", nar_hash(b"the compressed bytes").to_nix32());
    write_foreign(&site, &package("foreign"), &nar);
    write(site.store(), &nar, b"the compressed bytes");
    assert_eq!(sweep(&site, EVER, true), []);
    assert!(site.store().join(&nar).exists());
    // Nor does one go with the path that has the NAR of that name.
    let hello = signed("hello");
    site.admit(&[&hello]);
    write_foreign(&site, &package("another"), &nar_file(&hello));
    let deleted =
        site.runtime.block_on(site.gate.delete(&[hello.path().clone()], &person())).expect("nobody refers to it");
    assert_eq!(deleted.paths, set([&hello]));
    assert!(site.store().join(nar_file(&hello)).exists());
    // Without its path it is a leftover as any other.
    fs::remove_file(site.store().join(format!("{}.narinfo", package("foreign").hash_part()))).expect("it is there");
    assert_eq!(found(&sweep(&site, EVER, true)), [(Kind::Nar, nar)]);
}

/// A narinfo that was torn, or is longer than any may be: a person may restore it, and then all of its path is needed again.
#[test]
fn what_belongs_to_a_narinfo_that_cannot_be_read_is_kept() {
    for torn in [&b"StorePath: /nix/sto"[..], &vec![b'x'; 2 << 20]] {
        let Littered { site, litter, .. } = littered();
        let hello = signed("hello");
        let below = signed("below-hello");
        let hello = hello.referring_to([below.path()]);
        let hello = hello.unsigned().signed_by(&[&alice(), &bob()]);
        site.admit(&[&below, &hello]);
        let narinfo = format!("{}.narinfo", hello.hash_part());
        let whole = fs::read(site.store().join(&narinfo)).expect("it is there");
        write(site.store(), &narinfo, torn);
        let mut swept = Vec::new();
        let sweep = Sweep { cache: site.gate.cache().clone(), index: Index::default(), before: EVER, delete: true };
        let unreadable = site.runtime.block_on(sweep.run(|finding| swept.push(finding))).expect("it can be swept");
        assert_eq!(unreadable, BTreeSet::from([narinfo.clone()]));
        // Leftovers that are no NARs are none of its.
        let others: Vec<_> = litter.into_iter().filter(|(kind, _)| *kind != Kind::Nar).collect();
        assert_eq!(found(&swept), others);
        let delete = |package: &Package| {
            site.runtime
                .block_on(site.gate.delete(&[package.path().clone()], &person()))
                .map_err(|error| error.to_string())
        };
        let refused = delete(&below).expect_err("nobody can say who refers to it");
        assert!(refused.contains(&narinfo), "{refused}");
        write(site.store(), &narinfo, &whole);
        assert_eq!(site.raw().nar(&hello).expect("it is served"), hello.nar);
        assert!(delete(&below).expect_err("one refers to it").contains(&hello.full_path()));
    }
}

/// Candidates are held until more signatures come, and their NARs with them.
#[test]
fn what_is_held_keeps_its_nar() {
    let Littered { site, .. } = littered();
    let broken = signed("broken-off");
    let file = site.store().join(evidence_file(&broken));
    let text = fs::read_to_string(&file).expect("text");
    fs::write(&file, text.replace(r#""is": "admitted""#, r#""is": "candidate""#)).expect("it can be written");
    let swept = found(&sweep(&site, EVER, true));
    assert!(swept.iter().all(|(kind, _)| !matches!(kind, Kind::Nar | Kind::Evidence)), "{swept:?}");
    assert!(site.store().join(nar_file(&broken)).exists() && file.exists());
}

/// An upload that is about to rely on a NAR has announced it.
#[test]
fn what_is_being_uploaded_is_left_alone() {
    let Littered { site, .. } = littered();
    let broken = signed("broken-off");
    fs::remove_file(site.store().join(evidence_file(&broken))).expect("it is there");
    fs::remove_file(site.store().join(format!("{}.ls", broken.hash_part()))).expect("it is there");
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let twin = Package::of_nar("twin", broken.nar.clone());
    let text =
        format!(r#"{{"made":{now},"paths":["{}"],"nars":["{}"]}}"#, twin.hash_part(), broken.info.nar_hash.to_nix32());
    write(site.store(), "quorum/uploading/9876543210", text.as_bytes());
    let nar = sweep(&site, EVER, true).into_iter().find(|finding| finding.kind == Kind::Nar).expect("it is found");
    assert!(!nar.deleted);
    assert!(site.store().join(nar_file(&broken)).exists());
}

/// The current second: what is written in it is not swept.
fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    Timestamp::from_unix(since.as_secs().try_into().expect("before the year 292277026596"))
}

/// Uploads through one gate, again and again with NARs that others have as well, while another sweeps what is not a second old.
#[test]
fn a_sweep_beside_uploads_takes_nothing_that_a_path_needs() {
    let (one, two) = {
        let one = Site::new(two_of_three());
        let two = Site::over(one.store(), two_of_three());
        (one, two)
    };
    let done = AtomicBool::new(false);
    let (admitted, swept) = std::thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            let mut swept = 0;
            while !done.load(Ordering::Relaxed) {
                swept += sweep(&two, now(), true).iter().filter(|finding| finding.deleted).count();
            }
            swept
        });
        let mut admitted = Vec::new();
        for round in 0..200_u64 {
            std::thread::sleep(Duration::from_millis(25));
            // Every other round leaves a NAR that perhaps no path has, until one has it again.
            let nar = nar_of_file(&noise(round * 7 % 24, 300_000));
            let above = Package::of_nar(&format!("round-{round}"), nar).signed_by(&[&alice(), &bob()]);
            if one.upload(&[&above]).is_err() {
                continue;
            }
            if round % 2 == 0 {
                let file = one.store().join(nar_file(&above));
                let copy = one.store().join("quorum/copy");
                fs::copy(&file, &copy).expect("it is there");
                let deleted = one.runtime.block_on(one.gate.delete(&[above.path().clone()], &person()));
                if deleted.is_ok_and(|deleted| !deleted.paths.is_empty()) {
                    fs::rename(&copy, &file).expect("it can be written");
                    continue;
                }
            }
            admitted.push(above);
        }
        done.store(true, Ordering::Relaxed);
        (admitted, sweeping.join().expect("it ends"))
    });
    support::measured(&format!("{} paths admitted while {swept} objects were swept", admitted.len()));
    assert!(admitted.len() >= 80 && swept >= 1);
    for package in &admitted {
        assert_eq!(two.raw().nar(package).expect("it is served"), package.nar);
    }
    let needed: BTreeSet<String> = admitted.iter().map(nar_file).collect();
    let swept = || {
        sweep(&two, EVER, true);
        names(one.store()).into_iter().filter(|name| name.starts_with("nar/")).collect::<BTreeSet<String>>()
    };
    // What an upload that failed has announced is left alone for a while.
    let begun = Instant::now();
    while swept() != needed && begun.elapsed() < 3 * SETTLES {
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(swept(), needed);
}

/// Whether a path's NAR can be read to its end.
fn reads_whole(site: &Site, package: &Package) -> bool {
    site.runtime
        .block_on(async {
            let mut nar = site.gate.view().nar(package.path()).await?;
            while nar.next().await?.is_some() {}
            Ok::<_, store_backend::gate::GateError>(())
        })
        .is_ok()
}

/// A NAR of which nothing, or not all, is left: its path is not passed over by the next upload, which brings it again.
#[test]
fn a_nar_that_is_missing_or_truncated_is_replaced_by_the_next_upload() {
    for small in [true, false] {
        let nar = nar_of_file(&noise(7, if small { 1_000 } else { 700_000 }));
        let package = Package::of_nar("hello", nar).signed_by(&[&alice(), &bob()]);
        let site = Site::new(two_of_three());
        site.admit(&[&package]);
        let file = site.store().join(nar_file(&package));
        let whole = fs::read(&file).expect("it is there");
        for left in [None, Some(0), Some(whole.len() / 2)] {
            fs::remove_file(&file).expect("it is there");
            if let Some(left) = left {
                fs::write(&file, &whole[..left]).expect("it can be written");
            }
            let mut raw = site.raw();
            assert_eq!(raw.valid_among(&[package.path()]), [], "nix copy would pass it over");
            assert!(raw.is_valid(package.path()), "it was not taken back");
            assert!(!reads_whole(&site, &package));
            site.admit(&[&package]);
            assert_eq!(site.raw().valid_among(&[package.path()]), [package.path().clone()]);
            assert_eq!(site.raw().nar(&package).expect("it is served"), package.nar);
            assert_eq!(fs::read(&file).expect("it is there"), whole);
        }
        // What somebody brings in its place has to be the same bytes.
        fs::write(&file, b"").expect("it can be written");
        let mut other = package.clone();
        other.nar = nar_of_file(&noise(8, if small { 1_000 } else { 700_000 }));
        site.upload(&[&other]).expect_err("other bytes");
        assert_eq!(fs::read(&file).expect("it is there"), b"");
    }
}

/// A path has lost its quorum, and its NAR something: who brings it with another quorum brings the NAR as well.
#[test]
fn a_truncated_nar_is_replaced_when_its_path_is_admitted_again() {
    let nar = nar_of_file(&noise(7, 700_000));
    let unsigned = Package::of_nar("hello", nar);
    let package = unsigned.clone().signed_by(&[&alice(), &bob()]);
    let site = Site::new(two_of_three());
    site.admit(&[&package]);
    site.gate.set_policy(Rules { revoked: &["alice"], ..Rules::default() }.policy()).expect("it fits");
    assert!(!site.raw().is_valid(package.path()));
    let file = site.store().join(nar_file(&package));
    let whole = fs::read(&file).expect("it is there");
    fs::write(&file, &whole[..whole.len() / 2]).expect("it can be written");
    site.admit(&[&unsigned.signed_by(&[&bob(), &carol()])]);
    assert_eq!(fs::read(&file).expect("it is there"), whole);
    assert_eq!(site.raw().nar(&package).expect("it is served"), package.nar);
}

/// Another path has the same NAR, of which something is lost: nobody takes over its size.
#[test]
fn a_truncated_nar_is_not_taken_for_another_paths() {
    for size in [1_000, 700_000] {
        let nar = nar_of_file(&noise(7, size));
        let first = Package::of_nar("first", nar.clone()).signed_by(&[&alice(), &bob()]);
        let twin = Package::of_nar("twin", nar).signed_by(&[&alice(), &bob()]);
        let beside = signed("beside");
        let site = Site::new(two_of_three());
        site.admit(&[&first]);
        let file = site.store().join(nar_file(&first));
        let whole = fs::read(&file).expect("it is there");
        fs::write(&file, &whole[..whole.len() / 2]).expect("it can be written");
        let said = site.upload(&[&twin, &beside]).expect_err("what is there is not its NAR");
        assert!(said.contains("bring that once more"), "{said}");
        assert!(site.raw().is_valid(beside.path()), "the others are admitted");
        assert_eq!(site.raw().valid_among(&[twin.path()]), [], "nix copy would pass it over");
        site.admit(&[&twin]);
        assert_eq!(fs::read(&file).expect("it is there"), whole);
        for package in [&first, &twin] {
            assert_eq!(site.raw().valid_among(&[package.path()]), [package.path().clone()]);
            assert_eq!(site.raw().nar(package).expect("it is served"), package.nar);
        }
    }
}

// The index.

/// Two gates over one directory: one that writes, and one that has its index in a file.
struct Indexed {
    site: Site,
    folder: TempDir,
}

impl Indexed {
    fn new() -> Self {
        Self { site: Site::new(two_of_three()), folder: TempDir::new().expect("a directory") }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("below/index")
    }

    /// Asks a new gate with the index of the file.
    fn ask<T>(&self, name: &str, question: impl AsyncFn(&Gate) -> T) -> T {
        self.site.runtime.block_on(async {
            let objects = Directory::open(self.site.store()).expect("a directory");
            let cache = BinaryCache::open(std::sync::Arc::new(objects), &StoreDir::default()).await.expect("a cache");
            let index = Index::open(self.file(), name.into()).await.expect("it can be made");
            question(&Gate::new(cache, two_of_three(), None).expect("a gate").with_index(index)).await
        })
    }

    fn all(&self) -> BTreeSet<StorePath> {
        self.ask("a store", async |gate| gate.view().all_paths().await.expect("it can be listed"))
    }

    fn referrers(&self, path: &StorePath) -> BTreeSet<StorePath> {
        self.ask("a store", async |gate| gate.view().referrers(path).await.expect("it can be listed"))
    }
}

fn set<'a>(packages: impl IntoIterator<Item = &'a Package>) -> BTreeSet<StorePath> {
    packages.into_iter().map(|package| package.path().clone()).collect()
}

#[test]
fn an_index_follows_the_store() {
    let indexed = Indexed::new();
    let below = signed("below");
    let above: Vec<Package> = (0..5)
        .map(|number| package(&format!("above-{number}")).referring_to([below.path()]).signed_by(&[&alice(), &bob()]))
        .collect();
    assert_eq!(indexed.all(), set([]));
    indexed.site.admit(&[&below]);
    assert_eq!(indexed.all(), set([&below]));
    assert_eq!(indexed.referrers(below.path()), set([]));
    indexed.site.admit(&above.iter().collect::<Vec<_>>());
    assert_eq!(indexed.referrers(below.path()), set(&above));
    assert_eq!(indexed.all(), set(above.iter().chain([&below])));
    let delete = |package: &Package| {
        indexed
            .site
            .runtime
            .block_on(indexed.site.gate.delete(&[package.path().clone()], &person()))
            .expect("nobody refers to it")
    };
    delete(&above[0]);
    assert_eq!(indexed.referrers(below.path()), set(&above[1..]));
    above[1..].iter().for_each(|package| drop(delete(package)));
    delete(&below);
    assert_eq!((indexed.all(), indexed.referrers(below.path())), (set([]), set([])));
}

#[test]
fn an_index_that_is_damaged_or_of_another_store_is_made_anew() {
    let indexed = Indexed::new();
    let hello = signed("hello");
    indexed.site.admit(&[&hello]);
    assert_eq!(indexed.all(), set([&hello]));
    let good = fs::read(indexed.file()).expect("it is there");
    let mut torn = good.clone();
    torn.truncate(good.len() / 2);
    let mut scrambled = good.clone();
    scrambled[9..4096].copy_from_slice(&noise(3, 4096 - 9));
    for bytes in [torn, scrambled, Vec::new()] {
        fs::write(indexed.file(), bytes).expect("it can be written");
        assert_eq!(indexed.all(), set([&hello]));
    }
    // Another store's paths are none of this one's.
    let other = Indexed { site: Site::new(two_of_three()), folder: indexed.folder };
    let theirs = other.ask("another", async |gate| gate.view().all_paths().await.expect("it can be listed"));
    assert_eq!(theirs, set([]));
}

/// Who names another file by mistake keeps it.
#[test]
fn a_file_that_is_no_index_is_left_alone() {
    let indexed = Indexed::new();
    for bytes in [&b"key: the only copy"[..], b"short", &[0; 4096]] {
        write(indexed.folder.path(), "below/index", bytes);
        let opened = indexed.site.runtime.block_on(Index::open(indexed.file(), "a store".into()));
        let said = opened.err().expect("it is no index").to_string();
        let begins = bytes[..bytes.len().min(9)].escape_ascii().to_string();
        assert!(said.contains(&format!("begins with \"{begins}\"")) && said.contains("below/index"), "{said}");
        assert_eq!(fs::read(indexed.file()).expect("it is there"), bytes);
    }
}

#[test]
fn an_index_that_another_gate_has_open_is_not_waited_for() {
    let indexed = Indexed::new();
    let hello = signed("hello");
    indexed.site.admit(&[&hello]);
    let all = indexed.ask("a store", async |first| {
        let theirs = Index::open(indexed.file(), "a store".into()).await.expect("one in memory");
        let second = Gate::new(first.cache().clone(), two_of_three(), None).expect("a gate").with_index(theirs);
        let second = second.view().all_paths().await.expect("it can be listed");
        (first.view().all_paths().await.expect("it can be listed"), second)
    });
    assert_eq!(all, (set([&hello]), set([&hello])));
}
