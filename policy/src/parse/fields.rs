//! The fields of one table: each is taken by its name, and what is left over is unknown.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::PolicyError;
use super::names::nearest;
use super::reader::Reader;
use crate::escape::escaped;

/// A value with its place.
pub(super) type Item<'a, 't> = &'a Spanned<DeValue<'t>>;

/// A table that is being read.
pub(super) struct Fields<'a, 't> {
    table: &'a DeTable<'t>,
    span: Range<usize>,
    within: Arc<str>,
    known: Vec<&'static str>,
}

impl<'a, 't> Fields<'a, 't> {
    pub(super) fn new(table: &'a DeTable<'t>, span: Range<usize>, within: impl Into<Arc<str>>) -> Self {
        Self { table, span, within: within.into(), known: Vec::new() }
    }

    /// Begins to read a value that has to be a table; `within` is how mistakes speak of it.
    pub(super) fn of(reader: &mut Reader<'_>, item: Item<'a, 't>, within: impl Into<Arc<str>>) -> Option<Self> {
        let Some(table) = item.get_ref().as_table() else {
            reader.wrong_type(item, "a table");
            return None;
        };
        Some(Self::new(table, item.span(), within))
    }

    pub(super) fn optional(&mut self, name: &'static str) -> Option<Item<'a, 't>> {
        self.known.push(name);
        self.table.get(name)
    }

    pub(super) fn required(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Option<Item<'a, 't>> {
        let item = self.optional(name);
        if item.is_none() {
            reader.wrong(self.span.clone(), PolicyError::MissingField { field: name, within: self.within.clone() });
        }
        item
    }

    /// Reports every field that was not asked for.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                let near = nearest(name, self.known.iter().copied());
                let (field, within, known) = (escaped(name), self.within.clone(), self.known.clone());
                reader.wrong(key.span(), PolicyError::UnknownField { field, within, known, near });
            }
        }
    }
}

/// Lists the entries of a table in the order of the text; the parser sorts them by name.
pub(super) fn in_order<'a, 't>(table: &'a DeTable<'t>) -> Vec<(&'a Spanned<std::borrow::Cow<'t, str>>, Item<'a, 't>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}
