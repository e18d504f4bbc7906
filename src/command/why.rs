//! `nix-quorum why`

use std::process::ExitCode;

use clap::Args;
use store_backend::audit::{Contents, Outputs, Scope};
use store_backend::store::{Meaning, store_path_of};

use super::audit::{Against, Finished, resolve};
use super::{CommandError, runtime};
use crate::render;

/// What refers to what.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    against: Against,
    /// The path that somebody asks about.
    #[arg(value_name = "PATH")]
    path: String,
    /// Whose closure it is in: store paths, or links to them such as ./result. Unless given, every path of the store that nothing
    /// else refers to.
    #[arg(value_name = "ROOT")]
    roots: Vec<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(why(arguments))
}

async fn why(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let opened = arguments.against.open().await?;
    let path = store_path_of(&arguments.path, opened.store.store_dir())?;
    let scope = match arguments.roots.is_empty() {
        true => Scope::Everything,
        false => Scope::Closures(resolve(&arguments.roots, &*opened.store, Meaning::Paths).await?, Outputs::LeaveOut),
    };
    let Finished { mut audit, read } = opened.audit(scope, Contents::Leave, None).await?;
    if arguments.roots.is_empty() {
        audit.roots = audit.report.tops();
    }
    let subject = opened.subject(Contents::Leave, read);
    render::why(&audit, &subject, &path, render::format(arguments.json))
}
