//! Reads single values of the kinds that the language has, and collects the mistakes.

use std::ops::Range;

use toml::de::DeValue;
use verifier::Timestamp;

use super::error::PolicyError;
use super::fields::Item;
use super::mistake::{Mistake, PolicyErrors};
use super::{kind, limits};
use crate::escape::escaped;

/// The text, the mistakes found in it so far, and how large its requirements have become.
pub(super) struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
    omitted: usize,
    /// Terms read so far, to be held against [`limits::TERMS`].
    pub(super) terms: usize,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, mistakes: Vec::new(), omitted: 0, terms: 0 }
    }

    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.is_empty()
    }

    pub(super) fn into_errors(self, origin: &str) -> PolicyErrors {
        PolicyErrors::new(origin, self.mistakes, self.omitted)
    }

    /// Notes a mistake at a place, in bytes of the text.
    pub(super) fn wrong(&mut self, span: Range<usize>, error: PolicyError) {
        if self.mistakes.len() < limits::MISTAKES {
            self.mistakes.push(Mistake::new(error, self.text, span));
        } else {
            self.omitted += 1;
        }
    }

    /// Returns the line of a place, counted from 1.
    pub(super) fn line(&self, place: usize) -> usize {
        self.text[..place].matches('\n').count() + 1
    }

    /// Notes that a value is of another kind than expected.
    pub(super) fn wrong_type(&mut self, item: Item<'_, '_>, expected: &'static str) {
        self.wrong(item.span(), PolicyError::WrongType { expected, found: kind(item.get_ref()) });
    }

    pub(super) fn string<'a>(&mut self, item: Item<'a, '_>) -> Option<&'a str> {
        let read = item.get_ref().as_str();
        if read.is_none() {
            self.wrong_type(item, "a string");
        }
        read
    }

    /// Reads a string of one to [`limits::SENTENCE`] characters.
    pub(super) fn sentence<'a>(&mut self, item: Item<'a, '_>, what: &'static str) -> Option<&'a str> {
        let text = self.string(item)?;
        let got = text.chars().count();
        if text.trim().is_empty() {
            self.wrong(item.span(), PolicyError::Empty(what));
        } else if got > limits::SENTENCE {
            let limit = limits::SENTENCE;
            self.wrong(item.span(), PolicyError::TooMuch { what, got, limit, unit: "characters" });
        } else {
            return Some(text);
        }
        None
    }

    pub(super) fn integer(&mut self, item: Item<'_, '_>) -> Option<i128> {
        let DeValue::Integer(integer) = item.get_ref() else {
            self.wrong_type(item, "an integer");
            return None;
        };
        // TOML's integers have 64 bits; the parser leaves that to its readers.
        let read = i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(i128::from);
        if read.is_none() {
            self.wrong_type(item, "an integer of at most 64 bits");
        }
        read
    }

    pub(super) fn date(&mut self, item: Item<'_, '_>) -> Option<Timestamp> {
        let DeValue::Datetime(found) = item.get_ref() else {
            self.wrong_type(item, "a date with time and offset");
            return None;
        };
        let read = found.offset.and_then(|_| found.to_string().parse::<jiff::Timestamp>().ok());
        if read.is_none() {
            self.wrong(item.span(), PolicyError::BadDate(found.to_string()));
        }
        read.map(|moment| Timestamp::from_unix(moment.as_second()))
    }

    /// Reads a list that has something in it.
    pub(super) fn list<'a, 't2>(&mut self, item: Item<'a, 't2>, what: &'static str) -> Option<Vec<Item<'a, 't2>>> {
        let Some(array) = item.get_ref().as_array() else {
            self.wrong_type(item, "a list");
            return None;
        };
        if array.is_empty() {
            self.wrong(item.span(), PolicyError::Empty(what));
            return None;
        }
        Some(array.iter().collect())
    }

    /// Reads one of some words.
    pub(super) fn choice<T: Copy>(&mut self, item: Item<'_, '_>, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.string(item)?;
        let read = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if read.is_none() {
            let choices = choices.iter().map(|(word, _)| *word).collect();
            self.wrong(item.span(), PolicyError::UnknownChoice { found: escaped(text), choices });
        }
        read
    }
}
