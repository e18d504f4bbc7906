//! The closure in layers: what somebody asked for first, and each path in a later layer than whatever refers to it.

use std::collections::BTreeMap;

use policy::Report;
use serde::Serialize;

use super::look::Look;

/// Most layers in which paths are drawn together: neighbouring ones of a deeper closure count as one.
const COLUMNS: u32 = 60;

/// Paths of one layer that look alike.
#[derive(Serialize)]
pub(super) struct Cell {
    pub(super) layer: u32,
    pub(super) look: Look,
    pub(super) paths: usize,
}

/// Returns the layer of each path, by its place. Those in a circle of references come after everything else.
pub(super) fn layers(report: &Report) -> Vec<u32> {
    let mut waits_for = vec![0_u32; report.paths.len()];
    for reference in report.paths.iter().flat_map(|path| &path.references) {
        waits_for[*reference as usize] += 1;
    }
    let mut layers = vec![0; report.paths.len()];
    let mut queue: Vec<usize> = (0..report.paths.len()).filter(|place| waits_for[*place] == 0).collect();
    let mut last = 0;
    while let Some(place) = queue.pop() {
        for reference in report.paths[place].references.iter().map(|reference| *reference as usize) {
            layers[reference] = layers[reference].max(layers[place] + 1);
            waits_for[reference] -= 1;
            if waits_for[reference] == 0 {
                last = last.max(layers[reference]);
                queue.push(reference);
            }
        }
    }
    for place in (0..layers.len()).filter(|place| waits_for[*place] > 0) {
        layers[place] = last + 1;
    }
    layers
}

/// Puts paths of one layer together that look alike, and counts the references between these.
pub(super) fn cells(report: &Report, layers: &[u32]) -> (Vec<Cell>, Vec<(usize, usize, usize)>) {
    let depth = layers.iter().max().map_or(1, |last| last + 1);
    let column = |layer: u32| if depth > COLUMNS { layer * COLUMNS / depth } else { layer };
    let key = |place: usize| (column(layers[place]), Look::of(&report.paths[place]));
    let mut counts: BTreeMap<(u32, Look), usize> = BTreeMap::new();
    (0..layers.len()).for_each(|place| *counts.entry(key(place)).or_default() += 1);
    let at: BTreeMap<(u32, Look), usize> = counts.keys().copied().zip(0..).collect();
    let mut links: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (place, path) in report.paths.iter().enumerate() {
        for reference in &path.references {
            let (from, to) = (at[&key(place)], at[&key(*reference as usize)]);
            if from != to {
                *links.entry((from, to)).or_default() += 1;
            }
        }
    }
    let cells = counts.into_iter().map(|((layer, look), paths)| Cell { layer, look, paths }).collect();
    (cells, links.into_iter().map(|((from, to), references)| (from, to, references)).collect())
}
