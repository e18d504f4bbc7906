//! Where a daemon is, and how one gets there.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use tokio::process::Command;
use verifier::StoreDir;

use crate::client::{Client, ClientError};

/// Options for ssh, as Nix takes them from the environment.
const SSH_OPTIONS: &str = "NIX_SSHOPTS";

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// At a Unix socket.
    Socket(PathBuf),
    /// Behind the system's `ssh`.
    Ssh(Ssh),
}

/// A daemon that a program on another machine speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// `[USER@]HOST[:PORT]`. As in Nix, `localhost` by itself is this machine, without ssh.
    pub authority: String,
    /// The program there and its first arguments.
    pub program: Vec<String>,
    /// The store that it is to serve; none for its own choice.
    pub store: Option<String>,
    /// The private key to log in with; none for ssh's own choice.
    pub key: Option<PathBuf>,
    /// The key that the host must have, in base 64 as in a `known_hosts` file; none for those that ssh knows.
    pub host_key: Option<String>,
    /// Whether ssh compresses.
    pub compress: bool,
}

impl Remote {
    /// Says which daemon this is, as far as that can be told from here: by its address, and by all that leads elsewhere there.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Socket(socket) => {
                // Each start makes another file of the same name.
                std::fs::canonicalize(socket).unwrap_or_else(|_| socket.clone()).display().to_string()
            }
            Self::Ssh(Ssh { program, store, key, host_key, .. }) => {
                let options = std::env::var(SSH_OPTIONS).unwrap_or_default();
                format!(
                    "{self} (program {program:?}, store {store:?}, key {key:?}, host key {host_key:?}, options {options:?})"
                )
            }
        }
    }

    /// Says whether another connection takes no time to speak of.
    pub(super) fn is_near(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Ssh(ssh) => ssh.is_here(),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody answers there, or what answers is no Nix daemon.
    pub(super) async fn connect(&self, store_dir: &StoreDir) -> Result<Client, ClientError> {
        match self {
            Self::Socket(socket) => Client::connect(socket, store_dir).await,
            Self::Ssh(ssh) => ssh.connect(store_dir).await,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.display().fmt(f),
            Self::Ssh(ssh) => write!(f, "ssh-ng://{}", ssh.authority),
        }
    }
}

impl Ssh {
    fn is_here(&self) -> bool {
        self.authority == "localhost"
    }

    /// Returns the user, the host without brackets, and the port.
    fn parts(&self) -> (Option<&str>, &str, Option<&str>) {
        let (user, place) = match self.authority.split_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, self.authority.as_str()),
        };
        if let Some((host, port)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            return (user, host, port.strip_prefix(':'));
        }
        // More than one colon are an address of version 6.
        match place.split_once(':') {
            Some((host, port)) if !port.contains(':') => (user, host, Some(port)),
            _ => (user, place, None),
        }
    }

    /// Says what ssh would not understand, or understand as an option.
    pub(super) fn mistake(&self) -> Option<String> {
        let (user, host, port) = self.parts();
        let is_plain = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-:%+".contains(c);
            !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
        };
        if !is_plain(host) || user.is_some_and(|user| !is_plain(user)) {
            return Some(format!("expected [USER@]HOST[:PORT] with the name of a host, found {:?}", self.authority));
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Some(format!("expected a port's number in {:?}", self.authority));
        }
        self.program.is_empty().then(|| "remote-program names no program".to_owned())
    }

    async fn connect(&self, store_dir: &StoreDir) -> Result<Client, ClientError> {
        let mut words = self.program.clone();
        words.push("--stdio".into());
        words.extend(self.store.iter().flat_map(|store| ["--store".to_owned(), store.clone()]));
        if self.is_here() {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            return Client::start(command, store_dir).await;
        }
        let failed = |why: String| ClientError::Connect { place: "ssh".into(), source: std::io::Error::other(why) };
        let (user, host, port) = self.parts();
        let mut command = Command::new("ssh");
        command.arg(user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"))).arg("-x");
        if let Ok(options) = std::env::var(SSH_OPTIONS) {
            let words = shlex::split(&options);
            command.args(words.ok_or_else(|| failed(format!("{SSH_OPTIONS} is no list of words: {options:?}")))?);
        }
        if let Some(key) = &self.key {
            command.arg("-i").arg(key);
        }
        // Kept until the host has greeted, so that ssh has read it by then.
        let mut known_hosts = None;
        if let Some(key) = &self.host_key {
            let file = self.known_hosts(host, port, key).map_err(|error| failed(error.to_string()))?;
            command.arg(format!("-oUserKnownHostsFile={}", file.path().display()));
            known_hosts = Some(file);
        }
        if self.compress {
            command.arg("-C");
        }
        if let Some(port) = port {
            command.arg("-p").arg(port);
        }
        // A shell at the other end takes these apart again.
        let quoted = shlex::try_join(words.iter().map(String::as_str)).map_err(|error| failed(error.to_string()))?;
        command.arg("--").arg(quoted);
        let connected = Client::start(command, store_dir).await;
        drop(known_hosts);
        connected
    }

    fn known_hosts(&self, host: &str, port: Option<&str>, key: &str) -> std::io::Result<tempfile::NamedTempFile> {
        use std::io::Write as _;
        let unreadable =
            || std::io::Error::other("base64-ssh-public-host-key is no line of a known_hosts file in base 64");
        let key = base64::engine::general_purpose::STANDARD.decode(key).map_err(|_| unreadable())?;
        let mut file = tempfile::NamedTempFile::new()?;
        match port {
            Some(port) => write!(file, "{host},[{host}]:{port} ")?,
            None => write!(file, "{host} ")?,
        }
        file.write_all(&key)?;
        file.write_all(b"\n")?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_host_apart() {
        let ssh = |authority: &str| Ssh {
            authority: authority.into(),
            program: vec!["nix-daemon".into()],
            store: None,
            key: None,
            host_key: None,
            compress: false,
        };
        for (authority, parts) in [
            ("host", (None, "host", None)),
            ("ann@host", (Some("ann"), "host", None)),
            ("ann@host:22", (Some("ann"), "host", Some("22"))),
            ("[::1]:22", (None, "::1", Some("22"))),
            ("fe80::1%eth0", (None, "fe80::1%eth0", None)),
        ] {
            assert_eq!(ssh(authority).parts(), parts);
            assert_eq!(ssh(authority).mistake(), None, "{authority}");
        }
        for authority in ["", "-x", "ann@", "-x@host", "host:", "host:99999", "a b", "host;x", "a/b"] {
            assert!(ssh(authority).mistake().is_some(), "{authority}");
        }
    }
}
