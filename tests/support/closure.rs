//! Closures that a client has built once, in target/nix/fixtures, for all tests to come.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::client::{Client, tool};
use super::shell::Shell;

/// Where they are. Nobody writes there but this file, under a lock.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nix/fixtures");

/// A derivation with a content-addressed output that refers to another one.
const CONTENT_ADDRESSED: &str = r#"
let
  addressed = name: text: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo ${text} > $out" ];
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
in addressed "ca-top" "${addressed "ca-leaf" "leaf"}"
"#;

/// The keys of the builders a, b and c.
#[derive(Debug, Clone)]
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// Returns a builder's secret key file.
    pub fn secret(&self, builder: &str) -> String {
        self.directory.join(format!("builder-{builder}.sec")).display().to_string()
    }

    /// Returns a builder's public key.
    pub fn public(&self, builder: &str) -> String {
        let file = self.directory.join(format!("builder-{builder}.pub"));
        fs::read_to_string(file).expect("a public key").trim().to_owned()
    }
}

/// Returns the builders' keys, which [`Closure::of`] makes.
pub fn keys() -> Keys {
    Keys { directory: Path::new(FIXTURES).join("keys") }
}

/// A closure in stores of its own, to be read and never to be written.
#[derive(Debug, Clone)]
pub struct Closure {
    /// The path that has all of them in its closure.
    pub top: String,
    /// All paths of the closure.
    pub paths: Vec<String>,
    /// The derivation of each.
    derivers: BTreeMap<String, String>,
    directory: PathBuf,
}

impl Closure {
    /// Returns the closure of `size` derivations that a client built; the first caller ever waits for the build.
    pub fn of(client: &Client, size: u32) -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fs::create_dir_all(FIXTURES).expect("a directory for fixtures");
        let lock = File::create(Path::new(FIXTURES).join(".lock")).expect("a lock");
        // Another test program may be building it just now.
        lock.lock().expect("a lock on the fixtures");
        let directory = Path::new(FIXTURES).join(format!("{}-{size}", client.name));
        let recipe = ["closure", "closure.nix", "closure.sh", "env.sh"]
            .map(|name| fs::read_to_string(tool(name)).expect("a file of tests/nix"))
            .join("\n")
            + CONTENT_ADDRESSED;
        let stamp = directory.join("recipe");
        if fs::read_to_string(&stamp).ok().as_ref() != Some(&recipe) {
            build(client, size, &directory);
            fs::write(&stamp, recipe).expect("a stamp");
        }
        Self::read(&directory)
    }

    fn read(directory: &Path) -> Self {
        let listed = |name: &str| fs::read_to_string(directory.join(name)).expect("a whole fixture");
        let paths: Vec<String> = listed("paths").lines().map(str::to_owned).collect();
        let derivers = paths.iter().cloned().zip(listed("derivers").lines().map(str::to_owned)).collect();
        Self { top: listed("top").trim().to_owned(), paths, derivers, directory: directory.to_owned() }
    }

    /// Returns the one path whose name ends so.
    pub fn path(&self, name: &str) -> &str {
        self.paths.iter().find(|path| path.ends_with(name)).expect("a path of that name")
    }

    /// Returns the derivation of that path.
    pub fn deriver(&self, name: &str) -> &str {
        &self.derivers[self.path(name)]
    }

    /// Returns the root of the store in which nothing is signed.
    pub fn unsigned(&self) -> PathBuf {
        self.directory.join("unsigned")
    }

    /// Returns the root of a store with the same paths, and without the builds' logs and roots.
    pub fn view(&self) -> PathBuf {
        self.directory.join("view")
    }

    /// Returns the root of the store in which builder a signed everything.
    pub fn signed_by_one(&self) -> PathBuf {
        self.directory.join("one")
    }

    /// Returns the root of the store in which builders a and b signed everything.
    pub fn signed_by_two(&self) -> PathBuf {
        self.directory.join("two")
    }

    /// Returns the root of the store with a content-addressed derivation, whose realisations a and b signed.
    pub fn content_addressed(&self) -> PathBuf {
        self.directory.join("addressed")
    }

    /// Returns the expression that was built there.
    pub fn content_addressed_expression(&self) -> PathBuf {
        self.directory.join("ca.nix")
    }
}

fn build(client: &Client, size: u32, directory: &Path) {
    // A half-made one stays without its stamp. Stores are read-only all through, and only root can remove them as they are.
    let _absent = Command::new("chmod").args(["-R", "u+w"]).arg(directory).output();
    let _absent = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).expect("a directory for a closure");
    fs::write(directory.join("ca.nix"), CONTENT_ADDRESSED).expect("an expression");
    let mut shell = Shell::new(client, &directory.join("scratch"));
    let keys = keys();
    shell.set("D", directory.display().to_string()).set("N", size.to_string());
    shell.set("TOOL", tool("closure").display().to_string()).set("BIN", client.bin.display().to_string());
    shell.set("KEYS", keys.directory.display().to_string());
    shell.must("\"$TOOL\" $N $D/unsigned \"$BIN\" $KEYS >$D/top");
    shell.must("nix path-info --store $D/unsigned -r $(cat $D/top) >$D/paths");
    shell.must("nix-store --store $D/unsigned -q --deriver $(cat $D/paths) >$D/derivers");
    shell.must(
        "cp -a $D/unsigned $D/one
         nix store sign --store $D/one -k $KEYS/builder-a.sec --all
         cp -a $D/one $D/two
         nix store sign --store $D/two -k $KEYS/builder-b.sec --all",
    );
    shell.must(
        "drv=$(nix-store --store $D/unsigned -q --deriver $(cat $D/top))
         nix copy --no-check-sigs --from $D/unsigned --to $D/view $(cat $D/paths)
         nix copy --no-check-sigs --from $D/unsigned --to $D/view --derivation $drv",
    );
    shell.must(
        "nix build --store $D/addressed --no-link -f $D/ca.nix \
         --option secret-key-files \"$KEYS/builder-a.sec $KEYS/builder-b.sec\"",
    );
}
