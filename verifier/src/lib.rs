//! What can be said about Nix store paths from bytes and signatures alone.
//!
//! Keys, fingerprints, signatures, the evidence they add up to, and the verification of NARs. This crate is
//! pure: no file system, no network, no clock, no runtime. The time of day is an argument. Whether the evidence is
//! *enough* is not decided here; that is the policy crate's one question.

mod address;
pub mod base16;
mod base64_lenient;
mod comparison;
mod evidence;
mod fingerprint;
mod git;
mod hash_modulo;
mod key;
mod keyring;
mod listing;
mod minisign;
mod nar;
mod nar_end;
mod path_info;
mod realisation;
mod signature;
mod time;
mod verifications;

pub use address::{AddressError, AddressProof, ContentAddress};
pub use comparison::{
    Aspect, Change, Difference, Inventory, NarEntry, compare, first_difference, read_files, text_diff,
};
pub use evidence::{Claim, Evidence, Judged, Verdict};
pub use fingerprint::{Fingerprint, FingerprintDigest, NoFingerprintDigest};
pub use key::{KeyError, KeyName, PublicKey, SecretKey};
pub use keyring::{Keyring, KeyringError, Signer, SignerId, TrustedKey, Window};
pub use minisign::{Administrator, Administrators, AdministratorsError, Endorsement};
pub use nar::{AddressRequest, NarDigest, NarError, digest_nar};
pub use nar_end::NarEnd;
pub use nix_derivation::{
    CAHash, ContentAddressMethod, HashAlgorithm, NixHash, NixHasher, StoreDir, StorePath, nixbase32,
};
pub use path_info::{NarHash, NarHashError, PathInfo, PathInfoError};
pub use realisation::{OutputId, Realisation, RealisationError};
pub use signature::{Signature, SignatureError};
pub use time::Timestamp;
