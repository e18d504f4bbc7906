//! When the evidence is enough: the policy language, the one threshold rule, and the judgement of closures.
//!
//! A policy text becomes a [`Policy`]; a policy, the evidence on one path and the time become a [`Decision`]; decisions
//! and references become a [`Report`] on a closure. This crate is pure: no file system, no network, no clock, no
//! runtime. Which signatures verify is the verifier crate's question; where paths, policies and times come from is the
//! gate's.

mod authority;
mod closure;
mod decide;
mod escape;
mod explain;
mod finding;
mod init;
mod keys;
mod moment;
mod parse;
mod phrase;
mod policy;
mod requirement;

pub use authority::{Authority, AuthorityError, RejectedSignature};
pub use closure::{Cause, Closure, Node, Own, PathReport, Remedy, Report, Standing, Totals};
pub use decide::{Address, Basis, Decision, Strength, Subject, Verdict};
pub use escape::{bounded, escaped};
pub use explain::{Completeness, Demand, Explanation, MinimalSets, RuleDemand, Warning, WarningCode};
pub use finding::{Code, Finding, UnknownCode};
pub use init::starting_policy;
pub use keys::KeysError;
pub use moment::{parse_moment, rfc3339};
pub use parse::{Mistake, PolicyError, PolicyErrors};
pub use policy::{ContentAddressed, OnConflict, Policy, Rule};
pub use requirement::{Outcome, Requirement, Shortfall, evaluate};
