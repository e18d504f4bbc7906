//! An audit for a person: what is wrong, put together by its root cause, and what would mend most of it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use policy::{Cause, Code, Finding, PathReport, Report, Standing};
use store_backend::audit::{Audit, Contents};
use verifier::StorePath;

use super::groups::{Group, groups, held_back};
use super::{Detail, Subject};
use crate::render::words::{bytes, count};
use crate::render::{Paint, paint};

/// Most paths that are named of one group, and most groups of one kind.
const MAX_NAMED: usize = 8;

/// Most signers of whom it is said what they would clear.
const MAX_REMEDIES: usize = 4;

/// Most findings that are shown of one path; JSON has them all.
const MAX_FINDINGS: usize = 8;

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>, detail: Detail) -> io::Result<()> {
    let report = &audit.report;
    match detail {
        Detail::Short => put_groups(out, report, subject)?,
        Detail::Full => put_causes(out, report, subject)?,
    }
    put_noted(out, report, subject, detail)?;
    put_remedies(out, report)?;
    put_advice(out, report)?;
    put_summary(out, audit, subject)?;
    for note in &audit.notes {
        writeln!(out, "Note: {note}.")?;
    }
    Ok(())
}

fn put_groups(out: &mut impl Write, report: &Report, subject: &Subject<'_>) -> io::Result<()> {
    let groups = groups(report);
    for group in groups.iter().take(MAX_NAMED) {
        put_group(out, group, subject)?;
    }
    if let Some(rest) = groups.get(MAX_NAMED..).filter(|rest| !rest.is_empty()) {
        let paths = rest.iter().map(|group| group.paths.len()).sum();
        writeln!(out, "and {} that lack other things: -v lists them\n", count(paths, "path"))?;
    }
    Ok(())
}

fn put_group(out: &mut impl Write, group: &Group<'_>, subject: &Subject<'_>) -> io::Result<()> {
    let shown = if group.standing == Standing::Unchecked { Paint::Doubt } else { Paint::Bad };
    let reason = group.reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let others = group.affected.map_or(0, |affected| affected.saturating_sub(group.paths.len()));
    let below = if others == 0 { String::new() } else { format!(", below {}", count(others, "other path")) };
    let paths = count(group.paths.len(), "path");
    writeln!(out, "{}{reason}: {paths}{below}", paint(shown, group.code.as_str()))?;
    let named = group.paths.len().min(MAX_NAMED);
    let all = named == group.paths.len();
    for (index, (path, affected)) in group.paths.iter().take(named).enumerate() {
        let branch = if all && index + 1 == named { "└── " } else { "├── " };
        let own = match group.reason {
            Some(_) => String::new(),
            None => path.findings.first().map_or_else(String::new, |finding| format!(": {}", finding.message)),
        };
        let others = match affected.map_or(0, |affected| affected.saturating_sub(1)) {
            0 => String::new(),
            others => format!(" (brings down {})", count(others, "other")),
        };
        writeln!(out, "{branch}{}{own}{others}", subject.render(&path.path))?;
    }
    if !all {
        writeln!(out, "└── and {} more: -v lists them", group.paths.len() - named)?;
    }
    writeln!(out)
}

/// Lists every path that does not stand by itself, with all that is wrong with it, and below it what does not stand because of it.
fn put_causes(out: &mut impl Write, report: &Report, subject: &Subject<'_>) -> io::Result<()> {
    let dependents = dependents(report);
    for cause in &report.causes {
        let findings = report.place_of(&cause.path).map_or(&[][..], |place| &report.paths[place].findings);
        put_cause(out, cause, findings, subject)?;
        for path in dependents.get(&*cause.path).into_iter().flatten() {
            let others = match path.causes_total.saturating_sub(1) {
                0 => String::new(),
                others => format!(" (with {})", count(others, "other cause")),
            };
            writeln!(out, "    brings down {}{others}", subject.render(&path.path))?;
        }
    }
    if report.causes.is_empty() { Ok(()) } else { writeln!(out) }
}

/// By cause, the other paths that do not stand because of it; each below one cause alone, the first of its own.
fn dependents(report: &Report) -> BTreeMap<&StorePath, Vec<&PathReport>> {
    let mut dependents: BTreeMap<&StorePath, Vec<&PathReport>> = BTreeMap::new();
    for path in report.paths.iter().filter(|path| path.own == Standing::Stands) {
        if let Some(cause) = path.causes.first() {
            dependents.entry(cause).or_default().push(path);
        }
    }
    dependents
}

fn put_cause(out: &mut impl Write, cause: &Cause, findings: &[Finding], subject: &Subject<'_>) -> io::Result<()> {
    let standing = match cause.standing {
        Standing::Unchecked => paint(Paint::Doubt, "unchecked"),
        Standing::Stands | Standing::Fails => paint(Paint::Bad, "fails"),
    };
    let mut shown: Vec<String> = findings.iter().take(MAX_FINDINGS).map(Finding::to_string).collect();
    if findings.len() > MAX_FINDINGS {
        shown.push(count(findings.len() - MAX_FINDINGS, "more finding"));
    }
    writeln!(out, "{} {standing}: {}", subject.render(&cause.path), shown.join("; "))
}

/// Lists conflicts, whether or not their paths stand.
fn put_noted(out: &mut impl Write, report: &Report, subject: &Subject<'_>, detail: Detail) -> io::Result<()> {
    let noted = report.paths.iter().filter_map(|path| {
        let finding = path.findings.iter().find(|finding| finding.code == Code::Conflict)?;
        // Where it is what stands in the way, it was said above.
        (path.findings.first() != Some(finding) || path.standing == Standing::Stands).then_some((path, finding))
    });
    let noted: Vec<(&PathReport, &Finding)> = noted.collect();
    let shown = if detail == Detail::Full { noted.len() } else { noted.len().min(MAX_NAMED) };
    for (path, finding) in &noted[..shown] {
        let path = subject.render(&path.path);
        writeln!(out, "{}: {path}: {}", paint(Paint::Doubt, finding.code.as_str()), finding.message)?;
    }
    if shown < noted.len() {
        writeln!(out, "and {}: -v lists them", count(noted.len() - shown, "more conflict"))?;
    }
    if noted.is_empty() { Ok(()) } else { writeln!(out) }
}

/// Says whose signatures are missing, and who could do most about it.
fn put_remedies(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let held_back = held_back(report);
    if held_back == 0 {
        return Ok(());
    }
    let paths = if held_back == 1 { "1 path" } else { &format!("{held_back} paths") };
    let each = report.remedies.iter().take(MAX_REMEDIES).enumerate().map(|(index, remedy)| {
        let verb = if index == 0 { " alone would clear" } else { "" };
        format!("{}{verb} {}", paint(Paint::Strong, &remedy.signer), remedy.clears)
    });
    match report.remedies.len() {
        0 => writeln!(out, "Missing signatures hold back {paths}; no one signer's would be enough for any of them.\n"),
        _ => writeln!(out, "Missing signatures hold back {paths}: {}.\n", each.collect::<Vec<_>>().join(", ")),
    }
}

/// Says once of each kind of finding what it means, and what to do.
fn put_advice(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut codes: Vec<Code> = report.causes.iter().flat_map(|cause| cause.codes.iter().copied()).collect();
    codes.sort();
    codes.dedup();
    for code in &codes {
        writeln!(out, "{}: {}", paint(Paint::Strong, code.as_str()), code.explain())?;
    }
    if codes.is_empty() { Ok(()) } else { writeln!(out) }
}

fn put_summary(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
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
    writeln!(out, "{}: {}; {contents}. The policy wants {demand}{rules}.", subject.store, outcome(audit))
}

/// Returns in a line how many paths stand and how many do not.
pub(super) fn outcome(audit: &Audit) -> String {
    let totals = audit.report.totals;
    match audit.standing() {
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
            if audit.incomplete {
                parts.push("and there is more that could not be looked at".to_owned());
            }
            paint(if standing == Standing::Fails { Paint::Bad } else { Paint::Doubt }, &parts.join(", "))
        }
    }
}
