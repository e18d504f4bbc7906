//! The comparison of two NARs entry by entry: what only one of them has, and in what the others differ.
//!
//! The bytes may come from anybody. Each pass takes memory and time within stated limits, whatever they are. What is
//! returned are paths, targets and lines as they were found, with whatever control characters they have: whoever shows
//! them escapes them.

mod alignment;
mod entries;
mod files;
mod inventory;
mod text;

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

pub(crate) use entries::{MAX_ENTRIES, MAX_PATHS};
pub use files::read_files;
pub use inventory::{Inventory, NarEntry};
pub use text::text_diff;

use inventory::{Item, tree_order};

/// What is different at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference<'a> {
    /// The path from the root, without a slash in front; empty for the root itself.
    pub path: &'a [u8],
    /// What is different.
    pub change: Change<'a>,
}

/// How two NARs differ at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Only the first has something there. For a directory this stands for all below it, too.
    OnlyInFirst(&'a NarEntry),
    /// Only the second has something there. For a directory this stands for all below it, too.
    OnlyInSecond(&'a NarEntry),
    /// Both have something there. Where only one of the two is a directory, this stands for all below it, too.
    InBoth {
        /// What the first has.
        first: &'a NarEntry,
        /// What the second has.
        second: &'a NarEntry,
        /// In what they differ, at least one, in the order of [`Aspect`]'s variants.
        aspects: Vec<Aspect>,
    },
}

/// In what two entries at the same path differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// One is a directory, a regular file or a symbolic link, and the other is not. Nothing else is compared then.
    Type,
    /// One file is executable and the other is not.
    Executable,
    /// The files are of different sizes; their contents differ as well.
    Size,
    /// The SHA-256 of the files' contents.
    Contents,
    /// Where the links point.
    Target,
}

/// Lists in what two NARs differ, in the order in which a NAR has its entries: a directory before what is below it, and
/// names by their bytes. It is empty for equal NARs, and only for those.
#[must_use]
pub fn compare<'a>(first: &'a Inventory, second: &'a Inventory) -> Vec<Difference<'a>> {
    let (mut first, mut second) = (first.items(), second.items());
    let mut differences = Vec::new();
    loop {
        let order = match (first.first(), second.first()) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(first), Some(second)) => tree_order(&first.path, &second.path),
        };
        differences.extend(match order {
            Ordering::Less => take_tree(&mut first).map(|item| item.differs(Change::OnlyInFirst(&item.entry))),
            Ordering::Greater => take_tree(&mut second).map(|item| item.differs(Change::OnlyInSecond(&item.entry))),
            Ordering::Equal => take_both(&mut first, &mut second),
        });
    }
}

impl Item {
    fn differs<'a>(&'a self, change: Change<'a>) -> Difference<'a> {
        Difference { path: &self.path, change }
    }
}

/// Takes the next item away, and all that is below it.
fn take_tree<'a>(items: &mut &'a [Item]) -> Option<&'a Item> {
    let (item, after) = items.split_first()?;
    *items = &after[item.entry.below()..];
    Some(item)
}

/// Takes the next item of both, which have the same path, and compares them. What is below two directories is left to be
/// compared; what is below one that has no counterpart is taken, too.
fn take_both<'a>(first: &mut &'a [Item], second: &mut &'a [Item]) -> Option<Difference<'a>> {
    let (a, b) = (first.first()?, second.first()?);
    let aspects = aspects(&a.entry, &b.entry);
    if aspects.contains(&Aspect::Type) {
        take_tree(first);
        take_tree(second);
    } else {
        (*first, *second) = (&first[1..], &second[1..]);
    }
    if aspects.is_empty() {
        return None;
    }
    Some(a.differs(Change::InBoth { first: &a.entry, second: &b.entry, aspects }))
}

/// Lists in what two entries at the same path differ, without what is below them.
fn aspects(first: &NarEntry, second: &NarEntry) -> Vec<Aspect> {
    use NarEntry::{Directory, Regular, Symlink};
    let found = match (first, second) {
        (Directory { .. }, Directory { .. }) => vec![],
        (Symlink { target: a }, Symlink { target: b }) => vec![(Aspect::Target, a != b)],
        (
            Regular { executable: a_executable, size: a_size, sha256: a_sha256 },
            Regular { executable: b_executable, size: b_size, sha256: b_sha256 },
        ) => vec![
            (Aspect::Executable, a_executable != b_executable),
            (Aspect::Size, a_size != b_size),
            (Aspect::Contents, a_sha256 != b_sha256),
        ],
        _ => vec![(Aspect::Type, true)],
    };
    found.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect()
}

/// Finds the offset of the first byte in which two contents differ; where one is the beginning of the other, its length.
/// Equal contents have none.
#[must_use]
pub fn first_difference(first: &[u8], second: &[u8]) -> Option<u64> {
    let common = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    (common < first.len().max(second.len())).then_some(common as u64)
}
