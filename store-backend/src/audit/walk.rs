//! The way through a store: what it says of each path, and several contents at once behind that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use policy::{Closure, Code, Finding, Node, Own};
use tokio::task::JoinSet;
use verifier::StorePath;

use super::path::{PathAudit, audit_path};
use super::{Audit, AuditError, Contents, Faults, Measure, Progress, SignatureReport};
use crate::client::ClientError;
use crate::store::{History, Statement, Store, StoreError};

/// Paths whose contents are read at once: enough for a disk and a few processors, and a bound on memory.
const AT_ONCE: usize = 4;

/// Most unreadable objects that are named; whoever mends these asks again.
const MAX_UNREADABLE: usize = 10;

/// Most paths of one audit: ten times the largest closures there are. A store that names more makes them up as it goes.
const MAX_PATHS: usize = 1_000_000;

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
    works: JoinSet<PathAudit>,
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
        let mut queue: VecDeque<StorePath> = roots.iter().cloned().collect();
        let mut seen = roots.clone();
        self.progress.found(queue.len());
        while let Some(path) = queue.pop_front() {
            match self.store.statement(&path).await {
                Ok(Some(statement)) => {
                    if references == References::Follow {
                        self.follow(&statement, &mut seen, &mut queue);
                    }
                    self.start(statement).await?;
                }
                // Of a path that only others name, the closure says that it is missing.
                Ok(None) if !roots.contains(&path) => self.progress.done(),
                Ok(None) => {
                    self.unchecked(path, Finding::new(Code::InvalidPath, "it is not valid in this store"));
                }
                Err(error) if ends_audit(&error) => return Err(error.into()),
                Err(error) => self.unchecked(path, Finding::new(Code::MissingContent, error.to_string())),
            }
        }
        while self.take_one().await? {}
        Ok(())
    }

    /// Puts what a path refers to on the list, where it is not yet.
    fn follow(&mut self, statement: &Statement, seen: &mut BTreeSet<StorePath>, queue: &mut VecDeque<StorePath>) {
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

    /// Starts with a path's signatures and contents, once there is room.
    async fn start(&mut self, statement: Statement) -> Result<(), AuditError> {
        if let History::Closed(why) = &statement.history {
            let note = format!(
                "the times at which this store first saw signatures cannot be read ({why}): they count as seen now"
            );
            self.notes.insert(note);
        }
        if self.works.len() >= AT_ONCE {
            self.take_one().await?;
        }
        let (store, measure, progress) = (self.store.clone(), self.measure.clone(), self.progress.clone());
        self.works.spawn(async move { audit_path(&*store, &measure, statement, progress).await });
        Ok(())
    }

    /// Takes what came of one path; says whether there was one.
    async fn take_one(&mut self) -> Result<bool, AuditError> {
        let Some(done) = self.works.join_next().await else {
            return Ok(false);
        };
        let PathAudit { path, nodes, signatures, faults } = done?;
        self.faults |= faults;
        self.nodes.extend(nodes);
        self.signatures.insert(path, signatures);
        self.progress.done();
        Ok(true)
    }

    fn unchecked(&mut self, path: StorePath, finding: Finding) {
        self.faults.unchecked = true;
        self.nodes.push(Node { path, references: Vec::new(), own: Own::unchecked(finding) });
        self.progress.done();
    }
}

/// Whether an error will meet every further question too.
fn ends_audit(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Stalled { .. } | StoreError::Daemon(ClientError::Connect { .. } | ClientError::Handshake(_))
    )
}
