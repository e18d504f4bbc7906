//! Questions to stores, each asked as it is best asked.

use std::collections::HashMap;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use verifier::StorePath;

use super::{Outputs, Substituter};
use crate::store::{Statement, Statements, Store, StoreError};

/// What stores say of one path.
pub(super) struct Gathered {
    /// What the audited one says.
    pub(super) statement: Statement,
    /// What each of the others says, in their order, or why it does not.
    pub(super) elsewhere: Vec<Result<Option<Statement>, String>>,
    /// What a derivation makes, where that was asked for, or why the audited store does not say.
    pub(super) outputs: Result<Vec<StorePath>, String>,
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
    let answers = store.statements(paths).await;
    let there: Vec<StorePath> =
        answers.iter().filter(|(_, answer)| matches!(answer, Ok(Some(_)))).map(|(path, _)| path.clone()).collect();
    let asked = substituters.iter().map(|other| in_pace(&*other.store, there.clone()));
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
                let outputs = made_by(store, &statement, outputs).await;
                Ok(Some(Gathered { statement, elsewhere, outputs }))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        gathered.push((path, answer));
    }
    gathered
}

/// Returns the outputs of a path that is a derivation, where they are wanted and known.
async fn made_by(store: &dyn Store, statement: &Statement, outputs: Outputs) -> Result<Vec<StorePath>, String> {
    let path = &statement.info.path;
    if outputs == Outputs::LeaveOut || !path.is_derivation() {
        return Ok(Vec::new());
    }
    let why =
        |error: StoreError| format!("{}: its outputs are not known: {error}", store.store_dir().render_path(path));
    Ok(store.outputs(statement).await.map_err(why)?.into_values().flatten().collect())
}

/// Asks a store about any number of paths.
async fn in_pace(store: &dyn Store, paths: Vec<StorePath>) -> Statements {
    let pace = store.pace();
    let questions: Vec<Vec<StorePath>> = paths.chunks(pace.paths).map(<[StorePath]>::to_vec).collect();
    let asked = questions.into_iter().map(|paths| store.statements(paths));
    stream::iter(asked.collect::<Vec<_>>()).buffered(pace.at_once).concat().await
}
