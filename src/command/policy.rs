//! `nix-quorum policy`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use verifier::{PublicKey, StoreDir};

use super::CommandError;
use super::load::{PolicyArguments, read_text};
use crate::render;

#[derive(Debug, Subcommand)]
pub(super) enum Arguments {
    /// Read a policy, and say in words what it demands.
    Check(Check),
    /// Write a commented policy to start from, with the keys that this machine trusts.
    Init(Init),
}

/// Reads a policy and says what each rule demands, and the smallest sets of signers that can admit anything. Exits with 4 if
/// it has mistakes.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The policy.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A minisign public key (RW…) of an administrator; may be given several times.
    #[arg(long = "policy-signer", env = "NIX_QUORUM_POLICY_SIGNER", value_name = "KEY", value_delimiter = ',')]
    policy_signer: Vec<String>,
    /// How many administrators must have signed the policy; all of them unless given.
    #[arg(long, env = "NIX_QUORUM_POLICY_THRESHOLD", value_name = "K")]
    policy_threshold: Option<usize>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Writes a policy to standard output, to be edited: each key that Nix trusts on this machine becomes a signer. Their number
/// is yours to choose.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The nix.conf with the trusted-public-keys to start from.
    #[arg(long, value_name = "FILE", default_value = "/etc/nix/nix.conf")]
    nix_conf: PathBuf,
    /// Public keys in place of nix.conf's, separated by white space.
    #[arg(long, value_name = "KEYS")]
    trusted_public_keys: Option<String>,
    /// The store directory.
    #[arg(long, value_name = "DIRECTORY", default_value = "/nix/store")]
    store_dir: String,
}

/// The key that Nix trusts where nothing else is said.
const DEFAULT_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    match arguments {
        Arguments::Check(Check { file, policy_signer, policy_threshold, json }) => {
            let policy = PolicyArguments { policy: file, policy_signer, policy_threshold }.load()?;
            render::explanation(&policy.explain(render::now()), render::format(json))
        }
        Arguments::Init(arguments) => init(&arguments),
    }
}

fn init(arguments: &Init) -> Result<ExitCode, CommandError> {
    let store_dir = StoreDir::new(arguments.store_dir.as_str())
        .map_err(|error| CommandError::Usage(format!("--store-dir: {error}")))?;
    let texts = match &arguments.trusted_public_keys {
        Some(keys) => keys.clone(),
        None if arguments.nix_conf.exists() => keys_of(&read_text(&arguments.nix_conf)?),
        None => DEFAULT_KEY.to_owned(),
    };
    let parse = |text: &str| {
        text.parse::<PublicKey>().map_err(|source| CommandError::Key { place: format!("public key {text:?}"), source })
    };
    let keys = texts.split_whitespace().map(parse).collect::<Result<Vec<_>, _>>()?;
    render::text(&policy::starting_policy(&keys, &store_dir))
}

/// Returns the keys that a nix.conf trusts: the last `trusted-public-keys`, or Nix's default, and every `extra-` one.
fn keys_of(nix_conf: &str) -> String {
    let mut keys = DEFAULT_KEY.to_owned();
    let mut extra = String::new();
    for line in nix_conf.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        match name.trim() {
            "trusted-public-keys" => value.trim().clone_into(&mut keys),
            "extra-trusted-public-keys" => extra = format!("{extra} {}", value.trim()),
            _ => {}
        }
    }
    keys + &extra
}
