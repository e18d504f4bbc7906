//! Contents that lie in a file system, hashed as the NAR that they make.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use nix_archive::nar::{CaseHack, Error as ArchiveError, encode_path};
use sha2::{Digest as _, Sha256};
use verifier::{AddressRequest, NarDigest, NarError, NarHash, digest_nar};

use super::Progress;

/// Bytes that are handed on at a time.
const BLOCK: usize = 64 << 10;

/// Blocks that may wait for whoever hashes them.
const WAITING: usize = 4;

/// Hashes what is at a place. Where only the NAR's own hash is wanted, nothing else is done with it: its structure is what was
/// written a moment before.
pub(super) fn digest_files(
    place: &Path,
    request: Option<&AddressRequest>,
    size: u64,
    progress: Arc<Progress>,
) -> Result<NarDigest, NarError> {
    let count = Count { passed: 0, size, progress };
    let Some(request) = request else {
        let mut sink = Hashing { sha256: Sha256::new(), count };
        let encoded = encode_path(&mut sink, place, CaseHack::Disabled);
        let offset = sink.count.passed;
        encoded.map_err(|error| NarError::Read { offset, source: understood(error) })?;
        let nar_hash = NarHash::from_sha256(sink.sha256.finalize().into());
        return Ok(NarDigest::of_hash(nar_hash, offset));
    };
    let (blocks, receiver) = sync_channel(WAITING);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut pipe = Pipe { blocks, block: Vec::with_capacity(BLOCK), count };
            let encoded = encode_path(&mut pipe, place, CaseHack::Disabled).map_err(understood);
            let end = encoded.and_then(|()| pipe.flush()).map(|()| Vec::new());
            // Whoever reads may have given up, and knows why.
            let _unread = pipe.blocks.send(end);
        });
        digest_nar(Blocks { receiver, block: Vec::new(), start: 0 }, Some(request))
    })
}

/// Tells what is wrong with what lies there from what is wrong with reading it.
fn understood(error: ArchiveError) -> io::Error {
    match error {
        // It was there when the walk began, so whoever removes it now is to blame.
        ArchiveError::Io(error) => error,
        ArchiveError::FileChanged(_) => io::Error::other(error.to_string()),
        error => io::Error::new(ErrorKind::InvalidData, error.to_string()),
    }
}

/// Counts the bytes of a NAR, and stops where there are more than are said to be there.
struct Count {
    passed: u64,
    size: u64,
    progress: Arc<Progress>,
}

impl Count {
    fn pass(&mut self, count: usize) -> io::Result<()> {
        self.passed += count as u64;
        self.progress.read(count);
        if self.passed > self.size {
            let why = format!("there are more than the stated {} bytes", self.size);
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        Ok(())
    }
}

/// Hashes what is written to it.
struct Hashing {
    sha256: Sha256,
    count: Count,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count.pass(bytes.len())?;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
