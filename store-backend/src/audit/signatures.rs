//! What each signature of a path is worth, as data.

use std::sync::Arc;

use policy::escaped;
use serde::Serialize;
use verifier::{Evidence, Keyring, Timestamp};

use crate::store::StatedSignature;

/// A signature, and which store has it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) stated: &'a StatedSignature,
    /// The URI of a store other than the audited one.
    pub(super) from: Option<&'a Arc<str>>,
}

impl<'a> Source<'a> {
    /// Makes one of the audited store's.
    pub(super) fn of(stated: &'a StatedSignature) -> Self {
        Self { stated, from: None }
    }

    /// Returns when the audited store first saw it: what others say of that is their word alone, and could date a signature back.
    pub(super) fn first_seen(&self) -> Option<Timestamp> {
        if self.from.is_none() { self.stated.first_seen } else { None }
    }
}

/// One signature with its verdict. In JSON, members are in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignatureReport {
    /// The name of the key that is said to have made it; of what is no signature, its text, escaped.
    pub key: String,
    /// `counts`, or the code of the finding for which it does not.
    pub verdict: &'static str,
    /// Whose key verifies it; none where none does.
    pub signer: Option<Arc<str>>,
    /// When this store first saw it, in seconds since the Unix epoch; none where it recorded no time.
    pub first_seen: Option<Timestamp>,
    /// The URI of the substituter that has it; none where the audited store has it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Arc<str>>,
}

/// Lists the signatures that were weighed, in the order in which they were.
pub(super) fn report(evidence: &Evidence, sources: &[Source<'_>], keyring: &Keyring) -> Vec<SignatureReport> {
    let judged = evidence.judged().iter().zip(sources);
    judged
        .map(|(judged, source)| {
            let name = judged.signature.as_ref().map_or(judged.text.as_str(), |made| made.key_name().as_str());
            SignatureReport {
                key: escaped(name),
                verdict: judged.verdict.code().unwrap_or("counts"),
                signer: judged.verdict.signer().map(|id| keyring.signer(id).name.clone()),
                first_seen: source.first_seen(),
                from: source.from.cloned(),
            }
        })
        .collect()
}
