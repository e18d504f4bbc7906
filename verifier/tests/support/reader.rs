//! Readers that behave as badly as they may.

use std::io::{self, Read};

use super::nar::{empty_directory, token, tokens};

/// Gives at most so many bytes at a time, by turns, and is interrupted before each piece.
pub struct Dribble<'a> {
    bytes: &'a [u8],
    sizes: &'a [usize],
    turn: usize,
    interrupted: bool,
}

impl<'a> Dribble<'a> {
    pub fn new(bytes: &'a [u8], sizes: &'a [usize]) -> Self {
        Self { bytes, sizes, turn: 0, interrupted: false }
    }
}

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let size = self.sizes[self.turn % self.sizes.len()].min(self.bytes.len()).min(buffer.len());
        self.turn += 1;
        let (now, later) = self.bytes.split_at(size);
        buffer[..size].copy_from_slice(now);
        self.bytes = later;
        Ok(size)
    }
}

/// Gives some bytes, and then fails.
pub struct Broken<'a>(pub &'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::Error::other("the connection is gone"));
        }
        self.0.read(buffer)
    }
}

/// A directory of so many entries, written as it is read: it would not fit into a test's memory.
pub struct Wide {
    /// How many were not asked for yet.
    pub left: u32,
    entry: Vec<u8>,
    waiting: Vec<u8>,
    at: usize,
}

impl Wide {
    pub fn new(entries: u32) -> Self {
        let waiting = tokens(&[b"nix-archive-1", b"(", b"type", b"directory"]);
        Self { left: entries, entry: empty_directory(&[0; 8]), waiting, at: 0 }
    }

    /// Names the next entry: eight letters that rise.
    fn push(&mut self) {
        let letter = |index: u32| b'a' + u8::try_from((u32::MAX - self.left) >> (4 * index) & 15).expect("four bits");
        let name: [u8; 8] = std::array::from_fn(|index| letter(7 - u32::try_from(index).expect("small")));
        self.entry[56..64].copy_from_slice(&name);
        self.waiting.extend_from_slice(&self.entry);
        self.left -= 1;
    }
}

impl Read for Wide {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.waiting.len() && self.left > 0 {
            (self.waiting, self.at) = (Vec::new(), 0);
            (0..self.left.min(1000)).for_each(|_| self.push());
            if self.left == 0 {
                self.waiting.extend(token(b")"));
            }
        }
        let count = buffer.len().min(self.waiting.len() - self.at);
        buffer[..count].copy_from_slice(&self.waiting[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
