//! Programs that the demonstration runs: their surroundings, their patience, and what they print.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::stage::Stage;
use super::step::{By, Run};

/// How long a program may take; each of them is done within a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most lines that are kept of what a program prints.
const MAX_LINES: usize = 200;

/// Returns a program that sees nothing of the machine's or the user's configuration but where programs are.
pub(super) fn program(stage: &Stage, name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env_clear().current_dir(stage.root());
    for kept in ["PATH", "LANG", "LC_ALL", "TERMINFO", "LD_LIBRARY_PATH"] {
        command.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    command.env("HOME", stage.at("home")).env("TMPDIR", stage.root()).env("NO_COLOR", "1").env("TERM", "dumb");
    command.env("NIX_QUORUM_CONFIG", stage.at("etc/config.toml"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs this very program with arguments.
pub(super) async fn own(stage: &Stage, arguments: &[&str]) -> Run {
    let mut command = program(stage, stage.own_program());
    command.args(arguments);
    run(stage, format!("nix-quorum {}", arguments.join(" ")), command).await
}

/// Runs a command that a person would have typed as `typed`. That it cannot be run is an outcome too.
pub(super) async fn run(stage: &Stage, typed: String, mut command: Command) -> Run {
    let command_line = stage.without_place(&typed);
    let (exit, output) = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text += &String::from_utf8_lossy(&output.stderr);
            (output.status.code(), text)
        }
        Ok(Err(error)) => (None, format!("cannot be run: {error}")),
        Err(_) => (None, format!("was ended after {} seconds", PATIENCE.as_secs())),
    };
    Run { command: command_line, by: By::Program, exit, output: lines(stage, &output) }
}

/// Returns what was printed as lines that may be printed again.
fn lines(stage: &Stage, output: &str) -> Vec<String> {
    let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    output.trim_end().lines().take(MAX_LINES).map(|line| stage.without_place(printable(line).trim_end())).collect()
}
