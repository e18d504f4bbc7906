//! One path: its signatures, its content address and its contents, each with what it is worth.

use std::sync::Arc;

use policy::{Address, Basis, Code, Finding, Node, Own, Subject, Verdict};
use verifier::{Evidence, StorePath};

use super::contents::{Checked, check_contents, check_statement};
use super::signatures::{SignatureReport, report};
use super::{Contents, Faults, Measure, Progress};
use crate::store::{Statement, Store, describe_info};

/// What came of one path.
pub(super) struct PathAudit {
    pub(super) path: StorePath,
    /// What is said of it: more than one node counts as one, the worse holding.
    pub(super) nodes: Vec<Node>,
    pub(super) signatures: Vec<SignatureReport>,
    /// What kinds of faults it has by itself.
    pub(super) faults: Faults,
}

pub(super) async fn audit_path(
    store: &dyn Store,
    measure: &Measure,
    statement: Statement,
    progress: Arc<Progress>,
) -> PathAudit {
    let info = &statement.info;
    let path = info.path.clone();
    let node = |own: Own| Node { path: path.clone(), references: info.references.iter().cloned().collect(), own };
    let fingerprint = match info.fingerprint(store.store_dir()) {
        Ok(fingerprint) => fingerprint,
        Err(error) => {
            let finding =
                Finding::new(Code::InvalidPath, format!("nobody can have signed what is said of it: {error}"));
            let faults = Faults { unchecked: true, ..Faults::default() };
            return PathAudit { nodes: vec![node(Own::unchecked(finding))], path, signatures: Vec::new(), faults };
        }
    };
    let Checked { address, failures, mut unchecked } = match measure.contents {
        Contents::Read => check_contents(store, &statement, progress).await,
        Contents::Leave => check_statement(store.store_dir(), info),
    };
    let policy = &measure.policy;
    let evidence = Evidence::weigh(fingerprint, statement.claims(), policy.keyring(), measure.now);
    let subject = Subject { path: &path, evidence: &evidence, address, absent_references: &[] };
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
    let own = statement.rivals.iter().map(|rival| Finding::conflict(&describe_info(rival))).fold(own, Own::noting);
    let mut nodes = vec![node(own)];
    nodes.extend(unchecked.map(|finding| node(Own::unchecked(finding))));
    let signatures = report(&evidence, &statement, policy.keyring());
    PathAudit { path, nodes, signatures, faults }
}
