//! An audit, for people and for programs: one body of data, in as many forms as there are readers.

mod dot;
mod explain;
mod groups;
mod html;
mod json;
mod junit;
mod layers;
mod look;
mod sarif;
mod text;
mod why;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use policy::Policy;
use store_backend::audit::{Audit, Contents};
use verifier::{StorePath, Timestamp};

use crate::command::CommandError;

pub use why::why;

/// In which form an audit is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For a person at a terminal.
    Text,
    /// Everything, for programs: docs/verify.schema.json describes it.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// JUnit's XML, for test reports: a test for each path.
    Junit,
    /// The closure as a graph, for Graphviz.
    Dot,
    /// A page to look at, whole in one file.
    Html,
}

/// How much a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What most want to know.
    Short,
    /// Every path that does not stand.
    Full,
}

/// What was audited.
pub struct Subject<'a> {
    /// The store's URI.
    pub store: &'a str,
    /// Where else signatures were looked for.
    pub substituters: &'a [String],
    /// What it was held against.
    pub policy: &'a Policy,
    /// Whether contents were read.
    pub contents: Contents,
    /// How many bytes of them.
    pub read: u64,
    /// When.
    pub now: Timestamp,
}

impl Subject<'_> {
    fn render(&self, path: &StorePath) -> String {
        self.policy.store_dir().render_path(path)
    }
}

/// Writes an audit to standard output, or to a file.
///
/// # Errors
/// When it cannot be written.
pub fn report(
    audit: &Audit,
    subject: &Subject<'_>,
    format: ReportFormat,
    detail: Detail,
    file: Option<&Path>,
) -> Result<ExitCode, CommandError> {
    match file {
        None => {
            written(write(&mut BufWriter::new(io::stdout().lock()), audit, subject, format, detail), "standard output")
        }
        Some(path) => {
            let place = path.display().to_string();
            let create = |source| CommandError::Io { action: "write", place: place.clone(), source };
            let mut out = BufWriter::new(File::create(path).map_err(create)?);
            written(write(&mut out, audit, subject, format, detail), &place)
        }
    }
}

/// Writes what there is to say of one path, signature by signature.
///
/// # Errors
/// When it cannot be written.
pub fn explain(audit: &Audit, subject: &Subject<'_>, path: &StorePath) -> Result<ExitCode, CommandError> {
    let mut out = BufWriter::new(io::stdout().lock());
    written(explain::write(&mut out, audit, subject, path).and_then(|()| out.flush()), "standard output")
}

fn write(
    out: &mut impl Write,
    audit: &Audit,
    subject: &Subject<'_>,
    format: ReportFormat,
    detail: Detail,
) -> io::Result<()> {
    match format {
        ReportFormat::Text => text::write(out, audit, subject, detail),
        ReportFormat::Json => json::write(out, audit, subject),
        ReportFormat::Sarif => sarif::write(out, audit, subject),
        ReportFormat::Junit => junit::write(out, audit, subject),
        ReportFormat::Dot => dot::write(out, audit, subject),
        ReportFormat::Html => html::write(out, audit, subject),
    }?;
    out.flush()
}

fn written(result: io::Result<()>, place: &str) -> Result<ExitCode, CommandError> {
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever reads the other end has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(source) => Err(CommandError::Io { action: "write", place: place.to_owned(), source }),
    }
}
