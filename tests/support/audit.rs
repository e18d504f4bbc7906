//! Audits of one store of each kind that Nix has, and what they say.

use std::fs;
use std::path::Path;

use super::client::{Client, only_as_root};
use super::closure::keys;
use super::hosts::{SshServer, WebServer};
use super::s3::{public_s3s_fs, s3s_fs};
use super::server::{NixDaemon, PROGRAM, Transport};
use super::shell::Shell;

/// Returns what an audit says of each path, and its exit code. The store may be a URI for the shell.
pub fn verdicts(shell: &Shell, store: &str, options: &str) -> String {
    let command = format!(
        "env NIX_QUORUM_CONFIG=/dev/null AWS_EC2_METADATA_DISABLED=true {PROGRAM} verify --store '{store}' {options} --json"
    );
    let ran = shell.run(&format!("{command} >$W/report"));
    let query = r#".paths[] | [.path, .standing, ([.findings[].code] | sort | join(" ")), (.signers | join(" "))] | join(": ")"#;
    let verdicts = shell.must(&format!("jq -r '{query}' $W/report"));
    // What a daemon behind ssh warns of comes through.
    let complaints: Vec<&str> = ran.stderr.lines().filter(|line| !line.contains("warning:")).collect();
    format!("{verdicts}\n(exit code {}){}", ran.status, complaints.join("\n"))
}

/// One store of each kind: over a store's root, and over a binary cache that holds the same.
pub struct EachKind {
    pub uris: Vec<String>,
    _daemon: NixDaemon,
    _web: WebServer,
    _ssh: Option<SshServer>,
}

impl EachKind {
    /// Starts what serves them. `directory` is for the servers' own files, `bucket` a name that nobody else takes.
    pub fn start(client: &Client, shell: &Shell, directory: &Path, root: &Path, cache: &Path, bucket: &str) -> Self {
        let daemon = NixDaemon::start_over(root, &directory.join("daemon"), client, shell, &keys());
        let web = WebServer::start(cache);
        let mut uris = vec![
            root.display().to_string(),
            format!("local?root={}", root.display()),
            daemon.uri(Transport::Unix),
            daemon.socket(),
            daemon.uri(Transport::SshNg),
            format!("file://{}", cache.display()),
            web.uri(),
        ];
        if let (Some(server), Some(public)) = (s3s_fs(), public_s3s_fs()) {
            server.make_bucket(bucket);
            let folder = server.folder(bucket);
            shell.must(&format!("cp -r '{}'/. '{}'", cache.display(), folder.display()));
            // Nobody is asked who they are there.
            uris.push(public.uri(bucket));
        }
        let mut ssh = None;
        only_as_root(|| {
            let server = SshServer::start(&directory.join("ssh"), shell);
            uris.push(server.uri(&directory.join("daemon/stdio").display().to_string()));
            ssh = Some(server);
        });
        Self { uris, _daemon: daemon, _web: web, _ssh: ssh }
    }
}
