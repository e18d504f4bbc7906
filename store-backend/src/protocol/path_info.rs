//! The codec of path infos.

use std::collections::BTreeSet;

use tokio::io::AsyncWrite;
use verifier::{ContentAddress, NarHash, PathInfo, StoreDir, StorePath};

use super::RequestError;
use crate::wire::{ByteSource, Reader, StringLimit, WireError, Writer};

/// A path info as it stands on the wire, before its texts were understood. Reading it leaves the stream in step whatever
/// the texts say, so that nonsense in them costs one answer and not the session.
///
/// | field | as |
/// |---|---|
/// | path (keyed form only) | string, with the store directory |
/// | deriver | string, empty for none |
/// | NAR hash | string, 64 hexadecimal digits |
/// | references | list of strings |
/// | registration time | word, seconds since the Unix epoch |
/// | NAR size | word, bytes |
/// | ultimate | word, 0 or 1 |
/// | signatures | list of strings |
/// | content address | string, empty for none |
///
/// Source: Nix `WorkerProto::Serialise<UnkeyedValidPathInfo>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPathInfo {
    path: String,
    deriver: String,
    nar_hash: String,
    references: Vec<String>,
    registration_time: u64,
    nar_size: u64,
    ultimate: bool,
    signatures: Vec<String>,
    content_address: String,
}

impl RawPathInfo {
    /// Reads a path info that begins with its path.
    ///
    /// # Errors
    /// When the stream ends or breaks the protocol.
    pub async fn read<S: ByteSource>(reader: &mut Reader<S>) -> Result<Self, WireError> {
        let path = reader.string("a store path", StringLimit::Short).await?;
        Self::read_unkeyed(reader, path).await
    }

    /// Reads a path info whose path is known already.
    ///
    /// # Errors
    /// When the stream ends or breaks the protocol.
    pub async fn read_unkeyed<S: ByteSource>(reader: &mut Reader<S>, path: String) -> Result<Self, WireError> {
        Ok(Self {
            path,
            deriver: reader.string("a deriver", StringLimit::Short).await?,
            nar_hash: reader.string("a NAR hash", StringLimit::Short).await?,
            references: reader.strings("a reference").await?,
            registration_time: reader.u64().await?,
            nar_size: reader.u64().await?,
            ultimate: reader.flag().await?,
            signatures: reader.strings("a signature").await?,
            content_address: reader.string("a content address", StringLimit::Short).await?,
        })
    }

    /// Understands the texts.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] when one of them is not what it should be.
    pub fn parse(self, store_dir: &StoreDir) -> Result<PathInfo, RequestError> {
        let path = parse_path(store_dir, &self.path)?;
        let deriver = match self.deriver.as_str() {
            "" => None,
            deriver => Some(parse_path(store_dir, deriver)?),
        };
        let references: Result<BTreeSet<StorePath>, RequestError> =
            self.references.iter().map(|reference| parse_path(store_dir, reference)).collect();
        Ok(PathInfo {
            path,
            deriver,
            nar_hash: NarHash::parse(&self.nar_hash).map_err(RequestError::invalid)?,
            nar_size: self.nar_size,
            references: references?,
            registration_time: self.registration_time,
            ultimate: self.ultimate,
            signatures: self.signatures.into_iter().collect(),
            content_address: ContentAddress::parse_optional(&self.content_address).map_err(RequestError::invalid)?,
        })
    }
}

/// Writes a path info that begins with its path.
pub fn write_path_info<W: AsyncWrite + Unpin + Send>(writer: &mut Writer<W>, store_dir: &StoreDir, info: &PathInfo) {
    writer.put_str(&store_dir.render_path(&info.path));
    write_unkeyed_path_info(writer, store_dir, info);
}

/// Writes a path info without its path.
pub fn write_unkeyed_path_info<W: AsyncWrite + Unpin + Send>(
    writer: &mut Writer<W>,
    store_dir: &StoreDir,
    info: &PathInfo,
) {
    writer.put_str(&info.deriver.as_ref().map_or_else(String::new, |deriver| store_dir.render_path(deriver)));
    writer.put_str(&info.nar_hash.to_base16());
    writer.put_strings(info.references.iter().map(|reference| store_dir.render_path(reference)));
    writer.put_u64(info.registration_time);
    writer.put_u64(info.nar_size);
    writer.put_flag(info.ultimate);
    writer.put_strings(info.signatures.iter());
    writer.put_str(&info.content_address.as_ref().map_or_else(String::new, ToString::to_string));
}

/// Understands a full store path.
pub(super) fn parse_path(store_dir: &StoreDir, text: &str) -> Result<StorePath, RequestError> {
    store_dir.parse_path(text.as_bytes()).map_err(|error| {
        RequestError::Invalid(format!(
            "expected a path in {store_dir}, found {:?}: {error}",
            text.chars().take(300).collect::<String>()
        ))
    })
}
