//! Questions to stores, each asked as it is best asked.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use verifier::StorePath;

use super::{Outputs, Substituter};
use crate::store::{Statement, Statements, Store, StoreError};

/// How often in a row another store may fail before it is asked no more.
const MOST_FAILURES: u32 = 64;

/// What stores say of one path.
pub(super) struct Gathered {
    /// What the audited one says.
    pub(super) statement: Statement,
    /// What each of the others says, in their order, or why it does not.
    pub(super) elsewhere: Vec<Result<Option<Statement>, String>>,
    /// What a derivation makes, where that was asked for, as far as the audited store says.
    pub(super) outputs: Vec<StorePath>,
    /// What it does not say of that.
    pub(super) unknown: Option<String>,
}

impl Gathered {
    fn statements(&self) -> impl Iterator<Item = &Statement> {
        let others = self.elsewhere.iter().flatten().flatten();
        others.chain([&self.statement])
    }

    /// Returns how many signatures are said to be there.
    pub(super) fn signatures(&self) -> usize {
        self.statements().map(|statement| statement.signatures.len()).sum()
    }

    /// Returns roughly how many bytes all that is said takes.
    pub(super) fn size(&self) -> usize {
        let failures = self.elsewhere.iter().filter_map(|answer| answer.as_ref().err()).map(String::len).sum::<usize>();
        failures + self.statements().map(Statement::size).sum::<usize>()
    }
}

/// What came of asking about one path; none if it is not valid in the audited store.
pub(super) type Answer = (StorePath, Result<Option<Gathered>, StoreError>);

/// Asks the audited store about some paths, no more than its pace has in one question, and the others about those that it has.
pub(super) async fn ask(
    store: &dyn Store,
    substituters: &[Substituter],
    paths: Vec<StorePath>,
    outputs: Outputs,
) -> Vec<Answer> {
    let mut answers = store.statements(paths.clone()).await;
    let ended = answers.last().is_some_and(|(_, answer)| answer.as_ref().is_err_and(StoreError::ends_it));
    // A path that is not answered for must not go unnoticed.
    if !ended && answers.len() < paths.len() {
        let answered: HashSet<StorePath> = answers.iter().map(|(path, _)| path.clone()).collect();
        let silent = paths.into_iter().filter(|path| !answered.contains(path));
        answers.extend(silent.map(|path| (path, Err(StoreError::Silent))));
    }
    let there: Vec<StorePath> =
        answers.iter().filter(|(_, answer)| matches!(answer, Ok(Some(_)))).map(|(path, _)| path.clone()).collect();
    let asked = substituters.iter().map(|other| ask_other(other, there.clone()));
    let mut elsewhere: Vec<HashMap<StorePath, _>> = Vec::with_capacity(substituters.len());
    for answers in join_all(asked).await {
        elsewhere.push(answers.into_iter().collect());
    }
    let mut gathered = Vec::with_capacity(answers.len());
    for (path, answer) in answers {
        let answer = match answer {
            Ok(Some(statement)) => {
                let of_path = |others: &mut HashMap<StorePath, Result<_, StoreError>>| match others.remove(&path) {
                    Some(answer) => answer.map_err(|error| error.to_string()),
                    None => Err("it has stopped to answer".to_owned()),
                };
                let elsewhere = elsewhere.iter_mut().map(of_path).collect();
                let (outputs, unknown) = made_by(store, &statement, outputs).await;
                Ok(Some(Gathered { statement, elsewhere, outputs, unknown }))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        gathered.push((path, answer));
    }
    gathered
}

/// Returns the outputs of a path that is a derivation, where they are wanted and known.
async fn made_by(store: &dyn Store, statement: &Statement, outputs: Outputs) -> (Vec<StorePath>, Option<String>) {
    let path = &statement.info.path;
    if outputs == Outputs::LeaveOut || !path.is_derivation() {
        return (Vec::new(), None);
    }
    let rendered = store.store_dir().render_path(path);
    match store.outputs(statement).await {
        Ok(outputs) => {
            let unknown: Vec<&str> =
                outputs.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| name.as_str()).collect();
            let unknown = (!unknown.is_empty()).then(|| {
                let names = unknown.join(", ");
                format!(
                    "{rendered}: this store does not say where its outputs are that depend on their contents: {names}"
                )
            });
            (outputs.into_values().flatten().collect(), unknown)
        }
        Err(error) => (Vec::new(), Some(format!("{rendered}: its outputs are not known: {error}"))),
    }
}

/// Asks another store. One that has failed again and again is left alone: it would hold up every path for as long as it is waited for.
async fn ask_other(other: &Substituter, paths: Vec<StorePath>) -> Statements {
    if other.failures.load(Ordering::Relaxed) >= MOST_FAILURES {
        return Statements::new();
    }
    let answers = in_pace(&*other.store, paths).await;
    for (_, answer) in &answers {
        match answer {
            Ok(_) => other.failures.store(0, Ordering::Relaxed),
            Err(error) if error.ends_it() => other.failures.store(MOST_FAILURES, Ordering::Relaxed),
            Err(_) => drop(other.failures.fetch_add(1, Ordering::Relaxed)),
        }
    }
    answers
}

/// Asks a store about any number of paths.
async fn in_pace(store: &dyn Store, paths: Vec<StorePath>) -> Statements {
    let pace = store.pace();
    let questions: Vec<Vec<StorePath>> = paths.chunks(pace.paths).map(<[StorePath]>::to_vec).collect();
    let asked = questions.into_iter().map(|paths| store.statements(paths));
    stream::iter(asked.collect::<Vec<_>>()).buffered(pace.at_once).concat().await
}
