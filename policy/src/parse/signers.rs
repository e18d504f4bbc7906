//! The signers with their keys.

use std::collections::HashMap;
use std::sync::Arc;

use toml::de::DeValue;
use verifier::{KeyError, Keyring, PublicKey, Signer, TrustedKey, Window};

use super::error::PolicyError;
use super::fields::{Fields, Item, in_order};
use super::limits;
use super::names::name;
use super::reader::Reader;
use crate::escape::escaped;

/// Where a key stands first: whose it is, and its place in the text.
type Places = HashMap<[u8; 32], (Arc<str>, usize)>;

/// Reads `[signers]`. A signer with mistakes is still one, so that what names it is not reported as well.
pub(super) fn read(reader: &mut Reader<'_>, item: Option<Item<'_, '_>>) -> Keyring {
    let mut signers = Vec::new();
    let mut places = Places::new();
    for (key, value) in item.and_then(|item| entries(reader, item)).unwrap_or_default() {
        if let Some(name) = name(reader, key) {
            let keys = keys(reader, value, &name, &mut places);
            signers.push(Signer { name, keys });
        }
    }
    Keyring::new(signers).expect("TOML holds each name once, and `keys` leaves out a key that stands twice")
}

type Entry<'a, 't> = (&'a toml::Spanned<std::borrow::Cow<'t, str>>, Item<'a, 't>);

fn entries<'a, 't>(reader: &mut Reader<'_>, item: Item<'a, 't>) -> Option<Vec<Entry<'a, 't>>> {
    let Some(table) = item.get_ref().as_table() else {
        reader.wrong_type(item, "a table");
        return None;
    };
    let (got, limit) = (table.len(), limits::SIGNERS);
    if got == 0 {
        reader.wrong(item.span(), PolicyError::Empty("`signers`"));
    } else if got > limit {
        reader.wrong(item.span(), PolicyError::TooMuch { what: "`signers`", got, limit, unit: "signers" });
        return None;
    }
    Some(in_order(table))
}

fn keys(reader: &mut Reader<'_>, item: Item<'_, '_>, signer: &Arc<str>, places: &mut Places) -> Vec<TrustedKey> {
    let Some(mut fields) = Fields::of(reader, item, format!("signer {signer}")) else {
        return Vec::new();
    };
    let list = fields.required(reader, "keys").and_then(|keys| reader.list(keys, "`keys`")).unwrap_or_default();
    let mut keys = Vec::new();
    for entry in list {
        let Some((trusted, place)) = key(reader, entry, signer) else { continue };
        let bytes = *trusted.public.as_bytes();
        if let Some((first, line)) = places.get(&bytes).map(|(first, at)| (first.clone(), reader.line(*at))) {
            let (key, second) = (escaped(&trusted.public.to_string()), signer.clone());
            reader.wrong(place.span(), PolicyError::KeyTwice { key, first, line, second });
        } else {
            places.insert(bytes, (signer.clone(), place.span().start));
            keys.push(trusted);
        }
    }
    fields.finish(reader);
    keys
}

/// Reads a key and what limits it, and returns the place of the key itself too.
fn key<'a, 't>(reader: &mut Reader<'_>, item: Item<'a, 't>, signer: &str) -> Option<(TrustedKey, Item<'a, 't>)> {
    match item.get_ref() {
        DeValue::String(_) => {
            let public = public(reader, item)?;
            Some((TrustedKey { public, window: Window::default(), revoked: None }, item))
        }
        DeValue::Table(_) => {
            let mut fields = Fields::of(reader, item, format!("a key of signer {signer}"))?;
            let place = fields.required(reader, "key");
            let public = place.and_then(|key| public(reader, key));
            let not_before = fields.optional("not-before").and_then(|date| reader.date(date));
            let not_after = fields.optional("not-after").and_then(|date| reader.date(date));
            let revoked = fields.optional("revoked").and_then(|reason| reader.sentence(reason, "`revoked`"));
            fields.finish(reader);
            if let (Some(from), Some(to)) = (not_before, not_after)
                && from >= to
            {
                reader.wrong(item.span(), PolicyError::EmptyWindow);
            }
            let window = Window { not_before, not_after };
            Some((TrustedKey { public: public?, window, revoked: revoked.map(str::to_owned) }, place?))
        }
        _ => {
            reader.wrong_type(item, "a key as a string, or a table with `key`");
            None
        }
    }
}

fn public(reader: &mut Reader<'_>, item: Item<'_, '_>) -> Option<PublicKey> {
    match reader.string(item)?.parse() {
        Ok(key) => Some(key),
        Err(error) => {
            let secret = matches!(error, KeyError::Length { got: 64, .. });
            let error = if secret { PolicyError::SecretKey } else { PolicyError::BadKey(error) };
            reader.wrong(item.span(), error);
            None
        }
    }
}
