//! How long staging takes when 10,000 candidates wait: to admit a chain of them once the signature comes that its root lacks, to
//! list all of them, and to show one. The times are those of the gate itself, without a client, and of the command.
//!
//! `cargo bench --bench staging`; `BENCH_DIR` says where the stores are made (in memory, such as `/dev/shm`, the disk plays no
//! part).

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::Policy;
use store_backend::gate::{Batch, Gate, Offer, Sight, Uploader};
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use tempfile::TempDir;
use verifier::{KeyName, NarHash, PathInfo, SecretKey, StoreDir, StorePath, digest_nar};

/// How many candidates wait in all.
const CANDIDATES: usize = 10_000;

/// Of these, how many are a chain.
const CHAINS: [usize; 4] = [250, 500, 1_000, 2_000];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn key(number: u8) -> Outcome<SecretKey> {
    Ok(SecretKey::from_seed(KeyName::new(&format!("builder-{number}"))?, &[number; 32]))
}

fn policy() -> Outcome<String> {
    let mut text = "version = 1\n".to_owned();
    for number in 1..=3 {
        text += &format!("[signers.b{number}]\nkeys = [\"{}\"]\n", key(number)?.public());
    }
    Ok(text + "[groups]\nall = [\"b1\", \"b2\", \"b3\"]\n[default]\nrequire = { at-least = 2, of = \"all\" }\n")
}

/// A NAR of one file.
fn nar(contents: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    for token in [&b"nix-archive-1"[..], b"(", b"type", b"regular", b"contents", contents, b")"] {
        nar.extend((token.len() as u64).to_le_bytes());
        nar.extend(token);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// The path of a number, of those in the chain referring to the one before it.
fn path(number: usize) -> Outcome<StorePath> {
    let digits = format!("{number:032}");
    Ok(StorePath::from_basename(format!("{digits}-candidate-{number}").as_bytes())?)
}

fn package(number: usize, chain: usize) -> Outcome<(PathInfo, Vec<u8>)> {
    let nar = nar(format!("contents of {number}").as_bytes());
    let nar_hash: NarHash = digest_nar(&nar[..], None)?.nar_hash;
    let info = PathInfo {
        path: path(number)?,
        deriver: None,
        nar_hash,
        nar_size: nar.len() as u64,
        references: if (1..chain).contains(&number) { [path(number - 1)?].into() } else { [].into() },
        registration_time: 0,
        ultimate: false,
        signatures: [].into(),
        content_address: None,
    };
    Ok((info, nar))
}

async fn open(place: &Path) -> Outcome<Arc<Gate>> {
    let cache = BinaryCache::open(Arc::new(Directory::open(place)?), &StoreDir::default()).await?;
    let policy = Policy::parse(&policy()?, "policy.toml")?;
    Ok(Arc::new(Gate::new(cache, policy, None)?))
}

/// Holds all of them: those of the chain with two signatures, but for its root.
async fn fill(gate: &Arc<Gate>, chain: usize) -> Outcome<()> {
    let mut batch = Batch::new(gate.clone(), Sight::Staging, Uploader("a builder".into()));
    for number in 0..CANDIDATES {
        let (mut info, nar) = package(number, chain)?;
        let fingerprint = info.fingerprint(&StoreDir::default())?;
        let signers = if (1..chain).contains(&number) { 1..=2 } else { 1..=1 };
        for signer in signers {
            info.signatures.insert(key(signer)?.sign(&fingerprint).to_string());
        }
        if let Offer::Wanted(mut wanted) = batch.offer(info).await? {
            wanted.feed(nar.into()).await?;
            batch.accept(*wanted).await?;
        }
    }
    batch.finish().await?;
    Ok(())
}

/// Runs the program; returns how long it took.
fn command(place: &Path, arguments: &[&str]) -> Outcome<Duration> {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nix-quorum"));
    command.arg("staging").args(arguments).env("NIX_QUORUM_CONFIG", "/dev/null").stdout(Stdio::null());
    command.arg("--store").arg(format!("file://{}", place.display()));
    command.arg("--policy").arg(place.with_file_name("policy.toml"));
    let status = command.status()?;
    if !status.success() {
        return Err(format!("nix-quorum staging {arguments:?} failed: {status}").into());
    }
    Ok(begun.elapsed())
}

async fn measure(chain: usize, out: &mut impl std::io::Write) -> Outcome<()> {
    let directory = match std::env::var_os("BENCH_DIR") {
        Some(place) => {
            std::fs::create_dir_all(&place)?;
            TempDir::new_in(place)?
        }
        None => TempDir::new()?,
    };
    let place = directory.path().join("store");
    std::fs::write(directory.path().join("policy.toml"), policy()?)?;
    let begun = Instant::now();
    let gate = open(&place).await?;
    fill(&gate, chain).await?;
    let filled = begun.elapsed();
    let begun = Instant::now();
    let count = gate.staged().await?.len();
    let listed = begun.elapsed();
    let list = command(&place, &["list"])?;
    let show = command(&place, &["show", &path(chain)?.to_basename()])?;
    let (root, _) = package(0, chain)?;
    let signature = key(3)?.sign(&root.fingerprint(&StoreDir::default())?).to_string();
    let begun = Instant::now();
    gate.add_signatures(&root.path, &[signature], Sight::Staging, &Uploader("a reviewer".into())).await?;
    let promoted = begun.elapsed();
    let left = gate.staged().await?.len();
    assert_eq!((count, left), (CANDIDATES, CANDIDATES - chain), "all of the chain is admitted, and nothing else");
    let each = promoted.as_secs_f64() * 1e3 / chain as f64;
    writeln!(
        out,
        "{chain:>6}{:>11.2} s{:>11.2} s{:>11.2} s{:>11.2} s{:>11.2} s{each:>9.2} ms",
        filled.as_secs_f64(),
        listed.as_secs_f64(),
        list.as_secs_f64(),
        show.as_secs_f64(),
        promoted.as_secs_f64(),
    )?;
    Ok(())
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{CANDIDATES} candidates, of which so many are a chain")?;
    writeln!(out, " chain        held     listed    the list  command show    admitted    a path")?;
    for chain in CHAINS {
        runtime.block_on(measure(chain, &mut out))?;
    }
    Ok(())
}
