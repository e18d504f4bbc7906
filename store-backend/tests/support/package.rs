//! Paths to upload: a path info with its NAR, signed by whom a test likes.

use std::collections::BTreeSet;

use nix_archive::nar::Encoder;
use sha2::{Digest as _, Sha256};
use verifier::{
    AddressRequest, CAHash, ContentAddress, ContentAddressMethod, Fingerprint, HashAlgorithm, NarHash, NixHasher,
    PathInfo, SecretKey, StoreDir, StorePath, digest_nar,
};

/// A path with its NAR.
#[derive(Debug, Clone)]
pub struct Package {
    pub info: PathInfo,
    pub nar: Vec<u8>,
}

/// The NAR of one plain file.
pub fn nar_of_file(contents: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new()).expect("memory can be written to");
    encoder.regular(None, false, contents).expect("a file");
    encoder.finish().expect("the file is whole")
}

/// The NAR of a directory of plain files, given in the order of their names.
pub fn nar_of_files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new()).expect("memory can be written to");
    encoder.start_directory(None).expect("a directory");
    for (name, contents) in files {
        encoder.regular(Some(name.as_bytes()), false, contents).expect("a file");
    }
    encoder.end_directory().expect("the directory is open");
    encoder.finish().expect("the directory is whole")
}

/// The path that a name has in these tests, whatever its contents.
pub fn path(name: &str) -> StorePath {
    let digest: [u8; 20] = Sha256::digest(name)[..20].try_into().expect("20 of 32 bytes");
    StorePath::from_parts(digest, name).expect("a store path")
}

pub fn nar_hash(nar: &[u8]) -> NarHash {
    NarHash::from_sha256(Sha256::digest(nar).into())
}

/// A path of one file that holds its own name.
pub fn package(name: &str) -> Package {
    Package::of_nar(name, nar_of_file(name.as_bytes()))
}

impl Package {
    /// The path of a name with these bytes: the same path as that of [`package`], whatever the bytes.
    pub fn of_nar(name: &str, nar: Vec<u8>) -> Self {
        let info = PathInfo {
            path: path(name),
            deriver: None,
            nar_hash: nar_hash(&nar),
            nar_size: nar.len() as u64,
            references: BTreeSet::new(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        };
        Self { info, nar }
    }

    /// A content-addressed path, with a true address.
    pub fn content_addressed(
        name: &str,
        nar: Vec<u8>,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &[&Package],
    ) -> Self {
        let request = AddressRequest { method, algorithm, own_hash_part: None };
        let hash = digest_nar(&nar[..], Some(&request)).expect("a NAR").address.expect("asked for");
        Self::claiming(name, nar, hash, references)
    }

    /// The path that a content address makes, whether or not the bytes have it.
    pub fn claiming(name: &str, nar: Vec<u8>, hash: CAHash, references: &[&Package]) -> Self {
        let references: BTreeSet<StorePath> = references.iter().map(|package| package.info.path.clone()).collect();
        let address = ContentAddress::new(hash);
        let path = address.make_path(&StoreDir::default(), name, &references, false).expect("a path");
        let mut package = Self::of_nar(name, nar);
        package.info = PathInfo { path, references, content_address: Some(address), ..package.info };
        package
    }

    /// A file with a SHA-256 over its NAR for an address: admitted without signatures under `recompute`.
    pub fn addressed_file(name: &str, contents: &[u8]) -> Self {
        Self::content_addressed(name, nar_of_file(contents), ContentAddressMethod::Nar, HashAlgorithm::Sha256, &[])
    }

    pub fn referring_to<'a>(mut self, others: impl IntoIterator<Item = &'a StorePath>) -> Self {
        self.info.references.extend(others.into_iter().cloned());
        self
    }

    pub fn signed_by(mut self, keys: &[&SecretKey]) -> Self {
        for key in keys {
            self.info.signatures.insert(key.sign(&self.fingerprint()).to_string());
        }
        self
    }

    pub fn with_signature(mut self, text: impl Into<String>) -> Self {
        self.info.signatures.insert(text.into());
        self
    }

    pub fn unsigned(mut self) -> Self {
        self.info.signatures.clear();
        self
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.info.fingerprint(&StoreDir::default()).expect("it has a size")
    }

    pub fn path(&self) -> &StorePath {
        &self.info.path
    }

    /// The full path, as the wire has it.
    pub fn full_path(&self) -> String {
        full(&self.info.path)
    }

    pub fn hash_part(&self) -> String {
        self.info.path.to_basename()[..32].to_owned()
    }
}

pub fn full(path: &StorePath) -> String {
    StoreDir::default().render_path(path)
}

pub fn sha256(bytes: &[u8]) -> verifier::NixHash {
    let mut hasher = NixHasher::new(HashAlgorithm::Sha256);
    hasher.update(bytes);
    hasher.finalize()
}

/// Bytes that do not compress, the same ones for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
