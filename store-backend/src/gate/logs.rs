//! Build logs, kept as they come. Nothing vouches for them, so only those whom the server trusts may add them.

use tokio::sync::mpsc;
use verifier::StorePath;

use super::{Gate, GateError};
use crate::object::{Condition, Draft, Expected, ObjectError, Put, Upload};
use crate::store::log_key;
use crate::wire::{ByteSource, Reader};

/// Longest log that is kept, in bytes. Nix limits none; a build that writes more than this is stuck in a loop.
const MAX_LOG: u64 = 256 << 20;

impl Gate {
    /// Keeps the log of a derivation's build, in place of an earlier one.
    ///
    /// # Errors
    /// When it is too long, breaks off, or the store fails; then the earlier one stays.
    pub async fn add_build_log<S: ByteSource>(
        &self,
        derivation: &StorePath,
        log: &mut Reader<S>,
    ) -> Result<(), GateError> {
        let rendered = self.cache.store_dir().render_path(derivation);
        let unacceptable = |why: String| GateError::Unacceptable { path: format!("the log of {rendered}"), why };
        let key = log_key(derivation);
        let expected = Expected { key: Some(key.clone()), at_most: Some(MAX_LOG) };
        let upload = self.cache.objects().upload(expected).await?;
        let (chunks, receiver) = mpsc::channel::<bytes::Bytes>(4);
        let writer = tokio::task::spawn_blocking(move || write(upload, receiver));
        let mut size = 0;
        loop {
            let chunk = log.take(u64::MAX).await.map_err(|error| unacceptable(error.to_string()))?;
            if chunk.is_empty() {
                break;
            }
            size += chunk.len() as u64;
            if size > MAX_LOG {
                return Err(unacceptable(format!("it has more than {MAX_LOG} bytes")));
            }
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        drop(chunks);
        let upload = writer.await.map_err(ObjectError::from)??;
        let objects = self.cache.objects();
        let condition = match objects.head(&key).await? {
            Some(earlier) => Condition::Matches(earlier.version.etag),
            None => Condition::Absent,
        };
        let put = objects.publish(vec![Draft::of_upload(key, condition, upload)]).await?;
        match put.first() {
            Some(Put::Stored(_)) => Ok(()),
            _ => Err(GateError::Contended(format!("the log of {rendered}"))),
        }
    }
}

fn write(
    mut upload: Box<dyn Upload>,
    mut chunks: mpsc::Receiver<bytes::Bytes>,
) -> Result<Box<dyn Upload>, ObjectError> {
    while let Some(chunk) = chunks.blocking_recv() {
        upload.write(&chunk)?;
    }
    upload.finish()?;
    Ok(upload)
}
