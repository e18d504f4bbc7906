//! Servers under test: nix-quorum, and the nix-daemon that it is compared with.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{Client, newest};
use super::closure::Keys;
use super::s3::{Account, Process, S3};
use super::shell::{SANDBOX, Shell};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nix-quorum");

/// How long a server may take to do what it does at once when the machine is idle.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a client reaches a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `unix://SOCKET?root=DIR`: the client reads files in DIR.
    Unix,
    /// `ssh-ng://localhost?remote-program=SCRIPT`: it asks for them.
    SshNg,
}

/// A policy that wants two of the builders a, b and c; `more` replaces the keys of single builders.
pub fn policy(keys: &Keys, more: &[(&str, &str)]) -> String {
    let mut text = "version = 1\n".to_owned();
    for name in ["a", "b", "c"] {
        let own = more.iter().find(|(builder, _)| *builder == name);
        let keys = own.map_or_else(|| format!("\"{}\"", keys.public(name)), |(_, keys)| (*keys).to_owned());
        let _ = writeln!(text, "[signers.{name}]\nkeys = [{keys}]");
    }
    text + "[groups]\nbuilders = [\"a\", \"b\", \"c\"]\n[default]\nrequire = { at-least = 2, of = \"builders\" }\n"
}

/// Where a gate keeps its paths.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Its URI.
    pub uri: String,
    /// What the environment has to say of it.
    pub environment: Vec<(&'static str, String)>,
}

impl Storage {
    /// Returns a directory.
    pub fn directory(place: &Path) -> Self {
        Self { uri: format!("file://{}", place.display()), environment: Vec::new() }
    }

    /// Returns a bucket.
    pub fn bucket(server: &S3, bucket: &str) -> Self {
        let Account { access_key, secret_key } = server.account.clone();
        let environment = vec![
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ];
        Self { uri: server.uri(bucket), environment }
    }
}

/// A `nix-quorum serve`, ended when dropped.
pub struct Gate {
    process: Process,
    directory: PathBuf,
}

impl Gate {
    /// Starts one over an empty store in `directory`, and waits until it answers and has said so.
    pub fn start(directory: &Path, policy: &str, options: &[&str]) -> Self {
        Self::start_on(directory, &Storage::directory(&directory.join("store")), policy, options)
    }

    /// Starts one over a store that may be elsewhere.
    pub fn start_on(directory: &Path, storage: &Storage, policy: &str, options: &[&str]) -> Self {
        fs::create_dir_all(directory).expect("a directory for the gate");
        fs::write(directory.join("policy.toml"), policy).expect("a policy");
        let socket = directory.join("s");
        write_script(&directory.join("stdio"), &format!("exec '{PROGRAM}' \"$@\" --socket '{}'", socket.display()));
        let process = Process(Self::command(directory, storage, options).spawn().expect("nix-quorum starts"));
        let mut gate = Self { process, directory: directory.to_owned() };
        until_it_answers(&mut gate.process.0, &socket, directory);
        gate.until_it_logs(0, " serving ");
        gate
    }

    /// Starts one that holds what falls short of its quorum, on a socket of its own.
    pub fn start_staging(directory: &Path, policy: &str) -> Self {
        fs::create_dir_all(directory).expect("a directory for the gate");
        let socket = directory.join("staging");
        let place = socket.display().to_string();
        write_script(
            &directory.join("stdio-staging"),
            &format!("exec '{PROGRAM}' \"$@\" --view staging --staging-socket '{place}'"),
        );
        let mut gate = Self::start(directory, policy, &["--staging-socket", &place]);
        until_it_answers(&mut gate.process.0, &socket, directory);
        gate
    }

    /// Starts one that must refuse to serve, and returns its exit status and what it says.
    pub fn refuses_to_start(directory: &Path, policy: &str, options: &[&str]) -> (Option<i32>, String) {
        Self::refuses_to_start_on(directory, &Storage::directory(&directory.join("store")), policy, options)
    }

    /// Starts one over a store that may be elsewhere, which must refuse to serve.
    pub fn refuses_to_start_on(
        directory: &Path,
        storage: &Storage,
        policy: &str,
        options: &[&str],
    ) -> (Option<i32>, String) {
        fs::create_dir_all(directory).expect("a directory for the gate");
        fs::write(directory.join("policy.toml"), policy).expect("a policy");
        let mut process = Self::command(directory, storage, options).spawn().expect("nix-quorum starts");
        let begun = Instant::now();
        let status = loop {
            match process.try_wait().expect("a child's status") {
                Some(status) => break status.code(),
                None if begun.elapsed() > PATIENCE => {
                    let _gone = process.kill();
                    panic!("nix-quorum serves, which it must not");
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        (status, log(directory))
    }

    fn command(directory: &Path, storage: &Storage, options: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--store").arg(&storage.uri).envs(storage.environment.iter().cloned());
        command.arg("--policy").arg(directory.join("policy.toml")).arg("--socket").arg(directory.join("s"));
        command.args(options).stdin(Stdio::null()).env("NIX_QUORUM_CONFIG", "/dev/null");
        command.env("XDG_CACHE_HOME", directory).env_remove("CACHE_DIRECTORY");
        command.stderr(File::create(directory.join("log")).expect("a log"));
        command
    }

    /// Returns the store's URI over a transport; `root` is where a `unix://` client finds the files.
    pub fn uri(&self, transport: Transport, root: &Path) -> String {
        match transport {
            Transport::Unix => format!("{}?root={}", self.unix(), root.display()),
            Transport::SshNg => self.ssh_ng(),
        }
    }

    /// Returns the URI of the socket.
    pub fn unix(&self) -> String {
        format!("unix://{}", self.directory.join("s").display())
    }

    /// Returns the URI that speaks over standard input and output.
    pub fn ssh_ng(&self) -> String {
        format!("ssh-ng://localhost?remote-program={}", self.directory.join("stdio").display())
    }

    /// Returns the URI of the view in which what is held is seen.
    pub fn staging(&self, transport: Transport) -> String {
        let place = |name: &str| self.directory.join(name).display().to_string();
        match transport {
            Transport::Unix => format!("unix://{}", place("staging")),
            Transport::SshNg => format!("ssh-ng://localhost?remote-program={}", place("stdio-staging")),
        }
    }

    /// Returns its process, for those who end it without asking.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Returns the command that looks into its store: to be followed by a subcommand.
    pub fn quorum(&self) -> String {
        let policy = self.directory.join("policy.toml");
        format!(
            "env NIX_QUORUM_CONFIG=/dev/null NIX_QUORUM_STORE={} NIX_QUORUM_POLICY={} {PROGRAM}",
            self.file(),
            policy.display()
        )
    }

    /// Returns the directory that is served, as stock Nix reads it.
    pub fn file(&self) -> String {
        format!("file://{}", self.store().display())
    }

    /// Returns the directory that is served.
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Returns the names of all files in it, but for the locks, which say nothing, and the log of what was decided. What a refused upload had begun may go a
    /// moment after the refusal was heard: that moment is waited for.
    pub fn objects(&self) -> BTreeSet<String> {
        let begun = Instant::now();
        loop {
            let names = names_in(&self.store());
            let unfinished = names.iter().any(|name| name.starts_with("quorum/tmp/"));
            if !unfinished || begun.elapsed() > PATIENCE {
                return names;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns what it has logged.
    pub fn log(&self) -> String {
        log(&self.directory)
    }

    /// Writes a policy and has it read again; returns the line that the server logs then.
    pub fn reload(&self, policy: &str) -> String {
        fs::write(self.directory.join("policy.toml"), policy).expect("a policy");
        let before = self.log().len();
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it still runs");
        self.until_it_logs(before, "read again")
    }

    /// Waits for a line of its log, from an offset in bytes on, and returns it.
    fn until_it_logs(&self, from: usize, part: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            // A line that is not at its end yet is waited for.
            let line = log[from..].split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains(part));
            if let Some(line) = line {
                return line.trim_end().to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "not a word of {part:?}: {}", &log[from..]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as an administrator would; returns its exit status.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it still runs");
        self.process.0.wait().expect("a child's status").code()
    }
}

/// A client's `nix-daemon` over a store of its own, ended when dropped.
pub struct NixDaemon {
    process: Process,
    directory: PathBuf,
    root: PathBuf,
}

impl NixDaemon {
    /// Starts one over an empty store in `directory`. It knows the builders' keys, and what a gate has no need to enable.
    pub fn start(directory: &Path, shell: &Shell, keys: &Keys) -> Self {
        Self::start_over(&directory.join("root"), directory, newest(), shell, keys)
    }

    /// Starts a client's own over a store that is there.
    pub fn start_over(root: &Path, directory: &Path, client: &Client, shell: &Shell, keys: &Keys) -> Self {
        fs::create_dir_all(directory).expect("a directory for nix-daemon");
        let place = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "{SANDBOX}trusted-public-keys = {} {}\ntrusted-users = *\nextra-experimental-features = git-hashing blake3-hashes",
            keys.public("a"),
            keys.public("b")
        );
        let (socket, program) = (place("s"), client.bin.join("nix-daemon"));
        write_script(
            &directory.join("stdio"),
            &format!(
                "export NIX_REMOTE= NIX_CONFIG='{config}' NIX_DAEMON_SOCKET_PATH='{socket}'\nexec '{}' --store '{}' \"$@\"",
                program.display(),
                root.display()
            ),
        );
        let mut command = shell.command(&place("stdio"));
        command.stdin(Stdio::null()).stderr(File::create(directory.join("log")).expect("a log"));
        let process = Process(command.spawn().expect("nix-daemon starts"));
        let mut daemon = Self { process, directory: directory.to_owned(), root: root.to_owned() };
        until_it_answers(&mut daemon.process.0, Path::new(&socket), directory);
        daemon
    }

    /// Returns its URI over a transport.
    pub fn uri(&self, transport: Transport) -> String {
        let place = |name: &str| self.directory.join(name).display().to_string();
        match transport {
            Transport::Unix => format!("unix://{}?root={}", place("s"), self.root.display()),
            Transport::SshNg => format!("ssh-ng://localhost?remote-program={}", place("stdio")),
        }
    }

    /// Returns the URI of its socket, for who cannot or will not see its files.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.directory.join("s").display())
    }
}

fn until_it_answers(process: &mut Child, socket: &Path, directory: &Path) {
    let begun = Instant::now();
    while UnixStream::connect(socket).is_err() {
        let ended = process.try_wait().expect("a child's status");
        if ended.is_some() || begun.elapsed() > PATIENCE {
            panic!("no server at {}: {}", socket.display(), log(directory));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn names_in(store: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable store") {
            let path = entry.expect("a readable store").path();
            if path.is_dir() {
                folders.push(path);
            } else if folder.file_name().is_none_or(|name| name != "lock") {
                let name = path.strip_prefix(store).expect("it is in there").display().to_string();
                if !name.starts_with("quorum/log/") {
                    found.insert(name);
                }
            }
        }
    }
    found
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).expect("a log")
}

/// Writes a script that can be run. Another process does it: one that this process forks meanwhile, for another test, would
/// inherit the open file, and what is open for writing cannot be run.
fn write_script(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\""]).arg(path).arg(text);
    assert!(shell.status().expect("sh runs").success(), "no script at {}", path.display());
}
