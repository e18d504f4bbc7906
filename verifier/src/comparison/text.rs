//! Two texts as a unified diff.

use std::collections::HashMap;
use std::ops::Range;

use super::alignment::{Run, align};

/// Longest text that is compared, in bytes. Longer ones are data or logs, of which nobody reads a diff.
const MAX_TEXT: usize = 8 << 20;

/// Most lines of a text that is compared, which bounds the memory for their positions.
const MAX_LINES: usize = 100_000;

/// Longest line of a text that is compared, in bytes. A longer one is no text for people, and a diff would repeat it whole.
const MAX_LINE: usize = 64 << 10;

/// Writes the unified diff of two texts: hunks with so many lines of context, without a header for the files. It is empty
/// for equal texts. None where one of them is no text (UTF-8 without NUL), or has more than 8 MiB, 100,000 lines or a line
/// of more than 64 KiB.
///
/// A line ends with a line feed and nothing else: a carriage return is a character of its line. All characters are passed
/// on as they are, even such as control a terminal. The time is bounded, and a diff of long texts that have hardly a line
/// in common may be longer than necessary.
///
/// Source: POSIX, `diff -u`; `\ No newline at end of file` is GNU's.
#[must_use]
pub fn text_diff(first: &[u8], second: &[u8], context_lines: usize) -> Option<String> {
    let (first, second) = (lines(first)?, lines(second)?);
    let runs = align_lines(&first, &second);
    let edits = edits(&runs, first.len(), second.len());
    let near = context_lines.saturating_mul(2);
    let mut writer = HunkWriter { first: &first, second: &second, context_lines, text: String::new() };
    for hunk in edits.chunk_by(|edit, next| next.first.start - edit.first.end <= near) {
        writer.hunk(hunk);
    }
    Some(writer.text)
}

/// Splits a text into lines, each with its line feed; none for what is not compared.
fn lines(bytes: &[u8]) -> Option<Vec<&str>> {
    if bytes.len() > MAX_TEXT || bytes.contains(&0) {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let lines: Vec<_> = text.split_inclusive('\n').take(MAX_LINES + 1).collect();
    (lines.len() <= MAX_LINES && lines.iter().all(|line| line.len() <= MAX_LINE)).then_some(lines)
}

/// Aligns by numbers, one for each distinct line, so that no line is compared more than a few times.
fn align_lines<'a>(first: &[&'a str], second: &[&'a str]) -> Vec<Run> {
    let mut numbers = HashMap::new();
    let mut number = |line: &&'a str| {
        let next = numbers.len();
        *numbers.entry(*line).or_insert(next)
    };
    let first: Vec<_> = first.iter().map(&mut number).collect();
    let second: Vec<_> = second.iter().map(&mut number).collect();
    align(&first, &second, numbers.len())
}

/// Lines of the first text, and the ones that stand in their place in the second. One of the two may be empty.
struct Edit {
    first: Range<usize>,
    second: Range<usize>,
}

/// Lists what lies between the equal lines.
fn edits(runs: &[Run], first_len: usize, second_len: usize) -> Vec<Edit> {
    let end = Run { first: first_len, second: second_len, count: 0 };
    let (mut first, mut second) = (0, 0);
    let mut edits = Vec::new();
    for run in runs.iter().chain([&end]) {
        let edit = Edit { first: first..run.first, second: second..run.second };
        (first, second) = (run.first + run.count, run.second + run.count);
        if !(edit.first.is_empty() && edit.second.is_empty()) {
            edits.push(edit);
        }
    }
    edits
}

struct HunkWriter<'a> {
    first: &'a [&'a str],
    second: &'a [&'a str],
    context_lines: usize,
    text: String,
}

impl HunkWriter<'_> {
    fn hunk(&mut self, edits: &[Edit]) {
        let ([begin, ..], [.., end]) = (edits, edits) else { return };
        let before = self.context_lines.min(begin.first.start);
        let after = self.context_lines.min(self.first.len() - end.first.end);
        self.header(
            begin.first.start - before..end.first.end + after,
            begin.second.start - before..end.second.end + after,
        );
        let mut at = begin.first.start - before;
        for edit in edits {
            self.lines(' ', &self.first[at..edit.first.start]);
            self.lines('-', &self.first[edit.first.clone()]);
            self.lines('+', &self.second[edit.second.clone()]);
            at = edit.first.end;
        }
        self.lines(' ', &self.first[at..at + after]);
    }

    /// Writes which lines of each text the hunk has.
    fn header(&mut self, first: Range<usize>, second: Range<usize>) {
        let line = format!("@@ -{} +{} @@\n", line_range(&first), line_range(&second));
        self.text.push_str(&line);
    }

    fn lines(&mut self, mark: char, lines: &[&str]) {
        for line in lines {
            self.text.push(mark);
            self.text.push_str(line);
            if !line.ends_with('\n') {
                self.text.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
}

/// Spells the first line's number and how many there are: counted from one, an empty range by the line before it, and one
/// line by its number alone.
fn line_range(lines: &Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        count => format!("{},{count}", lines.start + 1),
    }
}
