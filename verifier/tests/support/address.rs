//! Content addresses as the tests ask for them.

use verifier::{AddressRequest, CAHash, ContentAddressMethod, HashAlgorithm, NarError, NixHash, NixHasher, digest_nar};

use super::fixture::Cached;

pub const ALGORITHMS: [HashAlgorithm; 5] =
    [HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512, HashAlgorithm::Blake3];

pub fn request(method: ContentAddressMethod, algorithm: HashAlgorithm, own_hash_part: Option<&str>) -> AddressRequest {
    AddressRequest { method, algorithm, own_hash_part: own_hash_part.map(Into::into) }
}

/// The address of bytes, by one method.
pub fn address(nar: &[u8], request: &AddressRequest) -> Result<CAHash, NarError> {
    digest_nar(nar, Some(request)).map(|digest| digest.address.expect("one was asked for"))
}

/// The address of bytes by the method, algorithm and hash part of the path that claims one.
pub fn recomputed(claimed: &Cached, nar: &[u8]) -> Result<CAHash, NarError> {
    let known = claimed.info.content_address.as_ref().expect("it claims one");
    address(nar, &request(known.method(), known.algorithm(), Some(&claimed.hash_part())))
}

pub fn hash(algorithm: HashAlgorithm, bytes: &[u8]) -> NixHash {
    let mut hasher = NixHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finalize()
}
