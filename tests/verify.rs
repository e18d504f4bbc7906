//! `nix-quorum verify`, as people and programs see it: a small store with one thing wrong in each corner.

mod world;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use store_backend::client::Client;
use verifier::StoreDir;
use world::{key, package, quorum, world, write};

/// How long a gate may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a person sees: the command, what it prints, and its exit code.
fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = quorum(folder, arguments).output().expect("the program runs");
    let place = folder.display().to_string();
    let mut text = format!("$ nix-quorum {}\n", arguments.join(" "));
    for part in [&output.stdout, &output.stderr] {
        text += &String::from_utf8_lossy(part);
    }
    text += &format!("(exit code {})\n\n", output.status.code().expect("it was not killed"));
    without_times(&text.replace(&place, "$PWD"))
}

/// Replaces moments such as 2027-06-01T12:00:00Z, which are those of the test.
fn without_times(text: &str) -> String {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let is_time = |bytes: &[u8]| {
        bytes.iter().zip(FORM).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form })
    };
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.as_bytes().windows(FORM.len()).position(is_time) {
        kept += &rest[..at];
        kept += "NOW";
        rest = &rest[at + FORM.len()..];
    }
    kept + rest
}

const POLICY: [&str; 5] = ["verify", "--store", "cache", "--policy", "policy.toml"];

#[test]
fn reads_the_same_to_people_and_programs() {
    let folder = world();
    let mut text = String::new();
    for arguments in [
        &["--recursive", "result"][..],
        &["result"],
        &["--all"],
        &["--all", "--no-contents"],
        &["--all", "--verbose"],
        &["--recursive", "result", "--explain", "result"],
        &["result", "--explain", "/nix/store/0l2ha1850l2ha1850l2ha1850l2ha185-victim"],
        &["--all", "--explain", "/nix/store/0l2ha1850l2ha1850l2ha1850l2ha185-victim"],
        &["/nix/store/00000000000000000000000000000000-nothing"],
    ] {
        text += &shown(folder.path(), &[&POLICY, arguments].concat());
    }
    for arguments in [
        &["why", "040h2081040h2081040h2081040h2081-library"][..],
        &["why", "040h2081040h2081040h2081040h2081-library", "result"],
    ] {
        text += &shown(folder.path(), &[arguments, &POLICY[1..]].concat());
    }
    insta::assert_snapshot!("people", text);
    for format in ["junit", "sarif", "dot"] {
        let shown = shown(folder.path(), &[&POLICY[..], &["--all", "--format", format]].concat());
        insta::assert_snapshot!(format, shown);
    }
    insta::assert_snapshot!("programs", shown(folder.path(), &[&POLICY[..], &["--all", "--json"]].concat()));
}

#[test]
fn keys_and_a_number_stand_for_a_policy() {
    let folder = world();
    let keys = |names: &[&str]| names.iter().map(|name| key(name).public().to_string()).collect::<Vec<_>>().join(" ");
    let renamed = keys(&["a-1"]).replace("a-1:", "other:");
    let mut text = String::new();
    for (keys, needed) in [
        (keys(&["a-1", "b-1"]), "2"),
        (keys(&["a-1", "b-1"]), "1"),
        (format!("{} {renamed}", keys(&["a-1"])), "2"),
        (keys(&["a-1"]), "2"),
        (keys(&["a-1"]), "0"),
        ("nonsense".to_owned(), "1"),
    ] {
        let options = ["verify", "--store", "cache", "--trusted-public-keys", &keys, "--sigs-needed", needed];
        text += &shown(folder.path(), &[&options[..], &["--recursive", "result"]].concat());
    }
    insta::assert_snapshot!("keys", text);
}

/// Asks why a path is in the closure of `result`; returns the exit code, and what is said.
fn why(folder: &Path, path: &str, more: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["why", path, "result"], &POLICY[1..], more].concat();
    let output = quorum(folder, &arguments).output().expect("the program runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("it is text"))
}

/// Nothing that was read refers to it, but not everything could be read.
#[test]
fn why_does_not_say_no_where_it_cannot_tell() {
    let folder = world();
    let ask = |more: &[&str]| why(folder.path(), "00000000000000000000000000000001-nothing", more);
    let (code, said) = ask(&[]);
    assert!(code == Some(1) && said.contains("nothing that was asked about refers to it"), "{code:?} {said}");
    let library = folder.path().join("cache/040h2081040h2081040h2081040h2081.narinfo");
    std::fs::write(library, "nonsense").expect("the owner's right");
    let (code, said) = ask(&[]);
    assert!(code == Some(4) && said.contains("not everything could") && said.contains("-library: "), "{code:?} {said}");
    let (code, said) = ask(&["--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &answer["chain"], &answer["complete"]), (Some(4), &serde_json::Value::Null, &false.into()));
}

/// What is not there has nobody who says anything of it but those that refer to it.
#[test]
fn why_finds_what_is_missing() {
    let folder = world();
    std::fs::remove_file(folder.path().join("cache/040h2081040h2081040h2081040h2081.narinfo")).expect("it is there");
    let ask = |more: &[&str]| why(folder.path(), "040h2081040h2081040h2081040h2081-library", more);
    let (code, said) = ask(&[]);
    let last = said.lines().last().expect("a chain");
    assert!(code == Some(0) && last.contains("-library fails: missing-reference"), "{code:?} {said}");
    let (_, said) = ask(&["--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let chain = answer["chain"].as_array().expect("there is one");
    assert!(chain.len() > 1 && chain[chain.len() - 1]["standing"] == "fails", "{said}");
}

/// Where nothing could be looked at, nothing stands.
#[test]
fn no_report_says_that_all_is_well_where_not_all_was_seen() {
    let folder = world();
    std::fs::create_dir(folder.path().join("empty")).expect("room for a directory");
    write(folder.path(), "empty/nix-cache-info", "StoreDir: /nix/store\n");
    let shown = |format: &str| {
        let arguments = ["verify", "--store", "empty", "--policy", "policy.toml", "--all", "--format", format];
        let output = quorum(folder.path(), &arguments).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(4), "{format}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let text = shown("text");
    assert!(text.contains("there is more that could not be looked at") && !text.contains("and stand;"), "{text}");
    assert!(shown("json").contains("\"standing\": \"unchecked\""));
    assert!(shown("html").contains("\"standing\":\"unchecked\""));
    assert!(shown("sarif").contains("\"standing\": \"unchecked\""));
    let junit = shown("junit");
    assert!(junit.contains("tests=\"1\" failures=\"0\" errors=\"1\""), "{junit}");
    assert!(junit.contains("<error message=\"this store names no path"), "{junit}");
    let dot = shown("dot");
    assert!(
        dot.contains("more [label = \"there is more that") && dot.contains("\\nNote: this store names no path"),
        "{dot}"
    );
}

/// A name may have been made up to look like more than one line.
#[test]
fn an_error_is_one_line() {
    let folder = world();
    let output =
        quorum(folder.path(), &[&POLICY[..], &["x\nall is well"]].concat()).output().expect("the program runs");
    let said = String::from_utf8(output.stderr).expect("it is text");
    assert!(said.lines().count() == 1 && said.contains("x\\nall is well"), "{said}");
}

/// What stands in config.toml is as good as on the command line.
#[test]
fn the_policy_may_stand_in_the_configuration() {
    let folder = world();
    let audit = |setting: &str| {
        write(folder.path(), "settings.toml", setting);
        let mut command = quorum(folder.path(), &["verify", "--store", "cache", "result"]);
        command.env("NIX_QUORUM_CONFIG", folder.path().join("settings.toml"));
        let output = command.output().expect("the program runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("it is text"))
    };
    let with_policy = audit("policy = \"policy.toml\"\n");
    assert_ne!(with_policy.0, Some(4), "{with_policy:?}");
    let without = audit("");
    assert!(without.0 == Some(4) && without.1.contains("give --policy FILE"), "{without:?}");
}

/// What was asked for is not undone by what the configuration has instead of it.
#[test]
fn a_setting_gives_way_to_an_option_that_excludes_it() {
    let folder = world();
    let policy = std::fs::read_to_string(folder.path().join("policy.toml")).expect("a policy");
    let key = policy.split('"').find(|text| text.contains(':')).expect("a key").to_owned();
    let audit = |settings: &str, variable: Option<&str>, options: &[&str]| {
        write(folder.path(), "settings.toml", settings);
        let mut command = quorum(folder.path(), &["verify", "--store", "cache", "--json", "--all"]);
        command.args(options).env("NIX_QUORUM_CONFIG", folder.path().join("settings.toml"));
        command.envs(variable.map(|value| ("NIX_QUORUM_POLICY", value)));
        let output = command.output().expect("the program runs");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let error = String::from_utf8(output.stderr).expect("it is text");
        (report["policy"]["default"].clone(), report["contents"].clone(), error)
    };
    let keys = format!("trusted-public-keys = \"{key}\"\n");
    let (by_key, ..) = audit(&keys, None, &[]);
    let (by_policy, read, _) = audit("", None, &["--policy", "policy.toml"]);
    assert!(by_key.is_string() && by_policy.is_string() && by_key != by_policy, "{by_key} {by_policy}");
    assert_eq!(read, "read");
    assert_eq!(audit(&keys, None, &["--policy", "policy.toml"]).0, by_policy);
    assert_eq!(audit(&keys, Some("policy.toml"), &[]).0, by_policy);
    assert_eq!(audit("policy = \"policy.toml\"\n", None, &["--trusted-public-keys", &key]).0, by_key);
    let unread = "policy = \"policy.toml\"\nno-contents = true\n";
    assert_eq!(audit(unread, None, &[]).1, "left");
    assert_eq!(audit(unread, None, &["--contents"]).1, "read");
    assert_eq!(audit(unread, None, &["--no-contents", "--contents"]).1, "read");
    assert_eq!(audit(unread, None, &["--contents", "--no-contents"]).1, "left");
    assert_eq!(audit(unread, None, &["--since", "log"]).1, "read");
    // What one option settles is settled for all that it excludes.
    let both = format!("{keys}policy-signer = []\nsigs-needed = 1\n");
    assert_eq!(audit(&both, None, &["--policy", "policy.toml"]).0, by_policy);
    let both = "policy = \"policy.toml\"\nsigs-needed = 1\n";
    assert_eq!(audit(both, None, &["--trusted-public-keys", &key]).0, by_key);
    let (_, report, error) = audit(&format!("{keys}{unread}"), None, &[]);
    assert!(report.is_null() && error.contains("trusted-public-keys and policy exclude each other"), "{error}");
}

/// A report that is kept says of which store it was.
#[test]
fn the_store_that_nobody_named_is_named() {
    let folder = world();
    for (named, meant) in [(None, "cache"), (Some(""), "cache"), (Some("./cache"), "./cache")] {
        let mut command = quorum(folder.path(), &["verify", "--policy", "policy.toml", "--json", "result"]);
        command.env("NIX_REMOTE", "cache").args(named.iter().flat_map(|uri| ["--store", uri]));
        let output = command.output().expect("the program runs");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!(report["store"], meant, "{named:?}");
    }
}

/// What is at the other end of a connection may be whoever one audits.
#[test]
fn the_other_end_does_not_write_to_the_terminal() {
    let folder = world();
    write(folder.path(), "evil", "#!/bin/sh\nprintf '\\033[2Jall is well\\r\\n%05000d\\n' 0 >&2\n");
    let program = folder.path().join("evil");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
    let store = format!("ssh-ng://localhost?remote-program={}", program.display());
    let output = quorum(folder.path(), &["verify", "--policy", "policy.toml", "--store", &store, "result"]).output();
    let output = output.expect("the program runs");
    let said = String::from_utf8(output.stderr).expect("it is text");
    assert!(said.starts_with("evil: \\u{1b}[2Jall is well\nevil: 0000"), "{said:?}");
    assert!(!said.contains('\u{1b}') && said.lines().all(|line| line.len() <= 5000), "{said:?}");
    assert_eq!(output.status.code(), Some(4), "{said:?}");
}

#[test]
fn what_cannot_be_checked_exits_with_4() {
    let folder = world();
    write(folder.path(), "bad.toml", "version = 0\n");
    let mut text = String::new();
    for arguments in [
        &["verify", "--store", "absent", "--policy", "policy.toml", "--all"][..],
        &["verify", "--store", ".", "--policy", "policy.toml", "--all"],
        &["verify", "--store", "unix://absent", "--policy", "policy.toml", "--all"],
        &["verify", "--store", "gs://bucket", "--policy", "policy.toml", "--all"],
        &["verify", "--store", "cache", "--policy", "absent.toml", "--all"],
        &["verify", "--store", "cache", "--policy", "bad.toml", "--all"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "--stdin"],
        &["verify", "--store", "cache", "--policy", "policy.toml"],
        &["verify", "--store", "cache", "--all"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "policy.toml"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "--all", "result"],
        &["verify", "--store", "cache", "--policy", "policy.toml", "--sigs-needed", "1", "result"],
    ] {
        let one = shown(folder.path(), arguments);
        assert!(one.ends_with("(exit code 4)\n\n"), "{one}");
        text += &one;
    }
    insta::assert_snapshot!("unusable", text);
}

#[test]
fn an_audit_goes_on_where_it_was() {
    let folder = world();
    let place = folder.path();
    let verify =
        |options: &[&str]| shown(place, &[&POLICY[..], &["--all", "--json", "--since", "log"], options].concat());
    let count = |report: &str, what: &str| {
        let line = report.lines().find(|line| line.contains(what)).expect("a number");
        line.trim().trim_start_matches(what).trim_end_matches(',').parse::<u64>().expect("a number")
    };
    let first = verify(&[]);
    let log = std::fs::read_to_string(place.join("log")).expect("a log");
    // Neither what is damaged nor what is no file of its address is noted.
    assert_eq!(log.lines().count(), 1 + 7, "{log}");
    let second = verify(&[]);
    assert!(
        second.contains("the contents of 7 paths were read by earlier audits since NOW, says log, and not again"),
        "{second}"
    );
    assert_eq!((count(&first, "\"bytesRead\": "), count(&second, "\"bytesRead\": ")), (9 * 120, 2 * 120));
    let without = |report: &str| -> String {
        let lines = report.lines().filter(|line| {
            !line.contains("bytesRead")
                && !line.contains("earlier audits")
                && !line.contains("\"notes\"")
                && *line != "  ],"
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without(&first), without(&second), "and nothing else is different");
    // Broken off in the middle of a line: the rest counts.
    let cut = log.len() - 20;
    std::fs::write(place.join("log"), &log[..cut]).expect("room for a log");
    assert_eq!(count(&verify(&[]), "\"bytesRead\": "), 3 * 120);
    assert_eq!(std::fs::read_to_string(place.join("log")).expect("a log").lines().count(), 1 + 7);
    // A path with other contents than were read is read.
    let other = package(1, "library", &[], &["a-1", "b-1", "c-1"]);
    let renamed = log.replace(&other.info.nar_hash.to_string(), &package(77, "x", &[], &[]).info.nar_hash.to_string());
    std::fs::write(place.join("log"), renamed).expect("room for a log");
    assert_eq!(count(&verify(&[]), "\"bytesRead\": "), 3 * 120);
    // What is no such log is left as it is.
    for (text, says) in [
        ("[signers.a]\n", "this is no log of what an audit has read"),
        ("no line's end", "this is no log of what an audit has read"),
        (&*log.replace("/cache (", "/other ("), ", not about file://$PWD/cache ("),
        (&*log.replace("-library", "/library"), "log, line "),
    ] {
        std::fs::write(place.join("log"), text).expect("room for a log");
        let said = verify(&[]);
        assert!(said.contains(says) && said.ends_with("(exit code 4)\n\n"), "{said}");
        assert_eq!(std::fs::read_to_string(place.join("log")).expect("a log"), text);
    }
}

/// What was put in a cache's place since is another store: nothing of it was read.
#[test]
fn an_audit_does_not_go_on_in_another_store() {
    let folder = world();
    let verify = || shown(folder.path(), &[&POLICY[..], &["--all", "--since", "log"]].concat());
    assert!(!verify().contains("not about"), "it is new");
    std::fs::rename(folder.path().join("cache"), folder.path().join("first")).expect("it is there");
    copy(&folder.path().join("first"), &folder.path().join("cache"));
    let said = verify();
    assert!(said.contains(", not about file://$PWD/cache (") && said.ends_with("(exit code 4)\n\n"), "{said}");
    // The first, at its own place again, is what it was.
    std::fs::rename(folder.path().join("cache"), folder.path().join("second")).expect("it is there");
    std::fs::rename(folder.path().join("first"), folder.path().join("cache")).expect("it is there");
    let said = verify();
    assert!(said.contains("read by earlier audits"), "{said}");
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("room for a directory");
    for entry in std::fs::read_dir(from).expect("it is a directory") {
        let place = entry.expect("it can be read").path();
        let to = to.join(place.file_name().expect("it has a name"));
        if place.is_dir() {
            copy(&place, &to);
        } else {
            std::fs::copy(&place, &to).expect("room for a file");
        }
    }
}

/// A gate that runs until it is dropped.
struct Gate(Child);

impl Gate {
    fn start(folder: &Path) -> Self {
        let store = format!("file://{}", folder.join("store").display());
        let mut serve = quorum(folder, &["serve", "--store", &store, "--policy", "policy.toml", "--socket", "socket"]);
        let gate = Self(serve.stderr(Stdio::null()).spawn().expect("the program runs"));
        let began = Instant::now();
        while !folder.join("socket").exists() {
            assert!(began.elapsed() < PATIENCE, "the gate does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        gate
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[tokio::test]
async fn a_live_gate_and_its_directory_say_the_same() {
    let folder = world();
    let place = folder.path();
    let gate = Gate::start(place);
    let library = package(1, "library", &[], &["a-1", "b-1"]);
    let program = package(2, "program", &[&library], &["b-1", "c-1"]);
    let mut client = Client::connect(&place.join("socket"), &StoreDir::default()).await.expect("the gate listens");
    for package in [&library, &program] {
        client.add_to_store(&package.info, &package.nar).await.expect("two signers");
    }
    let verify = |store: &str, rest: &[&str]| {
        shown(place, &[&["verify", "--store", store, "--policy", "policy.toml", "-r", "result"], rest].concat())
    };
    let (live, kept) = (verify("unix://socket", &[]), verify("store", &[]));
    assert_eq!(live.replace("unix://socket", "store"), kept);
    insta::assert_snapshot!("gate", live);
    // A directory also knows since when it has had each signature.
    let json = |text: String| -> String {
        let lines = text.lines().skip(1).filter(|line| !line.contains("\"firstSeen\"") && !line.contains("\"store\""));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert!(verify("store", &["--json"]).contains("\"firstSeen\": 1"));
    assert!(verify("unix://socket", &["--json"]).contains("\"firstSeen\": null"));
    assert_eq!(json(verify("unix://socket", &["--json"])), json(verify("store", &["--json"])));
    let nar = format!("store/nar/{}.nar.zst", library.info.nar_hash.to_nix32());
    std::fs::remove_file(place.join(nar)).expect("it was there");
    for store in ["unix://socket", "store"] {
        let text = verify(store, &[]);
        assert!(text.contains("missing-content") && text.ends_with("(exit code 1)\n\n"), "{text}");
    }
    drop(gate);
    assert!(verify("unix://socket", &[]).ends_with("(exit code 4)\n\n"));
}
