//! What several commands need: the store, the policy, the gate.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use policy::{Authority, Policy};
use store_backend::gate::{Gate, Index};
use store_backend::object::Writers;
use store_backend::store::{BinaryCache, Place};
use verifier::{Administrators, SecretKey, StoreDir};

use super::CommandError;

/// Longest file that is read whole, in bytes: policies, keys, signatures.
const MAX_FILE: u64 = 4 << 20;

/// Which policy, and who must have signed it.
#[derive(Debug, Clone, Args)]
pub struct PolicyArguments {
    /// The policy: who may sign, and how many must.
    #[arg(long, env = "NIX_QUORUM_POLICY", value_name = "FILE")]
    pub policy: PathBuf,
    /// A minisign public key (RW…) of an administrator; may be given several times. The policy must then carry their
    /// signatures, in files FILE.NAME.minisig beside it.
    #[arg(long = "policy-signer", env = "NIX_QUORUM_POLICY_SIGNER", value_name = "KEY", value_delimiter = ',')]
    pub policy_signer: Vec<String>,
    /// How many administrators must have signed the policy; all of them unless given.
    #[arg(long, env = "NIX_QUORUM_POLICY_THRESHOLD", value_name = "K")]
    pub policy_threshold: Option<usize>,
}

impl PolicyArguments {
    /// Reads the policy, and its administrators' signatures where there are administrators.
    ///
    /// # Errors
    /// When it cannot be read, has mistakes, or lacks signatures.
    pub fn load(&self) -> Result<Policy, CommandError> {
        let text = read_text(&self.policy)?;
        self.check_signatures(&text)?;
        Ok(Policy::parse(&text, &self.policy.display().to_string())?)
    }

    fn check_signatures(&self, text: &str) -> Result<(), CommandError> {
        if self.policy_signer.is_empty() {
            return match self.policy_threshold {
                Some(_) => Err(CommandError::Usage("--policy-threshold goes with --policy-signer".into())),
                None => Ok(()),
            };
        }
        let keys = self.policy_signer.iter().map(|key| key.parse()).collect::<Result<Vec<_>, _>>()?;
        let threshold = self.policy_threshold.unwrap_or(keys.len());
        let place = self.policy.display().to_string();
        let failed = |source| CommandError::Authority { place: place.clone(), source };
        let authority = Authority::new(Administrators::new(keys)?, threshold).map_err(failed)?;
        authority.check(text.as_bytes(), &self.signatures()?).map_err(failed)
    }

    /// Reads `FILE.NAME.minisig` for every NAME there is.
    fn signatures(&self) -> Result<Vec<(String, String)>, CommandError> {
        let folder = self.policy.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let failed = |source| CommandError::Io { action: "read", place: folder.display().to_string(), source };
        let prefix = format!("{}.", self.policy.file_name().unwrap_or_default().to_string_lossy());
        let mut signatures = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(".minisig") {
                signatures.push((name, read_text(&entry.path())?));
            }
        }
        signatures.sort();
        Ok(signatures)
    }
}

/// Where paths are kept, and by how many gates.
#[derive(Debug, Clone, Args)]
pub struct StoreArguments {
    /// Where paths are kept: file:///DIRECTORY or s3://BUCKET, a binary cache that stock Nix can read as well.
    #[arg(long, env = "NIX_QUORUM_STORE", value_name = "URI")]
    pub store: String,
    /// Say that no other gate writes this bucket: needed where the provider does not keep writers apart. A second gate that is
    /// started all the same finds out, and stops.
    #[arg(long, env = "NIX_QUORUM_SINGLE_WRITER")]
    pub single_writer: bool,
    /// Where the index of the store is kept between starts: a cache that can be deleted at any time. Unless given, that of a
    /// bucket is in $CACHE_DIRECTORY, else in nix-quorum under $XDG_CACHE_HOME, and that of a directory in memory.
    #[arg(long, env = "NIX_QUORUM_INDEX", value_name = "FILE")]
    pub index: Option<PathBuf>,
}

impl StoreArguments {
    /// Opens the store.
    ///
    /// # Errors
    /// When the URI is of no kind that can be served, or the store cannot be opened.
    pub async fn open(&self, store_dir: &StoreDir) -> Result<BinaryCache, CommandError> {
        let place = Place::parse(&self.store)?;
        let objects = place.open(self.writers()).await?;
        let cache = BinaryCache::open(objects, store_dir).await?;
        Ok(match place.compression_level {
            Some(level) => cache.with_compression_level(level),
            None => cache,
        })
    }

    /// Returns how many gates write it.
    pub fn writers(&self) -> Writers {
        if self.single_writer { Writers::One } else { Writers::Any }
    }

    /// Opens the index of the store.
    ///
    /// # Errors
    /// When it is to be in a file that cannot be made.
    pub async fn index(&self, place: &Place) -> Result<Index, CommandError> {
        let store = place.identity();
        if let Some(file) = &self.index {
            return Ok(Index::open(file.clone(), store).await?);
        }
        let Some(folder) = place.is_remote().then(cache_folder).flatten() else {
            return Ok(Index::default());
        };
        let name: String = store.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        Ok(Index::open(folder.join(name).with_added_extension("index"), store).await.unwrap_or_else(|error| {
            tracing::info!(%error, "keeping the index in memory");
            Index::default()
        }))
    }
}

fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let home = || Some(folder("HOME")?.join(".cache"));
    folder("CACHE_DIRECTORY").or_else(|| Some(folder("XDG_CACHE_HOME").or_else(home)?.join("nix-quorum")))
}

/// Opens a binary cache that is there, to read it. Nothing is made or changed.
///
/// # Errors
/// When the URI is of no kind that can be read, or there is no such store.
pub async fn open_existing(uri: &str, store_dir: Option<&StoreDir>) -> Result<BinaryCache, CommandError> {
    let objects = Place::parse(uri)?.open_existing().await?;
    let failed = |source| CommandError::OpenStore { uri: uri.to_owned(), source };
    BinaryCache::open_existing(objects, store_dir).await.map_err(failed)
}

/// Sets up a gate.
///
/// # Errors
/// When the policy, the key or the store cannot be used.
pub async fn open_gate(
    store: &StoreArguments,
    policy: &PolicyArguments,
    countersign: Option<&Path>,
) -> Result<Gate, CommandError> {
    let policy = policy.load()?;
    let key = countersign.map(read_secret_key).transpose()?;
    let cache = store.open(policy.store_dir()).await?;
    let index = store.index(&Place::parse(&store.store)?).await?;
    let gate = Gate::new(cache, policy, key)?.with_index(index);
    gate.remember_policy().await?;
    Ok(gate)
}

/// Reads a secret key in Nix's format.
///
/// # Errors
/// When it cannot be read or is none.
pub fn read_secret_key(path: &Path) -> Result<SecretKey, CommandError> {
    let text = read_text(path)?;
    text.parse().map_err(|source| CommandError::Key { place: path.display().to_string(), source })
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read, is too long, or not UTF-8.
pub fn read_text(path: &Path) -> Result<String, CommandError> {
    let failed = |source| CommandError::Io { action: "read", place: path.display().to_string(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(CommandError::Usage(format!("{} is longer than {MAX_FILE} bytes", path.display())));
    }
    Ok(text)
}
