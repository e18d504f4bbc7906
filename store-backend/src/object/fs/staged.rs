//! Files on their way into a directory: written under a name that nobody looks for, then named.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::io_error;
use crate::object::{ObjectError, Upload};

/// From how many bytes on an upload starts to become durable as soon as it is finished.
const SYNC_EARLY_FROM: u64 = 4 << 20;

/// A file that has no name in the store yet. Dropped, it is removed.
pub(super) struct StagedFile {
    path: PathBuf,
    /// While it is written. Finished ones may wait in hundreds, and descriptors are few.
    file: Option<File>,
    size: u64,
    moved: Moved,
}

/// Whether a staged file has left the staging folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Away,
    No,
}

impl StagedFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, ObjectError> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o644).open(&path).map_err(io_error("create", &path))?;
        Ok(Self { path, file: Some(file), size: 0, moved: Moved::No })
    }

    /// Syncs the content. That it may be another descriptor than the one it was written through changes nothing: what is
    /// synced is the file, and an error that nobody has heard of is told to whoever opens it next.
    pub(super) fn sync(&self) -> Result<(), ObjectError> {
        let synced = match &self.file {
            Some(file) => file.sync_data(),
            None => File::open(&self.path).and_then(|file| file.sync_data()),
        };
        synced.map_err(io_error("sync", &self.path))
    }

    /// Says that nothing more will be written.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    pub(super) fn metadata(&self) -> Result<fs::Metadata, ObjectError> {
        fs::symlink_metadata(&self.path).map_err(io_error("inspect", &self.path))
    }

    /// Gives it a name that nobody has, in one step; where the file system has no such rename, by a second link.
    pub(super) fn name_if_absent(&mut self, target: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&self.path, target),
            Err(error) => Err(error.into()),
            Ok(()) => {
                self.moved = Moved::Away;
                Ok(())
            }
        }
    }

    /// Gives it a name, in place of what has it.
    pub(super) fn name(&mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.moved = Moved::Away;
        Ok(())
    }
}

impl Upload for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        let finished = || io::Error::other("the upload is finished");
        self.size += bytes.len() as u64;
        let written = self.file.as_mut().ok_or_else(finished).and_then(|file| file.write_all(bytes));
        written.map_err(io_error("write", &self.path))
    }

    fn finish(&mut self) -> Result<(), ObjectError> {
        if self.size >= SYNC_EARLY_FROM {
            self.sync()?;
        }
        self.close();
        Ok(())
    }

    fn held(&self) -> usize {
        0
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.moved == Moved::No {
            let _gone_already = fs::remove_file(&self.path);
        }
    }
}
