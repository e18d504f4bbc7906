//! Text diffs: the ones that `diff -u` writes, in bounded time whatever the texts.

mod support;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use support::cases;
use verifier::{first_difference, text_diff};

#[test]
fn a_text_diff_is_the_one_of_gnu_diff() {
    let table: &[(&str, &str, &str, &str)] = &[
        ("equal", "a\nb\n", "a\nb\n", ""),
        ("both empty", "", "", ""),
        ("one line", "a\nb\nc\n", "a\nB\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"),
        ("from nothing", "", "a\n", "@@ -0,0 +1 @@\n+a\n"),
        ("to nothing", "a\nb\n", "", "@@ -1,2 +0,0 @@\n-a\n-b\n"),
        ("added at the end", "a\n", "a\nb\n", "@@ -1 +1,2 @@\n a\n+b\n"),
        ("removed at the beginning", "a\nb\n", "b\n", "@@ -1,2 +1 @@\n-a\n b\n"),
        ("no newline in the first", "a\nb", "a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"),
        ("no newline in the second", "a\nb\n", "a\nb", "@@ -1,2 +1,2 @@\n a\n-b\n+b\n\\ No newline at end of file\n"),
        ("no newline in either", "a\nb", "A\nb", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n\\ No newline at end of file\n"),
        ("CRLF for LF", "a\r\nb\r\n", "a\nb\r\n", "@@ -1,2 +1,2 @@\n-a\r\n+a\n b\r\n"),
        ("a carriage return alone ends no line", "a\rb\n", "a\rc\n", "@@ -1 +1 @@\n-a\rb\n+a\rc\n"),
        ("a line that looks like a hunk", "@@ -1 +1 @@\n", "-a\n", "@@ -1 +1 @@\n-@@ -1 +1 @@\n+-a\n"),
        ("not ASCII", "ä\n", "\u{2028}ö\n", "@@ -1 +1 @@\n-ä\n+\u{2028}ö\n"),
    ];
    for (case, first, second, expected) in table {
        assert_eq!(text_diff(first.as_bytes(), second.as_bytes(), 3).as_deref(), Some(*expected), "{case}");
    }
}

#[test]
fn changes_further_apart_than_their_context_have_their_own_hunks() {
    let first: String = (1..=20).map(|number| format!("{number}\n")).collect();
    let second = first.replace("\n5\n", "\nfive\n").replace("\n10\n", "\nten\n");
    let diff = |context_lines| text_diff(first.as_bytes(), second.as_bytes(), context_lines).expect("text");
    let apart = "@@ -4,3 +4,3 @@\n 4\n-5\n+five\n 6\n@@ -9,3 +9,3 @@\n 9\n-10\n+ten\n 11\n";
    assert_eq!(diff(1), apart);
    assert_eq!(diff(0), "@@ -5 +5 @@\n-5\n+five\n@@ -10 +10 @@\n-10\n+ten\n");
    let joined = "@@ -3,10 +3,10 @@\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n";
    assert_eq!(diff(2), joined);
    assert!(diff(usize::MAX).starts_with("@@ -1,20 +1,20 @@\n 1\n"));
}

#[test]
fn what_is_no_text_has_no_diff() {
    let text = b"text\n".to_vec();
    let lines = |count| b"\n".repeat(count);
    let long = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
    for (case, bytes, is_text) in [
        ("NUL", b"a\0b\n".to_vec(), false),
        ("not UTF-8", b"a\xffb\n".to_vec(), false),
        ("a character that was cut off", b"a\xc3".to_vec(), false),
        ("control characters", b"\x1b[31m\x07\n".to_vec(), true),
        ("many lines", lines(100_000), true),
        ("too many lines", lines(100_001), false),
        ("a long line", long(65_536), true),
        ("too long a line", long(65_537), false),
        ("a large text", long(65_536).repeat(128), true),
        ("too large a text", [long(65_536).repeat(128), vec![b'\n']].concat(), false),
        ("an ELF file", b"\x7fELF\x02\x01\x01\0".to_vec(), false),
    ] {
        assert_eq!(text_diff(&bytes, &text, 3).is_some(), is_text, "{case}");
        assert_eq!(text_diff(&text, &bytes, 3).is_some(), is_text, "{case}, as the second");
    }
}

/// Numbers that look random and are the same each time.
fn noise(count: usize, below: u64) -> impl Iterator<Item = u64> {
    let step =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(0x5eed), step).skip(1).take(count).map(move |state| (state >> 33) % below)
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("{number}\n")).collect()
}

#[test]
fn texts_made_to_take_long_do_not() {
    let random = |count, below, skip| numbered(noise(count + skip, below).skip(skip));
    let pieces = |skip: usize| -> String {
        let piece = |index: usize| format!("anchor {index}\n{}", random(100, 7, skip + index * 100));
        (0..900).map(piece).collect()
    };
    let long = |end: &str| format!("{}{end}\n", "x".repeat(8000)).repeat(1000);
    let table = [
        ("nothing in common", numbered(0..100_000), numbered(100_000..200_000)),
        ("backwards", numbered(0..100_000), numbered((0..100_000).rev())),
        ("backwards, each twice", numbered((0..50_000).chain(0..50_000)), numbered((0..100_000).rev().map(|n| n / 2))),
        ("two lines at random", random(100_000, 2, 0), random(100_000, 2, 7)),
        ("as much as Myers' algorithm gets", random(3500, 100, 0), random(3500, 100, 3500)),
        ("as much, with hardly anything equal", random(3500, 3000, 0), random(3500, 3000, 3500)),
        (
            "as much, backwards and each twice",
            numbered((0..3500).map(|n| n / 2)),
            numbered((0..3500).rev().map(|n| n / 2)),
        ),
        (
            "as much, each twice and nothing in common",
            numbered((0..3500).map(|n| n / 2)),
            numbered((3500..7000).map(|n| n / 2)),
        ),
        ("one against many", random(1, 2, 0), random(6998, 2, 7)),
        ("many pieces", pieces(0), pieces(90_000)),
        ("long lines that differ at their end", long("a"), long("b")),
    ];
    for (case, first, second) in table {
        let begun = Instant::now();
        let diff = text_diff(first.as_bytes(), second.as_bytes(), 3);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{case} took {took:?}");
        assert_eq!(patched(&first, &diff.expect("text")), second, "{case}");
    }
}

/// Beyond what Myers' algorithm gets, lines that stand once in both texts still align.
#[test]
fn a_few_changes_in_long_texts_are_found() {
    let first = numbered(0..100_000);
    let second = first.replace("\n77\n", "\n77a\n").replace("\n50000\n", "\n").replace("\n99990\n", "\n99990\nmore\n");
    let expected = "@@ -78 +78 @@\n-77\n+77a\n@@ -50001 +50000,0 @@\n-50000\n@@ -99991,0 +99991 @@\n+more\n";
    assert_eq!(text_diff(first.as_bytes(), second.as_bytes(), 0).as_deref(), Some(expected));
}

/// Applies a diff as `patch` does, and checks that what it removes or keeps is there.
fn patched(text: &str, diff: &str) -> String {
    let mut left = text.split_inclusive('\n').peekable();
    let mut taken = 0;
    let mut made = String::new();
    let mut lines = diff.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let (mark, rest) = line.split_at(1);
        let unended = lines.next_if(|next| next.starts_with('\\')).is_some();
        let rest = if unended { rest.strip_suffix('\n').expect("a line of the diff") } else { rest };
        if mark == "@" {
            let range = line.split(' ').nth(1).and_then(|range| range.strip_prefix('-')).expect("a range");
            let (start, count) = range.split_once(',').unwrap_or((range, "1"));
            let start = start.parse::<usize>().expect("a number") - usize::from(count != "0");
            (taken..start).for_each(|_| made.push_str(left.next().expect("a line before the hunk")));
            taken = start;
        }
        if [" ", "-"].contains(&mark) {
            assert_eq!(left.next(), Some(rest));
            taken += 1;
        }
        if [" ", "+"].contains(&mark) {
            made.push_str(rest);
        }
    }
    made.extend(left);
    made
}

#[test]
fn the_first_difference_is_an_offset() {
    let table: [(&[u8], &[u8], Option<u64>); 7] = [
        (b"", b"", None),
        (b"same", b"same", None),
        (b"abc", b"abd", Some(2)),
        (b"abc", b"xbc", Some(0)),
        (b"abc", b"ab", Some(2)),
        (b"", b"a", Some(0)),
        (b"\0\0\x01", b"\0\0\x02", Some(2)),
    ];
    for (first, second, expected) in table {
        assert_eq!(first_difference(first, second), expected, "{first:?} {second:?}");
        assert_eq!(first_difference(second, first), expected, "{second:?} {first:?}");
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_diff_makes_the_second_text_of_the_first(
        first in "([a-d]?\r?\n){0,40}[a-d]?",
        second in "([a-d]?\r?\n){0,40}[a-d]?",
        context_lines in 0..5_usize,
    ) {
        let diff = text_diff(first.as_bytes(), second.as_bytes(), context_lines).expect("text");
        prop_assert_eq!(patched(&first, &diff), second.clone());
        prop_assert_eq!(diff.is_empty(), first == second);
    }
}
