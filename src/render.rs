//! The only place that prints: reports become text or JSON here, and errors what a person reads.

mod demo;
mod log;
mod progress;
mod report;
mod staging;
mod sweep;
mod words;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use policy::{Explanation, bounded};
use serde::Serialize;
use serde_json::json;
use tracing_subscriber::EnvFilter;
use verifier::{PublicKey, Timestamp};

pub use demo::{demo_begins, demo_ends, demo_step};
pub use log::{CheckedLog, checked_log, decisions};
pub use progress::with_progress;
pub use report::{Detail, ReportFormat, Subject, explain, report, why};
pub use staging::{FileDifference, about_to_sign, approved, ask, candidates, difference, dropped, fetched, staged};
pub use sweep::swept;

use crate::command::{Color, CommandError, USAGE};

/// Longest line of an error, in characters.
const MAX_LINE: usize = 4_000;

static COLORED: AtomicBool = AtomicBool::new(false);

/// For whom something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A person.
    Text,
    /// A program.
    Json,
}

/// Returns the format that `--json` asks for.
pub fn format(json: bool) -> Format {
    if json { Format::Json } else { Format::Text }
}

/// Decides whether colours are used.
pub fn set_color(color: Color) {
    let terminal = || io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colored = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal(),
    };
    COLORED.store(colored, Ordering::Relaxed);
}

/// What a colour is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
    /// Nobody knows.
    Doubt,
    /// This is a heading.
    Strong,
}

/// Returns a text in a colour, where colours are used.
fn paint(paint: Paint, text: &str) -> String {
    let code = match paint {
        Paint::Good => 32,
        Paint::Bad => 31,
        Paint::Doubt => 33,
        Paint::Strong => 1,
    };
    if COLORED.load(Ordering::Relaxed) { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Starts to write the log to standard error.
///
/// # Errors
/// When the filter cannot be understood.
pub fn start_log(filter: &str) -> Result<(), CommandError> {
    // Where it looked for credentials is said when it found none.
    let parsed = EnvFilter::try_new(format!("aws_config=off,{filter}"))
        .map_err(|error| CommandError::Usage(format!("--log {filter:?}: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(parsed).with_target(false).with_writer(io::stderr);
    // Only a second log in one process would fail, and there is one.
    let _started = log.with_ansi(false).try_init();
    Ok(())
}

/// Returns the time, which only a command may ask for.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Prints why a command failed.
pub fn failure(error: &CommandError) {
    // A store's or a peer's words may be in it. Nobody may be left to read it.
    let text = error.to_string();
    // Only a policy's own errors have several lines.
    let lines: Vec<&str> = match error {
        CommandError::Policy { .. } => text.lines().collect(),
        _ => vec![&text],
    };
    let lines: Vec<String> = lines.into_iter().map(|line| bounded(line, MAX_LINE)).collect();
    let _unread = writeln!(io::stderr(), "nix-quorum: {}", lines.join("\n"));
}

/// Prints help, the version, or what is wrong with a command line.
pub fn usage(shown: &clap::Error) -> ExitCode {
    let _unread = shown.print();
    if shown.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Prints a text as it is.
///
/// # Errors
/// When it cannot be printed.
pub fn text(text: &str) -> Result<ExitCode, CommandError> {
    print(text)
}

/// Prints a public key.
///
/// # Errors
/// When it cannot be printed.
pub fn public_key(key: &PublicKey, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Text => print(&format!("{key}\n")),
        Format::Json => print_json(&json!({ "name": key.name().as_str(), "publicKey": key.to_string() })),
    }
}

/// Prints what a policy demands.
///
/// # Errors
/// When it cannot be printed.
pub fn explanation(explanation: &Explanation, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Text => print(&format!("{explanation}\n")),
        Format::Json => print_json(explanation),
    }
}

fn print_json(value: &impl Serialize) -> Result<ExitCode, CommandError> {
    let text = serde_json::to_string_pretty(value).expect("reports are texts, numbers and lists");
    print(&format!("{text}\n"))
}

fn print(text: &str) -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever reads the other end has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(source) => Err(CommandError::Io { action: "write", place: "standard output".into(), source }),
    }
}
