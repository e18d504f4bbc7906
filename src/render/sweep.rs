//! What a sweep found, for people and for programs.

use std::fmt::Write as _;

use serde_json::json;
use store_backend::gate::sweep::{Finding, Kind};

use super::words::{bytes, count};
use super::{Format, now, print, print_json};
use crate::command::CommandError;

/// Prints what a sweep found, and which narinfos could not be read.
///
/// # Errors
/// When it cannot be printed.
pub fn swept(
    findings: &[Finding],
    unreadable: &[&str],
    store: &str,
    delete: bool,
    format: Format,
) -> Result<(), CommandError> {
    match format {
        Format::Text => print(&text(findings, unreadable, delete))?,
        Format::Json => {
            print_json(&json!({ "store": store, "delete": delete, "found": findings, "unreadable": unreadable }))?
        }
    };
    Ok(())
}

fn text(findings: &[Finding], unreadable: &[&str], delete: bool) -> String {
    let mut text = String::new();
    for narinfo in unreadable {
        let _infallible = writeln!(text, "{narinfo}: cannot be read, so all NARs are left: restore or remove it");
    }
    for finding in findings {
        let kept = if delete && !finding.deleted { ", left: somebody needs it now" } else { "" };
        let size = finding.size.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
        let _infallible = writeln!(text, "{}: {}, {}{size}{kept}", finding.key, noun(finding.kind), age(finding));
    }
    let done: Vec<&Finding> = findings.iter().filter(|finding| !delete || finding.deleted).collect();
    let number = count(done.len(), "object");
    let size = bytes(done.iter().filter_map(|finding| finding.size).sum());
    let _infallible = match (findings.len(), delete) {
        (0, _) => writeln!(text, "Nothing was left behind."),
        (_, true) => writeln!(text, "Deleted {number}, {size}."),
        (_, false) => writeln!(text, "Would delete {number}, {size}: give --delete to do it."),
    };
    text
}

/// Says when something was written, to the hour.
fn age(finding: &Finding) -> String {
    let hours = (now().as_unix() - finding.written.as_unix()) / (60 * 60);
    match hours {
        ..1 => "less than an hour old".into(),
        1..48 => format!("{} old", count(hours as usize, "hour")),
        _ => format!("{} old", count(hours as usize / 24, "day")),
    }
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Nar => "a NAR that no path has",
        Kind::Evidence => "evidence of a path that is not there",
        Kind::Listing => "a listing of a path that is not there",
        Kind::Upload => "an upload that was never finished",
        Kind::Announcement => "an announcement that was never withdrawn",
        Kind::Note => "a note of what is held no more",
        Kind::Probe => "a test of the provider",
    }
}
