//! An audit as JUnit's XML: a test for each path. What does not stand by itself is a failure, or an error where it could not be
//! checked; what stands or falls with others is skipped where it falls. One more is an error where there is more than these paths
//! that could not be looked at.

use std::io::{self, Write};

use policy::{PathReport, Standing};
use store_backend::audit::Audit;

use super::Subject;

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
    let report = &audit.report;
    let count = |own: Standing| report.paths.iter().filter(|path| path.own == own).count();
    let below = |path: &&PathReport| path.own == Standing::Stands && path.standing != Standing::Stands;
    let below = report.paths.iter().filter(below).count();
    let elsewhere = usize::from(audit.incomplete);
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{below}\"",
        report.totals.paths + elsewhere,
        count(Standing::Fails),
        count(Standing::Unchecked) + elsewhere
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
    if audit.incomplete {
        writeln!(
            out,
            "    <testcase classname=\"nix-quorum.verify\" name=\"everything\">\n      <error message=\"{}\"/>\n    </testcase>",
            escaped(&audit.notes.join("; "))
        )?;
    }
    writeln!(out, "  </testsuite>\n</testsuites>")
}

fn put_test(out: &mut impl Write, path: &PathReport, subject: &Subject<'_>) -> io::Result<()> {
    let name = escaped(&subject.render(&path.path));
    write!(out, "    <testcase classname=\"nix-quorum.verify\" name=\"{name}\"")?;
    let findings: Vec<String> = path.findings.iter().map(ToString::to_string).collect();
    let (tag, message) = match (path.own, path.standing) {
        (Standing::Stands, Standing::Stands) => return writeln!(out, "/>"),
        (Standing::Unchecked, _) => ("error", findings.join("; ")),
        (Standing::Fails, _) => ("failure", findings.join("; ")),
        (Standing::Stands, _) => {
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
