//! Keys: Nix's own round-trip, and everything that must not become one.

mod support;

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::CompressedEdwardsY;
use support::fixture;
use support::{cases, key_name, secret};
use verifier::{KeyError, KeyName, PublicKey, SecretKey};

const CACHE_NIXOS_ORG: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

#[test]
fn a_secret_key_of_nix_survives_reading_and_writing() {
    for nix in ["2.8", "2.26", "2.34"] {
        let text = fixture::text(&format!("nix/{nix}/key.sec"));
        let key: SecretKey = text.parse().expect("Nix wrote it");
        assert_eq!(key.name().as_str(), format!("nix-{nix}.test-1"));
        assert_eq!(key.to_nix_string(), text.trim_end(), "Nix {nix}");
    }
}

#[test]
fn the_public_half_is_the_one_nix_converts_it_to() {
    for nix in ["2.8", "2.26", "2.34"] {
        let secret: SecretKey = fixture::text(&format!("nix/{nix}/key.sec")).parse().expect("Nix wrote it");
        let text = fixture::text(&format!("nix/{nix}/key.pub"));
        assert_eq!(secret.public().to_string(), text.trim_end(), "Nix {nix}");
        assert_eq!(Ok(secret.public()), text.trim_end().parse(), "Nix {nix}");
    }
}

#[test]
fn a_public_key_survives_reading_and_writing() {
    let key: PublicKey = CACHE_NIXOS_ORG.parse().expect("a good key");
    assert_eq!(key.to_string(), CACHE_NIXOS_ORG);
    assert_eq!(key.name().as_str(), "cache.nixos.org-1");
    assert_eq!(Ok(key.clone()), PublicKey::new(key.name().clone(), key.as_bytes()));
}

#[test]
fn a_secret_key_may_stand_between_white_space() {
    let key = secret("ci-1", 1);
    let text = format!("\n {} \r\n", key.to_nix_string());
    assert_eq!(text.parse::<SecretKey>().expect("the key is good").public(), key.public());
}

#[test]
fn showing_a_secret_key_for_debugging_tells_its_name_alone() {
    let key = secret("ci-1", 1);
    let encoded = key.to_nix_string().split_once(':').expect("NAME:BASE64").1.to_owned();
    let shown = format!("{key:?} {key:#?}");
    assert!(shown.contains("ci-1") && !shown.contains(&encoded[..8]), "{shown}");
    assert!(!shown.contains('['), "{shown}");
}

#[test]
fn what_is_no_public_key_is_refused_for_its_reason() {
    let wrong_length = |got| KeyError::Length { what: "public key", got, expected: 32 };
    let secret_text = secret("ci-1", 1).to_nix_string();
    let cases: &[(&str, &str, KeyError)] = &[
        ("empty", "", KeyError::NoColon),
        ("no colon", "cache.nixos.org-1", KeyError::NoColon),
        ("key without a name", ":6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", KeyError::BadName(String::new())),
        ("name with a space", "a b:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", KeyError::BadName("a b".into())),
        ("space before", " k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", KeyError::BadName(" k".into())),
        ("line end in it", "k\n:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", KeyError::BadName("k\n".into())),
        ("no-break space", "k\u{a0}:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", KeyError::BadName("k\u{a0}".into())),
        (
            "escape sequence",
            "\x1b[2J:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
            KeyError::BadName("\x1b[2J".into()),
        ),
        ("no key behind the name", "k:", wrong_length(0)),
        ("31 bytes", "k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShg==", wrong_length(31)),
        ("33 bytes", "k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjYA", wrong_length(33)),
        ("a secret key", &secret_text, wrong_length(64)),
    ];
    for (case, text, expected) in cases {
        assert_eq!(text.parse::<PublicKey>().as_ref(), Err(expected), "{case}");
    }
    for (case, text) in [
        ("two colons", "a:b:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="),
        ("base64 of URLs", "k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDSh_Y="),
        ("an odd character", "k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDSh*Y="),
        ("more behind the padding", "k:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=k"),
    ] {
        assert!(matches!(text.parse::<PublicKey>(), Err(KeyError::NotBase64(_))), "{case}");
    }
}

#[test]
fn what_is_no_secret_key_is_refused_for_its_reason() {
    let good = secret("ci-1", 1).to_nix_string();
    let public = secret("ci-1", 1).public().to_string();
    assert_eq!(good.replace(':', "").parse::<SecretKey>().err(), Some(KeyError::NoColon));
    let length = KeyError::Length { what: "secret key", got: 32, expected: 64 };
    assert_eq!(public.parse::<SecretKey>().err(), Some(length));
    assert_eq!(good.replace("ci-1", "").parse::<SecretKey>().err(), Some(KeyError::BadName(String::new())));
}

#[test]
fn a_secret_key_whose_halves_differ_is_refused() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mine = secret("ci-1", 1).to_nix_string();
    let bytes = STANDARD.decode(mine.split_once(':').expect("NAME:BASE64").1).expect("base64");
    let others = secret("ci-1", 2);
    let cases = [
        ("another's public half", [&bytes[..32], others.public().as_bytes()].concat()),
        ("one bit of the public half", [&bytes[..32], &[bytes[32] ^ 1], &bytes[33..]].concat()),
        ("one bit of the seed", [&[bytes[0] ^ 1], &bytes[1..]].concat()),
        ("a public half that is weak", [&bytes[..32], &[0; 32]].concat()),
    ];
    for (case, halves) in cases {
        let text = format!("ci-1:{}", STANDARD.encode(halves));
        assert_eq!(text.parse::<SecretKey>().err(), Some(KeyError::HalvesDiffer), "{case}");
    }
}

#[test]
fn a_name_is_refused_when_it_could_mislead() {
    let long = "k".repeat(256);
    let too_long = "k".repeat(257);
    assert!(KeyName::new(&long).is_ok());
    for name in ["", "a:b", ":", "a b", "a\tb", "a\nb", "a\0", "a\u{7f}", "a\u{85}", "a\u{2028}", &too_long] {
        assert!(matches!(KeyName::new(name), Err(KeyError::BadName(_))), "{name:?}");
    }
    for name in ["cache.nixos.org-1", "1", "ä", "a/b", "-", "=", "…"] {
        assert_eq!(KeyName::new(name).expect("a name Nix would take").as_str(), name);
    }
}

#[test]
fn none_of_the_eight_points_of_small_order_is_a_key() {
    for (order, point) in EIGHT_TORSION.iter().enumerate() {
        let bytes = point.compress().to_bytes();
        assert_eq!(PublicKey::new(key_name("weak"), &bytes), Err(KeyError::Weak), "point {order}: {bytes:02x?}");
    }
}

/// p = 2^255 - 19: the encodings of p and more are second spellings of 0 to 18, those that are points at all.
#[test]
fn no_encoding_of_a_y_that_is_p_or_more_is_a_key() {
    let mut points = 0;
    for y in 0xed..=0xff_u8 {
        for sign in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (y, sign);
            let expected = match CompressedEdwardsY(bytes).decompress() {
                Some(_) => KeyError::NotCanonical,
                None => KeyError::NotAPoint,
            };
            points += usize::from(expected == KeyError::NotCanonical);
            assert_eq!(PublicKey::new(key_name("twice"), &bytes), Err(expected), "{bytes:02x?}");
        }
    }
    assert!(points >= 10, "only {points} of these are points: the test shows nothing");
}

#[test]
fn the_points_with_x_0_have_no_second_sign() {
    for y in [1_u8, 0xec] {
        let mut bytes = if y == 1 { [0; 32] } else { [0xff; 32] };
        (bytes[0], bytes[31]) = (y, bytes[31] | 0x80);
        assert_eq!(PublicKey::new(key_name("twice"), &bytes), Err(KeyError::NotCanonical), "{bytes:02x?}");
    }
}

#[test]
fn bytes_that_are_no_point_are_no_key() {
    let mut bytes = [0; 32];
    bytes[0] = 2;
    assert_eq!(CompressedEdwardsY(bytes).decompress(), None);
    assert_eq!(PublicKey::new(key_name("none"), &bytes), Err(KeyError::NotAPoint));
}

proptest::proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn no_text_makes_a_key_or_name_panic(text in ".{0,120}") {
        let _ = text.parse::<PublicKey>();
        let _ = text.parse::<SecretKey>();
        let _ = format!("k:{text}").parse::<PublicKey>();
        if let Ok(name) = KeyName::new(&text) {
            proptest::prop_assert_eq!(name.as_str(), &text);
        }
    }

    #[test]
    fn a_key_has_one_spelling_only(bytes: [u8; 32]) {
        if let Ok(key) = PublicKey::new(key_name("any"), &bytes) {
            proptest::prop_assert_eq!(key.as_bytes(), &bytes);
            proptest::prop_assert_eq!(CompressedEdwardsY(bytes).decompress().expect("a point").compress().0, bytes);
            proptest::prop_assert_eq!(Ok(key.clone()), key.to_string().parse());
        }
    }

    #[test]
    fn a_secret_key_survives_writing_and_reading(seed: [u8; 32]) {
        let key = SecretKey::from_seed(key_name("any"), &seed);
        let again: SecretKey = key.to_nix_string().parse().expect("just written");
        proptest::prop_assert_eq!(again.to_nix_string(), key.to_nix_string());
        proptest::prop_assert_eq!(again.public(), key.public());
    }
}
