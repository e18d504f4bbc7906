//! Several gates on one store, writers that cross each other, and processes that are killed: no signature is lost, nothing
//! half-written is visible, and what was acknowledged is there.

mod support;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use store_backend::daemon::{Server, Settings};
use support::child::{self, Worker};
use support::keys::{Rules, alice, bob, carol, key, parse, two_of_three};
use support::package::{Package, nar_of_file, noise, package};
use support::raw::Raw;
use support::site::{Site, files, open_gate, person};
use support::words::{Words, add_multiple, op};
use tempfile::TempDir;
use verifier::SecretKey;

fn signed(name: &str) -> Package {
    package(name).signed_by(&[&alice(), &bob()])
}

/// Runs work on as many threads as there are jobs, and returns what each returned.
fn at_once<J: Send, T: Send>(jobs: Vec<J>, work: impl Fn(J) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || work(job))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    })
}

fn hash_parts(root: &Path) -> BTreeSet<String> {
    files(root).into_keys().filter_map(|name| Some(name.strip_suffix(".narinfo")?.to_owned())).collect()
}

/// Checks a store as it lies on disk, through a gate that has not seen it before: each narinfo has its evidence and its NAR,
/// is valid, and is read to the end; and refers to nothing that is not there.
fn is_whole(root: &Path) -> BTreeSet<String> {
    let site = Site::over(root, two_of_three());
    let mut raw = site.raw();
    let valid = raw.all_paths();
    let parts = hash_parts(root);
    let named: BTreeSet<String> = valid.iter().map(|path| path.to_basename()[..32].to_owned()).collect();
    assert_eq!(parts, named, "each narinfo is that of a valid path");
    for path in &valid {
        let info = raw.path_info(path).expect("it is listed");
        for reference in &info.references {
            assert!(valid.contains(reference), "{path:?} refers to {reference:?}, which is not there");
        }
        let package = Package { nar: vec![0; info.nar_size as usize], info };
        let nar = raw.nar(&package).expect("it is served");
        assert_eq!(support::package::nar_hash(&nar), package.info.nar_hash);
    }
    parts
}

// Two gates, many builders.

/// Eight builders, of whom two must agree.
fn eight() -> (Vec<SecretKey>, String) {
    let keys: Vec<SecretKey> = (0..8).map(|number| key(&format!("b{number}-1"), 100 + number)).collect();
    let mut text = "version = 1\n".to_owned();
    for (number, key) in keys.iter().enumerate() {
        text += &format!("[signers.b{number}]\nkeys = [\"{}\"]\n", key.public());
    }
    let names: Vec<String> = (0..8).map(|number| format!("\"b{number}\"")).collect();
    text += &format!("[groups]\nall = [{}]\n[default]\nrequire = {{ at-least = 2, of = \"all\" }}\n", names.join(", "));
    (keys, text)
}

#[test]
fn thirty_two_uploads_through_two_gates_lose_no_signature() {
    let (keys, text) = eight();
    let one = Site::new(parse(&text));
    let two = Site::over(one.store(), parse(&text));
    // Fifty paths, each of which refers to the one before; one in five has the bytes of another.
    let mut plain: Vec<Package> = Vec::new();
    for number in 0..50 {
        let nar = nar_of_file(format!("contents {}", number - number % 5).as_bytes());
        let mut package = Package::of_nar(&format!("path-{number}"), nar);
        if let Some(last) = plain.last() {
            package = package.referring_to([last.path()]);
        }
        plain.push(package);
    }
    let sites = [&one, &two];
    let results = at_once((0..32).collect(), |number: usize| {
        let signers = [&keys[number % 8], &keys[(number + 1) % 8]];
        let packages: Vec<Package> = plain.iter().map(|package| package.clone().signed_by(&signers)).collect();
        Raw::connect(sites[number % 2].socket()).upload(&packages.iter().collect::<Vec<_>>())
    });
    for (number, result) in results.iter().enumerate() {
        assert!(result.is_ok(), "upload {number}: {result:?}");
    }
    let all: Vec<&SecretKey> = keys.iter().collect();
    let found = files(one.store());
    for package in &plain {
        let expected = package.clone().signed_by(&all).info.signatures;
        for site in sites {
            assert_eq!(site.raw().path_info(package.path()).expect("it is valid").signatures, expected);
        }
        let narinfo =
            std::fs::read_to_string(one.store().join(format!("{}.narinfo", package.hash_part()))).expect("text");
        let in_narinfo: BTreeSet<String> =
            narinfo.lines().filter_map(|line| line.strip_prefix("Sig: ")).map(str::to_owned).collect();
        assert_eq!(in_narinfo, expected, "the narinfo says what the evidence says");
        let evidence = format!("quorum/evidence/{}/", package.hash_part());
        assert_eq!(found.keys().filter(|name| name.starts_with(&evidence)).count(), 1, "admitted once");
        assert_eq!(one.raw().nar(package).expect("it is served"), package.nar);
    }
    assert_eq!(found.keys().filter(|name| name.starts_with("nar/")).count(), 10, "a NAR is stored once");
    let stray: Vec<_> = found
        .keys()
        .filter(|name| ["quorum/tmp/", "quorum/uploading/", "quorum/deleting/"].iter().any(|f| name.starts_with(f)))
        .collect();
    assert!(stray.is_empty(), "{stray:?}");
}

#[test]
fn signatures_that_arrive_at_once_through_two_gates_are_all_kept() {
    let (keys, text) = eight();
    let one = Site::new(parse(&text));
    let two = Site::over(one.store(), parse(&text));
    let hello = package("hello");
    one.admit(&[&hello.clone().signed_by(&[&keys[0], &keys[1]])]);
    let results = at_once((0..16).collect(), |number: usize| {
        let signature = keys[number % 8].sign(&hello.fingerprint()).to_string();
        [&one, &two][number / 8].stranger().add_signatures(hello.path(), &[signature])
    });
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let all: Vec<&SecretKey> = keys.iter().collect();
    for site in [&one, &two] {
        let kept = site.raw().path_info(hello.path()).expect("it is valid").signatures;
        assert_eq!(kept, hello.clone().signed_by(&all).info.signatures);
    }
}

#[test]
fn of_two_contents_uploaded_at_once_one_is_admitted() {
    for round in 0..12 {
        let one = Site::new(two_of_three());
        let two = Site::over(one.store(), two_of_three());
        let contents = ["this", "that"].map(|text| {
            let nar = nar_of_file(format!("{text} {round}").as_bytes());
            Package::of_nar("disputed", nar).signed_by(&[&alice(), &bob()])
        });
        let results = at_once(vec![(&one, 0), (&two, 1), (&one, 1), (&two, 0)], |(site, which): (&Site, usize)| {
            (which, site.upload(&[&contents[which]]))
        });
        let admitted = one.raw().path_info(contents[0].path()).expect("one of them is").nar_hash;
        for (which, result) in results {
            if contents[which].info.nar_hash == admitted {
                result.expect("it is what was admitted");
            } else {
                assert!(result.expect_err("it is the other").contains("conflict"));
            }
        }
        let winner = contents.iter().find(|package| package.info.nar_hash == admitted).expect("one of the two");
        for site in [&one, &two] {
            assert_eq!(site.raw().nar(winner).expect("it is served"), winner.nar);
        }
    }
}

// What changes while a NAR is on its way.

/// Sends half of an upload, does something, and sends the rest.
fn interrupted(site: &Site, package: &Package, meanwhile: impl FnOnce()) -> Result<(), String> {
    let request = add_multiple(&[package]);
    let (first, second) = request.0.split_at(request.0.len() / 2);
    let mut raw = site.stranger();
    raw.send(first);
    std::thread::sleep(Duration::from_millis(50));
    meanwhile();
    raw.send(second);
    let answer = raw.answer();
    assert!(raw.is_valid(package.path()) == answer.is_ok(), "the session goes on, and tells the truth");
    answer
}

#[test]
fn a_key_revoked_during_an_upload_does_not_count() {
    let site = Site::new(two_of_three());
    let large = |name: &str| Package::of_nar(name, nar_of_file(&noise(1, 800_000))).signed_by(&[&alice(), &bob()]);
    let revoked = Rules { revoked: &["alice"], ..Rules::default() };
    let before = site.files();
    let attack = large("large");
    let said = interrupted(&site, &attack, || site.gate.set_policy(revoked.policy()).expect("a policy"));
    let said = said.expect_err("it must be refused");
    assert!(said.contains("quorum-missing") && said.contains("revoked-key"), "{said}");
    assert_eq!(site.files(), before, "nothing of it is kept");
    // Another policy that says the same makes no difference.
    site.gate.set_policy(two_of_three()).expect("a policy");
    interrupted(&site, &attack, || site.gate.set_policy(two_of_three()).expect("a policy")).expect("it is signed");
}

#[test]
fn a_policy_that_expires_during_an_upload_admits_nothing_more() {
    let site = Site::new(two_of_three());
    let expired = Rules { expires: Some("2020-01-01T00:00:00Z"), ..Rules::default() };
    let old = signed("old");
    site.admit(&[&old]);
    let large = Package::of_nar("large", nar_of_file(&noise(1, 800_000))).signed_by(&[&alice(), &bob()]);
    let said = interrupted(&site, &large, || site.gate.set_policy(expired.policy()).expect("a policy"));
    assert!(said.expect_err("it must be refused").contains("policy-expired"));
    assert!(site.raw().is_valid(old.path()), "what was admitted before can still be read");
}

#[test]
fn a_reference_deleted_during_an_upload_is_missed() {
    let site = Site::new(two_of_three());
    let glibc = signed("glibc");
    site.admit(&[&glibc]);
    let large = Package::of_nar("large", nar_of_file(&noise(1, 800_000))).referring_to([glibc.path()]);
    let large = large.signed_by(&[&alice(), &bob()]);
    let said = interrupted(&site, &large, || {
        site.runtime.block_on(site.gate.delete(&[glibc.path().clone()], &person())).expect("nobody refers to it yet");
    });
    assert!(said.expect_err("it must be refused").contains("missing-reference"));
    site.admit(&[&glibc, &large]);
}

#[test]
fn another_fingerprint_admitted_during_an_upload_is_a_conflict() {
    let site = Site::new(two_of_three());
    let large = Package::of_nar("disputed", nar_of_file(&noise(1, 800_000))).signed_by(&[&alice(), &bob()]);
    let other = Package::of_nar("disputed", nar_of_file(b"other")).signed_by(&[&bob(), &carol()]);
    let request = add_multiple(&[&large]);
    let (first, second) = request.0.split_at(request.0.len() / 2);
    let mut raw = site.stranger();
    raw.send(first);
    std::thread::sleep(Duration::from_millis(50));
    site.admit(&[&other]);
    raw.send(second);
    assert!(raw.answer().expect_err("it must be refused").contains("conflict"));
    assert_eq!(raw.path_info(large.path()).expect("the other is valid").nar_hash, other.info.nar_hash);
}

// Deletions that cross uploads. Whatever comes of each, the store must be whole.

#[test]
fn a_path_deleted_while_its_referrer_is_uploaded_is_never_missing_below_it() {
    let one = Site::new(two_of_three());
    let two = Site::over(one.store(), two_of_three());
    let (mut deleted, mut uploaded) = (0, 0);
    for round in 0..40_u64 {
        let below = signed(&format!("below-{round}"));
        one.admit(&[&below]);
        let above = package(&format!("above-{round}")).referring_to([below.path()]).signed_by(&[&alice(), &bob()]);
        // Through another gate, and through the same one.
        let uploading = if round % 4 == 3 { &one } else { &two };
        let results = at_once(vec![true, false], |delete| {
            if delete {
                std::thread::sleep(Duration::from_micros(round * 137 % 6000));
                one.runtime
                    .block_on(one.gate.delete(&[below.path().clone()], &person()))
                    .map(drop)
                    .map_err(|error| error.to_string())
            } else {
                uploading.upload(&[&above])
            }
        });
        deleted += u32::from(results[0].is_ok());
        uploaded += u32::from(results[1].is_ok());
        let there = hash_parts(one.store());
        let (has_below, has_above) = (there.contains(&below.hash_part()), there.contains(&above.hash_part()));
        assert!(!has_above || has_below, "round {round}: a referrer is there without its reference: {results:?}");
        assert_eq!(results[1].is_ok(), has_above, "round {round}: what was acknowledged is there: {results:?}");
        assert!(results[0].is_err() || !has_below, "round {round}: what was deleted is gone: {results:?}");
    }
    support::measured(&format!("of 40 crossings {deleted} deleted and {uploaded} uploaded"));
    is_whole(one.store());
}

#[test]
fn a_nar_that_two_paths_have_stays_while_either_is_there() {
    let one = Site::new(two_of_three());
    let two = Site::over(one.store(), two_of_three());
    for round in 0..24_u64 {
        let nar = nar_of_file(&noise(round, 20_000));
        let first = Package::of_nar(&format!("first-{round}"), nar.clone()).signed_by(&[&alice(), &bob()]);
        let second = Package::of_nar(&format!("second-{round}"), nar).signed_by(&[&alice(), &bob()]);
        one.admit(&[&first]);
        let results = at_once(vec![true, false], |delete| {
            if delete {
                std::thread::sleep(Duration::from_micros(round * 211 % 5000));
                one.runtime
                    .block_on(one.gate.delete(&[first.path().clone()], &person()))
                    .map(drop)
                    .map_err(|error| error.to_string())
            } else {
                two.upload(&[&second])
            }
        });
        if results[1].is_ok() {
            assert_eq!(two.raw().nar(&second).expect("it was acknowledged"), second.nar, "round {round}");
        }
    }
    is_whole(one.store());
    let left = files(one.store());
    let stray: Vec<_> = left
        .keys()
        .filter(|name| ["quorum/tmp/", "quorum/uploading/", "quorum/deleting/"].iter().any(|f| name.starts_with(f)))
        .collect();
    assert!(stray.is_empty(), "{stray:?}");
}

#[test]
fn a_path_deleted_while_it_is_uploaded_is_whole_or_gone() {
    let one = Site::new(two_of_three());
    let two = Site::over(one.store(), two_of_three());
    for round in 0..40_u64 {
        let path = Package::of_nar(&format!("path-{round}"), nar_of_file(&noise(round, 3_000)));
        one.admit(&[&path.clone().signed_by(&[&alice(), &bob()])]);
        let again = path.clone().signed_by(&[&bob(), &carol()]);
        at_once(vec![true, false], |delete| {
            if delete {
                std::thread::sleep(Duration::from_micros(round * 173 % 4000));
                one.runtime
                    .block_on(one.gate.delete(&[path.path().clone()], &person()))
                    .map(drop)
                    .map_err(|error| error.to_string())
            } else {
                two.upload(&[&again])
            }
        });
    }
    is_whole(one.store());
}

/// Writes an announcement as a gate that crashed leaves it.
fn announced(site: &Site, folder: &str, package: &Package, made: i64) {
    let folder = site.store().join("quorum").join(folder);
    std::fs::create_dir_all(&folder).expect("it can be written");
    let (path, nar) = (package.hash_part(), package.info.nar_hash.to_nix32());
    let text = format!(r#"{{"made":{made},"paths":["{path}"],"nars":["{nar}"]}}"#);
    std::fs::write(folder.join("0123456789"), text).expect("it can be written");
}

fn unix_now() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs().try_into().expect("before the year 292277026596")
}

/// Uploads must not wait for ever for a deletion that crashed, nor deletions for an upload.
#[test]
fn what_crashed_gates_announced_is_forgotten() {
    let site = Site::new(two_of_three());
    let first = signed("first");
    site.admit(&[&first]);
    let twin = Package::of_nar("twin", first.nar.clone()).signed_by(&[&alice(), &bob()]);
    announced(&site, "deleting", &first, unix_now() - 11 * 60);
    site.admit(&[&twin]);
    assert_eq!(site.raw().nar(&twin).expect("it is served"), twin.nar);
    announced(&site, "uploading", &first, unix_now() - 61 * 60);
    site.runtime
        .block_on(site.gate.delete(&[first.path().clone(), twin.path().clone()], &person()))
        .expect("nobody refers to them");
    let left = site.files();
    let stray = |name: &&String| ["nar/", "quorum/deleting/", "quorum/uploading/"].iter().any(|f| name.starts_with(f));
    assert_eq!(left.keys().find(stray), None);
}

/// One that may still be at work is waited for, and then its work is left alone.
#[test]
fn what_another_gate_announced_is_respected() {
    let uploads = std::thread::spawn(|| {
        let site = Site::new(two_of_three());
        let hello = signed("hello");
        announced(&site, "deleting", &hello, unix_now());
        let refused = site.upload(&[&hello]).expect_err("it is being deleted");
        assert!(refused.contains("is being deleted, and this upload rests on it; try again"), "{refused}");
        assert!(!site.raw().is_valid(hello.path()));
    });
    let site = Site::new(two_of_three());
    let hello = signed("hello");
    site.admit(&[&hello]);
    announced(&site, "uploading", &hello, unix_now());
    let refused =
        site.runtime.block_on(site.gate.delete(&[hello.path().clone()], &person())).expect_err("it is being uploaded");
    assert!(refused.to_string().contains("is being uploaded, or something that refers to it; try again"), "{refused}");
    assert!(site.raw().is_valid(hello.path()));
    uploads.join().expect("it passes");
    // What cannot be read might be anybody's.
    std::fs::write(site.store().join("quorum/uploading/0123456789"), "{").expect("it can be written");
    let refused = site.runtime.block_on(site.gate.delete(&[hello.path().clone()], &person())).expect_err("who knows");
    assert!(refused.to_string().contains("quorum/uploading/0123456789 cannot be read"), "{refused}");
}

// Processes that are killed.

#[test]
#[ignore = "is run by a_server_that_is_killed_has_what_it_acknowledged, in a process of its own"]
fn child_serves_until_it_is_killed() {
    let Some(place) = child::place() else { return };
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime").block_on(
        async {
            let gate = open_gate(&place.join("store"), two_of_three(), None).await;
            let server = Server::bind(&place.join("socket"), Settings::default()).await.expect("a socket");
            child::say("serving");
            server.run(gate, std::future::pending()).await.expect("it serves");
        },
    );
}

#[test]
fn a_server_that_is_killed_has_what_it_acknowledged() {
    let directory = TempDir::new().expect("a directory");
    let store = directory.path().join("store");
    let mut acknowledged: Vec<Package> = Vec::new();
    for round in 0..14_u64 {
        let mut worker = Worker::start("child_serves_until_it_is_killed", directory.path(), &[]);
        worker.wait_for("serving");
        let socket = directory.path().join("socket");
        let uploader = std::thread::spawn(move || {
            let mut done = Vec::new();
            for number in 0..200_u64 {
                let below = Package::of_nar(&format!("below-{round}-{number}"), nar_of_file(&noise(number, 40_000)));
                let below = below.signed_by(&[&alice(), &bob()]);
                let contents = noise(round << 32 | number, 1000 + (number as usize * 70_001) % 900_000);
                let above = Package::of_nar(&format!("above-{round}-{number}"), nar_of_file(&contents));
                let above = above.referring_to([below.path()]).signed_by(&[&bob(), &carol()]);
                let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) else { break };
                let mut raw = Raw::over(stream);
                let bytes = Words::new()
                    .u64(support::words::CLIENT_MAGIC)
                    .u64(0x122)
                    .u64(0)
                    .u64(0)
                    .raw(&add_multiple(&[&below, &above]).0);
                if !raw.try_send(&bytes.0) {
                    break;
                }
                // Magic, version, the daemon's name, the end of the greeting, and the end of the answer.
                let mut answer = Vec::new();
                let _killed = raw.stream.shutdown(std::net::Shutdown::Write);
                let _killed = raw.stream.read_to_end(&mut answer);
                let last = 0x616c_7473_u64.to_le_bytes();
                let ends = answer.chunks(8).filter(|word| *word == last).count();
                if ends < 2 {
                    break;
                }
                done.extend([below, above]);
            }
            done
        });
        std::thread::sleep(Duration::from_millis(20 + round * 23 % 170));
        worker.kill();
        acknowledged.extend(uploader.join().expect("it ends"));
        let there = hash_parts(&store);
        for package in &acknowledged {
            assert!(there.contains(&package.hash_part()), "round {round}: it was acknowledged");
        }
    }
    support::measured(&format!("{} paths were acknowledged by 14 servers that were killed", acknowledged.len()));
    let valid = is_whole(&store);
    assert!(valid.len() >= acknowledged.len());
    assert!(acknowledged.len() >= 14, "the servers lived long enough to do something");
    // And it goes on from there.
    let site = Site::over(&store, two_of_three());
    site.admit(&[&signed("afterwards")]);
    let request = Words::op(op::VERIFY_STORE).u64(1).u64(0);
    let mut raw = site.raw();
    raw.ask(&request).expect("an answer");
    assert_eq!(raw.u64(), 0, "{:?}", raw.lines);
}
