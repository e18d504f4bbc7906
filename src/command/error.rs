use std::io;
use std::process::ExitCode;

use policy::{AuthorityError, KeysError, PolicyErrors};
use store_backend::audit::{AuditError, ReadingLogError};
use store_backend::daemon::ServeError;
use store_backend::gate::{GateError, LogError};
use store_backend::object::ObjectError;
use store_backend::store::{ArgumentError, InstallableError, PlaceError, StoreError, StoreUriError};
use thiserror::Error;
use verifier::{AdministratorsError, KeyError};

/// The exit code of a command line that cannot be understood, and of a check that could not be made: Nix's bit 4.
pub const USAGE: u8 = 4;

/// Why a command could not do what it was asked. Each says what to do next.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The command line does not make sense.
    #[error("{0}")]
    Usage(String),
    /// A file or the system failed.
    #[error("cannot {action} {place}: {source}")]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// What it was done to.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key cannot be read.
    #[error("{place}: {source}")]
    Key {
        /// Where it stands.
        place: String,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// A decision log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A store that was named cannot be opened.
    #[error("{uri}: {source}")]
    OpenStore {
        /// Its URI.
        uri: String,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// The keys that were given make no policy.
    #[error("{place}: {source}")]
    Keys {
        /// Where they were given.
        place: String,
        /// What is wrong with them.
        #[source]
        source: KeysError,
    },
    /// A path that was named is none.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// What was named leads to no path.
    #[error(transparent)]
    Installable(#[from] InstallableError),
    /// What earlier audits have read is not known.
    #[error(transparent)]
    ReadingLog(#[from] ReadingLogError),
    /// A store could not be audited.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The policy has mistakes. Its text shows each with its place.
    #[error("{0}")]
    Policy(#[from] PolicyErrors),
    /// The policy does not carry its administrators' signatures.
    #[error("{place}: {source}")]
    Authority {
        /// The policy's file.
        place: String,
        /// What is lacking.
        #[source]
        source: AuthorityError,
    },
    /// An administrator's key cannot be read.
    #[error("--policy-signer: {0}")]
    Administrators(#[from] AdministratorsError),
    /// A store's URI cannot be understood.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Nor the URI of one that is only read.
    #[error(transparent)]
    StoreUri(#[from] StoreUriError),
    /// The storage cannot be opened.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gate cannot be set up.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The server cannot serve.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl CommandError {
    /// Returns the exit code: 4 for whatever kept the command from being carried out.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(USAGE)
    }
}
