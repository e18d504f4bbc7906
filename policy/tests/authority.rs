//! Who may change the policy, with signatures that minisign itself made (see minisign/README.md).

use policy::{Authority, AuthorityError};
use verifier::{Administrator, Administrators};

const DOCUMENT: &[u8] = include_bytes!("minisign/document");
const OTHER: &[u8] = include_bytes!("minisign/other");

/// The key in a `.pub` file: its second line.
fn administrator(file: &str) -> Administrator {
    file.lines().nth(1).expect("a second line").parse().expect("a minisign key")
}

fn administrators() -> Administrators {
    let files =
        [include_str!("minisign/alice.pub"), include_str!("minisign/bob.pub"), include_str!("minisign/carol.pub")];
    Administrators::new(files.map(administrator).into()).expect("three keys")
}

/// The text of a signature file, by what follows `document.` in its name.
fn signature(of: &str) -> (String, String) {
    let text = match of {
        "alice" => include_str!("minisign/document.alice.minisig"),
        "alice-again" => include_str!("minisign/document.alice-again.minisig"),
        "bob" => include_str!("minisign/document.bob.minisig"),
        "bob-legacy" => include_str!("minisign/document.bob-legacy.minisig"),
        "bob-other" => include_str!("minisign/other.bob.minisig"),
        "carol" => include_str!("minisign/document.carol.minisig"),
        "mallory" => include_str!("minisign/document.mallory.minisig"),
        "empty" => "",
        "garbage" => "untrusted comment: \u{1b}[2J\nAAAA\ntrusted comment: x\nAAAA\n",
        other => panic!("no signature {other}"),
    };
    (format!("policy.toml.{of}.minisig"), text.to_owned())
}

fn check(threshold: usize, document: &[u8], of: &[&str]) -> Result<(), AuthorityError> {
    let signatures: Vec<_> = of.iter().map(|of| signature(of)).collect();
    Authority::new(administrators(), threshold).expect("a threshold").check(document, &signatures)
}

#[test]
fn counts_administrators_to_the_threshold() {
    let flipped: Vec<u8> = DOCUMENT.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 0)).collect();
    type Case<'a> = (&'static str, usize, &'a [u8], &'a [&'static str], Option<usize>);
    let cases: [Case<'_>; 16] = [
        ("k-1", 2, DOCUMENT, &["alice"], Some(1)),
        ("k", 2, DOCUMENT, &["alice", "bob"], None),
        ("k+1", 2, DOCUMENT, &["alice", "bob", "carol"], None),
        ("all", 3, DOCUMENT, &["alice", "bob", "carol"], None),
        ("nobody", 1, DOCUMENT, &[], Some(0)),
        ("one signature twice", 2, DOCUMENT, &["alice", "alice"], Some(1)),
        ("one administrator with two signatures", 2, DOCUMENT, &["alice", "alice-again"], Some(1)),
        ("one administrator in both of minisign's modes", 2, DOCUMENT, &["bob", "bob-legacy"], Some(1)),
        ("the old mode counts", 2, DOCUMENT, &["alice", "bob-legacy"], None),
        ("somebody else", 2, DOCUMENT, &["alice", "mallory"], Some(1)),
        ("over another document", 2, DOCUMENT, &["alice", "bob-other"], Some(1)),
        ("of another document", 1, OTHER, &["alice", "bob", "carol"], Some(0)),
        ("the right one beside it", 1, OTHER, &["alice", "bob-other"], None),
        ("malformed, then good", 2, DOCUMENT, &["empty", "garbage", "alice", "bob"], None),
        ("one bit of the document differs", 1, &flipped, &["alice", "bob", "carol"], Some(0)),
        ("a line end was taken away", 1, DOCUMENT.trim_ascii_end(), &["alice", "bob", "carol"], Some(0)),
    ];
    for (shows, threshold, document, of, short) in cases {
        match (check(threshold, document, of), short) {
            (Ok(()), None) => {}
            (Err(AuthorityError::TooFew { signed, need, .. }), Some(have)) => {
                assert_eq!((signed.len(), need), (have, threshold), "{shows}");
            }
            (other, _) => panic!("{shows}: {other:?}"),
        }
    }
}

#[test]
fn a_threshold_can_be_reached() {
    for (threshold, fine) in [(0, false), (1, true), (3, true), (4, false)] {
        let authority = Authority::new(administrators(), threshold);
        assert_eq!(authority.is_ok(), fine, "{threshold} of 3");
        if let Err(error) = authority {
            assert_eq!(error, AuthorityError::Threshold { threshold, administrators: 3 });
        }
    }
    let nobody = Administrators::new(Vec::new()).expect("none");
    assert!(Authority::new(nobody, 1).is_err(), "1 of 0");
}

#[test]
fn signature_files_are_limited() {
    let many = vec!["mallory"; 65];
    assert_eq!(check(1, DOCUMENT, &many), Err(AuthorityError::TooManySignatures { got: 65 }));
}

#[test]
fn errors_say_who_signed_and_what_is_wrong_with_each_file() {
    let cases: [(&str, usize, &[&str]); 4] = [
        ("nobody", 2, &[]),
        ("one of two", 2, &["alice"]),
        ("one of two, with every mistake", 2, &["alice", "alice-again", "bob-other", "mallory", "empty", "garbage"]),
        ("all but one", 3, &["alice", "carol"]),
    ];
    let mut shown = String::new();
    for (case, threshold, of) in cases {
        let error = check(threshold, DOCUMENT, of).expect_err(case);
        shown.push_str(&format!("#### {case}\n{error}\n\n"));
    }
    let error = Authority::new(administrators(), 4).expect_err("4 of 3");
    shown.push_str(&format!("#### a threshold out of reach\n{error}\n\n"));
    let evil = ("\u{1b}[2Jevil\n.minisig".to_owned(), String::new());
    let error = Authority::new(administrators(), 1).expect("1 of 3").check(DOCUMENT, &[evil]);
    shown.push_str(&format!("#### a file name that would clear the screen\n{}\n", error.expect_err("nobody signed")));
    insta::assert_snapshot!("errors", shown);
}
