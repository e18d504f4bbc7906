//! Signatures that arrive by themselves: `nix store sign`, `nix store copy-sigs`.

use std::collections::HashSet;
use std::sync::Arc;

use policy::Decision;
use verifier::{FingerprintDigest, Judged, StorePath};

use super::admission::MAX_SIGNATURES;
use super::{Candidate, Gate, GateError, Sight, Uploader};

/// What became of signatures that were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// The fingerprints that one of them verifies against.
    pub counted: Vec<FingerprintDigest>,
    /// What the path lacks still; none if it is admitted.
    pub held: Option<Decision>,
    /// Those that were not kept, each with its verdict: malformed, or of this policy's keys but not over this path.
    pub dropped: Vec<Judged>,
}

impl Gate {
    /// Adds signatures to a path. They count for the fingerprint that they verify against: the admitted one, or, on staging, one of
    /// those that are held; a path that has its quorum then is admitted, and what waited for it.
    ///
    /// # Errors
    /// [`GateError::NotValid`], or when the store fails.
    pub async fn add_signatures(
        self: &Arc<Self>,
        path: &StorePath,
        signatures: &[String],
        sight: Sight,
        uploader: &Uploader,
    ) -> Result<Kept, GateError> {
        let store_dir = self.cache.store_dir();
        if signatures.len() > MAX_SIGNATURES {
            let why = format!("{} signatures at once, over {MAX_SIGNATURES}", signatures.len());
            return Err(GateError::Unacceptable { path: store_dir.render_path(path), why });
        }
        let Some(record) = self.view().record(path).await? else {
            return match sight {
                Sight::Admitted => Err(GateError::not_valid(store_dir, path)),
                Sight::Staging => self.sign_candidates(path, signatures, uploader).await,
            };
        };
        let fingerprint = record.fingerprint(store_dir);
        let evidence = self.weigh_claims(&fingerprint, signatures.iter());
        if self.merge_stored(path, &evidence, None, &uploader.0).await?.is_none() {
            return Err(GateError::not_valid(store_dir, path));
        }
        self.refresh(path, &fingerprint, None).await?;
        let dropped = evidence.judged().iter().filter(|judged| is_useless(judged)).cloned().collect();
        let verifies = evidence.judged().iter().any(|judged| judged.verified_by.is_some());
        let counted = verifies.then(|| fingerprint.digest()).into_iter().collect();
        Ok(Kept { counted, held: None, dropped })
    }

    /// Adds signatures to what is held of a path.
    async fn sign_candidates(
        self: &Arc<Self>,
        path: &StorePath,
        signatures: &[String],
        uploader: &Uploader,
    ) -> Result<Kept, GateError> {
        let store_dir = self.cache.store_dir();
        let candidates = self.candidates(path).await?;
        if candidates.is_empty() {
            return Err(GateError::not_valid(store_dir, path));
        }
        let mut kept = Kept::default();
        let mut dropped: Option<Vec<Judged>> = None;
        let mut failed = Ok(());
        for Candidate { record, fingerprint, .. } in &candidates {
            let evidence = self.weigh_claims(&record.fingerprint(store_dir), signatures.iter());
            // What an unknown key signed verifies against nothing: it is kept only where there is no choice.
            let verifies = evidence.judged().iter().any(|judged| judged.verified_by.is_some());
            if verifies || candidates.len() == 1 {
                match self.add_to_candidate(record, &evidence, None, &uploader.0).await {
                    Ok(()) if verifies => kept.counted.push(*fingerprint),
                    Ok(()) => {}
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            let useless = |judged: &&Judged| {
                is_useless(judged)
                    && dropped.as_ref().is_none_or(|dropped| dropped.iter().any(|other| other.text == judged.text))
            };
            dropped = Some(evidence.judged().iter().filter(useless).cloned().collect());
        }
        kept.dropped = dropped.unwrap_or_default();
        // What was written before something failed may be enough.
        if !kept.counted.is_empty() {
            self.promote_after(HashSet::from([path.clone()]), &uploader.0).await;
        }
        failed?;
        if !self.view().is_valid(path).await? {
            let left = self.candidates(path).await?;
            let signed = left.iter().find(|candidate| kept.counted.contains(&candidate.fingerprint)).or(left.first());
            let signed = signed.ok_or_else(|| GateError::not_valid(store_dir, path))?;
            kept.held = Some(signed.decision.clone());
        }
        Ok(kept)
    }
}

/// Says whether a signature is malformed, or one of this policy's keys but not over this path.
fn is_useless(judged: &Judged) -> bool {
    matches!(judged.verdict, verifier::Verdict::Malformed(_) | verifier::Verdict::DoesNotVerify)
}
