//! The way through a store: what it says of each path, and several contents at once behind that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use policy::{Closure, Code, Finding, Node, Own};
use tokio::task::JoinSet;
use verifier::StorePath;

use super::asking::{Gathered, ask};
use super::contents::Reading;
use super::lanes::processors;
use super::outcome::{Facts, Notes};
use super::path::{PathAudit, audit_path};
use super::{Audit, AuditError, Contents, Faults, Measure, Outputs, Progress};
use crate::store::{History, MAX_PATHS, Store};

/// Paths that wait to be looked at, at most, before others are asked for; one of which much is said counts as several.
const MOST_WAITING: usize = 2_048;

/// So many bytes that are said of a path, roughly, make it count as one more.
const MUCH: usize = 4 << 10;

/// Most references of all paths of one audit, and most signatures, for the same reason.
const MAX_REFERENCES: usize = if cfg!(test) { 100 } else { 10_000_000 };
const MAX_SIGNATURES: usize = 10_000_000;

/// Whether a path's references are gone through too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum References {
    Follow(Outputs),
    CountOn,
}

/// A path to be looked at. Paths are shared: there are few, and they are named time and again.
struct Work {
    path: Arc<StorePath>,
    references: Vec<Arc<StorePath>>,
    /// As how many paths it counts while it waits.
    weight: usize,
    gathered: Gathered,
}

impl Work {
    fn of(path: StorePath, gathered: Gathered, known: &HashSet<Arc<StorePath>>) -> Self {
        let shared = |path: &StorePath| known.get(path).cloned().unwrap_or_else(|| Arc::new(path.clone()));
        let references = gathered.statement.info.references.iter().map(shared).collect();
        let weight = 1 + gathered.size() / MUCH;
        Self { path: shared(&path), references, weight, gathered }
    }
}

/// A path that was looked at.
struct Audited {
    path: Arc<StorePath>,
    references: Vec<Arc<StorePath>>,
    weight: usize,
    audit: PathAudit,
}

/// An audit under way.
pub(super) struct Walk {
    store: Arc<dyn Store>,
    measure: Arc<Measure>,
    reading: Arc<Reading>,
    /// Works that can begin: those with the largest contents first, so that none of these is what the end waits for.
    ready: BTreeMap<(Reverse<u64>, usize), Vec<Work>>,
    /// How many works have been made so far, by which those of one size are told apart.
    made: usize,
    works: JoinSet<Vec<Audited>>,
    /// As how many count those whose audit has begun and not ended.
    waiting: usize,
    /// References and signatures of all paths so far.
    references: usize,
    signatures: usize,
    nodes: Vec<Node>,
    facts: HashMap<Arc<StorePath>, Facts>,
    /// Those whose audit was asked for by name.
    roots: BTreeSet<StorePath>,
    /// References that are counted on, where they are there.
    present: BTreeSet<StorePath>,
    notes: Notes,
    faults: Faults,
}

impl Walk {
    pub(super) fn new(store: Arc<dyn Store>, measure: Measure, progress: Arc<Progress>) -> Self {
        let mut notes = Notes::default();
        if measure.contents == Contents::Leave {
            notes.add("contents were not read: nothing shows that they are what the signatures are about");
        }
        Self {
            store,
            measure: Arc::new(measure),
            reading: Arc::new(Reading::new(progress)),
            ready: BTreeMap::new(),
            made: 0,
            works: JoinSet::new(),
            waiting: 0,
            references: 0,
            signatures: 0,
            nodes: Vec::new(),
            facts: HashMap::new(),
            roots: BTreeSet::new(),
            present: BTreeSet::new(),
            notes,
            faults: Faults::default(),
        }
    }

    /// Goes through these paths alone.
    pub(super) async fn paths(&mut self, paths: BTreeSet<StorePath>) -> Result<(), AuditError> {
        self.roots.clone_from(&paths);
        self.go(&paths, References::CountOn).await?;
        let references = self.nodes.iter().flat_map(|node| &node.references);
        let references: BTreeSet<StorePath> = references.map(|path| (**path).clone()).collect();
        let elsewhere: BTreeSet<StorePath> = references.difference(&paths).cloned().collect();
        match self.store.valid_among(elsewhere.clone()).await {
            Ok(present) => self.present = present,
            Err(error) if error.ends_it() => return Err(error.into()),
            Err(error) => {
                self.notes.add_unchecked(&format!(
                    "whether everything is there that these paths refer to could not be checked: {error}"
                ));
                self.present = elsewhere;
            }
        }
        Ok(())
    }

    /// Goes through these paths and all that they refer to.
    pub(super) async fn closures(&mut self, paths: BTreeSet<StorePath>, outputs: Outputs) -> Result<(), AuditError> {
        self.roots.clone_from(&paths);
        self.go(&paths, References::Follow(outputs)).await
    }

    /// Goes through every path there is.
    pub(super) async fn everything(&mut self) -> Result<(), AuditError> {
        let listed = self.store.all_paths().await?;
        listed.unreadable.iter().for_each(|note| self.notes.add_unchecked(note));
        if listed.more_unreadable > 0 {
            self.notes.add_unchecked(&format!("{} more objects cannot be read", listed.more_unreadable));
        }
        if listed.paths.is_empty() {
            self.notes.add_unchecked("this store names no path, so nothing was checked");
        }
        self.go(&listed.paths, References::Follow(Outputs::LeaveOut)).await
    }

    /// Judges what was found.
    pub(super) fn finish(mut self) -> Audit {
        let remarks = self.measure.read_before.iter().filter_map(|log| log.remark());
        remarks.for_each(|remark| self.notes.add(&remark));
        let report = Closure::with_present(self.nodes, &self.present).judge();
        Audit::new(report, self.facts, &self.roots, self.notes, self.faults)
    }

    async fn go(&mut self, roots: &BTreeSet<StorePath>, references: References) -> Result<(), AuditError> {
        let pace = self.store.pace();
        let most_works = pace.contents * processors();
        let mut queue: VecDeque<StorePath> = roots.iter().cloned().collect();
        let mut seen: HashSet<Arc<StorePath>> = roots.iter().cloned().map(Arc::new).collect();
        let mut asked = JoinSet::new();
        let outputs = match references {
            References::Follow(outputs) => outputs,
            References::CountOn => Outputs::LeaveOut,
        };
        self.reading.progress.found(queue.len());
        loop {
            while asked.len() < pace.at_once && self.waiting < MOST_WAITING && !queue.is_empty() {
                let paths = queue.drain(..queue.len().min(pace.paths)).collect();
                let (store, measure) = (self.store.clone(), self.measure.clone());
                asked.spawn(async move { ask(&*store, &measure.substituters, paths, outputs).await });
            }
            while self.works.len() < most_works
                && let Some((_, works)) = self.ready.pop_first()
            {
                self.start(works);
            }
            tokio::select! {
                Some(answers) = asked.join_next() => {
                    let mut works = Vec::new();
                    for (path, answer) in answers? {
                        match answer {
                            Ok(Some(gathered)) if !self.has_room(&gathered) => {
                                let why = format!(
                                    "the paths have more than {MAX_REFERENCES} references or {MAX_SIGNATURES} signatures"
                                );
                                self.unchecked(path, Finding::new(Code::LimitExceeded, why));
                            }
                            Ok(Some(gathered)) => {
                                if matches!(references, References::Follow(_)) {
                                    self.follow(&gathered, &mut seen, &mut queue);
                                }
                                works.push(Work::of(path, gathered, &seen));
                            }
                            // Of a path that only others name, the closure says that it is missing.
                            Ok(None) if !roots.contains(&path) => self.reading.progress.done(1),
                            Ok(None) => {
                                let finding = Finding::new(Code::InvalidPath, "it is not valid in this store");
                                self.unchecked(path, finding);
                            }
                            Err(error) if error.ends_it() => return Err(error.into()),
                            Err(error) => self.unchecked(path, Finding::new(Code::MissingContent, error.to_string())),
                        }
                    }
                    self.prepare(works);
                }
                Some(done) = self.works.join_next() => self.take(done?),
                else => return Ok(()),
            }
        }
    }

    /// Counts the references and signatures of a path, and says whether there are not too many.
    fn has_room(&mut self, gathered: &Gathered) -> bool {
        let references = self.references.saturating_add(gathered.statement.info.references.len());
        let signatures = self.signatures.saturating_add(gathered.signatures());
        let fits = references <= MAX_REFERENCES && signatures <= MAX_SIGNATURES;
        if fits {
            (self.references, self.signatures) = (references, signatures);
        }
        fits
    }

    /// Puts what a path refers to on the list, where it is not yet.
    fn follow(&mut self, gathered: &Gathered, seen: &mut HashSet<Arc<StorePath>>, queue: &mut VecDeque<StorePath>) {
        if let Some(why) = &gathered.unknown {
            self.notes.add_unchecked(why);
        }
        for reference in gathered.statement.info.references.iter().chain(&gathered.outputs) {
            if seen.contains(reference) {
                continue;
            }
            if seen.len() >= MAX_PATHS {
                let why = format!("there are more than {MAX_PATHS} paths, and the rest was left unchecked");
                self.notes.add_unchecked(&why);
                return;
            }
            seen.insert(Arc::new(reference.clone()));
            self.reading.progress.found(1);
            queue.push_back(reference.clone());
        }
    }

    /// Puts the signatures and contents of some paths on the list of what can begin.
    fn prepare(&mut self, works: Vec<Work>) {
        for work in &works {
            if let History::Closed(why) = &work.gathered.statement.history {
                let note = format!(
                    "the times at which this store first saw signatures cannot be read ({why}): they count as seen now"
                );
                self.notes.add(&note);
            }
        }
        self.waiting += works.iter().map(|work| work.weight).sum::<usize>();
        // Contents take their time, each its own; signatures take so little that a task for each would take more.
        let each = match self.measure.contents {
            Contents::Read => 1,
            Contents::Leave => works.len().max(1),
        };
        let mut works = works.into_iter();
        loop {
            let some: Vec<Work> = works.by_ref().take(each).collect();
            if some.is_empty() {
                return;
            }
            let size = some.iter().map(|work| work.gathered.statement.info.nar_size).fold(0, u64::saturating_add);
            self.ready.insert((Reverse(size), self.made), some);
            self.made += 1;
        }
    }

    fn start(&mut self, works: Vec<Work>) {
        let (store, measure, reading) = (self.store.clone(), self.measure.clone(), self.reading.clone());
        self.works.spawn(async move {
            let mut audits = Vec::with_capacity(works.len());
            for Work { path, references, weight, gathered } in works {
                let audit = audit_path(&*store, &measure, gathered, &reading).await;
                audits.push(Audited { path, references, weight, audit });
            }
            audits
        });
    }

    /// Takes what came of some paths.
    fn take(&mut self, audits: Vec<Audited>) {
        self.waiting -= audits.iter().map(|audited| audited.weight).sum::<usize>();
        self.reading.progress.done(audits.len());
        for Audited { path, references, audit, .. } in audits {
            let PathAudit { own, facts, faults } = audit;
            self.faults |= faults;
            for own in own {
                self.nodes.push(Node { path: path.clone(), references: references.clone(), own });
            }
            self.facts.insert(path, facts);
        }
    }

    fn unchecked(&mut self, path: StorePath, finding: Finding) {
        self.faults.unchecked = true;
        self.nodes.push(Node { path: Arc::new(path), references: Vec::new(), own: Own::unchecked(finding) });
        self.reading.progress.done(1);
    }
}
