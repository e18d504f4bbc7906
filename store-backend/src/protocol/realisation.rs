//! The codec of realisations in their two forms: JSON keyed by a hash, or fields keyed by the derivation's path.

use tokio::io::AsyncWrite;
use verifier::{OutputId, Realisation, StoreDir};

use super::version::Features;
use super::{RequestError, path_info::parse_path};
use crate::wire::{ByteSource, Reader, StringLimit, Writer};

/// Reads which output of which derivation is meant.
///
/// # Errors
/// When the stream ends or breaks the protocol, or the id is none.
pub async fn read_output_id<S: ByteSource>(
    reader: &mut Reader<S>,
    store_dir: &StoreDir,
    features: &Features,
) -> Result<OutputId, RequestError> {
    let first = reader.string("an output's id", StringLimit::Short).await?;
    if !features.realisation_with_path() {
        return OutputId::parse_hash(&first).map_err(RequestError::invalid);
    }
    let output = reader.string("an output's name", StringLimit::Short).await?;
    OutputId::of_path(parse_path(store_dir, &first)?, &output).map_err(RequestError::invalid)
}

/// Writes which output of which derivation is meant. An id of the form that was not agreed on is written as text.
pub fn write_output_id<W: AsyncWrite + Unpin + Send>(writer: &mut Writer<W>, store_dir: &StoreDir, id: &OutputId) {
    match id {
        OutputId::Hash { .. } => writer.put_str(&id.to_string()),
        OutputId::Path { drv_path, output } => {
            writer.put_str(&store_dir.render_path(drv_path));
            writer.put_str(output);
        }
    }
}

/// Reads a realisation with its id.
///
/// # Errors
/// When the stream ends or breaks the protocol, or it is none.
pub async fn read_realisation<S: ByteSource>(
    reader: &mut Reader<S>,
    store_dir: &StoreDir,
    features: &Features,
) -> Result<Realisation, RequestError> {
    if !features.realisation_with_path() {
        let json = reader.string("a realisation", StringLimit::Long).await?;
        let realisation = Realisation::parse(&json).map_err(RequestError::invalid)?;
        // The answers have one form in a session. Whoever stated the other could not be told of it again.
        return match realisation.id {
            OutputId::Hash { .. } => Ok(realisation),
            OutputId::Path { .. } => Err(RequestError::invalid(
                "expected a realisation by its derivation's hash, received one by its path, which was not agreed on",
            )),
        };
    }
    let drv_path = reader.string("a derivation's path", StringLimit::Short).await?;
    let output = reader.string("an output's name", StringLimit::Short).await?;
    let out_path = reader.string("an output's path", StringLimit::Short).await?;
    let signatures = reader.strings("a signature").await?;
    Ok(Realisation {
        id: OutputId::of_path(parse_path(store_dir, &drv_path)?, &output).map_err(RequestError::invalid)?,
        out_path: parse_path(store_dir, &out_path)?,
        signatures: signatures.into_iter().collect(),
        dependent_realisations: Default::default(),
    })
}

/// Writes a realisation with its id, in the form that the id has.
pub fn write_realisation<W: AsyncWrite + Unpin + Send>(
    writer: &mut Writer<W>,
    store_dir: &StoreDir,
    realisation: &Realisation,
) {
    match &realisation.id {
        OutputId::Hash { .. } => writer.put_str(&realisation.to_json().to_string()),
        OutputId::Path { .. } => {
            write_output_id(writer, store_dir, &realisation.id);
            writer.put_str(&store_dir.render_path(&realisation.out_path));
            writer.put_strings(realisation.signatures.iter());
        }
    }
}
