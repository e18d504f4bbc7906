//! Commands as a person would type them, for a Nix that sees nothing but one directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::client::{Client, tool};

/// How long a command may take, in seconds. None needs more than a few; one that hangs must not hang the suite.
const PATIENCE: &str = "120";

/// What Nix needs to build where the store has a root of its own (see tests/nix/closure).
pub(super) const SANDBOX: &str =
    "sandbox-paths = /bin /lib /lib64 /usr\nsandbox-fallback = false\nfilter-syscalls = false\n";

/// A directory that goes when it is dropped, with all the read-only stores in it.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _as_good_as_it_gets = Command::new("chmod").args(["-R", "u+w"]).arg(self.path()).output();
    }
}

/// A place to run commands in, with a Nix client first in PATH.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The working directory, which commands know as `$W`.
    pub place: PathBuf,
    environment: Vec<(OsString, OsString)>,
    /// Not exported: Nix takes a store path in a process's environment for a root.
    variables: BTreeMap<String, String>,
    prefix: Vec<String>,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit status; 128 and more when a signal ended it.
    pub status: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Shell {
    /// Makes `place` a working directory for a client.
    pub fn new(client: &Client, place: &Path) -> Self {
        let work = place.join("w");
        fs::create_dir_all(&work).expect("a directory to work in");
        let script = ". \"$0\" \"$1\" && env -0";
        let sourced = Command::new("bash").args(["-euc", script]).arg(tool("env.sh")).arg(place).output();
        let sourced = sourced.expect("bash runs");
        assert!(sourced.status.success(), "env.sh: {}", String::from_utf8_lossy(&sourced.stderr));
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        for entry in sourced.stdout.split(|byte| *byte == 0) {
            let Some(at) = entry.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (entry[..at].to_vec(), entry[at + 1..].to_vec());
            environment.push((OsString::from_vec(name), OsString::from_vec(value)));
        }
        let path = std::env::var("PATH").expect("a PATH");
        environment.push(("PATH".into(), format!("{}:{path}", client.bin.display()).into()));
        environment.push(("NIX_CONFIG".into(), SANDBOX.into()));
        let variables = BTreeMap::from([("W".to_owned(), work.display().to_string())]);
        Self { place: work, environment, variables, prefix: Vec::new() }
    }

    /// Sets a variable for the commands to come.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Returns a shell like this one, in which another user types. Its client must find a place that it may write to.
    pub fn as_user(&self, uid: u32) -> Self {
        let mut other = self.clone();
        other.prefix = ["setpriv", "--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups"]
            .map(str::to_owned)
            .to_vec();
        other
    }

    /// Runs a command. One that hangs is cut off, and fails the test.
    #[track_caller]
    pub fn run(&self, command: &str) -> Ran {
        let mut script = "set -o pipefail\n".to_owned();
        for (name, value) in &self.variables {
            script += &format!("{name}='{}'\n", value.replace('\'', r"'\''"));
        }
        let mut words: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        words.extend(["timeout", "--kill-after=5", PATIENCE, "bash", "-c"]);
        let mut process = self.command(words[0]);
        process.args(&words[1..]).arg(script + command).stdin(Stdio::null());
        let output = process.output().expect("timeout and bash run");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let ran = Ran {
            status: output.status.code().unwrap_or(128),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        // Whatever a test expects, it is never this.
        assert!(
            ![124, 137].contains(&ran.status),
            "cut off after {PATIENCE} s: {command}\n{}{}",
            ran.stdout,
            ran.stderr
        );
        ran
    }

    /// Returns a program that will run in this place, to be started by the caller.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut process = Command::new(program);
        process.current_dir(&self.place).env_clear().envs(self.environment.iter().cloned());
        process
    }

    /// Runs a command that must succeed, and returns what it wrote, without the last newline.
    #[track_caller]
    pub fn must(&self, command: &str) -> String {
        let ran = self.run(command);
        assert_eq!(ran.status, 0, "{command}\n{}{}", ran.stdout, ran.stderr);
        ran.stdout.trim_end().to_owned()
    }

    /// Runs a command that must fail and say something, once and on one line; returns what it complained about.
    #[track_caller]
    pub fn must_fail(&self, command: &str, says: &str) -> String {
        let (ran, says) = (self.run(command), self.expand(says));
        assert_ne!(ran.status, 0, "{command}\nshould have failed: {says}\n{}{}", ran.stdout, ran.stderr);
        let lines = ran.stderr.lines().filter(|line| line.contains(&says)).count();
        assert_eq!(lines, 1, "{command}\nshould say once: {says}\n{}{}", ran.stdout, ran.stderr);
        ran.stderr
    }

    /// Puts the variables' values into a text.
    pub fn expand(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in self.variables.iter().rev() {
            text = text.replace(&format!("${name}"), value);
        }
        text
    }

    /// Takes what differs from one place to another out of a command's answer.
    pub fn normalize(&self, answer: &str) -> String {
        let mut answer = answer.to_owned();
        for name in ["S", "W"] {
            if let Some(value) = self.variables.get(name) {
                answer = answer.replace(value.as_str(), name);
            }
        }
        answer
    }
}
