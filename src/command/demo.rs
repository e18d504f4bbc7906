//! `nix-quorum demo`: a newcomer's first minute. What happens in it is in `demo/`; this file sets it going.

mod client;
mod nix;
mod package;
mod programs;
mod stage;
mod step;
mod story;

use std::process::ExitCode;

use clap::Args;

pub use step::{By, Run, Step, Story};

use super::{CommandError, runtime};
use crate::render;
use client::Client;
use stage::Stage;

/// What becomes of the demonstration.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Keep the directory, to look around in.
    #[arg(long)]
    keep: bool,
    /// Print the steps as a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, CommandError> {
    let format = render::format(arguments.json);
    runtime()?.block_on(async {
        tokio::select! {
            shown = show(arguments.keep, format) => shown,
            // Dropping what is under way stops the gate and removes the directory.
            _ = tokio::signal::ctrl_c() => Err(CommandError::Usage("interrupted; everything was cleaned up".into())),
        }
    })
}

async fn show(keep: bool, format: render::Format) -> Result<ExitCode, CommandError> {
    let stage = Stage::set()?;
    let client = Client::find(&stage).await;
    let mut story = Story::new(stage.place(), client.name());
    render::demo_begins(&story, format)?;
    let mut teller = |step| {
        render::demo_step(&step, story.steps.len() + 1, format)?;
        story.steps.push(step);
        Ok(())
    };
    story::tell(&stage, &client, &mut teller).await?;
    if keep {
        story.kept = true;
        stage.keep();
    }
    render::demo_ends(&story, format)?;
    Ok(if story.as_expected() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
