//! Realisations: which store path a content-addressed derivation's output turned out to be.
//!
//! Nix has written them in two ways. Up to 2.34 the key is a hash (`sha256:…!out`) and dependent realisations may be
//! listed; later ones are keyed by the derivation's path. Each form has its own fingerprint, and each is kept as it came.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use nix_derivation::{HashAlgorithm, NixHash, StorePath};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::fingerprint::Fingerprint;
use crate::signature::Signature;

/// Longest realisation that is read, in bytes of JSON.
const MAX_LENGTH: usize = 1 << 20;

/// Why a text is not a realisation. Whoever sent or stored it caused it.
#[derive(Debug, Error)]
pub enum RealisationError {
    /// It is not JSON, or too long to be looked at.
    #[error("a realisation is JSON of at most {MAX_LENGTH} bytes: {0}")]
    NotJson(String),
    /// A member is missing or of the wrong kind.
    #[error("a realisation needs {0}")]
    Missing(&'static str),
    /// The output's id is neither `sha256:…!name` nor `drv-path^name`.
    #[error("expected an output id such as sha256:…!out, found {0:?}")]
    BadId(String),
    /// It is about another output than the one that it was kept for.
    #[error("expected a realisation of {0}, found one of {1}")]
    OtherOutput(String, String),
    /// A path is not a store path's base name.
    #[error("expected the base name of a store path, found {0:?}")]
    BadPath(String),
}

/// Which output of which derivation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputId {
    /// By the derivation's hash modulo, as 64 hexadecimal digits; the form of Nix up to 2.34.
    Hash {
        /// `sha256:` and the digits.
        drv_hash: String,
        /// The output's name.
        output: String,
    },
    /// By the derivation's path; the form behind `realisation-with-path-not-hash`.
    Path {
        /// The derivation.
        drv_path: StorePath,
        /// The output's name.
        output: String,
    },
}

impl OutputId {
    /// Reads the older form, `sha256:<hex>!<output>`.
    ///
    /// # Errors
    /// [`RealisationError::BadId`].
    pub fn parse_hash(text: &str) -> Result<Self, RealisationError> {
        let bad = || RealisationError::BadId(text.chars().take(200).collect());
        let (hash, output) = text.split_once('!').ok_or_else(bad)?;
        let hash =
            NixHash::parse(hash).ok().filter(|hash| hash.algorithm() == HashAlgorithm::Sha256).ok_or_else(bad)?;
        Ok(Self::Hash { drv_hash: hash.to_nix_base16_string(), output: output_name(output).ok_or_else(bad)? })
    }

    /// Puts the newer form together.
    ///
    /// # Errors
    /// [`RealisationError::BadId`] when the output's name cannot be one.
    pub fn of_path(drv_path: StorePath, output: &str) -> Result<Self, RealisationError> {
        let output = output_name(output).ok_or_else(|| RealisationError::BadId(output.chars().take(200).collect()))?;
        Ok(Self::Path { drv_path, output })
    }

    /// Returns the output's name.
    #[must_use]
    pub fn output(&self) -> &str {
        match self {
            Self::Hash { output, .. } | Self::Path { output, .. } => output,
        }
    }
}

impl fmt::Display for OutputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { drv_hash, output } => write!(f, "{drv_hash}!{output}"),
            Self::Path { drv_path, output } => write!(f, "{}^{output}", drv_path.to_basename()),
        }
    }
}

/// An output's name becomes part of a file's name, so it is held to a store path name's characters.
fn output_name(text: &str) -> Option<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    let is_name = !text.is_empty() && text.len() <= 211 && !text.starts_with('.') && text.chars().all(fine);
    is_name.then(|| text.to_owned())
}

/// A statement that an output is a certain path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realisation {
    /// Of which output.
    pub id: OutputId,
    /// Which path it is.
    pub out_path: StorePath,
    /// Signatures over the fingerprint, as they were spelled.
    pub signatures: BTreeSet<String>,
    /// What it says of other outputs; only in the older form.
    pub dependent_realisations: BTreeMap<String, StorePath>,
}

impl Realisation {
    /// Reads a realisation in the JSON of the worker protocol or a binary cache, older form (`id`) or newer (`key`).
    ///
    /// # Errors
    /// When it is not one.
    ///
    /// Source: Nix 2.26 `src/libstore/realisation.cc`, `Realisation::fromJSON`; 2.36 the `adl_serializer`s there.
    pub fn parse(text: &str) -> Result<Self, RealisationError> {
        let json = read_json(text)?;
        if let (Some(key), Some(value)) = (json.get("key"), json.get("value")) {
            let drv_path = base_name(member(key, "drvPath", "key.drvPath")?)?;
            let id = OutputId::of_path(drv_path, member(key, "outputName", "key.outputName")?)?;
            return Self::of_value(id, value);
        }
        let id = OutputId::parse_hash(member(&json, "id", "id")?)?;
        Self::of_value(id, &json)
    }

    /// Reads the part of a realisation that does not name its output, as a `build-trace-v2` file holds it.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse_unkeyed(id: OutputId, text: &str) -> Result<Self, RealisationError> {
        Self::of_value(id, &read_json(text)?)
    }

    /// Reads what a binary cache keeps for an output. Nix has written the newer form with its key around it and without.
    ///
    /// # Errors
    /// When it is none, or is about another output.
    pub fn parse_object(id: &OutputId, text: &str) -> Result<Self, RealisationError> {
        let json = read_json(text)?;
        let realisation = match id {
            OutputId::Path { .. } if json.get("key").is_none() => Self::of_value(id.clone(), &json)?,
            _ => Self::parse(text)?,
        };
        if realisation.id != *id {
            return Err(RealisationError::OtherOutput(id.to_string(), realisation.id.to_string()));
        }
        Ok(realisation)
    }

    /// Returns what a signature covers: compact JSON with sorted members and without the signatures.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut json = self.to_json();
        let holder = if json.get("value").is_some() { &mut json["value"] } else { &mut json };
        if let Some(members) = holder.as_object_mut() {
            members.remove("signatures");
        }
        Fingerprint::new(json.to_string())
    }

    /// Returns the whole realisation as JSON, in its own form.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.id {
            OutputId::Hash { .. } => {
                let dependent: Map<String, Value> = self
                    .dependent_realisations
                    .iter()
                    .map(|(id, path)| (id.clone(), path.to_basename().into()))
                    .collect();
                json!({
                    "dependentRealisations": dependent,
                    "id": self.id.to_string(),
                    "outPath": self.out_path.to_basename(),
                    "signatures": self.signatures,
                })
            }
            OutputId::Path { drv_path, output } => json!({
                "key": { "drvPath": drv_path.to_basename(), "outputName": output },
                "value": self.to_unkeyed_json(),
            }),
        }
    }

    /// Returns the part that does not name the output, with signatures as objects, as newer Nix writes them.
    #[must_use]
    pub fn to_unkeyed_json(&self) -> Value {
        let parsed = self.signatures.iter().filter_map(|text| text.parse::<Signature>().ok());
        let signatures: Vec<Value> = parsed
            .map(|signature| {
                let text = signature.to_string();
                let encoded = text.split_once(':').map_or("", |(_, encoded)| encoded);
                json!({ "keyName": signature.key_name().as_str(), "sig": encoded })
            })
            .collect();
        json!({ "outPath": self.out_path.to_basename(), "signatures": signatures })
    }

    fn of_value(id: OutputId, value: &Value) -> Result<Self, RealisationError> {
        let out_path = base_name(member(value, "outPath", "outPath")?)?;
        let mut signatures = BTreeSet::new();
        for signature in value.get("signatures").and_then(Value::as_array).into_iter().flatten() {
            let text = match signature {
                Value::String(text) => text.clone(),
                other => format!(
                    "{}:{}",
                    member(other, "keyName", "signatures[].keyName")?,
                    member(other, "sig", "signatures[].sig")?
                ),
            };
            signatures.insert(text);
        }
        let mut dependent_realisations = BTreeMap::new();
        let listed = value.get("dependentRealisations").filter(|_| matches!(id, OutputId::Hash { .. }));
        for (key, path) in listed.and_then(Value::as_object).into_iter().flatten() {
            let path = path.as_str().ok_or(RealisationError::Missing("paths in dependentRealisations"))?;
            dependent_realisations.insert(OutputId::parse_hash(key)?.to_string(), base_name(path)?);
        }
        Ok(Self { id, out_path, signatures, dependent_realisations })
    }
}

fn read_json(text: &str) -> Result<Value, RealisationError> {
    if text.len() > MAX_LENGTH {
        return Err(RealisationError::NotJson(format!("this one has {} bytes", text.len())));
    }
    serde_json::from_str(text).map_err(|error| RealisationError::NotJson(error.to_string()))
}

fn member<'a>(json: &'a Value, name: &str, wanted: &'static str) -> Result<&'a str, RealisationError> {
    json.get(name).and_then(Value::as_str).ok_or(RealisationError::Missing(wanted))
}

fn base_name(text: &str) -> Result<StorePath, RealisationError> {
    StorePath::from_basename(text.as_bytes()).map_err(|_| RealisationError::BadPath(text.chars().take(200).collect()))
}
