//! Contents that lie in a file system, hashed as the NAR that they make.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nix_archive::nar::{Encoder, Error as ArchiveError};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use verifier::{AddressRequest, NarDigest, NarError, digest_nar};

use super::hashing::{BLOCK, Count, Hashing};

/// Blocks that may wait for whoever hashes them.
const WAITING: usize = 4;

/// Hashes what is at a place. Where only the NAR's own hash is wanted, nothing else is done with it: its structure is what was
/// written a moment before.
pub(super) fn digest_files(
    place: &Path,
    request: Option<&AddressRequest>,
    count: Count,
) -> Result<NarDigest, NarError> {
    let Some(request) = request else {
        let mut sink = Hashing::new(count);
        let encoded = encode(&mut sink, place);
        encoded.map_err(|error| NarError::Read { offset: sink.passed(), source: understood(error) })?;
        return Ok(sink.finish());
    };
    let (blocks, receiver) = sync_channel(WAITING);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut pipe = Pipe { blocks, block: Vec::with_capacity(BLOCK), count };
            let encoded = encode(&mut pipe, place).map_err(understood);
            let end = encoded.and_then(|()| pipe.flush()).map(|()| Vec::new());
            // Whoever reads may have given up, and knows why.
            let _unread = pipe.blocks.send(end);
        });
        digest_nar(Blocks { receiver, block: Vec::new(), start: 0 }, Some(request))
    })
}

/// Writes the NAR of what is at a place.
///
/// Source: Nix `src/libutil/archive.cc`, `SourceAccessor::dumpPath`.
fn encode(sink: &mut impl Write, place: &Path) -> Result<(), ArchiveError> {
    let name = CString::new(place.as_os_str().as_encoded_bytes()).map_err(io::Error::from)?;
    let mut tree = Tree { encoder: Encoder::new(sink)?, block: vec![0; BLOCK], place };
    tree.node(CWD, &name, None, FileType::Unknown)?;
    tree.encoder.finish().map(drop)
}

/// What is at a place, on its way into a NAR.
struct Tree<'a, W> {
    encoder: Encoder<W>,
    block: Vec<u8>,
    place: &'a Path,
}

impl<W: Write> Tree<'_, W> {
    /// Writes a file, link or directory. Whatever else it becomes meanwhile, no link is followed. The encoder bounds how deep
    /// directories lie in each other.
    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        archived: Option<&[u8]>,
        kind: FileType,
    ) -> Result<(), ArchiveError> {
        let kind = match kind {
            // Not every file system says in a listing what it lists.
            FileType::Unknown => FileType::from_raw_mode(
                statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?.st_mode,
            ),
            known => known,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |more| openat(parent, name, flags | more, Mode::empty()).map_err(io::Error::from);
        match kind {
            FileType::RegularFile => self.regular(File::from(open(OFlags::empty())?), archived),
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(io::Error::from)?;
                self.encoder.symlink(archived, target.as_bytes())
            }
            FileType::Directory => {
                let directory = open(OFlags::DIRECTORY)?;
                let mut entries = Vec::new();
                for entry in Dir::read_from(&directory).map_err(io::Error::from)? {
                    let entry = entry.map_err(io::Error::from)?;
                    if ![c".", c".."].contains(&entry.file_name()) {
                        entries.push((entry.file_name().to_owned(), entry.file_type()));
                    }
                }
                entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
                self.encoder.start_directory(archived)?;
                for (name, kind) in &entries {
                    self.node(directory.as_fd(), name, Some(name.to_bytes()), *kind)?;
                }
                self.encoder.end_directory()
            }
            _ => Err(ArchiveError::UnsupportedFileType(at(self.place, archived))),
        }
    }

    fn regular(&mut self, mut file: File, archived: Option<&[u8]>) -> Result<(), ArchiveError> {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ArchiveError::FileChanged(at(self.place, archived)));
        }
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let mut left = metadata.len();
        let mut contents = self.encoder.start_regular(archived, executable, left)?;
        // Where all of it has come, whether there is more is not worth another question: who writes to it is caught anyway.
        while left > 0 {
            let count = match file.read(&mut self.block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            left = match left.checked_sub(count as u64) {
                Some(rest) if count > 0 => rest,
                _ => return Err(ArchiveError::FileChanged(at(self.place, archived))),
            };
            contents.write_all(&self.block[..count])?;
        }
        contents.finish()
    }
}

/// Names what is at a place, or somewhere below it, for a person.
fn at(place: &Path, archived: Option<&[u8]>) -> PathBuf {
    archived.map_or_else(|| place.to_owned(), |name| place.join(String::from_utf8_lossy(name).as_ref()))
}

/// Tells what is wrong with what lies there from what is wrong with reading it.
fn understood(error: ArchiveError) -> io::Error {
    match error {
        // It was there when the walk began, so whoever removes it now is to blame.
        ArchiveError::Io(error) => error,
        ArchiveError::FileChanged(_) => io::Error::other(error.to_string()),
        ArchiveError::MaxDepth(_) => io::Error::new(ErrorKind::Unsupported, error.to_string()),
        error => io::Error::new(ErrorKind::InvalidData, error.to_string()),
    }
}

/// Hands on what is written to it, in blocks. An empty one is the end.
struct Pipe {
    blocks: SyncSender<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    count: Count,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count.pass(bytes.len())?;
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.blocks.send(Ok(block)).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))
    }
}

/// Blocks from a channel.
struct Blocks {
    receiver: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    start: usize,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.block.len() {
            self.block = self.receiver.recv().map_err(|_| io::Error::from(ErrorKind::BrokenPipe))??;
            self.start = 0;
        }
        let count = buffer.len().min(self.block.len() - self.start);
        buffer[..count].copy_from_slice(&self.block[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}
