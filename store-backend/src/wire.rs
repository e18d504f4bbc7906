//! Framing: little-endian words, padded bytes, framed streams and stderr messages. Nothing here knows Nix's types.

mod error;
mod frames;
mod reader;
mod stderr;
mod writer;

pub use error::WireError;
pub use frames::{FrameWriter, Frames, Pumped};
pub use reader::{ByteSource, Reader, SocketSource, StringLimit};
pub use stderr::{ActivityKind, ErrorMessage, Field, Message, Verbosity};
pub use writer::Writer;
