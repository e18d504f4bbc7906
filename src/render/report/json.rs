//! The whole of an audit, for programs. `docs/verify.schema.json` describes it.

use std::io::{self, Write};

use policy::{PathReport, Report, Standing};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use store_backend::audit::{Audit, Contents, Facts, Faults};

use super::Subject;

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(audit, subject))?;
    out.write_all(b"\n")
}

/// Makes what is written.
fn document<'a>(audit: &'a Audit, subject: &'a Subject<'_>) -> impl Serialize + 'a {
    let policy = subject.policy;
    let name = |place: &usize| audit.report.paths[*place].path.to_basename();
    Document {
        version: audit.report.version,
        store: subject.store,
        store_dir: policy.store_dir().as_str(),
        substituters: subject.substituters,
        time: policy::rfc3339(subject.now),
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
        faults: audit.faults,
        standing: audit.standing(),
        totals: &audit.report.totals,
        notes: &audit.notes,
        roots: audit.roots.iter().map(name).collect(),
        causes: &audit.report.causes,
        remedies: &audit.report.remedies,
        paths: Paths(audit),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    version: u32,
    store: &'a str,
    store_dir: &'a str,
    substituters: &'a [String],
    time: String,
    policy: Value,
    contents: &'static str,
    bytes_read: u64,
    exit: u8,
    faults: Faults,
    standing: Standing,
    totals: &'a policy::Totals,
    notes: &'a [String],
    roots: Vec<String>,
    causes: &'a [policy::Cause],
    remedies: &'a [policy::Remedy],
    paths: Paths<'a>,
}

struct Paths<'a>(&'a Audit);

impl Serialize for Paths<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Audit { report, facts, .. } = self.0;
        serializer.collect_seq(report.paths.iter().zip(facts).map(|(path, facts)| PathDocument {
            path,
            references: References(report, path),
            facts: facts.as_ref(),
        }))
    }
}

#[derive(Serialize)]
struct PathDocument<'a> {
    #[serde(flatten)]
    path: &'a PathReport,
    references: References<'a>,
    #[serde(flatten)]
    facts: Option<&'a Facts>,
}

struct References<'a>(&'a Report, &'a PathReport);

impl Serialize for References<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.references.iter().map(|place| self.0.paths[*place as usize].path.to_basename()))
    }
}
