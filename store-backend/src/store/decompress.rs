//! Decompression of what somebody else compressed, in bounded memory, telling damage from failure.

use std::io::{self, BufReader, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use liblzma::stream::{CONCATENATED, Stream};
use nix_narinfo::Compression;

use super::StoreError;
use super::reading::{NarFile, ReadNar};

/// The largest zstd window that is accepted, as a power of two: 128 MiB, what `zstd --ultra -22` uses and `zstd -d` accepts.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The memory that xz may take, in bytes: `xz -9`, with its window of 64 MiB, takes 65 MiB.
const XZ_MEMORY_MAX: u64 = 80 << 20;

/// Returns a reader of what a NAR's file holds.
///
/// # Errors
/// When it is compressed in a way that is not read here.
pub(super) fn decompress(compressed: Box<dyn Read + Send>, file: &NarFile) -> Result<Box<dyn ReadNar>, StoreError> {
    let not_read = |found: String| StoreError::Compression { url: file.url.clone(), found };
    let failed = Arc::new(AtomicBool::new(false));
    let source = Source { inner: compressed, failed: failed.clone() };
    Ok(match &file.compression {
        Compression::None => Box::new(source),
        Compression::Zstd => {
            let mut inner =
                zstd::stream::read::Decoder::new(source).map_err(|error| not_read(format!("zstd ({error})")))?;
            inner.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| not_read(format!("zstd ({error})")))?;
            Box::new(Decoder { inner, failed })
        }
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED);
            let stream = stream.map_err(|error| not_read(format!("xz ({error})")))?;
            let inner = liblzma::bufread::XzDecoder::new_stream(BufReader::new(source), stream);
            Box::new(Decoder { inner, failed })
        }
        other => return Err(not_read(other.to_string())),
    })
}

/// The compressed bytes; it notes whether reading them failed.
struct Source {
    inner: Box<dyn Read + Send>,
    failed: Arc<AtomicBool>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        if read.as_ref().is_err_and(|error| error.kind() != ErrorKind::Interrupted) {
            self.failed.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl ReadNar for Source {}

/// A decoder whose errors are damage, unless its source failed or it would need more memory than it may have.
struct Decoder<R> {
    inner: R,
    failed: Arc<AtomicBool>,
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let limited = ["memory", "Memory"].iter().any(|word| error.to_string().contains(word));
            if limited || error.kind() == ErrorKind::Interrupted || self.failed.load(Ordering::Relaxed) {
                error
            } else {
                io::Error::new(ErrorKind::InvalidData, error)
            }
        })
    }
}

impl<R: Read + Send> ReadNar for Decoder<R> {}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const TEXT: &[u8] = b"a NAR, or what passes for one in this test; it repeats, it repeats, it repeats.";

    fn read(compressed: Vec<u8>, compression: Compression) -> Result<Vec<u8>, ErrorKind> {
        let file = NarFile { url: "nar/x".into(), compression, size: None };
        let mut bytes = Vec::new();
        let opened = decompress(Box::new(Cursor::new(compressed)), &file).expect("a compression that is read");
        opened.take(1 << 20).read_to_end(&mut bytes).map_err(|error| error.kind())?;
        Ok(bytes)
    }

    fn xz(text: &[u8]) -> Vec<u8> {
        let mut compressed = Vec::new();
        liblzma::read::XzEncoder::new(text, 6).read_to_end(&mut compressed).expect("memory is enough");
        compressed
    }

    #[test]
    fn reads_what_nix_writes() {
        let zstd = zstd::encode_all(TEXT, 3).expect("memory is enough");
        for (compressed, compression) in
            [(TEXT.to_vec(), Compression::None), (zstd, Compression::Zstd), (xz(TEXT), Compression::Xz)]
        {
            assert_eq!(read(compressed, compression.clone()), Ok(TEXT.to_vec()), "{compression}");
        }
        let file = NarFile { url: "nar/x.bz2".into(), compression: Compression::Bzip2, size: None };
        let refused = decompress(Box::new(io::empty()), &file).err().expect("bzip2 is not read");
        assert_eq!(
            refused.to_string(),
            "nar/x.bz2 is compressed with bzip2, which is not read here; zstd, xz and none are"
        );
    }

    #[test]
    fn damage_is_told_from_failure() {
        let damaged = |kind| matches!(kind, ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
        let zstd = zstd::encode_all(TEXT, 3).expect("memory is enough");
        for (compressed, compression) in [(zstd, Compression::Zstd), (xz(TEXT), Compression::Xz)] {
            let cut = compressed[..compressed.len() - 5].to_vec();
            assert!(read(cut, compression.clone()).is_err_and(damaged), "{compression}, cut off");
            let mut flipped = compressed.clone();
            flipped[0] ^= 1;
            assert!(read(flipped, compression.clone()).is_err_and(damaged), "{compression}, flipped");
        }
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(ErrorKind::PermissionDenied))
            }
        }
        for compression in [Compression::Zstd, Compression::Xz, Compression::None] {
            let file = NarFile { url: "nar/x".into(), compression, size: None };
            let mut opened = decompress(Box::new(Fails), &file).expect("a compression that is read");
            let kind = opened.read(&mut [0; 10]).expect_err("the source fails").kind();
            assert_eq!(kind, ErrorKind::PermissionDenied);
        }
    }
}
