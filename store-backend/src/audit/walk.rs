//! The way through a store: what it says of each path, and several contents at once behind that.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use policy::{Closure, Code, Finding, Node, Own};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use verifier::StorePath;

use super::path::{PathAudit, audit_path};
use super::{Audit, AuditError, Contents, Faults, Measure, Progress, SignatureReport};
use crate::store::{History, Statement, Store};

/// Paths that wait to be looked at, at most, before others are asked for.
const MOST_WAITING: usize = 2_048;

/// Most unreadable objects that are named; whoever mends these asks again.
const MAX_UNREADABLE: usize = 10;

/// Most paths of one audit: twenty times the largest closures there are. A store that names more makes them up as it goes.
const MAX_PATHS: usize = 2_000_000;

/// Whether a path's references are gone through too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum References {
    Follow,
    CountOn,
}

/// An audit under way.
pub(super) struct Walk {
    store: Arc<dyn Store>,
    measure: Arc<Measure>,
    progress: Arc<Progress>,
    works: JoinSet<Vec<PathAudit>>,
    /// How many of them are at work at once.
    room: Arc<Semaphore>,
    /// Paths whose audit has begun and not ended.
    waiting: usize,
    nodes: Vec<Node>,
    signatures: BTreeMap<StorePath, Vec<SignatureReport>>,
    /// References that are counted on, where they are there.
    present: BTreeSet<StorePath>,
    notes: BTreeSet<String>,
    faults: Faults,
}

impl Walk {
    pub(super) fn new(store: Arc<dyn Store>, measure: Measure, progress: Arc<Progress>) -> Self {
        let mut notes = BTreeSet::new();
        if measure.contents == Contents::Leave {
            notes
                .insert("contents were not read: nothing shows that they are what the signatures are about".to_owned());
        }
        Self {
            store,
            measure: Arc::new(measure),
            progress,
            works: JoinSet::new(),
            room: Arc::new(Semaphore::new(at_once())),
            waiting: 0,
            nodes: Vec::new(),
            signatures: BTreeMap::new(),
            present: BTreeSet::new(),
            notes,
            faults: Faults::default(),
        }
    }

    /// Goes through these paths alone.
    pub(super) async fn paths(&mut self, paths: BTreeSet<StorePath>) -> Result<(), AuditError> {
        self.go(&paths, References::CountOn).await?;
        let references: BTreeSet<StorePath> = self.nodes.iter().flat_map(|node| node.references.clone()).collect();
        let elsewhere: BTreeSet<StorePath> = references.difference(&paths).cloned().collect();
        self.present = self.store.valid_among(elsewhere).await?;
        Ok(())
    }

    /// Goes through these paths and all that they refer to.
    pub(super) async fn closures(&mut self, paths: BTreeSet<StorePath>) -> Result<(), AuditError> {
        self.go(&paths, References::Follow).await
    }

    /// Goes through every path there is.
    pub(super) async fn everything(&mut self) -> Result<(), AuditError> {
        let listed = self.store.all_paths().await?;
        let unreadable = listed.unreadable.len();
        self.faults.unchecked |= unreadable > 0;
        self.notes.extend(listed.unreadable.into_iter().take(MAX_UNREADABLE));
        if unreadable > MAX_UNREADABLE {
            self.notes.insert(format!("{} more objects cannot be read", unreadable - MAX_UNREADABLE));
        }
        self.go(&listed.paths, References::Follow).await
    }

    /// Judges what was found.
    pub(super) fn finish(self) -> Audit {
        let report = Closure::with_present(self.nodes, &self.present).judge();
        Audit::new(report, self.signatures, self.notes, self.faults)
    }

    async fn go(&mut self, roots: &BTreeSet<StorePath>, references: References) -> Result<(), AuditError> {
        let pace = self.store.pace();
        let mut queue: VecDeque<StorePath> = roots.iter().cloned().collect();
        let mut seen: HashSet<StorePath> = roots.iter().cloned().collect();
        let mut asked = JoinSet::new();
        self.progress.found(queue.len());
        loop {
            while asked.len() < pace.at_once && self.waiting < MOST_WAITING && !queue.is_empty() {
                let paths = queue.drain(..queue.len().min(pace.paths)).collect();
                let store = self.store.clone();
                asked.spawn(async move { store.statements(paths).await });
            }
            tokio::select! {
                Some(answers) = asked.join_next() => {
                    let mut statements = Vec::new();
                    for (path, answer) in answers? {
                        match answer {
                            Ok(Some(statement)) => {
                                if references == References::Follow {
                                    self.follow(&statement, &mut seen, &mut queue);
                                }
                                statements.push(statement);
                            }
                            // Of a path that only others name, the closure says that it is missing.
                            Ok(None) if !roots.contains(&path) => self.progress.done(1),
                            Ok(None) => {
                                let finding = Finding::new(Code::InvalidPath, "it is not valid in this store");
                                self.unchecked(path, finding);
                            }
                            Err(error) if error.ends_it() => return Err(error.into()),
                            Err(error) => self.unchecked(path, Finding::new(Code::MissingContent, error.to_string())),
                        }
                    }
                    self.start(statements);
                }
                Some(done) = self.works.join_next() => self.take(done?),
                else => return Ok(()),
            }
        }
    }

    /// Puts what a path refers to on the list, where it is not yet.
    fn follow(&mut self, statement: &Statement, seen: &mut HashSet<StorePath>, queue: &mut VecDeque<StorePath>) {
        for reference in &statement.info.references {
            if seen.len() >= MAX_PATHS {
                self.faults.unchecked = true;
                self.notes.insert(format!("there are more than {MAX_PATHS} paths, and the rest was left unchecked"));
                return;
            }
            if seen.insert(reference.clone()) {
                self.progress.found(1);
                queue.push_back(reference.clone());
            }
        }
    }

    /// Starts with the signatures and contents of some paths.
    fn start(&mut self, statements: Vec<Statement>) {
        for statement in &statements {
            if let History::Closed(why) = &statement.history {
                let note = format!(
                    "the times at which this store first saw signatures cannot be read ({why}): they count as seen now"
                );
                self.notes.insert(note);
            }
        }
        self.waiting += statements.len();
        // Contents take their time, each its own; signatures take so little that a task for each would take more.
        let each = match self.measure.contents {
            Contents::Read => 1,
            Contents::Leave => statements.len().max(1),
        };
        let mut statements = statements.into_iter();
        loop {
            let some: Vec<Statement> = statements.by_ref().take(each).collect();
            if some.is_empty() {
                return;
            }
            let (store, measure, progress) = (self.store.clone(), self.measure.clone(), self.progress.clone());
            let room = self.room.clone();
            self.works.spawn(async move {
                let _room = room.acquire_owned().await;
                let mut audits = Vec::with_capacity(some.len());
                for statement in some {
                    audits.push(audit_path(&*store, &measure, statement, progress.clone()).await);
                }
                audits
            });
        }
    }

    /// Takes what came of some paths.
    fn take(&mut self, audits: Vec<PathAudit>) {
        self.waiting -= audits.len();
        self.progress.done(audits.len());
        for PathAudit { path, nodes, signatures, faults } in audits {
            self.faults |= faults;
            self.nodes.extend(nodes);
            self.signatures.insert(path, signatures);
        }
    }

    fn unchecked(&mut self, path: StorePath, finding: Finding) {
        self.faults.unchecked = true;
        self.nodes.push(Node { path, references: Vec::new(), own: Own::unchecked(finding) });
        self.progress.done(1);
    }
}

/// How many paths are looked at at once: as many as there are processors, and as many again that wait for a disk or a network. It
/// bounds memory too.
fn at_once() -> usize {
    2 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(16)
}
