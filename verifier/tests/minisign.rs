//! Administrators: minisign's own keys and signatures, one vote a key, and nothing for anybody else.

mod support;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::constants::EIGHT_TORSION;
use proptest::prelude::*;
use support::{cases, fixture};
use verifier::{Administrator, Administrators, AdministratorsError, Endorsement, KeyError};

fn document() -> String {
    fixture::text("minisign/document.txt")
}

/// The second line of a `.pub` file.
fn public(who: &str) -> String {
    fixture::text(&format!("minisign/{who}.pub")).lines().nth(1).expect("a key").to_owned()
}

fn signature(name: &str) -> String {
    fixture::text(&format!("minisign/{name}.minisig"))
}

fn administrator(text: &str) -> Administrator {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn administrators(texts: &[&str]) -> Administrators {
    Administrators::new(texts.iter().map(|text| administrator(text)).collect()).expect("each key stands once")
}

fn alice_and_bob() -> Administrators {
    administrators(&[&public("alice"), &public("bob")])
}

/// Which of Alice (0) and Bob (1) signed a document, and how many signatures were rejected.
fn weigh(administrators: &Administrators, document: &str, signatures: &[&str]) -> (Vec<usize>, usize) {
    let (signed, endorsements) = administrators.weigh(document.as_bytes(), signatures.iter().copied());
    assert_eq!(endorsements.len(), signatures.len());
    let by = endorsements.iter().filter_map(|endorsement| match endorsement {
        Endorsement::By(id) => Some(*id),
        Endorsement::Rejected(_) => None,
    });
    let by: Vec<_> = by.collect();
    assert_eq!(by.iter().copied().collect::<BTreeSet<_>>(), signed, "who endorses is who signed");
    let ids = administrators.iter().enumerate().filter(|(_, (id, _))| signed.contains(id));
    (ids.map(|(index, _)| index).collect(), endorsements.len() - by.len())
}

/// Why the one signature was rejected.
fn rejection(administrators: &Administrators, document: &str, signature: &str) -> String {
    let (signed, endorsements) = administrators.weigh(document.as_bytes(), [signature]);
    assert!(signed.is_empty(), "{endorsements:?}");
    match &endorsements[..] {
        [Endorsement::Rejected(why)] => why.clone(),
        other => panic!("{other:?}"),
    }
}

/// A minisign text with a change to the bytes of one of its four lines.
fn change(text: &str, line: usize, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut lines: Vec<String> = text.lines().map(Into::into).collect();
    let mut bytes = STANDARD.decode(&lines[line]).expect("base64");
    change(&mut bytes);
    lines[line] = STANDARD.encode(bytes);
    lines.join("\n") + "\n"
}

#[test]
fn each_administrator_counts_in_either_mode() {
    let both = alice_and_bob();
    for (signatures, expected) in [
        (&["alice"][..], vec![0]),
        (&["bob"], vec![1]),
        (&["alice.legacy"], vec![0]),
        (&["bob", "alice.legacy"], vec![0, 1]),
        (&["alice", "bob"], vec![0, 1]),
        (&[], vec![]),
    ] {
        let texts: Vec<String> = signatures.iter().map(|name| signature(name)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(weigh(&both, &document(), &texts), (expected, 0), "{signatures:?}");
    }
}

#[test]
fn one_administrator_signing_in_both_modes_is_one() {
    let (one, other) = (signature("alice"), signature("alice.legacy"));
    assert_eq!(weigh(&alice_and_bob(), &document(), &[&one, &other, &one]), (vec![0], 0));
}

#[test]
fn a_stranger_is_rejected_and_takes_nothing_from_the_others() {
    let alice_alone = administrators(&[&public("alice")]);
    let (alice, bob) = (signature("alice"), signature("bob"));
    assert_eq!(weigh(&alice_alone, &document(), &[&bob, &alice]), (vec![0], 1));
    assert_eq!(weigh(&alice_alone, &document(), &["nonsense", &alice, ""]), (vec![0], 2));
    assert_eq!(rejection(&alice_alone, &document(), &bob), "it was made by a key that is no administrator's");
}

#[test]
fn no_administrators_accept_nothing() {
    let nobody = Administrators::new(Vec::new()).expect("nobody stands twice");
    assert!(nobody.is_empty() && !alice_and_bob().is_empty());
    assert_eq!(weigh(&nobody, &document(), &[&signature("alice")]), (vec![], 1));
}

#[test]
fn a_signature_over_another_document_is_rejected() {
    for name in ["alice", "alice.legacy"] {
        for document in ["", "version = 2\n", "version = 1", "version = 1\n\n"] {
            rejection(&alice_and_bob(), document, &signature(name));
        }
    }
}

#[test]
fn a_tampered_trusted_comment_is_rejected() {
    for name in ["alice", "alice.legacy", "bob"] {
        let text = signature(name);
        let tampered = text.replace("trusted comment: from", "trusted comment: FROM");
        assert_ne!(tampered, text);
        rejection(&alice_and_bob(), &document(), &tampered);
        rejection(&alice_and_bob(), &document(), &text.replace("trusted comment: from", "trusted comment: "));
        // The first line is untrusted, and says so.
        let other = text.replacen("untrusted comment: ", "untrusted comment: by Mallory, ", 1);
        assert_eq!(weigh(&alice_and_bob(), &document(), &[&other]).1, 0);
    }
}

#[test]
fn a_signature_with_the_other_ones_comment_is_rejected() {
    let (new, old) = (signature("alice"), signature("alice.legacy"));
    let mixed: Vec<&str> = new.lines().take(2).chain(old.lines().skip(2)).collect();
    rejection(&alice_and_bob(), &document(), &mixed.join("\n"));
}

#[test]
fn a_mode_that_was_not_signed_in_is_rejected() {
    for name in ["alice", "alice.legacy"] {
        let other = change(&signature(name), 1, |bytes| bytes[1] ^= b'd' ^ b'D');
        rejection(&alice_and_bob(), &document(), &other);
        rejection(&alice_and_bob(), &document(), &change(&signature(name), 1, |bytes| bytes[1] = b'x'));
    }
}

#[test]
fn a_signature_under_another_key_id_is_rejected() {
    let bobs_id = STANDARD.decode(public("bob")).expect("base64")[2..10].to_vec();
    let renamed = change(&signature("alice"), 1, |bytes| bytes[2..10].copy_from_slice(&bobs_id));
    rejection(&alice_and_bob(), &document(), &renamed);
    rejection(&alice_and_bob(), &document(), &change(&signature("alice"), 1, |bytes| bytes[2..10].fill(0)));
}

#[test]
fn no_bit_of_a_signature_is_free() {
    let administrators = alice_and_bob();
    for name in ["alice", "alice.legacy"] {
        let text = signature(name);
        for (line, length) in [(1, 74), (3, 64)] {
            for bit in 0..length * 8 {
                let bad = change(&text, line, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                rejection(&administrators, &document(), &bad);
            }
        }
    }
}

#[test]
fn two_administrators_may_share_a_key_id() {
    let alices_id = STANDARD.decode(public("alice")).expect("base64")[2..10].to_vec();
    let namesake = change(&public("bob"), 0, |bytes| bytes[2..10].copy_from_slice(&alices_id));
    for texts in [[namesake.as_str(), &public("alice")], [&public("alice"), namesake.as_str()]] {
        let both = administrators(&texts);
        assert_eq!(weigh(&both, &document(), &[&signature("alice")]).1, 0);
        let renamed = change(&signature("bob"), 1, |bytes| bytes[2..10].copy_from_slice(&alices_id));
        assert_eq!(weigh(&both, &document(), &[&renamed, &signature("alice")]), (vec![0, 1], 0));
    }
}

// Who may be an administrator.

#[test]
fn one_key_under_two_key_ids_is_refused() {
    let alice = public("alice");
    let twin = change(&alice, 0, |bytes| bytes[2..10].fill(7));
    let twin = twin.trim_end();
    let twice = |first: &str, second: &str| {
        let result =
            Administrators::new(vec![administrator(first), administrator(&public("bob")), administrator(second)]);
        assert_eq!(result.err(), Some(AdministratorsError::KeyTwice { first: first.into(), second: second.into() }),);
    };
    twice(&alice, twin);
    twice(twin, &alice);
    twice(&alice, &alice);
    // The letters before the key id say how it signs, not who it is.
    let other_algorithm = change(&alice, 0, |bytes| bytes[1] = b'D');
    twice(&alice, other_algorithm.trim_end());
}

#[test]
fn an_administrator_is_written_as_it_was_read() {
    let text = public("alice");
    assert_eq!(administrator(&text).to_string(), text);
    assert_eq!(administrator(&format!(" {text}\n")).to_string(), text);
}

#[test]
fn a_weak_or_second_spelling_of_a_key_is_no_administrator() {
    let with = |key: &[u8]| change(&public("alice"), 0, |bytes| bytes[10..].copy_from_slice(key)).trim_end().to_owned();
    let refused = |key: &[u8], expected: KeyError| match with(key).parse::<Administrator>() {
        Err(AdministratorsError::BadKey { text, source }) => assert_eq!((text, source), (with(key), expected)),
        other => panic!("{key:02x?}: {other:?}"),
    };
    for point in EIGHT_TORSION {
        refused(point.compress().as_bytes(), KeyError::Weak);
    }
    refused(&[&[0xee][..], &[0xff; 30], &[0x7f]].concat(), KeyError::NotCanonical);
    refused(&[&[2][..], &[0; 31]].concat(), KeyError::NotAPoint);
}

#[test]
fn what_is_no_administrator_is_refused() {
    let good = public("alice");
    let whole_file = fixture::text("minisign/alice.pub");
    let with = |edit: fn(&mut Vec<u8>)| change(&good, 0, edit).trim_end().to_owned();
    for (case, text) in [
        ("empty", String::new()),
        ("a word", "alice".into()),
        ("a Nix key", support::secret("alice-1", 1).public().to_string()),
        ("the whole file", whole_file),
        ("the secret key's algorithm", with(|bytes| bytes[0] = b'B')),
        ("one byte short", with(|bytes| bytes.truncate(41))),
        ("one byte more", with(|bytes| bytes.push(0))),
        ("no base64", good.replacen('R', "*", 1)),
        ("white space inside", good.replacen('R', "R ", 1)),
    ] {
        let result = text.parse::<Administrator>();
        assert!(matches!(result, Err(AdministratorsError::Unreadable { .. })), "{case}: {result:?}");
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn no_text_makes_weighing_panic(text in ".{0,200}", line in 0..4_usize, document in ".{0,40}") {
        let mut lines: Vec<String> = signature("alice").lines().map(Into::into).collect();
        lines[line] = text.clone();
        prop_assert_eq!(weigh(&alice_and_bob(), &document, &[&text, &lines.join("\n")]), (vec![], 2));
        let _ = text.parse::<Administrator>();
    }
}
