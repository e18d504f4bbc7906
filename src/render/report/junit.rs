//! An audit as JUnit's XML: a test for each path. What does not stand by itself is a failure, or an error where it could not be
//! checked; what stands or falls with others is skipped where it falls.

use std::io::{self, Write};

use policy::{PathReport, Standing};
use store_backend::audit::Audit;

use super::Subject;

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
    let report = &audit.report;
    let count = |wanted: Standing| {
        report.paths.iter().filter(|path| path.standing == wanted).filter(|path| cause(path) == Cause::Own).count()
    };
    let below = report.paths.iter().filter(|path| cause(path) == Cause::Others).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{below}\"",
        report.totals.paths,
        count(Standing::Fails),
        count(Standing::Unchecked)
    );
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"nix-quorum verify\" {counts}>")?;
    writeln!(
        out,
        "  <testsuite name=\"{}\" timestamp=\"{}\" {counts}>",
        escaped(subject.store),
        policy::rfc3339(subject.now)
    )?;
    for path in &report.paths {
        put_test(out, path, subject)?;
    }
    writeln!(out, "  </testsuite>\n</testsuites>")
}

/// Why a path does not stand.
#[derive(PartialEq, Eq)]
enum Cause {
    None,
    Own,
    Others,
}

fn cause(path: &PathReport) -> Cause {
    match path.standing {
        Standing::Stands => Cause::None,
        _ if path.causes.contains(&path.path) => Cause::Own,
        _ => Cause::Others,
    }
}

fn put_test(out: &mut impl Write, path: &PathReport, subject: &Subject<'_>) -> io::Result<()> {
    let name = escaped(&subject.render(&path.path));
    write!(out, "    <testcase classname=\"nix-quorum.verify\" name=\"{name}\"")?;
    let findings: Vec<String> = path.findings.iter().map(ToString::to_string).collect();
    let (tag, message) = match (cause(path), path.standing) {
        (Cause::None, _) => {
            writeln!(out, "/>")?;
            return Ok(());
        }
        (Cause::Own, Standing::Unchecked) => ("error", findings.join("; ")),
        (Cause::Own, _) => ("failure", findings.join("; ")),
        (Cause::Others, _) => {
            let causes: Vec<String> = path.causes.iter().map(|cause| subject.render(cause)).collect();
            ("skipped", format!("it does not stand because of {}", causes.join(", ")))
        }
    };
    let kind = path.findings.first().filter(|_| tag != "skipped");
    let kind = kind.map_or_else(String::new, |finding| format!(" type=\"{}\"", finding.code));
    writeln!(out, ">\n      <{tag}{kind} message=\"{}\"/>\n    </testcase>", escaped(&message))
}

/// Writes a text as XML reads it, without what XML cannot have.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
