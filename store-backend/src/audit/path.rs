//! One path: its signatures, its content address and its contents, each with what it is worth.

use std::collections::HashSet;

use policy::{Address, Basis, Code, Finding, Own, Subject, Verdict};
use verifier::{Claim, Evidence, PathInfo};

use super::asking::Gathered;
use super::contents::{Checked, Reading, check_contents, check_statement};
use super::outcome::Facts;
use super::signatures::{report, weighed};
use super::{Contents, Faults, Measure};
use crate::store::{Statement, Store, describe_info};

/// What came of one path.
pub(super) struct PathAudit {
    /// What it is worth by itself: where there are several, the worst holds.
    pub(super) own: Vec<Own>,
    pub(super) facts: Facts,
    /// What kinds of faults it has by itself.
    pub(super) faults: Faults,
}

pub(super) async fn audit_path(
    store: &dyn Store,
    measure: &Measure,
    gathered: Gathered,
    reading: &Reading,
) -> PathAudit {
    let Gathered { statement, elsewhere, .. } = gathered;
    let info = &statement.info;
    let mut facts = Facts { nar_hash: info.nar_hash, nar_size: info.nar_size, signatures: Vec::new() };
    let fingerprint = match info.fingerprint(store.store_dir()) {
        Ok(fingerprint) => fingerprint,
        Err(error) => {
            let finding =
                Finding::new(Code::InvalidPath, format!("nobody can have signed what is said of it: {error}"));
            let faults = Faults { unchecked: true, ..Faults::default() };
            return PathAudit { own: vec![Own::unchecked(finding)], facts, faults };
        }
    };
    let Checked { address, failures, mut unchecked, .. } = match measure.contents {
        Contents::Read => read_contents(store, measure, &statement, reading).await,
        Contents::Leave => check_statement(store.store_dir(), info),
    };
    let mut notes: Vec<Finding> =
        statement.rivals.iter().map(|rival| Finding::conflict(&describe_info(rival))).collect();
    let policy = &measure.policy;
    let mut sources = weighed(&statement.signatures, None, policy.keyring(), &mut notes);
    let mut known: HashSet<&str> = sources.iter().map(|source| &*source.stated.text).collect();
    for (other, answer) in measure.substituters.iter().zip(&elsewhere) {
        match answer {
            Ok(Some(theirs)) if is_the_same(&theirs.info, info) => {
                let theirs = weighed(&theirs.signatures, Some(&other.uri), policy.keyring(), &mut notes);
                sources.extend(theirs.into_iter().filter(|source| known.insert(&source.stated.text)));
            }
            Ok(Some(theirs)) => notes.push(elsewhere_differs(&other.uri, theirs)),
            Ok(None) => {}
            Err(error) => {
                let message = format!("{} could not be asked for signatures: {error}", other.uri);
                notes.push(Finding::new(Code::Unreachable, message));
            }
        }
    }
    let claims = sources.iter().map(|source| Claim { text: &source.stated.text, first_seen: source.first_seen() });
    let evidence = Evidence::weigh(fingerprint, claims, policy.keyring(), measure.now);
    let subject = Subject { path: &info.path, evidence: &evidence, address, absent_references: &[] };
    let decision = policy.stands(&subject, measure.now);
    let on_address = decision.verdict() == Verdict::Admit && decision.basis() == Basis::ContentAddress;
    if on_address && matches!(address, Address::Claimed(_)) && failures.is_empty() && unchecked.is_none() {
        let message = "it stands by its content address alone, which only its bytes can prove: they were not read";
        unchecked = Some(Finding::new(Code::UnprovenContentAddress, message));
    }
    let faults = Faults {
        corrupted: !failures.is_empty(),
        untrusted: decision.verdict() != Verdict::Admit,
        unchecked: unchecked.is_some(),
    };
    // Each goes before the ones before it.
    let own = failures.into_iter().rev().fold(Own::of(&decision), Own::failing);
    let mut own = vec![notes.into_iter().fold(own, Own::noting)];
    own.extend(unchecked.map(Own::unchecked));
    facts.signatures = report(&evidence, &sources, policy.keyring());
    PathAudit { own, facts, faults }
}

/// Reads the contents, unless an earlier audit has.
async fn read_contents(store: &dyn Store, measure: &Measure, statement: &Statement, reading: &Reading) -> Checked {
    let Some(log) = &measure.read_before else {
        return check_contents(store, statement, reading).await;
    };
    let info = &statement.info;
    if let Some(proof) = log.find(info, store.store_dir()) {
        return Checked { address: Address::proven(info, proof), proof, failures: Vec::new(), unchecked: None };
    }
    let checked = check_contents(store, statement, reading).await;
    if checked.failures.is_empty() && checked.unchecked.is_none() {
        log.note(info, checked.proof, measure.now);
    }
    checked
}

/// Says whether signatures about the one are about the other: the fingerprint has these, and nothing else.
fn is_the_same(one: &PathInfo, other: &PathInfo) -> bool {
    (&one.path, &one.nar_hash, one.nar_size) == (&other.path, &other.nar_hash, other.nar_size)
        && one.references == other.references
}

fn elsewhere_differs(uri: &str, theirs: &Statement) -> Finding {
    let message =
        format!("{uri} has other contents for it, {}: signatures there were not counted", describe_info(&theirs.info));
    Finding::new(Code::Conflict, message)
}
