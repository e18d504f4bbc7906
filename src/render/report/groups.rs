//! Paths that do not stand by themselves, put together by the reason why.

use std::collections::BTreeMap;

use policy::{Code, PathReport, Report, Standing};

/// Most groups for which it is counted how far they reach: each takes a pass over the closure.
const COUNTED: usize = 64;

/// Paths that do not stand by themselves for the same reason.
pub(super) struct Group<'a> {
    /// How they stand.
    pub(super) standing: Standing,
    /// What kind of thing stands in their way.
    pub(super) code: Code,
    /// What that is, in the words that all of them share; none where each has words of its own.
    pub(super) reason: Option<&'a str>,
    /// The paths: first those that most others do not stand because of.
    pub(super) paths: Vec<(&'a PathReport, Option<usize>)>,
    /// How many paths do not stand because of them, these included; none where it was not counted.
    pub(super) affected: Option<usize>,
}

/// Puts together what does not stand: first what fails, and of that what most others do not stand because of.
pub(super) fn groups(report: &Report) -> Vec<Group<'_>> {
    let mut together: BTreeMap<(Standing, Code, Option<&str>), Vec<(usize, Option<usize>)>> = BTreeMap::new();
    for cause in &report.causes {
        let Some(place) = report.place_of(&cause.path) else { continue };
        let Some(finding) = report.paths[place].findings.first() else { continue };
        let reason = (finding.code == Code::QuorumMissing).then_some(&*finding.message);
        together.entry((cause.standing, finding.code, reason)).or_default().push((place, cause.affected));
    }
    let above = if together.is_empty() { Vec::new() } else { above(report) };
    let mut groups: Vec<Group<'_>> = Vec::with_capacity(together.len());
    for ((standing, code, reason), mut places) in together {
        places.sort_by_key(|(place, affected)| (std::cmp::Reverse(*affected), *place));
        let affected = (groups.len() < COUNTED).then(|| reach(&above, places.iter().map(|(place, _)| *place)));
        let paths = places.into_iter().map(|(place, affected)| (&report.paths[place], affected)).collect();
        groups.push(Group { standing, code, reason, paths, affected });
    }
    groups.sort_by_key(|group| std::cmp::Reverse((group.standing, group.affected)));
    groups
}

/// Counts the paths that do not stand because signatures are missing, of themselves or of something that they refer to.
pub(super) fn held_back(report: &Report) -> usize {
    let short = |cause: &&policy::Cause| cause.codes.contains(&Code::QuorumMissing);
    let places = report.causes.iter().filter(short).filter_map(|cause| report.place_of(&cause.path));
    let places: Vec<usize> = places.collect();
    if places.is_empty() { 0 } else { reach(&above(report), places.into_iter()) }
}

/// Returns, by place, what refers to each path.
fn above(report: &Report) -> Vec<Vec<u32>> {
    let mut above = vec![Vec::new(); report.paths.len()];
    for (place, path) in (0_u32..).zip(&report.paths) {
        path.references.iter().for_each(|reference| above[*reference as usize].push(place));
    }
    above
}

/// Counts the paths from which some of these can be reached.
fn reach(above: &[Vec<u32>], from: impl Iterator<Item = usize>) -> usize {
    let mut reached = vec![false; above.len()];
    let mut queue: Vec<usize> = from.collect();
    let mut count = 0;
    while let Some(place) = queue.pop() {
        if std::mem::replace(&mut reached[place], true) {
            continue;
        }
        count += 1;
        queue.extend(above[place].iter().map(|place| *place as usize));
    }
    count
}
