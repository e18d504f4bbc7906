//! Where Nix's own files are on this machine, and what tells files apart.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Where Nix keeps what it knows of a store, below the store's root.
pub(super) const STATE: &str = "/nix/var/nix";

/// Returns where Nix keeps what it knows of the machine's own store.
pub(super) fn state() -> PathBuf {
    variable("NIX_STATE_DIR").unwrap_or_else(|| STATE.into()).into()
}

/// Returns where Nix's settings are.
pub(super) fn configuration() -> PathBuf {
    variable("NIX_CONF_DIR").unwrap_or_else(|| "/etc/nix".into()).into()
}

/// Returns where the machine's daemon listens.
pub(super) fn socket() -> PathBuf {
    variable("NIX_DAEMON_SOCKET_PATH").map_or_else(|| state().join("daemon-socket/socket"), PathBuf::from)
}

/// Returns the root of the store that Nix makes for who may not make one elsewhere; none for who may, or has said where it is.
///
/// Source: Nix `resolveStoreConfig`.
pub(super) fn own_root() -> Option<PathBuf> {
    let told = ["NIX_STATE_DIR", "NIX_STORE_DIR"].into_iter().any(|name| variable(name).is_some());
    if told || rustix::process::getuid().is_root() || state().exists() {
        return None;
    }
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let data = variable("NIX_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(variable("XDG_DATA_HOME").map(PathBuf::from).or_else(home)?.join("nix")));
    data.map(|data| data.join("root"))
}

/// Says which file or directory is at a place, as far as this machine can tell: another disk there is another one, and so is what was
/// put there since.
pub(super) fn which(place: &Path) -> String {
    let place = std::fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
    let Ok(found) = std::fs::metadata(&place) else {
        return place.display().to_string();
    };
    // What was removed leaves its number to what is made next.
    let made = found.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    let made = made.map(|made| format!(", made {}", made.as_nanos())).unwrap_or_default();
    format!("{} ({}:{}{made})", place.display(), found.dev(), found.ino())
}

/// Returns a variable of the environment that says something.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
