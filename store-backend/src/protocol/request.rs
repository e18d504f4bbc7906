//! Requests: an operation with its arguments.

use std::collections::BTreeSet;

use nix_derivation::DerivedPath;
use thiserror::Error;
use tokio::io::AsyncWrite;
use verifier::{ContentAddress, OutputId, PathInfo, Realisation, StoreDir, StorePath};

use super::addition::{AddToStore, render_method};
use super::derivation::BasicDerivation;
use super::garbage::GarbageRequest;
use super::options::{Options, read_options, write_options};
use super::path_info::{RawPathInfo, parse_path, write_path_info};
use super::realisation::{read_output_id, read_realisation, write_output_id, write_realisation};
use super::{Features, Operation};
use crate::wire::{ByteSource, Reader, StringLimit, WireError, Writer};

/// Why a request cannot be carried out as it came.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The stream is out of step: close it.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// All arguments were read, but one of them says what cannot be: answer so, and go on.
    #[error("{0}")]
    Invalid(String),
}

impl RequestError {
    /// Turns a value's own complaint into one about the request.
    pub(super) fn invalid(error: impl ToString) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Whether a query may fetch what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Substitutes {
    /// It may.
    Allowed,
    /// It may not.
    Forbidden,
}

/// How to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildMode {
    /// What is missing (0).
    Normal,
    /// What is damaged (1).
    Repair,
    /// Again, to compare (2).
    Check,
}

/// An operation with its arguments, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the operation of its name, with that operation's arguments")]
pub enum Request {
    IsValidPath(StorePath),
    QueryReferrers(StorePath),
    AddToStore(AddToStore),
    AddTextToStore { name: String, text: Vec<u8>, references: BTreeSet<StorePath> },
    BuildPaths { targets: Vec<DerivedPath>, mode: BuildMode },
    EnsurePath(StorePath),
    AddTempRoot(StorePath),
    AddIndirectRoot(String),
    SyncWithGC,
    FindRoots,
    QueryDeriver(StorePath),
    SetOptions(Options),
    CollectGarbage(GarbageRequest),
    QuerySubstitutablePathInfo(StorePath),
    QueryDerivationOutputs(StorePath),
    QueryAllValidPaths,
    QueryPathInfo(StorePath),
    QueryDerivationOutputNames(StorePath),
    QueryPathFromHashPart(String),
    QuerySubstitutablePathInfos(Vec<(StorePath, Option<ContentAddress>)>),
    QueryValidPaths { paths: Vec<StorePath>, substitutes: Substitutes },
    QuerySubstitutablePaths(Vec<StorePath>),
    QueryValidDerivers(StorePath),
    OptimiseStore,
    VerifyStore { contents: bool, repair: bool },
    BuildDerivation { drv_path: StorePath, derivation: BasicDerivation, mode: BuildMode },
    AddSignatures { path: StorePath, signatures: Vec<String> },
    NarFromPath(StorePath),
    AddToStoreNar(PathInfo),
    QueryMissing(Vec<DerivedPath>),
    QueryDerivationOutputMap(StorePath),
    RegisterDrvOutput(Realisation),
    QueryRealisation(OutputId),
    AddMultipleToStore,
    AddBuildLog(StorePath),
    BuildPathsWithResults { targets: Vec<DerivedPath>, mode: BuildMode },
    AddPermRoot { path: StorePath, root: String },
}

impl Request {
    /// Reads an operation's arguments. A framed stream that follows them is left to be read.
    ///
    /// # Errors
    /// [`RequestError::Wire`] when the session is out of step, [`RequestError::Invalid`] when it is not: then every
    /// argument was read.
    ///
    /// Source: Nix `src/libstore/daemon.cc`, `performOp`.
    pub async fn read<S: ByteSource>(
        operation: Operation,
        reader: &mut Reader<S>,
        store_dir: &StoreDir,
        features: &Features,
    ) -> Result<Self, RequestError> {
        // Within an arm, everything is read before anything is understood, so that a complaint leaves the stream in step.
        let dir = store_dir;
        Ok(match operation {
            Operation::IsValidPath => Self::IsValidPath(path(reader, dir).await?),
            Operation::QueryReferrers => Self::QueryReferrers(path(reader, dir).await?),
            Operation::AddToStore => Self::AddToStore(AddToStore::read(reader, dir).await?),
            Operation::AddTextToStore => {
                let name = reader.string("a name", StringLimit::Short).await?;
                let text = reader.bytes("a text", StringLimit::Long).await?;
                Self::AddTextToStore { name, text, references: paths(reader, dir).await?.into_iter().collect() }
            }
            Operation::BuildPaths => {
                let (targets, mode) = build(reader, dir).await?;
                Self::BuildPaths { targets, mode }
            }
            Operation::EnsurePath => Self::EnsurePath(path(reader, dir).await?),
            Operation::AddTempRoot => Self::AddTempRoot(path(reader, dir).await?),
            Operation::AddIndirectRoot => Self::AddIndirectRoot(reader.string("a root", StringLimit::Short).await?),
            Operation::SyncWithGC => Self::SyncWithGC,
            Operation::FindRoots => Self::FindRoots,
            Operation::QueryDeriver => Self::QueryDeriver(path(reader, dir).await?),
            Operation::SetOptions => Self::SetOptions(read_options(reader).await?),
            Operation::CollectGarbage => Self::CollectGarbage(GarbageRequest::read(reader, dir).await?),
            Operation::QuerySubstitutablePathInfo => Self::QuerySubstitutablePathInfo(path(reader, dir).await?),
            Operation::QueryDerivationOutputs => Self::QueryDerivationOutputs(path(reader, dir).await?),
            Operation::QueryAllValidPaths => Self::QueryAllValidPaths,
            Operation::QueryPathInfo => Self::QueryPathInfo(path(reader, dir).await?),
            Operation::QueryDerivationOutputNames => Self::QueryDerivationOutputNames(path(reader, dir).await?),
            Operation::QueryPathFromHashPart => {
                Self::QueryPathFromHashPart(reader.string("a hash part", StringLimit::Short).await?)
            }
            Operation::QuerySubstitutablePathInfos => {
                Self::QuerySubstitutablePathInfos(addressed_paths(reader, dir).await?)
            }
            Operation::QueryValidPaths => {
                let texts = reader.strings("a store path").await?;
                let substitutes = if reader.flag().await? { Substitutes::Allowed } else { Substitutes::Forbidden };
                Self::QueryValidPaths { paths: parse_paths(dir, &texts)?, substitutes }
            }
            Operation::QuerySubstitutablePaths => Self::QuerySubstitutablePaths(paths(reader, dir).await?),
            Operation::QueryValidDerivers => Self::QueryValidDerivers(path(reader, dir).await?),
            Operation::OptimiseStore => Self::OptimiseStore,
            Operation::VerifyStore => {
                Self::VerifyStore { contents: reader.flag().await?, repair: reader.flag().await? }
            }
            Operation::BuildDerivation => {
                let drv_path = reader.string("a derivation's path", StringLimit::Short).await?;
                let derivation = BasicDerivation::read(reader).await?;
                let mode = reader.u64().await?;
                Self::BuildDerivation { drv_path: parse_path(dir, &drv_path)?, derivation, mode: parse_mode(mode)? }
            }
            Operation::AddSignatures => {
                let path = reader.string("a store path", StringLimit::Short).await?;
                let signatures = reader.strings("a signature").await?;
                Self::AddSignatures { path: parse_path(dir, &path)?, signatures }
            }
            Operation::NarFromPath => Self::NarFromPath(path(reader, dir).await?),
            Operation::AddToStoreNar => {
                let info = RawPathInfo::read(reader).await?;
                // repair and dontCheckSigs: nobody may waive the check here, so there is nothing to keep of them.
                reader.flag().await?;
                reader.flag().await?;
                Self::AddToStoreNar(info.parse(dir)?)
            }
            Operation::QueryMissing => Self::QueryMissing(targets(reader, dir).await?),
            Operation::QueryDerivationOutputMap => Self::QueryDerivationOutputMap(path(reader, dir).await?),
            Operation::RegisterDrvOutput => Self::RegisterDrvOutput(read_realisation(reader, dir, features).await?),
            Operation::QueryRealisation => Self::QueryRealisation(read_output_id(reader, dir, features).await?),
            Operation::AddMultipleToStore => {
                reader.flag().await?;
                reader.flag().await?;
                Self::AddMultipleToStore
            }
            Operation::AddBuildLog => {
                let name = reader.string("a derivation's base name", StringLimit::Short).await?;
                Self::AddBuildLog(StorePath::from_basename(name.as_bytes()).map_err(RequestError::invalid)?)
            }
            Operation::BuildPathsWithResults => {
                let (targets, mode) = build(reader, dir).await?;
                Self::BuildPathsWithResults { targets, mode }
            }
            Operation::AddPermRoot => {
                let path = reader.string("a store path", StringLimit::Short).await?;
                let root = reader.string("a root", StringLimit::Short).await?;
                Self::AddPermRoot { path: parse_path(dir, &path)?, root }
            }
        })
    }

    /// Writes the operation's number and its arguments, as a client.
    pub fn write<W: AsyncWrite + Unpin + Send>(&self, writer: &mut Writer<W>, store_dir: &StoreDir) {
        writer.put_u64(self.operation().number());
        let dir = store_dir;
        match self {
            Self::IsValidPath(path)
            | Self::QueryReferrers(path)
            | Self::EnsurePath(path)
            | Self::AddTempRoot(path)
            | Self::QueryDeriver(path)
            | Self::QuerySubstitutablePathInfo(path)
            | Self::QueryDerivationOutputs(path)
            | Self::QueryPathInfo(path)
            | Self::QueryDerivationOutputNames(path)
            | Self::QueryValidDerivers(path)
            | Self::NarFromPath(path)
            | Self::QueryDerivationOutputMap(path) => writer.put_str(&dir.render_path(path)),
            Self::AddToStore(add) => {
                writer.put_str(&add.name);
                writer.put_str(&render_method(add.method, add.algorithm));
                writer.put_strings(add.references.iter().map(|path| dir.render_path(path)));
                writer.put_flag(false);
            }
            Self::AddTextToStore { name, text, references } => {
                writer.put_str(name);
                writer.put_bytes(text);
                writer.put_strings(references.iter().map(|path| dir.render_path(path)));
            }
            Self::BuildPaths { targets, mode } | Self::BuildPathsWithResults { targets, mode } => {
                writer.put_strings(targets.iter().map(|target| target.render_legacy(dir)));
                writer.put_u64(*mode as u64);
            }
            Self::AddIndirectRoot(text) | Self::QueryPathFromHashPart(text) => writer.put_str(text),
            Self::SyncWithGC | Self::FindRoots | Self::QueryAllValidPaths | Self::OptimiseStore => {}
            Self::SetOptions(options) => write_options(writer, options),
            Self::CollectGarbage(request) => request.write(writer, dir),
            Self::QuerySubstitutablePathInfos(infos) => {
                writer.put_u64(infos.len() as u64);
                for (path, address) in infos {
                    writer.put_str(&dir.render_path(path));
                    writer.put_str(&address.as_ref().map_or_else(String::new, ToString::to_string));
                }
            }
            Self::QueryValidPaths { paths, substitutes } => {
                writer.put_strings(paths.iter().map(|path| dir.render_path(path)));
                writer.put_flag(*substitutes == Substitutes::Allowed);
            }
            Self::QuerySubstitutablePaths(paths) => {
                writer.put_strings(paths.iter().map(|path| dir.render_path(path)));
            }
            Self::VerifyStore { contents, repair } => {
                writer.put_flag(*contents);
                writer.put_flag(*repair);
            }
            Self::BuildDerivation { drv_path, derivation, mode } => {
                writer.put_str(&dir.render_path(drv_path));
                derivation.write(writer);
                writer.put_u64(*mode as u64);
            }
            Self::AddSignatures { path, signatures } => {
                writer.put_str(&dir.render_path(path));
                writer.put_strings(signatures.iter());
            }
            Self::AddToStoreNar(info) => {
                write_path_info(writer, dir, info);
                writer.put_flag(false);
                writer.put_flag(false);
            }
            Self::QueryMissing(targets) => {
                writer.put_strings(targets.iter().map(|target| target.render_legacy(dir)));
            }
            Self::RegisterDrvOutput(realisation) => write_realisation(writer, dir, realisation),
            Self::QueryRealisation(id) => write_output_id(writer, dir, id),
            Self::AddMultipleToStore => {
                writer.put_flag(false);
                writer.put_flag(false);
            }
            Self::AddBuildLog(path) => writer.put_str(&path.to_basename()),
            Self::AddPermRoot { path, root } => {
                writer.put_str(&dir.render_path(path));
                writer.put_str(root);
            }
        }
    }

    /// Returns which operation this is.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Self::IsValidPath(_) => Operation::IsValidPath,
            Self::QueryReferrers(_) => Operation::QueryReferrers,
            Self::AddToStore(_) => Operation::AddToStore,
            Self::AddTextToStore { .. } => Operation::AddTextToStore,
            Self::BuildPaths { .. } => Operation::BuildPaths,
            Self::EnsurePath(_) => Operation::EnsurePath,
            Self::AddTempRoot(_) => Operation::AddTempRoot,
            Self::AddIndirectRoot(_) => Operation::AddIndirectRoot,
            Self::SyncWithGC => Operation::SyncWithGC,
            Self::FindRoots => Operation::FindRoots,
            Self::QueryDeriver(_) => Operation::QueryDeriver,
            Self::SetOptions(_) => Operation::SetOptions,
            Self::CollectGarbage(_) => Operation::CollectGarbage,
            Self::QuerySubstitutablePathInfo(_) => Operation::QuerySubstitutablePathInfo,
            Self::QueryDerivationOutputs(_) => Operation::QueryDerivationOutputs,
            Self::QueryAllValidPaths => Operation::QueryAllValidPaths,
            Self::QueryPathInfo(_) => Operation::QueryPathInfo,
            Self::QueryDerivationOutputNames(_) => Operation::QueryDerivationOutputNames,
            Self::QueryPathFromHashPart(_) => Operation::QueryPathFromHashPart,
            Self::QuerySubstitutablePathInfos(_) => Operation::QuerySubstitutablePathInfos,
            Self::QueryValidPaths { .. } => Operation::QueryValidPaths,
            Self::QuerySubstitutablePaths(_) => Operation::QuerySubstitutablePaths,
            Self::QueryValidDerivers(_) => Operation::QueryValidDerivers,
            Self::OptimiseStore => Operation::OptimiseStore,
            Self::VerifyStore { .. } => Operation::VerifyStore,
            Self::BuildDerivation { .. } => Operation::BuildDerivation,
            Self::AddSignatures { .. } => Operation::AddSignatures,
            Self::NarFromPath(_) => Operation::NarFromPath,
            Self::AddToStoreNar(_) => Operation::AddToStoreNar,
            Self::QueryMissing(_) => Operation::QueryMissing,
            Self::QueryDerivationOutputMap(_) => Operation::QueryDerivationOutputMap,
            Self::RegisterDrvOutput(_) => Operation::RegisterDrvOutput,
            Self::QueryRealisation(_) => Operation::QueryRealisation,
            Self::AddMultipleToStore => Operation::AddMultipleToStore,
            Self::AddBuildLog(_) => Operation::AddBuildLog,
            Self::BuildPathsWithResults { .. } => Operation::BuildPathsWithResults,
            Self::AddPermRoot { .. } => Operation::AddPermRoot,
        }
    }
}

async fn path<S: ByteSource>(reader: &mut Reader<S>, dir: &StoreDir) -> Result<StorePath, RequestError> {
    parse_path(dir, &reader.string("a store path", StringLimit::Short).await?)
}

async fn paths<S: ByteSource>(reader: &mut Reader<S>, dir: &StoreDir) -> Result<Vec<StorePath>, RequestError> {
    parse_paths(dir, &reader.strings("a store path").await?)
}

fn parse_paths(dir: &StoreDir, texts: &[String]) -> Result<Vec<StorePath>, RequestError> {
    texts.iter().map(|text| parse_path(dir, text)).collect()
}

async fn targets<S: ByteSource>(reader: &mut Reader<S>, dir: &StoreDir) -> Result<Vec<DerivedPath>, RequestError> {
    parse_targets(dir, &reader.strings("a store path").await?)
}

fn parse_targets(dir: &StoreDir, texts: &[String]) -> Result<Vec<DerivedPath>, RequestError> {
    let parse = |text: &String| DerivedPath::parse_legacy_in(dir, text).map_err(RequestError::invalid);
    texts.iter().map(parse).collect()
}

async fn build<S: ByteSource>(
    reader: &mut Reader<S>,
    dir: &StoreDir,
) -> Result<(Vec<DerivedPath>, BuildMode), RequestError> {
    let texts = reader.strings("a store path").await?;
    let mode = reader.u64().await?;
    Ok((parse_targets(dir, &texts)?, parse_mode(mode)?))
}

fn parse_mode(word: u64) -> Result<BuildMode, RequestError> {
    match word {
        0 => Ok(BuildMode::Normal),
        1 => Ok(BuildMode::Repair),
        2 => Ok(BuildMode::Check),
        other => Err(RequestError::Invalid(format!("expected a build mode 0 to 2, found {other}"))),
    }
}

async fn addressed_paths<S: ByteSource>(
    reader: &mut Reader<S>,
    dir: &StoreDir,
) -> Result<Vec<(StorePath, Option<ContentAddress>)>, RequestError> {
    let mut texts = Vec::new();
    for _ in 0..reader.count("paths").await? {
        let path = reader.string("a store path", StringLimit::Short).await?;
        texts.push((path, reader.string("a content address", StringLimit::Short).await?));
    }
    let parse = |(path, address): &(String, String)| {
        let address = ContentAddress::parse_optional(address).map_err(RequestError::invalid)?;
        Ok((parse_path(dir, path)?, address))
    };
    texts.iter().map(parse).collect()
}
