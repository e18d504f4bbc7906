//! The evidence object: all that a store knows about one fingerprint. It is the only authority on signatures and state.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use verifier::{
    AddressProof, Claim, ContentAddress, Fingerprint, NarHash, PathInfo, Signature, StoreDir, StorePath, Timestamp,
};

use crate::nonce::nonce;

/// The one format there is.
const FORMAT: u32 = 1;

/// Why an evidence object cannot be understood. The store, or whoever wrote into it, caused it.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It is not the JSON that it should be.
    #[error("evidence object is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It is of a format that this program does not know.
    #[error("evidence object has format {0}, this program knows {FORMAT}: a newer nix-quorum wrote it")]
    Format(u32),
    /// One of its texts is not what it should be.
    #[error("evidence object is damaged: {0}")]
    Damaged(String),
}

/// Says in a few words which fingerprint a path info has.
pub(crate) fn describe_info(info: &PathInfo) -> String {
    let references = info.other_references().count();
    format!("NAR {} of {} bytes with {references} references", info.nar_hash, info.nar_size)
}

/// A signature with its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SignatureRecord {
    /// `key-name:base64`, in the one canonical spelling.
    pub signature: String,
    /// When this store first saw it.
    pub first_seen: Timestamp,
    /// Who brought it, as this store knew them.
    pub brought_by: String,
}

/// The object that holds the NAR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileFacts {
    /// SHA-256 of the compressed bytes, `sha256:` and Nix's base 32; none where another gate's object is used, whose
    /// compressed bytes this one never saw.
    pub file_hash: Option<String>,
    /// Their number.
    pub file_size: u64,
}

impl FileFacts {
    /// Describes an object that somebody else compressed.
    pub(crate) fn of_size(file_size: u64) -> Self {
        Self { file_hash: None, file_size }
    }
}

/// The record of having hashed a NAR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NarRecord {
    /// When a gate hashed its bytes and found what the fingerprint says.
    pub verified: Timestamp,
    /// What those bytes say of the content address.
    pub address: AddressProof,
    /// The object it was stored as.
    pub file: FileFacts,
}

/// Where a fingerprint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum State {
    /// It was admitted at this moment. It is valid once its narinfo says so too.
    Admitted {
        /// When.
        since: Timestamp,
    },
    /// It is held until its requirement is met.
    Candidate {
        /// Since when.
        since: Timestamp,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    format: u32,
    nonce: String,
    store_path: String,
    nar_hash: String,
    nar_size: u64,
    references: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deriver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_address: Option<String>,
    state: State,
    nar: NarRecord,
    signatures: Vec<SignatureRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    countersignatures: Vec<String>,
}

/// All that a store knows about one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The path info; its signatures are those of this record, and the gate's own.
    info: PathInfo,
    /// Where it stands.
    pub state: State,
    /// The hashed NAR.
    pub nar: NarRecord,
    signatures: Vec<SignatureRecord>,
    countersignatures: BTreeSet<String>,
}

impl Record {
    /// Makes the record of a path whose NAR was hashed, with no signatures yet.
    #[must_use]
    pub fn new(mut info: PathInfo, state: State, nar: NarRecord) -> Self {
        info.signatures.clear();
        info.ultimate = false;
        let (State::Admitted { since } | State::Candidate { since }) = state;
        info.registration_time = u64::try_from(since.as_unix()).unwrap_or(0);
        Self { info, state, nar, signatures: Vec::new(), countersignatures: BTreeSet::new() }
    }

    /// Takes over what another reading of the same bytes has shown. The content address is no part of the fingerprint, so one
    /// uploader may state it and another not: what was proven of these bytes stays proven.
    pub fn read_again(&mut self, info: &PathInfo, nar: NarRecord) {
        let before = std::mem::replace(&mut self.nar, nar);
        if self.nar.address == AddressProof::None {
            self.nar.address = before.address;
        } else {
            self.info.content_address.clone_from(&info.content_address);
        }
    }

    /// Returns the path info, as a client is told it.
    #[must_use]
    pub fn info(&self) -> &PathInfo {
        &self.info
    }

    /// Returns the path info with the signatures that were brought, and without the gate's own: for what is not admitted, nobody
    /// gets that.
    #[must_use]
    pub fn stated(&self) -> PathInfo {
        let signatures = self.signatures.iter().map(|kept| kept.signature.clone()).collect();
        PathInfo { signatures, ..self.info.clone() }
    }

    /// Returns the fingerprint that it is all about.
    #[must_use]
    pub fn fingerprint(&self, store_dir: &StoreDir) -> Fingerprint {
        self.info.fingerprint(store_dir).expect("a record's NAR was hashed, so its size is not 0")
    }

    /// Lists the signatures with their history.
    #[must_use]
    pub fn signatures(&self) -> &[SignatureRecord] {
        &self.signatures
    }

    /// Returns the signatures as they are weighed.
    pub fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        self.signatures.iter().map(|kept| Claim { text: &kept.signature, first_seen: Some(kept.first_seen) })
    }

    /// Adds a signature that is not there yet; says whether it was new.
    pub fn add_signature(&mut self, signature: &Signature, first_seen: Timestamp, brought_by: &str) -> bool {
        let text = signature.to_string();
        let new = !self.signatures.iter().any(|kept| kept.signature == text);
        if new {
            self.info.signatures.insert(text.clone());
            self.signatures.push(SignatureRecord { signature: text, first_seen, brought_by: brought_by.to_owned() });
        }
        new
    }

    /// Adds the gate's own signature; says whether it was new.
    pub fn countersign(&mut self, signature: &Signature) -> bool {
        let text = signature.to_string();
        self.info.signatures.insert(text.clone());
        self.countersignatures.insert(text)
    }

    /// Reads an evidence object.
    ///
    /// # Errors
    /// When it is none, or from the future, or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.format != FORMAT {
            return Err(RecordError::Format(document.format));
        }
        let path = |text: &str| {
            StorePath::from_basename(text.as_bytes()).map_err(|error| RecordError::Damaged(error.to_string()))
        };
        let address = ContentAddress::parse_optional(document.content_address.as_deref().unwrap_or(""))
            .map_err(|error| RecordError::Damaged(error.to_string()))?;
        if document.nar_size == 0 {
            return Err(RecordError::Damaged("NAR size 0".into()));
        }
        let info = PathInfo {
            path: path(&document.store_path)?,
            deriver: document.deriver.as_deref().map(path).transpose()?,
            nar_hash: NarHash::parse(&document.nar_hash).map_err(|error| RecordError::Damaged(error.to_string()))?,
            nar_size: document.nar_size,
            references: document.references.iter().map(|text| path(text)).collect::<Result<_, _>>()?,
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: address,
        };
        let texts = document.signatures.iter().map(|kept| &kept.signature).chain(&document.countersignatures);
        for text in texts {
            text.parse::<Signature>().map_err(|error| RecordError::Damaged(format!("{text:?}: {error}")))?;
        }
        if let Some(hash) = &document.nar.file.file_hash {
            NarHash::parse(hash).map_err(|error| RecordError::Damaged(error.to_string()))?;
        }
        let mut record = Self::new(info, document.state, document.nar);
        record.countersignatures = document.countersignatures.into_iter().collect();
        record.signatures = document.signatures;
        let kept = record.signatures.iter().map(|kept| &kept.signature);
        record.info.signatures = kept.chain(&record.countersignatures).cloned().collect();
        Ok(record)
    }

    /// Writes the evidence object, with a nonce of its own, so that a writer can tell its write from an equal one.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let document = Document {
            format: FORMAT,
            nonce: nonce(),
            store_path: self.info.path.to_basename(),
            nar_hash: self.info.nar_hash.to_string(),
            nar_size: self.info.nar_size,
            references: self.info.references.iter().map(StorePath::to_basename).collect(),
            deriver: self.info.deriver.as_ref().map(StorePath::to_basename),
            content_address: self.info.content_address.as_ref().map(ToString::to_string),
            state: self.state,
            nar: self.nar.clone(),
            signatures: self.signatures.clone(),
            countersignatures: self.countersignatures.iter().cloned().collect(),
        };
        let mut bytes = serde_json::to_vec_pretty(&document).expect("texts and numbers can always be written");
        bytes.push(b'\n');
        bytes
    }
}
