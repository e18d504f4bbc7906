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

/// How long one waits for a connection.
const CONNECT: Duration = Duration::from_secs(15);

/// How long one waits for an answer to begin, or for its next bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a small object may take to come: a server that sends a byte now and then is not waited for.
const WHOLE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

/// How long something is tried, however often.
const TOTAL: Duration = Duration::from_secs(180);

/// Of a large object so many bytes have to come in each period in which one waits for it: at least 1 KiB in a second, or more
/// after what may be tried for so long.
const LEAST: usize = 180 << 10;
const PERIOD: Duration = if cfg!(test) { Duration::from_secs(5) } else { TOTAL };

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

    /// Opens an object for a thread that may block; none if there is none.
    pub(super) async fn open(&self, place: &str) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
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
        let body = Box::new(Body { pieces: receiver, pending: Bytes::new() });
        let decoded = decode(body, &encoding);
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
            let named = self.netrc.login_by_name(host, "").filter(|_| url.scheme() == "https");
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

/// How fast a body comes. Only the time counts in which its reader waits for it.
#[derive(Default)]
struct Rate {
    bytes: usize,
    waited: Duration,
}

impl Rate {
    /// Notes bytes that were waited for, and says whether what comes is enough to go on.
    fn comes(&mut self, bytes: usize, waited: Duration) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited += waited;
        if self.waited < PERIOD {
            return true;
        }
        let enough = self.bytes >= LEAST;
        *self = Self::default();
        enough
    }
}

fn too_slow(url: &Url) -> io::Error {
    let why = format!("cannot read {}: less than {LEAST} bytes came in {} s", shown(url), PERIOD.as_secs());
    io::Error::new(ErrorKind::TimedOut, why)
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
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::Mutex;

    use super::*;

    /// A server on loopback that gives each request the next of some answers, as it is written down, and then hangs up.
    struct Scripted {
        base: String,
        /// The request lines that came, each with its `Range`, `If-Range` and `Authorization`.
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Scripted {
        fn start(answers: Vec<impl Into<Vec<u8>> + Send + 'static>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let base = format!("http://{}/cache", listener.local_addr().expect("a port"));
            let asked: Arc<Mutex<Vec<String>>> = Arc::default();
            let heard = asked.clone();
            std::thread::spawn(move || {
                for answer in answers {
                    let (stream, _) = listener.accept().expect("a client");
                    let mut lines = BufReader::new(&stream).lines().map(|line| line.expect("a header"));
                    let mut request = lines.next().unwrap_or_default();
                    for line in lines.take_while(|line| !line.is_empty()) {
                        let (name, value) = line.split_once(':').unwrap_or_default();
                        if ["range", "if-range", "authorization"].contains(&name.to_lowercase().as_str()) {
                            request += &format!(" {}:{value}", name.to_lowercase());
                        }
                    }
                    heard.lock().expect("nobody panics here").push(request);
                    (&stream).write_all(&answer.into()).expect("a client");
                }
            });
            Self { base, asked }
        }

        fn client(&self) -> WebClient {
            Web::parse(&self.base).expect("an address").client().expect("a client")
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().expect("nobody panics here").clone()
        }
    }

    /// Writes an answer down; `length` is what it says of the body's length.
    fn answer(status: &str, headers: &str, length: usize, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
    }

    const RANGES: &str = "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n";

    /// Writes an answer of a part down.
    fn part(headers: &str, range: &str, length: usize, body: &str) -> String {
        let headers = format!("{headers}Content-Range: bytes {range}/10\r\n");
        answer("206 Partial Content", &headers, length, body)
    }

    async fn read(body: Box<dyn Read + Send>) -> io::Result<String> {
        let reading = tokio::task::spawn_blocking(move || io::read_to_string(body));
        reading.await.expect("nobody panics here")
    }

    #[tokio::test]
    async fn what_fails_in_passing_is_asked_for_again() {
        let broken = answer("200 OK", "", 10, "tenth");
        let server = Scripted::start(vec![
            answer("503 Slow Down", "Retry-After: 0\r\n", 0, ""),
            answer("429 Too Many", "", 0, ""),
            broken,
            answer("200 OK", "", 5, "right"),
        ]);
        let bytes = server.client().get("a", 100).await.expect("an answer").expect("it is there");
        assert_eq!(bytes, "right");
        assert_eq!(server.asked(), ["GET /cache/a HTTP/1.1"; 4]);
    }

    #[tokio::test]
    async fn nobody_waits_for_as_long_as_a_server_likes() {
        for after in ["18446744073709551615", "100000", "-1", "soon"] {
            let turned_away = answer("503 Slow Down", &format!("Retry-After: {after}\r\n"), 0, "");
            let server = Scripted::start(vec![turned_away, answer("404 Not Found", "", 0, "")]);
            let began = Instant::now();
            // What makes no sense is as if nothing were said.
            let answered = server.client().get("a", 100).await;
            assert_eq!(answered.is_ok(), ["-1", "soon"].contains(&after), "{after}");
            assert!(began.elapsed() < Duration::from_secs(20), "{after}");
        }
    }

    #[tokio::test]
    async fn who_sends_a_byte_now_and_then_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("a port"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut begun = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
                while begun.is_ok() {
                    std::thread::sleep(Duration::from_millis(100));
                    begun = stream.write_all(b"x");
                }
            }
        });
        let began = Instant::now();
        let client = Web::parse(&base).expect("an address").client().expect("a client");
        let error = client.get("a", 1_000).await.expect_err("it never comes whole").to_string();
        assert!(error.contains("did not come whole"), "{error}");
        let body = client.open("nar/b").await.expect("an answer").expect("it is there");
        let error = read(body).await.expect_err("it comes too slowly").to_string();
        assert!(error.contains("/nar/b") && error.contains("less than"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn who_breaks_off_after_each_byte_is_not_asked_for_ever() {
        let mut answers = vec![answer("200 OK", RANGES, 1_000, "x")];
        answers.extend((1..1_000).map(|at| part(RANGES, &format!("{at}-999"), 1_000 - at, "x")));
        let server = Scripted::start(answers);
        let body = server.client().open("nar/x").await.expect("an answer").expect("it is there");
        let error = read(body).await.expect_err("it comes too slowly").to_string();
        assert!(error.contains("less than"), "{error}");
        assert!(server.asked().len() < 500);
    }

    #[test]
    fn only_the_time_counts_in_which_a_reader_waits() {
        let mut rate = Rate::default();
        // A fast server, and a reader that takes hours.
        assert!((0..1_000).all(|_| rate.comes(1, Duration::ZERO)));
        assert!(rate.comes(LEAST, PERIOD) && !rate.comes(LEAST - 1, PERIOD) && rate.comes(LEAST, 2 * PERIOD));
    }

    #[tokio::test]
    async fn what_is_compressed_for_the_transport_is_decompressed() {
        let gzip = |text: &str| {
            let mut bytes = Vec::new();
            let mut encoder = flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::default());
            encoder.read_to_end(&mut bytes).expect("memory is enough");
            bytes
        };
        let encoded =
            |headers: &str, bytes: &[u8]| [answer("200 OK", headers, bytes.len(), "").as_bytes(), bytes].concat();
        let bomb = gzip(&"x".repeat(10_000));
        assert!(bomb.len() < 100);
        let server = Scripted::start(vec![
            encoded("Content-Encoding: gzip\r\n", &gzip("narinfo")),
            encoded("Content-Encoding: identity\r\nContent-Encoding: GZIP\r\n", &gzip("a NAR")),
            encoded("Content-Encoding: gzip\r\n", &bomb),
            encoded("Content-Encoding: gzip\r\n", &bomb[..20]),
            encoded("Content-Encoding: secret\r\n", b"?"),
            encoded("Content-Encoding: secret\r\n", b"?"),
        ]);
        let client = server.client();
        assert_eq!(client.get("a", 100).await.expect("an answer").expect("it is there"), "narinfo");
        let body = client.open("nar/b").await.expect("an answer").expect("it is there");
        assert_eq!(read(body).await.expect("all of it"), "a NAR");
        let get = async |place| client.get(place, 100).await.expect_err(place).to_string();
        assert!(get("bomb").await.contains("more than 100 bytes"));
        assert!(get("half").await.contains("/cache/half"));
        assert!(get("secret").await.contains("compressed with secret"));
        let Err(error) = client.open("secret").await else { panic!("nobody knows how to read it") };
        assert!(error.to_string().contains("compressed with secret"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        for status in ["404 Not Found", "403 Forbidden", "410 Gone"] {
            let server = Scripted::start(vec![answer(status, "", 0, ""); 3]);
            let client = server.client();
            assert_eq!(client.get("a", 100).await.expect("an answer"), None, "{status}");
            assert!(client.open("nar/b").await.expect("an answer").is_none(), "{status}");
            assert!(!client.exists("c").await.expect("an answer"), "{status}");
            assert_eq!(server.asked().len(), 3, "{status}");
        }
        for status in ["401 Unauthorized", "501 Not Implemented", "418 Teapot"] {
            let server = Scripted::start(vec![answer(status, "", 0, "")]);
            let error = server.client().get("a", 100).await.expect_err(status).to_string();
            assert!(error.contains(&status[..3]) && error.contains("/cache/a"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_read_on_where_its_version_is_the_same() {
        let ranges = RANGES;
        let server = Scripted::start(vec![
            answer("200 OK", ranges, 10, "0123"),
            answer("500 Oops", "", 0, ""),
            part(ranges, "4-9", 6, "45"),
            part(ranges, "6-9", 4, "6789"),
        ]);
        let body = server.client().open("nar/x").await.expect("an answer").expect("it is there");
        assert_eq!(read(body).await.expect("all of it"), "0123456789");
        let on = |from: usize| format!("GET /cache/nar/x HTTP/1.1 range: bytes={from}- if-range: \"v1\"");
        assert_eq!(server.asked(), ["GET /cache/nar/x HTTP/1.1".to_owned(), on(4), on(4), on(6)]);
        // Another version comes whole, and is none of this one's; nor is another part, or the same of another version.
        let other = ranges.replace("v1", "v2");
        for second in [
            answer("200 OK", ranges, 4, "abcd"),
            part(ranges, "0-9", 6, "456789"),
            part(&other, "4-9", 6, "456789"),
            answer("206 Partial Content", ranges, 6, "456789"),
        ] {
            let server = Scripted::start(vec![answer("200 OK", ranges, 10, "0123"), second.clone()]);
            let body = server.client().open("nar/x").await.expect("an answer").expect("it is there");
            assert!(read(body).await.expect_err(&second).to_string().contains("replaced"), "{second}");
        }
        // A weak tag cannot be asked for, but compared.
        let weak = ranges.replace("\"v1", "W/\"v1");
        let server = Scripted::start(vec![answer("200 OK", &weak, 10, "0123"), part(&weak, "4-9", 6, "456789")]);
        let body = server.client().open("nar/x").await.expect("an answer").expect("it is there");
        assert_eq!(read(body).await.expect("all of it"), "0123456789");
        assert_eq!(server.asked()[1], "GET /cache/nar/x HTTP/1.1 range: bytes=4-");
        // A server that sends no parts is not asked for one.
        let server = Scripted::start(vec![answer("200 OK", "", 10, "0123")]);
        let body = server.client().open("nar/x").await.expect("an answer").expect("it is there");
        assert!(read(body).await.is_err());
        assert_eq!(server.asked().len(), 1);
    }

    #[tokio::test]
    async fn nothing_grows_without_end() {
        let server = Scripted::start(vec![answer("200 OK", "", 200, &"x".repeat(200))]);
        let error = server.client().get("a", 100).await.expect_err("it is too long").to_string();
        assert!(error.contains("more than 100 bytes"), "{error}");
    }

    #[tokio::test]
    async fn passwords_come_from_the_address_or_a_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let netrc = folder.path().join("netrc");
        let none = folder.path().join("none");
        std::fs::write(&none, "").expect("room for a file");
        std::fs::write(&netrc, "machine 127.0.0.1 login ann password secret").expect("room for a file");
        let server = Scripted::start(vec![answer("404 Not Found", "", 0, ""); 5]);
        let at = |who: &str| Web::parse(&server.base.replace("//", &format!("//{who}"))).expect("an address");
        let webs =
            [(at(""), &none), (at(""), &netrc), (at("ben:o%74her@"), &netrc), (at("ann@"), &netrc), (at("x@"), &netrc)];
        for (web, netrc) in webs {
            let client = web.with_netrc(netrc).client().expect("a client");
            assert_eq!(client.get("a", 100).await.expect("an answer"), None);
        }
        let asked = "GET /cache/a HTTP/1.1";
        let said = |who: &str| format!("{asked} authorization: Basic {who}");
        // What base64 makes of ann:secret and ben:other.
        let [ann, ben] = [said("YW5uOnNlY3JldA=="), said("YmVuOm90aGVy")];
        assert_eq!(server.asked(), [asked.to_owned(), ann.clone(), ben, ann, asked.to_owned()]);
        let Err(error) = at("").with_netrc(&folder.path().join("absent")).client() else { panic!("it is absent") };
        assert!(error.to_string().contains("absent: No such file"), "{error}");
    }

    /// Nor does it where that other server sends one on to itself.
    #[tokio::test]
    async fn no_password_goes_to_another_server() {
        let folder = tempfile::tempdir().expect("a directory");
        let netrc = folder.path().join("netrc");
        std::fs::write(&netrc, "default login ann password secret").expect("room for a file");
        let here = answer("200 OK", "", 4, "here");
        let elsewhere = |place: &str| answer("302 Found", &format!("Location: {place}\r\n"), 0, "");
        for who in ["", "ben:other@"] {
            let other = Scripted::start(vec![elsewhere("/second"), here.clone()]);
            let server = Scripted::start(vec![elsewhere("b?c"), elsewhere(&format!("{}/first", other.base))]);
            let web = Web::parse(&server.base.replace("//", &format!("//{who}"))).expect("an address");
            let client = web.with_netrc(&netrc).client().expect("a client");
            assert_eq!(client.get("a", 100).await.expect("an answer").expect("it is there"), "here");
            assert!(server.asked().iter().all(|asked| asked.contains("authorization: Basic")), "{:?}", server.asked());
            assert_eq!(server.asked().len(), 2);
            assert_eq!(other.asked(), ["GET /cache/first HTTP/1.1", "GET /second HTTP/1.1"]);
        }
    }

    #[tokio::test]
    async fn nobody_is_sent_on_for_ever_or_anywhere() {
        let again = answer("301 Moved", "Location: a\r\n", 0, "");
        let server = Scripted::start(vec![again; 20]);
        let error = server.client().get("a", 100).await.expect_err("it goes round").to_string();
        assert!(error.contains("more than 10 times"), "{error}");
        assert_eq!(server.asked().len(), 11);
        for place in ["Location: file:///etc/passwd\r\n", "Location: data:,a\r\n", ""] {
            let server = Scripted::start(vec![answer("307 Elsewhere", place, 0, "")]);
            assert!(server.client().get("a", 100).await.is_err(), "{place}");
        }
    }

    #[test]
    fn places_are_meant_as_on_the_web() {
        let client = |base: &str| Web::parse(base).expect("an address").client().expect("a client");
        let cache = client("https://host/cache");
        for (place, url) in [
            ("nar/a", "https://host/cache/nar/a"),
            ("nar/a?b=c", "https://host/cache/nar/a?b=c"),
            ("/nar/a", "https://host/nar/a"),
            ("../nar/a", "https://host/nar/a"),
            ("https://else.example/x", "https://else.example/x"),
            ("//else.example/x", "https://else.example/x"),
        ] {
            assert_eq!(cache.url(place).expect(place).as_str(), url);
        }
        for place in ["file:///etc/passwd", "ftp://host/a", "nar:a", "data:,a"] {
            assert!(cache.url(place).is_err(), "{place}");
        }
        assert_eq!(client("http://host").url("/nar/a").expect("a place").as_str(), "http://host/nar/a");
    }

    #[test]
    fn an_address_has_a_host() {
        for text in ["http://", "nonsense", ""] {
            assert!(Web::parse(text).is_err(), "{text}");
        }
        let secret = Web::parse("https://ann:secret@host/a").expect("an address");
        assert_eq!(shown(&secret.url), "https://ann@host/a/");
        assert_eq!(without_password("https://ann:secret@host/a?b=c"), "https://ann@host/a?b=c");
        assert_eq!(without_password("s3://bucket?region=x"), "s3://bucket?region=x");
        assert_eq!(without_password("https://ann:se/cret@host"), "https://ann@host");
        assert_eq!(without_password("htps:/nowhere"), "htps:/nowhere");
    }
}
