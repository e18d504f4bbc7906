//! The closure as a graph, for Graphviz: how a path stands shows in its colour and in its shape.

use std::fmt::Write as _;
use std::io::{self, Write};

use store_backend::audit::Audit;

use super::Subject;
use super::look::Look;

pub(super) fn write(out: &mut impl Write, audit: &Audit, subject: &Subject<'_>) -> io::Result<()> {
    let report = &audit.report;
    writeln!(out, "digraph closure {{")?;
    let mut label = format!("{}, audited {}", subject.store, policy::rfc3339(subject.now));
    for note in &audit.notes {
        let _infallible = write!(label, "\nNote: {note}.");
    }
    writeln!(out, "  label = {};", quoted(&label))?;
    writeln!(out, "  rankdir = LR;\n  node [style = filled, fontname = \"sans-serif\", fontsize = 10];")?;
    for (place, path) in report.paths.iter().enumerate() {
        let (shape, fill) = shape_and_fill(Look::of(path));
        let root = if audit.roots.binary_search(&place).is_ok() { ", penwidth = 3" } else { "" };
        let mut tip = subject.render(&path.path);
        for finding in &path.findings {
            let _infallible = write!(tip, "\n{finding}");
        }
        writeln!(
            out,
            "  {place} [label = {}, tooltip = {}, shape = {shape}, fillcolor = \"{fill}\"{root}];",
            quoted(path.path.name()),
            quoted(&tip)
        )?;
    }
    if audit.incomplete {
        let (shape, fill) = shape_and_fill(Look::Unchecked);
        let label = "there is more that could not be looked at";
        writeln!(out, "  more [label = \"{label}\", shape = {shape}, fillcolor = \"{fill}\"];")?;
    }
    for (place, path) in report.paths.iter().enumerate() {
        for reference in &path.references {
            writeln!(out, "  {place} -> {reference};")?;
        }
    }
    writeln!(out, "}}")
}

fn shape_and_fill(look: Look) -> (&'static str, &'static str) {
    match look {
        Look::Corrupted => ("octagon", "#e15759"),
        Look::Conflicting => ("diamond", "#b07aa1"),
        Look::Short => ("house", "#f28e2b"),
        Look::Unchecked => ("note", "#d3d3d3"),
        Look::Below => ("box", "#f1ce63"),
        Look::Stands => ("ellipse", "#8cd17d"),
    }
}

/// Writes a text as Graphviz reads it.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}
