//! What a person names: a path, or the outputs of a derivation.

use std::collections::BTreeSet;

use thiserror::Error;
use verifier::{StoreDir, StorePath};

use super::StoreError;
use super::argument::{ArgumentError, store_path_of};
use super::derivation::fixed_outputs;
use super::reading::{Outputs, Statement, Store};

/// A path, or outputs of a derivation: `PATH`, `DERIVATION^OUTPUT,OUTPUT` or `DERIVATION^*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installable {
    /// This path itself.
    Path(StorePath),
    /// What a derivation makes.
    Outputs {
        /// The derivation.
        derivation: StorePath,
        /// Which outputs; none for all of them.
        outputs: Option<BTreeSet<String>>,
    },
}

/// Why a name leads to no path of a store.
#[derive(Debug, Error)]
pub enum InstallableError {
    /// It makes no sense.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// Only derivations have outputs.
    #[error("{0}: only a derivation has outputs, and its name ends in .drv")]
    NoDerivation(String),
    /// The derivation has no such output.
    #[error("{derivation} has no output {output:?}; it has {known}")]
    NoOutput {
        /// The derivation.
        derivation: String,
        /// What was named.
        output: String,
        /// What it has.
        known: String,
    },
    /// Where an output is depends on its contents, and this store does not say.
    #[error(
        "{derivation}: where its output {output:?} is depends on its contents, and this store does not say: name its path"
    )]
    Unknown {
        /// The derivation.
        derivation: String,
        /// Which output.
        output: String,
    },
    /// The path is not there.
    #[error("{0} is not valid in this store")]
    NotValid(String),
    /// Nobody knows what made it.
    #[error("this store does not say which derivation made {0}")]
    NoDeriver(String),
    /// What the store says has made it makes something else.
    #[error("this store says that {derivation} made {path}, but that makes {makes}: name the derivation that is meant")]
    FalseDeriver {
        /// The path.
        path: String,
        /// The derivation.
        derivation: String,
        /// What it makes by its own text.
        makes: String,
    },
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether outputs are meant, or what makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The paths that are named.
    Paths,
    /// The derivations that made them.
    Derivations,
}

impl Installable {
    /// Parses what somebody typed. Links such as `result` are followed as far as into the store directory.
    ///
    /// # Errors
    /// [`InstallableError::Argument`] and [`InstallableError::NoDerivation`].
    ///
    /// Source: Nix `ExtendedOutputsSpec::parse`, `DerivedPath::parse`.
    pub fn parse(text: &str, store_dir: &StoreDir) -> Result<Self, InstallableError> {
        let Some((path, outputs)) = text.rsplit_once('^') else {
            return Ok(Self::Path(store_path_of(text, store_dir)?));
        };
        let derivation = store_path_of(path, store_dir)?;
        if !derivation.is_derivation() {
            return Err(InstallableError::NoDerivation(text.to_owned()));
        }
        let outputs = (outputs != "*").then(|| outputs.split(',').map(str::to_owned).collect());
        Ok(Self::Outputs { derivation, outputs })
    }

    /// Returns the paths that it means in a store.
    ///
    /// # Errors
    /// When the store cannot be asked, or does not know.
    pub async fn resolve(&self, store: &dyn Store, meaning: Meaning) -> Result<BTreeSet<StorePath>, InstallableError> {
        match (self, meaning) {
            (Self::Path(path), Meaning::Paths) => Ok([path.clone()].into()),
            (Self::Outputs { derivation, .. }, Meaning::Derivations) => Ok([derivation.clone()].into()),
            (Self::Path(path), Meaning::Derivations) if path.is_derivation() => Ok([path.clone()].into()),
            (Self::Path(path), Meaning::Derivations) => Ok([deriver(store, path).await?].into()),
            (Self::Outputs { derivation, outputs }, Meaning::Paths) => {
                let known = store.outputs(&statement(store, derivation).await?).await?;
                chosen(&known, outputs.as_ref(), &store.store_dir().render_path(derivation))
            }
        }
    }
}

/// Returns the derivation that a store says has made a path, unless that is known to make others.
async fn deriver(store: &dyn Store, path: &StorePath) -> Result<StorePath, InstallableError> {
    let rendered = |path: &StorePath| store.store_dir().render_path(path);
    let deriver = statement(store, path).await?.info.deriver.filter(StorePath::is_derivation);
    let deriver = deriver.ok_or_else(|| InstallableError::NoDeriver(rendered(path)))?;
    // Where it cannot be read, its audit says so.
    if let Ok(stated) = statement(store, &deriver).await
        && let Ok((outputs, _)) = fixed_outputs(store, &stated).await
        && outputs.values().all(|output| output.as_ref().is_some_and(|output| output != path))
    {
        let makes = outputs.values().flatten().map(rendered).collect::<Vec<_>>().join(", ");
        return Err(InstallableError::FalseDeriver { path: rendered(path), derivation: rendered(&deriver), makes });
    }
    Ok(deriver)
}

async fn statement(store: &dyn Store, path: &StorePath) -> Result<Statement, InstallableError> {
    match store.statements(vec![path.clone()]).await.pop() {
        Some((_, Ok(Some(statement)))) => Ok(statement),
        Some((_, Err(error))) => Err(error.into()),
        Some((_, Ok(None))) | None => Err(InstallableError::NotValid(store.store_dir().render_path(path))),
    }
}

fn chosen(
    known: &Outputs,
    wanted: Option<&BTreeSet<String>>,
    derivation: &str,
) -> Result<BTreeSet<StorePath>, InstallableError> {
    let all = || known.keys().cloned().collect();
    let mut paths = BTreeSet::new();
    for output in &wanted.cloned().unwrap_or_else(all) {
        let (derivation, output) = (derivation.to_owned(), output.clone());
        match known.get(&output) {
            Some(Some(path)) => paths.insert(path.clone()),
            Some(None) => return Err(InstallableError::Unknown { derivation, output }),
            None => {
                let known = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(InstallableError::NoOutput { derivation, output, known });
            }
        };
    }
    Ok(paths)
}
