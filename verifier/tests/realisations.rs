//! Realisations: both forms as Nix writes and signs them, and ids that want to be more than an id.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::{cases, fixture, secret, signer, store_path, trusted, vectors};
use verifier::{Claim, Evidence, Keyring, OutputId, Realisation, RealisationError, SecretKey, Timestamp, TrustedKey};

const HASH: &str = "sha256:15e3c560894cbb27085cf65b5a2ecb18488c999497f4531b6907a7581ce6d527";
const OUT: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";
const DRV: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv";

/// Nix's own tests sign with this key.
const TEST_KEY: &str =
    "test-key:tU7tTvLcScf8pmz/eTV0BEtLmRsPpZfKaRcd0nCN+pysBZPHSeg61/u2oc7mIOewfuAY1V1BiX32homTaDJ2Jw==";

fn read(text: &str) -> Realisation {
    Realisation::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The verdicts on a realisation's own signatures.
fn verdicts(realisation: &Realisation, key: TrustedKey) -> Vec<Option<&'static str>> {
    let keyring = Keyring::new(vec![signer("nix", vec![key])]).expect("one key");
    let claims = realisation.signatures.iter().map(|text| Claim { text, first_seen: None });
    let evidence = Evidence::weigh(realisation.fingerprint(), claims, &keyring, Timestamp::from_unix(0));
    evidence.judged().iter().map(|judged| judged.verdict.code()).collect()
}

/// One realisation in each form, the older with a dependent one.
fn both_forms() -> [Realisation; 2] {
    let older = json!({
        "dependentRealisations": { format!("{HASH}!dev"): OUT },
        "id": format!("{HASH}!out"),
        "outPath": OUT,
        "signatures": [],
    });
    let newer = json!({
        "key": { "drvPath": DRV, "outputName": "out" },
        "value": { "outPath": OUT, "signatures": [] },
    });
    [read(&older.to_string()), read(&newer.to_string())]
}

// What Nix writes.

#[test]
fn the_newer_form_is_read_fingerprinted_and_signed_as_in_nixs_own_tests() {
    let Some(vectors) = vectors() else { return };
    let directory = vectors.join("realisation");
    let text = |name: &str| String::from_utf8(fixture::read(&directory.join(name))).expect("text");
    let key: SecretKey = TEST_KEY.parse().expect("a secret key");
    for name in ["simple", "with-signature"] {
        let realisation = read(&text(&format!("{name}.json")));
        let fingerprint = realisation.fingerprint();
        assert_eq!(fingerprint.as_str(), text(&format!("{name}-fingerprint.txt")), "{name}");
        let theirs: Value = serde_json::from_str(&text(&format!("{name}-sig.json"))).expect("JSON");
        let signature = key.sign(&fingerprint).to_string();
        let spelled = format!("{}:{}", theirs["keyName"].as_str().unwrap(), theirs["sig"].as_str().unwrap());
        assert_eq!(signature, spelled, "{name}");
        let written: Value = serde_json::from_str(&text(&format!("{name}.json"))).expect("JSON");
        assert_eq!(realisation.to_json(), written, "{name}");
        let unkeyed: Value = serde_json::from_str(&text(&format!("unkeyed-{name}.json"))).expect("JSON");
        assert_eq!(realisation.to_unkeyed_json(), unkeyed, "{name}");
        let again = Realisation::parse_unkeyed(realisation.id.clone(), &unkeyed.to_string());
        assert_eq!(again.expect("just written"), realisation, "{name}");
    }
    assert_eq!(read(&text("with-signature-unstructured.json")), read(&text("with-signature.json")));
}

#[test]
fn the_older_form_is_read_from_the_wire_and_fingerprinted_without_its_signatures() {
    let Some(vectors) = vectors() else { return };
    let mut lists = 0;
    for name in ["realisation", "realisation-with-deps"] {
        let wire = fixture::read(&vectors.join(format!("common-protocol/{name}.bin")));
        let json = fixture::read(&vectors.join(format!("common-protocol/{name}.json")));
        let values: Value = serde_json::from_slice(&json).expect("JSON");
        let mut rest = &wire[..];
        for value in values.as_array().expect("a list") {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
            let end = 8 + usize::try_from(length).expect("small");
            let text = std::str::from_utf8(&rest[8..end]).expect("text");
            rest = &rest[end.next_multiple_of(8)..];
            let realisation = read(text);
            assert_eq!(realisation, read(&value.to_string()), "{name}");
            let mut unsigned: Value = serde_json::from_str(text).expect("JSON");
            unsigned.as_object_mut().expect("an object").remove("signatures");
            assert_eq!(realisation.fingerprint().as_str(), unsigned.to_string(), "{name}");
            assert_eq!(read(&realisation.to_json().to_string()), realisation, "{name}");
            lists += 1;
        }
        assert_eq!(rest, b"", "{name}");
    }
    assert_eq!(lists, 3);
}

#[test]
fn a_realisation_that_nix_built_and_signed_verifies_and_is_written_as_it_was() {
    let mut names = BTreeSet::new();
    for cache in fixture::caches() {
        let directory = fixture::path("nix").join(cache.nix).join("realisations");
        for file in fixture::files(&directory, ".json") {
            let text = String::from_utf8(fixture::read(&file)).expect("text");
            let realisation = read(&text);
            let what = format!("Nix {}: {}", cache.nix, realisation.id);
            assert_eq!(verdicts(&realisation, trusted(&cache.key)), [None], "{what}");
            assert_eq!(realisation.to_json().to_string(), text, "{what}");
            let signed = cache.key.sign(&realisation.fingerprint()).to_string();
            assert_eq!(realisation.signatures, BTreeSet::from([signed]), "{what}");
            let built = cache.paths.iter().any(|cached| cached.info.path == realisation.out_path);
            assert!(built, "{what}");
            for forged in forgeries(&realisation) {
                assert_eq!(verdicts(&forged, trusted(&cache.key)), [Some("bad-signature")], "{what}: {forged:?}");
            }
            names.insert((cache.nix, realisation.id.output().to_owned(), realisation.dependent_realisations.len()));
        }
    }
    assert!(names.contains(&("2.8", "doc".to_owned(), 0)) && names.contains(&("2.34", "out".to_owned(), 0)));
    assert!(names.contains(&("2.8", "out".to_owned(), 1)) && names.contains(&("2.26", "out".to_owned(), 1)));
}

/// What the same signatures must not stand for.
fn forgeries(realisation: &Realisation) -> Vec<Realisation> {
    let other_id = match &realisation.id {
        OutputId::Hash { drv_hash, .. } => OutputId::parse_hash(&format!("{drv_hash}!forged")),
        OutputId::Path { drv_path, .. } => OutputId::of_path(drv_path.clone(), "forged"),
    };
    let mut forgeries = vec![
        Realisation { id: other_id.expect("an id"), ..realisation.clone() },
        Realisation { out_path: store_path("0rygvz1d7s3l8wqmkxj5b2nfa4hc6i9p-forged"), ..realisation.clone() },
    ];
    if matches!(realisation.id, OutputId::Hash { .. }) {
        let mut dependent = realisation.clone();
        dependent.dependent_realisations.insert(format!("{HASH}!forged"), realisation.out_path.clone());
        forgeries.push(dependent);
        let drv_hash = format!("sha256:{}", "0".repeat(64));
        let id = OutputId::Hash { drv_hash, output: realisation.id.output().to_owned() };
        forgeries.push(Realisation { id, ..realisation.clone() });
    }
    forgeries
}

// Both forms.

#[test]
fn each_form_has_its_own_fingerprint_letter_by_letter() {
    let [older, newer] = both_forms();
    assert_eq!(
        older.fingerprint().as_str(),
        format!(r#"{{"dependentRealisations":{{"{HASH}!dev":"{OUT}"}},"id":"{HASH}!out","outPath":"{OUT}"}}"#)
    );
    assert_eq!(
        newer.fingerprint().as_str(),
        format!(r#"{{"key":{{"drvPath":"{DRV}","outputName":"out"}},"value":{{"outPath":"{OUT}"}}}}"#)
    );
}

#[test]
fn a_signature_covers_the_form_it_was_made_over_and_nothing_else() {
    let key = secret("ci-1", 1);
    let forms = both_forms();
    for (form, other) in [(0, 1), (1, 0)] {
        let signature = key.sign(&forms[form].fingerprint()).to_string();
        let sign = |realisation: &Realisation| Realisation {
            signatures: BTreeSet::from([signature.clone()]),
            ..realisation.clone()
        };
        let signed = sign(&forms[form]);
        assert_eq!(verdicts(&signed, trusted(&key)), [None]);
        assert_eq!(signed.fingerprint(), forms[form].fingerprint(), "signatures are not signed");
        assert_eq!(verdicts(&sign(&forms[other]), trusted(&key)), [Some("bad-signature")]);
        for forged in forgeries(&signed) {
            assert_eq!(verdicts(&forged, trusted(&key)), [Some("bad-signature")], "{forged:?}");
        }
        let again = read(&signed.to_json().to_string());
        assert_eq!(again, signed);
        assert_eq!(verdicts(&again, trusted(&key)), [None]);
    }
}

#[test]
fn a_malformed_signature_is_kept_for_the_verdict_and_not_written_where_it_has_no_form() {
    for realisation in both_forms() {
        let key = secret("ci-1", 1);
        let good = key.sign(&realisation.fingerprint()).to_string();
        let signatures = BTreeSet::from(["malformed".to_owned(), good.clone()]);
        let realisation = Realisation { signatures, ..realisation };
        assert_eq!(verdicts(&realisation, trusted(&key)), [None, Some("malformed-signature")]);
        let unkeyed = realisation.to_unkeyed_json();
        let encoded = good.split_once(':').expect("NAME:BASE64").1;
        assert_eq!(unkeyed["signatures"], json!([{ "keyName": "ci-1", "sig": encoded }]));
    }
}

#[test]
fn the_newer_form_has_no_dependent_realisations() {
    let dependent = json!({ format!("{HASH}!out"): OUT });
    let text = json!({
        "key": { "drvPath": DRV, "outputName": "out" },
        "value": { "outPath": OUT, "signatures": [], "dependentRealisations": dependent },
    });
    let realisation = read(&text.to_string());
    assert_eq!(realisation, both_forms()[1], "what no signature covers is not believed");
}

#[test]
fn an_id_is_read_in_every_spelling_of_its_hash_and_written_in_one() {
    let hexadecimal = HASH.split_once(':').expect("sha256:…").1;
    let bytes: Vec<u8> =
        (0..32).map(|index| u8::from_str_radix(&hexadecimal[2 * index..][..2], 16).expect("digits")).collect();
    let hash = verifier::NarHash::from_sha256(bytes.try_into().expect("32 bytes"));
    let written = format!("{HASH}!out");
    for spelled in [HASH.to_owned(), hash.to_string(), HASH.to_uppercase().replace("SHA256", "sha256")] {
        let id = OutputId::parse_hash(&format!("{spelled}!out")).expect("an id");
        assert_eq!(id.to_string(), written, "{spelled}");
        assert_eq!(id.output(), "out");
    }
    let of_path = OutputId::of_path(store_path(DRV), "out").expect("an id");
    assert_eq!(of_path.to_string(), format!("{DRV}^out"));
}

// Hostile ids: an id becomes part of an object's name, an output's name even more so.

const HOSTILE_OUTPUTS: &[&str] = &[
    "",
    ".",
    "..",
    "../out",
    "../../nix-cache-info",
    "/etc/passwd",
    "a/b",
    "out/..",
    "a\\b",
    ".hidden",
    "a b",
    "a\n",
    "a\0b",
    "é",
    "out!out",
    "out^out",
    "out:out",
    "%2e%2e%2f",
    "*",
    "$(id)",
    "a\u{202e}b",
];

#[test]
fn an_output_name_that_could_leave_its_directory_is_refused() {
    let long = "n".repeat(212);
    for output in HOSTILE_OUTPUTS.iter().copied().chain([long.as_str()]) {
        let result = OutputId::parse_hash(&format!("{HASH}!{output}"));
        assert!(matches!(result, Err(RealisationError::BadId(_))), "{output:?}: {result:?}");
        let result = OutputId::of_path(store_path(DRV), output);
        assert!(matches!(result, Err(RealisationError::BadId(_))), "{output:?}: {result:?}");
        let [older, newer] = both_forms().map(|realisation| realisation.to_json());
        let (mut id, mut dependent, mut key) = (older.clone(), older, newer);
        id["id"] = format!("{HASH}!{output}").into();
        dependent["dependentRealisations"] = json!({ format!("{HASH}!{output}"): OUT });
        key["key"]["outputName"] = output.into();
        for json in [id, dependent, key] {
            let result = Realisation::parse(&json.to_string());
            assert!(matches!(result, Err(RealisationError::BadId(_))), "{json}: {result:?}");
        }
    }
    for output in ["out", "dev", "lib-32", "a.b", "x_1?=+", &"n".repeat(211)] {
        assert!(OutputId::parse_hash(&format!("{HASH}!{output}")).is_ok(), "{output:?}");
    }
}

#[test]
fn a_hash_that_is_no_sha256_is_no_id() {
    let sha512 = format!("sha512:{}", "0".repeat(128));
    for hash in ["", "out", "sha256:", "sha256:15e3", "md5:d41d8cd98f00b204e9800998ecf8427e", &sha512, &HASH[7..]] {
        let result = OutputId::parse_hash(&format!("{hash}!out"));
        assert!(matches!(result, Err(RealisationError::BadId(_))), "{hash:?}: {result:?}");
    }
    assert!(matches!(OutputId::parse_hash(HASH), Err(RealisationError::BadId(_))), "no output");
    assert!(matches!(OutputId::parse_hash(&format!("../{HASH}!out")), Err(RealisationError::BadId(_))));
}

#[test]
fn a_path_that_is_no_base_name_is_refused() {
    for path in
        ["", "foo", "../foo", "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo", &format!("{OUT}/bin"), &OUT[1..]]
    {
        let [older, newer] = both_forms().map(|realisation| realisation.to_json());
        let (mut out, mut value, mut drv, mut dependent) = (older.clone(), newer.clone(), newer, older);
        out["outPath"] = path.into();
        value["value"]["outPath"] = path.into();
        drv["key"]["drvPath"] = path.into();
        dependent["dependentRealisations"] = json!({ format!("{HASH}!dev"): path });
        for json in [out, value, drv, dependent] {
            let result = Realisation::parse(&json.to_string());
            assert!(matches!(result, Err(RealisationError::BadPath(_))), "{json}: {result:?}");
        }
    }
}

#[test]
fn what_is_no_realisation_is_refused_for_its_reason() {
    for text in ["", "{", "nothing", "{}{}", "[[[[", &"[".repeat(100_000)] {
        assert!(matches!(Realisation::parse(text), Err(RealisationError::NotJson(_))), "{:.20}", text);
    }
    for json in [
        json!(null),
        json!([]),
        json!({}),
        json!("text"),
        json!({ "id": 1, "outPath": OUT }),
        json!({ "id": format!("{HASH}!out") }),
        json!({ "id": format!("{HASH}!out"), "outPath": null }),
        json!({ "key": {}, "value": {} }),
        json!({ "key": null, "value": null }),
        json!({ "key": { "drvPath": DRV, "outputName": "out" } }),
        json!({ "key": { "drvPath": DRV, "outputName": "out" }, "value": {} }),
        json!({ "id": format!("{HASH}!out"), "outPath": OUT, "signatures": [{}] }),
        json!({ "id": format!("{HASH}!out"), "outPath": OUT, "signatures": [1] }),
        json!({ "id": format!("{HASH}!out"), "outPath": OUT, "dependentRealisations": { format!("{HASH}!dev"): 1 } }),
    ] {
        let result = Realisation::parse(&json.to_string());
        assert!(matches!(result, Err(RealisationError::Missing(_))), "{json}: {result:?}");
    }
}

#[test]
fn a_huge_realisation_is_not_looked_at() {
    let [older, _] = both_forms();
    let padded = |length: usize| {
        let text = older.to_json().to_string();
        format!("{text}{}", " ".repeat(length - text.len()))
    };
    assert!(Realisation::parse(&padded(1 << 20)).is_ok());
    assert!(matches!(Realisation::parse(&padded((1 << 20) + 1)), Err(RealisationError::NotJson(_))));
    assert!(Realisation::parse_unkeyed(older.id.clone(), &padded(1 << 20)).is_ok());
    let result = Realisation::parse_unkeyed(older.id.clone(), &padded((1 << 20) + 1));
    assert!(matches!(result, Err(RealisationError::NotJson(_))));
}

#[test]
fn what_is_missing_without_need_is_empty() {
    let text = json!({ "id": format!("{HASH}!out"), "outPath": OUT }).to_string();
    let realisation = read(&text);
    assert!(realisation.signatures.is_empty() && realisation.dependent_realisations.is_empty());
    assert!(realisation.fingerprint().as_str().starts_with(r#"{"dependentRealisations":{},"id":"#));
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_realisation_survives_writing_and_reading(
        newer: bool,
        output in "[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,20}",
        dependent in prop::collection::btree_set("[a-z]{1,8}", 0..4),
        signatures in prop::collection::vec((any::<[u8; 32]>(), any::<[u8; 32]>(), "[a-z]{1,8}-1"), 0..4),
    ) {
        let id = if newer {
            OutputId::of_path(store_path(DRV), &output)
        } else {
            OutputId::parse_hash(&format!("{HASH}!{output}"))
        };
        let sign = |(head, tail, name): ([u8; 32], [u8; 32], String)| {
            let bytes = [head, tail].concat().try_into().expect("64 bytes");
            verifier::Signature::new(support::key_name(&name), bytes).to_string()
        };
        let dependent = dependent.into_iter().map(|name| (format!("{HASH}!{name}"), store_path(OUT)));
        let realisation = Realisation {
            id: id.expect("an id"),
            out_path: store_path(OUT),
            signatures: signatures.into_iter().map(sign).collect(),
            dependent_realisations: if newer { Default::default() } else { dependent.collect() },
        };
        let again = read(&realisation.to_json().to_string());
        prop_assert_eq!(again.fingerprint(), realisation.fingerprint());
        prop_assert_eq!(again, realisation);
    }

    #[test]
    fn no_text_makes_a_realisation_panic(text in ".{0,200}", id in "\\PC{0,80}") {
        let _ = Realisation::parse(&text);
        let _ = Realisation::parse_unkeyed(both_forms()[0].id.clone(), &text);
        let _ = OutputId::parse_hash(&id);
        let _ = OutputId::parse_hash(&format!("{HASH}!{id}"));
        let _ = Realisation::parse(&json!({ "id": id, "outPath": text }).to_string());
    }

    /// Whatever output's name is read can stand in a file's name.
    #[test]
    fn an_output_name_that_is_read_is_harmless(output in "[./!^:a\\\\ \u{0}-]{0,12}") {
        if let Ok(id) = OutputId::of_path(store_path(DRV), &output) {
            prop_assert!(!id.output().contains(['/', '\\', '\0', ' ', ':', '!', '^']) && !id.output().starts_with('.'));
        }
    }
}
