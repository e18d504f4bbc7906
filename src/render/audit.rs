//! An audit, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use policy::{Cause, Code, Finding, PathReport, Policy, Report, Standing};
use serde::Serialize;
use serde_json::json;
use store_backend::audit::{Audit, Contents};
use verifier::StorePath;

use super::words::{bytes, count};
use super::{Format, Paint, paint, print, print_json};
use crate::command::CommandError;

/// Most paths that are named below the one that brings them down.
const MAX_DEPENDENTS: usize = 10;

/// Most findings that are shown of one path; JSON has them all.
const MAX_FINDINGS: usize = 8;

/// What was audited.
pub struct Subject<'a> {
    /// The store's URI.
    pub store: &'a str,
    /// What it was held against.
    pub policy: &'a Policy,
    /// Whether contents were read.
    pub contents: Contents,
    /// How many bytes of them.
    pub read: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(flatten)]
    audit: &'a Audit,
    store: &'a str,
    store_dir: &'a str,
    policy: serde_json::Value,
    contents: &'static str,
    bytes_read: u64,
    exit: u8,
}

/// Prints an audit.
///
/// # Errors
/// When it cannot be printed.
pub fn audit(audit: &Audit, subject: &Subject<'_>, format: Format) -> Result<ExitCode, CommandError> {
    match format {
        Format::Text => print(&text(audit, subject)),
        Format::Json => {
            let policy = subject.policy;
            print_json(&Document {
                audit,
                store: subject.store,
                store_dir: policy.store_dir().as_str(),
                policy: json!({
                    "version": policy.version(),
                    "digest": policy.digest(),
                    "default": policy.default_requirement().describe(policy.keyring()),
                }),
                contents: match subject.contents {
                    Contents::Read => "read",
                    Contents::Leave => "left",
                },
                bytes_read: subject.read,
                exit: audit.faults.bits(),
            })
        }
    }
}

fn text(audit: &Audit, subject: &Subject<'_>) -> String {
    let mut text = String::new();
    let report = &audit.report;
    let paths: BTreeMap<&StorePath, &PathReport> = report.paths.iter().map(|path| (&*path.path, path)).collect();
    let dependents = dependents(report);
    for cause in &report.causes {
        let findings = paths.get(&*cause.path).map_or(&[][..], |path| &path.findings);
        put_cause(&mut text, cause, findings, subject);
        put_dependents(&mut text, dependents.get(&*cause.path).map_or(&[][..], Vec::as_slice), subject);
    }
    put_advice(&mut text, report);
    put_summary(&mut text, report, subject);
    for note in &audit.notes {
        let _ = writeln!(text, "Note: {note}.");
    }
    text
}

/// By cause, the other paths that do not stand because of it; each below one cause alone, the first of its own.
fn dependents(report: &Report) -> BTreeMap<&StorePath, Vec<&PathReport>> {
    let mut dependents: BTreeMap<&StorePath, Vec<&PathReport>> = BTreeMap::new();
    for path in report.paths.iter().filter(|path| !path.causes.contains(&path.path)) {
        if let Some(cause) = path.causes.first() {
            dependents.entry(cause).or_default().push(path);
        }
    }
    dependents
}

fn put_cause(text: &mut String, cause: &Cause, findings: &[Finding], subject: &Subject<'_>) {
    let path = subject.policy.store_dir().render_path(&cause.path);
    let standing = match cause.standing {
        Standing::Unchecked => paint(Paint::Doubt, "unchecked"),
        Standing::Stands | Standing::Fails => paint(Paint::Bad, "fails"),
    };
    let mut shown: Vec<String> = findings.iter().take(MAX_FINDINGS).map(Finding::to_string).collect();
    if findings.len() > MAX_FINDINGS {
        shown.push(count(findings.len() - MAX_FINDINGS, "more finding"));
    }
    let _ = writeln!(text, "{path} {standing}: {}", shown.join("; "));
}

fn put_dependents(text: &mut String, dependents: &[&PathReport], subject: &Subject<'_>) {
    for path in dependents.iter().take(MAX_DEPENDENTS) {
        let others = match path.causes_total.saturating_sub(1) {
            0 => String::new(),
            others => format!(" (with {})", count(others, "other cause")),
        };
        let path = subject.policy.store_dir().render_path(&path.path);
        let _ = writeln!(text, "    brings down {path}{others}");
    }
    if dependents.len() > MAX_DEPENDENTS {
        let _ = writeln!(text, "    and {} more", dependents.len() - MAX_DEPENDENTS);
    }
}

/// Says once of each kind of finding what it means, and what to do.
fn put_advice(text: &mut String, report: &Report) {
    let mut codes: Vec<Code> = report.causes.iter().flat_map(|cause| cause.codes.iter().copied()).collect();
    codes.sort();
    codes.dedup();
    if !codes.is_empty() {
        text.push('\n');
    }
    for code in &codes {
        let _ = writeln!(text, "{}: {}", paint(Paint::Strong, code.as_str()), code.explain());
    }
    if !codes.is_empty() {
        text.push('\n');
    }
}

fn put_summary(text: &mut String, report: &Report, subject: &Subject<'_>) {
    let totals = report.totals;
    let contents = match subject.contents {
        Contents::Read => format!("{} of contents were read", bytes(subject.read)),
        Contents::Leave => "contents were not read".to_owned(),
    };
    let policy = subject.policy;
    let demand = policy.default_requirement().describe(policy.keyring());
    let rules = match policy.rules().len() {
        0 => String::new(),
        rules => format!(" and {}", count(rules, "rule")),
    };
    let outcome = match report.standing() {
        Standing::Stands if totals.paths == 1 => paint(Paint::Good, "1 path was checked, and stands"),
        Standing::Stands => paint(Paint::Good, &format!("{} paths were checked, and stand", totals.paths)),
        standing @ (Standing::Unchecked | Standing::Fails) => {
            let stand = if totals.stands == 1 || totals.paths == 1 { "stands" } else { "stand" };
            let mut parts = vec![format!("{} of {} {stand}", totals.stands, count(totals.paths, "path"))];
            if totals.fails > 0 {
                let fail = if totals.fails == 1 { "fails" } else { "fail" };
                parts.push(format!("{} {fail}", totals.fails));
            }
            if totals.unchecked > 0 {
                parts.push(format!("{} could not be checked", totals.unchecked));
            }
            if totals.causes < totals.paths - totals.stands {
                parts.push(format!("because of {} of them", totals.causes));
            }
            paint(if standing == Standing::Fails { Paint::Bad } else { Paint::Doubt }, &parts.join(", "))
        }
    };
    let _ = writeln!(text, "{outcome}; {contents}. The policy wants {demand}{rules}.");
}
