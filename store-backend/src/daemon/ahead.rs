//! What a client will probably ask for next. Nothing depends on it but how long the client waits.

use std::collections::{BTreeSet, HashMap, VecDeque};

use verifier::{PathInfo, StorePath};

/// Most paths that are kept in mind, about a kilobyte each.
const MOST: usize = 5_000;

/// NARs that are read ahead of the one that was asked for.
const AHEAD: usize = 16;

/// The paths whose infos a client asked for.
///
/// Nix copies a closure so: first all infos, then the NARs, each once what it refers to is there.
#[derive(Default)]
pub(super) struct Ahead {
    paths: HashMap<StorePath, Path>,
    /// Those that wait for nothing.
    ready: BTreeSet<StorePath>,
}

/// What is known of a path: from its own info, or because others refer to it.
#[derive(Default)]
struct Path {
    references: Vec<StorePath>,
    referrers: Vec<StorePath>,
    /// How many of its references the client has yet to ask for.
    waits_for: usize,
    told: bool,
    /// Whether the client has it.
    there: bool,
}

impl Ahead {
    /// Notes that a client was told a path's info.
    pub(super) fn note_info(&mut self, info: &PathInfo) {
        if self.paths.len() >= MOST {
            *self = Self::default();
        }
        if self.paths.get(&info.path).is_some_and(|path| path.told || path.there) {
            return;
        }
        let references: Vec<StorePath> = info.other_references().cloned().collect();
        let mut waits_for = 0;
        for reference in &references {
            let reference = self.paths.entry(reference.clone()).or_default();
            reference.referrers.push(info.path.clone());
            waits_for += usize::from(!reference.there);
        }
        let path = self.paths.entry(info.path.clone()).or_default();
        (path.references, path.waits_for, path.told) = (references, waits_for, true);
        if waits_for == 0 {
            self.ready.insert(info.path.clone());
        }
    }

    /// Notes that a client asks for a path's NAR, so that it has what the path refers to; returns those that it will probably ask
    /// for next.
    pub(super) fn after(&mut self, path: &StorePath) -> Vec<StorePath> {
        let mut there = vec![path.clone()];
        while let Some(path) = there.pop() {
            self.ready.remove(&path);
            let Some(known) = self.paths.get_mut(&path).filter(|known| !known.there) else {
                continue;
            };
            known.there = true;
            there.append(&mut known.references);
            for referrer in std::mem::take(&mut known.referrers) {
                let Some(known) = self.paths.get_mut(&referrer) else { continue };
                known.waits_for = known.waits_for.saturating_sub(1);
                if known.waits_for == 0 && !known.there {
                    self.ready.insert(referrer);
                }
            }
        }
        self.guess()
    }

    /// Goes on as the client would.
    fn guess(&self) -> Vec<StorePath> {
        let mut guessed = Vec::new();
        let mut fewer: HashMap<&StorePath, usize> = HashMap::new();
        let mut next: VecDeque<&StorePath> = self.ready.iter().take(AHEAD).collect();
        while let Some(path) = next.pop_front().filter(|_| guessed.len() < AHEAD) {
            guessed.push(path.clone());
            for referrer in self.paths.get(path).map_or(&[][..], |known| &known.referrers) {
                let fewer = fewer.entry(referrer).or_default();
                *fewer += 1;
                if self.paths.get(referrer).is_some_and(|known| known.waits_for == *fewer) {
                    next.push_back(referrer);
                }
            }
        }
        guessed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u8) -> StorePath {
        StorePath::from_parts([number; 20], "a").expect("a store path")
    }

    fn told(infos: &[(u8, &[u8])]) -> Ahead {
        let mut ahead = Ahead::default();
        for (number, references) in infos {
            let references = references.iter().map(|number| path(*number)).collect();
            ahead.note_info(&PathInfo {
                path: path(*number),
                deriver: None,
                nar_hash: verifier::NarHash::from_sha256([*number; 32]),
                nar_size: 1,
                references,
                registration_time: 0,
                ultimate: false,
                signatures: BTreeSet::new(),
                content_address: None,
            });
        }
        ahead
    }

    fn after(ahead: &mut Ahead, number: u8) -> Vec<u8> {
        ahead.after(&path(number)).iter().map(|path| path.digest()[0]).collect()
    }

    #[test]
    fn references_come_first_and_nothing_twice() {
        let mut ahead = told(&[(1, &[2, 3]), (2, &[]), (3, &[4]), (4, &[]), (1, &[2, 3])]);
        assert_eq!(after(&mut ahead, 2), [4, 3, 1]);
        assert_eq!(after(&mut ahead, 4), [3, 1]);
        assert_eq!(after(&mut ahead, 3), [1]);
        assert_eq!(after(&mut ahead, 1), [0; 0]);
        assert_eq!(after(&mut ahead, 1), [0; 0]);
    }

    /// A client that asks for a path has what it refers to, from wherever.
    #[test]
    fn what_the_client_has_is_not_read() {
        let mut ahead = told(&[(1, &[2]), (2, &[3]), (3, &[]), (5, &[3])]);
        assert_eq!(after(&mut ahead, 2), [1, 5]);
        assert_eq!(after(&mut ahead, 9), [1, 5]);
    }

    #[test]
    fn no_more_is_read_ahead_than_can_be_used() {
        let infos: Vec<(u8, &[u8])> = (0..100).map(|number| (number, &[][..])).collect();
        assert_eq!(after(&mut told(&infos), 0).len(), AHEAD);
    }
}
