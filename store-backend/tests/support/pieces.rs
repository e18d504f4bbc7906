//! Bytes for the decoders, in pieces of any size, and back.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;
use store_backend::wire::{ByteSource, Reader, WireError, Writer};

/// A source that hands out the pieces that it was given.
pub struct Pieces(VecDeque<Bytes>);

impl ByteSource for Pieces {
    async fn chunk(&mut self) -> Result<Bytes, WireError> {
        Ok(self.0.pop_front().unwrap_or_default())
    }
}

/// Cuts bytes into pieces of these sizes, again and again from the first.
pub fn pieces(bytes: &[u8], sizes: &[usize]) -> Pieces {
    let mut left = bytes;
    let mut found = VecDeque::new();
    let mut sizes = sizes.iter().copied().filter(|size| *size > 0).cycle();
    while !left.is_empty() {
        let (now, later) = left.split_at(sizes.next().unwrap_or(usize::MAX).min(left.len()));
        found.push_back(Bytes::copy_from_slice(now));
        left = later;
    }
    Pieces(found)
}

/// A reader of bytes that come at once.
pub fn reader(bytes: &[u8]) -> Reader<Pieces> {
    Reader::new(pieces(bytes, &[]))
}

/// Sizes of pieces.
pub fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1..10_usize, 1..100_usize, 1..10_000_usize], 1..6)
}

/// What is written by whatever writes.
pub fn written(write: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    write(&mut writer);
    run(writer.flush()).expect("memory can be written to");
    writer.into_inner()
}

/// Runs what needs no more than to be waited for.
pub fn run<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}
