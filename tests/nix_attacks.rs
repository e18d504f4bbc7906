//! The attacks of the field on stores that real Nix filled: an audit finds each in each kind of store, where stock Nix counts wrongly
//! or looks elsewhere. Beside each is the honest path that looks most like it.

mod support;
mod world;

use std::fs;

use rusqlite::Connection;
use support::{Client, Closure, EachKind, Scratch, Shell, Version, verdicts};
use verifier::{ContentAddressMethod, PathInfo, StoreDir};
use world::{Package, addressed, key, package, put, signed, signed_again, write};

with_each_client!(each_attack_is_found_in_each_kind_of_store);

const RE_ENCODED: &str = "one signature re-encoded in base64";

/// What a store holds, and what an audit is to say of it.
struct Attack {
    name: &'static str,
    honest: Package,
    attack: Package,
    /// Standing, findings and signers of the honest path, and of the attack.
    says: [&'static str; 2],
    exit: i32,
}

fn attack(
    name: &'static str,
    honest: Package,
    edit: impl FnOnce(&mut PathInfo),
    says: [&'static str; 2],
    exit: i32,
) -> Attack {
    let mut attack = Package { info: honest.info.clone(), nar: honest.nar.clone() };
    edit(&mut attack.info);
    Attack { name, honest, attack, says, exit }
}

fn attacks() -> Vec<Attack> {
    let signed_by = |number, keys: &[&str]| package(number, &format!("attack-{number}"), &[], keys);
    let first = |info: &PathInfo| info.signatures.first().expect("a signature").clone();
    let lie = addressed(ContentAddressMethod::Nar, "liar", "truth", "lie");
    let truth = addressed(ContentAddressMethod::Nar, "liar", "truth", "truth");
    let both = "stands: : a-1 b-1";
    vec![
        attack(
            "one key signs twice with two nonces",
            signed_by(21, &["a-1", "b-1"]),
            |info| {
                info.signatures = [signed(info, "a-1"), signed_again(info, "a-1")].into();
            },
            [both, "fails: duplicate-signer quorum-missing: a-1"],
            2,
        ),
        attack(
            RE_ENCODED,
            signed_by(22, &["a-1", "b-1"]),
            |info| {
                let text = signed(info, "a-1");
                info.signatures = [text.trim_end_matches('=').to_owned(), text].into();
            },
            [both, "fails: duplicate-signer quorum-missing: a-1"],
            2,
        ),
        attack(
            "one key's signature under another's name",
            signed_by(23, &["a-1", "b-1"]),
            |info| {
                let text = signed(info, "a-1");
                info.signatures = [text.replace("a-1:", "b-1:"), text].into();
            },
            [both, "fails: bad-signature quorum-missing: a-1"],
            2,
        ),
        attack(
            "a malformed signature beside good ones",
            signed_by(24, &["a-1", "b-1"]),
            |info| {
                info.signatures.insert("c-1:nonsense".into());
            },
            [both, "stands: malformed-signature: a-1 b-1"],
            0,
        ),
        attack(
            "a signature of zeros",
            signed_by(25, &["a-1", "b-1"]),
            |info| {
                info.signatures = [first(info), format!("b-1:{}==", "A".repeat(86))].into();
            },
            [both, "fails: bad-signature quorum-missing: a-1"],
            2,
        ),
        Attack {
            name: "a lying CA field over other bytes",
            honest: truth,
            attack: lie,
            says: ["stands: :", "fails: false-content-address quorum-missing:"],
            exit: 3,
        },
        attack(
            "a NarSize that is too small on a content-addressed path",
            addressed(ContentAddressMethod::Nar, "small", "small", "small"),
            |info| info.nar_size -= 8,
            ["stands: :", "fails: content-mismatch:"],
            1,
        ),
        attack(
            "a NarSize that is too large on a content-addressed path",
            addressed(ContentAddressMethod::Nar, "large", "large", "large"),
            |info| info.nar_size += 8,
            ["stands: :", "fails: content-mismatch:"],
            1,
        ),
        attack(
            "ultimate, and signed by nobody",
            signed_by(26, &["a-1", "b-1"]),
            |info| {
                info.signatures.clear();
                info.ultimate = true;
            },
            [both, "fails: quorum-missing:"],
            2,
        ),
    ]
}

fn each_attack_is_found_in_each_kind_of_store(client: &'static Client) {
    // The builders' keys come with it.
    let _closure = Closure::of(client, 8);
    let scratch = Scratch::new();
    let mut shell = Shell::new(client, &scratch.path().join("client"));
    let (root, cache) = (shell.place.join("root"), shell.place.join("cache"));
    write(&cache, "nix-cache-info", "StoreDir: /nix/store\n");
    let attacks = attacks();
    let path = |attack: &Attack| StoreDir::default().render_path(&attack.honest.info.path);
    attacks.iter().for_each(|attack| put(&cache, &attack.honest));
    let paths = attacks.iter().map(path).collect::<Vec<_>>().join(" ");
    shell.must(&format!("nix copy --no-check-sigs --from file://$W/cache --to $W/root {paths}"));
    let keys = ["a-1", "b-1", "c-1"].map(|name| key(name).public().to_string());
    shell.set("K", keys.join(" "));
    let name = client.name.replace(['.', '_'], "-");
    let options = "--trusted-public-keys \"$K\" --sigs-needed";
    let honest =
        EachKind::start(client, &shell, &scratch.path().join("honest"), &root, &cache, &format!("honest-{name}"));
    for uri in &honest.uris {
        for attack in &attacks {
            let said = verdicts(&shell, uri, &format!("{options} 2 {}", path(attack)));
            let expected = format!("{}: {}\n(exit code 0)", attack.honest.info.path.to_basename(), attack.says[0]);
            assert_eq!(said, expected, "{}, honestly: {uri}", attack.name);
        }
    }
    false_keys(&mut shell, &honest.uris, &path(&attacks[0]));
    drop(honest);
    let database = Connection::open(root.join("nix/var/nix/db/db.sqlite")).expect("Nix's database");
    for attack in &attacks {
        put(&cache, &attack.attack);
        corrupt(&database, &root, attack);
    }
    drop(database);
    let each =
        EachKind::start(client, &shell, &scratch.path().join("attack"), &root, &cache, &format!("attack-{name}"));
    let mut wrong = Vec::new();
    for uri in &each.uris {
        for attack in &attacks {
            let said = verdicts(&shell, uri, &format!("{options} 2 {}", path(attack)));
            let expected =
                format!("{}: {}\n(exit code {})", attack.attack.info.path.to_basename(), attack.says[1], attack.exit);
            // The daemon of Nix 2.34 reads signatures, and knows that these are one.
            let is_daemon = ["unix:", "ssh-ng:"].iter().any(|scheme| uri.starts_with(scheme));
            let reads = is_daemon && client.version >= Version::new("2.34");
            let is_known = attack.name == RE_ENCODED && reads && said == expected.replace("duplicate-signer ", "");
            if said != expected && !is_known {
                wrong.push(format!("{}: {uri}: {said}, not {expected}", attack.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Keys that are no keys, or fewer than they seem, are refused whatever the store; two of one name are two.
fn false_keys(shell: &mut Shell, uris: &[String], path: &str) {
    let public = |name| key(name).public().to_string();
    let renamed = public("a-1").replace("a-1:", "a-2:");
    let small_order = "b-1:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let strangers = public("x-1").replace("x-1:", "a-1:");
    for (keys, says) in [
        (format!("{} {renamed}", public("a-1")), "one key is one vote"),
        (format!("{} {small_order}", public("a-1")), "small order"),
        (format!("{strangers} {} {}", public("a-1"), public("b-1")), "(exit code 0)"),
        (format!("{strangers} {}", public("b-1")), "quorum-missing"),
    ] {
        shell.set("FALSE", keys);
        for uri in uris {
            let said = verdicts(shell, uri, &format!("--trusted-public-keys \"$FALSE\" --sigs-needed 2 {path}"));
            assert!(said.contains(says), "{says}: {uri}: {said}");
        }
    }
}

/// Writes into Nix's own database, and its store, what whoever can write there might.
fn corrupt(database: &Connection, root: &std::path::Path, Attack { honest, attack, .. }: &Attack) {
    let info = &attack.info;
    let path = StoreDir::default().render_path(&info.path);
    let signatures = info.signatures.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let hash = format!("sha256:{}", verifier::base16::encode(info.nar_hash.as_bytes()));
    let changed = database
        .execute(
            "update ValidPaths set sigs = ?2, hash = ?3, narSize = ?4, ultimate = ?5 where path = ?1",
            (&path, signatures, hash, info.nar_size as i64, info.ultimate.then_some(1)),
        )
        .expect("a row");
    assert_eq!(changed, 1);
    if honest.nar != attack.nar {
        let place = root.join(path.trim_start_matches('/'));
        fs::remove_file(&place).expect("the honest file");
        fs::write(&place, "lie").expect("room for a file");
    }
}
