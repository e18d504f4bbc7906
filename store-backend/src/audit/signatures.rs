//! What each signature of a path is worth, as data.

use std::sync::Arc;

use policy::{Code, Finding, escaped};
use serde::Serialize;
use verifier::{Evidence, Keyring, Signature, Timestamp};

use crate::store::StatedSignature;

/// Most signatures by keys of the policy that are weighed of those that one store states of a path. Whoever states more does not mean
/// to be read.
const MAX_OF_KEYS: usize = 1_000;

/// Most others of these.
const MAX_OTHERS: usize = 16;

/// A signature, and which store has it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) stated: &'a StatedSignature,
    /// The URI of a store other than the audited one.
    pub(super) from: Option<&'a Arc<str>>,
}

impl Source<'_> {
    /// Returns when the audited store first saw it: what others say of that is their word alone, and could date a signature back.
    pub(super) fn first_seen(&self) -> Option<Timestamp> {
        if self.from.is_none() { self.stated.first_seen } else { None }
    }
}

/// Chooses which of a store's signatures are weighed, and notes where these are not all. No store's displace another's, and none that
/// a key of the policy cannot have made displaces one that it can.
pub(super) fn weighed<'a>(
    stated: &'a [StatedSignature],
    from: Option<&'a Arc<str>>,
    keyring: &Keyring,
    notes: &mut Vec<Finding>,
) -> Vec<Source<'a>> {
    let (mut of_keys, mut others) = (0, 0);
    let is_weighed = |stated: &&StatedSignature| {
        let signature = stated.text.parse::<Signature>();
        let is_of_key = signature.is_ok_and(|signature| keyring.has_key_named(signature.key_name()));
        let (count, most) = if is_of_key { (&mut of_keys, MAX_OF_KEYS) } else { (&mut others, MAX_OTHERS) };
        *count += 1;
        *count <= most
    };
    let chosen: Vec<_> = stated.iter().filter(is_weighed).map(|stated| Source { stated, from }).collect();
    if chosen.len() < stated.len() {
        let place = from.map(|uri| format!(" that {uri} has")).unwrap_or_default();
        let message = format!("of {} signatures{place}, {} were weighed", stated.len(), chosen.len());
        notes.push(Finding::new(Code::LimitExceeded, message));
    }
    chosen
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
