//! What a policy may hold. People write policies, so the limits are far above use; they bound what a policy that
//! somebody else wrote can cost.

/// Longest policy text, in bytes. A thousand signers take a tenth of it.
pub(super) const TEXT: usize = 1 << 20;
/// Most signers. Every listing of a group is as long.
pub(super) const SIGNERS: usize = 10_000;
/// Deepest nesting of a requirement, in levels. Each level is a level of recursion; people lose track at five.
pub(super) const DEPTH: usize = 32;
/// Most terms in all requirements together, counting each member of a group where it is used. Every decision looks at
/// each term, so this bounds its time to some milliseconds.
pub(super) const TERMS: usize = 100_000;
/// Most globs in all rules together. Every decision tries each of them.
pub(super) const GLOBS: usize = 1_000;
/// Longest glob, in bytes: as long as the name part of a store path can be.
pub(super) const GLOB: usize = 211;
/// Longest name of a signer or group, in bytes: it stands in sentences.
pub(super) const NAME: usize = 64;
/// Longest name of a rule and longest reason for a revocation, in characters: each is one sentence.
pub(super) const SENTENCE: usize = 200;
/// Most mistakes that are shown: who mends these finds the others on the next run.
pub(super) const MISTAKES: usize = 50;
