//! Reading over HTTP from servers on loopback that answer as they are told.

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

/// Writes an answer down whose body is no text.
fn encoded(headers: &str, body: &[u8]) -> Vec<u8> {
    [answer("200 OK", headers, body.len(), "").as_bytes(), body].concat()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::default());
    encoder.read_to_end(&mut bytes).expect("memory is enough");
    bytes
}

/// More than any body here has.
const MUCH: u64 = 1 << 20;

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
    let body = client.open("nar/b", MUCH).await.expect("an answer").expect("it is there");
    let error = read(body).await.expect_err("it comes too slowly").to_string();
    assert!(error.contains("/nar/b") && error.contains("less than"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn who_breaks_off_after_each_byte_is_not_asked_for_ever() {
    let mut answers = vec![answer("200 OK", RANGES, 1_000, "x")];
    answers.extend((1..1_000).map(|at| part(RANGES, &format!("{at}-999"), 1_000 - at, "x")));
    let server = Scripted::start(answers);
    let body = server.client().open("nar/x", MUCH).await.expect("an answer").expect("it is there");
    let error = read(body).await.expect_err("it comes too slowly").to_string();
    assert!(error.contains("less than"), "{error}");
    assert!(server.asked().len() < 500);
}

#[tokio::test]
async fn what_is_compressed_for_the_transport_is_decompressed() {
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
    let body = client.open("nar/b", MUCH).await.expect("an answer").expect("it is there");
    assert_eq!(read(body).await.expect("all of it"), "a NAR");
    let get = async |place| client.get(place, 100).await.expect_err(place).to_string();
    assert!(get("bomb").await.contains("more than 100 bytes"));
    assert!(get("half").await.contains("/cache/half"));
    assert!(get("secret").await.contains("compressed with secret"));
    let Err(error) = client.open("secret", MUCH).await else { panic!("nobody knows how to read it") };
    assert!(error.to_string().contains("compressed with secret"), "{error}");
}

/// A server could send what stands for nothing for ever.
#[tokio::test]
async fn what_stands_for_nothing_is_not_read_without_end() {
    let body = [gzip("").repeat(1_000), gzip("a NAR")].concat();
    let server = Scripted::start(vec![encoded("Content-Encoding: gzip\r\n", &body); 2]);
    let read_of = async |most| {
        let body = server.client().open("nar/x", most).await.expect("an answer").expect("it is there");
        read(body).await.ok()
    };
    assert_eq!(read_of(body.len() as u64).await.as_deref(), Some("a NAR"));
    assert_ne!(read_of(1_000).await.as_deref(), Some("a NAR"));
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    for status in ["404 Not Found", "403 Forbidden", "410 Gone"] {
        let server = Scripted::start(vec![answer(status, "", 0, ""); 3]);
        let client = server.client();
        assert_eq!(client.get("a", 100).await.expect("an answer"), None, "{status}");
        assert!(client.open("nar/b", MUCH).await.expect("an answer").is_none(), "{status}");
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
    let body = server.client().open("nar/x", MUCH).await.expect("an answer").expect("it is there");
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
        let body = server.client().open("nar/x", MUCH).await.expect("an answer").expect("it is there");
        assert!(read(body).await.expect_err(&second).to_string().contains("replaced"), "{second}");
    }
    // A weak tag cannot be asked for, but compared.
    let weak = ranges.replace("\"v1", "W/\"v1");
    let server = Scripted::start(vec![answer("200 OK", &weak, 10, "0123"), part(&weak, "4-9", 6, "456789")]);
    let body = server.client().open("nar/x", MUCH).await.expect("an answer").expect("it is there");
    assert_eq!(read(body).await.expect("all of it"), "0123456789");
    assert_eq!(server.asked()[1], "GET /cache/nar/x HTTP/1.1 range: bytes=4-");
    // A server that sends no parts is not asked for one.
    let server = Scripted::start(vec![answer("200 OK", "", 10, "0123")]);
    let body = server.client().open("nar/x", MUCH).await.expect("an answer").expect("it is there");
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
