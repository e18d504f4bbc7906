//! The wire: whatever bytes come, in whatever pieces, the same is read from them, and in bounded memory.
//!
//! Input: what to do, a number of lengths, those lengths (one byte each), and what comes in pieces of those lengths.
#![no_main]

use gauge::{Endless, Pieces, in_proportion, rarely, run, within};
use libfuzzer_sys::fuzz_target;
use store_backend::protocol::RawPathInfo;
use store_backend::wire::{
    ByteSource, FrameWriter, Frames, Message, Pumped, Reader, SocketSource, StringLimit, WireError, Writer,
};
use tokio::sync::mpsc;

/// Most bytes of memory that reading one thing from a peer who never stops may take: six times a request's budget.
/// Bytes that are not UTF-8 triple when they are shown; the lists that hold strings grow by doubling.
const ENDLESS: usize = 6 * (24 << 20);

fuzz_target!(|input: &[u8]| {
    let Some((&[what, count], rest)) = input.split_first_chunk() else { return };
    let (lengths, bytes) = rest.split_at(usize::from(count % 32).min(rest.len()));
    match what {
        250.. => rarely(|| endless(what, bytes)),
        _ => match what % 5 {
            0 => same_in_pieces(bytes, lengths, Wanted::Messages),
            1 => same_in_pieces(bytes, lengths, Wanted::Values),
            2 => same_in_pieces(bytes, lengths, Wanted::Frames),
            3 => same_in_pieces(bytes, lengths, Wanted::FramedValues),
            _ => framed_and_back(bytes, lengths),
        },
    }
});

/// What is read.
#[derive(Clone, Copy)]
enum Wanted {
    Messages,
    Values,
    Frames,
    FramedValues,
}

/// What was read, or why no more was.
#[derive(Debug, PartialEq)]
enum Seen {
    Word(u64),
    Bytes(Vec<u8>),
    Text(String),
    Texts(Vec<String>),
    Message(Message),
    Failed(String),
}

fn same_in_pieces(bytes: &[u8], lengths: &[u8], wanted: Wanted) {
    let whole = in_proportion(bytes.len(), || run(read(Reader::new(Pieces::new(bytes, &[])), wanted)));
    let pieces = in_proportion(bytes.len(), || run(read(Reader::new(Pieces::new(bytes, lengths)), wanted)));
    assert_eq!(whole, pieces, "what is read must not depend on how it comes");
    let socket = run(read(Reader::new(SocketSource::new(bytes)), wanted));
    assert_eq!(whole, socket, "a socket reads the same");
    for seen in whole {
        if let Seen::Message(message) = seen {
            let written = run(async {
                let mut writer = Writer::new(Vec::new());
                message.write(&mut writer);
                writer.flush().await.expect("a vector takes everything");
                writer.into_inner()
            });
            let read = run(Message::read(&mut Reader::new(Pieces::new(&written, &[])))).expect("what was written");
            assert_eq!(read, message, "a message is read as it was written");
        }
    }
}

async fn read<S: ByteSource>(mut reader: Reader<S>, wanted: Wanted) -> Vec<Seen> {
    let mut seen = Vec::new();
    let end = match wanted {
        Wanted::Messages => messages(&mut reader, &mut seen).await,
        Wanted::Values => values(&mut reader, &mut seen).await,
        Wanted::Frames => frames(&mut reader, &mut seen).await,
        Wanted::FramedValues => framed_values(&mut reader, &mut seen).await,
    };
    if let Err(error) = end {
        seen.push(Seen::Failed(error.to_string()));
    }
    seen
}

async fn messages<S: ByteSource>(reader: &mut Reader<S>, seen: &mut Vec<Seen>) -> Result<(), WireError> {
    while !reader.is_at_end().await? {
        reader.renew_budget();
        seen.push(Seen::Message(Message::read(reader).await?));
    }
    Ok(())
}

/// Reads values of kinds that the bytes themselves choose.
async fn values<S: ByteSource>(reader: &mut Reader<S>, seen: &mut Vec<Seen>) -> Result<(), WireError> {
    while !reader.is_at_end().await? {
        seen.push(match reader.u64().await? % 6 {
            0 => Seen::Word(reader.u64().await?),
            1 => Seen::Word(reader.flag().await?.into()),
            2 => Seen::Bytes(reader.bytes("bytes", StringLimit::Long).await?),
            3 => Seen::Text(reader.string("a text", StringLimit::Short).await?),
            4 => Seen::Texts(reader.strings("texts").await?),
            _ => {
                let most = reader.u64().await?;
                Seen::Bytes(taken(reader, most).await?)
            }
        });
    }
    Ok(())
}

/// Takes so many bytes, or all there are.
async fn taken<S: ByteSource>(reader: &mut Reader<S>, mut most: u64) -> Result<Vec<u8>, WireError> {
    let mut all = Vec::new();
    while most > 0 {
        let piece = reader.take(most).await?;
        if piece.is_empty() {
            break;
        }
        most -= piece.len() as u64;
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

async fn frames<S: ByteSource>(reader: &mut Reader<S>, seen: &mut Vec<Seen>) -> Result<(), WireError> {
    let mut frames = Frames::new(reader);
    let mut all = Vec::new();
    loop {
        let piece = frames.chunk().await?;
        if piece.is_empty() {
            break;
        }
        all.extend_from_slice(&piece);
    }
    assert!(frames.chunk().await?.is_empty(), "a framed stream ends once");
    seen.push(Seen::Bytes(all));
    seen.push(Seen::Bytes(taken(reader, u64::MAX).await?));
    Ok(())
}

/// Reads values from a framed stream, gives up at the first that is none, and goes on behind the stream's end.
async fn framed_values<S: ByteSource>(reader: &mut Reader<S>, seen: &mut Vec<Seen>) -> Result<(), WireError> {
    let mut frames = Frames::new(reader);
    let (to, pumped) = mpsc::channel(2);
    let values = async {
        let mut within = Reader::new(Pumped::new(pumped));
        Box::pin(values(&mut within, seen)).await
    };
    let (outcome, pumped) = tokio::join!(values, frames.pump(to));
    if let Err(error) = outcome {
        seen.push(Seen::Failed(error.to_string()));
    }
    pumped?;
    seen.push(Seen::Bytes(taken(reader, u64::MAX).await?));
    Ok(())
}

/// Writes bytes as frames of given lengths, and reads them from pieces of those lengths.
fn framed_and_back(bytes: &[u8], lengths: &[u8]) {
    let behind = 0x0123_4567_89ab_cdef;
    let written = run(async {
        let mut writer = Writer::new(Vec::new());
        let mut framed = FrameWriter::new(&mut writer);
        let mut source = Pieces::new(bytes, lengths);
        loop {
            let piece = source.chunk().await.expect("pieces never fail");
            if piece.is_empty() {
                break;
            }
            framed.write(&piece).await.expect("a vector takes everything");
        }
        framed.finish().await.expect("a vector takes everything");
        writer.put_u64(behind);
        writer.flush().await.expect("a vector takes everything");
        writer.into_inner()
    });
    let mut seen = Vec::new();
    run(async {
        let mut reader = Reader::new(Pieces::new(&written, lengths));
        frames(&mut reader, &mut seen).await.expect("what was written");
    });
    assert_eq!(seen, [Seen::Bytes(bytes.to_vec()), Seen::Bytes(behind.to_le_bytes().to_vec())]);
}

/// Reads one thing from a peer who never stops.
fn endless(what: u8, bytes: &[u8]) {
    let Some(source) = Endless::new(bytes) else { return };
    let mut reader = Reader::new(source);
    within(ENDLESS, || {
        run(async {
            match what % 3 {
                0 => drop(reader.strings("texts").await),
                1 => drop(Message::read(&mut reader).await),
                _ => drop(RawPathInfo::read(&mut reader).await),
            }
        });
    });
}
