//! Who asks the gate: the real client where there is one, otherwise our own over the same protocol.

use store_backend::client::{Client as Connection, ClientError};
use verifier::{PathInfo, StoreDir, digest_nar};

use super::nix::{Nix, SOCKET, reading_store, socket};
use super::package::Package;
use super::stage::Stage;
use super::step::{By, Run};

/// A client of the gate.
pub(super) enum Client {
    /// Nix.
    Nix(Nix),
    /// Our own. The commands it stands in for are those that one would give to Nix.
    Own,
}

impl Client {
    /// Finds the best client there is.
    pub(super) async fn find(stage: &Stage) -> Self {
        Nix::find(stage).await.map_or(Self::Own, Self::Nix)
    }

    /// Returns what it calls itself.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Nix(nix) => nix.version().to_owned(),
            Self::Own => format!("nix-quorum {}'s own", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Copies a path from the folder where it lies to the gate, after what it refers to.
    pub(super) async fn copy(&self, stage: &Stage, folder: &str, references: &[&Package], top: &Package) -> Run {
        match self {
            Self::Nix(nix) => nix.copy(stage, folder, top).await,
            Self::Own => {
                let typed = format!("nix copy --from file://$PWD/{folder} --to {} {}", socket(stage), top.path());
                done(stage, typed, upload(stage, references.iter().copied().chain([top])).await)
            }
        }
    }

    /// Asks the gate what it knows of a path.
    pub(super) async fn path_info(&self, stage: &Stage, package: &Package) -> Run {
        match self {
            Self::Nix(nix) => nix.path_info(stage, package).await,
            Self::Own => {
                let typed = format!("nix path-info --store {} --size --sigs {}", socket(stage), package.path());
                let answer = known(stage, package).await.map(|info| match info {
                    Some(info) => {
                        let signatures: Vec<String> = info.signatures.into_iter().collect();
                        vec![format!("{} {} {}", package.path(), info.nar_size, signatures.join(" "))]
                    }
                    None => vec![format!("{} is not valid", package.path())],
                });
                done(stage, typed, answer)
            }
        }
    }

    /// Reads contents of a path from the gate: a file where Nix does it, otherwise the whole NAR, of which the hash is shown.
    pub(super) async fn contents(&self, stage: &Stage, package: &Package, file: &str) -> Run {
        match self {
            Self::Nix(nix) => nix.cat(stage, package, file).await,
            Self::Own => {
                let store = reading_store(stage);
                let typed = format!("{SOCKET} nix store dump-path --store '{store}' {} | sha256sum", package.path());
                done(stage, typed, read(stage, package).await)
            }
        }
    }
}

/// Returns what the gate knows of a path; none if it is not valid.
pub(super) async fn known(stage: &Stage, package: &Package) -> Result<Option<PathInfo>, ClientError> {
    connect(stage).await?.path_info(&package.info.path).await
}

async fn connect(stage: &Stage) -> Result<Connection, ClientError> {
    Connection::connect(&stage.at("store.sock"), &StoreDir::default()).await
}

/// Adds paths one by one, each over a connection of its own: after a refusal one is of no more use.
async fn upload(stage: &Stage, paths: impl Iterator<Item = &Package>) -> Result<Vec<String>, ClientError> {
    let mut copied = Vec::new();
    for package in paths {
        connect(stage).await?.add_to_store(&package.info, &package.nar).await?;
        copied.push(format!("copied {}", package.path()));
    }
    Ok(copied)
}

async fn read(stage: &Stage, package: &Package) -> Result<Vec<String>, ClientError> {
    let mut connection = connect(stage).await?;
    connection.nar(&package.info.path).await?;
    let mut nar = Vec::new();
    while (nar.len() as u64) < package.info.nar_size {
        let block = connection.nar_block(package.info.nar_size - nar.len() as u64).await?;
        if block.is_empty() {
            return Err(ClientError::Remote(format!("the gate ended the connection after {} bytes", nar.len())));
        }
        nar.extend_from_slice(&block);
    }
    let digest = digest_nar(&*nar, None).map_err(|error| ClientError::Nonsense(error.to_string()))?;
    Ok(vec![format!("{}  -", digest.nar_hash.to_base16())])
}

fn done(stage: &Stage, typed: String, outcome: Result<Vec<String>, ClientError>) -> Run {
    let command = stage.without_place(&typed);
    let (exit, output) = match outcome {
        Ok(output) => (0, output),
        Err(error) => (1, vec![format!("error: {error}")]),
    };
    let output = output.iter().map(|line| stage.without_place(line)).collect();
    Run { command, by: By::ThisProcess, exit: Some(exit), output }
}
