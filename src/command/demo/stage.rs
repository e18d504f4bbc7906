//! The stage: a temporary directory with a store and a gate before it.

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::Policy;
use store_backend::daemon::{Server, Settings};
use store_backend::gate::Gate;
use store_backend::object::Directory;
use store_backend::store::BinaryCache;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use verifier::{SecretKey, StoreDir};

use crate::command::CommandError;
use crate::command::load::{read_secret_key, read_text};

/// The longest directory name in which a socket still has room, in bytes: its whole name may have 107.
const MAX_PLACE: usize = 64;

/// Who builds, with the names of their keys. The first has two.
pub(super) const KEYS: [(&str, &str); 4] =
    [("builder-eu", "eu-1"), ("builder-eu", "eu-2"), ("builder-us", "us-1"), ("builder-ap", "ap-1")];

/// Where it all takes place. Dropped, it ends the gate and is removed.
pub(super) struct Stage {
    folder: TempDir,
    root: PathBuf,
    own_program: PathBuf,
    serving: Cell<Option<JoinHandle<()>>>,
    kept: Cell<bool>,
}

impl Stage {
    /// Makes the directory.
    ///
    /// # Errors
    /// When there is no place for it.
    pub(super) fn set() -> Result<Self, CommandError> {
        let usual = std::env::temp_dir();
        // Nix takes the directory's name as part of a URL, and the system as part of a socket's.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let fits = usual.to_str().is_some_and(|text| text.len() <= MAX_PLACE && text.chars().all(plain));
        let parent = if fits { usual } else { PathBuf::from("/tmp") };
        let failed = |place: &Path| {
            let place = place.display().to_string();
            move |source| CommandError::Io { action: "make", place, source }
        };
        let private = std::fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("nix-quorum-demo.").permissions(private).tempdir_in(&parent);
        let folder = folder.map_err(failed(&parent))?;
        let root = folder.path().canonicalize().map_err(failed(folder.path()))?;
        for part in ["home", "etc"] {
            std::fs::create_dir(root.join(part)).map_err(failed(&root))?;
        }
        std::fs::write(root.join("etc/config.toml"), "").map_err(failed(&root))?;
        let own_program = std::env::current_exe().map_err(failed(Path::new("a link to this program")))?;
        let link = root.join("nix-quorum");
        std::os::unix::fs::symlink(&own_program, &link).map_err(failed(&link))?;
        Ok(Self { folder, root, own_program: link, serving: Cell::default(), kept: Cell::default() })
    }

    /// Returns the directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory's name.
    pub(super) fn place(&self) -> String {
        self.root.display().to_string()
    }

    /// Returns a place in the directory.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns this very program, under a name that has its place in a URL.
    pub(super) fn own_program(&self) -> &Path {
        &self.own_program
    }

    /// Returns a text with the directory's name as `$PWD`, which is shorter, and the same each time.
    pub(super) fn without_place(&self, text: &str) -> String {
        text.replace(&self.place(), "$PWD")
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When that fails.
    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<(), CommandError> {
        let path = self.at(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = made.and_then(|()| std::fs::write(&path, contents));
        written.map_err(|source| CommandError::Io { action: "write", place: path.display().to_string(), source })
    }

    /// Reads the secret key of a name.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn key(&self, name: &str) -> Result<SecretKey, CommandError> {
        read_secret_key(&self.at(&format!("{name}.sec")))
    }

    /// Starts a gate before an empty store, as `nix-quorum serve` would, in this process.
    ///
    /// # Errors
    /// When the policy, the store or the socket cannot be used.
    pub(super) async fn serve(&self) -> Result<(), CommandError> {
        let policy = Policy::parse(&read_text(&self.at("policy.toml"))?, "policy.toml")?;
        let cache = BinaryCache::open(Arc::new(Directory::open(self.at("store"))?), &StoreDir::default()).await?;
        let gate = Arc::new(Gate::new(cache, policy, None)?);
        let server = Server::bind(&self.at("store.sock"), Settings::default()).await?;
        self.serving.set(Some(tokio::spawn(async move {
            if let Err(error) = server.run(gate, std::future::pending()).await {
                tracing::error!(%error, "the gate failed");
            }
        })));
        Ok(())
    }

    /// Leaves the directory where it is.
    pub(super) fn keep(&self) {
        self.kept.set(true);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        self.folder.disable_cleanup(self.kept.get());
    }
}
