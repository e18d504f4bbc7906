//! Mistakes with their places, and how they are shown: the line with a caret, and what to do.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::error::PolicyError;
use crate::escape::escaped;
use crate::phrase;

/// Longest line that is kept whole, in bytes; of a longer one, this much on each side of the mistake is. What is shown
/// of it is cut to the width of a terminal again.
const EXCERPT: usize = 400;

/// A mistake and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    error: PolicyError,
    line: usize,
    column: usize,
    excerpt: String,
    /// What is marked in the excerpt, in bytes.
    mark: Range<usize>,
}

impl Mistake {
    /// Finds the place of `span`, which is in bytes, within the text. Where it spans lines, only the first is shown.
    pub(super) fn new(error: PolicyError, text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |end| start + end);
        let whole = line_end - line_start <= 2 * EXCERPT;
        let from = if whole { line_start } else { start.saturating_sub(EXCERPT).max(line_start) };
        let to = if whole { line_end } else { start.saturating_add(EXCERPT).min(line_end) };
        let (from, to) = (text.ceil_char_boundary(from), text.floor_char_boundary(to).max(start));
        let end = text.floor_char_boundary(span.end).clamp(start, to);
        let excerpt = text[from..to].trim_end_matches('\r').to_owned();
        let mark = (start - from).min(excerpt.len())..(end - from).min(excerpt.len());
        Self {
            error,
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            excerpt,
            mark,
        }
    }

    /// Returns what is wrong.
    #[must_use]
    pub fn error(&self) -> &PolicyError {
        &self.error
    }

    /// Returns the line on which it stands, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the column in which it begins, in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    fn render(&self, origin: &str) -> String {
        let (message, advice) = (self.error.to_string(), self.error.advice());
        let annotation = AnnotationKind::Primary.span(self.mark.clone());
        let snippet = Snippet::source(self.excerpt.as_str()).line_start(self.line).annotation(annotation);
        let title = Group::with_title(Level::ERROR.primary_title(message));
        let marked = self.excerpt[..self.mark.start].chars().count() + 1;
        let group = if marked == self.column {
            title.element(snippet.path(origin))
        } else {
            // The excerpt does not begin where its line does, so the place cannot be told from it.
            let placed = title.element(Origin::path(origin).line(self.line).char_column(self.column));
            if self.excerpt.is_empty() { placed } else { placed.element(snippet) }
        };
        let report = [group.element(Level::HELP.message(advice))];
        Renderer::plain().render(&report)
    }
}

/// Every mistake that was found in a policy, in the order of the text. It shows them all, and ends with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyErrors {
    origin: String,
    mistakes: Vec<Mistake>,
    omitted: usize,
}

impl PolicyErrors {
    pub(super) fn new(origin: &str, mut mistakes: Vec<Mistake>, omitted: usize) -> Self {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        let secrets = mistakes.iter().filter(|mistake| mistake.error == PolicyError::SecretKey);
        let secret_lines: HashSet<usize> = secrets.map(|mistake| mistake.line).collect();
        for mistake in mistakes.iter_mut().filter(|mistake| secret_lines.contains(&mistake.line)) {
            // Errors end up in logs, where no secret belongs.
            mistake.excerpt.clear();
            mistake.mark = 0..0;
        }
        Self { origin: escaped(origin), mistakes, omitted }
    }

    /// Lists the mistakes in the order of the text; of a great many only the first that were found.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.mistakes {
            writeln!(f, "{}\n", mistake.render(&self.origin))?;
        }
        if self.omitted > 0 {
            writeln!(f, "and {} that are not shown\n", phrase::count(self.omitted, "more mistake"))?;
        }
        let count = self.mistakes.len() + self.omitted;
        let them = if count == 1 { "it" } else { "them" };
        let (origin, count) = (&self.origin, phrase::count(count, "mistake"));
        write!(f, "{origin} was not used, because of {count}: mend {them}, then run `nix-quorum policy check {origin}`")
    }
}

impl std::error::Error for PolicyErrors {}
