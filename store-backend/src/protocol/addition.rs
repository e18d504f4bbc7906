//! The codec of what `AddToStore` adds.

use std::collections::BTreeSet;

use verifier::{ContentAddressMethod, HashAlgorithm, StoreDir, StorePath};

use super::{RequestError, path_info::parse_path};
use crate::wire::{ByteSource, Reader, StringLimit};

/// The arguments of `AddToStore` (since 1.25); a framed stream with the content follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddToStore {
    /// The new path's name.
    pub name: String,
    /// How its content is addressed.
    pub method: ContentAddressMethod,
    /// With which hash.
    pub algorithm: HashAlgorithm,
    /// What it refers to.
    pub references: BTreeSet<StorePath>,
}

impl AddToStore {
    pub(super) async fn read<S: ByteSource>(reader: &mut Reader<S>, dir: &StoreDir) -> Result<Self, RequestError> {
        let name = reader.string("a name", StringLimit::Short).await?;
        let method = reader.string("a content address method", StringLimit::Short).await?;
        let references = reader.strings("a reference").await?;
        reader.flag().await?;
        let (method, algorithm) = parse_method(&method)?;
        let references = references.iter().map(|text| parse_path(dir, text)).collect::<Result<_, _>>()?;
        Ok(Self { name, method, algorithm, references })
    }
}

/// Understands `text:`, `fixed:`, `fixed:r:` or `fixed:git:` with an algorithm.
fn parse_method(text: &str) -> Result<(ContentAddressMethod, HashAlgorithm), RequestError> {
    let methods = [
        ("text:", ContentAddressMethod::Text),
        ("fixed:r:", ContentAddressMethod::Nar),
        ("fixed:git:", ContentAddressMethod::Git),
        ("fixed:", ContentAddressMethod::Flat),
    ];
    methods.iter().find_map(|(prefix, method)| Some((*method, text.strip_prefix(prefix)?.parse().ok()?))).ok_or_else(
        || {
            let shown: String = text.chars().take(100).collect();
            RequestError::Invalid(format!("expected a method and algorithm such as fixed:r:sha256, found {shown:?}"))
        },
    )
}

pub(super) fn render_method(method: ContentAddressMethod, algorithm: HashAlgorithm) -> String {
    let prefix = match method {
        ContentAddressMethod::Text => "text:",
        ContentAddressMethod::Nar => "fixed:r:",
        ContentAddressMethod::Git => "fixed:git:",
        ContentAddressMethod::Flat => "fixed:",
    };
    format!("{prefix}{algorithm}")
}
