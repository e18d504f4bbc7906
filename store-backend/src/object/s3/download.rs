//! An object on its way down: what breaks off in the middle is asked for again, from where it broke off.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::failure::{failed, is_absent, status};
use super::tries::{Tries, note_retry};
use super::{Bucket, version};
use crate::object::{Key, Metadata, ObjectError, ObjectStore as _};

/// Pieces that wait for a slow reader. One is what a socket gave, tens of kilobytes.
const WAITING: usize = 16;

/// How often a download may break off without a byte in between.
const BREAKS: u32 = 8;

/// The pause after the second break without a byte in between. After each further one it is twice as long.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Download {
    bucket: Bucket,
    key: Key,
    metadata: Metadata,
    /// The next byte.
    at: u64,
    body: ByteStream,
}

/// What was asked for from some byte on.
enum Part {
    Absent,
    /// There is nothing from that byte on.
    Behind,
    Here(Box<GetObjectOutput>),
}

impl Download {
    /// Asks for an object from the byte `from` on; none if there is none.
    pub(super) async fn start(bucket: &Bucket, key: &Key, from: u64) -> Result<Option<Self>, ObjectError> {
        let bucket = bucket.clone();
        let place = bucket.place(key.as_str());
        match ask(&bucket, key, from, None).await? {
            Part::Absent => Ok(None),
            Part::Behind => {
                let Some(metadata) = bucket.head(key).await? else {
                    return Ok(None);
                };
                let at = metadata.size;
                Ok(Some(Self { bucket, key: key.clone(), metadata, at, body: ByteStream::default() }))
            }
            Part::Here(answer) => {
                let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
                let size = from + length.ok_or_else(|| unexpected(&place, "the provider states no length"))?;
                // Who does not know ranges sends all of it.
                let ranged = answer.content_range().is_some();
                if from > 0 && !ranged {
                    return Err(unexpected(&place, "the provider does not send parts of objects"));
                }
                let metadata = Metadata { size, version: version(answer.e_tag(), answer.last_modified(), &place)? };
                Ok(Some(Self { bucket, key: key.clone(), metadata, at: from, body: answer.body }))
            }
        }
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the next bytes; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        let deadline = Instant::now() + self.bucket.0.patience.total;
        self.next_before(deadline).await
    }

    /// Returns all that is left, if it comes before a moment.
    pub(super) async fn rest_before(&mut self, deadline: Instant) -> Result<Bytes, ObjectError> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.metadata.size - self.at).unwrap_or(0));
        while let Some(chunk) = self.next_before(deadline).await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    async fn next_before(&mut self, deadline: Instant) -> Result<Option<Bytes>, ObjectError> {
        let patience = self.bucket.0.patience;
        let begun = Instant::now();
        let mut breaks = 0;
        while self.at < self.metadata.size {
            let why = match timeout_at(deadline.min(Instant::now() + patience.attempt), self.body.next()).await {
                Ok(Some(Ok(chunk))) if chunk.len() as u64 <= self.metadata.size - self.at => {
                    self.at += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Some(Ok(_))) => return Err(unexpected(&self.place(), "more bytes came than it has")),
                Ok(Some(Err(error))) => format!("it broke off: {error}"),
                Ok(None) => "it broke off".to_owned(),
                Err(_) if Instant::now() >= deadline => "it does not come in time".to_owned(),
                Err(_) => format!("no byte came in {} s", patience.attempt.as_secs()),
            };
            breaks += 1;
            let why = format!("{why}, after {} of {} bytes", self.at, self.metadata.size);
            let too_late = |why: &str| {
                let why = format!("{why} (tried {breaks} times in {} s)", begun.elapsed().as_secs());
                self.broken(ErrorKind::TimedOut, why)
            };
            if breaks > BREAKS || Instant::now() >= deadline {
                return Err(too_late(&why));
            }
            note_retry();
            tracing::warn!(why, "reading on in {}", self.place());
            let again = async {
                if breaks > 1 {
                    sleep((PAUSE * (1 << (breaks - 2))).min(patience.total / 8)).await;
                }
                ask(&self.bucket, &self.key, self.at, Some(&self.metadata)).await
            };
            match timeout_at(deadline, again).await.map_err(|_| too_late(&why))?? {
                Part::Here(answer) if self.at == 0 || answer.content_range().is_some() => self.body = answer.body,
                Part::Here(_) => return Err(unexpected(&self.place(), "the provider does not send parts of objects")),
                Part::Absent | Part::Behind => {
                    return Err(self.broken(ErrorKind::Other, "it was deleted or replaced while it was read".into()));
                }
            }
        }
        Ok(None)
    }

    /// Goes on by itself; what comes can be read by a thread that may block.
    pub(super) fn into_reader(mut self) -> Box<dyn Read + Send> {
        let (pieces, receiver) = mpsc::channel(WAITING);
        let left = self.metadata.size - self.at.min(self.metadata.size);
        tokio::spawn(async move {
            loop {
                let piece = match self.next().await {
                    Ok(Some(bytes)) => Ok(bytes),
                    Ok(None) => return,
                    Err(ObjectError::Io { source, .. }) => Err(source),
                    Err(error) => Err(io::Error::other(error)),
                };
                let last = piece.is_err();
                if pieces.send(piece).await.is_err() || last {
                    return;
                }
            }
        });
        Box::new(Pieces { receiver, now: Bytes::new(), left })
    }

    fn place(&self) -> String {
        self.bucket.place(self.key.as_str())
    }

    fn broken(&self, kind: ErrorKind, why: String) -> ObjectError {
        ObjectError::Io { action: "read", place: self.place(), source: io::Error::new(kind, why) }
    }
}

/// Asks for an object from a byte on, of the version that was asked for before.
async fn ask(bucket: &Bucket, key: &Key, from: u64, same: Option<&Metadata>) -> Result<Part, ObjectError> {
    let place = bucket.place(key.as_str());
    let tries = Tries::of("read", &place);
    let mut request = bucket.client().get_object().bucket(bucket.name()).key(key.as_str());
    if from > 0 {
        request = request.range(format!("bytes={from}-"));
    }
    if let Some(same) = same {
        request = request.if_match(&same.version.etag.0);
    }
    match request.customize().interceptor(tries.clone()).send().await {
        // A provider that does not know the condition states another version.
        Ok(answer) if same.is_some_and(|same| answer.e_tag() != Some(&same.version.etag.0)) => Ok(Part::Absent),
        Ok(answer) => Ok(Part::Here(Box::new(answer))),
        Err(error) => match status(&error) {
            _ if is_absent(&error) => Ok(Part::Absent),
            Some(412) if same.is_some() => Ok(Part::Absent),
            Some(416) => Ok(Part::Behind),
            _ => Err(failed("read", &place, &tries, &error)),
        },
    }
}

fn unexpected(place: &str, why: &str) -> ObjectError {
    ObjectError::Io { action: "read", place: place.to_owned(), source: io::Error::other(why.to_owned()) }
}

/// Bytes as they arrive, for a thread that may wait for them.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    now: Bytes,
    /// How many are still to be read: a channel that closes is no end.
    left: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && self.left > 0 {
            self.now =
                self.receiver.blocking_recv().unwrap_or_else(|| Err(io::Error::other("the download was given up")))?;
        }
        let count = buffer.len().min(self.now.len());
        buffer[..count].copy_from_slice(&self.now.split_to(count));
        self.left -= count as u64;
        Ok(count)
    }
}
