//! How long it takes to audit closures of 25,000 to 200,000 paths, with four references each on an average and two signatures, and
//! how much memory: the whole command, over the database of a store on this machine, without contents.
//!
//! `cargo bench --bench audit`; `BENCH_DIR` says where the stores are made (in memory, such as `/dev/shm`, the disk plays no part), and
//! with `BENCH_MILLION` there is one of 1,000,000 paths as well.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tempfile::TempDir;
use verifier::{KeyName, NarHash, PathInfo, SecretKey, StoreDir, StorePath};

/// How many paths.
const SIZES: [u32; 4] = [25_000, 50_000, 100_000, 200_000];

/// References of each path on an average.
const REFERENCES: u32 = 4;

/// How often each is measured; the best counts.
const ROUNDS: usize = 3;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn key(number: u8) -> Outcome<SecretKey> {
    Ok(SecretKey::from_seed(KeyName::new(&format!("builder-{number}"))?, &[number; 32]))
}

/// The path of a number.
fn path(number: u32) -> Outcome<StorePath> {
    let mut digest = [0; 20];
    digest[..4].copy_from_slice(&number.reverse_bits().to_be_bytes());
    Ok(StorePath::from_parts(digest, &format!("package-{number}-1.0"))?)
}

/// What a path refers to: some of the fifty before it, and some far below.
fn references(number: u32) -> Vec<u32> {
    let mut state = number.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % bound.max(1)
    };
    let mut chosen: Vec<u32> = (0..REFERENCES)
        .filter(|_| number > 0)
        .map(|turn| if turn % 2 == 0 { number - 1 - next(number.min(50)) } else { next(number) })
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Makes the database of a store, as far as an audit reads it. Of every thousand paths one lacks a signature, in the upper half.
fn store(place: &Path, size: u32) -> Outcome<u64> {
    let folder = place.join("nix/var/nix/db");
    fs::create_dir_all(&folder)?;
    let mut database = Connection::open(folder.join("db.sqlite"))?;
    database.execute_batch(
        "create table ValidPaths (id integer primary key, path text unique not null, hash text not null,
             registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
         create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference));",
    )?;
    let keys = [key(1)?, key(2)?];
    let store_dir = StoreDir::default();
    let transaction = database.transaction()?;
    let mut count = 0;
    {
        let mut put = transaction.prepare(
            "insert into ValidPaths (id, path, hash, registrationTime, narSize, sigs) values (?1, ?2, ?3, 1, ?4, ?5)",
        )?;
        let mut refer = transaction.prepare("insert into Refs values (?1, ?2)")?;
        for number in 0..size {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_be_bytes());
            let references = references(number);
            let info = PathInfo {
                path: path(number)?,
                deriver: None,
                nar_hash: NarHash::from_sha256(hash),
                nar_size: 1_000 + u64::from(number),
                references: references.iter().map(|below| path(*below)).collect::<Outcome<_>>()?,
                registration_time: 1,
                ultimate: false,
                signatures: Default::default(),
                content_address: None,
            };
            let fingerprint = info.fingerprint(&store_dir)?;
            let short = number > size / 2 && number % 1_000 == 7;
            let signatures: Vec<String> =
                keys.iter().take(if short { 1 } else { 2 }).map(|key| key.sign(&fingerprint).to_string()).collect();
            let rendered = store_dir.render_path(&info.path);
            let nar_hash = format!("sha256:{}", info.nar_hash.to_base16());
            let size = i64::try_from(info.nar_size)?;
            put.execute(params![number, rendered, nar_hash, size, signatures.join(" ")])?;
            for below in &references {
                refer.execute(params![number, below])?;
            }
            count += references.len() as u64;
        }
    }
    transaction.commit()?;
    Ok(count)
}

/// Runs the command; returns how long it took, and its peak memory in MiB.
fn audit(place: &Path, policy: &Path) -> Outcome<(Duration, u64)> {
    let begun = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_nix-quorum"))
        .args(["verify", "--all", "--no-contents", "--store"])
        .arg(place)
        .arg("--policy")
        .arg(policy)
        .env("NIX_QUORUM_CONFIG", "/dev/null")
        .stdout(Stdio::null())
        .spawn()?;
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = process.try_wait()? {
            break ended;
        }
        let said = fs::read_to_string(&status).unwrap_or_default();
        let kilobytes = said.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = kilobytes.and_then(|text| text.parse().ok()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(5));
    };
    // Some paths lack a signature, which is what makes it work.
    if ended.code() != Some(2) {
        return Err(format!("the audit ended with {ended}").into());
    }
    Ok((begun.elapsed(), peak / 1024))
}

fn main() -> Outcome<()> {
    let folder = match std::env::var_os("BENCH_DIR") {
        Some(place) => {
            fs::create_dir_all(&place)?;
            TempDir::new_in(place)?
        }
        None => TempDir::new()?,
    };
    let policy = folder.path().join("policy.toml");
    let mut text = "version = 1\n".to_owned();
    for number in 1..=3 {
        text += &format!("[signers.b{number}]\nkeys = [\"{}\"]\n", key(number)?.public());
    }
    text += "[groups]\nall = [\"b1\", \"b2\", \"b3\"]\n[default]\nrequire = { at-least = 2, of = \"all\" }\n";
    fs::write(&policy, text)?;
    let mut out = std::io::stdout().lock();
    let million = std::env::var_os("BENCH_MILLION").map(|_| 1_000_000);
    for size in SIZES.into_iter().chain(million) {
        let place = folder.path().join(size.to_string());
        let references = store(&place, size)?;
        let rounds = if size > 200_000 { 1 } else { ROUNDS };
        let runs = (0..rounds).map(|_| audit(&place, &policy)).collect::<Outcome<Vec<_>>>()?;
        let (best, peak) = runs.into_iter().min().ok_or("there is a round")?;
        let each = best.as_secs_f64() * 1e6 / f64::from(size);
        let seconds = best.as_secs_f64();
        writeln!(out, "{size} paths, {references} references: {seconds:.2} s, {each:.1} µs a path, {peak} MiB")?;
        fs::remove_dir_all(&place)?;
    }
    Ok(())
}
