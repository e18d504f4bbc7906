//! Objects as files of a directory on a local file system (not NFS: it has neither the locks nor the links this needs).
//!
//! | promise | how |
//! |---|---|
//! | whole or not at all | a file is written under `quorum/tmp`, synced, then linked or renamed to its name |
//! | only if absent | a rename that replaces nothing (or `link`), which fails where there is a file |
//! | only if unchanged | a lock for the key, compare, `rename` |
//! | durable | content is synced before it gets its name, and the names before `publish` returns |

mod staged;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, OFlags, flock, syncfs};
use tokio::task::spawn_blocking;
use verifier::Timestamp;

use super::{
    Condition, Content, Draft, Durability, Entry, Etag, Expected, Key, Leftover, Metadata, Object, ObjectError,
    ObjectStore, Pages, Put, Upload, Version,
};
use crate::clock::now;
use crate::nonce::nonce;
use staged::StagedFile;

/// Where files are written before they have their name.
const STAGING: &str = "quorum/tmp";

/// Where the locks are.
const LOCKS: &str = "quorum/lock";

/// How many locks there are. Keys share them, so they stay few; 256 writers rarely meet.
const LOCK_COUNT: u8 = 255;

/// From how many files on one sync of the whole file system is cheaper than one for each.
const SYNC_ALL_FROM: usize = 8;

/// Entries in one page of a listing.
const PAGE: usize = 512;

/// How old a nameless file must be, in seconds, before it is taken for a crash's leftover: no upload lasts that long.
const LEFTOVER_AGE: i64 = 2 * 24 * 60 * 60;

/// A directory as an object store. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    root: Arc<PathBuf>,
}

impl Directory {
    /// Opens a directory, making it and what it needs where they are missing, and removes what crashes left behind.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ObjectError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(io_error("create", &root))?;
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        for folder in ["quorum", STAGING, LOCKS] {
            let path = root.join(folder);
            private.create(&path).map_err(io_error("create", &path))?;
        }
        let directory = Self { root: Arc::new(root) };
        let before = Timestamp::from_unix(now().as_unix() - LEFTOVER_AGE);
        for leftover in directory.nameless(before)? {
            directory.remove_nameless(&leftover)?;
        }
        Ok(directory)
    }

    /// Opens a directory that is there already, to read it: nothing is written, and a reader's rights are enough.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn existing(root: impl Into<PathBuf>) -> Result<Self, ObjectError> {
        let root = root.into();
        fs::read_dir(&root).map_err(io_error("open", &root))?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Returns the directory's path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Returns the path of a folder (`""`, or a key with a `/` at its end); none if the text is no folder's, which could lead
    /// out of the directory.
    fn folder(&self, folder: &str) -> Option<PathBuf> {
        if folder.is_empty() {
            return Some(self.root.to_path_buf());
        }
        Key::new(folder.strip_suffix('/')?).map(|key| self.path(&key))
    }

    /// Lists the nameless files that were last written before some time.
    fn nameless(&self, before: Timestamp) -> Result<Vec<Leftover>, ObjectError> {
        let folder = self.root.join(STAGING);
        let mut found = Vec::new();
        let listed = each_file(&folder, |Entry { name, metadata }| {
            if metadata.version.modified < before {
                let (size, begun) = (Some(metadata.size), metadata.version.modified);
                found.push(Leftover { key: format!("{STAGING}/{name}"), id: name, size, begun });
            }
            true
        });
        listed.map_err(io_error("read", &folder))?;
        Ok(found)
    }

    fn remove_nameless(&self, leftover: &Leftover) -> Result<(), ObjectError> {
        let path = self.root.join(STAGING).join(&leftover.id);
        absent(fs::remove_file(&path)).map_err(io_error("delete", &path))?;
        Ok(())
    }

    /// Runs file operations on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let this = self.clone();
        spawn_blocking(move || work(&this)).await?
    }

    fn staged(&self) -> Result<StagedFile, ObjectError> {
        StagedFile::create(self.root.join(STAGING).join(nonce()))
    }

    fn publish_blocking(&self, drafts: Vec<Draft>) -> Result<Vec<Put>, ObjectError> {
        let durable = drafts.iter().filter(|draft| draft.durability == Durability::Durable).count();
        let many = durable >= SYNC_ALL_FROM;
        let mut staged = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let mut file = match draft.content {
                Content::Bytes(bytes) => {
                    let mut file = self.staged()?;
                    file.write(&bytes)?;
                    file
                }
                Content::Upload(upload) => *upload.into_any().downcast::<StagedFile>().map_err(|_| {
                    io_error("publish", self.path(&draft.key))(io::Error::other("the upload is another store's"))
                })?,
            };
            if draft.durability == Durability::Durable && !many {
                file.sync()?;
            }
            file.close();
            staged.push((draft.key, draft.condition, draft.durability, file));
        }
        if many {
            self.sync_all()?;
        }
        let mut puts = Vec::with_capacity(staged.len());
        // In the order in which they get their first new name, so that they also become durable in the order of the drafts.
        let mut folders = Vec::new();
        for (key, condition, durability, mut file) in staged {
            let target = self.path(&key);
            let mut changed = vec![target.parent().unwrap_or(&self.root).to_owned()];
            let named = match self.name(&key, &condition, &mut file, &target) {
                Err(ObjectError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    changed.extend(self.make_folder(&changed[0])?);
                    self.name(&key, &condition, &mut file, &target)
                }
                named => named,
            };
            puts.push(named?);
            if durability == Durability::Durable && !many {
                folders.extend(changed.into_iter().filter(|folder| !folders.contains(folder)).collect::<Vec<_>>());
            }
        }
        if many {
            self.sync_all()?;
        } else {
            for folder in folders {
                let opened = File::open(&folder).map_err(io_error("open", &folder))?;
                opened.sync_all().map_err(io_error("sync", &folder))?;
            }
        }
        Ok(puts)
    }

    /// Gives a written file its name, if the condition holds.
    fn name(&self, key: &Key, condition: &Condition, file: &mut StagedFile, target: &Path) -> Result<Put, ObjectError> {
        let etag = etag(&file.metadata()?);
        match condition {
            Condition::Absent => match file.name_if_absent(target) {
                Ok(()) => Ok(Put::Stored(etag)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Refused),
                Err(error) => Err(io_error("write", target)(error)),
            },
            Condition::Matches(expected) => {
                let _lock = self.lock(key)?;
                if self.current(target)?.as_ref() != Some(expected) {
                    return Ok(Put::Refused);
                }
                file.name(target).map_err(io_error("write", target))?;
                Ok(Put::Stored(etag))
            }
        }
    }

    /// Makes a folder; returns those above it, which may be new too.
    fn make_folder(&self, folder: &Path) -> Result<Vec<PathBuf>, ObjectError> {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let above = folder.ancestors().skip(1).take_while(|above| above.starts_with(&*self.root));
        Ok(above.map(Path::to_owned).collect())
    }

    /// Takes the lock that a key has; it is given back when the file is dropped. The lock of a process that dies is free.
    fn lock(&self, key: &Key) -> Result<File, ObjectError> {
        let number = key.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let path = self.root.join(LOCKS).join((number % u32::from(LOCK_COUNT)).to_string());
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| io_error("lock", &path)(error.into()))?;
        Ok(file)
    }

    fn current(&self, path: &Path) -> Result<Option<Etag>, ObjectError> {
        Ok(absent(fs::symlink_metadata(path)).map_err(io_error("inspect", path))?.map(|found| etag(&found)))
    }

    fn sync_all(&self) -> Result<(), ObjectError> {
        let root = File::open(&*self.root).map_err(io_error("open", &*self.root))?;
        syncfs(&root).map_err(|error| io_error("sync", &*self.root)(error.into()))
    }

    fn open_file(&self, key: &Key) -> Result<Option<(File, Metadata)>, ObjectError> {
        let path = self.path(key);
        // Without waiting: to open a pipe would take until somebody writes to it.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let opened = OpenOptions::new().read(true).custom_flags(nonblock).open(&path);
        let Some(file) = absent(opened).map_err(io_error("open", &path))? else {
            return Ok(None);
        };
        let found = file.metadata().map_err(io_error("inspect", &path))?;
        if !found.is_file() {
            return Err(io_error("read", &path)(io::Error::other("it is not a file")));
        }
        Ok(Some((file, metadata(&found))))
    }
}

#[async_trait]
impl ObjectStore for Directory {
    // A look at a small local file takes microseconds; handing it to another thread and back takes many times that. So small
    // reads are done in place, and only what writes, syncs, locks or lists is done elsewhere.

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Object>, ObjectError> {
        let Some((mut file, metadata)) = self.open_file(key)? else {
            return Ok(None);
        };
        let size = metadata.size;
        if size > limit {
            return Err(ObjectError::TooLong { key: key.clone(), size, limit });
        }
        // A file is never written in place, so it has just as many bytes as it had.
        let mut bytes = vec![0; size as usize];
        file.read_exact(&mut bytes).map_err(io_error("read", self.path(key)))?;
        Ok(Some(Object { bytes: bytes.into(), version: metadata.version }))
    }

    async fn head(&self, key: &Key) -> Result<Option<Metadata>, ObjectError> {
        let path = self.path(key);
        let found = absent(fs::symlink_metadata(&path)).map_err(io_error("inspect", &path))?;
        Ok(found.map(|found| metadata(&found)))
    }

    async fn open(&self, key: &Key, from: u64) -> Result<Option<(Metadata, Box<dyn Read + Send>)>, ObjectError> {
        let Some((mut file, metadata)) = self.open_file(key)? else {
            return Ok(None);
        };
        if from > 0 {
            file.seek(SeekFrom::Start(from)).map_err(io_error("read", self.path(key)))?;
        }
        Ok(Some((metadata, Box::new(file))))
    }

    async fn upload(&self, _: Expected) -> Result<Box<dyn Upload>, ObjectError> {
        Ok(Box::new(self.staged()?))
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Put>, ObjectError> {
        self.blocking(move |this| this.publish_blocking(drafts)).await
    }

    async fn delete(&self, key: &Key, version: &Etag) -> Result<bool, ObjectError> {
        let (key, version) = (key.clone(), version.clone());
        self.blocking(move |this| {
            let path = this.path(&key);
            let _lock = this.lock(&key)?;
            if this.current(&path)?.as_ref() != Some(&version) {
                return Ok(false);
            }
            fs::remove_file(&path).map_err(io_error("delete", &path))?;
            let folder = path.parent().unwrap_or(&this.root);
            let opened = File::open(folder).map_err(io_error("open", folder))?;
            opened.sync_all().map_err(io_error("sync", folder))?;
            Ok(true)
        })
        .await
    }

    async fn list(&self, folder: &str) -> Result<Pages, ObjectError> {
        let (pages, receiver) = tokio::sync::mpsc::channel(2);
        let Some(path) = self.folder(folder) else {
            return Ok(Pages(receiver));
        };
        spawn_blocking(move || {
            let mut page = Vec::with_capacity(PAGE);
            let listed = each_file(&path, |entry| {
                page.push(entry);
                page.len() < PAGE || pages.blocking_send(Ok(std::mem::take(&mut page))).is_ok()
            });
            let last = listed.map(|()| page).map_err(io_error("list", &path));
            let _nobody_waits = pages.blocking_send(last);
        });
        Ok(Pages(receiver))
    }

    async fn leftovers(&self, before: Timestamp) -> Result<Vec<Leftover>, ObjectError> {
        self.blocking(move |this| this.nameless(before)).await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), ObjectError> {
        self.remove_nameless(leftover)
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        let Some(path) = self.folder(folder) else {
            return Ok(Vec::new());
        };
        self.blocking(move |_| {
            let Some(entries) = absent(fs::read_dir(&path)).map_err(io_error("list", &path))? else {
                return Ok(Vec::new());
            };
            let mut folders = Vec::new();
            for entry in entries {
                let entry = entry.map_err(io_error("list", &path))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && let Ok(name) = entry.file_name().into_string()
                {
                    folders.push(name);
                }
            }
            Ok(folders)
        })
        .await
    }
}

/// Calls `visit` for each file of a folder until it returns false. Files that vanish meanwhile are passed over. A link counts as the
/// file that it leads to, as it does for whoever reads it.
fn each_file(folder: &Path, mut visit: impl FnMut(Entry) -> bool) -> io::Result<()> {
    let Some(entries) = absent(fs::read_dir(folder))? else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let Some(found) = absent(fs::metadata(entry.path()))?.filter(fs::Metadata::is_file) else {
            continue;
        };
        if let Ok(name) = entry.file_name().into_string()
            && !visit(Entry { name, metadata: metadata(&found) })
        {
            break;
        }
    }
    Ok(())
}

fn metadata(found: &fs::Metadata) -> Metadata {
    let version = Version { etag: etag(found), modified: Timestamp::from_unix(found.mtime()) };
    Metadata { size: found.len(), version }
}

/// A file is never written in place, so a new version is a new file: its number, time and length tell it apart.
fn etag(found: &fs::Metadata) -> Etag {
    Etag(format!("{:x}-{:x}-{:x}-{:x}", found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn io_error(action: &'static str, place: impl AsRef<Path>) -> impl FnOnce(io::Error) -> ObjectError {
    let place = place.as_ref().display().to_string();
    move |source| ObjectError::Io { action, place, source }
}
