//! What cache.nixos.org really signed, audited as a binary cache; and the same with single bits flipped.

mod world;

use std::path::{Path, PathBuf};

use serde_json::Value;
use world::{quorum, write};

const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// How often each narinfo is changed in one place.
const ROUNDS: usize = 6;

/// Returns the narinfos; none where the vectors are not beside the repository, which only CI must not do without.
fn narinfos() -> Option<Vec<String>> {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/cache-nixos-org/narinfo.zst"));
    let Ok(compressed) = std::fs::read(&file) else {
        assert!(std::env::var_os("CI").is_none(), "there is no {}", file.display());
        return None;
    };
    let text = String::from_utf8(zstd::decode_all(&*compressed).expect("zstd")).expect("text");
    let narinfos = text.split("\n\n").map(str::trim).filter(|narinfo| !narinfo.is_empty());
    Some(narinfos.map(|narinfo| format!("{narinfo}\n")).collect())
}

/// Puts narinfos into a cache under the hash parts that they had, audits them all, and returns each path's own report.
fn audit(folder: &Path, narinfos: &[String], names: &[String]) -> Vec<Value> {
    let cache = folder.join("cache");
    let _absent = std::fs::remove_dir_all(&cache);
    write(&cache, "nix-cache-info", "StoreDir: /nix/store\n");
    for (narinfo, name) in narinfos.iter().zip(names) {
        write(&cache, &format!("{}.narinfo", &name[..32]), narinfo);
    }
    let options = ["verify", "--store", "cache", "--trusted-public-keys", KEY, "--no-contents", "--json"];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let output = quorum(folder, &[&options[..], &names].concat()).output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    report["paths"].as_array().expect("paths").clone()
}

/// Flips a bit in one of the values that a signature covers.
fn flipped(narinfo: &str, salt: usize) -> String {
    let fields = ["StorePath: /nix/store/", "NarHash: sha256:", "NarSize: ", "References: "];
    let values: Vec<(usize, usize)> = fields
        .iter()
        .filter_map(|field| {
            let start = narinfo.find(field)? + field.len();
            let length = narinfo[start..].find('\n')?;
            (length > 0).then_some((start, length))
        })
        .collect();
    let (start, length) = values[salt % values.len()];
    let mut bytes = narinfo.as_bytes().to_vec();
    // A bit that leaves the byte a character, so that it is still a text.
    bytes[start + salt * 31 % length] ^= 1 << (salt % 6);
    String::from_utf8(bytes).expect("ASCII stays ASCII")
}

#[test]
fn real_signatures_count_and_with_any_bit_flipped_none_does() {
    let Some(narinfos) = narinfos() else { return };
    assert_eq!(narinfos.len(), 700);
    let base_name = |narinfo: &String| {
        let path = narinfo.lines().find_map(|line| line.strip_prefix("StorePath: /nix/store/"));
        path.expect("a store path").to_owned()
    };
    let names: Vec<String> = narinfos.iter().map(base_name).collect();
    let folder = tempfile::tempdir().expect("a directory");
    let paths = audit(folder.path(), &narinfos, &names);
    assert_eq!(paths.len(), 700);
    for path in &paths {
        assert_eq!(path["signers"], serde_json::json!(["cache.nixos.org-1"]), "{path}");
        let codes: Vec<&str> =
            path["findings"].as_array().expect("findings").iter().filter_map(|f| f["code"].as_str()).collect();
        assert!(codes.iter().all(|code| *code == "missing-reference"), "{path}");
    }
    for round in 0..ROUNDS {
        let changed: Vec<String> =
            narinfos.iter().enumerate().map(|(index, narinfo)| flipped(narinfo, index * 7 + round * 101)).collect();
        for path in &audit(folder.path(), &changed, &names) {
            assert_eq!(path["signers"], serde_json::json!([]), "{path}");
            assert_ne!(path["own"], "stands", "{path}");
        }
    }
}
