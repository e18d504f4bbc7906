//! The real client, in surroundings of its own: it sees neither the machine's configuration nor the user's, and no network.

use tokio::process::Command;

use super::package::Package;
use super::programs;
use super::stage::Stage;
use super::step::Run;

/// What its configuration says: nothing comes from anywhere that the demonstration did not name, nobody's signature counts that
/// it did not name, and nothing is remembered of what a cache has.
const CONFIGURATION: &str = "\
experimental-features = nix-command
substituters =
trusted-public-keys =
build-users-group =
sandbox = false
narinfo-cache-negative-ttl = 0
narinfo-cache-positive-ttl = 0
";

/// The Nix that is on PATH.
pub(super) struct Nix {
    version: String,
}

impl Nix {
    /// Finds Nix; none where there is none that works.
    pub(super) async fn find(stage: &Stage) -> Option<Self> {
        stage.write("etc/nix.conf", CONFIGURATION).ok()?;
        let run = programs::run(stage, "nix --version".into(), command(stage, &["--version"])).await;
        let version = run.output.first().filter(|_| run.exited(0))?.clone();
        let works = programs::run(stage, "nix copy --help".into(), command(stage, &["copy", "--version"])).await;
        works.exited(0).then_some(Self { version })
    }

    /// Returns what it calls itself, such as `nix (Nix) 2.34.8`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Copies a closure from a folder to the gate.
    pub(super) async fn copy(&self, stage: &Stage, folder: &str, top: &Package) -> Run {
        let (from, to) = (format!("file://{}/{folder}", stage.place()), socket(stage));
        nix(stage, &["copy", "--from", &from, "--to", &to, &top.path()]).await
    }

    /// Asks the gate what it knows of a path.
    pub(super) async fn path_info(&self, stage: &Stage, package: &Package) -> Run {
        nix(stage, &["path-info", "--store", &socket(stage), "--size", "--sigs", &package.path()]).await
    }

    /// Reads a file of a path from the gate.
    pub(super) async fn cat(&self, stage: &Stage, package: &Package, file: &str) -> Run {
        let store = reading_store(stage);
        let place = format!("{}/{file}", package.path());
        let typed = format!("{SOCKET} nix store cat --store '{store}' {place}");
        let mut command = command(stage, &["store", "cat", "--store", &store, &place]);
        command.env("NIX_QUORUM_SOCKET", stage.at("store.sock"));
        programs::run(stage, typed, command).await
    }
}

/// Tells `nix-quorum --stdio` where the gate listens.
pub(super) const SOCKET: &str = "NIX_QUORUM_SOCKET=$PWD/store.sock";

/// Returns the URI by which clients read contents. Nix's `unix://` reads files from its own disk, so this goes over the protocol
/// as it would over ssh; to localhost, Nix runs the other end itself, without ssh.
pub(super) fn reading_store(stage: &Stage) -> String {
    format!("ssh-ng://localhost?remote-program={}", stage.own_program().display())
}

/// Returns the URI by which clients upload and ask.
pub(super) fn socket(stage: &Stage) -> String {
    format!("unix://{}/store.sock", stage.place())
}

async fn nix(stage: &Stage, arguments: &[&str]) -> Run {
    programs::run(stage, format!("nix {}", arguments.join(" ")), command(stage, arguments)).await
}

fn command(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = programs::program(stage, "nix");
    command.env("NIX_CONF_DIR", stage.at("etc"));
    // Where Nix would keep a store of its own, which for root would otherwise be the machine's.
    command.env("NIX_REMOTE", stage.at("nix"));
    command.args(["--extra-experimental-features", "nix-command"]).args(arguments);
    command
}
