//! The codec of the client's settings.

use tokio::io::AsyncWrite;

use super::RequestError;
use crate::wire::{ByteSource, Reader, StringLimit, Writer};

/// The client's settings. All are read and none is obeyed: they are about building.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The client's verbosity, Nix's levels.
    pub verbosity: u64,
    /// Settings by name, as given on the client's command line.
    pub overrides: Vec<(String, String)>,
}

/// The place of the verbosity among the twelve words of `SetOptions`.
const VERBOSITY: usize = 3;

pub(super) async fn read_options<S: ByteSource>(reader: &mut Reader<S>) -> Result<Options, RequestError> {
    let mut words = [0; 12];
    for word in &mut words {
        *word = reader.u64().await?;
    }
    let mut overrides = Vec::new();
    for _ in 0..reader.count("settings").await? {
        let name = reader.string("a setting's name", StringLimit::Short).await?;
        overrides.push((name, reader.string("a setting", StringLimit::Long).await?));
    }
    Ok(Options { verbosity: words[VERBOSITY], overrides })
}

pub(super) fn write_options<W: AsyncWrite + Unpin + Send>(writer: &mut Writer<W>, options: &Options) {
    for place in 0..12 {
        writer.put_u64(if place == VERBOSITY { options.verbosity } else { 0 });
    }
    writer.put_u64(options.overrides.len() as u64);
    for (name, value) in &options.overrides {
        writer.put_str(name);
        writer.put_str(value);
    }
}
