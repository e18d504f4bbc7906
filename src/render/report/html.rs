//! An audit as a page, whole in one file: it fetches nothing, and what stores and peers wrote reaches it as text alone.

use std::io::{self, Write};

use policy::Standing;
use serde::Serialize;
use store_backend::audit::{Audit, Contents};

use super::Subject;
use super::groups::{groups, held_back};
use super::layers::{Cell, cells, layers};
use super::look::Look;
use crate::render::words::bytes;

/// The page, around its data.
const PAGE: &str = include_str!("page.html");

/// Where the data go.
const DATA: &str = "@DATA@";

/// Most paths of which the page draws each. Of more, it draws those that look alike together.
const MAX_DRAWN: usize = 1_000;

/// Most paths that the page lists. Of more, it lists those that do not stand.
const MAX_LISTED: usize = 20_000;

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
    let (before, after) = PAGE.split_once(DATA).unwrap_or((PAGE, ""));
    out.write_all(before.as_bytes())?;
    serde_json::to_writer(Inert(&mut *out), &page(audit, subject))?;
    out.write_all(after.as_bytes())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    store: &'a str,
    store_dir: &'a str,
    time: String,
    policy_version: u64,
    demand: String,
    contents: String,
    standing: Standing,
    incomplete: bool,
    notes: &'a [String],
    totals: &'a policy::Totals,
    held_back: usize,
    remedies: &'a [policy::Remedy],
    groups: Vec<Reason<'a>>,
    /// What each code of a finding means.
    codes: Vec<(&'static str, &'static str)>,
    paths: Vec<Listed<'a>>,
    /// How many paths there are that are not listed.
    unlisted: usize,
    /// Paths that are drawn together; none where each is drawn by itself.
    cells: Vec<Cell>,
    /// Between the paths that are drawn, or the cells: from, to, and how many references.
    links: Vec<(usize, usize, usize)>,
}

#[derive(Serialize)]
struct Reason<'a> {
    code: &'static str,
    reason: Option<&'a str>,
    paths: usize,
    affected: Option<usize>,
}

#[derive(Serialize)]
struct Listed<'a> {
    path: String,
    look: Look,
    root: bool,
    is_cause: bool,
    layer: u32,
    size: Option<u64>,
    signers: &'a [std::sync::Arc<str>],
    findings: Vec<(&'static str, &'a str)>,
    /// The key, what the signature is worth, whose it is, and where it comes from.
    signatures: Vec<(&'a str, &'static str, Option<&'a str>, Option<&'a str>)>,
    causes: Vec<String>,
    causes_total: usize,
}

fn page<'a>(audit: &'a Audit, subject: &'a Subject<'_>) -> Page<'a> {
    let report = &audit.report;
    let all = report.paths.len() <= MAX_LISTED;
    let layers = layers(report);
    let listed = |place: &usize| all || report.paths[*place].standing != Standing::Stands;
    let places: Vec<usize> = (0..report.paths.len()).filter(listed).take(MAX_LISTED).collect();
    let (cells, links) = if report.paths.len() > MAX_DRAWN {
        cells(report, &layers)
    } else {
        let links = report.paths.iter().enumerate();
        let links = links.flat_map(|(from, path)| path.references.iter().map(move |to| (from, *to as usize, 1)));
        (Vec::new(), links.collect())
    };
    let mut codes: Vec<policy::Code> =
        places.iter().flat_map(|place| report.paths[*place].findings.iter().map(|finding| finding.code)).collect();
    codes.sort();
    codes.dedup();
    let reason = |group: super::groups::Group<'a>| Reason {
        code: group.code.as_str(),
        reason: group.reason,
        paths: group.paths.len(),
        affected: group.affected,
    };
    let policy = subject.policy;
    Page {
        store: subject.store,
        store_dir: policy.store_dir().as_str(),
        time: policy::rfc3339(subject.now),
        policy_version: policy.version(),
        demand: policy.default_requirement().describe(policy.keyring()),
        contents: match subject.contents {
            Contents::Read => format!("{} of contents were read", bytes(subject.read)),
            Contents::Leave => "contents were not read".into(),
        },
        standing: audit.standing(),
        incomplete: audit.incomplete,
        notes: &audit.notes,
        totals: &report.totals,
        held_back: held_back(report),
        remedies: &report.remedies,
        groups: groups(report).into_iter().map(reason).collect(),
        codes: codes.into_iter().map(|code| (code.as_str(), code.explain())).collect(),
        unlisted: report.paths.len() - places.len(),
        paths: places.into_iter().map(|place| listing(audit, place, layers[place])).collect(),
        cells,
        links,
    }
}

fn listing(audit: &Audit, place: usize, layer: u32) -> Listed<'_> {
    let path = &audit.report.paths[place];
    let facts = audit.facts[place].as_ref();
    let signatures = facts.into_iter().flat_map(|facts| &facts.signatures);
    Listed {
        path: path.path.to_basename(),
        look: Look::of(path),
        root: audit.roots.binary_search(&place).is_ok(),
        is_cause: path.own != Standing::Stands,
        layer,
        size: facts.map(|facts| facts.nar_size),
        signers: &path.signers,
        findings: path.findings.iter().map(|finding| (finding.code.as_str(), &*finding.message)).collect(),
        signatures: signatures
            .map(|made| (&*made.key, made.verdict, made.signer.as_deref(), made.from.as_deref()))
            .collect(),
        causes: path.causes.iter().filter(|cause| **cause != path.path).map(|cause| cause.to_basename()).collect(),
        causes_total: path.causes_total,
    }
}

/// Passes JSON on so that nothing in it ends the element that it stands in, or begins another one.
struct Inert<W>(W);

impl<W: Write> Write for Inert<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(place) = rest.iter().position(|byte| matches!(byte, b'<' | b'>' | b'&')) {
            self.0.write_all(&rest[..place])?;
            write!(self.0, "\\u{:04x}", rest[place])?;
            rest = &rest[place + 1..];
        }
        self.0.write_all(rest)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_data_ends_its_element() {
        let mut written = Vec::new();
        serde_json::to_writer(Inert(&mut written), "</script><!-- & \u{2028}").expect("memory is enough");
        let text = String::from_utf8(written).expect("UTF-8");
        assert!(!text.contains(['<', '>', '&']), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).expect("JSON"), "</script><!-- & \u{2028}");
    }

    #[test]
    fn the_page_has_a_place_for_its_data() {
        assert_eq!(PAGE.matches(DATA).count(), 1);
    }
}
