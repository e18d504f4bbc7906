//! Realisations pass the gate like paths: over their own fingerprint, by the requirement on the path they name.

use policy::{Code, Finding, Verdict};
use serde::{Deserialize, Serialize};
use verifier::{Claim, Evidence, Judged, OutputId, Realisation, Timestamp};

use super::admission::{ATTEMPTS, MAX_SIGNATURES};
use super::{Gate, GateError, Uploader};
use crate::clock::now;
use crate::object::{Condition, Draft, Key, Put};
use crate::store::{StoreError, realisation_key};

/// Most dependent realisations that one may list.
const MAX_DEPENDENT: usize = 10_000;

/// Longest history that is read, in bytes.
const MAX_HISTORY: u64 = 1 << 20;

/// When each signature of a realisation was first seen: what the standard layout has no place for.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct History {
    nonce: String,
    seen: Vec<Seen>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Seen {
    signature: String,
    first_seen: Timestamp,
    brought_by: String,
}

impl Gate {
    /// Registers a realisation, or adds the signatures of one that is known.
    ///
    /// # Errors
    /// [`GateError::Refused`] with what is missing, [`GateError::Conflict`] when the output is known to be another path.
    pub async fn register_realisation(&self, realisation: Realisation, uploader: &Uploader) -> Result<(), GateError> {
        let id = realisation.id.to_string();
        let limits = [
            (realisation.signatures.len(), MAX_SIGNATURES, "signatures"),
            (realisation.dependent_realisations.len(), MAX_DEPENDENT, "dependent realisations"),
        ];
        if let Some((count, limit, what)) = limits.into_iter().find(|(count, limit, _)| count > limit) {
            return Err(GateError::Unacceptable { path: id, why: format!("it has {count} {what}, over {limit}") });
        }
        for _ in 0..ATTEMPTS {
            if self.try_register(&realisation, uploader).await? {
                return Ok(());
            }
        }
        Err(GateError::Contended(id))
    }

    /// Returns the realisation of an output, if it is admitted by the policy of now.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub async fn realisation(&self, id: &OutputId) -> Result<Option<Realisation>, GateError> {
        let Some((bytes, _)) = self.cache.realisation(id).await? else {
            return Ok(None);
        };
        let realisation = parse(id, &bytes)?;
        let policy = self.policy();
        let history = self.history(&realisation).await?.0;
        let evidence = weigh(&realisation, &history, policy.keyring());
        let decision = policy.realisation_stands(&realisation.out_path, &evidence, &[], now());
        let stands = decision.verdict() == Verdict::Admit && self.view().is_valid(&realisation.out_path).await?;
        Ok(stands.then_some(realisation))
    }

    /// Tries once; says whether others' writes came between.
    async fn try_register(&self, offered: &Realisation, uploader: &Uploader) -> Result<bool, GateError> {
        let id = &offered.id;
        let stored = self.cache.realisation(id).await?;
        let mut merged = offered.clone();
        merged.signatures.clear();
        let condition = match &stored {
            None => Condition::Absent,
            Some((bytes, etag)) => {
                let known = parse(id, bytes)?;
                if known.fingerprint() != offered.fingerprint() {
                    if self.realisation(id).await?.is_some() {
                        let admitted = self.cache.store_dir().render_path(&known.out_path);
                        let offered = self.cache.store_dir().render_path(&offered.out_path);
                        return Err(GateError::Conflict { path: id.to_string(), admitted, offered });
                    }
                } else {
                    merged.signatures = known.signatures;
                }
                Condition::Matches(etag.clone())
            }
        };
        let policy = self.policy();
        let (mut history, seen) = self.history(offered).await?;
        let mut both = merged.clone();
        both.signatures.extend(offered.signatures.iter().cloned());
        let evidence = weigh(&both, &history, policy.keyring());
        let mut decision = policy.decide_realisation(&offered.out_path, &evidence, &[], now());
        if !self.view().is_valid(&offered.out_path).await? {
            // A realisation refers to the path it names, whatever the policy says of that path's other references.
            let message =
                format!("it names {}, which is not admitted", self.cache.store_dir().render_path(&offered.out_path));
            decision = decision.limited(Verdict::Hold, Finding::new(Code::MissingReference, message));
        }
        if decision.verdict() != Verdict::Admit {
            return Err(GateError::Refused { path: id.to_string(), decision: Box::new(decision.refused()) });
        }
        // One signature for each key that verifies it: what does not verify, or says the same again, is not kept.
        // What is there already comes first, so that no second signature of a key takes room.
        let is_known = |judged: &&Judged| merged.signatures.contains(&judged.text);
        let (known, new): (Vec<&Judged>, Vec<&Judged>) = evidence.judged().iter().partition(is_known);
        let mut keys = Vec::new();
        for judged in known.into_iter().chain(new) {
            let (Some(signature), Some(key)) = (&judged.signature, judged.verified_by) else {
                continue;
            };
            if keys.contains(&key) {
                continue;
            }
            keys.push(key);
            let signature = signature.to_string();
            if !history.seen.iter().any(|seen| seen.signature == signature) {
                let (first_seen, brought_by) = (now(), uploader.0.clone());
                history.seen.push(Seen { signature: signature.clone(), first_seen, brought_by });
            }
            merged.signatures.insert(signature);
        }
        if let Some(key) = &self.countersign {
            merged.signatures.insert(key.sign(&merged.fingerprint()).to_string());
        }
        history.nonce = crate::nonce::nonce();
        let document = match id {
            OutputId::Hash { .. } => merged.to_json(),
            OutputId::Path { .. } => merged.to_unkeyed_json(),
        };
        let history = serde_json::to_vec(&history).expect("texts and numbers can always be written");
        let drafts = vec![
            Draft::of_bytes(history_key(offered)?, seen, history),
            // A signature counts from when it was first seen: no realisation shows one of which that is not written down.
            Draft::of_bytes(realisation_key(id)?, condition, document.to_string()).in_stage(1),
        ];
        let puts = self.cache.objects().publish(drafts).await?;
        Ok(puts.iter().all(|put| matches!(put, Put::Stored(_))))
    }

    /// Reads the history of a realisation's signatures, and what must hold when it is written again.
    async fn history(&self, realisation: &Realisation) -> Result<(History, Condition), GateError> {
        let key = history_key(realisation)?;
        let Some(object) = self.cache.objects().get(&key, MAX_HISTORY).await? else {
            return Ok((History::default(), Condition::Absent));
        };
        let history = serde_json::from_slice(&object.bytes)
            .map_err(|error| StoreError::Record { key, source: crate::store::RecordError::Unreadable(error) })?;
        Ok((history, Condition::Matches(object.version.etag)))
    }
}

fn history_key(realisation: &Realisation) -> Result<Key, StoreError> {
    let digest = realisation.fingerprint().digest();
    let text = format!("quorum/realisations/{digest}");
    Key::new(text).ok_or_else(|| StoreError::Name(realisation.id.to_string()))
}

fn parse(id: &OutputId, bytes: &[u8]) -> Result<Realisation, GateError> {
    Ok(Realisation::parse_object(id, &String::from_utf8_lossy(bytes))?)
}

fn weigh(realisation: &Realisation, history: &History, keyring: &verifier::Keyring) -> Evidence {
    let claims = realisation.signatures.iter().map(|text| {
        let seen = history.seen.iter().find(|seen| seen.signature == *text);
        Claim { text, first_seen: seen.map(|seen| seen.first_seen) }
    });
    Evidence::weigh(realisation.fingerprint(), claims, keyring, now())
}
