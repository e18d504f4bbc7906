//! Which lines of two texts are the same, in bounded time.
//!
//! Myers' algorithm finds the shortest diff, in time that grows with the square of what differs. So it is asked about the
//! lines between anchors only, which are the lines that stand exactly once in both texts (Bram Cohen's patience diff), and
//! only as long as it cannot take too long in all.

use std::convert::Infallible;
use std::iter;
use std::ops::Range;

use similar::algorithms::{DiffHook, myers};

/// Most steps of Myers' algorithm for two texts, estimated as the square of the lines that it is given: 7,000 of them at
/// once, or many more in pieces. They take about a tenth of a second, and a second where nothing is optimized.
const MAX_STEPS: usize = 50_000_000;

/// Lines that are the same in both texts, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they begin in the first.
    pub(super) first: usize,
    /// Where they begin in the second.
    pub(super) second: usize,
    /// How many they are.
    pub(super) count: usize,
}

/// Finds runs of equal lines, which rise in both texts and do not touch. Each line is a number below `distinct`.
pub(super) fn align(first: &[usize], second: &[usize], distinct: usize) -> Vec<Run> {
    let mut alignment = Alignment { first, second, steps_left: MAX_STEPS, runs: Vec::new() };
    let (mut x, mut y) = (0, 0);
    for (anchor_x, anchor_y) in anchors(first, second, distinct) {
        alignment.between(x..anchor_x, y..anchor_y);
        alignment.push(anchor_x, anchor_y, 1);
        (x, y) = (anchor_x + 1, anchor_y + 1);
    }
    alignment.between(x..first.len(), y..second.len());
    alignment.runs
}

struct Alignment<'a> {
    first: &'a [usize],
    second: &'a [usize],
    steps_left: usize,
    runs: Vec<Run>,
}

impl Alignment<'_> {
    /// Adds equal lines behind all others.
    fn push(&mut self, first: usize, second: usize, count: usize) {
        match self.runs.last_mut() {
            Some(run) if (run.first + run.count, run.second + run.count) == (first, second) => run.count += count,
            _ if count > 0 => self.runs.push(Run { first, second, count }),
            _ => {}
        }
    }

    /// Aligns the lines between two anchors: equal ones at both ends, and then what is left.
    fn between(&mut self, first: Range<usize>, second: Range<usize>) {
        let (a, b) = (&self.first[first.clone()], &self.second[second.clone()]);
        let prefix = iter::zip(a, b).take_while(|(a, b)| a == b).count();
        let suffix = iter::zip(a[prefix..].iter().rev(), b[prefix..].iter().rev()).take_while(|(a, b)| a == b).count();
        let (first_end, second_end) = (first.end - suffix, second.end - suffix);
        self.push(first.start, second.start, prefix);
        self.search(first.start + prefix..first_end, second.start + prefix..second_end);
        self.push(first_end, second_end, suffix);
    }

    /// Looks for equal lines as long as there are steps left. Without them, nothing in these ranges counts as equal.
    fn search(&mut self, first: Range<usize>, second: Range<usize>) {
        let steps = (first.len() + second.len()).saturating_pow(2);
        if first.is_empty() || second.is_empty() || steps > self.steps_left {
            return;
        }
        self.steps_left -= steps;
        let (a, b) = (self.first, self.second);
        let Ok(()) = myers::diff(self, a, first, b, second);
    }
}

impl DiffHook for Alignment<'_> {
    type Error = Infallible;

    fn equal(&mut self, first: usize, second: usize, count: usize) -> Result<(), Infallible> {
        self.push(first, second, count);
        Ok(())
    }
}

/// Pairs the lines that stand exactly once in both texts, as many as rise in both.
fn anchors(first: &[usize], second: &[usize], distinct: usize) -> Vec<(usize, usize)> {
    let (in_first, in_second) = (sole_positions(first, distinct), sole_positions(second, distinct));
    let pairs: Vec<_> = first.iter().filter_map(|&line| in_first[line].zip(in_second[line])).collect();
    longest_rising(&pairs)
}

/// Finds for each line where it stands, if it stands there alone.
fn sole_positions(text: &[usize], distinct: usize) -> Vec<Option<usize>> {
    let mut seen = vec![false; distinct];
    let mut positions = vec![None; distinct];
    for (position, &line) in text.iter().enumerate() {
        let again = std::mem::replace(&mut seen[line], true);
        positions[line] = (!again).then_some(position);
    }
    positions
}

/// Picks the most of these pairs, which rise in their first number, that rise in their second as well.
///
/// Source: patience sorting; C. Schensted, "Longest increasing and decreasing subsequences", 1961.
fn longest_rising(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // For each length, the pair with the lowest second number that ends a rising sequence of it.
    let mut ends: Vec<usize> = Vec::new();
    // For each pair, the one before it in the longest sequence that it ends.
    let mut before = Vec::with_capacity(pairs.len());
    for (index, &(_, second)) in pairs.iter().enumerate() {
        let shorter = ends.partition_point(|&end| pairs[end].1 < second);
        before.push(shorter.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(shorter) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut rising: Vec<_> =
        iter::successors(ends.last().copied(), |&index| before[index]).map(|at| pairs[at]).collect();
    rising.reverse();
    rising
}
