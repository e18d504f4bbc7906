//! The codec of derivations as `BuildDerivation` sends them: without their input derivations.

use tokio::io::AsyncWrite;

use crate::wire::{ByteSource, Reader, StringLimit, WireError, Writer};

/// One output of a derivation, in the texts of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicOutput {
    /// Its name.
    pub name: String,
    /// Its full path; empty where only building tells.
    pub path: String,
    /// Method and algorithm of a content-addressed one, such as `r:sha256`; else empty.
    pub method_algorithm: String,
    /// The expected hash in hexadecimal, `impure`, or empty.
    pub hash: String,
}

/// A derivation without its input derivations. A store that does not build needs no more than its outputs, but all of it
/// is read, so that the session stays in step.
///
/// Source: Nix `src/libstore/derivation/aterm.cc`, `read(Source &, …, Basic &)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasicDerivation {
    /// Its outputs.
    pub outputs: Vec<BasicOutput>,
    /// The full paths it reads.
    pub input_sources: Vec<String>,
    /// Such as `x86_64-linux`.
    pub platform: String,
    /// The program that builds it.
    pub builder: String,
    /// That program's arguments.
    pub arguments: Vec<Vec<u8>>,
    /// That program's environment.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
}

impl BasicDerivation {
    pub(super) async fn read<S: ByteSource>(reader: &mut Reader<S>) -> Result<Self, WireError> {
        let mut derivation = Self::default();
        for _ in 0..reader.count("outputs").await? {
            derivation.outputs.push(BasicOutput {
                name: reader.string("an output's name", StringLimit::Short).await?,
                path: reader.string("an output's path", StringLimit::Short).await?,
                method_algorithm: reader.string("an output's method", StringLimit::Short).await?,
                hash: reader.string("an output's hash", StringLimit::Short).await?,
            });
        }
        derivation.input_sources = reader.strings("an input").await?;
        derivation.platform = reader.string("a platform", StringLimit::Short).await?;
        derivation.builder = reader.string("a builder", StringLimit::Short).await?;
        for _ in 0..reader.count("arguments").await? {
            derivation.arguments.push(reader.bytes("an argument", StringLimit::Long).await?);
        }
        for _ in 0..reader.count("variables").await? {
            let name = reader.bytes("a variable's name", StringLimit::Long).await?;
            derivation.environment.push((name, reader.bytes("a variable", StringLimit::Long).await?));
        }
        Ok(derivation)
    }

    pub(super) fn write<W: AsyncWrite + Unpin + Send>(&self, writer: &mut Writer<W>) {
        writer.put_u64(self.outputs.len() as u64);
        for output in &self.outputs {
            for text in [&output.name, &output.path, &output.method_algorithm, &output.hash] {
                writer.put_str(text);
            }
        }
        writer.put_strings(self.input_sources.iter());
        writer.put_str(&self.platform);
        writer.put_str(&self.builder);
        writer.put_u64(self.arguments.len() as u64);
        for argument in &self.arguments {
            writer.put_bytes(argument);
        }
        writer.put_u64(self.environment.len() as u64);
        for (name, value) in &self.environment {
            writer.put_bytes(name);
            writer.put_bytes(value);
        }
    }
}
