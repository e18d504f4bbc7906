//! Real S3 servers on loopback, which `tests/s3/install` and `tests/s3/garage` put on this machine. They end with the test
//! program.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start when the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an account may do that keeps a store.
const STORE: &str = "s3:*";

/// Someone whom a server knows.
#[derive(Debug, Clone)]
pub struct Account {
    pub access_key: String,
    pub secret_key: String,
}

/// A server that was started.
#[derive(Debug)]
pub struct S3 {
    pub port: u16,
    pub account: Account,
    keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    Moto(Mutex<Lines>),
    /// Buckets are directories.
    S3sFs(PathBuf, Mutex<Process>),
    Garage(Garage, Mutex<Process>),
}

/// How a server of garage is told what to do.
#[derive(Debug)]
struct Garage {
    program: PathBuf,
    config: PathBuf,
}

#[derive(Debug)]
struct Lines {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Process,
}

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Returns where something was installed; none if it was not.
fn place_of(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|place| place.join("target"));
    found.chain([target.to_owned()]).map(|target| target.join("s3").join(name)).find(|place| place.exists())
}

/// Returns the place of something that was installed; none if it was not, which only CI must not do without.
fn installed(name: &str) -> Option<PathBuf> {
    let place = place_of(name);
    if place.is_none() {
        assert!(std::env::var_os("CI").is_none(), "tests/s3/install did not put {name} here");
        let said = writeln!(std::io::stderr(), "passed over: there is no {name}; tests/s3/install puts it here");
        said.expect("stderr");
    }
    place
}

/// Returns moto's server, which honours conditions and asks for signatures; this program's only one.
pub fn moto() -> Option<&'static S3> {
    static SERVER: OnceLock<Option<S3>> = OnceLock::new();
    SERVER.get_or_init(start_moto).as_ref()
}

fn start_moto() -> Option<S3> {
    let python = installed("venv/bin/python")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|place| place.join("tests/s3/server.py"));
    let script = script.into_iter().find(|place| place.exists()).expect("it is in the repository");
    let mut process = Command::new(python);
    process.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = process.spawn().expect("python starts");
    let input = process.stdin.take().expect("it is piped");
    let output = BufReader::new(process.stdout.take().expect("it is piped"));
    let mut lines = Lines { input, output, _process: Process(process) };
    let port = lines.read().parse().expect("moto's first line is its port");
    let account = lines.account("keeper", &[STORE]);
    Some(S3 { port, account, keeper: Keeper::Moto(Mutex::new(lines)) })
}

/// Returns a server of s3s-fs, which looks at conditions before the body has come.
pub fn s3s_fs() -> Option<&'static S3> {
    static SERVER: OnceLock<Option<S3>> = OnceLock::new();
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| TempDir::new().expect("a directory"));
    SERVER.get_or_init(|| start_s3s_fs(folder.path(), true)).as_ref()
}

/// Returns another door to the buckets of [`s3s_fs`], at which nobody is asked who they are.
pub fn public_s3s_fs() -> Option<&'static S3> {
    static SERVER: OnceLock<Option<S3>> = OnceLock::new();
    let Keeper::S3sFs(folder, _) = &s3s_fs()?.keeper else { return None };
    SERVER.get_or_init(|| start_s3s_fs(folder, false)).as_ref()
}

fn start_s3s_fs(folder: &Path, signed: bool) -> Option<S3> {
    let program = installed("bin/s3s-fs")?;
    let account = Account { access_key: "keeper".into(), secret_key: "nobody else knows".into() };
    let [port] = free_ports();
    let mut server = in_the_background(if signed { "rm -rf \"$FOLDER\"" } else { ":" });
    server.env("FOLDER", folder).arg(program).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    if signed {
        server.args(["--access-key", &account.access_key, "--secret-key", &account.secret_key]);
    }
    server.arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Mutex::new(Process(server.spawn().expect("sh starts")));
    wait_for("s3s-fs", port, None);
    Some(S3 { port, account, keeper: Keeper::S3sFs(folder.to_owned(), process) })
}

/// Returns a server of garage, which does not look at the conditions of a write. Only tests that are ignored unless somebody
/// asks for them need it.
pub fn garage() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| TempDir::new().expect("a directory"));
    SERVER.get_or_init(|| start_garage(folder.path()))
}

fn start_garage(folder: &Path) -> S3 {
    let program = place_of("bin/garage").expect("tests/s3/garage puts garage here");
    let [port, rpc] = free_ports();
    // The forms that garage wants keys to have.
    let account = Account { access_key: format!("GK{}", random::<12>()), secret_key: random::<32>() };
    let config = folder.join("garage.toml");
    let place = folder.display();
    let secret = random::<32>();
    let text = format!(
        "metadata_dir = \"{place}/meta\"\n\
         data_dir = \"{place}/data\"\n\
         db_engine = \"lmdb\"\n\
         replication_factor = 1\n\
         rpc_bind_addr = \"127.0.0.1:{rpc}\"\n\
         rpc_public_addr = \"127.0.0.1:{rpc}\"\n\
         rpc_secret = \"{secret}\"\n\
         [s3_api]\n\
         api_bind_addr = \"127.0.0.1:{port}\"\n\
         s3_region = \"us-east-1\"\n"
    );
    std::fs::write(&config, text).expect("it can be written");
    let log = folder.join("log");
    let said = std::fs::File::create(&log).expect("it can be written");
    let mut server = in_the_background("rm -rf \"$FOLDER\"");
    server.env("FOLDER", folder).arg(&program).arg("-c").arg(&config);
    // It lays itself out, and makes an account.
    server.args(["server", "--single-node", "--default-access-key"]);
    server.env("GARAGE_DEFAULT_ACCESS_KEY", &account.access_key).env("GARAGE_DEFAULT_SECRET_KEY", &account.secret_key);
    server.stdout(Stdio::null()).stderr(said);
    let process = Mutex::new(Process(server.spawn().expect("sh starts")));
    wait_for("garage", port, Some(&log));
    S3 { port, account, keeper: Keeper::Garage(Garage { program, config }, process) }
}

/// Returns a command that runs its arguments as a server until its standard input ends, and cleans up then: its standard input
/// stays open as long as this program lives.
fn in_the_background(cleaning: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("\"$0\" \"$@\" & cat; kill -9 $!; wait; {cleaning}")]).stdin(Stdio::piped());
    command
}

/// Returns ports of loopback that nobody listens on.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("a port").port())
}

/// Returns so many random bytes, in hexadecimal.
fn random<const COUNT: usize>() -> String {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Waits until a server answers; if it does not, its log says why.
fn wait_for(name: &str, port: u16, log: Option<&Path>) {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default();
        assert!(begun.elapsed() < PATIENCE, "{name} does not answer: {}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl S3 {
    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) {
        match &self.keeper {
            Keeper::Moto(lines) => {
                let said = lines.lock().expect("nobody panics here").ask(&format!("bucket {name}"));
                assert_eq!(said, "ok");
            }
            Keeper::S3sFs(folder, _) => std::fs::create_dir(folder.join(name)).expect("a new bucket"),
            Keeper::Garage(garage, _) => {
                garage.tell(&["bucket", "create", name]);
                let key = &self.account.access_key;
                garage.tell(&["bucket", "allow", "--read", "--write", "--owner", name, "--key", key]);
            }
        }
    }

    /// Makes an account that may do just some things. Only moto has more than one.
    pub fn make_account(&self, name: &str, actions: &[&str]) -> Account {
        let Keeper::Moto(lines) = &self.keeper else { panic!("the others have one account") };
        lines.lock().expect("nobody panics here").account(name, actions)
    }

    /// Returns where s3s-fs keeps a bucket.
    pub fn folder(&self, bucket: &str) -> PathBuf {
        let Keeper::S3sFs(folder, _) = &self.keeper else { panic!("the others keep no files like these") };
        folder.join(bucket)
    }

    /// Returns the URI of a bucket.
    pub fn uri(&self, bucket: &str) -> String {
        format!("s3://{bucket}?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port)
    }
}

impl Garage {
    fn tell(&self, words: &[&str]) {
        let told = Command::new(&self.program).arg("-c").arg(&self.config).args(words).output().expect("garage starts");
        assert!(told.status.success(), "garage {}: {}", words.join(" "), String::from_utf8_lossy(&told.stderr));
    }
}

impl Lines {
    fn read(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("moto answers");
        assert!(line.ends_with('\n'), "moto ended");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("moto listens");
        self.read()
    }

    fn account(&mut self, name: &str, actions: &[&str]) -> Account {
        let said = self.ask(&format!("user {name} {}", actions.join(" ")));
        let (access_key, secret_key) = said.split_once(' ').expect("two keys");
        Account { access_key: access_key.into(), secret_key: secret_key.into() }
    }
}
