# shellcheck shell=bash
# . env.sh DIR: from here on Nix sees nothing but DIR, neither the machine's
# configuration nor the user's nor the network. Sets NIX_TEST_DIR to DIR.

mkdir -p "${1:?env.sh: which scratch directory?}"/{home,etc,run} || return

# All a user may have set (NIX_PATH, NIX_REMOTE, NIX_CONFIG, ...) goes. Above all
# NIX_STATE_DIR and NIX_STORE_DIR: they would win over a store's own root, and
# move the store away from /nix/store, where every path's hash says it is.
# shellcheck disable=SC2086 # a list of names
unset ${!NIX_@} IN_NIX_SHELL
# A test may speak HTTP to its own machine only.
unset http_proxy https_proxy ftp_proxy all_proxy HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY

NIX_TEST_DIR=$(cd "$1" && pwd -P) || return
export NIX_TEST_DIR
# where ~/.nix-profile, .nix-defexpr, .netrc and .ssh would be
export HOME=$NIX_TEST_DIR/home
# Nix's caches: what a binary cache had (and had not), evaluations, tarballs
export XDG_CACHE_HOME=$HOME/.cache
# the user's nix.conf and flake registry, which win over nix.conf below
export XDG_CONFIG_HOME=$HOME/.config XDG_CONFIG_DIRS=$HOME/.config
# trusted flake settings, REPL history; profiles, in newer versions
export XDG_DATA_HOME=$HOME/.local/share XDG_STATE_HOME=$HOME/.local/state
# sockets
export XDG_RUNTIME_DIR=$NIX_TEST_DIR/run
# instead of /etc/nix, of which a nix.conf and registry.json may exist
export NIX_CONF_DIR=$NIX_TEST_DIR/etc
# The store of commands that are given no --store; root's default would make a
# real /nix. Not "store" in nix.conf, which a test's own NIX_REMOTE could not
# win over.
export NIX_REMOTE=$NIX_TEST_DIR/store

echo '{"flakes":[],"version":2}' >"$NIX_CONF_DIR/no-flakes.json"
cat >"$NIX_CONF_DIR/nix.conf" <<END
# "nix copy", "nix store ...", and paths that are named by their content
experimental-features = nix-command ca-derivations flakes
# the default is a public cache: nothing comes from anywhere a test did not name
substituters =
# and nobody's signature counts that a test did not name
trusted-public-keys =
# no mounts, no namespaces (but see closure: a store with a root forces them)
sandbox = false
# build as whoever runs this; root's default is a group no Debian has
build-users-group =
# the default is on a web server, and 2.8 takes even an empty name for a URL
flake-registry = $NIX_CONF_DIR/no-flakes.json
use-registries = false
# What a cache serves changes under a test, when one more signer vouches.
narinfo-cache-negative-ttl = 0
narinfo-cache-positive-ttl = 0
# a machine that goes down takes the test along
fsync-metadata = false
END
