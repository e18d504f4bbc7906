//! Content that is added without a path: the path is made from the bytes (`AddToStore`, `AddTextToStore`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use policy::{Address, Subject, Verdict};
use tokio::task::spawn_blocking;
use verifier::{
    AddressRequest, CAHash, ContentAddress, ContentAddressMethod, Evidence, HashAlgorithm, NarHash, NixHash, NixHasher,
    PathInfo, StorePath,
};

use super::intake::{Blocks, Demand, Intake, IntakeError, Keep, MAX_REFERENCES};
use super::{Batch, Gate, GateError, Sight, Uploader};
use crate::clock::now;
use crate::object::ObjectError;
use crate::wire::{ByteSource, Reader};

/// Bytes of a file that are gathered before the rest is spooled to disk.
const GATHERED: usize = 512 << 10;

/// Bytes read from a spooled file at a time.
const BLOCK: usize = 128 << 10;

/// What is to be added, as `AddToStore` says it.
#[derive(Debug, Clone)]
pub struct ContentAddition {
    /// The new path's name.
    pub name: String,
    /// How its content is addressed.
    pub method: ContentAddressMethod,
    /// With which hash.
    pub algorithm: HashAlgorithm,
    /// What it refers to.
    pub references: BTreeSet<StorePath>,
}

impl Gate {
    /// Adds content, whose bytes come as a NAR (methods NAR and Git) or as they are (flat and text), and returns the path
    /// that they make. If that is admitted already, nothing is changed; otherwise its address has to stand for it, since
    /// nobody can have signed it here. Where no address can, nothing of the bytes is kept.
    ///
    /// # Errors
    /// [`GateError::Refused`] when the policy wants signatures, or another reason why it cannot be taken.
    pub async fn add_content<S: ByteSource>(
        self: &Arc<Self>,
        addition: ContentAddition,
        bytes: &mut Reader<S>,
        uploader: &Uploader,
    ) -> Result<PathInfo, GateError> {
        if addition.references.len() > MAX_REFERENCES {
            return Err(addition.unacceptable(format!("it has more than {MAX_REFERENCES} references")));
        }
        let keep = if self.address_could_stand(&addition)? {
            Keep::Bytes { level: self.cache.compression_level() }
        } else {
            Keep::Nothing
        };
        let request = AddressRequest { method: addition.method, algorithm: addition.algorithm, own_hash_part: None };
        let objects = self.cache.objects();
        let intake = match addition.method {
            ContentAddressMethod::Nar | ContentAddressMethod::Git => {
                let mut intake = Intake::start(objects, None, None, Some(request), keep, &Blocks::new());
                while let Some(chunk) = addition.next_chunk(bytes).await? {
                    if intake.feed(chunk).await? == Demand::NoMore {
                        break;
                    }
                }
                intake
            }
            ContentAddressMethod::Flat | ContentAddressMethod::Text if keep == Keep::Nothing => {
                return self.look_up(addition, bytes, uploader).await;
            }
            ContentAddressMethod::Flat | ContentAddressMethod::Text => {
                let mut spool = Spool::default();
                while let Some(chunk) = addition.next_chunk(bytes).await? {
                    spool.push(chunk).await?;
                }
                let [before, after] = framing(spool.size);
                let nar_size = (before.len() + after.len()) as u64 + spool.size;
                let mut intake = Intake::start(objects, None, Some(nar_size), Some(request), keep, &Blocks::new());
                intake.feed(before).await?;
                spool.rewind().await?;
                while let Some(chunk) = spool.pop().await? {
                    intake.feed(chunk).await?;
                }
                intake.feed(after).await?;
                intake
            }
        };
        let work = intake.finish().await?.await.map_err(ObjectError::from)?;
        let hashed = work.map_err(|error| match error {
            IntakeError::Nar(source) => GateError::Nar { path: addition.name.clone(), source },
            IntakeError::Object(error) => error.into(),
        })?;
        let Some(hash) = hashed.digest.address.clone() else {
            return Err(addition.unacceptable("these bytes have no such content address".into()));
        };
        let info = self.info_of(&addition, hash, hashed.digest.nar_hash, hashed.digest.nar_size)?;
        if let Some(known) = self.view().path_info(&info.path).await? {
            return Ok(known);
        }
        let path = info.path.clone();
        let mut batch = Batch::new(self.clone(), Sight::Admitted, uploader.clone());
        batch.accept_hashed(info, hashed).await?;
        batch.finish().await?;
        let admitted = self.view().path_info(&path).await?;
        admitted.ok_or_else(|| GateError::not_valid(self.cache.store_dir(), &path))
    }

    /// Finds the path of a file that no address can stand for here: it is there already, or it is refused. Its hash alone says
    /// which, so its bytes are not spooled, however many they are.
    async fn look_up<S: ByteSource>(
        self: &Arc<Self>,
        addition: ContentAddition,
        bytes: &mut Reader<S>,
        uploader: &Uploader,
    ) -> Result<PathInfo, GateError> {
        let mut hasher = NixHasher::new(addition.algorithm);
        while let Some(chunk) = addition.next_chunk(bytes).await? {
            hasher.update(&chunk);
        }
        let hash = CAHash::from_parts(addition.method, addition.algorithm, hasher.finalize().digest_as_bytes())
            .map_err(|error| addition.unacceptable(error.to_string()))?;
        let info = self.info_of(&addition, hash, NarHash::from_sha256([0; 32]), 1)?;
        let path = info.path.clone();
        if let Some(known) = self.view().path_info(&path).await? {
            return Ok(known);
        }
        // Refused, with what is lacking; should the policy have changed just now, it can be added once more.
        let _refused = Batch::new(self.clone(), Sight::Admitted, uploader.clone()).offer(info).await?;
        Err(GateError::Contended(self.cache.store_dir().render_path(&path)))
    }

    /// Says whether a path of this name could be admitted by its address alone, whatever its bytes.
    fn address_could_stand(&self, addition: &ContentAddition) -> Result<bool, GateError> {
        let zeros = vec![0; HASH_LENGTHS.iter().find(|(name, _)| *name == addition.algorithm).map_or(32, |l| l.1)];
        let hash = NixHash::from_algorithm_and_digest(addition.algorithm, &zeros)
            .and_then(|hash| CAHash::from_parts(addition.method, hash.algorithm(), hash.digest_as_bytes()))
            .map_err(|error| addition.unacceptable(error.to_string()))?;
        let info = self.info_of(addition, hash, NarHash::from_sha256([0; 32]), 1)?;
        let address = Address::claimed(&info);
        let fingerprint =
            info.fingerprint(self.cache.store_dir()).map_err(|error| addition.unacceptable(error.to_string()))?;
        let policy = self.policy();
        let evidence = Evidence::weigh(fingerprint, [], policy.keyring(), now());
        let subject = Subject { path: &info.path, evidence: &evidence, address, absent_references: &[] };
        Ok(policy.decide(&subject, now()).verdict() == Verdict::Admit)
    }

    fn info_of(
        &self,
        addition: &ContentAddition,
        hash: CAHash,
        nar_hash: NarHash,
        nar_size: u64,
    ) -> Result<PathInfo, GateError> {
        let address = ContentAddress::new(hash);
        let path = address
            .make_path(self.cache.store_dir(), &addition.name, &addition.references, false)
            .map_err(|error| addition.unacceptable(error.to_string()))?;
        Ok(PathInfo {
            path,
            deriver: None,
            nar_hash,
            nar_size,
            references: addition.references.clone(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: Some(address),
        })
    }
}

/// Lengths of hashes, in bytes.
const HASH_LENGTHS: [(HashAlgorithm, usize); 5] = [
    (HashAlgorithm::Md5, 16),
    (HashAlgorithm::Sha1, 20),
    (HashAlgorithm::Sha256, 32),
    (HashAlgorithm::Sha512, 64),
    (HashAlgorithm::Blake3, 32),
];

impl ContentAddition {
    fn unacceptable(&self, why: String) -> GateError {
        GateError::Unacceptable { path: self.name.clone(), why }
    }

    async fn next_chunk<S: ByteSource>(&self, bytes: &mut Reader<S>) -> Result<Option<Bytes>, GateError> {
        let chunk = bytes.take(u64::MAX).await.map_err(|error| self.unacceptable(error.to_string()))?;
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

/// What stands before and after the content in the NAR of one plain file.
fn framing(size: u64) -> [Bytes; 2] {
    let mut before = Vec::new();
    for token in ["nix-archive-1", "(", "type", "regular", "contents"] {
        put_token(&mut before, token);
    }
    before.extend_from_slice(&size.to_le_bytes());
    let padding = vec![0; (size.next_multiple_of(8) - size) as usize];
    // Tokens are padded by their own length, whatever stands before them.
    let mut end = Vec::new();
    put_token(&mut end, ")");
    [before.into(), [padding, end].concat().into()]
}

fn put_token(nar: &mut Vec<u8>, token: &str) {
    nar.extend_from_slice(&(token.len() as u64).to_le_bytes());
    nar.extend_from_slice(token.as_bytes());
    nar.resize(nar.len().next_multiple_of(8), 0);
}

/// Bytes that wait until their number is known: in memory, and from half a megabyte on in an unnamed file.
#[derive(Default)]
struct Spool {
    /// Copied together, as a chunk of one byte would hold on to the block that it was read into.
    gathered: Vec<u8>,
    file: Option<File>,
    size: u64,
}

impl Spool {
    async fn push(&mut self, chunk: Bytes) -> Result<(), ObjectError> {
        self.size += chunk.len() as u64;
        if self.file.is_none() && self.gathered.len() + chunk.len() <= GATHERED {
            self.gathered.extend_from_slice(&chunk);
            return Ok(());
        }
        let file = self.file.take();
        let written = blocking(move || {
            let mut file = file.map_or_else(tempfile::tempfile, Ok)?;
            file.write_all(&chunk)?;
            Ok(file)
        });
        self.file = Some(written.await?);
        Ok(())
    }

    async fn rewind(&mut self) -> Result<(), ObjectError> {
        if let Some(mut file) = self.file.take() {
            let rewound = blocking(move || {
                file.seek(SeekFrom::Start(0))?;
                Ok(file)
            });
            self.file = Some(rewound.await?);
        }
        Ok(())
    }

    /// Returns the next bytes; none after the last.
    async fn pop(&mut self) -> Result<Option<Bytes>, ObjectError> {
        if !self.gathered.is_empty() {
            return Ok(Some(std::mem::take(&mut self.gathered).into()));
        }
        let Some(mut file) = self.file.take() else {
            return Ok(None);
        };
        let (file, block) = blocking(move || {
            let mut block = vec![0; BLOCK];
            let count = file.read(&mut block)?;
            block.truncate(count);
            Ok((file, block))
        })
        .await?;
        self.file = Some(file);
        Ok((!block.is_empty()).then(|| block.into()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, ObjectError> {
    spawn_blocking(work).await?.map_err(|source| ObjectError::Io { action: "spool", place: "content".into(), source })
}

#[cfg(test)]
mod tests {
    use super::framing;

    #[test]
    fn a_file_of_any_length_is_framed_as_a_nar() {
        for size in 0..=17_u64 {
            let content = vec![b'x'; size as usize];
            let [before, after] = framing(size);
            let nar = [&before[..], &content, &after[..]].concat();
            let mut files = Vec::new();
            nix_archive::nar::decode_events(&nar, |event| {
                if let nix_archive::nar::Event::Regular { contents, .. } = event {
                    files.push(contents.to_vec());
                }
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{size} bytes: {error}"));
            assert_eq!(files, [content]);
        }
    }
}
