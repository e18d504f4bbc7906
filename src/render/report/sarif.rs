//! An audit as SARIF 2.1.0, for code scanning: a rule for each kind of finding, a result for each finding that a path has by
//! itself.
//!
//! Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0.

use std::io::{self, Write};

use policy::{Code, Finding, PathReport, Standing};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use store_backend::audit::Audit;

use super::Subject;

/// Where the findings are documented.
const FINDINGS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/findings.md");

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
    let mut codes: Vec<Code> =
        audit.report.paths.iter().flat_map(|path| path.findings.iter().map(|finding| finding.code)).collect();
    codes.sort();
    codes.dedup();
    let log = Log {
        schema: "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        version: "2.1.0",
        runs: [Run {
            tool: json!({ "driver": {
                "name": "nix-quorum",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": codes.iter().map(|code| rule(*code)).collect::<Vec<_>>(),
            } }),
            invocations: [json!({
                "executionSuccessful": !audit.faults.unchecked,
                "exitCode": audit.faults.bits(),
                "endTimeUtc": policy::rfc3339(subject.now),
                "toolExecutionNotifications":
                    audit.notes.iter().map(|note| json!({ "message": { "text": note }, "level": "note" })).collect::<Vec<_>>(),
            })],
            properties: json!({
                "store": subject.store,
                "policyVersion": subject.policy.version(),
                "policyDigest": subject.policy.digest(),
                "standing": audit.standing(),
                "totals": audit.report.totals,
            }),
            results: Results { audit, subject, codes: &codes },
        }],
    };
    serde_json::to_writer_pretty(&mut *out, &log)?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct Log<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run<'a>; 1],
}

#[derive(Serialize)]
struct Run<'a> {
    tool: Value,
    invocations: [Value; 1],
    properties: Value,
    results: Results<'a>,
}

struct Results<'a> {
    audit: &'a Audit,
    subject: &'a Subject<'a>,
    codes: &'a [Code],
}

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let paths = self.audit.report.paths.iter();
        serializer.collect_seq(paths.flat_map(|path| {
            path.findings.iter().enumerate().map(|(place, finding)| self.result(path, finding, place == 0))
        }))
    }
}

impl Results<'_> {
    fn result(&self, path: &PathReport, finding: &Finding, first: bool) -> Value {
        let full = self.subject.render(&path.path);
        json!({
            "ruleId": finding.code.as_str(),
            "ruleIndex": self.codes.iter().position(|code| *code == finding.code),
            "level": level(path, first),
            "message": { "text": format!("{full}: {}", finding.message) },
            "locations": [{
                "physicalLocation": { "artifactLocation": { "uri": uri(&full) } },
                "logicalLocations": [{ "name": path.path.name(), "fullyQualifiedName": full, "kind": "resource" }],
            }],
            "partialFingerprints": { "pathAndCode/v1": format!("{}:{}", path.path.to_basename(), finding.code) },
        })
    }
}

/// What stands in the way is an error, or a warning where it could not be checked; what is noticed besides is a note.
fn level(path: &PathReport, first: bool) -> &'static str {
    match path.own {
        Standing::Fails if first => "error",
        Standing::Unchecked if first => "warning",
        _ => "note",
    }
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.as_str(),
        "shortDescription": { "text": code.as_str().replace('-', " ") },
        "fullDescription": { "text": code.explain() },
        "help": { "text": code.explain() },
        "helpUri": format!("{FINDINGS}#{code}"),
    })
}

/// Writes a path as a URI.
fn uri(path: &str) -> String {
    let mut uri = "file://".to_owned();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' | b'+' => {
                uri.push(char::from(byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
