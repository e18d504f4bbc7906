//! What the demonstration did, as data.

use serde::Serialize;

/// Version of the story's form; it rises when a field changes its meaning or goes away.
const VERSION: u32 = 1;

/// The whole demonstration. In JSON, members are in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// Version of the form: 1.
    pub version: u32,
    /// Where it took place.
    pub directory: String,
    /// Whether that is still there.
    pub kept: bool,
    /// Which client asked the gate.
    pub client: String,
    /// What happened.
    pub steps: Vec<Step>,
}

/// One thing that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What, in a few words.
    pub title: &'static str,
    /// What, in plain words.
    pub explanation: String,
    /// What was run for it.
    pub runs: Vec<Run>,
    /// What should have come of it.
    pub expected: &'static str,
    /// Whether it did.
    pub as_expected: bool,
}

/// A command, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// What a person would type, in the directory of the demonstration.
    pub command: String,
    /// Who carried it out.
    pub by: By,
    /// The exit code; none for what runs on, or was ended by a signal.
    pub exit: Option<i32>,
    /// What it printed, line by line, with the directory's name as `$PWD`.
    pub output: Vec<String>,
}

/// Who carried out a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The program that it names.
    Program,
    /// This process, which does the same.
    ThisProcess,
}

impl Story {
    pub(super) fn new(directory: String, client: String) -> Self {
        Self { version: VERSION, directory, kept: false, client, steps: Vec::new() }
    }

    /// Says whether every step did what it should.
    #[must_use]
    pub fn as_expected(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.as_expected)
    }
}

impl Run {
    /// Says whether it ended with this code.
    pub(super) fn exited(&self, code: i32) -> bool {
        self.exit == Some(code)
    }

    /// Says whether it failed, with these words in what it printed.
    pub(super) fn failed_with(&self, words: &str) -> bool {
        self.exit.is_some_and(|code| code != 0) && self.output.iter().any(|line| line.contains(words))
    }
}
