//! The framing: what is written is read back, in pieces of whatever size, and nothing else is read as anything.

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use store_backend::wire::{
    ByteSource, ErrorMessage, Field, FrameWriter, Frames, Message, Reader, StringLimit, WireError, Writer,
};
use support::cases;
use support::pieces::{any_sizes, pieces, reader, run, written};
use support::words::Words;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Word(u64),
    Flag(bool),
    Bytes(Vec<u8>),
    Text(String),
    Texts(Vec<String>),
}

impl Value {
    fn write(&self, writer: &mut Writer<Vec<u8>>) {
        match self {
            Self::Word(word) => writer.put_u64(*word),
            Self::Flag(flag) => writer.put_flag(*flag),
            Self::Bytes(bytes) => writer.put_bytes(bytes),
            Self::Text(text) => writer.put_str(text),
            Self::Texts(texts) => writer.put_strings(texts.iter()),
        }
    }

    /// Reads a value of the same kind.
    async fn again<S: store_backend::wire::ByteSource>(&self, reader: &mut Reader<S>) -> Result<Self, WireError> {
        Ok(match self {
            Self::Word(_) => Self::Word(reader.u64().await?),
            Self::Flag(_) => Self::Flag(reader.flag().await?),
            Self::Bytes(_) => Self::Bytes(reader.bytes("bytes", StringLimit::Short).await?),
            Self::Text(_) => Self::Text(reader.string("a text", StringLimit::Short).await?),
            Self::Texts(_) => Self::Texts(reader.strings("a text").await?),
        })
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::Word),
        any::<bool>().prop_map(Value::Flag),
        vec(any::<u8>(), 0..200).prop_map(Value::Bytes),
        any::<String>().prop_map(Value::Text),
        vec(any::<String>(), 0..6).prop_map(Value::Texts),
    ]
}

/// Reads a framed stream to its end, for nobody.
async fn drained<S: ByteSource>(frames: &mut Frames<'_, S>) -> Result<(), WireError> {
    let (to, nobody) = tokio::sync::mpsc::channel(1);
    drop(nobody);
    frames.pump(to).await
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn what_is_written_is_read_back(values in vec(any_value(), 0..12), sizes in any_sizes()) {
        let bytes = written(|writer| values.iter().for_each(|value| value.write(writer)));
        let mut reader = Reader::new(pieces(&bytes, &sizes));
        for value in &values {
            let read = run(value.again(&mut reader)).expect("what was written is well formed");
            prop_assert_eq!(&read, value);
        }
        prop_assert!(run(reader.is_at_end()).expect("memory can be read"));
    }

    #[test]
    fn a_value_that_breaks_off_is_an_error(value in any_value()) {
        let bytes = written(|writer| value.write(writer));
        for length in 0..bytes.len() {
            let read = run(value.again(&mut reader(&bytes[..length])));
            prop_assert!(matches!(read, Err(WireError::Ended(_))), "{length} of {}: {read:?}", bytes.len());
        }
    }

    #[test]
    fn a_framed_stream_has_its_payload_however_it_is_cut(
        payload in vec(any::<u8>(), 0..5_000),
        frames in any_sizes(),
        sizes in any_sizes(),
    ) {
        let mut bytes = Words::new();
        let mut left = &payload[..];
        for size in frames.iter().cycle() {
            let (now, later) = left.split_at((*size).min(left.len()));
            if now.is_empty() {
                break;
            }
            bytes = bytes.u64(now.len() as u64).raw(now);
            left = later;
        }
        let bytes = bytes.u64(0).u64(0xA5).0;
        let mut reader = Reader::new(pieces(&bytes, &sizes));
        let (read, after) = run(async {
            let mut read = Vec::new();
            let mut stream = Frames::new(&mut reader);
            loop {
                let chunk = stream.chunk().await.expect("the frames are well formed");
                if chunk.is_empty() {
                    break;
                }
                read.extend_from_slice(&chunk);
            }
            assert!(stream.chunk().await.expect("the end stays").is_empty());
            (read, reader.u64().await.expect("what follows is still there"))
        });
        prop_assert_eq!(read, payload);
        prop_assert_eq!(after, 0xA5);
    }

    #[test]
    fn framed_pieces_are_read_back(written_pieces in vec(vec(any::<u8>(), 0..500), 0..8)) {
        let bytes = run(async {
            let mut writer = Writer::new(Vec::new());
            let mut frames = FrameWriter::new(&mut writer);
            for piece in &written_pieces {
                frames.write(piece).await.expect("memory can be written to");
            }
            frames.finish().await.expect("memory can be written to");
            writer.into_inner()
        });
        let mut reader = reader(&bytes);
        let read = run(async {
            let mut inner = Reader::new(Frames::new(&mut reader));
            let mut read = Vec::new();
            while !inner.is_at_end().await.expect("the frames are well formed") {
                read.extend_from_slice(&inner.take(u64::MAX).await.expect("the frames are well formed"));
            }
            read
        });
        prop_assert_eq!(read, written_pieces.concat());
        prop_assert!(run(reader.is_at_end()).expect("memory can be read"));
    }

    #[test]
    fn frames_that_break_off_are_an_error(payload in vec(any::<u8>(), 0..100), frame in 1..40_usize) {
        let bytes = Words::new().framed(&payload, frame).0;
        for length in 0..bytes.len() {
            let mut reader = reader(&bytes[..length]);
            prop_assert!(run(drained(&mut Frames::new(&mut reader))).is_err(), "{length} of {}", bytes.len());
        }
        let mut reader = reader(&bytes);
        prop_assert!(run(drained(&mut Frames::new(&mut reader))).is_ok());
    }

    #[test]
    fn messages_are_read_back(messages in vec(any_message(), 0..6), sizes in any_sizes()) {
        let bytes = written(|writer| messages.iter().for_each(|message| message.write(writer)));
        let mut reader = Reader::new(pieces(&bytes, &sizes));
        for message in &messages {
            let read = run(Message::read(&mut reader)).expect("what was written is well formed");
            prop_assert_eq!(&read, message);
        }
        prop_assert!(run(reader.is_at_end()).expect("memory can be read"));
    }

    #[test]
    fn a_message_that_breaks_off_is_an_error(message in any_message()) {
        let bytes = written(|writer| message.write(writer));
        for length in 0..bytes.len() {
            prop_assert!(run(Message::read(&mut reader(&bytes[..length]))).is_err());
        }
    }

    #[test]
    fn whatever_bytes_come_nothing_panics(bytes in vec(any::<u8>(), 0..200), value in any_value()) {
        let _whatever = run(Message::read(&mut reader(&bytes)));
        let _whatever = run(value.again(&mut reader(&bytes)));
        let _whatever = run(drained(&mut Frames::new(&mut reader(&bytes))));
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let field = prop_oneof![any::<u64>().prop_map(Field::Number), any::<String>().prop_map(Field::Text)];
    let fields = vec(field, 0..4);
    prop_oneof![
        any::<String>().prop_map(Message::Next),
        any::<u64>().prop_map(Message::Read),
        vec(any::<u8>(), 0..50).prop_map(Message::Write),
        (any::<[u64; 4]>(), any::<String>(), fields.clone()).prop_map(|([id, level, kind, parent], text, fields)| {
            Message::StartActivity { id, level, kind, text, fields, parent }
        }),
        any::<u64>().prop_map(Message::StopActivity),
        (any::<[u64; 2]>(), fields).prop_map(|([id, kind], fields)| Message::Result { id, kind, fields }),
        (any::<u64>(), any::<String>(), vec(any::<String>(), 0..3))
            .prop_map(|(level, text, traces)| Message::Error(ErrorMessage { level, text, traces })),
        Just(Message::Last),
    ]
}

#[test]
fn every_padding_bit_has_to_be_zero() {
    for length in 1..=17_usize {
        let bytes = Words::new().bytes(&vec![b'x'; length]).0;
        for bit in (8 + length) * 8..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = run(reader(&flipped).bytes("bytes", StringLimit::Short));
            assert!(matches!(read, Err(WireError::Padding("bytes"))), "{length} bytes, bit {bit}: {read:?}");
        }
        assert!(run(reader(&bytes).bytes("bytes", StringLimit::Short)).is_ok());
    }
}

#[test]
fn a_string_is_no_longer_than_its_limit() {
    for limit in [StringLimit::Short, StringLimit::Long] {
        let most = limit.bytes();
        let at = Words::new().bytes(&vec![b'x'; most as usize]).0;
        assert_eq!(run(reader(&at).bytes("bytes", limit)).expect("at the limit").len() as u64, most);
        // Beyond it nothing is read, let alone allocated: no bytes follow.
        for length in [most + 1, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 7, u64::MAX] {
            let read = run(reader(&Words::new().u64(length).0).bytes("bytes", limit));
            let refused = matches!(read, Err(WireError::TooLong { got, limit, .. }) if got == length && limit == most);
            assert!(refused, "{length}: {read:?}");
        }
    }
}

#[test]
fn a_list_has_no_more_items_than_could_come() {
    for count in [1 << 20, 1 << 32, 1 << 63, u64::MAX] {
        let read = run(reader(&Words::new().u64(count).0).strings("an item"));
        assert!(matches!(read, Err(WireError::TooLong { got, .. }) if got == count), "{count}: {read:?}");
    }
    // Fewer may be announced, but they have to come.
    let read = run(reader(&Words::new().u64(1000).str("one").0).strings("an item"));
    assert!(matches!(read, Err(WireError::Ended(_))), "{read:?}");
}

#[test]
fn the_strings_of_a_request_share_one_budget() {
    let long = Words::new().bytes(&vec![b'x'; StringLimit::Long.bytes() as usize]).0;
    let mut many = reader(&long.repeat(4));
    run(async {
        for _ in 0..2 {
            many.bytes("bytes", StringLimit::Long).await.expect("two fit into 24 MiB");
        }
        let third = many.bytes("bytes", StringLimit::Long).await;
        assert!(matches!(third, Err(WireError::TooLong { .. })), "with what each costs besides, three do not");
    });
    // Empty strings cost something too: otherwise they would be free memory for whoever sends them.
    let mut empty = reader(&Words::new().u64(0).0.repeat(1_000_000));
    let read = run(async {
        let mut read = 0_u64;
        while empty.bytes("bytes", StringLimit::Short).await.is_ok() {
            read += 1;
        }
        read
    });
    assert_eq!(read, (24 << 20) / 32);
    // The next request has a budget of its own.
    let mut again = reader(&long.repeat(4));
    run(async {
        for _ in 0..4 {
            again.bytes("bytes", StringLimit::Long).await.expect("each fits");
            again.renew_budget();
        }
    });
}

#[test]
fn names_are_utf_8_and_logs_are_made_so() {
    let invalid = Words::new().bytes(b"caf\xe9").0;
    let read = run(reader(&invalid).string("a name", StringLimit::Short));
    assert!(matches!(read, Err(WireError::Unexpected { expected: "UTF-8", .. })), "{read:?}");
    let line = Words::new().u64(0x6f6c_6d67).bytes(b"caf\xe9").0;
    assert_eq!(run(Message::read(&mut reader(&line))).expect("a line"), Message::Next("caf\u{fffd}".into()));
}

#[test]
fn anything_but_zero_is_yes() {
    for (word, expected) in [(0, false), (1, true), (2, true), (u64::MAX, true)] {
        assert_eq!(run(reader(&Words::new().u64(word).0).flag()).expect("a word"), expected);
    }
}

#[test]
fn a_frame_may_announce_more_than_ever_comes() {
    for length in [1 << 63, u64::MAX] {
        let bytes = Words::new().u64(length).raw(b"only this").0;
        let mut reader = reader(&bytes);
        let mut frames = Frames::new(&mut reader);
        assert_eq!(&run(frames.chunk()).expect("what came is handed out")[..], b"only this");
        assert!(matches!(run(frames.chunk()), Err(WireError::Ended("a frame"))));
    }
}

#[test]
fn messages_that_no_server_sends_are_refused() {
    let error = |kind: &str, position: u64| {
        let words = Words::new().u64(0x6378_7470).str(kind).u64(0).str("Error").str("no").u64(position).u64(0);
        run(Message::read(&mut reader(&words.0)))
    };
    assert!(error("Error", 0).is_ok());
    assert!(matches!(error("Warning", 0), Err(WireError::Unexpected { expected: "Error", .. })));
    assert!(matches!(error("Error", 1), Err(WireError::Unexpected { .. })));
    for word in [0, 1, 0x6f6c_6d68, u64::MAX] {
        assert!(run(Message::read(&mut reader(&Words::new().u64(word).0))).is_err());
    }
    let strange_field = Words::new().u64(0x5253_4c54).u64(1).u64(1).u64(1).u64(2).u64(0).0;
    assert!(run(Message::read(&mut reader(&strange_field))).is_err());
}
