//! What a store's objects hold: narinfos, evidence, realisations and NARs. Whatever they hold, it is understood or refused;
//! what is understood can be written, and is read as the same.
//!
//! Input: `0` and a narinfo, `1` and an evidence object, `2` and a realisation, `3` and a NAR, `4` and a NAR compressed with
//! zstd, or `5` with xz.
#![no_main]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gauge::{quickly, run, within};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use store_backend::object::Directory;
use store_backend::store::{
    BinaryCache, FileFacts, Nar, NarRecord, Narinfo, Record, State, Statement, Store as _, StoreError, hash_part_of,
};
use tempfile::TempDir;
use verifier::{
    AddressProof, AddressRequest, ContentAddress, ContentAddressMethod, HashAlgorithm, NarDigest, NarError, NarHash,
    OutputId, PathInfo, Realisation, Signature, StoreDir, StorePath, Timestamp, digest_nar, nixbase32,
};

/// A hash part that seeds contain, for NARs that name their own path and for texts that name none.
const OWN: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// Every hash that Nix has.
const ALGORITHMS: [HashAlgorithm; 5] =
    [HashAlgorithm::Blake3, HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512];

/// Most bytes of memory for one reading of a NAR: blocks, the listing, and the positions of self-references, each of some
/// megabytes at the most, and of the latter twice while a list grows.
const NAR_MEMORY: usize = 64 << 20;

/// Longest time for one input of some kilobytes, of a processor all to itself, with every check of the fuzzer in place.
const TIME: Duration = Duration::from_secs(5);

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    quickly(TIME, "one object", || match kind.wrapping_sub(b'0') % 6 {
        0 => narinfo(bytes),
        1 => evidence(bytes),
        2 => realisation(&String::from_utf8_lossy(bytes)),
        3 => nar(bytes),
        4 => compressed("zstd", bytes),
        _ => compressed("xz", bytes),
    });
});

/// A binary cache in a directory that goes with the process.
static CACHE: LazyLock<(TempDir, BinaryCache)> = LazyLock::new(|| {
    let root = tempfile::tempdir().expect("a temporary directory");
    let directory = Directory::open(root.path()).expect("a directory for objects");
    let opened = run(BinaryCache::open(Arc::new(directory), &StoreDir::default()));
    (root, opened.expect("an empty cache"))
});

/// Reads bytes as the narinfo of a hash part, by way of a file, as the store does.
fn read_narinfo(hash_part: &str, bytes: &[u8]) -> Result<Narinfo, StoreError> {
    let (root, cache) = &*CACHE;
    let file: PathBuf = root.path().join(format!("{hash_part}.narinfo"));
    std::fs::write(&file, bytes).expect("room for a narinfo");
    run(cache.narinfo(hash_part)).map(|found| found.expect("it was written"))
}

/// Returns what a cache says of a path that was read before.
fn statement(cache: &BinaryCache, path: &StorePath) -> Statement {
    let (_, answer) = run(cache.statements(vec![path.clone()])).pop().expect("an answer for each path");
    answer.expect("it was read before").expect("it is there")
}

fn narinfo(bytes: &[u8]) {
    let hash_part = hash_part_in(bytes).unwrap_or(OWN.to_owned());
    let Ok(Narinfo { info, .. }) = read_narinfo(&hash_part, bytes) else { return };
    assert_eq!(hash_part_of(&info.path), hash_part, "a narinfo stands for its own hash part");
    let Ok(fingerprint) = info.fingerprint(&StoreDir::default()) else {
        assert_eq!(info.nar_size, 0, "every path info of a NAR can be signed");
        return;
    };
    assert!(fingerprint.as_str().starts_with("1;/nix/store/"));
    let stated = statement(&CACHE.1, &info.path);
    assert_eq!(stated.info, info, "a store states what its narinfo says");
    // Its URL may be anything.
    let _there_or_not = run(CACHE.1.open_nar(&stated)).map(|found| assert!(found.is_none(), "no NAR was written"));
    if let Some(address) = &info.content_address {
        let _either_way = address.check_path(&StoreDir::default(), &info);
    }
    let file = FileFacts { file_hash: Some(NarHash::from_sha256([7; 32]).to_string()), file_size: 96 };
    let now = Timestamp::from_unix(1_798_761_600);
    let facts = NarRecord { verified: now, address: AddressProof::None, file };
    let mut record = Record::new(info.clone(), State::Admitted { since: now }, facts);
    for text in &info.signatures {
        if let Ok(signature) = text.parse::<Signature>() {
            record.add_signature(&signature, now, "uid 0");
        }
    }
    kept(&record);
}

/// The hash part that a narinfo says it is about, if it can be a file's name.
fn hash_part_in(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let (_, after) = text.split_once("StorePath: /nix/store/")?;
    let part = after.get(..32)?;
    part.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| part.to_owned())
}

fn evidence(bytes: &[u8]) {
    if let Ok(record) = Record::parse(bytes) {
        kept(&record);
    }
}

/// Checks that a record is read as it is written, and that the narinfo made of it says the same.
fn kept(record: &Record) {
    let again = Record::parse(&record.to_bytes()).expect("what a store wrote");
    assert_eq!(&again, record, "a record is read as it was written");
    let _covered = record.fingerprint(&StoreDir::default());
    let Ok(projected) = CACHE.1.project(record) else { return };
    let hash_part = hash_part_of(&record.info().path);
    let found = read_narinfo(&hash_part, &projected).expect("a narinfo that the store wrote").info;
    let said = PathInfo { registration_time: 0, ultimate: false, ..record.info().clone() };
    assert_eq!(found, said, "a narinfo says what its record says");
}

fn realisation(text: &str) {
    if let Ok(first) = Realisation::parse(text) {
        let _covered = first.fingerprint();
        let second = Realisation::parse(&first.to_json().to_string()).expect("what was written");
        assert_eq!(second.fingerprint(), first.fingerprint(), "what is signed stays the same");
        match &first.id {
            OutputId::Hash { .. } => assert_eq!(second, first),
            // The newer form holds signatures as objects, and so only those that are signatures.
            OutputId::Path { .. } => {
                let third = Realisation::parse(&second.to_json().to_string()).expect("what was written");
                assert_eq!((&third, &second.id, &second.out_path), (&second, &first.id, &first.out_path));
            }
        }
    }
    let drv_path = StorePath::from_parts([3; 20], "x.drv").expect("a store path");
    let id = OutputId::of_path(drv_path, "out").expect("an output");
    if let Ok(unkeyed) = Realisation::parse_unkeyed(id.clone(), text) {
        let again = Realisation::parse_unkeyed(id, &unkeyed.to_unkeyed_json().to_string()).expect("what was written");
        assert_eq!(again.out_path, unkeyed.out_path);
    }
}

fn nar(bytes: &[u8]) {
    let plain = within(NAR_MEMORY, || digest_nar(bytes, None));
    if let Ok(digest) = &plain {
        assert_eq!(digest.nar_size, bytes.len() as u64, "all of it was read");
        assert_eq!(*digest.nar_hash.as_bytes(), <[u8; 32]>::from(Sha256::digest(bytes)));
        assert_eq!(digest.address, None);
        if let Some(listing) = &digest.listing {
            serde_json::from_slice::<serde_json::Value>(listing).expect("a listing is JSON");
        }
        assert_eq!(digest_nar(OneByOne(bytes), None).ok().as_ref(), Some(digest), "it does not matter how bytes come");
    }
    for method in
        [ContentAddressMethod::Flat, ContentAddressMethod::Nar, ContentAddressMethod::Text, ContentAddressMethod::Git]
    {
        for algorithm in ALGORITHMS {
            for own_hash_part in [None, Some(OWN.to_owned())] {
                let request = AddressRequest { method, algorithm, own_hash_part };
                let digest = within(NAR_MEMORY, || digest_nar(bytes, Some(&request)));
                let Ok(digest) = digest else { continue };
                let plain = plain.as_ref().expect("what has an address is a NAR");
                assert_eq!((digest.nar_hash, digest.nar_size), (plain.nar_hash, plain.nar_size));
                let address = digest.address.clone().expect("the address that was asked for");
                assert_eq!((address.method(), address.hash().algorithm()), (method, algorithm));
                assert_eq!(digest_nar(OneByOne(bytes), Some(&request)).expect("the same bytes"), digest);
                if request.own_hash_part.is_none() {
                    makes_its_path(ContentAddress::new(address), bytes, &digest);
                }
            }
        }
    }
}

/// Checks that an address makes a path whose path info passes the check, and that these bytes prove it.
fn makes_its_path(address: ContentAddress, bytes: &[u8], digest: &NarDigest) {
    let dir = StoreDir::default();
    let Ok(path) = address.make_path(&dir, "name", &BTreeSet::new(), false) else { return };
    let info = PathInfo {
        path,
        deriver: None,
        nar_hash: digest.nar_hash,
        nar_size: digest.nar_size,
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: Some(address.clone()),
    };
    address.check_path(&dir, &info).expect("the path that it makes");
    let read = digest_nar(bytes, AddressRequest::of_path(&info).as_ref()).expect("the same bytes");
    assert_eq!(read.prove_address(&dir, &info).expect("their own address"), AddressProof::Proven);
    let other = StorePath::from_parts([0; 20], "name").expect("a store path");
    let lie = PathInfo { path: other, ..info };
    address.check_path(&dir, &lie).expect_err("another path");
    read.prove_address(&dir, &lie).expect_err("another path");
}

/// Reads what somebody else compressed, by way of a file and a narinfo, as far as is stated.
fn compressed(compression: &str, bytes: &[u8]) {
    const STATED: u64 = 1 << 20;
    let (root, cache) = &*CACHE;
    let nix32 = nixbase32::encode(&[1; 32]);
    let text = format!(
        "StorePath: /nix/store/{OWN}-name\nURL: nar/compressed\nCompression: {compression}\n\
         NarHash: sha256:{nix32}\nNarSize: {STATED}\nReferences: \n"
    );
    std::fs::create_dir_all(root.path().join("nar")).expect("a directory for NARs");
    std::fs::write(root.path().join("nar/compressed"), bytes).expect("room for a NAR");
    let path = read_narinfo(OWN, text.as_bytes()).expect("a narinfo").info.path;
    let stated = statement(cache, &path);
    let nar = run(cache.open_nar(&stated)).expect("a known compression").expect("it was written");
    let Nar::AtHand(reader) = nar else { panic!("a cache has no files") };
    within(NAR_MEMORY, || {
        let mut reader = reader.take(STATED + 1);
        match digest_nar(&mut reader, None) {
            Ok(digest) => assert!(digest.nar_size <= STATED + 1),
            Err(NarError::Read { source, .. }) => {
                let damaged = [ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&source.kind());
                let limited = source.to_string().to_lowercase().contains("memory");
                assert!(damaged || limited, "what is wrong with a file that can be read is damage: {source:?}");
            }
            Err(_) => {}
        }
    });
}

/// Hands out a byte at a time.
struct OneByOne<'a>(&'a [u8]);

impl Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}
