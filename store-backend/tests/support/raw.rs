//! A client that says exactly what a test tells it to, and understands what the server answers.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use verifier::{PathInfo, StoreDir, StorePath};

use super::package::{Package, full};
use super::words::{CLIENT_MAGIC, SERVER_MAGIC, Words, add_multiple, op};

const NEXT: u64 = 0x6f6c_6d67;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// How long an answer may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub struct Raw {
    pub stream: UnixStream,
    /// The log lines that came so far.
    pub lines: Vec<String>,
    /// What the server says of our trust, from 1.35 on.
    pub trusted: Option<u64>,
    /// The server's features.
    pub features: Vec<String>,
}

/// An answer that could not be read: the connection ended.
pub type Cut = std::io::Error;

impl Raw {
    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self { stream, lines: Vec::new(), trusted: None, features: Vec::new() }
    }

    /// Connects without a word.
    pub fn dial(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).expect("the server listens"))
    }

    /// Connects and greets at 1.38 without features.
    pub fn connect(socket: &Path) -> Self {
        let mut raw = Self::dial(socket);
        raw.greet(38, &[]);
        raw
    }

    /// Connects and greets with the feature that keys realisations by path.
    pub fn connect_with_paths(socket: &Path) -> Self {
        let mut raw = Self::dial(socket);
        raw.greet(38, &["realisation-with-path-not-hash"]);
        raw
    }

    pub fn greet(&mut self, minor: u64, features: &[&str]) {
        self.send(&Words::new().u64(CLIENT_MAGIC).u64(0x100 | minor).0);
        assert_eq!(self.u64(), SERVER_MAGIC);
        let server = self.u64();
        assert_eq!(server, 0x126, "the server says 1.38");
        let agreed = minor.min(38);
        if agreed >= 38 {
            self.send(&Words::new().strings(features).0);
            self.features = self.strings();
        }
        self.send(&Words::new().u64(0).u64(0).0);
        if agreed >= 33 {
            assert!(self.str().starts_with("nix-quorum "));
        }
        if agreed >= 35 {
            self.trusted = Some(self.u64());
        }
        self.answer().expect("a greeting");
    }

    /// Sends bytes, however little of them the server wants.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends bytes to a server that may have closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Says that nothing more comes.
    pub fn hang_up(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    pub fn try_exact(&mut self, length: usize) -> Result<Vec<u8>, Cut> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub fn try_u64(&mut self) -> Result<u64, Cut> {
        Ok(u64::from_le_bytes(self.try_exact(8)?.try_into().expect("8 bytes")))
    }

    pub fn u64(&mut self) -> u64 {
        self.try_u64().expect("the server answers")
    }

    pub fn bytes(&mut self) -> Vec<u8> {
        let length = self.u64() as usize;
        let mut bytes = self.try_exact(length.next_multiple_of(8)).expect("the server answers");
        assert!(bytes[length..].iter().all(|byte| *byte == 0), "the server pads with zeros");
        bytes.truncate(length);
        bytes
    }

    pub fn str(&mut self) -> String {
        String::from_utf8(self.bytes()).expect("the server speaks UTF-8")
    }

    pub fn strings(&mut self) -> Vec<String> {
        (0..self.u64()).map(|_| self.str()).collect()
    }

    pub fn paths(&mut self) -> Vec<StorePath> {
        let parse = |text: String| StoreDir::default().parse_path(text.as_bytes()).expect("a store path");
        self.strings().into_iter().map(parse).collect()
    }

    /// Reads messages until the answer begins, or the error's text.
    pub fn answer(&mut self) -> Result<(), String> {
        loop {
            match self.u64() {
                LAST => return Ok(()),
                NEXT => {
                    let line = self.str();
                    self.lines.push(line);
                }
                ERROR => return Err(self.error()),
                START_ACTIVITY => {
                    for _ in 0..3 {
                        self.u64();
                    }
                    self.str();
                    self.fields();
                    self.u64();
                }
                STOP_ACTIVITY => {
                    self.u64();
                }
                RESULT => {
                    self.u64();
                    self.u64();
                    self.fields();
                }
                other => panic!("no message of a daemon: {other:#x}"),
            }
        }
    }

    fn error(&mut self) -> String {
        assert_eq!(self.str(), "Error");
        assert_eq!(self.u64(), 0, "the level of an error");
        assert_eq!(self.str(), "Error");
        let text = self.str();
        assert_eq!(self.u64(), 0, "no position");
        for _ in 0..self.u64() {
            assert_eq!(self.u64(), 0, "no position");
            self.str();
        }
        text
    }

    fn fields(&mut self) {
        for _ in 0..self.u64() {
            match self.u64() {
                0 => {
                    self.u64();
                }
                _ => {
                    self.str();
                }
            }
        }
    }

    /// Sends a request and reads until its answer begins.
    pub fn ask(&mut self, request: &Words) -> Result<(), String> {
        self.send(&request.0);
        self.answer()
    }

    /// Whether the other end has closed the connection: nothing more comes.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    // What tests ask most.

    pub fn is_valid(&mut self, path: &StorePath) -> bool {
        self.ask(&Words::op(op::IS_VALID_PATH).str(&full(path))).expect("an answer");
        self.u64() == 1
    }

    pub fn upload(&mut self, packages: &[&Package]) -> Result<(), String> {
        self.ask(&add_multiple(packages))
    }

    pub fn path_info(&mut self, path: &StorePath) -> Option<PathInfo> {
        self.ask(&Words::op(op::QUERY_PATH_INFO).str(&full(path))).expect("an answer");
        (self.u64() == 1).then(|| self.unkeyed_info(path))
    }

    fn unkeyed_info(&mut self, path: &StorePath) -> PathInfo {
        let store_dir = StoreDir::default();
        let deriver = self.str();
        PathInfo {
            path: path.clone(),
            deriver: (!deriver.is_empty()).then(|| store_dir.parse_path(deriver.as_bytes()).expect("a path")),
            nar_hash: verifier::NarHash::parse(&self.str()).expect("a hash"),
            references: self.paths().into_iter().collect(),
            registration_time: self.u64(),
            nar_size: self.u64(),
            ultimate: self.u64() == 1,
            signatures: self.strings().into_iter().collect(),
            content_address: verifier::ContentAddress::parse_optional(&self.str()).expect("an address"),
        }
    }

    pub fn all_paths(&mut self) -> Vec<StorePath> {
        self.ask(&Words::op(op::QUERY_ALL_VALID_PATHS)).expect("an answer");
        self.paths()
    }

    pub fn valid_among(&mut self, paths: &[&StorePath]) -> Vec<StorePath> {
        let texts: Vec<String> = paths.iter().map(|path| full(path)).collect();
        self.ask(&Words::op(op::QUERY_VALID_PATHS).strings(texts).u64(0)).expect("an answer");
        self.paths()
    }

    /// Asks for a NAR of a known size.
    pub fn nar(&mut self, package: &Package) -> Result<Vec<u8>, String> {
        self.ask(&Words::op(op::NAR_FROM_PATH).str(&package.full_path()))?;
        Ok(self.try_exact(package.nar.len()).expect("the whole NAR comes"))
    }

    pub fn add_signatures(&mut self, path: &StorePath, signatures: &[String]) -> Result<(), String> {
        self.ask(&Words::op(op::ADD_SIGNATURES).str(&full(path)).strings(signatures))?;
        assert_eq!(self.u64(), 1);
        Ok(())
    }
}
