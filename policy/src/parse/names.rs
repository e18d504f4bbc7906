//! The names of signers and groups, and who is meant by them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use toml::Spanned;
use verifier::{Keyring, SignerId};

use super::error::PolicyError;
use super::fields::{Item, in_order};
use super::limits;
use super::reader::Reader;
use crate::escape::escaped;
use crate::requirement::has_key_in_use;

/// Who is meant by which name.
pub(super) struct Names<'k> {
    keyring: &'k Keyring,
    signers: HashMap<&'k str, SignerId>,
    /// The groups; none for one with mistakes, of which nothing more is said.
    groups: BTreeMap<Arc<str>, Option<BTreeSet<SignerId>>>,
}

impl<'k> Names<'k> {
    pub(super) fn new(keyring: &'k Keyring) -> Self {
        let signers = keyring.signers().map(|(id, signer)| (&*signer.name, id)).collect();
        Self { keyring, signers, groups: BTreeMap::new() }
    }

    pub(super) fn keyring(&self) -> &'k Keyring {
        self.keyring
    }

    /// Returns the signers that could sign some day. One whose keys could not be read counts as well: that mistake is
    /// reported already.
    pub(super) fn live(&self) -> BTreeSet<SignerId> {
        let signers = self.keyring.signers();
        let live = signers.filter(|(_, signer)| signer.keys.is_empty() || has_key_in_use(signer));
        live.map(|(id, _)| id).collect()
    }

    pub(super) fn signer(&self, name: &str) -> Option<SignerId> {
        self.signers.get(name).copied()
    }

    /// Returns the group of this name with its signers, or with none if it has mistakes.
    pub(super) fn group(&self, name: &str) -> Option<(Arc<str>, Option<&BTreeSet<SignerId>>)> {
        self.groups.get_key_value(name).map(|(name, members)| (name.clone(), members.as_ref()))
    }

    /// Notes that nobody has this name; unless no signer could be read at all, which is noted already.
    pub(super) fn unknown(&self, reader: &mut Reader<'_>, item: Item<'_, '_>, name: &str, expected: Expected) {
        if self.signers.is_empty() {
            return;
        }
        let signers = self.keyring.signers().map(|(_, signer)| &*signer.name);
        let groups = self.groups.keys().filter(|_| expected == Expected::SignerOrGroup).map(|name| &**name);
        let near = nearest(name, signers.chain(groups)).map(str::to_owned);
        let expected = match expected {
            Expected::Signer => "signer",
            Expected::SignerOrGroup => "signer or group",
        };
        reader.wrong(item.span(), PolicyError::UnknownName { name: escaped(name), expected, near });
    }

    pub(super) fn into_groups(self) -> BTreeMap<Arc<str>, BTreeSet<SignerId>> {
        self.groups.into_iter().filter_map(|(name, members)| Some((name, members?))).collect()
    }

    /// Reads `[groups]`.
    pub(super) fn read_groups(&mut self, reader: &mut Reader<'_>, item: Item<'_, '_>) {
        let Some(table) = item.get_ref().as_table() else {
            reader.wrong_type(item, "a table");
            return;
        };
        let mut read = Vec::new();
        for (key, value) in in_order(table) {
            let Some(name) = name(reader, key) else { continue };
            if self.signers.contains_key(&*name) {
                reader.wrong(key.span(), PolicyError::NameTwice(escaped(&name)));
                continue;
            }
            // Known before any list is read, so that a group within a group is told from an unknown name.
            self.groups.insert(name.clone(), None);
            read.push((name, value));
        }
        for (name, value) in read {
            let members = self.signers(reader, value, "the group");
            self.groups.insert(name, members);
        }
    }

    /// Reads a list of signers, each of which stands in it once.
    pub(super) fn signers(
        &self,
        reader: &mut Reader<'_>,
        item: Item<'_, '_>,
        what: &'static str,
    ) -> Option<BTreeSet<SignerId>> {
        let mut signers = BTreeSet::new();
        let mut faultless = true;
        for entry in reader.list(item, what)? {
            let Some(name) = reader.string(entry) else {
                faultless = false;
                continue;
            };
            match self.signer(name) {
                Some(id) if signers.insert(id) => continue,
                Some(_) => reader.wrong(entry.span(), PolicyError::SignerTwice(escaped(name))),
                None if self.groups.contains_key(name) => {
                    reader.wrong(entry.span(), PolicyError::GroupInList(escaped(name)));
                }
                None => self.unknown(reader, entry, name, Expected::Signer),
            }
            faultless = false;
        }
        faultless.then_some(signers)
    }
}

/// Whose name is expected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A signer's.
    Signer,
    /// A signer's or a group's.
    SignerOrGroup,
}

/// Reads the name of a signer or a group.
pub(super) fn name(reader: &mut Reader<'_>, key: &Spanned<Cow<'_, str>>) -> Option<Arc<str>> {
    let text: &str = key.get_ref();
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.+@".contains(c);
    if text.is_empty() || text.len() > limits::NAME || !text.chars().all(fine) {
        reader.wrong(key.span(), PolicyError::BadName(escaped(text)));
        return None;
    }
    Some(text.into())
}

/// Returns the candidate that is a few typing errors away from `text`, if there is one.
pub(super) fn nearest<'n>(text: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if text.len() > limits::NAME {
        return None;
    }
    let allowed = (text.chars().count() + 1) / 3;
    let distances = candidates.map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate));
    distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, candidate)| candidate)
}
