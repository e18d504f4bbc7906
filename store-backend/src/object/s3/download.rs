//! An object on its way down. One connection seldom gives what the network can, so a large object comes in slices, some of them
//! at once; what breaks off in the middle is asked for again, from where it broke off.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::failure::{failed, is_absent, status};
use super::tries::{Tries, note_retry};
use super::{Bucket, version};
use crate::object::{Key, Metadata, ObjectError, ObjectStore as _};
use crate::rate::{Rate, TooSlow};

/// Bytes of a slice.
const SLICE: u64 = 4 << 20;

/// Slices of one object that are on their way at once.
const AT_ONCE: usize = 6;

/// Slices of all objects that may be kept until somebody reads them, beside the one of each that is being read.
pub(super) const KEPT: usize = 15;

/// Pieces of a slice that wait for a slow reader. One is what a socket gave, tens of kilobytes.
const WAITING: usize = 16;

/// Pieces of a slice that is kept until it is read: as many as it has.
const ALL: usize = 1 << 20;

/// How often a download may break off without a byte in between.
const BREAKS: u32 = 8;

/// The pause after the second break without a byte in between. After each further one it is twice as long.
const PAUSE: Duration = Duration::from_millis(50);

/// An object on its way down, or a slice of one.
pub(super) struct Download {
    bucket: Bucket,
    key: Key,
    metadata: Metadata,
    /// The bytes that are yet to come.
    left: Range<u64>,
    /// Where they come from, once they are asked for.
    body: Option<ByteStream>,
}

/// What was asked for from some byte on.
enum Part {
    Absent,
    /// There is nothing from that byte on.
    Behind,
    Here(Box<GetObjectOutput>),
}

impl Download {
    /// Asks for an object, and returns its `Content-Encoding` too; none if there is none.
    pub(super) async fn start(bucket: &Bucket, key: &Key) -> Result<Option<(Self, String)>, ObjectError> {
        let Part::Here(answer) = ask(bucket, key, None, None).await? else {
            return Ok(None);
        };
        let (place, length) = (bucket.place(key.as_str()), length(bucket, key, &answer)?);
        let metadata = Metadata { size: length, version: version(answer.e_tag(), answer.last_modified(), &place)? };
        let encoding = answer.content_encoding.unwrap_or_default();
        let (bucket, key) = (bucket.clone(), key.clone());
        Ok(Some((Self { bucket, key, metadata, left: 0..length, body: Some(answer.body) }, encoding)))
    }

    /// Asks for an object's first slice from the byte `from` on, or for all of it where the provider sends no parts; none if there
    /// is none.
    pub(super) async fn start_slice(bucket: &Bucket, key: &Key, from: u64) -> Result<Option<Self>, ObjectError> {
        let (bucket, place) = (bucket.clone(), bucket.place(key.as_str()));
        match ask(&bucket, key, Some(from..from.saturating_add(SLICE)), None).await? {
            Part::Absent => Ok(None),
            Part::Behind => {
                let Some(metadata) = bucket.head(key).await? else {
                    return Ok(None);
                };
                let left = metadata.size..metadata.size;
                Ok(Some(Self { bucket, key: key.clone(), metadata, left, body: None }))
            }
            Part::Here(answer) => {
                let length = length(&bucket, key, &answer)?;
                let size = match answer.content_range() {
                    Some(range) => range.rsplit_once('/').and_then(|(_, size)| size.parse().ok()),
                    None if from == 0 => Some(length),
                    None => None,
                };
                let size = size.filter(|size| from.checked_add(length).is_some_and(|end| end <= *size));
                let size = size.ok_or_else(|| unexpected(&place, "the provider does not send parts of objects"))?;
                let metadata = Metadata { size, version: version(answer.e_tag(), answer.last_modified(), &place)? };
                let left = from..from + length;
                Ok(Some(Self { bucket, key: key.clone(), metadata, left, body: Some(answer.body) }))
            }
        }
    }

    /// Asks for bytes of the object whose metadata are known.
    async fn ask(&mut self) -> Result<(), ObjectError> {
        match ask(&self.bucket, &self.key, Some(self.left.clone()), Some(&self.metadata)).await? {
            Part::Here(answer) if self.left.start == 0 || answer.content_range().is_some() => {
                self.body = Some(answer.body);
                Ok(())
            }
            Part::Here(_) => Err(unexpected(&self.place(), "the provider does not send parts of objects")),
            Part::Absent | Part::Behind => {
                Err(self.broken(ErrorKind::Other, "it was deleted or replaced while it was read".into()))
            }
        }
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the next bytes; none after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        let deadline = Instant::now() + self.bucket.0.patience.total;
        self.next_before(deadline).await
    }

    /// Returns all that is left, if it comes before a moment.
    pub(super) async fn rest_before(&mut self, deadline: Instant) -> Result<Bytes, ObjectError> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.left.end - self.left.start).unwrap_or(0));
        while let Some(chunk) = self.next_before(deadline).await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    async fn next_before(&mut self, deadline: Instant) -> Result<Option<Bytes>, ObjectError> {
        let patience = self.bucket.0.patience;
        let begun = Instant::now();
        let (mut breaks, mut why) = (0, "it does not come in time".to_owned());
        while !self.left.is_empty() {
            let Some(body) = &mut self.body else {
                match timeout_at(deadline, self.ask()).await {
                    Ok(asked) => asked?,
                    Err(_) => return Err(self.too_late(&why, breaks, begun)),
                }
                continue;
            };
            let broke = match timeout_at(deadline.min(Instant::now() + patience.attempt), body.next()).await {
                Ok(Some(Ok(chunk))) if chunk.len() as u64 <= self.left.end - self.left.start => {
                    self.left.start += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Some(Ok(_))) => return Err(unexpected(&self.place(), "more bytes came than were asked for")),
                Ok(Some(Err(error))) => format!("it broke off: {error}"),
                Ok(None) => "it broke off".to_owned(),
                Err(_) if Instant::now() >= deadline => "it does not come in time".to_owned(),
                Err(_) => format!("no byte came in {} s", patience.attempt.as_secs()),
            };
            breaks += 1;
            why = format!("{broke}, after {} of {} bytes", self.left.start, self.metadata.size);
            if breaks > BREAKS || Instant::now() >= deadline {
                return Err(self.too_late(&why, breaks, begun));
            }
            note_retry();
            tracing::warn!(why, "reading on in {}", self.place());
            if breaks > 1 {
                let pause = (PAUSE * (1 << (breaks - 2))).min(patience.total / 8);
                sleep_until(deadline.min(Instant::now() + pause)).await;
            }
            self.body = None;
        }
        Ok(None)
    }

    /// Goes on by itself; what comes can be read by a thread that may block.
    pub(super) fn into_reader(self) -> Box<dyn Read + Send> {
        let (next, bucket, key, metadata) =
            (self.left.end, self.bucket.clone(), self.key.clone(), self.metadata.clone());
        let mut slices = Slices {
            bucket,
            key,
            metadata,
            next,
            slices: VecDeque::new(),
            now: Bytes::new(),
            rate: Rate::default(),
            came: Arc::default(),
            runtime: Handle::current(),
        };
        slices.add(self, None);
        slices.ask_ahead();
        Box::new(slices)
    }

    fn place(&self) -> String {
        self.bucket.place(self.key.as_str())
    }

    fn broken(&self, kind: ErrorKind, why: String) -> ObjectError {
        ObjectError::Io { action: "read", place: self.place(), source: io::Error::new(kind, why) }
    }

    fn too_late(&self, why: &str, breaks: u32, begun: Instant) -> ObjectError {
        let why = format!("{why} (tried {breaks} times in {} s)", begun.elapsed().as_secs());
        self.broken(ErrorKind::TimedOut, why)
    }
}

/// Asks for an object, or for bytes of it, of the version that was asked for before.
async fn ask(
    bucket: &Bucket,
    key: &Key,
    bytes: Option<Range<u64>>,
    same: Option<&Metadata>,
) -> Result<Part, ObjectError> {
    let place = bucket.place(key.as_str());
    let tries = Tries::of("read", &place);
    let mut request = bucket.client().get_object().bucket(bucket.name()).key(key.as_str());
    if let Some(Range { start, end }) = bytes {
        request = request.range(format!("bytes={start}-{}", end - 1));
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

/// Returns how many bytes an answer says that it has.
fn length(bucket: &Bucket, key: &Key, answer: &GetObjectOutput) -> Result<u64, ObjectError> {
    let stated = answer.content_length().and_then(|length| u64::try_from(length).ok());
    stated.ok_or_else(|| unexpected(&bucket.place(key.as_str()), "the provider states no length"))
}

fn unexpected(place: &str, why: &str) -> ObjectError {
    ObjectError::Io { action: "read", place: place.to_owned(), source: io::Error::other(why.to_owned()) }
}

/// An object's slices as they arrive, for a thread that may wait for them.
struct Slices {
    bucket: Bucket,
    key: Key,
    metadata: Metadata,
    /// Where the next slice begins.
    next: u64,
    slices: VecDeque<Slice>,
    /// What is being read.
    now: Bytes,
    rate: Rate,
    /// Bytes that have come, of any slice, since that was last looked at.
    came: Arc<AtomicUsize>,
    runtime: Handle,
}

/// A slice on its way.
struct Slice {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// How many bytes are yet to come: a channel that closes is no end.
    left: u64,
    fetching: AbortHandle,
    _kept: Option<OwnedSemaphorePermit>,
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

impl Slices {
    /// Asks for what will be read next, as long as there is room to keep it.
    fn ask_ahead(&mut self) {
        while self.next < self.metadata.size && self.slices.len() < AT_ONCE {
            let kept = self.bucket.0.kept.clone().try_acquire_owned().ok();
            if kept.is_none() && !self.slices.is_empty() {
                return;
            }
            let left = self.next..self.metadata.size.min(self.next + SLICE);
            self.next = left.end;
            let (bucket, key, metadata) = (self.bucket.clone(), self.key.clone(), self.metadata.clone());
            self.add(Download { bucket, key, metadata, left, body: None }, kept);
        }
    }

    fn add(&mut self, mut slice: Download, kept: Option<OwnedSemaphorePermit>) {
        let left = slice.left.end - slice.left.start;
        let (sender, pieces) = mpsc::channel(if kept.is_some() { ALL } else { WAITING });
        let came = self.came.clone();
        let fetching = self.runtime.spawn(async move {
            loop {
                let piece = match slice.next().await {
                    Ok(Some(bytes)) => {
                        came.fetch_add(bytes.len(), Ordering::Relaxed);
                        Ok(bytes)
                    }
                    Ok(None) => return,
                    Err(ObjectError::Io { source, .. }) => Err(source),
                    Err(error) => Err(io::Error::other(error)),
                };
                let last = piece.is_err();
                if sender.send(piece).await.is_err() || last {
                    return;
                }
            }
        });
        self.slices.push_back(Slice { pieces, left, fetching: fetching.abort_handle(), _kept: kept });
    }
}

impl Read for Slices {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty()
            && let Some(slice) = self.slices.front_mut()
        {
            if slice.left == 0 {
                self.slices.pop_front();
                self.ask_ahead();
                continue;
            }
            // The time in which nobody reads is none that the provider takes.
            let waits = Instant::now();
            let piece = slice.pieces.blocking_recv();
            self.now = piece.unwrap_or_else(|| Err(io::Error::other("the download was given up")))?;
            slice.left -= self.now.len() as u64;
            if !self.rate.comes(self.came.swap(0, Ordering::Relaxed), waits.elapsed()) {
                return Err(io::Error::new(ErrorKind::TimedOut, format!("the provider is too slow: {TooSlow}")));
            }
        }
        let count = buffer.len().min(self.now.len());
        buffer[..count].copy_from_slice(&self.now.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::super::{Location, Patience};
    use super::*;
    use crate::rate::{LEAST, PERIOD};

    /// Serves one object of zeros on loopback, as slowly as it is told: so many bytes, and a pause.
    fn serve(size: u64, piece: usize, pause: Duration) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a client");
                std::thread::spawn(move || answer(&stream, size, piece, pause));
            }
        });
        port
    }

    fn answer(mut stream: &TcpStream, size: u64, piece: usize, pause: Duration) -> io::Result<()> {
        let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let ranges = lines.filter_map(|line| Some(line.to_lowercase().strip_prefix("range: bytes=")?.to_owned()));
        let range = ranges.last().expect("slices are asked for");
        let (start, end) = range.split_once('-').expect("a range");
        let start: u64 = start.parse().expect("a number");
        let end = end.parse::<u64>().expect("a number").min(size - 1);
        let mut left = usize::try_from(end + 1 - start).expect("it is small");
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nETag: \"v1\"\r\nContent-Length: {left}\r\n\
             Content-Range: bytes {start}-{end}/{size}\r\nConnection: close\r\n\r\n"
        )?;
        while left > 0 {
            let count = left.min(piece);
            stream.write_all(&vec![0; count])?;
            left -= count;
            std::thread::sleep(pause);
        }
        Ok(())
    }

    async fn read(port: u16, each: Duration) -> io::Result<u64> {
        let uri = format!("s3://bucket?endpoint=http://127.0.0.1:{port}&region=us-east-1");
        let location = Location::parse(&uri).expect("a location");
        let credentials = super::super::Credentials::new("a", "b", None, None, "test");
        let bucket = Bucket::connect(location, Patience::default(), Some(credentials)).await.expect("nobody is asked");
        let key = Key::new("nar").expect("a key");
        let (_, mut reader) = bucket.open(&key, 0).await.expect("an answer").expect("it is there");
        let reading = tokio::task::spawn_blocking(move || {
            let (mut read, mut buffer) = (0, vec![0; 64 << 10]);
            loop {
                match reader.read(&mut buffer)? {
                    0 => return Ok(read),
                    count => read += count as u64,
                }
                std::thread::sleep(each);
            }
        });
        reading.await.expect("nobody panics here")
    }

    #[tokio::test]
    async fn a_provider_that_sends_a_byte_now_and_then_is_not_waited_for() {
        let port = serve(1_000_000, 1, Duration::from_millis(100));
        let (began, error) = (Instant::now(), read(port, Duration::ZERO).await.expect_err("it comes too slowly"));
        assert!(error.to_string().contains("less than"), "{error}");
        assert!(began.elapsed() < 3 * PERIOD);
    }

    #[tokio::test]
    async fn a_slow_provider_is_waited_for() {
        let size = 3 * LEAST as u64;
        let began = Instant::now();
        // A fifth more comes than has to.
        assert_eq!(read(serve(size, LEAST / 40, PERIOD / 50), Duration::ZERO).await.expect("it comes"), size);
        assert!(began.elapsed() > PERIOD);
    }

    #[tokio::test]
    async fn a_slow_reader_is_no_slow_provider() {
        // It takes the reader longer than a period to read what a provider sends at once.
        let size = 20 * (64 << 10);
        assert_eq!(read(serve(size, 1 << 20, Duration::ZERO), PERIOD / 15).await.expect("it came"), size);
    }
}
