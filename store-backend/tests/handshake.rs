//! The greeting: which clients are served, and what is said to those that are not.

mod support;

use std::time::Duration;

use store_backend::protocol::Trust;
use support::keys::{alice, bob, two_of_three};
use support::package::package;
use support::raw::Raw;
use support::site::Site;
use support::words::{CLIENT_MAGIC, SERVER_MAGIC, Words, op};

#[test]
fn clients_of_every_version_from_1_32_on_are_served() {
    let site = Site::new(two_of_three());
    let hello = package("hello").signed_by(&[&alice(), &bob()]);
    for minor in [32, 33, 34, 35, 36, 37, 38, 39, 40, 99, 255] {
        let mut raw = site.dial_as(Trust::Untrusted);
        raw.greet(minor, &[]);
        assert_eq!(raw.trusted, (minor >= 35).then_some(2), "1.{minor}");
        raw.upload(&[&hello]).expect("it is signed");
        assert!(raw.is_valid(hello.path()), "1.{minor}");
        assert_eq!(raw.path_info(hello.path()).expect("it is valid").nar_hash, hello.info.nar_hash);
    }
}

#[test]
fn a_server_tells_administrators_that_they_are() {
    let site = Site::new(two_of_three());
    assert_eq!(site.raw().trusted, Some(1));
    assert_eq!(site.stranger().trusted, Some(2));
}

#[test]
fn only_common_features_are_used() {
    let site = Site::new(two_of_three());
    let mut raw = Raw::dial(site.socket());
    raw.greet(38, &["quantum-entanglement", "realisation-with-path-not-hash", ""]);
    assert_eq!(raw.features, ["realisation-with-path-not-hash"]);
    // Realisations have the form that was agreed on: path and name, not one id.
    let drv = "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x.drv";
    raw.ask(&Words::op(op::QUERY_REALISATION).str(drv).str("out")).expect("an answer");
    assert_eq!(raw.u64(), 0);
    let mut raw = site.raw();
    raw.ask(&Words::op(op::QUERY_REALISATION).str(&format!("sha256:{}!out", "0".repeat(64)))).expect("an answer");
    assert_eq!(raw.u64(), 0);
}

#[test]
fn a_client_may_name_a_cpu() {
    let site = Site::new(two_of_three());
    let mut raw = Raw::dial(site.socket());
    // Nix before 2.9 has sent the number of the CPU that it runs on, after a 1.
    raw.send(&Words::new().u64(CLIENT_MAGIC).u64(0x122).u64(1).u64(3).u64(1 << 20).0);
    assert_eq!((raw.u64(), raw.u64()), (SERVER_MAGIC, 0x126));
    assert!(raw.str().starts_with("nix-quorum "));
    raw.answer().expect("a greeting");
    assert!(raw.all_paths().is_empty());
}

/// Nix 2.8 sends the magic number alone and waits.
#[test]
fn the_server_answers_to_the_magic_number_alone() {
    let site = Site::new(two_of_three());
    let mut raw = Raw::dial(site.socket());
    raw.send(&Words::new().u64(CLIENT_MAGIC).0);
    assert_eq!((raw.u64(), raw.u64()), (SERVER_MAGIC, 0x126));
    std::thread::sleep(Duration::from_millis(50));
    raw.send(&Words::new().u64(0x122).u64(0).u64(0).0);
    raw.str();
    raw.answer().expect("a greeting");
    assert!(raw.all_paths().is_empty());
}

#[test]
fn older_clients_are_told_in_the_form_of_their_version() {
    let site = Site::new(two_of_three());
    for minor in 10..32_u64 {
        let mut raw = Raw::dial(site.socket());
        let mut words = Words::new().u64(CLIENT_MAGIC).u64(0x100 | minor);
        if minor >= 14 {
            words = words.u64(0);
        }
        if minor >= 11 {
            words = words.u64(0);
        }
        raw.send(&words.0);
        assert_eq!((raw.u64(), raw.u64()), (SERVER_MAGIC, 0x126));
        let text = if minor >= 26 {
            raw.answer().expect_err("1.31 and older are refused")
        } else {
            assert_eq!(raw.u64(), 0x6378_7470);
            let text = raw.str();
            assert_eq!(raw.u64(), 1, "the status that such a client exits with");
            text
        };
        assert!(
            text.contains(&format!("1.{minor} ")) && text.contains("1.32") && text.contains("use a newer Nix"),
            "{text}"
        );
        assert!(raw.is_closed(), "1.{minor}");
    }
    for other_major in [0_u64, 0x200, 0x226, 0xff26] {
        let mut raw = Raw::dial(site.socket());
        raw.send(&Words::new().u64(CLIENT_MAGIC).u64(other_major).u64(0).u64(0).0);
        assert_eq!((raw.u64(), raw.u64()), (SERVER_MAGIC, 0x126));
        assert_eq!(raw.u64(), 0x6378_7470, "an error in either form begins so");
    }
    assert!(site.raw().all_paths().is_empty(), "nobody else is bothered");
}

#[test]
fn who_does_not_speak_the_protocol_is_cut_off() {
    let site = Site::new(two_of_three());
    let cases: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", &[0; 64], &[0xff; 64], &SERVER_MAGIC.to_le_bytes()];
    for bytes in cases {
        let mut raw = Raw::dial(site.socket());
        raw.send(bytes);
        assert!(raw.is_closed(), "{bytes:?}");
    }
    // More features than anybody has, a feature's name without end, and half a greeting.
    let greeting = Words::new().u64(CLIENT_MAGIC).u64(0x126);
    for words in [
        greeting.clone().strings(vec!["feature"; 257]),
        greeting.clone().u64(1).u64(1 << 63),
        greeting.clone().u64(1 << 63),
        greeting.clone().u64(1).bytes(b"caf\xe9"),
    ] {
        let mut raw = Raw::dial(site.socket());
        raw.send(&words.0);
        assert_eq!((raw.u64(), raw.u64()), (SERVER_MAGIC, 0x126));
        assert!(raw.is_closed());
    }
    for length in 0..greeting.0.len() {
        Raw::dial(site.socket()).send(&greeting.0[..length]);
    }
    assert!(site.raw().all_paths().is_empty(), "nobody else is bothered");
}
