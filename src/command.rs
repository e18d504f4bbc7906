//! The command line: one file a subcommand, none with logic of its own.

mod audit;
mod demo;
mod error;
mod key;
mod load;
mod log;
mod policy;
mod serve;
mod settings;
mod staging;
mod stdio;
mod sweep;
mod verify;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

pub use demo::{By, Run, Step, Story};
pub use error::{CommandError, USAGE};

use crate::render;

/// A Nix store that holds only what a quorum of independent signers vouched for.
///
/// Stock Nix uses it with --store unix:///run/nix-quorum/store.sock, or, for reading file contents, with
/// --store 'ssh-ng://localhost?remote-program=nix-quorum'. Options can also be set in the environment, where their help names a
/// variable, and in config.toml ($NIX_QUORUM_CONFIG, else /etc/nix-quorum/config.toml), in this order.
#[derive(Debug, Parser)]
#[command(name = "nix-quorum", version, arg_required_else_help = true, subcommand_negates_reqs = true)]
pub struct Cli {
    #[command(flatten)]
    stdio: stdio::Arguments,
    /// What to write to standard error: error, warn, info, debug or trace, or a filter such as store_backend=debug.
    #[arg(long, global = true, env = "NIX_QUORUM_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// Whether to use colours.
    #[arg(long, global = true, env = "NIX_QUORUM_COLOR", value_name = "WHEN", default_value = "auto")]
    color: Color,
    #[command(subcommand)]
    command: Option<Command>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See in a few seconds what nix-quorum does, with no set-up.
    ///
    /// A store, builders and a policy are made in a temporary directory. Where Nix is on PATH, the real client does what clients
    /// do; otherwise nix-quorum's own does it over the same protocol. The network is not used, nothing is asked, and nothing is
    /// left behind. Exits with 0 only if every step did what it should.
    Demo(demo::Arguments),
    /// Serve a store to Nix clients.
    Serve(serve::Arguments),
    /// Check paths of a store against a policy, and their contents against what was signed.
    ///
    /// Nothing that the store says is believed: signatures are verified, contents hashed, content addresses recomputed. The
    /// exit code is a sum of Nix's bits: 1 where something is corrupted, 2 where something is not trusted, 4 where something
    /// could not be checked. It is 0 only if every path was checked and stands.
    Verify(verify::Arguments),
    /// Show the shortest chain of references from a root to a path, and how each path on it stands.
    ///
    /// Signatures are checked, contents are not read. Exits with 1 where nothing refers to the path, and with 4 where not everything
    /// could be looked at that might.
    Why(why::Arguments),
    /// Find, and with --delete remove, what crashes and broken-off uploads left in a store.
    ///
    /// NARs that no path has, evidence and listings of paths that are not there, uploads in parts that were never put together.
    /// It may run beside any number of gates: it announces what it is about to delete, looks again, and leaves what somebody
    /// needs by then. Nothing is deleted without --delete.
    Sweep(sweep::Arguments),
    /// Show what was admitted, refused and changed in a store, when and by whose word; check that the log of it is whole.
    ///
    /// Each record carries the hash of the one before it. Gates write one before they make a path visible.
    Log(log::Arguments),
    /// Look after what is held until enough builders have signed the same: list it, explain it, compare what conflicts, give it
    /// up, sign it.
    ///
    /// These commands read the store itself, and those that write do what a gate does. Builders need none of them: they copy and
    /// sign with Nix's own commands, through the gate's staging socket.
    #[command(subcommand)]
    Staging(staging::Arguments),
    /// Check policies, or start one.
    #[command(subcommand)]
    Policy(policy::Arguments),
    /// Make keys, in Nix's own format.
    #[command(subcommand)]
    Key(key::Arguments),
}

/// Runs the program; its exit code is the answer.
///
/// # Errors
/// When the command could not do what it was asked.
pub fn run() -> Result<ExitCode, CommandError> {
    let cli = match settings::parse()? {
        settings::Parsed::Run(cli) => *cli,
        settings::Parsed::Show(shown) => return Ok(render::usage(&shown)),
    };
    render::set_color(cli.color);
    let quiet = if matches!(cli.command, Some(Command::Serve(_))) { "info" } else { "warn" };
    render::start_log(cli.log.as_deref().unwrap_or(quiet))?;
    if cli.stdio.requested() {
        return stdio::run(cli.stdio);
    }
    match cli.command {
        Some(Command::Demo(arguments)) => demo::run(&arguments),
        Some(Command::Serve(arguments)) => serve::run(arguments),
        Some(Command::Verify(arguments)) => verify::run(arguments),
        Some(Command::Why(arguments)) => why::run(arguments),
        Some(Command::Sweep(arguments)) => sweep::run(arguments),
        Some(Command::Log(arguments)) => log::run(arguments),
        Some(Command::Staging(arguments)) => staging::run(arguments),
        Some(Command::Policy(arguments)) => policy::run(arguments),
        Some(Command::Key(arguments)) => key::run(arguments),
        None => Err(CommandError::Usage("give a command: nix-quorum --help lists them".into())),
    }
}

/// Makes the runtime that commands with input and output of their own run on.
fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|source| CommandError::Io { action: "start", place: "the runtime".into(), source })
}
