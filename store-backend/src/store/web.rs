//! Reading over HTTP: what breaks off is asked for again, and what does not come in time is given up.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use percent_encoding::percent_decode_str;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::StoreError;
use super::directories::{configuration, variable};
use super::netrc::{Login, Netrc};
use crate::decompress::{decode, decode_whole};
use crate::rate::{Rate, TooSlow};

/// How long one waits for a connection.
const CONNECT: Duration = Duration::from_secs(15);

/// How long one waits for an answer to begin, or for its next bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a small object may take to come: a server that sends a byte now and then is not waited for.
const WHOLE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

/// How long something is tried, however often.
const TOTAL: Duration = Duration::from_secs(180);

/// How often something is tried without a byte in between.
const TRIES: u32 = 6;

/// The pause after the first failure; after each further one it is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest pause that a server can ask for.
const LONGEST: Duration = Duration::from_secs(20);

/// How often a server may say that something is elsewhere.
const MOST_REDIRECTIONS: usize = 10;

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

/// The address of a cache, and where the passwords for it and others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    url: Url,
    /// None for the system's own file, where there is one.
    netrc: Option<PathBuf>,
}

impl Web {
    /// Parses `http://HOST[:PORT][/PATH]`, or the same with `https`.
    ///
    /// # Errors
    /// [`WebError`].
    pub fn parse(text: &str) -> Result<Self, WebError> {
        let wrong = |why: String| WebError { found: without_password(text), why };
        let mut url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
        if !url.has_host() {
            return Err(wrong("there is no host".into()));
        }
        // What is in the cache lies below this.
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(Self { url, netrc: None })
    }

    /// Takes passwords from another file than the system's.
    pub fn with_netrc(self, netrc: &Path) -> Self {
        Self { netrc: Some(netrc.to_owned()), ..self }
    }

    /// Returns who one is where, as the file says. The system's own need not be there, nor be readable for everybody.
    fn netrc(&self) -> Result<Netrc, StoreError> {
        let system = || configuration().join("netrc");
        let place = self.netrc.clone().unwrap_or_else(system);
        match std::fs::read_to_string(&place) {
            Ok(text) => Ok(Netrc::parse(&text)),
            Err(_) if self.netrc.is_none() => Ok(Netrc::default()),
            Err(error) => {
                let why = format!("{}: {error}", place.display());
                Err(StoreError::Web { url: self.to_string(), why })
            }
        }
    }

    /// Makes what asks it.
    ///
    /// # Errors
    /// When the certificates to trust or the passwords cannot be read.
    pub(super) fn client(&self) -> Result<WebClient, StoreError> {
        let failed = |why: String| StoreError::Web { url: self.to_string(), why };
        // Whoever was first has chosen, and there is no other choice.
        let _chosen = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("nix-quorum/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(PATIENCE)
            // Followed by ourselves: who one is, and where one comes from, is nobody else's business.
            .redirect(Policy::none())
            .referer(false);
        let named = variable(CERTIFICATES).map(PathBuf::from);
        // A cache that needs none is read where the file is not there.
        if let Some(place) = named.filter(|place| self.url.scheme() == "https" || place.exists()) {
            let read = |why: String| failed(format!("{CERTIFICATES}={}: {why}", place.display()));
            let bundle = std::fs::read(&place).map_err(|error| read(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&bundle).map_err(|error| read(error.to_string()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| failed(chain(&error)))?;
        Ok(WebClient { client, base: self.url.clone(), netrc: Arc::new(self.netrc()?) })
    }
}

impl fmt::Display for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown(&self.url).trim_end_matches('/'))
    }
}

/// Asks a cache. Cheap to clone.
#[derive(Clone)]
pub(super) struct WebClient {
    client: Client,
    base: Url,
    netrc: Arc<Netrc>,
}

impl fmt::Display for WebClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown(&self.base).trim_end_matches('/'))
    }
}

/// Returns a store's URI without the password that it may hold, as it can be shown to others; also of what is no URI after all.
#[must_use]
pub fn without_password(uri: &str) -> String {
    match Url::parse(uri) {
        Ok(mut url) if url.password().is_some() => {
            // It has a host, since it has a password.
            let _has_one = url.set_password(None);
            url.into()
        }
        Ok(_) => uri.to_owned(),
        Err(_) => match (uri.split_once("//"), uri.rsplit_once('@')) {
            (Some((scheme, rest)), Some((_, host))) if rest.contains('@') => {
                let name = rest.split([':', '@']).next().unwrap_or_default();
                format!("{scheme}//{name}@{host}")
            }
            _ => uri.to_owned(),
        },
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
                Ok(Answer::Here(response)) => match timeout(WHOLE, whole(response, limit)).await {
                    Ok(Ok(bytes)) => return Ok(Some(bytes)),
                    Ok(Err(failed)) => failed,
                    Err(_) => {
                        let why = format!("it did not come whole in {} s", WHOLE.as_secs());
                        Failed { why, passing: false, after: None }
                    }
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

    /// Opens an object for a thread that may block; none if there is none. No more than `most` bytes of it are read as they come:
    /// what is encoded may have many that stand for none.
    pub(super) async fn open(&self, place: &str, most: u64) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let url = self.url(place)?;
        let mut tries = Tries::new(&url);
        let response = loop {
            match self.ask(Method::GET, &url, HeaderMap::new()).await {
                Ok(Answer::Absent) => return Ok(None),
                Ok(Answer::Here(response)) => break response,
                Err(failed) => tries.again(failed).await?,
            }
        };
        let encoding = encoding(&response);
        let (pieces, receiver) = mpsc::channel(WAITING);
        let (client, asked) = (self.clone(), url.clone());
        tokio::spawn(async move { client.pass(asked, response, pieces).await });
        let body = Body { pieces: receiver, pending: Bytes::new() };
        let decoded = decode(Box::new(body.take(most)), &encoding);
        decoded.map(Some).map_err(|error| StoreError::Web { url: shown(&url), why: format!("it is {error}") })
    }

    /// Hands on a body. Where it breaks off, the rest of the same version is asked for, if the server sends parts.
    async fn pass(&self, url: Url, mut response: Response, pieces: mpsc::Sender<io::Result<Option<Bytes>>>) {
        let tag = response.headers().get(ETAG).cloned();
        let ranges = response.headers().get(ACCEPT_RANGES);
        // Which bytes of an encoding are which is for whoever made it to say.
        let is_plain = encoding(&response).is_empty();
        let can_resume = is_plain && tag.is_some() && ranges.is_some_and(|value| value == "bytes");
        let (mut passed, mut tries, mut rate) = (0_u64, Tries::new(&url), Rate::default());
        // Whatever it waits for but its reader counts.
        let mut waits = Instant::now();
        loop {
            let failed = match response.chunk().await {
                Ok(Some(piece)) => {
                    passed += piece.len() as u64;
                    tries = Tries::new(&url);
                    let comes = rate.comes(piece.len(), waits.elapsed());
                    let piece = if comes { Ok(Some(piece)) } else { Err(too_slow(&url)) };
                    if pieces.send(piece).await.is_err() || !comes {
                        return;
                    }
                    waits = Instant::now();
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
                // A weak tag is none for this purpose, so what comes is held against it below.
                headers.extend(tag.clone().filter(|tag| !is_weak(tag)).map(|tag| (IF_RANGE, tag)));
                failed = Some(match self.ask(Method::GET, &url, headers).await {
                    Ok(Answer::Here(rest)) if is_rest(&rest, passed, tag.as_ref()) => break rest,
                    Ok(_) => Failed { why: "it was replaced while it was read".into(), passing: false, after: None },
                    Err(failed) => failed,
                });
            };
        }
    }

    /// Returns where something is that the cache names: below its own address, or elsewhere, as in Nix.
    fn url(&self, place: &str) -> Result<Url, StoreError> {
        let wrong = |why: &str| StoreError::Web { url: policy::escaped(place), why: why.to_owned() };
        let url = self.base.join(place).map_err(|_| wrong("this is no place in a cache"))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(wrong("expected a place in the cache or an address that begins with https:// or http://"));
        }
        Ok(url)
    }

    /// Asks, and goes where the answer says that it is.
    async fn ask(&self, method: Method, url: &Url, headers: HeaderMap) -> Result<Answer, Failed> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTIONS {
            let response = self.send(method.clone(), &url, headers.clone()).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return answer(response);
            }
            let refused = |why: &str| Failed { why: why.to_owned(), passing: false, after: None };
            let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let place = place.ok_or_else(|| refused("the server says that it is elsewhere, and not where"))?;
            url = url.join(place).map_err(|_| refused("the server says that it is where nothing can be"))?;
            if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
                return Err(refused("the server says that it is where only others look"));
            }
        }
        let why = format!("the server says more than {MOST_REDIRECTIONS} times that it is elsewhere");
        Err(Failed { why, passing: false, after: None })
    }

    /// Returns who one is at an address: as the cache's own says, at the same server, or as the file of passwords does. To another
    /// server, which whoever wrote the cache has named, only what is meant for it goes, and not in clear.
    fn login(&self, url: &Url) -> Option<Login> {
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
        if url.origin() != self.base.origin() {
            let named = self.netrc.login_by_name(host).filter(|_| url.scheme() == "https");
            return named.cloned();
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let name = decoded(self.base.username());
        match self.base.password() {
            Some(password) => Some(Login { name, password: decoded(password) }),
            None => self.netrc.login(host, &name).cloned(),
        }
    }

    async fn send(&self, method: Method, url: &Url, headers: HeaderMap) -> Result<Response, Failed> {
        let mut bare = url.clone();
        // It has a host, so it may have had these.
        let _had = (bare.set_username(""), bare.set_password(None));
        let mut request = self.client.request(method, bare).headers(headers);
        if let Some(Login { name, password }) = self.login(url) {
            request = request.basic_auth(name, Some(password));
        }
        request.send().await.map_err(|error| Failed {
            // What is wrong with a request will be so again.
            passing: !error.is_builder(),
            why: chain(&error),
            after: None,
        })
    }
}

fn answer(response: Response) -> Result<Answer, Failed> {
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

fn is_passing(status: StatusCode) -> bool {
    let for_good = [StatusCode::NOT_IMPLEMENTED, StatusCode::HTTP_VERSION_NOT_SUPPORTED];
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        || status.is_server_error() && !for_good.contains(&status)
}

fn after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns how a body was compressed for the transport.
fn encoding(response: &Response) -> String {
    let all = response.headers().get_all(CONTENT_ENCODING);
    // What is no text is no name either, and is refused as such.
    let texts: Vec<_> = all.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    texts.join(",")
}

fn is_weak(tag: &HeaderValue) -> bool {
    tag.as_bytes().starts_with(b"W/")
}

/// Says whether an answer is the rest of a body, of the version that was read before.
fn is_rest(answer: &Response, from: u64, tag: Option<&HeaderValue>) -> bool {
    let header = |name| answer.headers().get(name);
    let range = header(CONTENT_RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes "));
    let begins = range.and_then(|range| range.split_once('-')?.0.trim().parse().ok());
    let is_part = answer.status() == StatusCode::PARTIAL_CONTENT && begins == Some(from);
    is_part && header(ETAG) == tag && encoding(answer).is_empty()
}

fn too_slow(url: &Url) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("cannot read {}: {TooSlow}", shown(url)))
}

/// Reads a body of at most `limit` bytes.
async fn whole(mut response: Response, limit: u64) -> Result<Bytes, Failed> {
    let encoding = encoding(&response);
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if bytes.len() as u64 + piece.len() as u64 <= limit => bytes.extend_from_slice(&piece),
            Ok(Some(_)) => {
                return Err(Failed { why: format!("it has more than {limit} bytes"), passing: false, after: None });
            }
            Ok(None) => {
                let decoded = decode_whole(bytes.into(), &encoding, limit).await;
                return decoded.map_err(|error| Failed { why: error.to_string(), passing: false, after: None });
            }
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
        let asked_for = failed.after.unwrap_or(PAUSE * 2_u32.pow(self.failed.min(8) - 1));
        let pause = asked_for.min(LONGEST).mul_f64(0.5 + scatter);
        // Whoever wants to be left alone for longer is asked no more.
        let goes_on = failed.passing && asked_for <= LONGEST && self.failed < TRIES;
        if !goes_on || self.begun.elapsed() + pause > TOTAL {
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

#[cfg(test)]
mod tests;
