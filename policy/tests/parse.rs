//! The policy language: what is read, and how each mistake is shown.

mod world;

use policy::{ContentAddressed, OnConflict, Policy, Requirement};
use verifier::Timestamp;
use world::{policy, policy_text, public};

/// A small policy, in which cases exchange one part for another.
fn base() -> String {
    let (a, b, c) = (public("a-1", 1), public("b-1", 2), public("c-1", 3));
    format!(
        "version = 1\n\n[signers]\na.keys = [\"{a}\"]\nb.keys = [\"{b}\"]\nc.keys = [\"{c}\"]\n\n\
         [groups]\nteam = [\"a\", \"b\"]\n\n[default]\nrequire = \"a\"\n"
    )
}

fn with(from: &str, to: &str) -> String {
    let base = base();
    assert_eq!(base.matches(from).count(), 1, "{from:?} has to stand in the base policy once");
    base.replace(from, to)
}

fn require(requirement: &str) -> String {
    with("require = \"a\"", &format!("require = {requirement}"))
}

fn rule(fields: &str) -> String {
    format!("{}\n[[rules]]\n{fields}\n", base())
}

#[test]
fn reads_the_whole_language() {
    let policy = policy();
    assert_eq!(policy.version(), 7);
    assert_eq!(policy.expires(), Some(Timestamp::from_unix(1_826_668_800)));
    assert_eq!(policy.store_dir().as_str(), "/nix/store");
    assert_eq!(policy.content_addressed(), ContentAddressed::Recompute);
    assert_eq!(policy.on_conflict(), OnConflict::Quorum);
    let names: Vec<_> = policy.keyring().signers().map(|(_, signer)| signer.name.to_string()).collect();
    assert_eq!(names, ["nixos", "ci-eu", "ci-us", "ci-ap", "alice"], "signers keep the order of the text");
    let groups: Vec<_> = policy.groups().map(|(name, members)| (name, members.len())).collect();
    assert_eq!(groups, [("builders", 3), ("security", 1)]);
    let [kernels, firmware] = policy.rules() else { panic!("two rules") };
    assert_eq!(kernels.name(), "kernels need the security team");
    assert!(kernels.matches("linux-6.12") && !kernels.matches("linux") && !kernels.matches("my-linux-6.12"));
    assert!(firmware.matches("wifi-firmware") && firmware.matches("microcode-7") && !firmware.matches("microcode-77"));
    assert_eq!(firmware.content_addressed(), Some(ContentAddressed::Require));
    assert_eq!(firmware.requirement(), None);
    assert_eq!(policy.digest().len(), 64);
}

#[test]
fn the_digest_is_of_the_text_byte_for_byte() {
    let digest = |text: &str| Policy::parse(text, "p").expect("a policy").digest().to_owned();
    assert_eq!(digest(&base()), digest(&base()));
    assert_ne!(digest(&base()), digest(&format!("{}\n", base())));
}

#[test]
fn reads_every_spelling_that_the_language_allows() {
    let cases = [
        (
            "inline tables over several lines",
            require("{\n  any = [\n    \"a\",\n    { at-least = 2, of = \"team\" },\n  ],\n}"),
        ),
        ("a table of its own", with("require = \"a\"", "[default.require]\nat-least = 1\nof = [\"a\", \"c\"]")),
        ("dotted fields", with("require = \"a\"", "require.all = [\"a\", \"b\"]")),
        ("carriage returns", base().replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{}", base())),
        ("an offset that is not Z", with("version = 1", "version = 1\nexpires = 2027-06-01T02:00:00+02:00")),
        ("a leap second", with("version = 1", "version = 1\nexpires = 2026-12-31T23:59:60Z")),
        ("the version in hexadecimal", with("version = 1", "version = 0xF")),
        (
            "rules as an inline list",
            with("version = 1", "version = 1\nrules = [{ name = \"r\", paths = [\"*\"], require = \"b\" }]"),
        ),
        ("another store directory", with("version = 1", "version = 1\nstore-dir = \"/data/nix/store\"")),
        ("one key name for keys of two signers", base().replace("b-1:", "a-1:")),
    ];
    for (shows, text) in cases {
        if let Err(errors) = Policy::parse(&text, "policy.toml") {
            panic!("{shows}:\n{errors}");
        }
    }
}

#[test]
fn nesting_is_read_to_its_limit_and_no_further() {
    let nested = |depth: usize| require(&format!("{}\"a\"{}", "{ all = [".repeat(depth), "] }".repeat(depth)));
    assert!(Policy::parse(&nested(31), "p").is_ok());
    let errors = Policy::parse(&nested(32), "p").expect_err("one level too many");
    assert!(errors.to_string().contains("more than 32 levels"), "{errors}");
}

/// One case: what it shows, and the text.
fn mistakes() -> Vec<(&'static str, String)> {
    let key = public("d-1", 4);
    let weak = "d-1:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let revoked = |name: &str, seed| {
        let revoked = format!("[{{ key = \"{}\", revoked = \"lost\" }}]", public(&format!("{name}-1"), seed));
        (format!("{name}.keys = [\"{}\"]", public(&format!("{name}-1"), seed)), format!("{name}.keys = {revoked}"))
    };
    let (a, a_revoked) = revoked("a", 1);
    let (b, b_revoked) = revoked("b", 2);
    let signer = |keys: &str| with("\n[groups]", &format!("d.keys = {keys}\n\n[groups]"));
    vec![
        ("TOML: a value without quotes", require("a")),
        ("TOML: a table that is not closed", with("[groups]", "[groups")),
        ("TOML: a signer twice", with("b.keys", "a.keys")),
        ("TOML: two mistakes", with("version = 1", "version = \nexpires = 2027-13-01T00:00:00Z")),
        ("field: unknown, with one like it", with("require =", "requires =")),
        ("field: unknown, with none like it", with("version = 1", "version = 1\ncolour = \"red\"")),
        ("field: unknown, of a signer", with("a.keys", "a.trust = 1\na.keys")),
        ("field: everything is missing", String::new()),
        ("field: a signer without keys", with("\n[groups]", "d = {}\n\n[groups]")),
        ("type: a string for a version", with("version = 1", "version = \"1\"")),
        ("type: a table for a list", with("team = [\"a\", \"b\"]", "team = { a = 1 }")),
        ("type: a number for a requirement", require("2")),
        ("type: a number for a key", signer("[1]")),
        ("type: a string for a date", with("version = 1", "version = 1\nexpires = \"2027-06-01\"")),
        ("type: a string for a signer", with("\n[groups]", "d = \"d-1:…\"\n\n[groups]")),
        ("version: 0", with("version = 1", "version = 0")),
        ("version: negative", with("version = 1", "version = -1")),
        ("version: of more than 64 bits", with("version = 1", "version = 99999999999999999999")),
        ("date: without time and offset", with("version = 1", "version = 1\nexpires = 2027-06-01")),
        ("date: without offset", with("version = 1", "version = 1\nexpires = 2027-06-01T00:00:00")),
        ("store directory: not absolute", with("version = 1", "version = 1\nstore-dir = \"nix/store\"")),
        ("key: without a colon", signer("[\"d-1\"]")),
        ("key: of 5 bytes", signer("[\"d-1:aGVsbG8=\"]")),
        ("key: of small order", signer(&format!("[\"{weak}\"]"))),
        ("key: a secret key", signer(&format!("[\"{}\"]", world::key("d-1", 4).to_nix_string()))),
        ("key: twice in one signer", signer(&format!("[\"{key}\", \"{key}\"]"))),
        ("key: the same under another name", signer(&format!("[\"{}\"]", public("renamed-1", 2)))),
        (
            "key: a window that is empty",
            signer(&format!(
                "[{{ key = \"{key}\", not-before = 2027-01-01T00:00:00Z, not-after = 2027-01-01T00:00:00Z }}]"
            )),
        ),
        ("key: revoked without a reason", signer(&format!("[{{ key = \"{key}\", revoked = \"\" }}]"))),
        ("key: revoked by a boolean", signer(&format!("[{{ key = \"{key}\", revoked = true }}]"))),
        ("signer: no keys in the list", signer("[]")),
        ("signer: a name with a space", with("b.keys", "\"b b\".keys")),
        ("signer: none", with("version = 1", "version = 1\nsigners = {}").replace("[signers]\na.", "[x]\na.")),
        ("group: empty", with("team = [\"a\", \"b\"]", "team = []")),
        ("group: a signer twice", with("team = [\"a\", \"b\"]", "team = [\"a\", \"a\"]")),
        ("group: an unknown signer", with("team = [\"a\", \"b\"]", "team = [\"a\", \"bob\"]")),
        ("group: a group in a group", with("team = [\"a\", \"b\"]", "team = [\"a\", \"b\"]\nall = [\"team\"]")),
        ("group: of the name of a signer", with("team = [\"a\", \"b\"]", "c = [\"a\", \"b\"]")),
        ("requirement: an unknown name, with one like it", require("{ at-least = 1, of = \"teams\" }")),
        ("requirement: an unknown name, with none like it", require("\"somebody\"")),
        ("requirement: a group without a number", require("\"team\"")),
        ("requirement: a signer as a group", require("{ at-least = 1, of = \"a\" }")),
        ("requirement: a group in a list", require("{ at-least = 1, of = [\"team\"] }")),
        ("requirement: a signer twice in a list", require("{ at-least = 2, of = [\"a\", \"a\"] }")),
        ("requirement: at least 0", require("{ at-least = 0, of = \"team\" }")),
        ("requirement: more than there are", require("{ at-least = 3, of = \"team\" }")),
        ("requirement: at-least without of", require("{ at-least = 1 }")),
        ("requirement: of without at-least", require("{ of = \"team\" }")),
        ("requirement: two forms at once", require("{ any = [\"a\"], all = [\"b\"] }")),
        ("requirement: no form", require("{}")),
        ("requirement: all of nothing", require("{ all = [] }")),
        ("requirement: any of nothing", require("{ any = [] }")),
        ("requirement: mistakes in several parts", require("{ any = [\"team\", { all = [\"x\", 1] }] }")),
        ("requirement: only a revoked key", base().replace(&a, &a_revoked)),
        ("requirement: two of two, one revoked", require("{ at-least = 2, of = \"team\" }").replace(&b, &b_revoked)),
        (
            "requirement: revoked through nesting",
            require("{ all = [\"c\", { any = [\"a\", { at-least = 1, of = [\"b\"] }] }] }")
                .replace(&a, &a_revoked)
                .replace(&b, &b_revoked),
        ),
        ("choice: a word that is none", with("require = \"a\"", "require = \"a\"\ncontent-addressed = \"recomputed\"")),
        ("choice: on-conflict", with("require = \"a\"", "require = \"a\"\non-conflict = \"first\"")),
        ("rule: without a name", rule("paths = [\"*\"]\nrequire = \"b\"")),
        ("rule: without paths", rule("name = \"r\"\nrequire = \"b\"")),
        ("rule: that demands nothing", rule("name = \"r\"\npaths = [\"*\"]")),
        ("rule: that would loosen", rule("name = \"r\"\npaths = [\"*\"]\ncontent-addressed = \"recompute\"")),
        (
            "rule: twice",
            rule(
                "name = \"r\"\npaths = [\"*\"]\nrequire = \"b\"\n[[rules]]\nname = \"r\"\npaths = [\"x\"]\nrequire = \"b\"",
            ),
        ),
        ("rule: no list", with("version = 1", "version = 1\nrules = { name = \"r\" }")),
        ("glob: a whole path", rule("name = \"r\"\npaths = [\"/nix/store/*-linux\"]\nrequire = \"b\"")),
        ("glob: a character class", rule("name = \"r\"\npaths = [\"linux-[56]*\"]\nrequire = \"b\"")),
        ("glob: empty", rule("name = \"r\"\npaths = [\"\"]\nrequire = \"b\"")),
        (
            "glob: longer than any name",
            rule(&format!("name = \"r\"\npaths = [\"{}\"]\nrequire = \"b\"", "x".repeat(212))),
        ),
        (
            "shown: a tab and letters of two columns before the mistake",
            with("version = 1", "version = 1\n\"日本\" = \t1"),
        ),
        ("shown: terminal sequences in names", with("team = [\"a\", \"b\"]", "team = [\"a\", \"\\u001b[2J\"]")),
        (
            "shown: a mistake at the end of a long line",
            require(&format!("{{ any = [{} \"x\"] }}", "\"a\", ".repeat(60))),
        ),
        ("shown: a mistake over several lines", require("{\n  at-least = 1\n}")),
    ]
}

#[test]
fn every_mistake_is_shown_where_it_stands() {
    let mut shown = String::new();
    for (case, text) in mistakes() {
        let errors = Policy::parse(&text, "policy.toml").expect_err(case);
        shown.push_str(&format!("#### {case}\n{errors}\n\n"));
    }
    insta::assert_snapshot!("mistakes", shown);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = policy_text()
        .replace("version = 7", "version = 0")
        .replace("\"ci-eu\", \"ci-us\", \"ci-ap\"", "\"ci-eu\", \"ci-us\", \"ci-app\"")
        .replace("linux-*", "linux/*")
        .replace("at-least = 1", "at-most = 1");
    let errors = Policy::parse(&text, "policy.toml").expect_err("four mistakes");
    insta::assert_snapshot!("all_at_once", errors);
    let places: Vec<_> = errors.mistakes().iter().map(|mistake| (mistake.line(), mistake.column())).collect();
    assert!(places.is_sorted(), "in the order of the text: {places:?}");
}

#[test]
fn sizes_have_limits() {
    let named = |count: usize| -> String { (0..count).map(|n| format!("\"s{n}\",")).collect() };
    let many_globs = format!("name = \"r\"\npaths = [{}]\nrequire = \"b\"", "\"x\",".repeat(1_001));
    let signers: String = (0..10_001).map(|n| format!("s{n}.keys=[]\n")).collect();
    let huge = format!("{}\n#{}", base(), "x".repeat(1 << 20));
    let terms = require(&format!("{{ any = [{}] }}", "\"a\",".repeat(100_001)));
    let cases = [
        ("bytes", huge, "1048576"),
        ("globs", rule(&many_globs), "1001 globs in its rules, expected at most 1000"),
        (
            "signers",
            format!("version = 1\n[default]\nrequire=\"a\"\n[signers]\n{signers}"),
            "10001 signers, expected at most 10000",
        ),
        ("terms", terms, "terms in its requirements, expected at most 100000"),
        ("mistakes", with("team = [", &format!("team = [{}", named(60))), "and 10 more mistakes"),
        ("names", with("team", &"t".repeat(65)), "cannot be the name"),
        (
            "sentences",
            rule(&format!("name = \"{}\"\npaths = [\"*\"]\nrequire = \"b\"", "r".repeat(201))),
            "201 characters",
        ),
    ];
    for (shows, text, expected) in cases {
        let errors = Policy::parse(&text, "p").expect_err(shows).to_string();
        assert!(errors.contains(expected), "{shows}: {errors}");
        assert!(errors.len() < 60_000, "{shows}: {} bytes are shown", errors.len());
    }
}

#[test]
fn hostile_texts_are_refused_without_harm() {
    let dots = "a.".repeat(78);
    let deep = |opened: usize| format!("{dots}a = {}1{}", format!("{{ {dots}a = ").repeat(opened), " }".repeat(opened));
    let cases = [
        ("dotted names in inline tables, as deep as the parser goes", deep(78)),
        ("a name of half a million dots", format!("{}a = 1", "a.".repeat(500_000))),
        ("lists in lists", format!("x = {}", "[".repeat(500_000))),
        ("not text, but TOML", format!("\"{}\" = 1", "\\u0000".repeat(10_000))),
        ("nothing but quotes", "\"".repeat(1_000_000)),
        ("nothing but line ends", "\n".repeat(1 << 20)),
    ];
    for (shows, text) in cases {
        // A small stack, as a worker thread has, shows recursion early.
        let read = std::thread::Builder::new().stack_size(2 << 20).spawn(move || Policy::parse(&text, "p").err());
        let errors = read.expect("a thread").join().unwrap_or_else(|_| panic!("{shows}"));
        assert!(errors.is_some_and(|errors| errors.to_string().len() < 60_000), "{shows}");
    }
}

#[test]
fn a_group_is_shared_and_a_list_is_not_named() {
    let policy =
        Policy::parse(&require("{ all = [{ at-least = 1, of = \"team\" }, { at-least = 1, of = [\"c\"] }] }"), "p");
    let policy = policy.unwrap_or_else(|errors| panic!("{errors}"));
    let Requirement::All(parts) = policy.default_requirement() else { panic!("all") };
    let groups = parts.iter().map(|part| match part {
        Requirement::AtLeast { group, .. } => group.as_deref(),
        other => panic!("{other:?}"),
    });
    assert_eq!(groups.collect::<Vec<_>>(), [Some("team"), None]);
}

#[test]
fn a_secret_key_is_not_shown() {
    let secret = world::key("d-1", 4).to_nix_string();
    let errors = Policy::parse(&with("\n[groups]", &format!("d.keys = [\"{secret}\", 1]\n\n[groups]")), "p");
    let shown = errors.expect_err("a secret key, and a number").to_string();
    assert!(!shown.contains(&secret[4..20]), "{shown}");
}

/// Pieces that mean something in the language, to be put where they do not belong.
const PIECES: [&str; 16] = [
    "\"",
    "'''",
    "{",
    "}",
    "[",
    "]]",
    "=",
    ",",
    "\n",
    "#",
    "\u{0}",
    "é",
    "-1",
    "2027-06-01T00:00:00Z",
    "at-least",
    "[[rules]]",
];

proptest::proptest! {
    #[test]
    fn no_text_panics_and_every_error_has_its_place(
        edits in proptest::collection::vec((proptest::num::usize::ANY, 0_usize..20, 0_usize..PIECES.len()), 1..6),
    ) {
        let mut text = policy_text();
        for (at, length, piece) in edits {
            let start = text.floor_char_boundary(at % (text.len() + 1));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, PIECES[piece]);
        }
        if let Err(errors) = Policy::parse(&text, "policy.toml") {
            let lines = text.split('\n').count();
            proptest::prop_assert!(errors.mistakes().iter().all(|mistake| (1..=lines).contains(&mistake.line())));
            proptest::prop_assert!(!errors.mistakes().is_empty() && !errors.to_string().is_empty());
        }
    }
}
