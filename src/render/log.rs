//! The decision log, for people and for programs.

use std::fmt::Write as _;
use std::process::ExitCode;

use policy::{escaped, rfc3339};
use serde::Serialize;
use store_backend::gate::{DecisionRecord, Event, Judged};

use super::words::count;
use super::{Format, Paint, paint, print, print_json};
use crate::command::CommandError;

/// What checking a log found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckedLog {
    /// How many records follow each other.
    pub records: usize,
    /// The SHA-256 of the last of them, in hexadecimal.
    pub last: String,
    /// Whether the first of them is the first there was.
    pub from_the_beginning: bool,
    /// Why the next one does not follow.
    pub broken: Option<String>,
}

/// Prints what checking a log found; the exit code is 1 if it is broken, or does not begin with its first record.
///
/// # Errors
/// When it cannot be printed.
pub fn checked_log(checked: &CheckedLog, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Json => print_json(checked)?,
        Format::Text => {
            let mut text = format!("{} in one chain", count(checked.records, "record"));
            if !checked.last.is_empty() {
                let _infallible = write!(text, ", the last one {}", checked.last);
            }
            text.push('\n');
            if !checked.from_the_beginning {
                text += "What was before the first of them is not there any more.\n";
            }
            if let Some(broken) = &checked.broken {
                let _infallible = writeln!(text, "{}: {broken}", paint(Paint::Bad, "broken"));
            }
            print(&text)?
        }
    };
    let whole = checked.broken.is_none() && checked.from_the_beginning;
    Ok(ExitCode::from(u8::from(!whole)))
}

/// Prints records.
///
/// # Errors
/// When they cannot be printed.
pub fn decisions(records: &[&DecisionRecord], format: Format) -> Result<(), CommandError> {
    let mut text = String::new();
    for record in records {
        let line = match format {
            Format::Json => serde_json::to_string(record).expect("texts, numbers and lists can always be written"),
            Format::Text => format!("{}  {}", rfc3339(record.time), describe(&record.event)),
        };
        text += &line;
        text.push('\n');
    }
    print(&text)?;
    Ok(())
}

fn describe(event: &Event) -> String {
    let judged = |word: &str, judged: &Judged| {
        let signers = if judged.signers.is_empty() {
            "its content address".into()
        } else {
            escaped(&judged.signers.join(", ")).to_string()
        };
        format!("{word} {}: {signers}; brought by {}", escaped(&judged.named.path), escaped(&judged.named.by))
    };
    match event {
        Event::Admitted { judged: path } => judged(&paint(Paint::Good, "admitted"), path),
        Event::Signed { judged: path } => judged("signed  ", path),
        // What it lacks begins with these words, and its path.
        Event::Held { judged, lacks } => {
            format!(
                "{}; brought by {}",
                escaped(lacks).to_string().replacen("held", &paint(Paint::Doubt, "held    "), 1),
                escaped(&judged.named.by)
            )
        }
        Event::Conflict { path, admitted, there, offered, by } => {
            let conflict = paint(Paint::Bad, "conflict");
            let is = if *admitted { "admitted" } else { "held" };
            format!(
                "{conflict} {}: {} is {is}, {} was offered by {}",
                escaped(path),
                escaped(there),
                escaped(offered),
                escaped(by)
            )
        }
        Event::Dropped { named, reason } => {
            format!("dropped  {}: {}; by {}", escaped(&named.path), escaped(reason), escaped(&named.by))
        }
        Event::Deleted { named } => format!("deleted  {}; by {}", escaped(&named.path), escaped(&named.by)),
        Event::Refused { counts } => {
            let counts: Vec<String> =
                counts.iter().map(|(code, number)| format!("{number} {}", escaped(code))).collect();
            format!("{}  since this gate wrote last: {}", paint(Paint::Doubt, "refused"), counts.join(", "))
        }
        Event::Policy { version } => format!("policy   version {version} is in force from here on"),
    }
}
