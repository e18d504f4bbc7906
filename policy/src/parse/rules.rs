//! Rules: what certain names take on top of the default.

use std::collections::HashSet;
use std::sync::Arc;

use wildmatch::WildMatch;

use super::error::PolicyError;
use super::fields::{Fields, Item};
use super::names::Names;
use super::reader::Reader;
use super::{limits, requirement};
use crate::escape::escaped;
use crate::policy::{ContentAddressed, Rule};

/// Reads `[[rules]]`.
pub(super) fn read(reader: &mut Reader<'_>, item: Item<'_, '_>, names: &Names<'_>) -> Option<Vec<Rule>> {
    let Some(array) = item.get_ref().as_array() else {
        reader.wrong_type(item, "a list of tables");
        return None;
    };
    let mut seen = HashSet::new();
    let mut globs = 0;
    let mut rules = Vec::new();
    for entry in array {
        rules.extend(rule(reader, entry, names, &mut seen, &mut globs));
    }
    (rules.len() == array.len()).then_some(rules)
}

fn rule(
    reader: &mut Reader<'_>,
    item: Item<'_, '_>,
    names: &Names<'_>,
    seen: &mut HashSet<Arc<str>>,
    globs: &mut usize,
) -> Option<Rule> {
    let mut fields = Fields::of(reader, item, "a rule")?;
    let name = fields.required(reader, "name").and_then(|name| self::name(reader, name, seen));
    let paths = fields.required(reader, "paths").and_then(|paths| self::paths(reader, paths, globs));
    let require = fields.optional("require");
    let requirement = require.map(|require| requirement::read(reader, require, names));
    let addressed = fields.optional("content-addressed");
    let content_addressed = addressed.map(|item| content_addressed(reader, item));
    fields.finish(reader);
    if requirement.is_none() && content_addressed.is_none() {
        reader.wrong(item.span(), PolicyError::IdleRule);
        return None;
    }
    Some(Rule {
        name: name?,
        paths: paths?,
        requirement: requirement.map_or(Some(None), |read| read.map(Some))?,
        content_addressed: content_addressed.map_or(Some(None), |read| read.map(Some))?,
    })
}

fn name(reader: &mut Reader<'_>, item: Item<'_, '_>, seen: &mut HashSet<Arc<str>>) -> Option<Arc<str>> {
    let name: Arc<str> = escaped(reader.sentence(item, "`name`")?).into();
    if !seen.insert(name.clone()) {
        reader.wrong(item.span(), PolicyError::RuleTwice(name.to_string()));
        return None;
    }
    Some(name)
}

fn content_addressed(reader: &mut Reader<'_>, item: Item<'_, '_>) -> Option<ContentAddressed> {
    let choices = [("require", ContentAddressed::Require), ("recompute", ContentAddressed::Recompute)];
    match reader.choice(item, &choices)? {
        ContentAddressed::Require => Some(ContentAddressed::Require),
        ContentAddressed::Recompute => {
            reader.wrong(item.span(), PolicyError::LooseRule);
            None
        }
    }
}

fn paths(reader: &mut Reader<'_>, item: Item<'_, '_>, globs: &mut usize) -> Option<Vec<WildMatch>> {
    let list = reader.list(item, "`paths`")?;
    *globs += list.len();
    if *globs > limits::GLOBS {
        let (got, limit) = (*globs, limits::GLOBS);
        let what = "the policy up to here";
        reader.wrong(item.span(), PolicyError::TooMuch { what, got, limit, unit: "globs in its rules" });
        return None;
    }
    let read: Vec<_> = list.into_iter().map(|entry| glob(reader, entry)).collect();
    read.into_iter().collect()
}

/// Reads a glob whose every character can stand in the name part of a store path, so that it can match one.
fn glob(reader: &mut Reader<'_>, item: Item<'_, '_>) -> Option<WildMatch> {
    let text = reader.string(item)?;
    let can_match = |c: char| c.is_ascii_alphanumeric() || "+-._=?*".contains(c);
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > limits::GLOB {
        format!("it has {} bytes, and a name at most {}", text.len(), limits::GLOB)
    } else if let Some(stray) = text.chars().find(|c| !can_match(*c)) {
        format!("no name holds '{}'", escaped(&stray.to_string()))
    } else {
        return Some(WildMatch::new(text));
    };
    reader.wrong(item.span(), PolicyError::BadGlob { glob: escaped(text), why });
    None
}
