//! What else serves a store to auditors: a web server in front of a directory, and an SSH server in front of a program.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::s3::Process;
use super::shell::Shell;

/// How long a server may take to start when the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Python's own web server on loopback, ended when dropped.
pub struct WebServer {
    process: Process,
    port: u16,
}

impl WebServer {
    /// Serves a directory.
    pub fn start(directory: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0", "--directory"]).arg(directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process(command.spawn().expect("python3 starts"));
        let mut line = String::new();
        let output = process.0.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("its first line says where it is");
        let port = line.split_whitespace().skip_while(|word| *word != "port").nth(1).and_then(|port| port.parse().ok());
        Self { process, port: port.expect("its first line says where it is") }
    }

    /// Returns its address.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// An SSH server on loopback that lets one key in, ended when dropped.
pub struct SshServer {
    process: Process,
    directory: PathBuf,
    port: u16,
    /// In base 64, as URIs have it.
    host_key: String,
}

impl SshServer {
    /// Starts one. It needs root, to become whoever logs in.
    pub fn start(directory: &Path, shell: &Shell) -> Self {
        fs::create_dir_all(directory).expect("a directory for sshd");
        // It wants this to be there, and to be root's.
        fs::create_dir_all("/run/sshd").expect("a directory for what sshd separates");
        let place = |name: &str| directory.join(name).display().to_string();
        for name in ["host", "user"] {
            shell.must(&format!("ssh-keygen -q -t ed25519 -N '' -C {name} -f '{}'", place(name)));
        }
        let host_key = shell.must(&format!("base64 -w0 '{}'", place("host.pub")));
        // Somebody else may take the port before sshd does: then it says so, and ends.
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("a port").port();
            drop(listener);
            // bash takes itself for one within another then, and leaves alone what the user wrote for logins.
            let config = format!(
                "SetEnv SHLVL=9\nListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
                 PasswordAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\nMaxStartups 100\n",
                place("host"),
                place("user.pub"),
            );
            fs::write(directory.join("config"), config).expect("its configuration");
            let log = directory.join(format!("log-{port}"));
            let mut command = Command::new("/usr/sbin/sshd");
            command.args(["-D", "-f", &place("config"), "-E"]).arg(&log).stdin(Stdio::null());
            let process = Process(command.spawn().expect("sshd starts"));
            let (directory, host_key) = (directory.to_owned(), host_key.clone());
            let mut server = Self { process, directory, port, host_key };
            let begun = Instant::now();
            loop {
                let said = fs::read_to_string(&log).unwrap_or_default();
                if said.contains("Server listening on") {
                    return server;
                }
                let ended = server.process.0.try_wait().expect("a child's status").is_some();
                assert!(begun.elapsed() < PATIENCE, "sshd does not listen: {said}");
                if ended {
                    assert!(said.contains("Address already in use"), "sshd has ended: {said}");
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Returns the URI of a program behind it.
    pub fn uri(&self, program: &str) -> String {
        let key = self.directory.join("user");
        format!(
            "ssh-ng://root@127.0.0.1:{}?remote-program={program}&ssh-key={}&base64-ssh-public-host-key={}",
            self.port,
            key.display(),
            self.host_key.replace('+', "%2B").replace('=', "%3D"),
        )
    }
}
