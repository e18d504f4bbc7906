//! What a provider makes of conditional writes. A success proves nothing: some do not know the conditions and say nothing, some
//! look at them before the body has come, so that two writers both pass. So they are put to the test, and the answer is kept in
//! the bucket, with the name of who gave it.

use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::{Deserialize, Serialize};
use verifier::Timestamp;

use super::failure::{failed, status};
use super::tries::Tries;
use super::{Bucket, under};
use crate::clock::now;
use crate::nonce::nonce;
use crate::object::{Condition, Etag, Key, ObjectError, ObjectStore as _, PROBES};

/// Where the answer is kept.
const ANSWER: &str = "quorum/provider";

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// For how many seconds an answer holds: providers are updated.
const HOLDS: i64 = 7 * 24 * 60 * 60;

/// How long a racer pauses in the middle of its body: longer than the others take to begin.
const PAUSE: Duration = Duration::from_millis(300);

/// How often the test is begun anew because answers were lost.
const STARTS: usize = 8;

/// How often there is a race.
const RACES: usize = 2;

/// How many race at once.
const RACERS: usize = 4;

/// What becomes of conditional writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conditions {
    /// One of several writers succeeds: any number of gates may share the bucket.
    Hold,
    /// A condition that did not hold before the write began is found out; of two that write at once, both succeed.
    LoseRaces,
    /// Nobody looks at them.
    Ignored,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Answer {
    provider: String,
    conditions: Conditions,
    tested: Timestamp,
}

/// Why a test says nothing.
enum Inconclusive {
    /// A write was refused, but perhaps because an earlier attempt at it was not: its answer was lost.
    Unclear,
    Failed(ObjectError),
}

impl From<ObjectError> for Inconclusive {
    fn from(error: ObjectError) -> Self {
        Self::Failed(error)
    }
}

impl Bucket {
    /// Finds out what the provider makes of conditions: from what the bucket remembers, else by trying.
    pub(super) async fn conditions(&self) -> Result<Conditions, ObjectError> {
        let provider = self.provider().await?;
        let key = Key::new(ANSWER).expect("it is one");
        let known = self.get(&key, MAX_ANSWER).await?;
        let known = known.and_then(|known| serde_json::from_slice::<Answer>(&known.bytes).ok());
        if let Some(known) = known
            && known.provider == provider
            && now().as_unix() - known.tested.as_unix() < HOLDS
        {
            return Ok(known.conditions);
        }
        let conditions = self.test_conditions().await?;
        tracing::info!(provider, ?conditions, "tested what the provider makes of conditional writes");
        let answer = Answer { provider, conditions, tested: now() };
        let bytes = serde_json::to_vec_pretty(&answer).expect("texts and numbers can always be written");
        self.put_regardless(&key, bytes.into()).await?;
        Ok(conditions)
    }

    /// Names the provider: where it is and what it calls itself.
    async fn provider(&self) -> Result<String, ObjectError> {
        let place = format!("s3://{}", self.name());
        let tries = Tries::of("reach", &place);
        let request = self.client().list_objects_v2().bucket(self.name()).prefix(ANSWER).max_keys(1);
        let answer = request.customize().interceptor(tries.clone()).send().await;
        answer.map_err(|error| failed("reach", &place, &tries, &error))?;
        let endpoint = self.0.location.endpoint.as_deref().unwrap_or("AWS");
        Ok(format!("{endpoint} {}", tries.server().unwrap_or_default()).trim_end().to_owned())
    }

    async fn test_conditions(&self) -> Result<Conditions, ObjectError> {
        for _ in 0..STARTS {
            let keys: Vec<Key> = (0..RACES + 2)
                .map(|_| Key::new(format!("{PROBES}{}", nonce())).expect("nonces are made of a key's characters"))
                .collect();
            let tested = self.test_with(&keys).await;
            for key in &keys {
                self.delete_regardless(key).await?;
            }
            match tested {
                Ok(conditions) => return Ok(conditions),
                Err(Inconclusive::Failed(error)) => return Err(error),
                Err(Inconclusive::Unclear) => {}
            }
        }
        Err(ObjectError::Io {
            action: "test conditional writes to",
            place: format!("s3://{}", self.name()),
            source: std::io::Error::other(format!("answers were lost in each of {STARTS} tests: check the network")),
        })
    }

    async fn test_with(&self, keys: &[Key]) -> Result<Conditions, Inconclusive> {
        let [one, missing, races @ ..] = keys else { return Ok(Conditions::Ignored) };
        // One after the other.
        let Some(first) = self.write_if(one, Condition::Absent, "one", Duration::ZERO).await? else {
            return Ok(Conditions::Ignored);
        };
        if self.write_if(one, Condition::Absent, "two", Duration::ZERO).await?.is_some() {
            return Ok(Conditions::Ignored);
        }
        let Some(second) = self.write_if(one, Condition::Matches(first.clone()), "three", Duration::ZERO).await? else {
            return Ok(Conditions::Ignored);
        };
        if self.write_if(one, Condition::Matches(first), "four", Duration::ZERO).await?.is_some() {
            return Ok(Conditions::Ignored);
        }
        let found = self.get(one, 16).await?;
        if found.is_none_or(|found| (&found.bytes[..], &found.version.etag) != (b"three", &second)) {
            return Ok(Conditions::Ignored);
        }
        // What replaces something has to find it.
        if self.write_if(missing, Condition::Matches(second), "five", Duration::ZERO).await?.is_some() {
            return Ok(Conditions::Ignored);
        }
        // All at once: each begins, and none ends before all have begun.
        for race in races {
            let created = self.race(race, &Condition::Absent).await?;
            let [Some(etag)] = &created.iter().filter(|won| won.is_some()).collect::<Vec<_>>()[..] else {
                return Ok(Conditions::LoseRaces);
            };
            let swapped = self.race(race, &Condition::Matches(etag.clone())).await?;
            if swapped.iter().flatten().count() != 1 {
                return Ok(Conditions::LoseRaces);
            }
        }
        Ok(Conditions::Hold)
    }

    async fn race(&self, key: &Key, when: &Condition) -> Result<Vec<Option<Etag>>, Inconclusive> {
        let racers = (0..RACERS).map(|number| async move {
            let text = format!("{} {number}", nonce());
            self.write_if(key, when.clone(), &text, PAUSE).await
        });
        join_all(racers).await.into_iter().collect()
    }

    /// Writes a text under a condition, with a pause in the middle; returns its version if it was written.
    async fn write_if(
        &self,
        key: &Key,
        when: Condition,
        text: &str,
        pause: Duration,
    ) -> Result<Option<Etag>, Inconclusive> {
        let place = self.place(key.as_str());
        let tries = Tries::of("test a conditional write of", &place);
        let request = self.client().put_object().bucket(self.name()).key(key.as_str());
        let request = under(request, &when);
        let body = if pause.is_zero() {
            ByteStream::from(Bytes::copy_from_slice(text.as_bytes()))
        } else {
            slow_body(text, pause)
        };
        let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
        let request = request.content_length(length).body(body);
        match request.customize().interceptor(tries.clone()).send().await {
            Ok(answer) => Ok(answer.e_tag().map(Etag::new)),
            // 400 and 501: it knows no conditions, and says so.
            Err(error) if matches!(status(&error), Some(400 | 404 | 409 | 412 | 501)) => {
                // Where an attempt went astray, the next one found what it had done, or what others did meanwhile.
                if tries.are_unclear() && status(&error) != Some(501) { Err(Inconclusive::Unclear) } else { Ok(None) }
            }
            Err(error) => Err(failed("test a conditional write of", &place, &tries, &error).into()),
        }
    }

    /// Writes an object, whatever was there.
    pub(super) async fn put_regardless(&self, key: &Key, bytes: Bytes) -> Result<Etag, ObjectError> {
        let place = self.place(key.as_str());
        let tries = Tries::of("write", &place);
        let request = self.client().put_object().bucket(self.name()).key(key.as_str()).body(ByteStream::from(bytes));
        let answer = request.customize().interceptor(tries.clone()).send().await;
        let answer = answer.map_err(|error| failed("write", &place, &tries, &error))?;
        super::etag(answer.e_tag(), &place)
    }

    /// Deletes an object, whatever version is there.
    pub(super) async fn delete_regardless(&self, key: &Key) -> Result<(), ObjectError> {
        let place = self.place(key.as_str());
        let tries = Tries::of("delete", &place);
        let request = self.client().delete_object().bucket(self.name()).key(key.as_str());
        match request.customize().interceptor(tries.clone()).send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(failed("delete", &place, &tries, &error)),
        }
    }
}

/// A body whose second half comes a while after its first.
fn slow_body(text: &str, pause: Duration) -> ByteStream {
    let (first, second) = text.split_at(text.len() / 2);
    let halves = [first, second].map(|half| Bytes::copy_from_slice(half.as_bytes()));
    ByteStream::new(SdkBody::retryable(move || {
        let halves = halves.clone().into_iter();
        let frames = stream::unfold((halves, Duration::ZERO), move |(mut halves, wait)| async move {
            let half = halves.next()?;
            tokio::time::sleep(wait).await;
            Some((Ok::<_, std::io::Error>(Frame::data(half)), (halves, pause)))
        });
        SdkBody::from_body_1_x(StreamBody::new(frames))
    }))
}
