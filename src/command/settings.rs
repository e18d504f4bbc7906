//! Where options come from: the command line, else the environment, else `config.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use super::{Cli, CommandError};

/// Where the system's settings are.
const SYSTEM: &str = "/etc/nix-quorum/config.toml";

/// Names another file in their place.
const VARIABLE: &str = "NIX_QUORUM_CONFIG";

/// What the command line turned out to be.
pub(super) enum Parsed {
    /// Something to do.
    Run(Box<Cli>),
    /// A text to show: help, the version, or what is wrong.
    Show(Box<clap::Error>),
}

/// Reads the command line, with what the environment and `config.toml` say where it says nothing. A setting gives way to an
/// option that excludes it.
///
/// # Errors
/// When `config.toml` cannot be read or understood, or has settings that exclude each other.
pub(super) fn parse() -> Result<Parsed, CommandError> {
    let mut settings = settings()?;
    let mut command = with_settings(Cli::command(), &settings)?;
    let mut parsed = command.try_get_matches_from_mut(std::env::args_os());
    if let Ok(matches) = &parsed {
        let excluded = excluded(&command, matches, &settings)?;
        if !excluded.is_empty() {
            settings.retain(|name, _| !excluded.contains(name));
            parsed = with_settings(Cli::command(), &settings)?.try_get_matches();
        }
    }
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    Ok(match parsed {
        Ok(cli) => Parsed::Run(Box::new(cli)),
        Err(error) => Parsed::Show(Box::new(error)),
    })
}

type Settings = BTreeMap<String, Vec<OsString>>;

fn settings() -> Result<Settings, CommandError> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| SYSTEM.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(Settings::new()),
        Err(source) => return Err(CommandError::Io { action: "read", place: path.display().to_string(), source }),
    };
    let wrong = |why: String| CommandError::Usage(format!("{}: {why}", path.display()));
    let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut settings = Settings::new();
    for (name, value) in table {
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        let texts = values.into_iter().map(|value| match value {
            toml::Value::String(text) => Ok(text.into()),
            toml::Value::Integer(number) => Ok(number.to_string().into()),
            toml::Value::Boolean(flag) => Ok(flag.to_string().into()),
            other => Err(wrong(format!("{name}: expected a text, a number or a list, found {}", other.type_str()))),
        });
        let texts = texts.collect::<Result<_, _>>()?;
        settings.insert(name, texts);
    }
    Ok(settings)
}

/// Makes what `config.toml` says the default of each option of that name. An option that no command has is an error: a
/// setting that does nothing is a mistake that somebody relies on.
fn with_settings(command: Command, settings: &Settings) -> Result<Command, CommandError> {
    if settings.is_empty() {
        return Ok(command);
    }
    let mut known = Vec::new();
    let command = apply(command, settings, &mut known);
    match settings.keys().find(|name| !known.contains(*name)) {
        Some(name) => Err(CommandError::Usage(format!("config.toml: no option is called {name:?}; see --help"))),
        None => Ok(command),
    }
}

/// Returns the settings that exclude options which were given. Clap looks for such pairs only where both were.
fn excluded(command: &Command, matches: &ArgMatches, settings: &Settings) -> Result<BTreeSet<String>, CommandError> {
    let (mut excluded, mut undecided) = (BTreeSet::new(), Vec::new());
    let source = |argument: &Arg| matches.value_source(argument.get_id().as_str());
    let is_given = |argument| matches!(source(argument), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
    let set = |argument: &Arg| {
        let (name, values) = settings.get_key_value(argument.get_long()?)?;
        let is_on = argument.get_action().takes_values() || values.iter().any(|value| value != "false");
        (is_on && source(argument) == Some(ValueSource::DefaultValue)).then(|| name.clone())
    };
    for one in command.get_arguments() {
        for other in command.get_arg_conflicts_with(one) {
            match (set(one), set(other)) {
                (Some(one), Some(other)) => undecided.push((one, other)),
                (Some(setting), None) if is_given(other) => drop(excluded.insert(setting)),
                (None, Some(setting)) if is_given(one) => drop(excluded.insert(setting)),
                _ => {}
            }
        }
    }
    if let Some((one, other)) =
        undecided.iter().find(|(one, other)| !excluded.contains(one) && !excluded.contains(other))
    {
        return Err(CommandError::Usage(format!("config.toml: {one} and {other} exclude each other")));
    }
    if let Some((name, below)) = matches.subcommand()
        && let Some(subcommand) = command.find_subcommand(name)
    {
        excluded.extend(self::excluded(subcommand, below, settings)?);
    }
    Ok(excluded)
}

fn apply(command: Command, settings: &Settings, known: &mut Vec<String>) -> Command {
    let mut found = Vec::new();
    let command = command.mut_args(|argument: Arg| {
        let Some((name, values)) = argument.get_long().and_then(|name| settings.get_key_value(name)) else {
            return argument;
        };
        found.push(name.clone());
        // The settings are read once and kept to the program's end.
        let values: Vec<&'static std::ffi::OsStr> =
            values.iter().map(|value| &*Box::leak(value.clone().into_boxed_os_str())).collect();
        argument.default_values(values).required(false)
    });
    known.append(&mut found);
    command.mut_subcommands(|subcommand| apply(subcommand, settings, known))
}
