//! `nix-quorum sweep`, as people and programs see it.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn sweep(folder: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nix-quorum"));
    command.args(["sweep", "--store", "cache"]).args(options).current_dir(folder);
    command.env("NIX_QUORUM_CONFIG", "/dev/null").output().expect("it runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A cache in which a NAR was left behind.
fn littered() -> (TempDir, String) {
    let folder = TempDir::new().expect("a directory");
    let name = format!("nar/{}.nar.zst", "0".repeat(52));
    for (name, text) in [("nix-cache-info", "StoreDir: /nix/store\n"), (&*name, "what is left of it")] {
        let path = folder.path().join("cache").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    }
    (folder, name)
}

#[test]
fn it_lists_first_and_deletes_when_told_to() {
    let (folder, name) = littered();
    let file = folder.path().join("cache").join(&name);
    let young = sweep(folder.path(), &[]);
    assert_eq!((young.status.code(), said(&young)), (Some(0), "Nothing was left behind.\n".into()));
    let listed = sweep(folder.path(), &["--older-than", "0"]);
    let line = format!("{name}: a NAR that no path has, less than an hour old, 18 bytes\n");
    let last = "Would delete 1 object, 18 bytes: give --delete to do it.\n";
    assert_eq!((listed.status.code(), said(&listed)), (Some(0), format!("{line}{last}")));
    assert!(file.exists());
    let json = sweep(folder.path(), &["--older-than", "0", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let found = &json["found"][0];
    assert_eq!((&json["delete"], &json["store"]), (&false.into(), &"cache".into()));
    assert_eq!((&found["kind"], &found["key"], &found["size"]), (&"nar".into(), &name.clone().into(), &18.into()));
    assert_eq!(found["deleted"], false);
    let deleted = sweep(folder.path(), &["--older-than", "0", "--delete"]);
    assert_eq!((deleted.status.code(), said(&deleted)), (Some(0), format!("{line}Deleted 1 object, 18 bytes.\n")));
    assert!(!file.exists());
}

/// Whose NAR it is that no other path has, only that narinfo could say.
#[test]
fn a_narinfo_that_cannot_be_read_keeps_all_nars_and_is_named() {
    let (folder, name) = littered();
    let narinfo = format!("{}.narinfo", "0".repeat(32));
    std::fs::write(folder.path().join("cache").join(&narinfo), "StorePath: half of").expect("it can be written");
    let options = ["--older-than", "0", "--delete"];
    let output = sweep(folder.path(), &options);
    assert_eq!(output.status.code(), Some(0));
    let line = format!("{narinfo}: cannot be read, so all NARs are left: restore or remove it\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{line}Nothing was left behind.\n"));
    let json = sweep(folder.path(), &[&options[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&json["unreadable"][0], &json["found"]), (&narinfo.into(), &serde_json::json!([])));
    assert!(folder.path().join("cache").join(&name).exists());
}

#[test]
fn what_is_no_store_is_not_swept() {
    let folder = TempDir::new().expect("a directory");
    for (options, says) in [(&[][..], "cannot open"), (&["--older-than", "x"], "invalid value")] {
        let output = sweep(folder.path(), options);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    assert!(!folder.path().join("cache").exists(), "nothing is made");
}
