//! Hashing bytes modulo a path's own hash part, which is how a content address can cover a path that names itself.

use memchr::memmem::Finder;
use nix_derivation::{HashAlgorithm, NixHash, NixHasher};

/// Most self-references that are counted. Their positions are hashed last, so they must be kept: 8 MiB at this limit.
const MAX_SELF_REFERENCES: usize = 1 << 20;

/// There are more self-references than are counted.
#[derive(Debug)]
pub(crate) struct TooManySelfReferences;

/// Hashes a stream in which each occurrence of a hash part counts as 32 zero bytes, followed by `|` and the decimal
/// offset of each occurrence.
///
/// Unlike Nix 2.17 to 2.34, which leave the offsets out: there an archive whose self-references somebody zeroed hashes
/// to the same content address, so their addresses of paths that name themselves prove nothing.
///
/// Source: Nix before 2.17, and since 2.35 ("hash the positions of self-references again"),
/// `src/libstore/references.cc`, `HashModuloSink`, `RewritingSink`.
pub(crate) struct ModuloHasher {
    hasher: NixHasher,
    /// The same without the offsets; only where a hash part is looked for.
    without_offsets: Option<NixHasher>,
    needle: Option<Finder<'static>>,
    /// The last bytes, in which an occurrence may have begun; they are not hashed yet.
    held: Vec<u8>,
    /// Offset of `held` in the stream.
    offset: u64,
    matches: Vec<u64>,
}

impl ModuloHasher {
    /// Starts a hash; without a hash part it is the plain one.
    pub(crate) fn new(algorithm: HashAlgorithm, hash_part: Option<&str>) -> Self {
        let needle = hash_part.filter(|part| !part.is_empty()).map(|part| Finder::new(part).into_owned());
        Self {
            hasher: NixHasher::new(algorithm),
            without_offsets: needle.as_ref().map(|_| NixHasher::new(algorithm)),
            needle,
            held: Vec::new(),
            offset: 0,
            matches: Vec::new(),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<(), TooManySelfReferences> {
        let Some(needle) = &self.needle else {
            self.hasher.update(bytes);
            return Ok(());
        };
        let length = needle.needle().len();
        self.held.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(found) = needle.find(&self.held[from..]) {
            let at = from + found;
            if self.matches.len() == MAX_SELF_REFERENCES {
                return Err(TooManySelfReferences);
            }
            self.matches.push(self.offset + at as u64);
            from = at + length;
            self.held[at..from].fill(0);
        }
        let ready = self.held.len().saturating_sub(length - 1);
        self.hasher.update(&self.held[..ready]);
        if let Some(without) = &mut self.without_offsets {
            without.update(&self.held[..ready]);
        }
        self.held.drain(..ready);
        self.offset += ready as u64;
        Ok(())
    }

    /// Returns the hash, and the one that Nix 2.17 to 2.34 computes, which leaves the offsets out; none where there are none.
    pub(crate) fn finish(mut self) -> (NixHash, Option<NixHash>) {
        self.hasher.update(&self.held);
        let without = self.without_offsets.filter(|_| !self.matches.is_empty()).map(|mut without| {
            without.update(&self.held);
            without.finalize()
        });
        for position in &self.matches {
            self.hasher.update(format!("|{position}").as_bytes());
        }
        (self.hasher.finalize(), without)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn hash(parts: &[&[u8]]) -> NixHash {
        let mut hasher = ModuloHasher::new(HashAlgorithm::Sha256, Some(PART));
        for part in parts {
            hasher.update(part).expect("few occurrences");
        }
        hasher.finish().0
    }

    #[test]
    fn without_an_occurrence_it_is_the_plain_hash() {
        let plain = nix_derivation::hash_bytes(HashAlgorithm::Sha256, b"nothing of one's own");
        assert_eq!(hash(&[b"nothing of one's own"]), plain);
    }

    #[test]
    fn an_occurrence_is_found_across_every_cut() {
        let text = format!("before {PART} and {PART}{PART} after");
        let whole = hash(&[text.as_bytes()]);
        let mut expected = text.replace(PART, &"\0".repeat(PART.len())).into_bytes();
        expected.extend_from_slice(b"|7|44|76");
        assert_eq!(whole, nix_derivation::hash_bytes(HashAlgorithm::Sha256, &expected));
        for cut in 0..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(hash(&[left, right]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(hash(&bytes), whole);
    }
}
