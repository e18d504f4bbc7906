//! The entries of a NAR with their full paths, while the archive passes by.

use std::io::{self, BufReader, Read};

use nix_archive::nar::{Error as ArchiveError, Event, ReadEvent, decode_events_reader};

use crate::nar::{NarError, check_name, check_target};

/// Most entries (files, links, directories) of a NAR that is compared. The largest real ones hold some hundred thousand;
/// each takes about 100 bytes of memory beside its path.
pub(crate) const MAX_ENTRIES: u64 = 1_000_000;

/// Most bytes that the full paths of all entries and the targets of all links may have together. A path has up to 16 KiB,
/// which costs a hostile NAR a few hundred bytes; a real NAR of a million entries needs about half of this.
pub(crate) const MAX_PATHS: u64 = 256 << 20;

/// Bytes read at a time.
const BLOCK: usize = 64 << 10;

/// What is at a path, its contents still to be read.
pub(super) type EntryEvent<'a, R> = ReadEvent<'a, Source<R>>;

/// Reads one whole NAR, which must be all that `reader` has, and hands out each event with the entry's full path. The end
/// of a directory has the directory's path.
///
/// # Errors
/// When the bytes are no NAR, pass a limit, or cannot be read. What was handed out before is void.
pub(super) fn read_entries<R: Read>(
    reader: R,
    mut visit: impl FnMut(&[u8], EntryEvent<'_, R>) -> io::Result<()>,
) -> Result<(), NarError> {
    let mut source = Source { inner: BufReader::with_capacity(BLOCK, reader), position: 0 };
    let mut walk = Walk::default();
    let decoded = decode_events_reader(&mut source, |event| {
        let opens = matches!(event, Event::DirectoryStart { .. });
        walk.enter(&event)?;
        visit(&walk.path, event)?;
        if !opens {
            walk.leave();
        }
        Ok(())
    });
    match walk.refused {
        Some(error) => Err(error),
        None => decoded.map_err(|error| NarError::after(source.position, error)),
    }
}

/// Where in the tree the reading is, and how much was seen of it.
#[derive(Default)]
struct Walk {
    path: Vec<u8>,
    /// For the entry that the path leads to and each directory above it, how long the path was before its name.
    parents: Vec<usize>,
    entries: u64,
    /// Bytes of paths and targets so far.
    bytes: u64,
    refused: Option<NarError>,
}

impl Walk {
    /// Checks and counts what begins here; nothing begins at a directory's end.
    fn enter<R: Read>(&mut self, event: &EntryEvent<'_, R>) -> Result<(), ArchiveError> {
        match *event {
            Event::DirectoryEnd { .. } => Ok(()),
            Event::DirectoryStart { name } | Event::Regular { name, .. } => self.descend(name, &[]),
            Event::Symlink { name, target } => {
                check_target(target)?;
                self.descend(name, target)
            }
        }
    }

    fn descend(&mut self, name: Option<&[u8]>, target: &[u8]) -> Result<(), ArchiveError> {
        check_name(name)?;
        self.parents.push(self.path.len());
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.unwrap_or_default());
        self.entries += 1;
        self.bytes += (self.path.len() + target.len()) as u64;
        if self.entries > MAX_ENTRIES {
            return Err(self.refuse(NarError::TooManyToCompare));
        }
        if self.bytes > MAX_PATHS {
            return Err(self.refuse(NarError::PathsTooLong));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.path.truncate(self.parents.pop().unwrap_or_default());
    }

    /// Notes what is wrong; the error itself only stops the reading.
    fn refuse(&mut self, why: NarError) -> ArchiveError {
        self.refused = Some(why);
        ArchiveError::TrailingBytes
    }
}

/// Reads in blocks and counts what it hands out.
pub(super) struct Source<R> {
    inner: BufReader<R>,
    position: u64,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    let count = result?;
                    self.position += count as u64;
                    return Ok(count);
                }
            }
        }
    }
}
