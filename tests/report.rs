//! Reports as they are read: JSON against its schema, SARIF, JUnit and DOT by programs that others wrote, the page in a browser.

mod world;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use world::{crowd, quorum, world};

/// Where what reads reports was installed.
const READERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/report/venv/bin/python");

const READ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/report/read.py");

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify.schema.json");

/// Every kind of path: damaged, conflicting, short, below and standing.
const ALL: [&str; 7] = ["--store", "cache", "--policy", "policy.toml", "--all", "-s", "other"];

/// Says whether what reads reports is there; where it is not, that the test was passed over. Only CI must not do without.
fn can_read() -> bool {
    let there = Path::new(READERS).exists();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "tests/report/install did not put {READERS} here");
        let said =
            writeln!(std::io::stderr(), "passed over: nothing reads reports here; tests/report/install changes that");
        said.expect("stderr");
    }
    there
}

/// Has something read by what others wrote.
fn read(arguments: &[&str]) -> Value {
    let output = Command::new(READERS).arg(READ).args(arguments).output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Writes a report, and returns where it is.
fn report(place: &Path, format: &str, options: &[&str]) -> PathBuf {
    let file = place.join(format!("report.{format}"));
    let name = file.display().to_string();
    let output = quorum(place, &[&["verify", "--format", format, "-o", &name], options].concat()).output();
    let output = output.expect("the program runs");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    file
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(text).collect()
}

/// The names of listed paths: what follows the hash part.
fn names(value: &Value) -> Vec<&str> {
    texts(value).into_iter().map(|path| &path[33..]).collect()
}

#[test]
fn json_is_what_its_schema_says() {
    if !can_read() {
        return;
    }
    let folder = world();
    let place = folder.path();
    let errors = |file: &Path| read(&["schema", SCHEMA, &file.display().to_string()]);
    let nothing = "/nix/store/00000000000000000000000000000000-nothing";
    for options in [
        &ALL[..],
        &["--store", "cache", "--policy", "policy.toml", "-r", "result"],
        &["--store", "cache", "--policy", "policy.toml", "--no-contents", "--all"],
        &["--store", "cache", "--policy", "policy.toml", nothing],
    ] {
        let file = report(place, "json", options);
        assert_eq!(errors(&file), Value::Array(Vec::new()), "{options:?}");
    }
    // And the schema says something: each of these is wrong in one place.
    let good: Value =
        serde_json::from_slice(&std::fs::read(report(place, "json", &ALL)).expect("a report")).expect("JSON");
    for (pointer, wrong) in [
        ("/version", Value::from(2)),
        ("/exit", Value::from(8)),
        ("/time", Value::from("today")),
        ("/standing", Value::from("perhaps")),
        ("/paths/0/path", Value::from("/nix/store/x")),
        ("/paths/0/narHash", Value::from("md5:x")),
        ("/paths/0/signatures/0/verdict", Value::from("fine")),
        ("/causes/0/affected", Value::from(0)),
        ("/remedies", Value::from("none")),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("there is no {pointer}")) = wrong;
        let file = place.join("bad.json");
        std::fs::write(&file, bad.to_string()).expect("room for a report");
        assert_ne!(errors(&file), Value::Array(Vec::new()), "{pointer}");
    }
}

#[test]
fn others_read_sarif_junit_and_dot() {
    if !can_read() {
        return;
    }
    let folder = world();
    let file = |format: &str| report(folder.path(), format, &ALL).display().to_string();
    let sarif = read(&["sarif", &file("sarif")]);
    assert_eq!(texts(&sarif["tools"]), ["nix-quorum"]);
    assert_eq!(sarif["severities"], serde_json::json!({ "error": 3, "warning": 0, "note": 3 }));
    let rules =
        ["conflict", "content-mismatch", "false-content-address", "missing-reference", "quorum-missing", "unknown-key"];
    assert_eq!(texts(&sarif["rules"]), rules);
    assert!(texts(&sarif["places"]).iter().all(|place| place.starts_with("file:///nix/store/")), "{}", sarif["places"]);
    let junit = read(&["junit", &file("junit")]);
    let counts = ["tests", "failures", "errors", "skipped"].map(|name| junit[name].as_u64().expect("a count"));
    assert_eq!(counts, [9, 3, 0, 1]);
    let cases = junit["cases"].as_object().expect("cases by name");
    let result = |name: &str| {
        let (_, results) = cases.iter().find(|(case, _)| case.ends_with(name)).expect("a case");
        texts(results).join(" ")
    };
    assert_eq!(["-library", "-damaged", "-victim"].map(result), ["", "Failure", "Skipped"]);
    let drawn = Command::new("dot").args(["-Tsvg", &file("dot")]).output().expect("graphviz is installed");
    let svg = String::from_utf8(drawn.stdout).expect("a picture");
    assert_eq!((svg.matches("class=\"node\"").count(), svg.matches("class=\"edge\"").count()), (9, 3));
    assert!(drawn.stderr.is_empty(), "{}", String::from_utf8_lossy(&drawn.stderr));
}

#[test]
fn a_browser_shows_sorts_and_filters_the_page() {
    if !can_read() {
        return;
    }
    let folder = world();
    let page = report(folder.path(), "html", &ALL).display().to_string();
    let picture = folder.path().join("picture.png");
    let said = read(&["page", &page, &picture.display().to_string()]);
    assert_eq!(text(&said["title"]), "nix-quorum: audit");
    assert_eq!(text(&said["verdict"]), "5 of 9 paths stand; 4 fail, 0 could not be checked, because of 3 of them.");
    let tiles = ["2 contents damaged or gone", "1 different contents claimed", "1 falls short by itself"];
    let others = ["1 does not stand because of others", "4 stands"];
    assert_eq!(texts(&said["tiles"]), [&tiles[..], &others].concat());
    let by_standing = ["damaged", "liar", "library", "orphan", "victim", "lonely", "program", "source", "text"];
    assert_eq!(names(&said["rows"]), by_standing);
    let by_name = ["damaged", "liar", "library", "lonely", "orphan", "program", "source", "text", "victim"];
    assert_eq!(names(&said["by_name"]), by_name);
    let mut backwards = by_name;
    backwards.reverse();
    assert_eq!(names(&said["by_name_backwards"]), backwards);
    assert_eq!(names(&said["filtered"]), ["damaged"]);
    assert_eq!(said["faded"], 8);
    assert_eq!(said["not_standing"].as_array().map(Vec::len), Some(5));
    assert_eq!((said["nodes"].clone(), said["lines"].clone()), (9.into(), 3.into()));
    // No two kinds look alike, not even to those who see no colours.
    let looks = said["looks"].as_array().expect("a list");
    let differ = |part: usize| looks.iter().map(|look| text(&look[part])).collect::<BTreeSet<_>>().len();
    assert_eq!([0, 1, 2].map(differ), [5, 5, 5], "{looks:?}");
    assert!(!texts(&said["chosen"]).is_empty());
    // It says nothing to the console, and fetches nothing.
    assert_eq!((said["errors"].clone(), said["fetched"].clone()), (Value::Array(vec![]), Value::Array(vec![])));
    let image = std::fs::read(picture).expect("a picture");
    assert!(image.starts_with(b"\x89PNG") && image.len() > 10_000, "{} bytes", image.len());
}

/// Of a thousand paths each is drawn; of more, those that look alike together, while all are listed.
#[test]
fn a_browser_shows_large_closures() {
    if !can_read() {
        return;
    }
    let folder = world();
    for (size, drawn) in [(1_000, 1_000..=1_000), (2_500, 10..=200)] {
        let cache = crowd(folder.path(), size).display().to_string();
        let page = report(folder.path(), "html", &["--store", &cache, "--policy", "policy.toml", "--all"]);
        let said = read(&["page", &page.display().to_string()]);
        assert!(text(&said["verdict"]).contains(&format!("of {} paths stand", thousands(size))), "{}", said["verdict"]);
        assert!(drawn.contains(&said["nodes"].as_u64().expect("a count")), "{}", said["nodes"]);
        assert_eq!(text(&said["shown"]), format!("{0} of {0} listed paths", thousands(size)));
        assert_eq!(said["rows"].as_array().map(Vec::len), Some(500), "the rest is shown on demand");
        assert_eq!(said["errors"], Value::Array(vec![]));
        std::fs::remove_dir_all(cache).expect("it was there");
    }
}

fn thousands(number: u32) -> String {
    format!("{},{:03}", number / 1_000, number % 1_000)
}
