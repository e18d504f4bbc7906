//! The codec of build results.

use tokio::io::AsyncWrite;
use verifier::{OutputId, Realisation, StoreDir, StorePath};

use super::version::{Features, ProtocolVersion};
use super::{RequestError, path_info::parse_path};
use crate::wire::{ByteSource, Reader, StringLimit, Writer};

/// How a build ended, by Nix's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Nix's")]
pub enum BuildStatus {
    Built = 0,
    Substituted = 1,
    AlreadyValid = 2,
    PermanentFailure = 3,
    InputRejected = 4,
    OutputRejected = 5,
    TransientFailure = 6,
    CachedFailure = 7,
    TimedOut = 8,
    MiscFailure = 9,
    DependencyFailed = 10,
    LogLimitExceeded = 11,
    NotDeterministic = 12,
    ResolvesToAlreadyValid = 13,
    NoSubstituters = 14,
}

impl BuildStatus {
    const ALL: [Self; 15] = [
        Self::Built,
        Self::Substituted,
        Self::AlreadyValid,
        Self::PermanentFailure,
        Self::InputRejected,
        Self::OutputRejected,
        Self::TransientFailure,
        Self::CachedFailure,
        Self::TimedOut,
        Self::MiscFailure,
        Self::DependencyFailed,
        Self::LogLimitExceeded,
        Self::NotDeterministic,
        Self::ResolvesToAlreadyValid,
        Self::NoSubstituters,
    ];
}

/// An output that a build has, or that was valid already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOutcome {
    /// The output's name.
    pub output: String,
    /// Its path.
    pub path: StorePath,
    /// Signatures of the realisation; only in the form keyed by path.
    pub signatures: Vec<String>,
}

/// The result of a build. This store does not build, so all that measures a build is 0.
///
/// | field | as | since |
/// |---|---|---|
/// | status | word | |
/// | error | string | |
/// | times built, non-deterministic, start, stop | 4 words | 1.29 |
/// | CPU time of user, of system | each a word 0, or 1 and microseconds | 1.37 |
/// | built outputs | list of pairs of strings: output id, realisation as JSON | 1.28 |
///
/// With `realisation-with-path-not-hash` the last is a list of name, path and signatures.
///
/// Source: Nix `WorkerProto::Serialise<BuildResult>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildResult {
    /// How it ended.
    pub status: BuildStatus,
    /// Why it failed; empty otherwise.
    pub error: String,
    /// How often it was built.
    pub times_built: u64,
    /// Whether builds of it differed.
    pub non_deterministic: bool,
    /// When it began, in seconds since the Unix epoch.
    pub start: u64,
    /// When it ended, likewise.
    pub stop: u64,
    /// Microseconds of user and system time, where measured.
    pub cpu: [Option<u64>; 2],
    /// What there is now.
    pub outputs: Vec<BuildOutcome>,
}

/// What stands for the derivation's hash where only the output's name is read from the id.
const NO_HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl BuildResult {
    /// Makes a result that measures nothing.
    #[must_use]
    pub fn new(status: BuildStatus, error: impl Into<String>, outputs: Vec<BuildOutcome>) -> Self {
        Self {
            status,
            error: error.into(),
            times_built: 0,
            non_deterministic: false,
            start: 0,
            stop: 0,
            cpu: [None, None],
            outputs,
        }
    }

    /// Writes the result in the form of a version.
    pub fn write<W: AsyncWrite + Unpin + Send>(
        &self,
        writer: &mut Writer<W>,
        store_dir: &StoreDir,
        version: ProtocolVersion,
        features: &Features,
    ) {
        writer.put_u64(self.status as u64);
        writer.put_str(&self.error);
        writer.put_u64(self.times_built);
        writer.put_flag(self.non_deterministic);
        writer.put_u64(self.start);
        writer.put_u64(self.stop);
        if version.minor >= 37 {
            for time in self.cpu {
                writer.put_flag(time.is_some());
                if let Some(microseconds) = time {
                    writer.put_u64(microseconds);
                }
            }
        }
        writer.put_u64(self.outputs.len() as u64);
        for built in &self.outputs {
            if features.realisation_with_path() {
                writer.put_str(&built.output);
                writer.put_str(&store_dir.render_path(&built.path));
                writer.put_strings(built.signatures.iter());
            } else {
                let id = OutputId::Hash { drv_hash: NO_HASH.to_owned(), output: built.output.clone() };
                writer.put_str(&id.to_string());
                let realisation = Realisation {
                    id,
                    out_path: built.path.clone(),
                    signatures: built.signatures.iter().cloned().collect(),
                    dependent_realisations: Default::default(),
                };
                writer.put_str(&realisation.to_json().to_string());
            }
        }
    }

    /// Reads a result in the form of a version.
    ///
    /// # Errors
    /// When the stream ends or breaks the protocol, or says what cannot be.
    pub async fn read<S: ByteSource>(
        reader: &mut Reader<S>,
        store_dir: &StoreDir,
        version: ProtocolVersion,
        features: &Features,
    ) -> Result<Self, RequestError> {
        let status = reader.u64().await?;
        let error = reader.string("a build's error", StringLimit::Long).await?;
        let times_built = reader.u64().await?;
        let non_deterministic = reader.flag().await?;
        let start = reader.u64().await?;
        let stop = reader.u64().await?;
        let mut cpu = [None, None];
        if version.minor >= 37 {
            for time in &mut cpu {
                if reader.flag().await? {
                    *time = Some(reader.u64().await?);
                }
            }
        }
        let mut outputs = Vec::new();
        for _ in 0..reader.count("outputs").await? {
            let key = reader.string("an output", StringLimit::Short).await?;
            outputs.push(if features.realisation_with_path() {
                let path = reader.string("an output's path", StringLimit::Short).await?;
                let signatures = reader.strings("a signature").await?;
                BuildOutcome { output: key, path: parse_path(store_dir, &path)?, signatures }
            } else {
                let json = reader.string("a realisation", StringLimit::Long).await?;
                let realisation = Realisation::parse(&json).map_err(RequestError::invalid)?;
                BuildOutcome {
                    output: realisation.id.output().to_owned(),
                    path: realisation.out_path,
                    signatures: realisation.signatures.into_iter().collect(),
                }
            });
        }
        let status = usize::try_from(status).ok().and_then(|status| BuildStatus::ALL.get(status).copied());
        let status = status.ok_or_else(|| RequestError::Invalid("expected a build status 0 to 14".into()))?;
        Ok(Self { status, error, times_built, non_deterministic, start, stop, cpu, outputs })
    }
}
