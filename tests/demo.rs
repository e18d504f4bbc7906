//! `nix-quorum demo`: what a newcomer sees, without Nix and with each Nix that is there.
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Where the Nix clients of tests/nix/install are listed: "<version> <bin dir>" per line.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nix/clients");

fn demo(folder: &Path, path: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nix-quorum"));
    command.arg("demo").args(arguments).current_dir(folder).env_clear();
    std::fs::write(folder.join("config.toml"), "").expect("room for a file");
    command.env("NIX_QUORUM_CONFIG", folder.join("config.toml")).env("PATH", path).env("TMPDIR", folder);
    command.output().expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Puts names in the place of what differs each time: the directory, the keys and what they signed.
fn same_each_time(text: &str, folder: &Path) -> String {
    let mut same = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| is_base64(c)) {
        let (before, run) = rest.split_at(start);
        let length = run.find(|c: char| !is_base64(c)).unwrap_or(run.len());
        let (run, after) = run.split_at(length);
        same += before;
        same += match length {
            44 if run.ends_with('=') => "KEY",
            88 if run.ends_with("==") => "SIGNATURE",
            _ => run,
        };
        rest = after;
    }
    same += rest;
    let place = folder.canonicalize().expect("it is there").display().to_string();
    match same.split_once(&format!("{place}/nix-quorum-demo.")) {
        Some((before, after)) => format!("{before}$TMPDIR/nix-quorum-demo.XXXXXX{}", &after[6..]),
        None => same,
    }
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=".contains(c)
}

fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.file_name().is_some_and(|name| name != "config.toml")).collect()
}

#[test]
fn shows_every_step_to_people_and_programs() {
    let folder = tempfile::tempdir_in("/tmp").expect("a directory");
    let people = demo(folder.path(), "/nowhere", &[]);
    assert!(people.status.success(), "{}", text(&people));
    insta::assert_snapshot!("people", same_each_time(&text(&people), folder.path()));
    let programs = demo(folder.path(), "/nowhere", &["--json"]);
    assert!(programs.status.success(), "{}", text(&programs));
    insta::assert_snapshot!("programs", same_each_time(&text(&programs), folder.path()));
    assert_eq!(left_behind(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn keeps_its_directory_when_asked() {
    let folder = tempfile::tempdir_in("/tmp").expect("a directory");
    let kept = demo(folder.path(), "/nowhere", &["--keep", "--json"]);
    let story: Value = serde_json::from_slice(&kept.stdout).expect("JSON");
    let place = PathBuf::from(story["directory"].as_str().expect("a directory's name"));
    assert_eq!(story["kept"], true);
    assert_eq!(left_behind(folder.path()).len(), 1);
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(place.join(name)).expect("it was kept").permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("eu-1.sec")), (0o700, 0o600), "the keys are nobody else's to read");
    assert!(place.join("policy.toml").exists() && place.join("store/nix-cache-info").exists());
}

#[test]
fn drives_each_real_client() {
    let Ok(clients) = std::fs::read_to_string(CLIENTS) else {
        assert!(std::env::var_os("CI").is_none(), "no Nix clients: run tests/nix/install");
        eprintln!("SKIPPED: no Nix clients; run tests/nix/install");
        return;
    };
    let folder = tempfile::tempdir_in("/tmp").expect("a directory");
    for line in clients.lines() {
        let (version, programs) = line.split_once(' ').expect("a version and a directory");
        let shown = demo(folder.path(), &format!("{programs}:/usr/bin:/bin"), &["--json"]);
        let story: Value = serde_json::from_slice(&shown.stdout).unwrap_or_else(|_| panic!("{}", text(&shown)));
        assert!(story["client"].as_str().is_some_and(|name| name.contains(version)), "{version}: {}", story["client"]);
        assert!(shown.status.success() && story["asExpected"] == true, "{version}: {story:#}");
        let ran = story["steps"].as_array().expect("steps").iter().flat_map(|step| step["runs"].as_array());
        let real = ran.flatten().filter(|run| {
            run["by"] == "program" && run["command"].as_str().is_some_and(|command| command.contains("nix copy"))
        });
        assert_eq!(real.count(), 4, "{version}: it copied four times itself");
        assert_eq!(left_behind(folder.path()), Vec::<PathBuf>::new());
    }
}
