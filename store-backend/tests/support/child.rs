//! Processes of their own: this test program again, running one test that is ignored otherwise. They can be killed, and
//! their memory measured, without the test that watches them.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A child that runs one of this program's ignored tests.
pub struct Worker {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// The variable that tells a child where to work.
const PLACE: &str = "NIX_QUORUM_TEST_PLACE";

impl Worker {
    /// Starts the ignored test of a name.
    pub fn start(test: &str, place: &Path, settings: &[(&str, String)]) -> Self {
        Self::start_as(None, test, place, settings)
    }

    /// Starts the ignored test of a name, as another user.
    pub fn start_as(user: Option<u32>, test: &str, place: &Path, settings: &[(&str, String)]) -> Self {
        let program = std::env::current_exe().expect("this program has a name");
        let mut command = Command::new(program);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command
            .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
            .env(PLACE, place)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("this program can be started again");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, output }
    }

    /// Waits until the child has said a word.
    pub fn wait_for(&mut self, word: &str) {
        self.wait_for_any(&[word]);
    }

    /// Waits until the child has said one of some words, and returns it.
    pub fn wait_for_any<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).expect("text") > 0, "the child ended before it said {words:?}");
            if let Some(word) = words.iter().find(|word| line.trim_end().ends_with(**word)) {
                return word;
            }
        }
    }

    /// Kills the child, as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Waits until the child has done its work.
    pub fn finish(mut self) {
        assert!(self.child.wait().expect("it is ours").success());
    }

    /// The memory that is the child's, in bytes: resident now, and at the most so far.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("Linux says so");
            let kilobytes: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
            kilobytes << 10
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// In the child: where to work; none when somebody runs the ignored tests by hand.
pub fn place() -> Option<std::path::PathBuf> {
    std::env::var_os(PLACE).map(Into::into)
}

/// In the child: says a word to the parent.
pub fn say(word: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    writeln!(out, "{word}").and_then(|()| out.flush()).expect("the parent reads");
}
