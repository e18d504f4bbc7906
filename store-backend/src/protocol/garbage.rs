//! What garbage collection is asked to do.

use tokio::io::AsyncWrite;
use verifier::{StoreDir, StorePath};

use super::RequestError;
use super::path_info::parse_path;
use crate::wire::{ByteSource, Reader, Writer};

/// What to do with garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GarbageAction {
    /// List what is reachable from the roots (0).
    ReturnLive,
    /// List what is not (1).
    ReturnDead,
    /// Delete what is not (2).
    DeleteDead,
    /// Delete the named paths, if nothing needs them (3).
    DeleteSpecific,
}

/// The arguments of `CollectGarbage`: action, paths, whether to ignore liveness, most bytes to free (2^64-1 for no
/// limit), and three words that mean nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GarbageRequest {
    /// What to do.
    pub action: GarbageAction,
    /// To which paths; empty for the whole store.
    pub paths: Vec<StorePath>,
    /// Whether to delete what is in use. Always refused, as Nix does.
    pub ignore_liveness: bool,
    /// How many bytes to free at the most.
    pub max_freed: u64,
}

impl GarbageRequest {
    pub(super) async fn read<S: ByteSource>(
        reader: &mut Reader<S>,
        store_dir: &StoreDir,
    ) -> Result<Self, RequestError> {
        let action = reader.u64().await?;
        let paths = reader.strings("a store path").await?;
        let ignore_liveness = reader.flag().await?;
        let max_freed = reader.u64().await?;
        for _ in 0..3 {
            reader.u64().await?;
        }
        let action = match action {
            0 => GarbageAction::ReturnLive,
            1 => GarbageAction::ReturnDead,
            2 => GarbageAction::DeleteDead,
            3 => GarbageAction::DeleteSpecific,
            other => return Err(RequestError::Invalid(format!("expected a garbage action 0 to 3, found {other}"))),
        };
        let paths = paths.iter().map(|path| parse_path(store_dir, path)).collect::<Result<_, _>>()?;
        Ok(Self { action, paths, ignore_liveness, max_freed })
    }

    pub(super) fn write<W: AsyncWrite + Unpin + Send>(&self, writer: &mut Writer<W>, store_dir: &StoreDir) {
        writer.put_u64(self.action as u64);
        writer.put_strings(self.paths.iter().map(|path| store_dir.render_path(path)));
        writer.put_flag(self.ignore_liveness);
        writer.put_u64(self.max_freed);
        for _ in 0..3 {
            writer.put_u64(0);
        }
    }
}
