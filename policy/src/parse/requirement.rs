//! Requirements: a signer's name, or a table with `at-least` and `of`, `all`, or `any`.

use std::collections::BTreeSet;
use std::sync::Arc;

use toml::de::DeValue;
use verifier::SignerId;

use super::error::PolicyError;
use super::fields::{Fields, Item};
use super::limits;
use super::names::{Expected, Names};
use super::reader::Reader;
use crate::escape::escaped;
use crate::phrase;
use crate::requirement::{Requirement, evaluate};

/// Reads a requirement that can be met.
pub(super) fn read(reader: &mut Reader<'_>, item: Item<'_, '_>, names: &Names<'_>) -> Option<Requirement> {
    let requirement = nested(reader, item, names, 1)?;
    let live = names.live();
    if evaluate(&requirement, &live).is_met() {
        return Some(requirement);
    }
    let dead = requirement.signers().into_iter().filter(|id| !live.contains(id));
    let dead = phrase::list(dead.map(|id| names.keyring().signer(id).name.clone()), "and");
    reader.wrong(item.span(), PolicyError::Unsatisfiable(dead));
    None
}

fn nested(reader: &mut Reader<'_>, item: Item<'_, '_>, names: &Names<'_>, depth: usize) -> Option<Requirement> {
    if depth > limits::DEPTH {
        reader.wrong(item.span(), PolicyError::TooDeep);
        return None;
    }
    charge(reader, item, 1)?;
    match item.get_ref() {
        DeValue::String(name) => signer(reader, item, name, names),
        DeValue::Table(_) => table(reader, item, names, depth),
        _ => {
            reader.wrong_type(item, "a signer's name or a table");
            None
        }
    }
}

fn signer(reader: &mut Reader<'_>, item: Item<'_, '_>, name: &str, names: &Names<'_>) -> Option<Requirement> {
    if let Some(id) = names.signer(name) {
        return Some(Requirement::Signer(id));
    }
    match names.group(name) {
        Some((group, _)) => reader.wrong(item.span(), PolicyError::GroupAlone(group.to_string())),
        None => names.unknown(reader, item, name, Expected::SignerOrGroup),
    }
    None
}

fn table(reader: &mut Reader<'_>, item: Item<'_, '_>, names: &Names<'_>, depth: usize) -> Option<Requirement> {
    let mut fields = Fields::of(reader, item, "a requirement")?;
    let forms = ["at-least", "of", "all", "any"].map(|name| fields.optional(name));
    fields.finish(reader);
    match forms {
        [Some(count), Some(of), None, None] => at_least(reader, count, of, names),
        [None, None, Some(parts), None] => Some(Requirement::All(list(reader, parts, "`all`", names, depth)?)),
        [None, None, None, Some(parts)] => Some(Requirement::Any(list(reader, parts, "`any`", names, depth)?)),
        [Some(_), None, None, None] => missing(reader, item, "of"),
        [None, Some(_), None, None] => missing(reader, item, "at-least"),
        _ => {
            reader.wrong(item.span(), PolicyError::RequirementForm);
            None
        }
    }
}

fn missing(reader: &mut Reader<'_>, item: Item<'_, '_>, field: &'static str) -> Option<Requirement> {
    reader.wrong(item.span(), PolicyError::MissingField { field, within: "a requirement".into() });
    None
}

/// Reads all parts, so that mistakes in each are reported, and returns them if there are none.
fn list(
    reader: &mut Reader<'_>,
    item: Item<'_, '_>,
    what: &'static str,
    names: &Names<'_>,
    depth: usize,
) -> Option<Vec<Requirement>> {
    let parts = reader.list(item, what)?;
    let read: Vec<_> = parts.into_iter().map(|part| nested(reader, part, names, depth + 1)).collect();
    read.into_iter().collect()
}

fn at_least(reader: &mut Reader<'_>, count: Item<'_, '_>, of: Item<'_, '_>, names: &Names<'_>) -> Option<Requirement> {
    let number = reader.integer(count);
    if let Some(number) = number.filter(|number| *number < 1) {
        reader.wrong(count.span(), PolicyError::CountTooSmall(number));
    }
    let (of_signers, group) = members(reader, of, names)?;
    let signers = of_signers.len();
    charge(reader, of, signers)?;
    let number = number.filter(|number| *number >= 1)?;
    match usize::try_from(number).ok().filter(|number| *number <= signers) {
        Some(count) => Some(Requirement::AtLeast { count, of: of_signers, group }),
        None => {
            reader.wrong(count.span(), PolicyError::CountTooLarge { count: number, signers });
            None
        }
    }
}

/// Reads whom `of` means: the signers of a group, or those of a list.
fn members(
    reader: &mut Reader<'_>,
    item: Item<'_, '_>,
    names: &Names<'_>,
) -> Option<(BTreeSet<SignerId>, Option<Arc<str>>)> {
    let DeValue::String(name) = item.get_ref() else {
        if !item.get_ref().is_array() {
            reader.wrong_type(item, "a group's name or a list of signers");
            return None;
        }
        return Some((names.signers(reader, item, "`of`")?, None));
    };
    match names.group(name) {
        Some((group, members)) => return Some((members?.clone(), Some(group))),
        None if names.signer(name).is_some() => {
            reader.wrong(item.span(), PolicyError::SignerAsGroup(escaped(name)));
        }
        None => names.unknown(reader, item, name, Expected::SignerOrGroup),
    }
    None
}

/// Counts terms against their limit; the mistake is noted once.
fn charge(reader: &mut Reader<'_>, item: Item<'_, '_>, terms: usize) -> Option<()> {
    let before = reader.terms;
    reader.terms = before.saturating_add(terms);
    if reader.terms <= limits::TERMS {
        return Some(());
    }
    if before <= limits::TERMS {
        let (got, limit) = (reader.terms, limits::TERMS);
        let what = "the policy up to here";
        reader.wrong(item.span(), PolicyError::TooMuch { what, got, limit, unit: "terms in its requirements" });
    }
    None
}
