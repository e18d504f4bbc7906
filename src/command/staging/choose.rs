//! Which of the contents of a path is meant.

use clap::Args;
use store_backend::gate::{Candidate, Gate};
use store_backend::store::store_path_of;
use verifier::NarHash;

use crate::command::CommandError;

/// What is held of a path.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// Which of several contents: the NAR hash, as nix-quorum staging show prints it.
    #[arg(long, value_name = "HASH", value_parser = nar_hash)]
    nar_hash: Option<NarHash>,
    /// Which of several contents: how the fingerprint begins, as nix-quorum staging show prints it. Contents with the same NAR may
    /// differ in what they refer to.
    #[arg(long, value_name = "DIGITS")]
    fingerprint: Option<String>,
    /// A store path, a link to one such as ./result, or its base name.
    #[arg(value_name = "PATH")]
    path: String,
}

/// Reads a NAR hash.
pub(super) fn nar_hash(text: &str) -> Result<NarHash, String> {
    NarHash::parse(text).map_err(|error| error.to_string())
}

impl Choice {
    /// Finds the one candidate that is meant.
    pub(super) async fn held(&self, gate: &Gate) -> Result<Candidate, CommandError> {
        self.only(gate, Candidate::is_held).await
    }

    /// Finds the one content that is meant, held or admitted.
    pub(super) async fn any(&self, gate: &Gate) -> Result<Candidate, CommandError> {
        self.only(gate, |_| true).await
    }

    async fn only(&self, gate: &Gate, wanted: impl Fn(&Candidate) -> bool) -> Result<Candidate, CommandError> {
        let path = store_path_of(&self.path, gate.cache().store_dir())?;
        let rendered = gate.cache().store_dir().render_path(&path);
        let is_meant = |candidate: &Candidate| {
            let fingerprint = candidate.fingerprint.to_string();
            wanted(candidate)
                && self.nar_hash.is_none_or(|hash| hash == candidate.record.info().nar_hash)
                && self.fingerprint.as_ref().is_none_or(|digits| fingerprint.starts_with(digits))
        };
        let mut found: Vec<Candidate> = gate.candidates(&path).await?.into_iter().filter(is_meant).collect();
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                let all: Vec<String> = found.iter().chain([&last]).map(Candidate::describe).collect();
                Err(CommandError::Usage(format!(
                    "{rendered} has several contents: {}; say with --nar-hash or --fingerprint which is meant",
                    all.join("; ")
                )))
            }
            (None, _) => Err(CommandError::Usage(format!(
                "nothing such is held of {rendered}: nix-quorum staging show explains what is"
            ))),
        }
    }
}
