//! The attacks of DESIGN, section 1, each through the whole stack: mounted, refused, and beside it the honest upload that
//! looks most like it, which is admitted.

mod support;

use policy::Policy;
use support::doors::{admitted_everywhere, refused_everywhere};
use support::eventually;
use support::keys::{Rules, alice, bob, carol, key, mallory, parse, sign_again, spelled_otherwise, two_of_three};
use support::package::{Package, nar_of_file, noise, package, sha256};
use support::site::Site;
use support::words::{Words, add_multiple, items, op};
use verifier::{CAHash, ContentAddress, ContentAddressMethod, HashAlgorithm, StoreDir};

fn new() -> Site {
    Site::new(two_of_three())
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

#[test]
fn one_key_that_signs_twice_with_two_nonces_is_one_signer() {
    let hello = package("hello").signed_by(&[&alice()]);
    let again = sign_again("alice-1", 1, &hello.fingerprint());
    assert!(!hello.info.signatures.contains(&again));
    let attack = hello.clone().with_signature(again.clone());
    assert_says(
        &refused_everywhere(&new(), &attack),
        &["quorum-missing: 1 of 2 of builders (alice signed; ", "duplicate-signer"],
    );
    // The second nonce is a signature like any other, in place of the first.
    let twin = package("hello").with_signature(again).signed_by(&[&bob()]);
    admitted_everywhere(new, &[], &twin);
}

#[test]
fn one_key_under_two_names_is_no_policy() {
    let text = Rules::default().text();
    let renamed = text.replace(&bob().public().to_string(), &key("bob-1", 1).public().to_string());
    let refused = Policy::parse(&renamed, "policy.toml").expect_err("one key has one vote");
    assert_says(&refused.to_string(), &["the same 32 bytes are one key"]);
    // Renaming the key in the signature instead does not make it Bob's.
    let hello = package("hello").signed_by(&[&alice()]);
    let forged = hello.clone().with_signature(key("bob-1", 1).sign(&hello.fingerprint()).to_string());
    assert_says(&refused_everywhere(&new(), &forged), &["quorum-missing: 1 of 2", "bad-signature"]);
    admitted_everywhere(new, &[], &hello.signed_by(&[&bob()]));
}

#[test]
fn one_signature_spelled_in_three_ways_is_one_signature() {
    let hello = package("hello").signed_by(&[&alice()]);
    let text = hello.info.signatures.first().expect("Alice signed").clone();
    let attack = spelled_otherwise(&text).into_iter().fold(hello.clone(), Package::with_signature);
    assert_eq!(attack.info.signatures.len(), 3);
    assert_says(&refused_everywhere(&new(), &attack), &["quorum-missing: 1 of 2", "duplicate-signer"]);
    // Each spelling is that signature, and is kept in the one canonical spelling.
    for spelling in spelled_otherwise(&text) {
        let twin = package("hello").with_signature(spelling).signed_by(&[&bob()]);
        admitted_everywhere(new, &[], &twin);
        let site = new();
        site.admit(&[&twin]);
        let kept = site.raw().path_info(twin.path()).expect("it is valid").signatures;
        assert_eq!(kept, hello.clone().signed_by(&[&bob()]).info.signatures);
    }
}

#[test]
fn a_key_that_anybody_can_sign_with_is_no_policy() {
    let good = alice().public().to_string();
    // Points of order 1, 2, 4 and 8, one of them in an encoding that is not canonical, and a y beyond the field.
    let small_order = [
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "7P///////////////////////////////////////38=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "xxdqcD1N2E+6PAt2DRBnDyogU/osOczG7E/Xd5KsA3o=",
        "7v///////////////////////////////////////38=",
        "8P///////////////////////////////////////38=",
    ];
    for key in small_order {
        let text = Rules::default().text().replace(&good, &format!("alice-1:{key}"));
        assert!(Policy::parse(&text, "policy.toml").is_err(), "{key}");
    }
    assert!(Policy::parse(&Rules::default().text(), "policy.toml").is_ok());
    // A signature of zeros, which verifies under a key of small order, verifies under no other.
    let zeros = format!("bob-1:{}==", "A".repeat(86));
    let attack = package("hello").signed_by(&[&alice()]).with_signature(zeros);
    assert_says(&refused_everywhere(&new(), &attack), &["quorum-missing: 1 of 2", "bad-signature"]);
}

#[test]
fn a_malformed_signature_takes_nothing_from_the_good_ones() {
    let garbage = ["", ":", "no colon", "alice-1:", "alice-1:not base64!", "bob-1:AAAA", "\u{1b}[2J:AAAA", "é:ö"];
    let good = package("hello").signed_by(&[&alice(), &bob()]);
    for text in garbage {
        let twin = good.clone().with_signature(text);
        admitted_everywhere(new, &[], &twin);
        // It is not kept: stock Nix would refuse the whole narinfo for it.
        let site = new();
        site.admit(&[&twin]);
        assert_eq!(site.raw().path_info(good.path()).expect("it is valid").signatures, good.info.signatures);
        let attack = package("hello").signed_by(&[&alice()]).with_signature(text);
        assert_says(&refused_everywhere(&new(), &attack), &["quorum-missing: 1 of 2", "malformed-signature"]);
    }
}

#[test]
fn a_content_address_that_makes_the_path_of_other_bytes_is_refused() {
    let site = new();
    let nar = nar_of_file(b"evil");
    for method in [ContentAddressMethod::Nar, ContentAddressMethod::Flat, ContentAddressMethod::Text] {
        // The address is that of the good bytes, and so is the path; only the bytes are others.
        let twin = Package::content_addressed("tool", nar_of_file(b"good"), method, HashAlgorithm::Sha256, &[]);
        let claimed = twin.info.content_address.clone().expect("it has one");
        let attack = Package::claiming("tool", nar.clone(), claimed.hash().clone(), &[]);
        assert_eq!(attack.path(), twin.path());
        let said = refused_everywhere(&site, &attack);
        assert_says(&said, &["false-content-address", &format!("the address says {claimed}")]);
        // With the hash of the good bytes as well, it is not what it says it is.
        let mut attack = attack;
        attack.info.nar_hash = twin.info.nar_hash;
        assert_says(&refused_everywhere(&site, &attack), &["content-mismatch"]);
        admitted_everywhere(new, &[], &twin);
    }
}

#[test]
fn a_content_address_that_does_not_make_the_path_is_refused() {
    let site = new();
    let twin = Package::addressed_file("tool", b"good");
    // `CA:` is not signed: whoever copies a path can write one in.
    let mut attack = package("tool");
    attack.info.content_address = Some(ContentAddress::new(CAHash::Nar(sha256(&attack.nar))));
    assert_says(&refused_everywhere(&site, &attack), &["false-content-address", "makes "]);
    // The address of these very bytes, under another name and with other references than those that it was made with.
    let mut renamed = twin.clone();
    renamed.info.path = support::package::path("tool");
    assert_says(&refused_everywhere(&site, &renamed), &["false-content-address"]);
    let mut referring = twin.clone();
    referring.info.references.insert(package("glibc").info.path);
    assert_says(&refused_everywhere(&site, &referring), &["false-content-address"]);
    // Signatures do not make it true either.
    let signed = attack.signed_by(&[&alice(), &bob(), &carol()]);
    assert_says(&refused_everywhere(&site, &signed), &["false-content-address"]);
    admitted_everywhere(new, &[], &twin);
}

#[test]
fn a_content_address_by_a_broken_hash_stands_for_nothing() {
    let site = new();
    for algorithm in [HashAlgorithm::Md5, HashAlgorithm::Sha1] {
        for method in [ContentAddressMethod::Nar, ContentAddressMethod::Flat] {
            let attack = Package::content_addressed("tool", nar_of_file(b"good"), method, algorithm, &[]);
            assert_says(&refused_everywhere(&site, &attack), &["quorum-missing", "weak-content-address"]);
            admitted_everywhere(new, &[], &attack.signed_by(&[&alice(), &carol()]));
        }
    }
}

#[test]
fn a_content_address_is_not_enough_where_the_policy_wants_signatures() {
    let rules = Rules { content_addressed: Some("require"), ..Rules::default() };
    let new = || Site::new(rules.policy());
    let tool = Package::addressed_file("tool", b"good");
    assert_says(&refused_everywhere(&new(), &tool), &["quorum-missing"]);
    admitted_everywhere(new, &[], &tool.signed_by(&[&alice(), &bob()]));
    let rule = Rules {
        more: "[[rules]]\nname = \"firmware\"\npaths = [\"*-firmware\"]\ncontent-addressed = \"require\"\n".into(),
        ..Rules::default()
    };
    let new = || Site::new(rule.policy());
    assert_says(&refused_everywhere(&new(), &Package::addressed_file("wifi-firmware", b"x")), &["quorum-missing"]);
    admitted_everywhere(new, &[], &Package::addressed_file("wifi", b"x"));
}

#[test]
fn a_nar_size_that_lies_is_refused_whoever_signed_it() {
    let site = new();
    let honest = package("hello");
    let addressed = Package::addressed_file("tool", b"good");
    for delta in [-8_i64, 8, -1, 1, -(1 << 6), 1 << 20] {
        for original in [&honest, &addressed] {
            // The whole quorum signs the lie: only the bytes can tell.
            let mut lie = original.clone();
            lie.info.nar_size = lie.info.nar_size.checked_add_signed(delta).expect("above 0");
            let lie = lie.signed_by(&[&alice(), &bob(), &carol()]);
            let before = site.files();
            for mut raw in [site.raw(), site.stranger()] {
                let said = raw.upload(&[&lie]).expect_err("it must be refused");
                assert!(
                    ["malformed NAR", "content-mismatch", "the stream ended"].iter().any(|why| said.contains(why)),
                    "{delta}: {said}"
                );
                assert!(!raw.is_valid(lie.path()), "the session goes on");
            }
            eventually("what was being written is gone", || site.files() == before);
        }
    }
    // A size that lies where the bytes that come are so many: another file than the one that was signed.
    let longer = Package::of_nar("hello", nar_of_file(b"hello, and more"));
    let mut lie = honest.clone();
    lie.info.nar_size = longer.info.nar_size;
    let lie = Package { nar: longer.nar, ..lie }.signed_by(&[&alice(), &bob()]);
    assert_says(&refused_everywhere(&site, &lie), &["content-mismatch", &lie.info.nar_hash.to_string()]);
    let none = Package { info: verifier::PathInfo { nar_size: 0, ..honest.info.clone() }, nar: Vec::new() };
    assert_says(&site.upload(&[&none]).expect_err("it must be refused"), &["NarSize is 0"]);
    admitted_everywhere(new, &[], &honest.signed_by(&[&alice(), &bob()]));
    admitted_everywhere(new, &[], &addressed);
}

#[test]
fn a_changed_size_or_reference_makes_signatures_false() {
    let site = new();
    let honest = package("hello").signed_by(&[&alice(), &bob()]);
    let mut resized = honest.clone();
    resized.info.nar_size += 8;
    resized.nar.extend([0; 8]);
    assert_says(&refused_everywhere(&site, &resized), &["quorum-missing", "bad-signature"]);
    let glibc = package("glibc").signed_by(&[&alice(), &bob()]);
    site.admit(&[&glibc]);
    let referring = honest.clone().referring_to([glibc.path()]);
    assert_says(&refused_everywhere(&site, &referring), &["quorum-missing", "bad-signature"]);
    let mut moved = honest;
    moved.info.path = support::package::path("hello-2");
    assert_says(&refused_everywhere(&site, &moved), &["quorum-missing", "bad-signature"]);
}

#[test]
fn two_keys_of_one_name_are_both_tried_and_no_others() {
    let (first, second) = (key("builder-1", 11), key("builder-1", 12));
    let text = Rules::default()
        .text()
        .replace(&alice().public().to_string(), &first.public().to_string())
        .replace(&bob().public().to_string(), &second.public().to_string());
    let new = || Site::new(parse(&text));
    admitted_everywhere(new, &[], &package("hello").signed_by(&[&first, &second]));
    admitted_everywhere(new, &[], &package("hello").signed_by(&[&second, &carol()]));
    // Carol's key under the shared name is not Carol's.
    let attack = package("hello").signed_by(&[&first, &key("builder-1", 3)]);
    assert_says(&refused_everywhere(&new(), &attack), &["quorum-missing: 1 of 2", "bad-signature"]);
}

#[test]
fn what_a_trusted_client_says_of_checks_is_ignored() {
    let site = new();
    let mut attack = package("hello").signed_by(&[&alice()]);
    attack.info.ultimate = true;
    attack.info.registration_time = 1;
    refused_everywhere(&site, &attack);
    let flags = [(0, 0), (0, 1), (1, 0), (1, 1), (u64::MAX, u64::MAX)];
    for (repair, dont_check) in flags {
        let mut raw = site.raw();
        assert_eq!(raw.trusted, Some(1), "it is told that it is trusted");
        let one = Words::op(op::ADD_TO_STORE_NAR).info(&attack.info).u64(repair).u64(dont_check);
        let said = raw.ask(&one.framed(&attack.nar, 1 << 15)).expect_err("it must be refused");
        assert_says(&said, &["quorum-missing"]);
        let many = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(repair).u64(dont_check);
        let said = raw.ask(&many.framed(&items(&[&attack]), 1 << 15)).expect_err("it must be refused");
        assert_says(&said, &["quorum-missing"]);
        assert!(!raw.is_valid(attack.path()));
    }
    // Settings are heard and not obeyed.
    let mut raw = site.raw();
    let settings = ["require-sigs", "trusted-public-keys", "trusted-users"].map(|name| (name, "false"));
    let words = (0..12).fold(Words::op(19), |words, _| words.u64(0)).u64(3);
    raw.ask(&settings.iter().fold(words, |words, (name, value)| words.str(name).str(value))).expect("an answer");
    assert_says(&raw.upload(&[&attack]).expect_err("it must be refused"), &["quorum-missing"]);
    // Its twin carries the same flags, and they are not kept.
    let twin = attack.signed_by(&[&bob()]);
    admitted_everywhere(new, &[], &twin);
    for (repair, dont_check) in flags {
        let site = new();
        let many = Words::op(op::ADD_MULTIPLE_TO_STORE).u64(repair).u64(dont_check);
        site.raw().ask(&many.framed(&items(&[&twin]), 1 << 15)).expect("it is signed");
        let info = site.raw().path_info(twin.path()).expect("it is valid");
        assert!(!info.ultimate && info.registration_time > 1, "when it was admitted is the gate's to say");
    }
}

#[test]
fn repair_does_not_put_other_bytes_in_the_place_of_admitted_ones() {
    let site = new();
    let good = package("hello").signed_by(&[&alice(), &bob()]);
    site.admit(&[&good]);
    let other = Package::of_nar("hello", nar_of_file(b"other")).signed_by(&[&alice(), &bob(), &carol()]);
    for (repair, dont_check) in [(0, 0), (1, 1)] {
        let words = Words::op(op::ADD_TO_STORE_NAR).info(&other.info).u64(repair).u64(dont_check);
        let said = site.raw().ask(&words.framed(&other.nar, 1 << 15)).expect_err("it must be refused");
        assert_says(&said, &["conflict", &good.info.nar_hash.to_string(), &other.info.nar_hash.to_string()]);
    }
    assert_eq!(site.raw().nar(&good).expect("it is served"), good.nar);
}

#[test]
fn a_big_upload_is_refused_before_any_of_it_is_stored() {
    let site = new();
    let small = package("small").signed_by(&[&alice(), &bob()]);
    site.admit(&[&small]);
    let before = site.files();
    let mut six_gibibytes = package("big").signed_by(&[&alice()]);
    six_gibibytes.info.nar_size = 6 << 30;
    let six_gibibytes = six_gibibytes.unsigned().signed_by(&[&alice()]);
    let heads = [
        Words::op(op::ADD_TO_STORE_NAR).info(&six_gibibytes.info).u64(0).u64(0),
        Words::op(op::ADD_MULTIPLE_TO_STORE).u64(0).u64(0).u64(8).u64(1),
    ];
    for (number, head) in heads.iter().enumerate() {
        let mut raw = site.stranger();
        raw.send(&head.0);
        if number == 1 {
            let info = Words::new().info(&six_gibibytes.info).0;
            raw.send(&Words::new().u64(info.len() as u64).raw(&info).0);
        }
        // The answer is there before the first byte of the NAR is sent.
        let said = raw.answer().expect_err("it must be refused");
        assert_says(&said, &["quorum-missing: 1 of 2 of builders (alice signed; bob or carol could still sign)"]);
        // A client that sends on is listened to, and nothing of it is kept, at no time.
        let frame = noise(7, 1 << 20);
        for _ in 0..24 {
            raw.send(&Words::new().u64(frame.len() as u64).raw(&frame).0);
            assert_eq!(site.files(), before, "no file grew");
        }
        raw.send(&0_u64.to_le_bytes());
        assert!(raw.is_valid(small.path()), "the session goes on");
        assert!(!raw.is_valid(six_gibibytes.path()));
        eventually("nothing is left of it", || site.files() == before);
    }
    // Its twin, within a test's patience.
    let big = Package::of_nar("big", nar_of_file(&noise(8, 3 << 20))).signed_by(&[&alice(), &bob()]);
    admitted_everywhere(new, &[], &big);
}

#[test]
fn a_path_uploaded_again_with_more_signatures_has_all_of_them() {
    let site = new();
    let once = package("hello").signed_by(&[&alice(), &bob()]);
    let all = once.clone().signed_by(&[&carol()]);
    let signatures = |site: &Site| site.stranger().path_info(once.path()).expect("it is valid").signatures;
    site.admit(&[&once]);
    assert_eq!(signatures(&site), once.info.signatures);
    site.admit(&[&package("hello").signed_by(&[&carol()])]);
    assert_eq!(signatures(&site), all.info.signatures, "one signature is enough for a path that is there");
    site.admit(&[&once]);
    assert_eq!(signatures(&site), all.info.signatures, "and fewer take nothing away");
    // With the bytes of a path that is there, nothing has to be right: they are not looked at, since they are not needed.
    let lazy = Package { nar: vec![0; all.nar.len()], ..all.clone() };
    site.admit(&[&lazy]);
    assert_eq!(site.raw().nar(&all).expect("it is served"), all.nar);
    // A key that the policy does not know is kept, in case a later policy does; false ones are not.
    let unknown = mallory().sign(&once.fingerprint()).to_string();
    let of_another = alice().sign(&package("other").fingerprint()).to_string();
    site.admit(&[&package("hello").with_signature(&unknown).with_signature(of_another).with_signature("junk")]);
    let expected = all.clone().with_signature(&unknown).info.signatures;
    assert_eq!(signatures(&site), expected);
    // The narinfo, which stock Nix reads, says the same.
    let narinfo = std::fs::read_to_string(site.store().join(format!("{}.narinfo", once.hash_part()))).expect("text");
    let in_narinfo = narinfo.lines().filter_map(|line| line.strip_prefix("Sig: ")).map(str::to_owned).collect();
    assert_eq!(expected, in_narinfo);
    // And so with signatures alone.
    let site = new();
    site.admit(&[&once]);
    let carols: Vec<String> = vec![carol().sign(&once.fingerprint()).to_string()];
    site.stranger().add_signatures(once.path(), &carols).expect("it is valid");
    assert_eq!(signatures(&site), all.info.signatures);
}

#[test]
fn a_second_signature_by_the_same_key_takes_no_room() {
    let site = new();
    let hello = package("hello").signed_by(&[&alice(), &bob()]);
    site.admit(&[&hello]);
    let again = sign_again("alice-1", 1, &hello.fingerprint());
    site.raw().add_signatures(hello.path(), std::slice::from_ref(&again)).expect("it is valid");
    assert_eq!(site.raw().path_info(hello.path()).expect("it is valid").signatures, hello.info.signatures);
    // Nor can anybody fill the place of unknown keys, so that a later policy's would not fit.
    let flood: Vec<String> =
        (0..200).map(|number| key(&format!("flood-{number}"), 7).sign(&hello.fingerprint()).to_string()).collect();
    let mut stranger = site.stranger();
    stranger.add_signatures(hello.path(), &flood).expect("it is valid");
    stranger.add_signatures(hello.path(), &[carol().sign(&hello.fingerprint()).to_string()]).expect("it is valid");
    let kept = stranger.path_info(hello.path()).expect("it is valid").signatures;
    assert_eq!(kept.len(), 3 + 16, "those of the policy's three keys, and sixteen of unknown ones");
    assert!(kept.is_superset(&hello.clone().signed_by(&[&carol()]).info.signatures));
}

#[test]
fn what_a_key_cannot_sign_for_another_path_it_cannot_sign_for_this_one() {
    let site = new();
    let (mine, yours) = (package("mine"), package("yours"));
    let copied = yours.signed_by(&[&alice(), &bob()]);
    let attack = copied.info.signatures.iter().fold(mine, |package, text| package.with_signature(text));
    assert_says(&refused_everywhere(&site, &attack), &["quorum-missing: 0 of 2", "bad-signature"]);
    // Not even for the same bytes in another path.
    let mut same_bytes = package("mine");
    same_bytes.nar.clone_from(&copied.nar);
    same_bytes.info.nar_hash = copied.info.nar_hash;
    same_bytes.info.nar_size = copied.info.nar_size;
    let attack = copied.info.signatures.iter().fold(same_bytes, |package, text| package.with_signature(text));
    assert_says(&refused_everywhere(&site, &attack), &["quorum-missing: 0 of 2", "bad-signature"]);
    admitted_everywhere(new, &[], &copied);
}

#[test]
fn a_deriver_and_a_content_address_are_signed_by_nobody_and_decide_nothing() {
    let site = new();
    let hello = package("hello").signed_by(&[&alice(), &bob()]);
    let mut said = hello.clone();
    said.info.deriver =
        Some(StoreDir::default().parse_path(b"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x.drv").expect("a path"));
    site.admit(&[&said]);
    let mut raw = site.raw();
    raw.ask(&Words::op(op::QUERY_VALID_DERIVERS).str(&hello.full_path())).expect("an answer");
    assert!(raw.paths().is_empty(), "who is not valid derives nothing");
    let mut raw = site.raw();
    assert!(raw.ask(&add_multiple(&[&hello])).is_ok(), "it is the same path with or without it");
}
