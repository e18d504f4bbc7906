//! The inventory of a NAR: what is at each path, with a hash in place of contents.

use std::cmp::Ordering;
use std::io::{self, Read};

use nix_archive::nar::Event;
use sha2::{Digest, Sha256};

use super::entries::{EntryEvent, read_entries};
use crate::nar::NarError;

/// What a NAR has at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarEntry {
    /// A directory.
    Directory {
        /// The number of entries below it, at any depth.
        entries: usize,
    },
    /// A regular file.
    Regular {
        /// Whether its executable bit is set.
        executable: bool,
        /// Its length in bytes.
        size: u64,
        /// The SHA-256 of its contents.
        sha256: [u8; 32],
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as it is written there.
        target: Vec<u8>,
    },
}

impl NarEntry {
    /// Counts what comes behind this entry in its NAR and is below it.
    pub(super) fn below(&self) -> usize {
        match self {
            Self::Directory { entries } => *entries,
            Self::Regular { .. } | Self::Symlink { .. } => 0,
        }
    }
}

/// What is in one NAR. Memory stays below half a gigabyte whatever its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// As the NAR has them, which is in [`tree_order`]: what is below a directory comes right behind it.
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) path: Box<[u8]>,
    pub(super) entry: NarEntry,
}

impl Inventory {
    /// Reads one whole NAR, which must be all that `reader` has. It is checked as by [`digest_nar`](crate::digest_nar), but
    /// for its hash: that these are the bytes which somebody vouched for is for the reader's owner to know.
    ///
    /// # Errors
    /// When the bytes are no NAR, have more than a million entries or 256 MiB of paths and link targets, or cannot be read.
    pub fn read<R: Read>(reader: R) -> Result<Self, NarError> {
        let mut items = Vec::new();
        // For each open directory, where it stands among the items.
        let mut open = Vec::new();
        read_entries(reader, |path, event| {
            match event {
                Event::DirectoryStart { .. } => open.push(items.len()),
                Event::DirectoryEnd { .. } => {
                    close_directory(&mut items, open.pop());
                    return Ok(());
                }
                Event::Symlink { .. } | Event::Regular { .. } => {}
            }
            items.push(Item { path: path.into(), entry: entry(event)? });
            Ok(())
        })?;
        Ok(Self { items })
    }

    /// Lists all entries with their full paths, in the NAR's order: the root, whose path is empty, then a directory before
    /// what is below it, and names by their bytes. A path has no slash in front.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &NarEntry)> {
        self.items.iter().map(|item| (&*item.path, &item.entry))
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }
}

/// Reads what begins here; the contents of a directory are not known yet.
fn entry<R: Read>(event: EntryEvent<'_, R>) -> io::Result<NarEntry> {
    Ok(match event {
        Event::DirectoryStart { .. } | Event::DirectoryEnd { .. } => NarEntry::Directory { entries: 0 },
        Event::Symlink { target, .. } => NarEntry::Symlink { target: target.to_vec() },
        Event::Regular { executable, mut contents, .. } => {
            let mut hasher = Sha256::new();
            contents.copy_to(&mut hasher)?;
            NarEntry::Regular { executable, size: contents.size(), sha256: hasher.finalize().into() }
        }
    })
}

/// Counts what came since a directory began.
fn close_directory(items: &mut [Item], index: Option<usize>) {
    if let Some((directory, below)) = index.and_then(|index| items[index..].split_first_mut()) {
        directory.entry = NarEntry::Directory { entries: below.len() };
    }
}

/// Compares two paths as a NAR orders them, name by name. A slash ends a name, so it comes before every byte in one: `a/b`
/// before `a-b`.
pub(super) fn tree_order(first: &[u8], second: &[u8]) -> Ordering {
    let common = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    let rank = |path: &[u8]| path.get(common).map(|&byte| if byte == b'/' { 0 } else { byte });
    rank(first).cmp(&rank(second))
}
