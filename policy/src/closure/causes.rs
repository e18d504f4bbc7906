//! Which paths bring down which: the causes of each failure, in time that grows with the graph alone.
//!
//! A cause is a path that does not stand by itself. Which causes a path can reach cannot be counted in linear time for
//! any number of causes, so the first [`COUNTED`] of them are counted, 64 in each pass, and the rest are only named.

use std::collections::BTreeMap;
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};

use super::report::Standing;

/// Most causes that are counted exactly: 32 passes over the graph. With more, something ails the store as a whole.
pub(super) const COUNTED: usize = 2_048;
/// Most causes that are named for one path; whoever mends these asks again.
pub(super) const NAMED: usize = 10;

/// Most signers of whom it is counted what they alone would clear: one pass over the graph.
const REMEDIES: usize = 64;

/// What one signer could do about paths that fall short.
pub(super) struct Clearing {
    pub(super) signer: Arc<str>,
    /// Paths that would stand by themselves.
    pub(super) completes: usize,
    /// Paths that would stand.
    pub(super) clears: usize,
}

/// What was found out about every path and every cause.
pub(super) struct Traced {
    /// By place: how the path stands, whatever it refers to considered.
    pub(super) standings: Vec<Standing>,
    /// By place: some causes, as indices into `causes`, failures first, at most [`NAMED`].
    pub(super) named: Vec<Vec<u32>>,
    /// By place: how many of the counted causes it has.
    pub(super) counts: Vec<usize>,
    /// The places of all causes: failures first, and each kind in the order of places.
    pub(super) causes: Vec<usize>,
    /// For each counted cause: how many paths it brings down, itself included.
    pub(super) affected: Vec<usize>,
    /// Those who could complete most, first those who would clear most.
    pub(super) clearings: Vec<Clearing>,
}

/// Follows every failure upwards. `circles` are the strongly connected components, references before what refers to
/// them.
pub(super) fn trace(
    graph: &DiGraph<(), (), u32>,
    circles: &[Vec<NodeIndex>],
    own: &[Standing],
    remedies: &[&[Arc<str>]],
) -> Traced {
    let mut causes: Vec<usize> = (0..own.len()).filter(|place| own[*place] != Standing::Stands).collect();
    causes.sort_by_key(|place| (std::cmp::Reverse(own[*place]), *place));
    let mut cause_at = vec![None; own.len()];
    for (index, place) in (0_u32..).zip(&causes) {
        cause_at[*place] = Some(index);
    }
    let mut circle_of = vec![0; own.len()];
    for (circle, members) in circles.iter().enumerate() {
        members.iter().for_each(|member| circle_of[member.index()] = circle);
    }
    let walk = Walk { graph, circles, circle_of, cause_at };

    let standings = walk.upwards(|place| own[place], |standing, lower| *standing = (*standing).max(*lower));
    let named = walk.upwards(
        |place| walk.cause_at[place].into_iter().collect::<Vec<u32>>(),
        |named, lower| {
            named.extend(lower);
            named.sort_unstable();
            named.dedup();
            named.truncate(NAMED);
        },
    );
    let (counts, affected) = count(&walk, causes.len().min(COUNTED));
    let clearings = clear(&walk, own, remedies, &standings);
    Traced {
        standings: walk.by_place(&standings),
        named: walk.by_place(&named),
        counts: walk.by_place(&counts),
        causes,
        affected,
        clearings,
    }
}

/// Counts for each of some signers the paths that would stand if they signed all that they could complete. `standings` are
/// the circles'.
fn clear(walk: &Walk<'_>, own: &[Standing], remedies: &[&[Arc<str>]], standings: &[Standing]) -> Vec<Clearing> {
    let mut completes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    for signer in remedies.iter().copied().flatten() {
        *completes.entry(signer).or_default() += 1;
    }
    let mut signers: Vec<(&Arc<str>, usize)> = completes.into_iter().collect();
    signers.sort_by_key(|(signer, completes)| (std::cmp::Reverse(*completes), *signer));
    signers.truncate(REMEDIES);
    if signers.is_empty() {
        return Vec::new();
    }
    let bits: BTreeMap<&Arc<str>, u64> =
        signers.iter().zip(0..).map(|((signer, _), bit)| (*signer, 1 << bit)).collect();
    // A bit says that a path would still not stand.
    let left = |place: usize| match own[place] {
        Standing::Stands => 0,
        _ => !remedies[place].iter().filter_map(|signer| bits.get(signer)).fold(0, |mask, bit| mask | bit),
    };
    let masks = walk.upwards(left, |mask, lower| *mask |= *lower);
    let mut clears = vec![0; signers.len()];
    for ((members, mask), standing) in walk.circles.iter().zip(&masks).zip(standings) {
        if *standing == Standing::Stands {
            continue;
        }
        for (_, clears) in clears.iter_mut().enumerate().filter(|(index, _)| mask >> index & 1 == 0) {
            *clears += members.len();
        }
    }
    let mut clearings: Vec<Clearing> = signers
        .into_iter()
        .zip(clears)
        .map(|((signer, completes), clears)| Clearing { signer: signer.clone(), completes, clears })
        .collect();
    clearings.sort_by_key(|clearing| std::cmp::Reverse((clearing.clears, clearing.completes)));
    clearings
}

/// Counts, by circle, the causes below `counted`, and for each of those the paths that it brings down.
fn count(walk: &Walk<'_>, counted: usize) -> (Vec<usize>, Vec<usize>) {
    let mut counts = vec![0; walk.circles.len()];
    let mut affected = vec![0; counted];
    for first in (0..counted).step_by(64) {
        let batch = first..counted.min(first + 64);
        let bit = |cause: u32| {
            let cause = cause as usize;
            if batch.contains(&cause) { 1_u64 << (cause - first) } else { 0 }
        };
        let masks = walk.upwards(|place| walk.cause_at[place].map_or(0, bit), |mask, lower| *mask |= *lower);
        for (circle, mut mask) in masks.into_iter().enumerate() {
            counts[circle] += mask.count_ones() as usize;
            while mask != 0 {
                affected[first + mask.trailing_zeros() as usize] += walk.circles[circle].len();
                mask &= mask - 1;
            }
        }
    }
    (counts, affected)
}

/// The graph as circles, each after what it refers to.
struct Walk<'a> {
    graph: &'a DiGraph<(), (), u32>,
    circles: &'a [Vec<NodeIndex>],
    circle_of: Vec<usize>,
    cause_at: Vec<Option<u32>>,
}

impl Walk<'_> {
    /// Gathers a value for each circle from what its members have by themselves and what lies below.
    fn upwards<T: Default>(&self, own: impl Fn(usize) -> T, merge: impl Fn(&mut T, &T)) -> Vec<T> {
        let mut values: Vec<T> = Vec::with_capacity(self.circles.len());
        for (circle, members) in self.circles.iter().enumerate() {
            let mut value = T::default();
            for member in members {
                merge(&mut value, &own(member.index()));
                for below in self.graph.neighbors(*member).map(|below| self.circle_of[below.index()]) {
                    if below != circle {
                        merge(&mut value, &values[below]);
                    }
                }
            }
            values.push(value);
        }
        values
    }

    /// Spreads values of circles over their members.
    fn by_place<T: Clone>(&self, values: &[T]) -> Vec<T> {
        self.circle_of.iter().map(|circle| values[*circle].clone()).collect()
    }
}
