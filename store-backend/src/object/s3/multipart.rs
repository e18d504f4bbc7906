//! Objects on their way up. What is small waits in memory until it is published. What is large goes up in parts, several at a
//! time, which nobody sees until they are put together; where it will be is not known before all of it has come, it waits in a
//! file without a name.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::{self, timeout::TimeoutConfig};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use verifier::Timestamp;

use super::course::Course;
use super::failure::{failed, is_absent, status};
use super::tries::Tries;
use super::{Bucket, Patience, etag, is_refusal, unlisted};
use crate::nonce::nonce;
use crate::object::{Condition, Etag, Expected, Key, Leftover, ObjectError, ObjectStore as _, Put, Upload};

/// Parts of one upload that are on their way at once.
const AT_ONCE: usize = 4;

/// Most parts of one upload: what S3 allows.
const MOST_PARTS: u64 = 10_000;

/// Bytes that a provider puts together in a second, at the least.
const PUT_TOGETHER: u64 = 20 << 20;

/// Under this name an upload in parts carries its writer's nonce, as `x-amz-meta-…`.
const WRITER: &str = "quorum-writer";

/// An object on its way up.
pub(super) struct Pending {
    bucket: Bucket,
    expected: Expected,
    runtime: Handle,
    state: State,
}

enum State {
    Held(Vec<u8>),
    Spooled(File),
    Parts(Parts),
    /// It failed, or was published.
    Over,
}

/// Parts on their way.
struct Parts {
    filling: Vec<u8>,
    size: usize,
    spare: Spare,
    /// None when all bytes have come.
    sender: Option<mpsc::Sender<Bytes>>,
    sent: JoinHandle<Result<Multipart, ObjectError>>,
}

impl Pending {
    pub(super) fn new(bucket: &Bucket, expected: Expected) -> Self {
        let state = State::Held(Vec::new());
        Self { bucket: bucket.clone(), expected, runtime: Handle::current(), state }
    }

    /// Publishes what has come up.
    pub(super) async fn publish(mut self: Box<Self>, key: &Key, condition: &Condition) -> Result<Put, ObjectError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Held(bytes) => self.bucket.put(key, condition, bytes.into()).await,
            State::Parts(parts) if self.expected.key.as_ref() == Some(key) => {
                parts.publish(&self.bucket, condition).await
            }
            State::Parts(_) => Err(self.error("publish", "it went up under another key")),
            State::Spooled(mut file) => {
                let size = file.metadata().map_err(|error| self.error("publish", error))?.len();
                let mut parts = Parts::start(&self.bucket, &self.runtime, key, Some(size));
                let (bucket, key, runtime) = (self.bucket.clone(), key.clone(), self.runtime.clone());
                let fed = spawn_blocking(move || -> Result<Parts, ObjectError> {
                    let failed =
                        |source| ObjectError::Io { action: "spool", place: bucket.place(key.as_str()), source };
                    file.seek(SeekFrom::Start(0)).map_err(failed)?;
                    let mut block = vec![0; 1 << 20];
                    loop {
                        let count = file.read(&mut block).map_err(failed)?;
                        if count == 0 {
                            break;
                        }
                        parts.write(&block[..count], &runtime)?;
                    }
                    parts.finish(&runtime)?;
                    Ok(parts)
                });
                fed.await??.publish(&self.bucket, condition).await
            }
            State::Over => Err(self.error("publish", "it failed before")),
        }
    }

    fn error(&self, action: &'static str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ObjectError {
        let name = self.expected.key.as_ref().map_or("an upload", Key::as_str);
        ObjectError::Io { action, place: self.bucket.place(name), source: std::io::Error::other(why) }
    }

    fn try_write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        if let State::Held(held) = &mut self.state {
            let location = &self.bucket.0.location;
            // Less than one part is not worth the requests that parts take.
            let most = location.threshold.max(location.chunk_size);
            if (held.len() + bytes.len()) as u64 <= most {
                held.extend_from_slice(bytes);
                return Ok(());
            }
            let held = std::mem::take(held);
            self.state = match &self.expected.key {
                Some(key) => {
                    let mut parts = Parts::start(&self.bucket, &self.runtime, key, self.expected.at_most);
                    parts.write(&held, &self.runtime)?;
                    State::Parts(parts)
                }
                None => {
                    let file = tempfile::tempfile().and_then(|mut file| file.write_all(&held).map(|()| file));
                    State::Spooled(file.map_err(|error| self.error("spool", error))?)
                }
            };
        }
        match &mut self.state {
            State::Parts(parts) => parts.write(bytes, &self.runtime),
            State::Spooled(file) => file.write_all(bytes).map_err(|error| self.error("spool", error)),
            State::Held(_) | State::Over => Err(self.error("write", "it failed before")),
        }
    }
}

impl Upload for Pending {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        let written = self.try_write(bytes);
        if written.is_err() {
            self.state = State::Over;
        }
        written
    }

    fn finish(&mut self) -> Result<(), ObjectError> {
        let finished = match &mut self.state {
            State::Parts(parts) => parts.finish(&self.runtime),
            State::Held(_) | State::Spooled(_) => Ok(()),
            State::Over => Err(self.error("write", "it failed before")),
        };
        if finished.is_err() {
            self.state = State::Over;
        }
        finished
    }

    fn held(&self) -> usize {
        match &self.state {
            State::Held(bytes) => bytes.capacity(),
            State::Parts(parts) => parts.spare.buffers().held,
            State::Spooled(_) | State::Over => 0,
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

impl Parts {
    fn start(bucket: &Bucket, runtime: &Handle, key: &Key, at_most: Option<u64>) -> Self {
        let size = bucket.0.location.chunk_size.max(at_most.unwrap_or(0).div_ceil(MOST_PARTS));
        let (sender, parts) = mpsc::channel(1);
        let sent = runtime.spawn(send(bucket.clone(), key.clone(), parts));
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { filling: Vec::new(), size, spare: Spare::default(), sender: Some(sender), sent }
    }

    /// Takes the next bytes. This may block.
    fn write(&mut self, mut bytes: &[u8], runtime: &Handle) -> Result<(), ObjectError> {
        while !bytes.is_empty() {
            if self.filling.len() == self.size {
                self.send(runtime)?;
            }
            if self.filling.capacity() == 0 {
                self.filling = self.spare.take(self.size);
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.size - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn send(&mut self, runtime: &Handle) -> Result<(), ObjectError> {
        let part = Part { bytes: std::mem::take(&mut self.filling), spare: self.spare.clone() };
        let part = Bytes::from_owner(part);
        match self.sender.as_ref().map(|sender| sender.blocking_send(part)) {
            Some(Ok(())) => Ok(()),
            // Whoever sent them has failed, and says why.
            Some(Err(_)) | None => Err(match runtime.block_on(&mut self.sent) {
                Ok(Ok(multipart)) => multipart.error("nobody takes its parts any more"),
                Ok(Err(error)) => error,
                Err(error) => error.into(),
            }),
        }
    }

    fn finish(&mut self, runtime: &Handle) -> Result<(), ObjectError> {
        if !self.filling.is_empty() {
            self.send(runtime)?;
        }
        self.sender = None;
        // It may be long until this is published.
        self.spare.close();
        Ok(())
    }

    async fn publish(mut self, bucket: &Bucket, condition: &Condition) -> Result<Put, ObjectError> {
        let unfinished = self.sender.is_some();
        let multipart = (&mut self.sent).await??;
        if unfinished {
            return Err(multipart.error("it was not finished"));
        }
        multipart.complete(bucket, condition).await
    }
}

/// Memory of parts that were sent, to be used again while more come: what is given back to the system piecemeal stays the program's
/// for long.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Buffers>>);

#[derive(Default)]
struct Buffers {
    free: Vec<Vec<u8>>,
    /// Bytes of all of them, those of parts on their way included.
    held: usize,
    /// Whether no more parts come: then nothing is kept to be used again.
    closed: bool,
}

impl Spare {
    fn buffers(&self) -> std::sync::MutexGuard<'_, Buffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, size: usize) -> Vec<u8> {
        let mut buffers = self.buffers();
        buffers.free.pop().unwrap_or_else(|| {
            let new = Vec::with_capacity(size);
            buffers.held += new.capacity();
            new
        })
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut buffers = self.buffers();
        if buffers.closed {
            buffers.held -= bytes.capacity();
            return;
        }
        bytes.clear();
        buffers.free.push(bytes);
    }

    fn close(&self) {
        let mut buffers = self.buffers();
        buffers.closed = true;
        let free = std::mem::take(&mut buffers.free);
        buffers.held -= free.iter().map(Vec::capacity).sum::<usize>();
    }
}

/// A part's bytes.
struct Part {
    bytes: Vec<u8>,
    spare: Spare,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.spare.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.sent.abort();
    }
}

/// Sends parts as they come, several at a time.
async fn send(bucket: Bucket, key: Key, parts: mpsc::Receiver<Bytes>) -> Result<Multipart, ObjectError> {
    // This may be dropped at any time, and then the upload is given up; which needs its name, so that is waited for.
    let starting = tokio::spawn(async move { Multipart::create(&bucket, &key).await });
    let mut multipart = starting.await??;
    let numbered = stream::unfold((parts, 1), |(mut parts, number)| async move {
        let part = parts.recv().await?;
        Some(((number, part), (parts, number + 1)))
    });
    let sending = numbered.map(|(number, part)| multipart.send(number, part));
    multipart.parts = sending.buffered(AT_ONCE).try_collect().await?;
    Ok(multipart)
}

/// An upload in parts at the provider. Dropped before it was put together, it is given up there.
struct Multipart {
    bucket: Bucket,
    key: Key,
    id: String,
    writer: String,
    parts: Vec<CompletedPart>,
    /// Where the request to give it up is made from; none when there is nothing to give up any more.
    runtime: Option<Handle>,
}

impl Multipart {
    async fn create(bucket: &Bucket, key: &Key) -> Result<Self, ObjectError> {
        let place = bucket.place(key.as_str());
        let tries = Tries::of("start to write", &place);
        let writer = nonce();
        let request = bucket.client().create_multipart_upload().bucket(bucket.name()).key(key.as_str());
        let request = request.metadata(WRITER, &writer).set_storage_class(bucket.storage_class());
        let answer = request.customize().interceptor(tries.clone()).send().await;
        let answer = answer.map_err(|error| failed("start to write", &place, &tries, &error))?;
        let id = answer.upload_id().unwrap_or_default().to_owned();
        let (bucket, key, runtime) = (bucket.clone(), key.clone(), Some(Handle::current()));
        Ok(Self { bucket, key, id, writer, parts: Vec::new(), runtime })
    }

    async fn send(&self, number: i32, part: Bytes) -> Result<CompletedPart, ObjectError> {
        let place = self.bucket.place(self.key.as_str());
        let tries = Tries::of("write a part of", &place);
        let request = self.bucket.client().upload_part().bucket(self.bucket.name()).key(self.key.as_str());
        let request = request.upload_id(&self.id).part_number(number).body(ByteStream::from(part));
        let answer = request.customize().interceptor(tries.clone()).send().await;
        let answer = answer.map_err(|error| failed("write a part of", &place, &tries, &error))?;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned)).build())
    }

    /// Puts the parts together: what they make is visible then.
    async fn complete(mut self, bucket: &Bucket, condition: &Condition) -> Result<Put, ObjectError> {
        let turn = bucket.turn(&self.key).await?;
        // Not every provider knows conditions at this place; one more request for something large is cheap.
        if turn.refuses(bucket, &self.key, condition).await? {
            return Ok(Put::Refused);
        }
        if *condition == Condition::Absent && bucket.head(&self.key).await?.is_some() {
            return Ok(Put::Refused);
        }
        let place = bucket.place(self.key.as_str());
        turn.check()?;
        let tries = Tries::of("complete", &place);
        // Putting much together takes a provider its time, and one that is at it does not like to be told again.
        let Patience { connect, attempt, total, .. } = bucket.0.patience;
        let size = self.parts.len() as u64 * bucket.0.location.chunk_size;
        let works = Duration::from_millis(size * 1000 / PUT_TOGETHER);
        let timeouts = TimeoutConfig::builder().connect_timeout(connect).read_timeout(attempt + works);
        let timeouts = timeouts.operation_attempt_timeout(attempt + works).operation_timeout(total + works).build();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts))).build();
        let request = bucket.client().complete_multipart_upload().bucket(bucket.name()).key(self.key.as_str());
        let request = request.upload_id(&self.id).multipart_upload(parts);
        let request = match condition {
            _ if !turn.conditional => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Matches(Etag(etag)) => request.if_match(etag),
        };
        let request = request.customize().interceptor(tries.clone());
        match request.config_override(config::Builder::new().timeout_config(timeouts)).send().await {
            Ok(answer) => {
                self.runtime = None;
                Ok(Put::Stored(etag(answer.e_tag(), &place)?))
            }
            Err(error) => {
                let is_gone = error.code() == Some("NoSuchUpload");
                let is_refused = !is_gone && is_refusal(condition, &error);
                if !is_gone && !is_refused && !tries.are_unclear() {
                    return Err(failed("complete", &place, &tries, &error));
                }
                // It may be that the answer to an earlier attempt was lost.
                match self.stored().await {
                    Ok(Some(etag)) => {
                        self.runtime = None;
                        Ok(Put::Stored(etag))
                    }
                    Ok(None) if is_refused => Ok(Put::Refused),
                    Err(error) if is_refused => Err(error),
                    Ok(None) | Err(_) => {
                        turn.settle().await;
                        Err(failed("complete", &place, &tries, &error))
                    }
                }
            }
        }
    }

    /// Returns the version of what is there, if it is what these parts made.
    async fn stored(&self) -> Result<Option<Etag>, ObjectError> {
        let place = self.bucket.place(self.key.as_str());
        let tries = Tries::of("inspect", &place);
        let request = self.bucket.client().head_object().bucket(self.bucket.name()).key(self.key.as_str());
        match request.customize().interceptor(tries.clone()).send().await {
            Ok(found) => {
                let ours = found.metadata().and_then(|all| all.get(WRITER)) == Some(&self.writer);
                if ours { etag(found.e_tag(), &place).map(Some) } else { Ok(None) }
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("inspect", &place, &tries, &error)),
        }
    }

    fn error(&self, why: &'static str) -> ObjectError {
        let place = self.bucket.place(self.key.as_str());
        ObjectError::Io { action: "write", place, source: std::io::Error::other(why) }
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        let (bucket, key, id) = (self.bucket.clone(), self.key.clone(), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            if let Err(error) = give_up(&bucket, key.as_str(), &id).await {
                // What stays after all is for the sweep.
                tracing::debug!(%error, "an upload in parts could not be given up");
            }
        });
    }
}

/// Gives an upload in parts up; what came of it is gone.
pub(super) async fn give_up(bucket: &Bucket, key: &str, id: &str) -> Result<(), ObjectError> {
    let place = bucket.place(key);
    let tries = Tries::of("give up", &place);
    let request = bucket.client().abort_multipart_upload().bucket(bucket.name()).key(key).upload_id(id);
    match request.customize().interceptor(tries.clone()).send().await {
        Ok(_) => Ok(()),
        Err(error) if status(&error) == Some(404) => Ok(()),
        Err(error) => Err(failed("give up", &place, &tries, &error)),
    }
}

/// Lists the uploads in parts that are neither put together nor given up.
pub(super) async fn unfinished(bucket: &Bucket) -> Result<Vec<Leftover>, ObjectError> {
    let place = bucket.place("");
    let (mut found, mut from, mut course) = (Vec::new(), (None, None), Course::default());
    loop {
        let tries = Tries::of("list the unfinished uploads of", &place);
        let request = bucket.client().list_multipart_uploads().bucket(bucket.name());
        let request = request.set_key_marker(from.0.clone()).set_upload_id_marker(from.1.clone());
        let answer = match request.customize().interceptor(tries.clone()).send().await {
            Ok(answer) => answer,
            // It has nothing of the kind, so nothing is left of it.
            Err(error) if status(&error) == Some(501) => return Ok(found),
            Err(error) => return Err(failed("list the unfinished uploads of", &place, &tries, &error)),
        };
        for upload in answer.uploads() {
            if let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) {
                let begun = Timestamp::from_unix(upload.initiated().map_or(0, DateTime::secs));
                found.push(Leftover { key: key.to_owned(), id: id.to_owned(), size: None, begun });
            }
        }
        from = (answer.next_key_marker().map(str::to_owned), answer.next_upload_id_marker().map(str::to_owned));
        let next = from.0.as_ref().map(|key| format!("{key}\n{}", from.1.as_deref().unwrap_or_default()));
        let is_truncated = answer.is_truncated() == Some(true);
        course.go_on(is_truncated, next.as_deref()).map_err(|why| unlisted(place.clone(), why))?;
        if course.has_ended() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Spare};

    const SIZE: usize = 1 << 10;

    #[test]
    fn memory_is_used_again_while_parts_come_and_given_back_after_the_last() {
        let spare = Spare::default();
        let part = || Part { bytes: spare.take(SIZE), spare: spare.clone() };
        let (sent, on_its_way) = (part(), part());
        let state = || {
            let buffers = spare.buffers();
            (buffers.held, buffers.free.len())
        };
        let (held, _) = state();
        assert!(held >= 2 * SIZE);
        drop(sent);
        let last = part();
        assert_eq!(state(), (held, 0), "the first one's memory is used again");
        drop(last);
        spare.close();
        assert_eq!(state(), (on_its_way.bytes.capacity(), 0));
        drop(on_its_way);
        assert_eq!(state(), (0, 0), "nothing waits for what is published");
    }
}
