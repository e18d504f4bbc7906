//! The judgement of a closure: a path stands only if it does by itself and so does everything that it refers to.
//!
//! What a path is worth by itself comes from outside, as [`Own`]. Here its references are followed: circles and absent
//! paths are found, and each failure is traced to its causes. Nothing here recurses, however long a chain of
//! references.

mod causes;
mod report;

pub use report::{Cause, PathReport, Remedy, Report, Standing, Totals};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use verifier::StorePath;

use crate::decide::{Decision, Verdict};
use crate::finding::{Code, Finding};
use crate::phrase;

/// What a path is worth by itself, whatever it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    standing: Standing,
    findings: Vec<Finding>,
    signers: Vec<Arc<str>>,
    /// The signers of whom each alone could make it stand.
    remedies: Vec<Arc<str>>,
}

impl Own {
    /// Takes over a decision that was made without regard to references. A path that is not admitted fails.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        let standing = if decision.verdict() == Verdict::Admit { Standing::Stands } else { Standing::Fails };
        Self {
            standing,
            findings: decision.findings().to_vec(),
            signers: decision.signers().to_vec(),
            remedies: decision.sole_completers().to_vec(),
        }
    }

    /// Makes what is said of a path that could not be checked; the finding says why.
    #[must_use]
    pub fn unchecked(finding: Finding) -> Self {
        Self { standing: Standing::Unchecked, findings: vec![finding], signers: Vec::new(), remedies: Vec::new() }
    }

    /// Adds a finding for which the path fails, such as contents that do not match.
    #[must_use]
    pub fn failing(mut self, finding: Finding) -> Self {
        self.fail(finding);
        self
    }

    /// Adds a finding that changes nothing.
    #[must_use]
    pub fn noting(mut self, finding: Finding) -> Self {
        self.findings.push(finding);
        self
    }

    fn fail(&mut self, finding: Finding) {
        self.standing = Standing::Fails;
        self.findings.insert(0, finding);
        // Whatever it is, no signature mends it.
        self.remedies.clear();
    }

    /// Takes in what else is said of the same path; the worse of the two standings holds, and its reasons come first.
    fn merge(&mut self, other: Self) {
        match (self.standing, other.standing) {
            (_, Standing::Stands) => {}
            (Standing::Stands, _) => self.remedies = other.remedies,
            _ => self.remedies.retain(|signer| other.remedies.contains(signer)),
        }
        let at = if other.standing > self.standing { 0 } else { self.findings.len() };
        self.findings.splice(at..at, other.findings);
        self.standing = self.standing.max(other.standing);
        self.signers.extend(other.signers);
        self.signers.sort();
        self.signers.dedup();
    }
}

/// A path of the closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The path.
    pub path: Arc<StorePath>,
    /// What it refers to directly; it may be among them itself. Who shares these spares memory.
    pub references: Vec<Arc<StorePath>>,
    /// What it is worth by itself.
    pub own: Own,
}

/// Paths with their references, ready to be judged.
#[derive(Debug, Clone)]
pub struct Closure {
    /// Sorted by path, each path once.
    nodes: Vec<(Arc<StorePath>, Own)>,
    /// From each path to what it refers to, without itself; a node's index is its place in `nodes`.
    graph: DiGraph<(), (), u32>,
    /// By place, the references that are neither in the closure nor known to be present.
    absent: Vec<Vec<Arc<StorePath>>>,
}

impl Closure {
    /// Puts a closure together. References outside of it count as missing.
    ///
    /// A path that comes twice is one path, with the references and findings of both.
    ///
    /// # Panics
    /// When there are 2^32 paths or references.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self::with_present(nodes, &BTreeSet::new())
    }

    /// Puts a closure together of which some references lead outside, to paths that are `present`: the report then says
    /// nothing of those, and counts on them.
    ///
    /// # Panics
    /// When there are 2^32 paths or references.
    #[must_use]
    pub fn with_present(nodes: Vec<Node>, present: &BTreeSet<StorePath>) -> Self {
        let mut together: BTreeMap<Arc<StorePath>, (Own, Vec<Arc<StorePath>>)> = BTreeMap::new();
        for Node { path, references, own } in nodes {
            match together.get_mut(&path) {
                Some((known, known_references)) => {
                    known.merge(own);
                    known_references.extend(references);
                }
                None => {
                    together.insert(path, (own, references));
                }
            }
        }
        let mut graph = DiGraph::with_capacity(together.len(), 0);
        let mut places = HashMap::with_capacity(together.len());
        let mut nodes = Vec::with_capacity(together.len());
        let mut references_of = Vec::with_capacity(together.len());
        for (path, (own, references)) in together {
            places.insert(path.clone(), graph.add_node(()));
            nodes.push((path, own));
            references_of.push(references);
        }
        let mut absent = vec![Vec::new(); nodes.len()];
        for (place, mut references) in references_of.into_iter().enumerate() {
            references.sort();
            references.dedup();
            for reference in references {
                match places.get(&reference) {
                    Some(target) if target.index() == place => {}
                    Some(target) => {
                        graph.add_edge(NodeIndex::new(place), *target, ());
                    }
                    None if present.contains(&reference) => {}
                    None => absent[place].push(reference),
                }
            }
        }
        Self { nodes, graph, absent }
    }

    /// Judges every path, in time that grows with the number of paths and references.
    ///
    /// A path fails when it does by itself, when it is in a circle, when a reference is missing, or when anything that
    /// it refers to fails; otherwise it is unchecked when it, or anything that it refers to, is unchecked.
    #[must_use]
    pub fn judge(&self) -> Report {
        let circles = kosaraju_scc(&self.graph);
        let mut own: Vec<Own> = self.nodes.iter().map(|(_, own)| own.clone()).collect();
        let mut missing: BTreeMap<Arc<StorePath>, Vec<usize>> = BTreeMap::new();
        for (place, absent) in self.absent.iter().enumerate().filter(|(_, absent)| !absent.is_empty()) {
            for path in absent {
                missing.entry(path.clone()).or_default().push(place);
            }
            let names = phrase::list(absent.iter().map(|path| path.to_basename()), "and");
            let verb = if absent.len() == 1 { "is" } else { "are" };
            let message = format!("it refers to {names}, which {verb} not in the store");
            own[place].fail(Finding::new(Code::MissingReference, message));
        }
        for circle in circles.iter().filter(|members| members.len() > 1) {
            let mut places: Vec<usize> = circle.iter().map(|node| node.index()).collect();
            places.sort_unstable();
            let names = phrase::list(places.iter().map(|place| self.nodes[*place].0.to_basename()), "and");
            let finding = Finding::new(Code::ReferenceCycle, format!("{names} refer to each other in a circle"));
            for place in places {
                own[place].fail(finding.clone());
            }
        }
        let standings: Vec<Standing> = own.iter().map(|own| own.standing).collect();
        let remedies: Vec<&[Arc<str>]> = own.iter().map(|own| &*own.remedies).collect();
        let traced = causes::trace(&self.graph, &circles, &standings, &remedies);
        report::assemble(self.nodes.iter().map(|(path, _)| path.clone()).zip(own), &self.graph, traced, missing)
    }
}
