//! Who vouches for a policy: administrators with minisign keys, told apart by their public keys.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::base64_lenient as base64;
use crate::key::{KeyError, KeyName, PublicKey};
use crate::keyring::SignerId;

/// Why administrators cannot be told apart or read. Whoever started the program caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdministratorsError {
    /// The text is not a minisign public key.
    #[error("expected a minisign public key (RW…), found {text:?}: {why}")]
    Unreadable {
        /// What came.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The Ed25519 key inside is weak or not canonical.
    #[error("minisign public key {text}: {source}")]
    BadKey {
        /// What came.
        text: String,
        /// What is wrong with the key.
        #[source]
        source: KeyError,
    },
    /// One key is given twice, perhaps under two key ids: one administrator would count twice.
    #[error("{first} and {second} hold the same Ed25519 key: one key is one administrator")]
    KeyTwice {
        /// The key that came first.
        first: String,
        /// The key that holds the same 32 bytes.
        second: String,
    },
}

/// An administrator: a minisign public key that is canonical and not weak.
#[derive(Debug, Clone)]
pub struct Administrator {
    text: String,
    bytes: [u8; 32],
    key: minisign_verify::PublicKey,
}

impl FromStr for Administrator {
    type Err = AdministratorsError;

    /// Reads the second line of a minisign `.pub` file: base64 of `Ed`, 8 bytes of key id, 32 bytes of Ed25519 key.
    fn from_str(text: &str) -> Result<Self, AdministratorsError> {
        let text = text.trim();
        let unreadable = |why: String| AdministratorsError::Unreadable { text: text.chars().take(200).collect(), why };
        let key = minisign_verify::PublicKey::from_base64(text).map_err(|error| unreadable(error.to_string()))?;
        let decoded = base64::decode(text).map_err(|error| unreadable(error.to_string()))?;
        let bytes: [u8; 32] = decoded
            .get(10..)
            .and_then(|key| key.try_into().ok())
            .ok_or_else(|| unreadable(format!("it has {} bytes, not 42", decoded.len())))?;
        KeyName::new("minisign")
            .and_then(|name| PublicKey::new(name, &bytes))
            .map_err(|source| AdministratorsError::BadKey { text: text.to_owned(), source })?;
        Ok(Self { text: text.to_owned(), bytes, key })
    }
}

impl fmt::Display for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What one detached signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endorsement {
    /// It verifies under this administrator's key.
    By(SignerId),
    /// It does not: why, in minisign's words.
    Rejected(String),
}

/// The administrators fixed at start, each with one vote.
#[derive(Debug, Clone)]
pub struct Administrators(Vec<Administrator>);

impl Administrators {
    /// Puts administrators together; their order gives their [`SignerId`]s.
    ///
    /// # Errors
    /// [`AdministratorsError::KeyTwice`].
    pub fn new(administrators: Vec<Administrator>) -> Result<Self, AdministratorsError> {
        let mut seen: HashMap<[u8; 32], String> = HashMap::new();
        for administrator in &administrators {
            if let Some(first) = seen.insert(administrator.bytes, administrator.text.clone()) {
                return Err(AdministratorsError::KeyTwice { first, second: administrator.text.clone() });
            }
        }
        Ok(Self(administrators))
    }

    /// Lists the administrators.
    pub fn iter(&self) -> impl Iterator<Item = (SignerId, &Administrator)> {
        (0..).map(SignerId::from_index).zip(&self.0)
    }

    /// Says whether there are none, which means that policies need no signatures.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Judges the detached signatures (`.minisig` texts) over a document, and returns the administrators who signed.
    /// The old mode of minisign, which signs the document itself, counts as well as the pre-hashed one.
    #[must_use]
    pub fn weigh<'a>(
        &self,
        document: &[u8],
        signatures: impl IntoIterator<Item = &'a str>,
    ) -> (BTreeSet<SignerId>, Vec<Endorsement>) {
        let endorsements: Vec<Endorsement> =
            signatures.into_iter().map(|text| self.weigh_one(document, text)).collect();
        let signed = endorsements.iter().filter_map(|endorsement| match endorsement {
            Endorsement::By(id) => Some(*id),
            Endorsement::Rejected(_) => None,
        });
        (signed.collect(), endorsements)
    }

    fn weigh_one(&self, document: &[u8], text: &str) -> Endorsement {
        let signature = match minisign_verify::Signature::decode(text) {
            Ok(signature) => signature,
            Err(error) => return Endorsement::Rejected(format!("not a minisign signature: {error}")),
        };
        let mut why = "it was made by a key that is no administrator's".to_owned();
        for (id, administrator) in self.iter() {
            match administrator.key.verify(document, &signature, true) {
                Ok(()) => return Endorsement::By(id),
                Err(minisign_verify::Error::UnexpectedKeyId) => {}
                Err(error) => why = error.to_string(),
            }
        }
        Endorsement::Rejected(why)
    }
}
