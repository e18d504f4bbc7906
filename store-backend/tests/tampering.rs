//! Files that were changed behind the gate's back: what is not what was vouched for is never served.

mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::keys::{alice, bob, carol, mallory, two_of_three};
use support::package::{Package, nar_of_file, noise, package};
use support::raw::Raw;
use support::site::{Site, person};
use support::words::{Words, op};

/// A store with one path in it, and whatever is to happen to its files.
struct Scene {
    site: Site,
    package: Package,
}

impl Scene {
    fn new(package: Package) -> Self {
        let package = package.signed_by(&[&alice(), &bob()]);
        let site = Site::new(two_of_three());
        site.admit(&[&package]);
        assert_eq!(site.raw().nar(&package).expect("it is served"), package.nar);
        Self { site, package }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.site.store().join(name)
    }

    fn narinfo(&self) -> PathBuf {
        self.file(&format!("{}.narinfo", self.package.hash_part()))
    }

    fn evidence(&self) -> PathBuf {
        let digest = self.package.fingerprint().digest();
        self.file(&format!("quorum/evidence/{}/{digest}", self.package.hash_part()))
    }

    fn nar(&self) -> PathBuf {
        self.file(&format!("nar/{}.nar.zst", self.package.info.nar_hash.to_nix32()))
    }

    /// A server that has not seen the store before, as after a restart.
    fn restarted(&self) -> Site {
        Site::over(self.site.store(), two_of_three())
    }

    /// Nothing reads the path, whatever is asked; a good path beside it is served.
    fn is_not_served(&self, what: &str) {
        let other = package("other").signed_by(&[&bob(), &carol()]);
        for site in [self.restarted(), Site::over(self.site.store(), two_of_three())] {
            site.upload(&[&other]).unwrap_or_else(|error| panic!("{what}: {error}"));
            let path = self.package.full_path();
            let no = |raw: &mut Raw, request: &Words| match raw.ask(request) {
                Err(_) => true,
                Ok(()) => raw.u64() == 0,
            };
            for request in [
                Words::op(op::IS_VALID_PATH).str(&path),
                Words::op(op::QUERY_PATH_INFO).str(&path),
                Words::op(op::QUERY_VALID_PATHS).strings([&path]).u64(0),
                Words::op(op::QUERY_PATH_FROM_HASH_PART).str(&self.package.hash_part()),
                Words::op(op::QUERY_REFERRERS).str(&path),
            ] {
                assert!(no(&mut site.raw(), &request), "{what}");
            }
            for request in [Words::op(op::ENSURE_PATH).str(&path), Words::op(op::NAR_FROM_PATH).str(&path)] {
                assert!(site.raw().ask(&request).is_err(), "{what}");
            }
            let listed = site.raw().all_paths();
            assert!(!listed.contains(self.package.path()), "{what}");
            assert!(listed.contains(other.path()), "{what}: one damaged path takes nothing from the others");
            assert_eq!(site.raw().nar(&other).expect("it is served"), other.nar);
        }
    }
}

fn edit(path: &PathBuf, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).expect("it can be read")).expect("JSON");
    change(&mut json);
    fs::write(path, serde_json::to_vec_pretty(&json).expect("JSON")).expect("it can be written");
}

#[test]
fn a_narinfo_without_evidence_is_nobodys_word() {
    let scene = Scene::new(package("hello"));
    fs::remove_file(scene.evidence()).expect("it is there");
    scene.is_not_served("the evidence is gone");
    // Nor is one that somebody wrote by hand, with signatures that are good but too few, or for other bytes.
    let scene = Scene::new(package("hello"));
    let evil = Package::of_nar("evil", nar_of_file(b"evil")).signed_by(&[&alice(), &mallory()]);
    let text = fs::read_to_string(scene.narinfo()).expect("text");
    let mut forged: Vec<String> = text.lines().filter(|line| !line.starts_with("Sig: ")).map(str::to_owned).collect();
    forged[0] = format!("StorePath: {}", evil.full_path());
    forged.extend(evil.info.signatures.iter().map(|signature| format!("Sig: {signature}")));
    fs::write(scene.file(&format!("{}.narinfo", evil.hash_part())), forged.join("\n") + "\n")
        .expect("it can be written");
    let restarted = scene.restarted();
    let mut raw = restarted.raw();
    assert!(!raw.is_valid(evil.path()));
    assert_eq!(raw.all_paths(), [scene.package.path().clone()]);
}

#[test]
fn damaged_evidence_is_not_read() {
    type Damage = fn(&PathBuf);
    let cases: [(&str, Damage); 9] = [
        ("it is empty", |path| fs::write(path, "").expect("written")),
        ("it breaks off", |path| {
            let bytes = fs::read(path).expect("read");
            fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
        }),
        ("it is no JSON", |path| fs::write(path, [0xff; 100]).expect("written")),
        ("it has a member that nobody knows", |path| edit(path, |json| json["more"] = 1.into())),
        ("it is of a later format", |path| edit(path, |json| json["format"] = 2.into())),
        ("it is about another size", |path| edit(path, |json| json["nar-size"] = 8.into())),
        ("it is about another hash", |path| {
            let other = support::package::nar_hash(b"other").to_string();
            edit(path, |json| json["nar-hash"] = other.into());
        }),
        ("it has a signature that is none", |path| edit(path, |json| json["signatures"][0]["signature"] = "x".into())),
        ("it is too long", |path| fs::write(path, vec![b' '; 5 << 20]).expect("written")),
    ];
    for (what, damage) in cases {
        let scene = Scene::new(package("hello"));
        damage(&scene.evidence());
        scene.is_not_served(what);
    }
}

#[test]
fn evidence_of_another_fingerprint_does_not_stand_in() {
    let scene = Scene::new(package("hello"));
    let other = Package::of_nar("hello-2", nar_of_file(b"two")).signed_by(&[&alice(), &bob(), &carol()]);
    scene.site.admit(&[&other]);
    let foreign = scene.file(&format!("quorum/evidence/{}/{}", other.hash_part(), other.fingerprint().digest()));
    fs::copy(foreign, scene.evidence()).expect("it can be written");
    scene.is_not_served("the evidence is another path's");
}

#[test]
fn signatures_that_were_replaced_do_not_count() {
    let hello = package("hello");
    let forged = [
        ("by others", mallory().sign(&hello.fingerprint()).to_string()),
        ("over other contents", alice().sign(&package("other").fingerprint()).to_string()),
        ("by the same signer twice", support::keys::sign_again("bob-1", 2, &hello.fingerprint())),
    ];
    for (what, signature) in forged {
        let scene = Scene::new(package("hello"));
        edit(&scene.evidence(), |json| {
            let signatures = json["signatures"].as_array_mut().expect("a list");
            let alices = signatures.iter().position(|s| s["signature"].as_str().expect("text").starts_with("alice"));
            signatures[alices.expect("Alice signed")]["signature"] = signature.clone().into();
        });
        scene.is_not_served(what);
    }
    let scene = Scene::new(package("hello"));
    edit(&scene.evidence(), |json| json["signatures"] = Value::Array(Vec::new()));
    scene.is_not_served("they are gone");
}

#[test]
fn a_damaged_narinfo_is_passed_over() {
    let cases: [(&str, fn(String) -> String); 5] = [
        ("it is empty", |_| String::new()),
        ("it breaks off", |text| text[..text.len() / 2].to_owned()),
        ("it is about another path", |text| text.replace("StorePath: /nix/store/", "StorePath: /nix/store/0")),
        ("it has another size", |text| text.replace("NarSize: ", "NarSize: 9")),
        ("it is too long", |text| text + &"X: y\n".repeat(300_000)),
    ];
    for (what, change) in cases {
        let scene = Scene::new(package("hello"));
        let text = fs::read_to_string(scene.narinfo()).expect("text");
        fs::write(scene.narinfo(), change(text)).expect("it can be written");
        scene.is_not_served(what);
    }
}

/// A NAR of one block is an error in words, since nothing has been sent yet.
#[test]
fn a_small_nar_that_is_damaged_is_refused_in_words() {
    let cases: [(&str, fn(Vec<u8>) -> Vec<u8>); 5] = [
        ("it breaks off", |bytes| bytes[..bytes.len() - 1].to_vec()),
        ("it is empty", |_| Vec::new()),
        ("it is another NAR", |_| zstd::bulk::compress(&nar_of_file(b"evil"), 3).expect("it is compressed")),
        ("it has more", |mut bytes| {
            bytes.extend(zstd::bulk::compress(b"more", 3).expect("it is compressed"));
            bytes
        }),
        ("it is no zstd", |bytes| bytes.iter().map(|byte| !byte).collect()),
    ];
    for (what, damage) in cases {
        let scene = Scene::new(package("hello"));
        let bytes = fs::read(scene.nar()).expect("it can be read");
        fs::write(scene.nar(), damage(bytes)).expect("it can be written");
        let restarted = scene.restarted();
        for site in [&scene.site, &restarted] {
            let mut raw = site.raw();
            let said = raw.nar(&scene.package).expect_err(what);
            assert!(said.contains("NAR nar/") && !said.contains("is not valid"), "{what}: {said}");
            assert!(raw.all_paths().len() == 1, "the session goes on");
            raw.ask(&Words::op(op::VERIFY_STORE).u64(1).u64(0)).expect("an answer");
            assert_eq!(raw.u64(), 1, "{what}: something is wrong");
            assert!(raw.lines.iter().any(|line| line.contains(&scene.package.full_path())), "{:?}", raw.lines);
        }
    }
    let scene = Scene::new(package("hello"));
    fs::remove_file(scene.nar()).expect("it is there");
    assert!(scene.site.raw().nar(&scene.package).expect_err("it is gone").contains("is missing"));
}

/// Of a large NAR the beginning has been sent when the damage shows: the end never comes, and nothing comes in its place.
#[test]
fn a_large_nar_that_is_damaged_is_cut_off_before_its_end() {
    let large = || Package::of_nar("large", nar_of_file(&noise(1, 1 << 20)));
    let cases: [(&str, fn(Vec<u8>) -> Vec<u8>); 4] = [
        ("a bit is flipped near the end", |mut bytes| {
            let at = bytes.len() - 5000;
            bytes[at] ^= 1;
            bytes
        }),
        ("it breaks off", |bytes| bytes[..bytes.len() - 100].to_vec()),
        ("a byte in the middle is another", |bytes| {
            let mut nar = zstd::bulk::decompress(&bytes, 2 << 20).expect("it is whole");
            let middle = nar.len() / 2;
            nar[middle] ^= 0x80;
            zstd::bulk::compress(&nar, 3).expect("it is compressed")
        }),
        ("it has more at the end", |bytes| {
            let mut nar = zstd::bulk::decompress(&bytes, 2 << 20).expect("it is whole");
            nar.extend([0; 64]);
            zstd::bulk::compress(&nar, 3).expect("it is compressed")
        }),
    ];
    for (what, damage) in cases {
        let scene = Scene::new(large());
        let bytes = fs::read(scene.nar()).expect("it can be read");
        fs::write(scene.nar(), damage(bytes)).expect("it can be written");
        let mut raw = scene.site.raw();
        if raw.ask(&Words::op(op::NAR_FROM_PATH).str(&scene.package.full_path())).is_err() {
            continue;
        }
        let mut came = Vec::new();
        let _cut_off = std::io::Read::read_to_end(&mut raw.stream, &mut came);
        assert!(came.len() < scene.package.nar.len(), "{what}: {} bytes came", came.len());
        // What came is whole blocks of the NAR, damaged or not, and not an error in the place of the last ones.
        assert_eq!(came.len() % (128 << 10), 0, "{what}: {} bytes came", came.len());
        assert!(!came.windows(8).any(|window| window == 0x6378_7470_u64.to_le_bytes()), "{what}");
        // The client of this crate sees it end.
        let mut client = scene.site.client();
        scene.site.runtime.block_on(async {
            client.nar(scene.package.path()).await.expect("it begins");
            let mut left = scene.package.info.nar_size;
            while left > 0 {
                match client.nar_block(left).await {
                    Ok(block) if !block.is_empty() => left -= block.len() as u64,
                    _ => return,
                }
            }
            panic!("{what}: all of it came");
        });
    }
}

/// What is said to do about it has to help.
#[test]
fn a_damaged_nar_is_there_again_after_deletion_and_another_upload() {
    let scene = Scene::new(package("hello"));
    fs::write(scene.nar(), "damaged").expect("it can be written");
    let path = scene.package.path().clone();
    scene.site.runtime.block_on(scene.site.gate.delete(&[path], &person())).expect("nobody refers to it");
    scene.site.admit(&[&scene.package]);
    assert_eq!(scene.site.raw().nar(&scene.package).expect("it is served"), scene.package.nar);
    // And so with damaged evidence.
    fs::write(scene.evidence(), "damaged").expect("it can be written");
    assert!(scene.restarted().upload(&[&scene.package]).is_err(), "what was known of it is not simply forgotten");
    let path = scene.package.path().clone();
    scene.site.runtime.block_on(scene.site.gate.delete(&[path], &person())).expect("nobody refers to it");
    scene.site.admit(&[&scene.package]);
    let restarted = scene.restarted();
    assert_eq!(restarted.raw().nar(&scene.package).expect("it is served"), scene.package.nar);
}

#[test]
fn a_missing_nar_is_there_again_after_another_upload() {
    let scene = Scene::new(package("hello"));
    fs::remove_file(scene.nar()).expect("it is there");
    scene.site.admit(&[&scene.package]);
    assert_eq!(scene.site.raw().nar(&scene.package).expect("it is served"), scene.package.nar);
    let restarted = scene.restarted();
    assert_eq!(restarted.raw().nar(&scene.package).expect("it is served"), scene.package.nar);
}

#[test]
fn temporary_and_foreign_files_are_no_paths() {
    let scene = Scene::new(package("hello"));
    for name in [
        "quorum/tmp/0123456789abcdef",
        "notes.txt",
        ".narinfo",
        "x.narinfo",
        "nar/evil.nar.zst",
        "00000000000000000000000000000000.narinfo",
        "quorum/evidence/x",
    ] {
        fs::write(scene.file(name), "evil").expect("it can be written");
    }
    fs::create_dir(scene.file("11111111111111111111111111111111.narinfo")).expect("it can be made");
    let restarted = scene.restarted();
    for site in [&scene.site, &restarted] {
        assert_eq!(site.raw().all_paths(), [scene.package.path().clone()]);
        let mut raw = site.raw();
        raw.ask(&Words::op(op::VERIFY_STORE).u64(1).u64(0)).expect("an answer");
        assert_eq!(raw.u64(), 0);
    }
}
