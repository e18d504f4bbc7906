//! Signatures that arrive by themselves: `nix store sign`, `nix store copy-sigs`.

use verifier::{Judged, StorePath};

use super::admission::MAX_SIGNATURES;
use super::{Gate, GateError, Uploader};

/// What became of signatures that were added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Those that were not kept, each with its verdict: malformed, or of this policy's keys but not over this path.
    pub dropped: Vec<Judged>,
}

impl Gate {
    /// Adds signatures to a valid path. They count for the fingerprint that they verify against, which is the admitted one or
    /// none: there is no other to which they could be added.
    ///
    /// # Errors
    /// [`GateError::NotValid`], or when the store fails.
    pub async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &[String],
        uploader: &Uploader,
    ) -> Result<Kept, GateError> {
        let store_dir = self.cache.store_dir();
        if signatures.len() > MAX_SIGNATURES {
            let why = format!("{} signatures at once, over {MAX_SIGNATURES}", signatures.len());
            return Err(GateError::Unacceptable { path: store_dir.render_path(path), why });
        }
        let Some(record) = self.view().record(path).await? else {
            return Err(GateError::not_valid(store_dir, path));
        };
        let fingerprint = record.fingerprint(store_dir);
        let evidence = self.weigh_claims(&fingerprint, signatures.iter());
        if self.merge_stored(path, &evidence, None, &uploader.0).await?.is_none() {
            return Err(GateError::not_valid(store_dir, path));
        }
        self.refresh(path, &fingerprint, None).await?;
        let useless = |judged: &&Judged| {
            matches!(judged.verdict, verifier::Verdict::Malformed(_) | verifier::Verdict::DoesNotVerify)
        };
        Ok(Kept { dropped: evidence.judged().iter().filter(useless).cloned().collect() })
    }
}
