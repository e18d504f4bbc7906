//! `nix-quorum log`

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use policy::parse_moment;
use store_backend::gate::{DecisionRecord, LogError, LogReader};
use store_backend::store::Place;
use verifier::Timestamp;

use super::{CommandError, runtime};
use crate::render;

/// How long `--follow` waits before it looks again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is shown of a log.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that each record follows the one before it. The first that does not is named, and the exit code is 1.
    ///
    /// Who can write the store can still take records from the end, or write all of it anew: keep what this says last, and
    /// compare.
    Verify(Which),
}

/// Which log.
#[derive(Debug, Args)]
struct Which {
    /// Where paths are kept: file:///DIRECTORY or s3://BUCKET.
    #[arg(long, env = "NIX_QUORUM_STORE", value_name = "URI")]
    store: Option<String>,
    /// Print JSON: of each record a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    which: Which,
    /// Only what is about this path, or about paths whose name contains this.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Only what happened since this day (2027-06-01) or moment (2027-06-01T12:00:00Z).
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Timestamp>,
    /// Go on when the end is reached, and show what is written then.
    #[arg(long, short)]
    follow: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(async {
        match arguments.command {
            Some(Command::Verify(which)) => verify(which).await,
            None => show(arguments.show).await,
        }
    })
}

fn moment(text: &str) -> Result<Timestamp, String> {
    parse_moment(text)
        .ok_or_else(|| "expected a day such as 2027-06-01, or a moment such as 2027-06-01T12:00:00Z".into())
}

async fn open(which: &Which) -> Result<LogReader, CommandError> {
    // Not required of clap, which would ask for it in front of a subcommand as well.
    let Some(store) = which.store.as_deref().filter(|store| !store.is_empty()) else {
        return Err(CommandError::Usage("give --store URI: it says whose log".into()));
    };
    Ok(LogReader::open(Place::parse(store)?.open_existing().await?).await?)
}

async fn verify(which: Which) -> Result<ExitCode, CommandError> {
    let mut log = open(&which).await?;
    let mut checked = render::CheckedLog { from_the_beginning: log.is_from_the_beginning(), ..Default::default() };
    let broken = loop {
        match log.next().await {
            Ok(Some(records)) => {
                checked.records += records.len();
                checked.last = log.last();
            }
            Ok(None) => break None,
            Err(error @ LogError::Broken { .. }) => break Some(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    };
    checked.broken = broken;
    render::checked_log(&checked, render::format(which.json))
}

async fn show(show: Show) -> Result<ExitCode, CommandError> {
    let mut log = open(&show.which).await?;
    let format = render::format(show.which.json);
    loop {
        match log.next().await? {
            Some(records) => {
                let wanted: Vec<&DecisionRecord> = records.iter().filter(|record| show.wants(record)).collect();
                render::decisions(&wanted, format)?;
            }
            None if show.follow => tokio::time::sleep(PAUSE).await,
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

impl Show {
    fn wants(&self, record: &DecisionRecord) -> bool {
        let about = |part: &String| record.event.path().is_some_and(|path| path.contains(part));
        self.since.is_none_or(|since| record.time >= since) && self.path.as_ref().is_none_or(about)
    }
}
