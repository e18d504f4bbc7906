//! `nix-quorum verify`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use store_backend::audit::{Contents, ReadingLog};
use store_backend::store::store_path_of;

use super::audit::{Against, Finished, Which};
use super::{CommandError, runtime};
use crate::render::{self, Detail, ReportFormat};

const CONTENTS: &str = "Contents";
const REPORT: &str = "The report";

/// What is checked, and against what.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    against: Against,
    #[command(flatten)]
    which: Which,
    /// Read the contents and check them against what was signed. This is what is done unless --no-contents is given.
    #[arg(long, overrides_with = "no_contents", conflicts_with = "no_contents", help_heading = CONTENTS)]
    contents: bool,
    /// Check signatures alone, and leave contents unread.
    #[arg(long, help_heading = CONTENTS)]
    no_contents: bool,
    /// Do not read contents again that this file says were read, and note in it those that are: so an audit that was broken off goes
    /// on where it was.
    #[arg(long, value_name = "LOG", conflicts_with = "no_contents", help_heading = CONTENTS)]
    since: Option<PathBuf>,
    /// The form of the report.
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = REPORT)]
    format: ReportFormat,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format", help_heading = REPORT)]
    json: bool,
    /// Write the report to this file, in place of standard output.
    #[arg(short, long, value_name = "FILE", conflicts_with = "explain", help_heading = REPORT)]
    output: Option<PathBuf>,
    /// Name every path that does not stand, with all that was found.
    #[arg(short, long, help_heading = REPORT)]
    verbose: bool,
    /// Show what there is to say of one path, signature by signature, in place of the report.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["format", "json"], help_heading = REPORT)]
    explain: Option<String>,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(verify(arguments))
}

async fn verify(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let opened = arguments.against.open().await?;
    let store_dir = opened.store.store_dir();
    let explained = arguments.explain.as_deref().map(|path| store_path_of(path, store_dir)).transpose()?;
    let contents = if arguments.no_contents { Contents::Leave } else { Contents::Read };
    let scope = arguments.which.scope(&*opened.store).await?;
    let log = match &arguments.since {
        Some(path) => Some(ReadingLog::open(path, &opened.identity()?)?),
        None => None,
    };
    let Finished { audit, read } = opened.audit(scope, contents, log).await?;
    let subject = opened.subject(contents, read);
    match explained {
        Some(path) if audit.report.place_of(&path).is_none() => {
            let path = store_dir.render_path(&path);
            let why = format!("{path} is not among the paths that were checked: name it, or what refers to it with -r");
            return Err(CommandError::Usage(why));
        }
        Some(path) => render::explain(&audit, &subject, &path)?,
        None => {
            let format = if arguments.json { ReportFormat::Json } else { arguments.format };
            let detail = if arguments.verbose { Detail::Full } else { Detail::Short };
            render::report(&audit, &subject, format, detail, arguments.output.as_deref())?
        }
    };
    Ok(ExitCode::from(audit.faults.bits()))
}
