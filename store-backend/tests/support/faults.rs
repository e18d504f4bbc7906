//! A proxy of our own between a bucket and its server: what goes through it is late, lost, cut off or answered falsely, as a
//! plan says. Without a server behind it, it gives prepared answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longest head of a message, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// A request that came to the proxy.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query, as the client wrote them.
    pub target: String,
    /// Bytes of its body.
    pub length: u64,
    /// How many came before it that asked the same.
    pub earlier: usize,
    /// When it came.
    pub at: Instant,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get,
    Head,
    List,
    Put,
    Delete,
    /// The start of an upload in parts.
    Create,
    Part,
    Complete,
    Abort,
}

impl Request {
    pub fn operation(&self) -> Operation {
        let asks = |parameter: &str| self.target.contains(parameter);
        match self.method.as_str() {
            "HEAD" => Operation::Head,
            "GET" if asks("list-type=2") => Operation::List,
            "GET" => Operation::Get,
            "PUT" if asks("partNumber=") => Operation::Part,
            "PUT" => Operation::Put,
            "DELETE" if asks("uploadId=") => Operation::Abort,
            "DELETE" => Operation::Delete,
            "POST" if asks("uploadId=") => Operation::Complete,
            "POST" if asks("?uploads") => Operation::Create,
            method => panic!("no bucket sends {method} {}", self.target),
        }
    }

    /// Returns the object's key; for a listing, the folder.
    pub fn key(&self) -> String {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let prefix = query.split('&').find_map(|parameter| parameter.strip_prefix("prefix="));
        let key = path.trim_matches('/').split_once('/').map(|(_, key)| key);
        prefix.or(key).unwrap_or_default().replace("%2F", "/")
    }

    /// Whether this is about what the bucket keeps for itself: its lease, what it knows of its provider.
    pub fn is_internal(&self) -> bool {
        self.key().starts_with("quorum/")
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As if all had been said.
    Close,
    /// With a reset.
    Reset,
    /// It does not end, and nothing more comes.
    Silence,
}

/// What happens to a request and its answer.
#[derive(Debug, Clone)]
pub enum Fault {
    None,
    /// The request is passed on later.
    Delay(Duration),
    /// The server never sees it; this is the answer.
    Answer(Answer),
    /// The server sees the request's head and so many bytes of its body.
    Request(u64, Ending),
    /// The server does its work, and nobody hears of it.
    Lost(Ending),
    /// Of the answer's body so many bytes come.
    Body(usize, Ending),
    /// The answer's body comes in pieces of so many bytes, with pauses.
    Drip(usize, Duration),
    /// The answer comes whole; then the connection is closed, without announcement.
    Leave,
}

/// A prepared answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Answer {
    pub fn new(status: u16, content_type: &str, body: &str) -> Self {
        Self { status, headers: vec![("Content-Type", content_type.into())], body: body.into() }
    }

    /// An error as S3 writes it.
    ///
    /// Source: Amazon S3 API Reference, "Error responses".
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::error_with(status, code, message, "")
    }

    /// An error with further elements.
    pub fn error_with(status: u16, code: &str, message: &str, more: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}\
             <RequestId>4442587FB7D0A2F9</RequestId><HostId>b3BlbiBzZXNhbWU=</HostId></Error>"
        );
        let answer = Self::new(status, "application/xml", &body).with("Server", "AmazonS3");
        answer.with("x-amz-request-id", "4442587FB7D0A2F9")
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn bytes(&self, method: &str) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Said\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if method != "HEAD" {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

type Plan = Box<dyn FnMut(&Request) -> Fault + Send>;

/// What happens to the next requests for an operation on keys that start so.
struct Rule {
    prefix: String,
    operation: Operation,
    left: usize,
    fault: Fault,
}

/// The proxy. It ends with the runtime that it was started on.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// The server's port; none where there is no server.
    server: Option<u16>,
    rules: Mutex<Vec<Rule>>,
    plan: Mutex<Plan>,
    requests: Mutex<Vec<Request>>,
    earlier: Mutex<HashMap<(String, String), usize>>,
}

impl Proxy {
    /// Starts a proxy to a server on loopback. At first there are no faults.
    pub async fn start(server: u16) -> Self {
        Self::listen(Some(server), Box::new(|_| Fault::None)).await
    }

    /// Starts a server that gives prepared answers.
    pub async fn answering(mut answer: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        Self::listen(None, Box::new(move |request| Fault::Answer(answer(request)))).await
    }

    async fn listen(server: Option<u16>, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (rules, requests, earlier) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { server, rules, plan: Mutex::new(plan), requests, earlier });
        let proxy = Self { port, shared: shared.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                stream.set_nodelay(true).expect("a socket");
                tokio::spawn(Connection { stream, read: Vec::new(), shared: shared.clone() }.serve());
            }
        });
        proxy
    }

    /// Has a plan say what happens to each request from now on that no rule is about.
    pub fn plan(&self, plan: impl FnMut(&Request) -> Fault + Send + 'static) {
        *self.shared.plan.lock().expect("no plan panics") = Box::new(plan);
    }

    /// Has one fault happen to the next requests for an operation on keys that start so, so many times.
    pub fn next(&self, prefix: &str, operation: Operation, times: usize, fault: Fault) {
        let rule = Rule { prefix: prefix.into(), operation, left: times, fault };
        self.shared.rules.lock().expect("nobody panics here").push(rule);
    }

    /// Has nothing happen from now on.
    pub fn heal(&self) {
        self.shared.rules.lock().expect("nobody panics here").clear();
        self.plan(|_| Fault::None);
    }

    /// Returns the requests on keys that start so, which were made so far.
    pub fn requests(&self, prefix: &str) -> Vec<Request> {
        let requests = self.shared.requests.lock().expect("nobody panics here");
        requests.iter().filter(|request| request.key().starts_with(prefix)).cloned().collect()
    }

    /// Counts the requests for an operation on keys that start so.
    pub fn count(&self, prefix: &str, operation: Operation) -> usize {
        self.requests(prefix).iter().filter(|request| request.operation() == operation).count()
    }
}

impl Shared {
    fn fault(&self, request: &Request) -> Fault {
        let key = request.key();
        let mut rules = self.rules.lock().expect("nobody panics here");
        let applies =
            |rule: &&mut Rule| rule.left > 0 && key.starts_with(&rule.prefix) && rule.operation == request.operation();
        match rules.iter_mut().find(applies) {
            Some(rule) => {
                rule.left -= 1;
                rule.fault.clone()
            }
            None => (self.plan.lock().expect("no plan panics"))(request),
        }
    }
}

/// One client's connection.
struct Connection {
    stream: TcpStream,
    /// What was read and not yet used.
    read: Vec<u8>,
    shared: Arc<Shared>,
}

/// What a connection is good for after a request.
#[derive(PartialEq, Eq)]
enum After {
    Next,
    End(Ending),
}

impl Connection {
    async fn serve(mut self) {
        loop {
            let Some((head, request)) = self.request().await else { return };
            let fault = self.shared.fault(&request);
            match self.answer(&head, &request, fault).await {
                Some(After::Next) => {}
                // The client or the server has gone.
                None => return,
                Some(After::End(ending)) => return self.end(ending).await,
            }
        }
    }

    async fn end(self, ending: Ending) {
        match ending {
            Ending::Close => {}
            Ending::Reset => self.stream.set_zero_linger().expect("a socket"),
            Ending::Silence => std::future::pending().await,
        }
    }

    async fn request(&mut self) -> Option<(Vec<u8>, Request)> {
        while end_of_head(&self.read).is_none() {
            assert!(self.read.len() < MAX_HEAD, "no bucket sends such a head");
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
        let rest = self.read.split_off(end_of_head(&self.read)?);
        let head = std::mem::replace(&mut self.read, rest);
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut words = text.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let length = header(&text, "content-length").map_or(0, |length| length.parse().expect("a number"));
        assert!(header(&text, "transfer-encoding").is_none(), "every provider takes bodies of a stated length");
        let mut earlier = self.shared.earlier.lock().expect("nobody panics here");
        let count = earlier.entry((method.clone(), target.clone())).or_default();
        let request = Request { method, target, length, earlier: *count, at: Instant::now() };
        *count += 1;
        self.shared.requests.lock().expect("nobody panics here").push(request.clone());
        Some((head, request))
    }

    async fn answer(&mut self, head: &[u8], request: &Request, fault: Fault) -> Option<After> {
        if let Fault::Answer(answer) = &fault {
            self.pass_body(request.length, None).await?;
            self.stream.write_all(&answer.bytes(&request.method)).await.ok()?;
            return Some(After::Next);
        }
        if let Fault::Delay(delay) = fault {
            tokio::time::sleep(delay).await;
        }
        let mut server = TcpStream::connect(("127.0.0.1", self.shared.server.expect("a server"))).await.ok()?;
        server.write_all(&one_request(head)).await.ok()?;
        if let Fault::Request(bytes, ending) = fault {
            self.pass_body(bytes.min(request.length), Some(&mut server)).await?;
            if ending == Ending::Reset {
                server.set_zero_linger().expect("a socket");
            }
            if ending == Ending::Silence {
                std::future::pending::<()>().await;
            }
            return Some(After::End(ending));
        }
        self.pass_body(request.length, Some(&mut server)).await?;
        let mut answer = Vec::new();
        // A server that resets the connection after its answer has answered.
        let _whole = server.read_to_end(&mut answer).await;
        let (head, body) = final_answer(&answer)?;
        let is_framed = request.method == "HEAD" || header(&head, "content-length").is_some() || body.is_empty();
        let after = if is_framed { After::Next } else { After::End(Ending::Close) };
        let head = if is_framed { without_connection(&head) } else { head };
        match fault {
            Fault::Lost(ending) => return Some(After::End(ending)),
            Fault::Body(bytes, ending) => {
                self.stream.write_all(head.as_bytes()).await.ok()?;
                self.stream.write_all(&body[..bytes.min(body.len())]).await.ok()?;
                return Some(After::End(ending));
            }
            Fault::Drip(bytes, pause) => {
                self.stream.write_all(head.as_bytes()).await.ok()?;
                for piece in body.chunks(bytes) {
                    self.stream.write_all(piece).await.ok()?;
                    tokio::time::sleep(pause).await;
                }
            }
            _ => self.stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?,
        }
        Some(if matches!(fault, Fault::Leave) { After::End(Ending::Close) } else { after })
    }

    /// Passes on so many bytes of a request's body, as they come. A server that has heard enough does not matter.
    async fn pass_body(&mut self, mut left: u64, mut server: Option<&mut TcpStream>) -> Option<()> {
        while left > 0 {
            if self.read.is_empty() && self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
            let count = self.read.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece: Vec<u8> = self.read.drain(..count).collect();
            left -= count as u64;
            if let Some(server) = &mut server {
                let _enough = server.write_all(&piece).await;
            }
        }
        Some(())
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Asks the server to close the connection after its answer. No signature covers this header.
fn one_request(head: &[u8]) -> Vec<u8> {
    let (lines, end) = head.split_at(head.len() - 2);
    [lines, b"Connection: close\r\n", end].concat()
}

fn without_connection(head: &str) -> String {
    let lines = head.split_inclusive("\r\n");
    lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect()
}

/// Splits an answer into head and body; what announces it is left out.
fn final_answer(mut answer: &[u8]) -> Option<(String, &[u8])> {
    loop {
        let (head, rest) = answer.split_at(end_of_head(answer)?);
        let head = String::from_utf8_lossy(head).into_owned();
        if !head.starts_with("HTTP/1.1 1") {
            return Some((head, rest));
        }
        answer = rest;
    }
}

/// Numbers that are the same each time.
pub struct Random(pub u64);

impl Random {
    /// Returns a number below `end`.
    ///
    /// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
