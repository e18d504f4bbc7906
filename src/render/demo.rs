//! The demonstration: for people a step at a time, for programs at the end.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::words::count;
use super::{Format, Paint, paint, print, print_json};
use crate::command::{By, CommandError, Run, Step, Story};

/// Columns that prose is broken at, as in a terminal's usual 80.
const WIDTH: usize = 78;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(flatten)]
    story: &'a Story,
    as_expected: bool,
}

/// Says what is going to happen.
///
/// # Errors
/// When it cannot be printed.
pub fn demo_begins(story: &Story, format: Format) -> Result<(), CommandError> {
    if format == Format::Json {
        return Ok(());
    }
    let nix = if has_nix(story) { "" } else { " There is no Nix on PATH." };
    print(&wrapped(&format!(
        "A store that admits a path only when two of three builders vouch for the same bytes. Everything happens in {}, \
         $PWD below; no network is used. The client is {}.{nix} Where a command begins with ~ instead of $, nix-quorum does in \
         this process what the command would.",
        story.directory, story.client
    )))?;
    Ok(())
}

/// Prints a step.
///
/// # Errors
/// When it cannot be printed.
pub fn demo_step(step: &Step, number: usize, format: Format) -> Result<(), CommandError> {
    if format == Format::Text {
        print(&text(step, number))?;
    }
    Ok(())
}

/// Says how it went.
///
/// # Errors
/// When it cannot be printed.
pub fn demo_ends(story: &Story, format: Format) -> Result<ExitCode, CommandError> {
    if format == Format::Json {
        return print_json(&Document { story, as_expected: story.as_expected() });
    }
    let wrong = story.steps.iter().filter(|step| !step.as_expected).count();
    let outcome = match wrong {
        0 => paint(Paint::Good, &format!("All {} did what they should.", count(story.steps.len(), "step"))),
        _ => paint(Paint::Bad, &format!("{} did not do what they should.", count(wrong, "step"))),
    };
    let place = if story.kept {
        format!("Everything is still in {}.", story.directory)
    } else {
        "Nothing is left of it.".into()
    };
    let next = wrapped(&format!(
        "{place} To begin with your own: nix-quorum policy init, then nix-quorum serve; nix-quorum --help lists the rest."
    ));
    print(&format!("\n{outcome}\n{next}"))
}

fn has_nix(story: &Story) -> bool {
    !story.client.starts_with("nix-quorum")
}

fn text(step: &Step, number: usize) -> String {
    let mut text = format!("\n{}\n", paint(Paint::Strong, &format!("{number}. {}", step.title)));
    text += &wrapped(&step.explanation);
    for run in &step.runs {
        put_run(&mut text, run);
    }
    let outcome = if step.as_expected {
        paint(Paint::Good, &format!("As it should be: {}.", step.expected))
    } else {
        paint(Paint::Bad, &format!("Not as it should be, which is: {}.", step.expected))
    };
    let _ = writeln!(text, "{outcome}");
    text
}

fn put_run(text: &mut String, run: &Run) {
    let prompt = match run.by {
        By::Program => "$",
        By::ThisProcess => "~",
    };
    let _ = writeln!(text, "  {prompt} {}", run.command);
    for line in &run.output {
        let _ = writeln!(text, "    {line}");
    }
    match run.exit {
        Some(0) => {}
        Some(code) => {
            let _ = writeln!(text, "    (exit code {code})");
        }
        None => {}
    }
}

/// Breaks prose into lines.
fn wrapped(prose: &str) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in prose.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text.push('\n');
    text
}
