//! The report on a closure: data alone, the same whoever renders it.

use std::collections::BTreeMap;
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};
use serde::Serialize;
use verifier::StorePath;

use super::Own;
use super::causes::{Clearing, Traced};
use crate::finding::{Code, Finding};

/// Version of the report's form; it rises when a field changes its meaning or goes away.
const VERSION: u32 = 1;

/// How a path stands, from best to worst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It was checked, and stands with all that it refers to.
    #[default]
    Stands,
    /// Nothing is known against it, but it, or something that it refers to, could not be checked.
    Unchecked,
    /// It fails, by itself or through something that it refers to.
    Fails,
}

/// What was found out about a closure. In JSON, paths are base names and members are in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of the report's form: 1.
    pub version: u32,
    /// The sums.
    pub totals: Totals,
    /// Every path, sorted.
    pub paths: Vec<PathReport>,
    /// Every path that does not stand by itself: first those that fail, each kind sorted.
    pub causes: Vec<Cause>,
    /// What single signers could do about it: those who could complete most paths, up to 64, and first those who would clear
    /// most.
    pub remedies: Vec<Remedy>,
    /// What paths refer to that is neither among them nor known to be present: by whom, as places among the paths.
    #[serde(skip)]
    pub absent: BTreeMap<Arc<StorePath>, Vec<usize>>,
}

impl Report {
    /// Returns the places of the paths that nothing else refers to.
    #[must_use]
    pub fn tops(&self) -> Vec<usize> {
        let mut below = vec![false; self.paths.len()];
        self.paths.iter().flat_map(|path| &path.references).for_each(|reference| below[*reference as usize] = true);
        (0..self.paths.len()).filter(|place| !below[*place]).collect()
    }

    /// Returns where a path is among the paths; none if it is not.
    #[must_use]
    pub fn place_of(&self, path: &StorePath) -> Option<usize> {
        self.paths.binary_search_by(|report| (*report.path).cmp(path)).ok()
    }

    /// Returns how the closure stands: as its worst path does. A closure without paths stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.paths.iter().map(|path| path.standing).max().unwrap_or_default()
    }
}

/// How many paths stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Paths of the closure.
    pub paths: usize,
    /// Paths that stand.
    pub stands: usize,
    /// Paths that fail.
    pub fails: usize,
    /// Paths that are unchecked.
    pub unchecked: usize,
    /// Paths that do not stand by themselves.
    pub causes: usize,
    /// Causes for which paths were counted: all of them up to 2,048. Where there are more, the counts are lower bounds.
    pub counted_causes: usize,
}

/// What was found out about one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// The path.
    pub path: Arc<StorePath>,
    /// How it stands, with all that it refers to.
    pub standing: Standing,
    /// How it stands by itself.
    pub own: Standing,
    /// What was noticed about the path itself.
    pub findings: Vec<Finding>,
    /// The signers whose votes count.
    pub signers: Vec<Arc<str>>,
    /// What it refers to, other than itself: places among the paths. Those that are not of the closure are left out.
    #[serde(skip)]
    pub references: Vec<u32>,
    /// The paths for which it does not stand, itself among them if it is one; at most 10, failures first.
    pub causes: Vec<Arc<StorePath>>,
    /// How many such paths there are.
    pub causes_total: usize,
}

/// What one signer could do about paths that fall short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remedy {
    /// The signer's name.
    pub signer: Arc<str>,
    /// Paths that would stand by themselves if this signer alone signed them.
    pub completes: usize,
    /// Paths that would stand then, with all that they refer to.
    pub clears: usize,
}

/// A path that does not stand by itself, and how far that reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The path.
    pub path: Arc<StorePath>,
    /// How it stands by itself: fails or unchecked.
    pub standing: Standing,
    /// The codes of its findings, each once, in their order.
    pub codes: Vec<Code>,
    /// How many paths do not stand because of it, itself included; none where it was not counted.
    pub affected: Option<usize>,
}

/// Puts the report together from the paths in their order and what was traced.
pub(super) fn assemble(
    nodes: impl Iterator<Item = (Arc<StorePath>, Own)>,
    graph: &DiGraph<(), (), u32>,
    traced: Traced,
    absent: BTreeMap<Arc<StorePath>, Vec<usize>>,
) -> Report {
    let (names, owns): (Vec<Arc<StorePath>>, Vec<Own>) = nodes.unzip();
    let cause = |(index, place): (usize, &usize)| Cause {
        path: names[*place].clone(),
        standing: owns[*place].standing,
        codes: codes(&owns[*place].findings),
        affected: traced.affected.get(index).copied(),
    };
    let causes: Vec<Cause> = traced.causes.iter().enumerate().map(cause).collect();
    let mut totals =
        Totals { paths: names.len(), causes: causes.len(), counted_causes: traced.affected.len(), ..Totals::default() };
    let per_path = owns.into_iter().zip(traced.standings).zip(traced.named.into_iter().zip(traced.counts));
    let mut paths = Vec::with_capacity(names.len());
    for (place, (path, ((own, standing), (named, count)))) in names.iter().zip(per_path).enumerate() {
        match standing {
            Standing::Stands => totals.stands += 1,
            Standing::Unchecked => totals.unchecked += 1,
            Standing::Fails => totals.fails += 1,
        }
        paths.push(PathReport {
            path: path.clone(),
            standing,
            own: own.standing,
            findings: own.findings,
            signers: own.signers,
            references: references_of(graph, place),
            causes_total: count.max(named.len()),
            causes: named.into_iter().map(|cause| causes[cause as usize].path.clone()).collect(),
        });
    }
    let remedy = |Clearing { signer, completes, clears }| Remedy { signer, completes, clears };
    let remedies = traced.clearings.into_iter().map(remedy).collect();
    Report { version: VERSION, totals, paths, causes, remedies, absent }
}

/// Lists the places that a path refers to, in their order.
fn references_of(graph: &DiGraph<(), (), u32>, place: usize) -> Vec<u32> {
    let mut places: Vec<u32> =
        graph.neighbors(NodeIndex::new(place)).map(|node| u32::try_from(node.index()).unwrap_or(u32::MAX)).collect();
    places.sort_unstable();
    places
}

fn codes(findings: &[Finding]) -> Vec<Code> {
    let mut codes: Vec<Code> = Vec::new();
    for finding in findings {
        if !codes.contains(&finding.code) {
            codes.push(finding.code);
        }
    }
    codes
}
