//! Objects in a bucket of S3, or of a provider that speaks its protocol.
//!
//! | promise | how |
//! |---|---|
//! | whole or not at all | `PutObject`, or `CompleteMultipartUpload`, at which an upload in parts becomes visible |
//! | only if absent, only if unchanged | `If-None-Match: *` and `If-Match`, where the provider was seen to honour them |
//! | nothing twice | what a lost answer leaves open is read back and compared |
//! | durable | what the provider has acknowledged |

mod connect;
mod course;
mod download;
mod failure;
mod location;
mod lone;
mod multipart;
mod provider;
mod tries;

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_s3::Client;
pub use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::{self, retry::RetryConfig};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{Object as ListedObject, StorageClass};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_derivation::hash_bytes;
use tokio::sync::Semaphore;
use verifier::{HashAlgorithm, Timestamp, base16};

use super::{
    Condition, Content, Draft, Entry, Etag, Expected, Key, Leftover, Metadata, Object, ObjectError, ObjectStore, Pages,
    Put, Upload, Version,
};
use crate::decompress::decode_whole;
use connect::Identity;
use course::Course;
use download::Download;
use failure::{Failure, failed, is_absent, status};
use lone::Lone;
use multipart::Pending;
use tries::Tries;

pub use connect::Patience;
pub use location::{Addressing, Location, LocationError};
pub use provider::Conditions;
pub use tries::requests_retried;

/// How often an object is read again whose bytes are not those of its ETag.
const SKEWED: u32 = 10;

/// The pause before that; before each further time it is longer by as much.
const SKEW: Duration = Duration::from_millis(10);

/// Requests of one `publish` that are under way at once.
const AT_ONCE: usize = 32;

/// How long what was read is taken for what is there, by those who only read.
const STAYS: Duration = Duration::from_secs(30);

/// How long a lone writer waits before it tries again, the first time.
const PAUSE: Duration = Duration::from_millis(50);

/// Pages of a listing that wait to be looked at.
const PAGES: usize = 2;

/// Most bytes of memory that the folders of one folder may take: those of twenty million paths' evidence.
const MOST_OF_FOLDERS: usize = 1 << 30;

/// A bucket as an object store. Cheap to clone.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    client: Client,
    location: Location,
    patience: Patience,
    identity: Identity,
    writing: Writing,
    /// Room for slices of objects that are on their way down.
    kept: Arc<Semaphore>,
}

/// How writers are kept apart.
enum Writing {
    /// Nobody writes.
    Never,
    /// The provider does it.
    Conditional,
    /// There is only this one.
    Lone(Lone),
}

/// How many gates write a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Any number. This needs a provider that keeps them apart.
    Any,
    /// One. Where the provider keeps writers apart, this asks no more of anybody.
    One,
}

/// What became of a write that was tried, perhaps more than once.
enum Written {
    Stored(Etag),
    /// The condition did not hold; how often it was tried.
    Refused(u32),
}

/// The right to write an object now.
struct Turn<'a> {
    /// Whether the provider looks at conditions.
    conditional: bool,
    alone: Option<Alone<'a>>,
}

/// Where the provider does not keep writers apart, the right of just this one.
struct Alone<'a> {
    lone: &'a Lone,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Says no when the object may not be written any more: whoever looked at something first may have looked for long.
    fn check(&self) -> Result<(), ObjectError> {
        self.alone.as_ref().map_or(Ok(()), |alone| alone.lone.check())
    }

    /// Waits until a request is over that was not answered, where the provider does not keep writers apart.
    async fn settle(&self) {
        if let Some(alone) = &self.alone {
            tokio::time::sleep(alone.lone.settles()).await;
        }
    }

    /// Looks whether a condition holds, where the provider does not.
    async fn refuses(&self, bucket: &Bucket, key: &Key, condition: &Condition) -> Result<bool, ObjectError> {
        if self.conditional {
            return Ok(false);
        }
        let found = bucket.head(key).await?.map(|found| found.version.etag);
        self.check()?;
        Ok(match condition {
            Condition::Absent => found.is_some(),
            Condition::Matches(etag) => found.as_ref() != Some(etag),
        })
    }

    /// Makes a request that writes. One that was not answered may still be at work, and win against the next: so where the
    /// provider does not keep writers apart, nobody else writes the object before it is over.
    async fn take<T, E, F>(
        &self,
        patience: Patience,
        send: impl Fn(config::Builder) -> F,
    ) -> Result<T, failure::Failure<E>>
    where
        F: Future<Output = Result<T, failure::Failure<E>>>,
    {
        let Some(alone) = &self.alone else {
            return send(config::Builder::new()).await;
        };
        let (begun, settles) = (Instant::now(), alone.lone.settles());
        let mut pause = PAUSE;
        loop {
            match send(config::Builder::new().retry_config(RetryConfig::disabled())).await {
                Err(error) if failure::may_pass(status(&error)) => {
                    // Who is told to come again knows that nothing was done.
                    let wait = if failure::is_put_off(status(&error)) { pause.min(settles) } else { settles };
                    if begun.elapsed() + wait >= patience.total || self.check().is_err() {
                        self.settle().await;
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                    pause *= 2;
                }
                answered => return answered,
            }
        }
    }
}

impl Bucket {
    /// Connects to a bucket, with the credentials that the environment has unless some are given.
    ///
    /// # Errors
    /// When there are credentials and they cannot be had.
    pub async fn connect(
        location: Location,
        patience: Patience,
        credentials: Option<Credentials>,
    ) -> Result<Self, ObjectError> {
        let (client, identity) = connect::client(&location, patience, credentials).await?;
        let kept = Arc::new(Semaphore::new(download::KEPT));
        Ok(Self(Arc::new(Inner { client, location, patience, identity, writing: Writing::Never, kept })))
    }

    /// Connects to a bucket in order to write it, once it is known how the provider keeps writers apart.
    ///
    /// # Errors
    /// When it cannot be written, when the provider does not keep writers apart and there may be several, or when there is another
    /// one already.
    pub async fn open(
        location: Location,
        mut patience: Patience,
        credentials: Option<Credentials>,
        writers: Writers,
    ) -> Result<Self, ObjectError> {
        if writers == Writers::One {
            // What is under way when the lease is lost has to be over when another gate takes it.
            patience.total = patience.total.min(patience.lease / 3);
            patience.attempt = patience.attempt.min(patience.total / 2);
        }
        let reading = Self::connect(location, patience, credentials).await?;
        let refused = |why: String| ObjectError::Io {
            action: "write",
            place: format!("s3://{}", reading.name()),
            source: std::io::Error::new(std::io::ErrorKind::PermissionDenied, why),
        };
        if reading.0.identity == Identity::Anonymous {
            return Err(refused(
                "there are no credentials: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile".into(),
            ));
        }
        let conditions = reading.conditions().await?;
        let writing = match (conditions, writers) {
            (Conditions::Hold, _) => Writing::Conditional,
            (conditions, Writers::One) => Writing::Lone(Lone::take(&reading, conditions).await?),
            (conditions, Writers::Any) => {
                let ignores = conditions == Conditions::Ignored;
                let does = if ignores {
                    "ignores conditional writes"
                } else {
                    "lets two conditional writes at once both succeed"
                };
                return Err(refused(format!(
                    "the provider {does}, so two gates could overwrite each other's work: give --single-writer if no other gate writes this bucket"
                )));
            }
        };
        let Inner { client, location, patience, identity, kept, .. } = &*reading.0;
        let (client, location, kept) = (client.clone(), location.clone(), kept.clone());
        Ok(Self(Arc::new(Inner { client, location, patience: *patience, identity: *identity, writing, kept })))
    }

    fn client(&self) -> &Client {
        &self.0.client
    }

    fn name(&self) -> &str {
        &self.0.location.bucket
    }

    fn storage_class(&self) -> Option<StorageClass> {
        self.0.location.storage_class.as_deref().map(StorageClass::from)
    }

    /// Returns an object's name for people.
    fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name())
    }

    /// Waits until an object may be written.
    async fn turn(&self, key: &Key) -> Result<Turn<'_>, ObjectError> {
        match &self.0.writing {
            Writing::Never => Err(ObjectError::Io {
                action: "write",
                place: self.place(key.as_str()),
                source: std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it was opened for reading"),
            }),
            Writing::Conditional => Ok(Turn { conditional: true, alone: None }),
            Writing::Lone(lone) => {
                let conditional = lone.conditions == Conditions::LoseRaces;
                let alone = Alone { lone, _turn: lone.turn(key).await? };
                Ok(Turn { conditional, alone: Some(alone) })
            }
        }
    }

    /// Writes an object whole. The answer to an attempt may have been lost, and the next one refused because of it: so a refusal
    /// after more than one attempt is looked into.
    async fn put(&self, key: &Key, condition: &Condition, bytes: Bytes) -> Result<Put, ObjectError> {
        match self.try_put(key, condition, bytes.clone()).await? {
            Written::Stored(etag) => Ok(Put::Stored(etag)),
            Written::Refused(1) => Ok(Put::Refused),
            Written::Refused(_) => Ok(match self.get(key, bytes.len() as u64).await {
                Ok(Some(found)) if found.bytes == bytes => Put::Stored(found.version.etag),
                Ok(_) | Err(ObjectError::TooLong { .. }) => Put::Refused,
                Err(error) => return Err(error),
            }),
        }
    }

    async fn try_put(&self, key: &Key, condition: &Condition, bytes: Bytes) -> Result<Written, ObjectError> {
        let place = self.place(key.as_str());
        let turn = self.turn(key).await?;
        if turn.refuses(self, key, condition).await? {
            return Ok(Written::Refused(1));
        }
        let tries = Tries::of("write", &place);
        let send = |retries| {
            let request = self.client().put_object().bucket(self.name()).key(key.as_str());
            let request = if turn.conditional { under(request, condition) } else { request };
            let request = request.set_storage_class(self.storage_class()).body(ByteStream::from(bytes.clone()));
            request.customize().interceptor(tries.clone()).config_override(retries).send()
        };
        match turn.take(self.0.patience, send).await {
            Ok(answer) => Ok(Written::Stored(etag(answer.e_tag(), &place)?)),
            Err(error) if is_refusal(condition, &error) => Ok(Written::Refused(tries.count())),
            Err(error) => Err(failed("write", &place, &tries, &error)),
        }
    }

    /// Does something that writes. Where the provider does not keep writers apart, that goes on to its end even if nobody waits for
    /// it any more: a request that was given up may still be at work, and win against the next writer's.
    async fn to_its_end<T, F>(&self, work: F) -> Result<T, ObjectError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ObjectError>> + Send + 'static,
    {
        match self.0.writing {
            Writing::Lone(_) => tokio::spawn(work).await?,
            Writing::Conditional | Writing::Never => work.await,
        }
    }

    async fn publish_one(self, draft: Draft) -> Result<Put, ObjectError> {
        let Draft { key, condition, content, .. } = draft;
        match content {
            Content::Bytes(bytes) => self.put(&key, &condition, bytes).await,
            Content::Upload(upload) => {
                let foreign = |_| ObjectError::Io {
                    action: "publish",
                    place: self.place(key.as_str()),
                    source: std::io::Error::other("the upload is another store's"),
                };
                upload.into_any().downcast::<Pending>().map_err(foreign)?.publish(&key, &condition).await
            }
        }
    }

    async fn delete_one(self, key: Key, version: Etag) -> Result<bool, ObjectError> {
        let place = self.place(key.as_str());
        let turn = self.turn(&key).await?;
        if self.head(&key).await?.is_none_or(|found| found.version.etag != version) {
            return Ok(false);
        }
        turn.check()?;
        let tries = Tries::of("delete", &place);
        let request = self.client().delete_object().bucket(self.name()).key(key.as_str());
        let request = request.set_if_match(turn.conditional.then(|| version.0.clone()));
        let send = |retries| request.clone().customize().interceptor(tries.clone()).config_override(retries).send();
        match turn.take(self.0.patience, send).await {
            Ok(_) => Ok(true),
            // Gone, by an attempt whose answer was lost or by somebody else.
            Err(error) if is_absent(&error) => Ok(tries.count() > 1),
            Err(error) if status(&error) == Some(412) => Ok(tries.count() > 1 && self.head(&key).await?.is_none()),
            Err(error) => Err(failed("delete", &place, &tries, &error)),
        }
    }

    /// Returns the prefix that the objects of a folder have; none if the text is no folder's.
    fn prefix(folder: &str) -> Option<&str> {
        let part = folder.strip_suffix('/').map(Key::new);
        (folder.is_empty() || part.is_some_and(|key| key.is_some())).then_some(folder)
    }

    /// Returns what a listing says of an object. A provider whose listings state no versions is asked for each.
    async fn entry(&self, prefix: &str, found: &ListedObject) -> Result<Option<Entry>, ObjectError> {
        let Some((key, name)) = found.key().and_then(|key| Some((key, key.strip_prefix(prefix)?))) else {
            return Ok(None);
        };
        let metadata = match found.e_tag() {
            Some(etag) => Some(Metadata {
                size: found.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                version: version(Some(etag), found.last_modified(), key)?,
            }),
            // What has another name than ours is not ours.
            None => match Key::new(key) {
                Some(key) => self.head(&key).await?,
                None => None,
            },
        };
        Ok(metadata.map(|metadata| Entry { name: name.to_owned(), metadata }))
    }

    /// Lists what is directly in a folder, page by page: objects and folders.
    async fn list_page(&self, prefix: &str, course: &mut Course) -> Result<(Vec<Entry>, Vec<String>), ObjectError> {
        let place = self.place(prefix);
        let tries = Tries::of("list", &place);
        let request = self.client().list_objects_v2().bucket(self.name()).prefix(prefix).delimiter("/");
        let request = request.set_continuation_token(course.from()).customize().interceptor(tries.clone());
        let answer = request.send().await.map_err(|error| failed("list", &place, &tries, &error))?;
        let mut entries = Vec::new();
        for found in answer.contents() {
            entries.push(self.entry(prefix, found));
        }
        let entries: Vec<Option<Entry>> = stream::iter(entries).buffered(AT_ONCE).try_collect().await?;
        let entries = entries.into_iter().flatten().collect();
        let folders = answer.common_prefixes().iter().filter_map(|found| found.prefix());
        let folders = folders.filter_map(|found| found.strip_prefix(prefix)?.strip_suffix('/'));
        let folders = folders.map(str::to_owned).collect();
        let next = answer.next_continuation_token().filter(|token| !token.is_empty());
        // Who says nothing of it may know no more than where it goes on.
        let is_truncated = answer.is_truncated().unwrap_or(next.is_some());
        course.go_on(is_truncated, next).map_err(|why| unlisted(place, why))?;
        Ok((entries, folders))
    }
}

impl Bucket {
    /// Reads an object once, as it is kept, and its `Content-Encoding`.
    async fn get_once(&self, key: &Key, limit: u64) -> Result<Option<(Object, String)>, ObjectError> {
        let deadline = tokio::time::Instant::now() + self.0.patience.total;
        let Some((mut download, encoding)) = Download::start(self, key).await? else {
            return Ok(None);
        };
        let Metadata { size, version } = download.metadata().clone();
        if size > limit {
            return Err(ObjectError::TooLong { key: key.clone(), size, limit });
        }
        Ok(Some((Object { bytes: download.rest_before(deadline).await?, version }, encoding)))
    }
}

fn unlisted(place: String, why: String) -> ObjectError {
    ObjectError::Io { action: "list", place, source: std::io::Error::other(why) }
}

fn failed_to_read(place: String, source: std::io::Error) -> ObjectError {
    ObjectError::Io { action: "read", place, source }
}

/// Says whether an object's bytes are those of its ETag, which is their MD5 where it looks like one.
fn fits_its_etag(object: &Object) -> bool {
    let etag = object.version.etag.as_str().trim_matches('"');
    let is_md5 = etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let made = || base16::encode(hash_bytes(HashAlgorithm::Md5, &object.bytes).digest_as_bytes());
    !is_md5 || etag.eq_ignore_ascii_case(&made())
}

#[async_trait]
impl ObjectStore for Bucket {
    fn is_remote(&self) -> bool {
        true
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Object>, ObjectError> {
        let alone = matches!(self.0.writing, Writing::Lone(_));
        let mut before = None;
        for turn in 1..=SKEWED {
            let found = self.get_once(key, limit).await?;
            // A provider that does not keep writers apart may also answer with the bytes of one version and the ETag of the next. What
            // is the same twice is no such answer: there ETags are no hashes.
            if !alone || found.as_ref().is_none_or(|(object, _)| fits_its_etag(object)) || found == before {
                let Some((Object { bytes, version }, encoding)) = found else {
                    return Ok(None);
                };
                // A gate encodes nothing, but Nix's own narinfo-compression does.
                let decoded = decode_whole(bytes, &encoding, limit).await;
                let bytes = decoded.map_err(|error| failed_to_read(self.place(key.as_str()), error))?;
                return Ok(Some(Object { bytes, version }));
            }
            before = found;
            tokio::time::sleep(SKEW * turn).await;
        }
        let why = std::io::Error::other("its ETag is not that of its bytes, and both change time and again");
        Err(failed_to_read(self.place(key.as_str()), why))
    }

    async fn head(&self, key: &Key) -> Result<Option<Metadata>, ObjectError> {
        let place = self.place(key.as_str());
        let tries = Tries::of("inspect", &place);
        let request = self.client().head_object().bucket(self.name()).key(key.as_str());
        match request.customize().interceptor(tries.clone()).send().await {
            Ok(found) => Ok(Some(Metadata {
                size: found.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                version: version(found.e_tag(), found.last_modified(), &place)?,
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("inspect", &place, &tries, &error)),
        }
    }

    async fn open(&self, key: &Key, from: u64) -> Result<Option<(Metadata, Box<dyn Read + Send>)>, ObjectError> {
        let Some(download) = Download::start_slice(self, key, from).await? else {
            return Ok(None);
        };
        Ok(Some((download.metadata().clone(), download.into_reader())))
    }

    async fn upload(&self, expected: Expected) -> Result<Box<dyn Upload>, ObjectError> {
        Ok(Box::new(Pending::new(self, expected)))
    }

    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Put>, ObjectError> {
        let mut puts = Vec::with_capacity(drafts.len());
        let mut drafts = drafts.into_iter().peekable();
        while let Some(stage) = drafts.peek().map(|draft| draft.stage) {
            let mut together = Vec::new();
            while let Some(draft) = drafts.next_if(|draft| draft.stage == stage) {
                together.push(self.to_its_end(self.clone().publish_one(draft)));
            }
            puts.extend(stream::iter(together).buffered(AT_ONCE).try_collect::<Vec<_>>().await?);
        }
        Ok(puts)
    }

    async fn delete(&self, key: &Key, version: &Etag) -> Result<bool, ObjectError> {
        self.to_its_end(self.clone().delete_one(key.clone(), version.clone())).await
    }

    async fn list(&self, folder: &str) -> Result<Pages, ObjectError> {
        let (pages, receiver) = tokio::sync::mpsc::channel(PAGES);
        let Some(prefix) = Self::prefix(folder).map(str::to_owned) else {
            return Ok(Pages(receiver));
        };
        let this = self.clone();
        tokio::spawn(async move {
            let mut course = Course::default();
            loop {
                let page = this.list_page(&prefix, &mut course).await.map(|(entries, _)| entries);
                let is_last = page.is_err() || course.has_ended();
                if pages.send(page).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Pages(receiver))
    }

    async fn leftovers(&self, before: Timestamp) -> Result<Vec<Leftover>, ObjectError> {
        let mut found = multipart::unfinished(self).await?;
        found.retain(|leftover| leftover.begun < before);
        Ok(found)
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), ObjectError> {
        multipart::give_up(self, &leftover.key, &leftover.id).await
    }

    fn stays(&self) -> Duration {
        STAYS
    }

    async fn close(&self) {
        if let Writing::Lone(lone) = &self.0.writing {
            lone.give_back().await;
        }
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        let Some(prefix) = Self::prefix(folder) else {
            return Ok(Vec::new());
        };
        let (mut folders, mut course, mut bytes) = (Vec::new(), Course::default(), 0);
        loop {
            let (_, found) = self.list_page(prefix, &mut course).await?;
            bytes += found.iter().map(|name| size_of::<String>() + name.len()).sum::<usize>();
            folders.extend(found);
            if bytes > MOST_OF_FOLDERS {
                return Err(unlisted(self.place(prefix), "the provider lists folders without end".into()));
            }
            if course.has_ended() {
                return Ok(folders);
            }
        }
    }
}

/// Makes a write take place only under a condition.
fn under(request: PutObjectFluentBuilder, condition: &Condition) -> PutObjectFluentBuilder {
    match condition {
        Condition::Absent => request.if_none_match("*"),
        Condition::Matches(Etag(etag)) => request.if_match(etag),
    }
}

/// Whether an answer says that a condition did not hold. Where something is to be replaced that is not there, S3 says 404.
fn is_refusal<E: ProvideErrorMetadata>(condition: &Condition, failure: &Failure<E>) -> bool {
    status(failure) == Some(412) || (is_absent(failure) && matches!(condition, Condition::Matches(_)))
}

/// Takes the version out of an answer.
fn etag(stated: Option<&str>, place: &str) -> Result<Etag, ObjectError> {
    stated.map(|etag| Etag(etag.to_owned())).ok_or_else(|| ObjectError::Io {
        action: "tell the version of",
        place: place.to_owned(),
        source: std::io::Error::other(
            "the provider states no ETag: perhaps it is no S3: check the endpoint in the store's URI",
        ),
    })
}

fn version(stated: Option<&str>, modified: Option<&DateTime>, place: &str) -> Result<Version, ObjectError> {
    Ok(Version { etag: etag(stated, place)?, modified: Timestamp::from_unix(modified.map_or(0, DateTime::secs)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_that_is_an_md5_is_that_of_the_bytes() {
        let object = |etag: &str| {
            let version = Version { etag: Etag::new(etag), modified: Timestamp::from_unix(0) };
            Object { bytes: Bytes::from_static(b"hello"), version }
        };
        assert!(fits_its_etag(&object("\"5d41402abc4b2a76b9719d911017c592\"")));
        assert!(fits_its_etag(&object("5D41402ABC4B2A76B9719D911017C592")));
        assert!(!fits_its_etag(&object("\"5d41402abc4b2a76b9719d911017c593\"")));
        // An upload in parts, and a provider with other ideas.
        assert!(fits_its_etag(&object("\"5d41402abc4b2a76b9719d911017c593-2\"")) && fits_its_etag(&object("\"v1\"")));
    }
}
