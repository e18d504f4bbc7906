//! Decompression of what somebody else compressed, in bounded memory, telling damage from failure.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brotli_decompressor::{BrotliDecoderParameter, Decompressor};
use bytes::Bytes;
use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use liblzma::stream::{CONCATENATED, Stream};
use nix_narinfo::Compression;
use thiserror::Error;
use zstd::zstd_safe::DParameter;

/// The largest zstd window that is accepted, as a power of two: 128 MiB, what `zstd --ultra -22` uses and `zstd -d` accepts.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The memory that xz may take, in bytes: `xz -9`, with its window of 64 MiB, takes 65 MiB.
const XZ_MEMORY_MAX: u64 = 80 << 20;

/// Bytes that are decompressed at a time, where a decoder leaves that to its caller.
const BLOCK: usize = 64 << 10;

/// Nix's names of compressions that narinfos have no word of their own for.
const BROTLI: &str = "br";
const DEFLATE: &str = "deflate";

/// Something is compressed in a way that is not read here. Whoever compressed it caused it.
#[derive(Debug, Error)]
#[error("compressed with {0}, which is not read here; zstd, xz, bzip2, gzip, br and none are")]
pub struct UnknownCompression(String);

/// Whether the checksums are looked at that what is compressed has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksums {
    /// They are all there is.
    Check,
    /// What comes out is held against a cryptographic hash, so that they say nothing more. Zstandard's take a seventh of the
    /// time.
    LeaveOut,
}

/// Returns a reader of what was compressed. It fails with `InvalidData` or `UnexpectedEof` where the bytes are damaged, and with
/// what its source says where that fails.
///
/// # Errors
/// [`UnknownCompression`].
pub(crate) fn decompress(
    compressed: Box<dyn Read + Send>,
    compression: &Compression,
    checksums: Checksums,
) -> Result<Box<dyn Read + Send>, UnknownCompression> {
    let not_read = |error: io::Error| UnknownCompression(format!("{compression} ({error})"));
    let failed = Arc::new(AtomicBool::new(false));
    let source = BufReader::with_capacity(BLOCK, Source { inner: compressed, failed: failed.clone() });
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Zstd => {
            let mut inner = zstd::stream::read::Decoder::with_buffer(source).map_err(not_read)?;
            inner.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(not_read)?;
            inner.set_parameter(DParameter::ForceIgnoreChecksum(checksums == Checksums::LeaveOut)).map_err(not_read)?;
            Box::new(Decoder { inner, failed })
        }
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED);
            let stream = stream.map_err(|error| not_read(error.into()))?;
            Box::new(Decoder { inner: liblzma::bufread::XzDecoder::new_stream(source, stream), failed })
        }
        Compression::Bzip2 => Box::new(Decoder { inner: MultiBzDecoder::new(source), failed }),
        Compression::Gzip => Box::new(Decoder { inner: Gzip { unread: Some(source), decoder: None }, failed }),
        Compression::Other(name) if name == BROTLI => {
            let mut inner = Decompressor::new(source, BLOCK);
            // Its format has windows of 16 MiB at the most, but for those that would take a gigabyte.
            if !inner.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0) {
                return Err(UnknownCompression(format!("{name} (of which no limits can be set)")));
            }
            Box::new(Decoder { inner, failed })
        }
        Compression::Other(name) if name == DEFLATE => Box::new(Decoder { inner: ZlibDecoder::new(source), failed }),
        Compression::Other(name) => return Err(UnknownCompression(name.clone())),
    })
}

/// Undoes what a `Content-Encoding` says of an object: Nix's own caches have narinfos that are compressed for the transport.
///
/// # Errors
/// [`UnknownCompression`], also where it was compressed twice: what that comes to could not be bounded.
pub(crate) fn decode(
    encoded: Box<dyn Read + Send>,
    encoding: &str,
) -> Result<Box<dyn Read + Send>, UnknownCompression> {
    match coding(encoding)? {
        Compression::None => Ok(encoded),
        coding => decompress(encoded, &coding, Checksums::Check),
    }
}

/// As [`decode`], for an object of at most `limit` bytes, encoded and decoded.
///
/// # Errors
/// When it has more, is damaged, or is encoded in a way that is not read here.
pub(crate) async fn decode_whole(encoded: Bytes, encoding: &str, limit: u64) -> io::Result<Bytes> {
    let coding = coding(encoding).map_err(io::Error::other)?;
    if coding == Compression::None {
        return Ok(encoded);
    }
    let decoding = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let decoded =
            decompress(Box::new(io::Cursor::new(encoded)), &coding, Checksums::Check).map_err(io::Error::other)?;
        decoded.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("it has more than {limit} bytes")));
        }
        Ok(bytes.into())
    });
    decoding.await.map_err(io::Error::other)?
}

/// Returns what a `Content-Encoding` means.
fn coding(encoding: &str) -> Result<Compression, UnknownCompression> {
    let mut found = Compression::None;
    for coding in encoding.split(',').map(|coding| coding.trim().to_ascii_lowercase()) {
        let coding = match coding.as_str() {
            // The second is how a request came to S3 once, which some providers keep.
            "" | "identity" | "aws-chunked" => continue,
            "x-gzip" => Compression::Gzip,
            other => Compression::parse(other),
        };
        if std::mem::replace(&mut found, coding) != Compression::None {
            return Err(UnknownCompression(encoding.to_owned()));
        }
    }
    Ok(found)
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

/// A decoder of gzip. flate2's reads as soon as it is made, which may be where nobody may block.
struct Gzip<R> {
    unread: Option<R>,
    decoder: Option<MultiGzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(source) = self.unread.take() {
            self.decoder = Some(MultiGzDecoder::new(source));
        }
        self.decoder.as_mut().map_or(Ok(0), |decoder| decoder.read(buffer))
    }
}

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

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use super::*;

    const TEXT: &[u8] = b"a NAR, or what passes for one in this test; it repeats, it repeats, it repeats.";

    /// [`TEXT`], compressed by the brotli that Google publishes: only its decoder is used here.
    const BROTLI_TEXT: &[u8] = b"\
        \x1b\x4e\x00\xf8\x05\xfe\x73\x47\xfa\xe6\x2d\x90\x28\x90\x20\xb0\xe0\x5a\x27\x5d\xeb\x5f\x2b\xa2\x0b\x35\x1c\xc9\
        \x05\x38\x29\xc7\x8b\xd1\x67\x21\xfe\xfd\x7e\x4b\x32\xb1\xe3\x13\xd7\xf0\x4b\x1e\x17\x69\xca\x86\x27\x51\x54\x50\
        \x01";

    fn read(compressed: Vec<u8>, compression: &Compression) -> Result<Vec<u8>, ErrorKind> {
        let mut bytes = Vec::new();
        let opened = decompress(Box::new(Cursor::new(compressed)), compression, Checksums::Check);
        let opened = opened.expect("a compression that is read");
        opened.take(1 << 20).read_to_end(&mut bytes).map_err(|error| error.kind())?;
        Ok(bytes)
    }

    /// [`TEXT`] compressed with each: what Nix can have a cache compressed with, but for what nobody uses.
    fn compressed() -> Vec<(Compression, Vec<u8>)> {
        let all = |mut encoder: Box<dyn Read>| {
            let mut compressed = Vec::new();
            encoder.read_to_end(&mut compressed).expect("memory is enough");
            compressed
        };
        let gzip = flate2::read::GzEncoder::new(TEXT, flate2::Compression::default());
        let deflate = flate2::read::ZlibEncoder::new(TEXT, flate2::Compression::default());
        vec![
            (Compression::Zstd, zstd::encode_all(TEXT, 3).expect("memory is enough")),
            (Compression::Xz, all(Box::new(liblzma::read::XzEncoder::new(TEXT, 6)))),
            (Compression::Bzip2, all(Box::new(bzip2::read::BzEncoder::new(TEXT, bzip2::Compression::default())))),
            (Compression::Gzip, all(Box::new(gzip))),
            (Compression::Other(DEFLATE.into()), all(Box::new(deflate))),
            (Compression::Other(BROTLI.into()), BROTLI_TEXT.to_vec()),
        ]
    }

    #[test]
    fn reads_what_nix_writes() {
        assert_eq!(read(TEXT.to_vec(), &Compression::None), Ok(TEXT.to_vec()));
        for (compression, compressed) in compressed() {
            assert_eq!(read(compressed, &compression), Ok(TEXT.to_vec()), "{compression}");
        }
        let refused = decompress(Box::new(io::empty()), &Compression::Other("lrzip".into()), Checksums::Check).err();
        assert_eq!(
            refused.expect("lrzip is not read").to_string(),
            "compressed with lrzip, which is not read here; zstd, xz, bzip2, gzip, br and none are"
        );
    }

    #[test]
    fn what_was_written_in_several_streams_is_read_to_the_end() {
        for (compression, compressed) in compressed() {
            if matches!(&compression, Compression::Other(_)) {
                continue;
            }
            assert_eq!(read(compressed.repeat(2), &compression), Ok(TEXT.repeat(2)), "{compression}");
        }
    }

    #[test]
    fn damage_is_told_from_failure() {
        let damaged = |kind| matches!(kind, ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
        for (compression, compressed) in compressed() {
            for length in 1..compressed.len() {
                let cut = read(compressed[..length].to_vec(), &compression);
                assert!(cut.is_err_and(damaged), "{compression}, cut off after {length}");
            }
            let mut flipped = compressed.clone();
            flipped[0] ^= 1;
            match read(flipped, &compression) {
                Err(kind) => assert!(damaged(kind), "{compression}, flipped: {kind:?}"),
                // Brotli and zlib have no magic number, and brotli no checksum.
                Ok(bytes) => assert!(matches!(compression, Compression::Other(_)) && bytes != TEXT, "{compression}"),
            }
        }
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(ErrorKind::PermissionDenied))
            }
        }
        let compressions = compressed().into_iter().map(|(compression, _)| compression);
        for compression in compressions.chain([Compression::None]) {
            let opened = decompress(Box::new(Fails), &compression, Checksums::Check);
            let mut opened = opened.expect("a compression that is read");
            let kind = opened.read(&mut [0; 10]).expect_err("the source fails").kind();
            assert_eq!(kind, ErrorKind::PermissionDenied, "{compression}");
        }
    }

    #[test]
    fn zstandards_own_checksums_may_be_left_out() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("memory is enough");
        encoder.include_checksum(true).expect("it can");
        encoder.write_all(TEXT).expect("memory is enough");
        let mut compressed = encoder.finish().expect("memory is enough");
        *compressed.last_mut().expect("a checksum") ^= 1;
        let read = |checksums| {
            let mut bytes = Vec::new();
            let opened = decompress(Box::new(Cursor::new(compressed.clone())), &Compression::Zstd, checksums);
            let read = opened.expect("a compression that is read").read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(|error| error.kind())
        };
        assert_eq!(read(Checksums::Check), Err(ErrorKind::InvalidData));
        assert_eq!(read(Checksums::LeaveOut), Ok(TEXT.to_vec()));
    }

    /// Such a window takes a gigabyte, and what it holds a few bytes.
    #[test]
    fn no_window_is_larger_than_the_format_has() {
        // The byte that says that a large window follows, and a size of 2^30.
        let large = [&[0x11, 30], BROTLI_TEXT].concat();
        assert!(read(large, &Compression::Other(BROTLI.into())).is_err());
    }

    #[tokio::test]
    async fn what_was_encoded_for_the_transport_is_decoded() {
        let gzip = compressed().swap_remove(3).1;
        let decode = |encoded: &[u8], encoding: &'static str, limit| {
            decode_whole(Bytes::copy_from_slice(encoded), encoding, limit)
        };
        let limit = TEXT.len() as u64;
        for encoding in ["gzip", "GZIP", "x-gzip", "aws-chunked,gzip", " identity, gzip "] {
            assert_eq!(decode(&gzip, encoding, limit).await.expect(encoding), TEXT);
        }
        for encoding in ["", "identity", "aws-chunked"] {
            assert_eq!(decode(TEXT, encoding, limit).await.expect(encoding), TEXT);
        }
        let refused = async |encoded, encoding, limit| {
            decode(encoded, encoding, limit).await.expect_err("it cannot be read").to_string()
        };
        assert_eq!(refused(&gzip, "gzip", limit - 1).await, "it has more than 78 bytes");
        assert!(refused(&gzip, "compress", limit).await.contains("compressed with compress"));
        let twice = zstd::encode_all(&gzip[..], 3).expect("memory is enough");
        assert!(refused(&twice, "gzip, zstd", limit).await.contains("gzip, zstd"));
        assert!(!refused(&gzip[..gzip.len() - 1], "gzip", limit).await.is_empty());
    }
}
