//! `nix-quorum key`

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use verifier::{KeyName, SecretKey};

use super::CommandError;
use super::load::read_secret_key;
use crate::render;

#[derive(Debug, Subcommand)]
pub(super) enum Arguments {
    /// Make a secret key and write it to a new file, readable by its owner alone.
    Generate(Generate),
    /// Print the public key of a secret key, as a policy and trusted-public-keys take it.
    Public(Public),
}

/// Makes an Ed25519 key in Nix's own format. An existing file is never overwritten.
#[derive(Debug, Args)]
pub(super) struct Generate {
    /// The key's name: what stands before the ':', such as ci-eu-1. Give each new key a new number.
    #[arg(long, value_name = "NAME")]
    key_name: String,
    /// Where to write it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Public {
    /// The secret key's file; standard input unless given.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    match arguments {
        Arguments::Generate(arguments) => generate(&arguments),
        Arguments::Public(arguments) => public(&arguments),
    }
}

fn generate(arguments: &Generate) -> Result<ExitCode, CommandError> {
    let name =
        KeyName::new(&arguments.key_name).map_err(|source| CommandError::Key { place: "--key-name".into(), source })?;
    let key = SecretKey::from_seed(name, &seed()?);
    let place = arguments.file.display().to_string();
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&arguments.file);
    let mut file = file.map_err(|source| CommandError::Io { action: "create", place: place.clone(), source })?;
    let text = format!("{}\n", key.to_nix_string());
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|source| CommandError::Io { action: "write", place, source })?;
    render::public_key(&key.public(), render::format(arguments.json))
}

fn public(arguments: &Public) -> Result<ExitCode, CommandError> {
    let key = match &arguments.file {
        Some(file) => read_secret_key(file)?,
        None => {
            let mut text = String::new();
            let read = std::io::stdin().take(4096).read_to_string(&mut text);
            let place = || "standard input".to_owned();
            read.map_err(|source| CommandError::Io { action: "read", place: place(), source })?;
            text.parse().map_err(|source| CommandError::Key { place: place(), source })?
        }
    };
    render::public_key(&key.public(), render::format(arguments.json))
}

/// Returns 32 bytes of the system's randomness.
pub(super) fn seed() -> Result<[u8; 32], CommandError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| CommandError::Usage(format!("the system gives no random bytes: {error}")))?;
    Ok(seed)
}
