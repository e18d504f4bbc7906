//! How paths are told apart in pictures.

use policy::{Code, PathReport, Standing};
use serde::Serialize;

/// What a path looks like, from what is worst. Each kind has a colour, and for those who see few colours a shape of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Look {
    /// Its contents are not what was signed, or gone.
    Corrupted,
    /// Different contents are claimed for it.
    Conflicting,
    /// It fails by itself: too few have signed it, or what it refers to is missing.
    Short,
    /// It could not be checked.
    Unchecked,
    /// It would stand, but for what it refers to.
    Below,
    /// It stands.
    Stands,
}

impl Look {
    pub(super) fn of(path: &PathReport) -> Self {
        let has = |codes: &[Code]| path.findings.iter().any(|finding| codes.contains(&finding.code));
        let damage = [Code::ContentMismatch, Code::MissingContent, Code::FalseContentAddress];
        match (path.own, path.standing) {
            (Standing::Fails, _) if has(&damage) => Self::Corrupted,
            _ if has(&[Code::Conflict]) => Self::Conflicting,
            (Standing::Fails, _) => Self::Short,
            (Standing::Unchecked, _) => Self::Unchecked,
            (Standing::Stands, Standing::Stands) => Self::Stands,
            (Standing::Stands, _) => Self::Below,
        }
    }
}
