//! The flake and the NixOS module, evaluated by real Nix with a stand-in for nixpkgs (tests/flake/README.md), and the service
//! that they describe, started with the program under test.

mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Client, Shell, with_client};
use tempfile::TempDir;

with_each_client!(parses, has_its_outputs, passes_its_checks, configures_a_service);

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_nix-quorum");

/// What the flake is made of, from the root of the repository.
const PARTS: &str = "flake.nix nix Cargo.toml Cargo.lock rustfmt.toml src policy store-backend verifier benches docs/findings.md tests/flake";

/// How Nix reads the copy of the flake, with the stand-in for nixpkgs.
const OFFLINE: &str = "--offline --no-write-lock-file --override-input nixpkgs path:$N";

/// How long the service may take to do what it does at once when the machine is idle.
const PATIENCE: Duration = Duration::from_secs(60);

/// A copy of the flake, `$F` to commands, with its stand-in for nixpkgs, `$N`. It is a copy because Nix takes the whole
/// directory, and what lies in the repository besides may be gigabytes.
fn flake(client: &Client) -> (TempDir, Shell) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut shell = Shell::new(client, place.path());
    let copy = place.path().join("flake");
    shell.set("F", copy.display().to_string());
    shell.set("N", copy.join("tests/flake/nixpkgs").display().to_string());
    shell.set("ROOT", env!("CARGO_MANIFEST_DIR"));
    shell.must(&format!("mkdir \"$F\" && cd \"$ROOT\" && cp -r --parents {PARTS} \"$F\""));
    (place, shell)
}

fn parses(client: &'static Client) {
    let (_place, shell) = flake(client);
    shell.must("find \"$F\" -name '*.nix' -print0 | xargs -0 -n1 nix-instantiate --parse >/dev/null");
}

fn has_its_outputs(client: &'static Client) {
    let (_place, shell) = flake(client);
    let eval = |what: &str, apply: &str| -> Value {
        let answer = shell.must(&format!("nix eval --json {OFFLINE} \"path:$F#{what}\" --apply '{apply}'"));
        serde_json::from_str(&answer).expect("JSON")
    };
    let version = env!("CARGO_PKG_VERSION");
    let names = eval("packages", "builtins.mapAttrs (_: packages: packages.default.name)");
    let name = format!("nix-quorum-{version}");
    assert_eq!(names, serde_json::json!({ "aarch64-linux": name, "x86_64-linux": name }));
    let meta = eval("packages.x86_64-linux.default.meta", "meta: meta");
    assert_eq!(meta["mainProgram"], "nix-quorum");
    assert_eq!(meta["license"], serde_json::json!([{ "spdxId": "MIT" }, { "spdxId": "Apache-2.0" }]));
    let tools = eval("devShells.x86_64-linux.default.packages", "toString");
    for tool in ["cargo", "rustc", "clippy", "rustfmt", "cargo-deny", "nix", "minisign", "zstd"] {
        let found =
            tools.as_str().is_some_and(|tools| tools.split(' ').any(|path| path.ends_with(&format!("-{tool}"))));
        assert!(found, "{tool} is not in the shell: {tools}");
    }
    assert_eq!(eval("nixosModules", "builtins.attrNames"), serde_json::json!(["default"]));
    assert_eq!(eval("checks.x86_64-linux", "builtins.attrNames"), serde_json::json!(["format", "module", "package"]));
}

fn passes_its_checks(client: &'static Client) {
    let (_place, shell) = flake(client);
    shell.must(&format!("nix flake check --no-build {OFFLINE} \"path:$F\""));
    let shown = shell.must(&format!("nix flake show {OFFLINE} \"path:$F\" 2>/dev/null"));
    assert!(shown.contains("nixosModules") && shown.contains("formatter"), "{shown}");
}

/// A stand-in that takes everything would show nothing: these must not pass.
#[test]
fn mistakes_do_not_pass() {
    with_client(2, refuses_mistakes);
}

fn refuses_mistakes(client: &'static Client) {
    let mistakes = [
        ("an argument that buildRustPackage has not", "package.nix", "cargoTestFlags =", "cargoTestFlag ="),
        ("a function that lib has not", "package.nix", "lib.importTOML", "lib.importToml"),
        ("a file that is not there", "package.nix", "../verifier", "../verifyer"),
        ("a crate that is left out", "package.nix", "../verifier", ""),
        ("a benchmark that the manifest names is left out", "package.nix", "../benches", ""),
        ("a page that a test reads is left out", "package.nix", "../docs/findings.md", ""),
        ("a license that is none", "package.nix", "asl20", "apache"),
        ("a package that is none", "shell.nix", "rustfmt", "rust-fmt"),
        ("an option that NixOS has not", "module.nix", "users.groups.nix-quorum", "users.group.nix-quorum"),
        ("a directive that systemd has not", "module.nix", "ProtectHome", "ProtectHomes"),
        ("an option without a description", "module.nix", "description = \"The package", "text = \"The package"),
    ];
    let (_place, shell) = flake(client);
    for (what, file, right, wrong) in mistakes {
        let file = PathBuf::from(shell.expand("$F")).join("nix").join(file);
        let text = fs::read_to_string(&file).expect("a part of the flake");
        assert!(text.contains(right), "{what}: nothing to change");
        fs::write(&file, text.replace(right, wrong)).expect("a copy can be changed");
        let checked = shell.run(&format!("nix flake check --no-build {OFFLINE} \"path:$F\""));
        assert_ne!(checked.status, 0, "{what} passes");
        fs::write(&file, text).expect("a copy can be changed");
    }
}

/// What NixOS makes of a configuration of tests/flake/cases.nix.
fn case(shell: &Shell, name: &str) -> Value {
    let command = "nix-instantiate --read-write-mode --eval --strict --json \"$F/tests/flake/cases.nix\" -A";
    serde_json::from_str(&shell.must(&format!("{command} {name}"))).expect("JSON")
}

/// The settings of a unit, as `Name=value` lines.
fn unit(case: &Value) -> Vec<&str> {
    case["unit"].as_str().expect("a unit").lines().collect()
}

/// The value of a setting that stands once.
fn setting<'a>(case: &'a Value, name: &str) -> &'a str {
    let found: Vec<&str> =
        unit(case).into_iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
    assert_eq!(found.len(), 1, "{name} stands once: {found:?}");
    found[0]
}

fn configures_a_service(client: &'static Client) {
    let (_place, shell) = flake(client);

    let disabled = case(&shell, "disabled");
    assert_eq!((&disabled["unit"], &disabled["etc"]), (&Value::Null, &serde_json::json!({})));

    let minimal = case(&shell, "minimal");
    let program = format!("{}/bin/nix-quorum", minimal["package"].as_str().expect("a package"));
    assert_eq!(
        setting(&minimal, "ExecStart"),
        format!(
            r#""{program}" "serve" "--store" "file:///var/lib/nix-quorum" "--policy" "/etc/nix-quorum/policy.toml" "#
        ) + r#""--socket" "/run/nix-quorum/store.sock""#
    );
    assert!(setting(&minimal, "ExecReload").ends_with("-coreutils/bin/kill -HUP $MAINPID"));
    for line in [
        "User=nix-quorum",
        "StateDirectory=nix-quorum",
        "RuntimeDirectory=nix-quorum",
        "RuntimeDirectoryMode=0755",
        "ProtectSystem=strict",
        "WantedBy=multi-user.target",
    ] {
        assert!(unit(&minimal).contains(&line), "{line} is missing");
    }
    // Behind PrivateUsers, every client would be the same nobody.
    assert!(!unit(&minimal).iter().any(|line| line.starts_with("PrivateUsers")));
    assert_eq!(minimal["users"]["users"]["nix-quorum"]["isSystemUser"], true);
    assert_eq!(minimal["etc"]["nix-quorum/config.toml"], "socket = \"/run/nix-quorum/store.sock\"\n");
    let checked = minimal["etc"]["nix-quorum/policy.toml"].as_str().expect("a policy");
    assert!(checked.starts_with("nix-quorum policy check "), "{checked}");
    // A new policy is read again, and not started again with.
    assert!(setting(&minimal, "X-Reload-Triggers").ends_with("-nix-quorum-policy.toml"));
    assert!(setting(&minimal, "X-Restart-Triggers").ends_with("-nix-quorum.toml"));
    assert_eq!(case(&shell, "file")["etc"].as_object().expect("files").len(), 2);

    let elsewhere = case(&shell, "elsewhere");
    assert_eq!(
        setting(&elsewhere, "ExecStart"),
        format!(r#""{program}" "serve" "--store" "file:///srv/quorum" "--policy" "/etc/quorum/policy 100%%.toml" "#)
            + r#""--socket" "/run/elsewhere/store.sock" "--staging-socket" "/run/elsewhere/staging.sock" "#
            + "--countersign %d/countersign"
    );
    assert_eq!(setting(&elsewhere, "LoadCredential"), "countersign:/etc/quorum/gate.key");
    assert!(unit(&elsewhere).contains(&"ReadWritePaths=/srv/quorum"));
    assert!(elsewhere["tmpfiles"]["nix-quorum"]["/srv/quorum"]["d"].is_object());
    assert!(elsewhere["etc"]["nix-quorum/policy.toml"].is_null(), "somebody else keeps it");

    let bucket = case(&shell, "bucket");
    assert!(setting(&bucket, "ExecStart").contains(r#""--store" "s3://cache?region=eu-west-1""#));
    for line in [
        "PrivateNetwork=false",
        "RestrictAddressFamilies=AF_INET",
        "CacheDirectory=nix-quorum",
        "EnvironmentFile=/etc/quorum/aws.env",
        "After=network-online.target",
    ] {
        assert!(unit(&bucket).contains(&line), "{line} is missing");
    }
    assert!(bucket["tmpfiles"]["nix-quorum"].is_null(), "there is no directory");
    assert!(!unit(&minimal).contains(&"PrivateNetwork=false"));

    assert_eq!(case(&shell, "wrong")["complaints"].as_array().expect("complaints").len(), 2);
    for (name, says) in [
        ("misspelt", "services.nix-quorum.polcy"),
        ("relative", "services.nix-quorum.store"),
        ("none", "services.nix-quorum.policy"),
    ] {
        let ran = shell.run(&format!(
            "nix-instantiate --read-write-mode --eval --strict --json \"$F/tests/flake/cases.nix\" -A {name}"
        ));
        assert_ne!(ran.status, 0, "{name} passes");
        assert!(ran.stderr.contains(says), "{name}: {}", ran.stderr);
    }
}

#[test]
fn the_service_runs() {
    with_client(2, |client| {
        let (place, shell) = flake(client);
        for name in ["minimal", "elsewhere"] {
            runs(&case(&shell, name), &place.path().join(name));
        }
    });
}

/// Starts a unit's command as systemd would, in a directory that stands for `/`.
fn runs(case: &Value, root: &Path) {
    fs::create_dir_all(root).expect("a directory");
    let below = |path: &str| format!("{}{path}", root.display());
    let command = setting(case, "ExecStart");
    let (quoted, countersign) = command.split_once(" --countersign %d").unwrap_or((command, ""));
    let words = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
    let words: Vec<String> =
        words.map(|word| word.expect("a quoted word").replace("%%", "%").replace("$$", "$")).collect();
    assert_eq!(words[1], "serve");
    let mut arguments = Vec::new();
    let (mut socket, mut policy) = (String::new(), String::new());
    for pair in words[2..].chunks(2) {
        let [name, value] = pair else { panic!("{pair:?}: every option has a value") };
        let value = match name.as_str() {
            "--store" => below(value.strip_prefix("file://").expect("a directory")),
            _ => below(value),
        };
        match name.as_str() {
            "--socket" => socket.clone_from(&value),
            "--policy" => policy.clone_from(&value),
            _ => {}
        }
        arguments.extend([name.clone(), value]);
    }
    write(&policy, include_str!("flake/policy.toml"));
    if !countersign.is_empty() {
        let key = below(countersign);
        fs::create_dir_all(Path::new(&key).parent().expect("a directory")).expect("a directory");
        let made = Command::new(PROGRAM).args(["key", "generate", "--key-name", "gate-1", &key]).output();
        assert!(made.expect("the program runs").status.success());
        arguments.extend(["--countersign".to_owned(), key]);
    }
    let config = below("/etc/nix-quorum/config.toml");
    write(&config, case["etc"]["nix-quorum/config.toml"].as_str().expect("settings"));

    let log = below("/log");
    let mut service = Command::new(PROGRAM);
    service.arg("serve").args(&arguments).env("NIX_QUORUM_CONFIG", config).stdin(Stdio::null());
    let mut service = service.stderr(fs::File::create(&log).expect("a log")).spawn().expect("the program runs");
    let pid = Pid::from_child(&service);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    until(&mut service, "it serves", &said, || UnixStream::connect(&socket).is_ok());
    kill_process(pid, Signal::HUP).expect("it runs");
    until(&mut service, "it reads its policy again", &said, || said().contains("policy read again"));
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(service.wait().expect("a child's status").success(), "{}", said());
}

fn write(path: &str, text: &str) {
    fs::create_dir_all(Path::new(path).parent().expect("a file's directory")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// Waits until something is so, unless the service ends first.
fn until(service: &mut Child, what: &str, said: &dyn Fn() -> String, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        let ended = service.try_wait().expect("a child's status");
        if ended.is_some() || begun.elapsed() > PATIENCE {
            let _gone = service.kill();
            panic!("waiting until {what}: ended with {ended:?}\n{}", said());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
