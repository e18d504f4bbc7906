//! Reading over HTTP: what breaks off is asked for again, and what does not come in time is given up.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use reqwest::header::{ACCEPT_RANGES, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::StoreError;

/// How long one waits for a connection.
const CONNECT: Duration = Duration::from_secs(15);

/// How long one waits for an answer to begin, or for its next bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long something is tried, however often.
const TOTAL: Duration = Duration::from_secs(180);

/// How often something is tried without a byte in between.
const TRIES: u32 = 6;

/// The pause after the first failure; after each further one it is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// Pieces of a body that may wait for whoever reads it; one is what a socket gave, tens of kilobytes.
const WAITING: usize = 16;

/// Names a file with the certificates to trust, in Nix.
const CERTIFICATES: &str = "NIX_SSL_CERT_FILE";

/// Why a text is no address of a cache. Whoever wrote it caused it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a cache's address such as https://cache.example.org, found {found:?}: {why}")]
pub struct WebError {
    found: String,
    why: String,
}

/// The address of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web(Url);

impl Web {
    /// Parses `http://HOST[:PORT][/PATH]`, or the same with `https`.
    ///
    /// # Errors
    /// [`WebError`].
    pub fn parse(text: &str) -> Result<Self, WebError> {
        let wrong = |why: String| WebError { found: text.to_owned(), why };
        let mut url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
        if !url.has_host() {
            return Err(wrong("there is no host".into()));
        }
        // What is in the cache lies below this.
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(Self(url))
    }

    /// Makes what asks it.
    ///
    /// # Errors
    /// When the certificates to trust cannot be read.
    pub(super) fn client(&self) -> Result<WebClient, StoreError> {
        let failed = |why: String| StoreError::Web { url: shown(&self.0), why };
        // Whoever was first has chosen, and there is no other choice.
        let _chosen = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("nix-quorum/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(PATIENCE);
        if let Some(place) = std::env::var_os(CERTIFICATES).filter(|place| !place.is_empty()) {
            let read = |why: String| failed(format!("{CERTIFICATES}={}: {why}", place.display()));
            let bundle = std::fs::read(&place).map_err(|error| read(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&bundle).map_err(|error| read(error.to_string()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| failed(chain(&error)))?;
        Ok(WebClient { client, base: self.0.clone() })
    }
}

/// Asks a cache. Cheap to clone.
#[derive(Clone)]
pub(super) struct WebClient {
    client: Client,
    base: Url,
}

impl fmt::Display for WebClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown(&self.base).trim_end_matches('/'))
    }
}

/// Returns an address without the password that it may hold.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // An address without a host has none.
    let _had_none = url.set_password(None);
    url.into()
}

/// What came of asking once.
enum Answer {
    Here(Response),
    /// There is no such object. A bucket that may not be listed says "forbidden" of one that it does not have.
    Absent,
}

/// Why an attempt failed.
struct Failed {
    why: String,
    /// Whether another one may succeed.
    passing: bool,
    /// How long to wait, where the server says it.
    after: Option<Duration>,
}

impl WebClient {
    /// Reads an object of at most `limit` bytes; none if there is none.
    pub(super) async fn get(&self, place: &str, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let url = self.url(place)?;
        let mut tries = Tries::new(&url);
        loop {
            let failed = match self.ask(Method::GET, &url, HeaderMap::new()).await {
                Ok(Answer::Absent) => return Ok(None),
                Ok(Answer::Here(response)) => match whole(response, limit).await {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            };
            tries.again(failed).await?;
        }
    }

    /// Says whether there is an object.
    pub(super) async fn exists(&self, place: &str) -> Result<bool, StoreError> {
        let url = self.url(place)?;
        let mut tries = Tries::new(&url);
        loop {
            match self.ask(Method::HEAD, &url, HeaderMap::new()).await {
                Ok(answer) => return Ok(matches!(answer, Answer::Here(_))),
                Err(failed) => tries.again(failed).await?,
            }
        }
    }

    /// Opens an object for a thread that may block; none if there is none.
    pub(super) async fn open(&self, place: &str) -> Result<Option<Body>, StoreError> {
        let url = self.url(place)?;
        let mut tries = Tries::new(&url);
        let response = loop {
            match self.ask(Method::GET, &url, HeaderMap::new()).await {
                Ok(Answer::Absent) => return Ok(None),
                Ok(Answer::Here(response)) => break response,
                Err(failed) => tries.again(failed).await?,
            }
        };
        let (pieces, receiver) = mpsc::channel(WAITING);
        let client = self.clone();
        tokio::spawn(async move { client.pass(url, response, pieces).await });
        Ok(Some(Body { pieces: receiver, pending: Bytes::new() }))
    }

    /// Hands on a body. Where it breaks off, the rest of the same version is asked for, if the server sends parts.
    async fn pass(&self, url: Url, mut response: Response, pieces: mpsc::Sender<io::Result<Option<Bytes>>>) {
        let header = |name| response.headers().get(name).cloned();
        let (tag, ranges) = (header(ETAG), header(ACCEPT_RANGES));
        let can_resume = tag.is_some() && ranges.is_some_and(|value| value == "bytes");
        let (mut passed, mut tries) = (0_u64, Tries::new(&url));
        loop {
            let failed = match response.chunk().await {
                Ok(Some(piece)) => {
                    passed += piece.len() as u64;
                    tries = Tries::new(&url);
                    if pieces.send(Ok(Some(piece))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => {
                    // A channel that closes is no end.
                    let _unread = pieces.send(Ok(None)).await;
                    return;
                }
                Err(error) => Failed { why: chain(&error), passing: can_resume, after: None },
            };
            let mut failed = Some(failed);
            response = loop {
                if let Some(failed) = failed.take()
                    && let Err(error) = tries.again(failed).await
                {
                    let _unread = pieces.send(Err(io::Error::other(error.to_string()))).await;
                    return;
                }
                let mut headers = HeaderMap::new();
                headers.insert(RANGE, format!("bytes={passed}-").parse().expect("digits can stand in a header"));
                headers.extend(tag.clone().map(|tag| (IF_RANGE, tag)));
                failed = Some(match self.ask(Method::GET, &url, headers).await {
                    Ok(Answer::Here(rest)) if rest.status() == StatusCode::PARTIAL_CONTENT => break rest,
                    Ok(_) => Failed { why: "it was replaced while it was read".into(), passing: false, after: None },
                    Err(failed) => failed,
                });
            };
        }
    }

    /// Returns where something is that the cache names: below its own address, or elsewhere, as in Nix.
    fn url(&self, place: &str) -> Result<Url, StoreError> {
        let wrong = |why: &str| StoreError::Web { url: policy::escaped(place), why: why.to_owned() };
        let absolute = ["https://", "http://"].iter().any(|scheme| place.starts_with(scheme));
        let url =
            if absolute { Url::parse(place) } else { self.base.join(&format!("./{}", place.trim_start_matches('/'))) };
        let mut url = url.map_err(|_| wrong("this is no place in a cache"))?;
        if !absolute && !url.path().starts_with(self.base.path()) {
            return Err(wrong("this leads out of the cache"));
        }
        if !absolute && url.query().is_none() {
            url.set_query(self.base.query());
        }
        Ok(url)
    }

    async fn ask(&self, method: Method, url: &Url, headers: HeaderMap) -> Result<Answer, Failed> {
        let sent = self.client.request(method, url.clone()).headers(headers).send().await;
        let response = sent.map_err(|error| Failed {
            // What is wrong with a request, or with where it was sent on to, will be so again.
            passing: !(error.is_builder() || error.is_redirect()),
            why: chain(&error),
            after: None,
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(Answer::Here(response));
        }
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(Answer::Absent),
            _ => Err(Failed {
                why: format!("the server answered {status}"),
                passing: is_passing(status),
                after: after(response.headers()),
            }),
        }
    }
}

fn is_passing(status: StatusCode) -> bool {
    let for_good = [StatusCode::NOT_IMPLEMENTED, StatusCode::HTTP_VERSION_NOT_SUPPORTED];
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        || status.is_server_error() && !for_good.contains(&status)
}

fn after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Reads a body of at most `limit` bytes.
async fn whole(mut response: Response, limit: u64) -> Result<Bytes, Failed> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if bytes.len() as u64 + piece.len() as u64 <= limit => bytes.extend_from_slice(&piece),
            Ok(Some(_)) => {
                return Err(Failed { why: format!("it has more than {limit} bytes"), passing: false, after: None });
            }
            Ok(None) => return Ok(bytes.into()),
            Err(error) => return Err(Failed { why: chain(&error), passing: true, after: None }),
        }
    }
}

/// Returns an error with what lies behind it, without the address, which the reader knows.
fn chain(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// How often something was tried, and since when.
struct Tries {
    url: String,
    failed: u32,
    begun: Instant,
}

impl Tries {
    fn new(url: &Url) -> Self {
        Self { url: shown(url), failed: 0, begun: Instant::now() }
    }

    /// Waits until it is time for another attempt, or says that there is to be none.
    async fn again(&mut self, failed: Failed) -> Result<(), StoreError> {
        self.failed += 1;
        // Those that were turned away together should not come back together.
        let scatter = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let pause = failed.after.unwrap_or(PAUSE * 2_u32.pow(self.failed.min(8) - 1)).mul_f64(0.5 + scatter);
        if !failed.passing || self.failed >= TRIES || self.begun.elapsed() + pause > TOTAL {
            let why = match self.failed {
                1 => failed.why,
                tries => format!("{} (tried {tries} times in {} s)", failed.why, self.begun.elapsed().as_secs()),
            };
            return Err(StoreError::Web { url: self.url.clone(), why });
        }
        tracing::debug!(url = self.url, why = failed.why, "asking again");
        sleep(pause).await;
        Ok(())
    }
}

/// A body on its way, for a thread that may block.
pub(super) struct Body {
    pieces: mpsc::Receiver<io::Result<Option<Bytes>>>,
    pending: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.pending.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.pending = piece,
                Some(Ok(None)) => return Ok(0),
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(ErrorKind::ConnectionAborted, "the download was given up")),
            }
        }
        let count = buffer.len().min(self.pending.len());
        self.pending.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
