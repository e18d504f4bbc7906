//! One path of an audit, signature by signature.

use std::io::{self, Write};

use policy::{Standing, rfc3339};
use store_backend::audit::{Audit, SignatureReport};
use verifier::StorePath;

use super::Subject;
use super::why::put_chain;
use crate::render::words::{bytes, count};
use crate::render::{Paint, paint};

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>, path: &StorePath) -> io::Result<()> {
    let report = &audit.report;
    let Some(place) = report.place_of(path) else {
        return Ok(());
    };
    let found = &report.paths[place];
    let standing = match found.standing {
        Standing::Stands => paint(Paint::Good, "stands"),
        Standing::Unchecked => paint(Paint::Doubt, "unchecked"),
        Standing::Fails => paint(Paint::Bad, "fails"),
    };
    writeln!(out, "{} {standing}", paint(Paint::Strong, &subject.render(path)))?;
    if let Some(facts) = &audit.facts[place] {
        writeln!(out, "  contents: {} of {}", facts.nar_hash, bytes(facts.nar_size))?;
        let policy = subject.policy;
        writeln!(out, "  demanded: {}", policy.default_requirement().describe(policy.keyring()))?;
        for rule in policy.rules().iter().filter(|rule| rule.matches(path.name())) {
            let demand = rule.requirement().map(|requirement| requirement.describe(policy.keyring()));
            let demand = demand.unwrap_or_else(|| "signatures even where a content address stands".into());
            writeln!(out, "            and by the rule \"{}\": {demand}", rule.name())?;
        }
        writeln!(out, "  {}:", count(facts.signatures.len(), "signature"))?;
        for signature in &facts.signatures {
            put_signature(out, signature)?;
        }
    }
    for finding in &found.findings {
        writeln!(out, "  {finding}")?;
    }
    let mut others = found.causes.iter().filter(|cause| **cause != found.path);
    if let Some((cause, target)) = others.next().and_then(|cause| Some((cause, report.place_of(cause)?))) {
        writeln!(out, "  it does not stand because of {}:", subject.render(cause))?;
        put_chain(out, audit, subject, &[place], target, "    ")?;
        let rest: Vec<String> = others.map(|cause| subject.render(cause)).collect();
        for cause in &rest {
            writeln!(out, "  and because of {cause}")?;
        }
        let named = 1 + rest.len() + usize::from(found.own != Standing::Stands);
        if found.causes_total > named {
            writeln!(out, "  and because of {}", count(found.causes_total - named, "other path"))?;
        }
    }
    Ok(())
}

fn put_signature(out: &mut impl Write, signature: &SignatureReport) -> io::Result<()> {
    let worth = match signature.verdict {
        "counts" => paint(Paint::Good, "counts"),
        other => paint(Paint::Bad, other),
    };
    let signer = signature.signer.as_ref().map_or_else(String::new, |signer| format!(" for {signer}"));
    let seen = signature.first_seen.map_or_else(String::new, |seen| format!(", first seen {}", rfc3339(seen)));
    let from = signature.from.as_ref().map_or_else(String::new, |from| format!(", from {from}"));
    writeln!(out, "    {} {worth}{signer}{seen}{from}", signature.key)
}
