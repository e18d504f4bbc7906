//! From policy text to [`Policy`]: this file reads the top level and puts the parts together; each part has its own.
//!
//! The tables are walked by hand, with the place of every value at hand, so that all mistakes are reported at once and
//! each where it stands. What depends on a part that could not be read is left out rather than reported a second time.

mod error;
mod fields;
mod limits;
mod mistake;
mod names;
mod reader;
mod requirement;
mod rules;
mod signers;

pub use error::PolicyError;
pub use mistake::{Mistake, PolicyErrors};

use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use verifier::{StoreDir, Timestamp, base16};

use crate::escape::escaped;
use crate::policy::{ContentAddressed, OnConflict, Policy};
use crate::requirement::Requirement;
use fields::{Fields, Item};
use names::Names;
use reader::Reader;

/// Reads a whole policy.
pub(crate) fn policy(text: &str, origin: &str) -> Result<Policy, PolicyErrors> {
    let mut reader = Reader::new(text);
    if text.len() > limits::TEXT {
        let (got, limit) = (text.len(), limits::TEXT);
        reader.wrong(0..0, PolicyError::TooMuch { what: "the policy", got, limit, unit: "bytes" });
        return Err(reader.into_errors(origin));
    }
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        reader.wrong(error.span().unwrap_or(0..0), PolicyError::Syntax(error.message().to_owned()));
    }
    let policy = if syntax.is_empty() { top_level(&mut reader, &document) } else { None };
    match policy {
        Some(policy) if reader.is_clean() => Ok(policy),
        _ => Err(reader.into_errors(origin)),
    }
}

fn top_level(reader: &mut Reader<'_>, document: &Spanned<DeTable<'_>>) -> Option<Policy> {
    let mut top = Fields::new(document.get_ref(), 0..0, "the policy");
    let version = top.required(reader, "version").and_then(|item| version(reader, item));
    let expires = top.optional("expires").map(|item| reader.date(item));
    let store_dir = top.optional("store-dir").map(|item| store_dir(reader, item));
    let signers = top.required(reader, "signers");
    let keyring = signers::read(reader, signers);
    let mut names = Names::new(&keyring);
    if let Some(groups) = top.optional("groups") {
        names.read_groups(reader, groups);
    }
    let default = top.required(reader, "default").and_then(|item| default(reader, item, &names));
    let rules = top.optional("rules").map_or(Some(Vec::new()), |item| rules::read(reader, item, &names));
    top.finish(reader);

    let (default, content_addressed, on_conflict) = default?;
    let groups = names.into_groups();
    Some(Policy {
        version: version?,
        expires: expires.map_or(Some(None), |read: Option<Timestamp>| read.map(Some))?,
        store_dir: store_dir.unwrap_or_else(|| Some(StoreDir::default()))?,
        keyring,
        digest: base16::encode(&Sha256::digest(reader.text())),
        groups,
        default,
        content_addressed,
        on_conflict,
        rules: rules?,
    })
}

fn version(reader: &mut Reader<'_>, item: Item<'_, '_>) -> Option<u64> {
    let found = reader.integer(item)?;
    let version = u64::try_from(found).ok().filter(|version| *version > 0);
    if version.is_none() {
        reader.wrong(item.span(), PolicyError::BadVersion(found));
    }
    version
}

fn store_dir(reader: &mut Reader<'_>, item: Item<'_, '_>) -> Option<StoreDir> {
    let text = reader.string(item)?;
    let read = StoreDir::new(text).ok();
    if read.is_none() {
        reader.wrong(item.span(), PolicyError::BadStoreDir(escaped(text)));
    }
    read
}

fn default(
    reader: &mut Reader<'_>,
    item: Item<'_, '_>,
    names: &Names<'_>,
) -> Option<(Requirement, ContentAddressed, OnConflict)> {
    let mut fields = Fields::of(reader, item, "[default]")?;
    let require = fields.required(reader, "require");
    let requirement = require.and_then(|require| requirement::read(reader, require, names));
    let content_addressed = fields.optional("content-addressed").map_or(Some(ContentAddressed::Recompute), |item| {
        let choices = [("recompute", ContentAddressed::Recompute), ("require", ContentAddressed::Require)];
        reader.choice(item, &choices)
    });
    let on_conflict = fields.optional("on-conflict").map_or(Some(OnConflict::Quorum), |item| {
        reader.choice(item, &[("quorum", OnConflict::Quorum), ("hold", OnConflict::Hold)])
    });
    fields.finish(reader);
    Some((requirement?, content_addressed?, on_conflict?))
}

/// What kind of value this is, in words.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
