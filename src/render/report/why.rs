//! The shortest way from what somebody asked for to a path that does not stand.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::process::ExitCode;

use policy::{Code, Finding, PathReport, Report, Standing};
use serde_json::json;
use store_backend::audit::Audit;
use verifier::StorePath;

use super::{Subject, written};
use crate::command::CommandError;
use crate::render::{Format, Paint, paint};

/// The exit code where nothing refers to the path.
const NO_CHAIN: u8 = 1;

/// The exit code where nobody can tell: Nix's bit for what could not be checked.
const UNKNOWN: u8 = 4;

/// Most paths that are named of those that could not be looked at.
const MOST_UNKNOWN: usize = 10;

/// Shows how a path comes to be in a closure: the shortest chain of references from a root to it. That there is none is known only
/// where everything could be looked at.
///
/// # Errors
/// When it cannot be written.
pub fn why(audit: &Audit, subject: &Subject<'_>, path: &StorePath, format: Format) -> Result<ExitCode, CommandError> {
    let report = &audit.report;
    let there = report.place_of(path).map(|place| vec![place]);
    // What is not there has no place, but those that refer to it have.
    let missing = if there.is_none() { report.absent.get(path) } else { None };
    let places = there.as_ref().or(missing).and_then(|targets| chain(report, &audit.roots, targets));
    let not_there = Finding::new(Code::MissingReference, "it is not in the store");
    let steps = places.map(|places| {
        let step = |place: &usize| Step::of(&report.paths[*place]);
        let last =
            missing.map(|_| Step { path, standing: Standing::Fails, findings: std::slice::from_ref(&not_there) });
        places.iter().map(step).chain(last).collect::<Vec<_>>()
    });
    let mut out = io::stdout().lock();
    let code = match &steps {
        Some(_) => 0,
        None if audit.faults.unchecked => UNKNOWN,
        None => NO_CHAIN,
    };
    let result = match (format, steps) {
        (Format::Json, steps) => {
            let step = |step: &Step<'_>| {
                let Step { path, standing, findings } = step;
                json!({ "path": path.to_basename(), "standing": standing, "findings": findings })
            };
            let chain: Option<Vec<_>> = steps.map(|steps| steps.iter().map(step).collect());
            let answer = json!({ "path": path.to_basename(), "chain": chain, "complete": !audit.faults.unchecked });
            serde_json::to_writer_pretty(&mut out, &answer).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"))
        }
        (Format::Text, Some(steps)) => put_steps(&mut out, subject, &steps, ""),
        (Format::Text, None) if audit.faults.unchecked => put_unknown(&mut out, audit, subject, path),
        (Format::Text, None) => {
            writeln!(out, "{}: nothing that was asked about refers to it", subject.render(path))
        }
    };
    written(result, "standard output").map(|_| ExitCode::from(code))
}

/// Writes that no chain was found, and what could not be looked at.
fn put_unknown(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>, path: &StorePath) -> io::Result<()> {
    writeln!(out, "{}: nothing that could be looked at refers to it, but not everything could:", subject.render(path))?;
    for note in &audit.notes {
        writeln!(out, "{note}")?;
    }
    let unchecked = audit.report.paths.iter().filter(|path| path.standing == Standing::Unchecked);
    for PathReport { path, findings, .. } in unchecked.filter(|path| !path.findings.is_empty()).take(MOST_UNKNOWN) {
        writeln!(out, "{}: {}", subject.render(path), findings[0])?;
    }
    Ok(())
}

/// Writes the shortest chain from one of some places to another one, if there is one.
pub(super) fn put_chain(
    out: &mut impl Write,
    audit: &Audit,
    subject: &Subject<'_>,
    from: &[usize],
    to: usize,
    indent: &str,
) -> io::Result<()> {
    let Some(places) = chain(&audit.report, from, &[to]) else {
        return Ok(());
    };
    let steps: Vec<Step<'_>> = places.iter().map(|place| Step::of(&audit.report.paths[*place])).collect();
    put_steps(out, subject, &steps, indent)
}

/// One path of a chain.
struct Step<'a> {
    path: &'a StorePath,
    standing: Standing,
    findings: &'a [Finding],
}

impl<'a> Step<'a> {
    fn of(report: &'a PathReport) -> Self {
        Self { path: &report.path, standing: report.standing, findings: &report.findings }
    }
}

fn put_steps(out: &mut impl Write, subject: &Subject<'_>, steps: &[Step<'_>], indent: &str) -> io::Result<()> {
    for (step, Step { path, standing, findings }) in steps.iter().enumerate() {
        let own = match (standing, findings.first()) {
            (Standing::Stands, _) => paint(Paint::Good, "stands"),
            (_, None) => "does not stand because of what it refers to".to_owned(),
            (Standing::Unchecked, Some(finding)) => format!("{}: {finding}", paint(Paint::Doubt, "unchecked")),
            (Standing::Fails, Some(finding)) => format!("{}: {finding}", paint(Paint::Bad, "fails")),
        };
        let arrow = if step == 0 { String::new() } else { format!("{}└─ ", "   ".repeat((step - 1).min(20))) };
        writeln!(out, "{indent}{arrow}{} {own}", subject.render(path))?;
    }
    Ok(())
}

/// Returns the shortest chain of references from one of some places to one of others; none if there is none. Of several, the
/// one that is first in the order of paths.
fn chain(report: &Report, from: &[usize], to: &[usize]) -> Option<Vec<usize>> {
    let mut wanted = vec![false; report.paths.len()];
    to.iter().for_each(|place| wanted[*place] = true);
    let mut before: Vec<Option<usize>> = vec![None; report.paths.len()];
    let mut seen = vec![false; report.paths.len()];
    let mut queue: VecDeque<usize> = from.iter().copied().collect();
    from.iter().for_each(|place| seen[*place] = true);
    while let Some(place) = queue.pop_front() {
        if wanted[place] {
            let mut chain: Vec<usize> = std::iter::successors(Some(place), |place| before[*place]).collect();
            chain.reverse();
            return Some(chain);
        }
        for reference in report.paths[place].references.iter().map(|reference| *reference as usize) {
            if !std::mem::replace(&mut seen[reference], true) {
                before[reference] = Some(place);
                queue.push_back(reference);
            }
        }
    }
    None
}
