//! What a server says before its answer: log lines, activities, the answer's beginning, or an error.

use tokio::io::AsyncWrite;

use super::reader::StringLimit;
use super::{ByteSource, Reader, WireError, Writer};

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// Nix's levels of verbosity; a client shows what is at or below its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Always shown.
    Error = 0,
    /// Shown by default.
    Info = 3,
    /// Shown with `-v`.
    Talkative = 4,
}

/// Nix's kinds of activity, as far as this server has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityKind {
    /// One without progress of its own.
    Unknown = 0,
    /// The verification of paths.
    VerifyPaths = 108,
}

/// A field of an activity or a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// An error as it goes over the wire since 1.26. Nix reads positions but can take none but 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorMessage {
    /// Its level; 0 is an error.
    pub level: u64,
    /// What it says.
    pub text: String,
    /// What it happened in, innermost first.
    pub traces: Vec<String>,
}

impl ErrorMessage {
    /// Makes an error without traces.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { level: 0, text: text.into(), traces: Vec::new() }
    }
}

/// One message of the server's side channel.
///
/// Source: Nix `src/libstore/daemon.cc`, `TunnelLogger`; `src/libstore/worker-protocol-connection.cc`,
/// `processStderrReturn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A line of log for the person at the other end.
    Next(String),
    /// The server asks for up to so many bytes (before 1.23).
    Read(u64),
    /// The server sends bytes of a stream (before 1.23).
    Write(Vec<u8>),
    /// An activity begins.
    StartActivity {
        /// Its number in this session.
        id: u64,
        /// From which verbosity on it is shown.
        level: u64,
        /// An [`ActivityKind`].
        kind: u64,
        /// What is being done.
        text: String,
        /// What depends on the kind.
        fields: Vec<Field>,
        /// The activity that it is part of; 0 for none.
        parent: u64,
    },
    /// An activity ends.
    StopActivity(u64),
    /// An activity has come so far.
    Result {
        /// The activity.
        id: u64,
        /// Which kind of result.
        kind: u64,
        /// What depends on the kind.
        fields: Vec<Field>,
    },
    /// The operation failed; there is no answer.
    Error(ErrorMessage),
    /// The answer follows.
    Last,
}

impl Message {
    /// Writes the message.
    pub fn write<W: AsyncWrite + Unpin + Send>(&self, writer: &mut Writer<W>) {
        match self {
            Self::Next(text) => {
                writer.put_u64(NEXT);
                writer.put_str(text);
            }
            Self::Read(most) => {
                writer.put_u64(READ);
                writer.put_u64(*most);
            }
            Self::Write(bytes) => {
                writer.put_u64(WRITE);
                writer.put_bytes(bytes);
            }
            Self::StartActivity { id, level, kind, text, fields, parent } => {
                for word in [START_ACTIVITY, *id, *level, *kind] {
                    writer.put_u64(word);
                }
                writer.put_str(text);
                put_fields(writer, fields);
                writer.put_u64(*parent);
            }
            Self::StopActivity(id) => {
                writer.put_u64(STOP_ACTIVITY);
                writer.put_u64(*id);
            }
            Self::Result { id, kind, fields } => {
                for word in [RESULT, *id, *kind] {
                    writer.put_u64(word);
                }
                put_fields(writer, fields);
            }
            Self::Error(error) => {
                writer.put_u64(ERROR);
                writer.put_str("Error");
                writer.put_u64(error.level);
                writer.put_str("Error");
                writer.put_str(&error.text);
                writer.put_u64(0);
                writer.put_u64(error.traces.len() as u64);
                for trace in &error.traces {
                    writer.put_u64(0);
                    writer.put_str(trace);
                }
            }
            Self::Last => writer.put_u64(LAST),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is none, or the connection fails.
    pub async fn read<S: ByteSource>(reader: &mut Reader<S>) -> Result<Self, WireError> {
        Ok(match reader.u64().await? {
            NEXT => Self::Next(lossy(reader, "a log line").await?),
            READ => Self::Read(reader.u64().await?),
            WRITE => Self::Write(reader.bytes("a piece of a stream", StringLimit::Long).await?),
            LAST => Self::Last,
            ERROR => Self::Error(read_error(reader).await?),
            START_ACTIVITY => Self::StartActivity {
                id: reader.u64().await?,
                level: reader.u64().await?,
                kind: reader.u64().await?,
                text: lossy(reader, "an activity").await?,
                fields: read_fields(reader).await?,
                parent: reader.u64().await?,
            },
            STOP_ACTIVITY => Self::StopActivity(reader.u64().await?),
            RESULT => {
                Self::Result { id: reader.u64().await?, kind: reader.u64().await?, fields: read_fields(reader).await? }
            }
            other => {
                return Err(WireError::Unexpected {
                    expected: "a message of a Nix daemon",
                    got: format!("{other:#x}"),
                });
            }
        })
    }
}

fn put_fields<W: AsyncWrite + Unpin + Send>(writer: &mut Writer<W>, fields: &[Field]) {
    writer.put_u64(fields.len() as u64);
    for field in fields {
        match field {
            Field::Number(number) => {
                writer.put_u64(0);
                writer.put_u64(*number);
            }
            Field::Text(text) => {
                writer.put_u64(1);
                writer.put_str(text);
            }
        }
    }
}

async fn read_fields<S: ByteSource>(reader: &mut Reader<S>) -> Result<Vec<Field>, WireError> {
    let mut fields = Vec::new();
    for _ in 0..reader.count("fields").await? {
        fields.push(match reader.u64().await? {
            0 => Field::Number(reader.u64().await?),
            1 => Field::Text(lossy(reader, "a field").await?),
            other => {
                return Err(WireError::Unexpected { expected: "0 or 1 for a field's type", got: other.to_string() });
            }
        });
    }
    Ok(fields)
}

async fn read_error<S: ByteSource>(reader: &mut Reader<S>) -> Result<ErrorMessage, WireError> {
    let kind = lossy(reader, "an error's type").await?;
    if kind != "Error" {
        return Err(WireError::Unexpected { expected: "Error", got: kind });
    }
    let level = reader.u64().await?;
    lossy(reader, "an error's name").await?;
    let text = lossy(reader, "an error").await?;
    no_position(reader).await?;
    let mut traces = Vec::new();
    for _ in 0..reader.count("traces").await? {
        no_position(reader).await?;
        traces.push(lossy(reader, "a trace").await?);
    }
    Ok(ErrorMessage { level, text, traces })
}

async fn no_position<S: ByteSource>(reader: &mut Reader<S>) -> Result<(), WireError> {
    match reader.u64().await? {
        0 => Ok(()),
        other => Err(WireError::Unexpected { expected: "0 for an error without position", got: other.to_string() }),
    }
}

/// Most bytes of a text that are shown. Nobody reads more, and who sends more than one such text could fill the memory with them.
const MAX_SHOWN: usize = 16 << 10;

/// Reads a text that is only shown: what is not UTF-8 in it is replaced, and what is beyond [`MAX_SHOWN`] is left out.
async fn lossy<S: ByteSource>(reader: &mut Reader<S>, what: &'static str) -> Result<String, WireError> {
    let bytes = reader.bytes(what, StringLimit::Long).await?;
    Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_SHOWN)]).into_owned())
}
