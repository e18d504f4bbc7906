//! Realisations pass the gate like paths: over their own fingerprint, in both of the forms that Nix has for them.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::keys::{Rules, alice, bob, carol, mallory, sign_again, two_of_three};
use support::package::{Package, full, package};
use support::raw::Raw;
use support::site::Site;
use support::words::{Words, op};
use verifier::{OutputId, Realisation, SecretKey, StoreDir, StorePath};

/// The two forms: keyed by the derivation's hash, and by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Hash,
    Path,
}

const FORMS: [Form; 2] = [Form::Hash, Form::Path];

impl Form {
    fn id(self, output: &str) -> OutputId {
        match self {
            Self::Hash => OutputId::parse_hash(&format!("sha256:{}!{output}", "ab".repeat(32))).expect("an id"),
            Self::Path => OutputId::of_path(package("hello.drv").info.path, output).expect("an id"),
        }
    }

    fn connect(self, site: &Site) -> Raw {
        match self {
            Self::Hash => site.raw(),
            Self::Path => Raw::connect_with_paths(site.socket()),
        }
    }

    fn realisation(self, out_path: &StorePath) -> Realisation {
        Realisation {
            id: self.id("out"),
            out_path: out_path.clone(),
            signatures: BTreeSet::new(),
            dependent_realisations: BTreeMap::new(),
        }
    }
}

fn signed(realisation: &Realisation, keys: &[&SecretKey]) -> Realisation {
    let fingerprint = realisation.fingerprint();
    let mut signed = realisation.clone();
    signed.signatures.extend(keys.iter().map(|key| key.sign(&fingerprint).to_string()));
    signed
}

fn with_signature(realisation: &Realisation, text: String) -> Realisation {
    let mut more = realisation.clone();
    more.signatures.insert(text);
    more
}

fn words(realisation: &Realisation) -> Words {
    let request = Words::op(op::REGISTER_DRV_OUTPUT);
    match &realisation.id {
        OutputId::Hash { .. } => request.str(&realisation.to_json().to_string()),
        OutputId::Path { drv_path, output } => request
            .str(&full(drv_path))
            .str(output)
            .str(&full(&realisation.out_path))
            .strings(realisation.signatures.iter().collect::<Vec<_>>()),
    }
}

/// Registers a realisation; whatever comes of it, the session goes on.
fn register(raw: &mut Raw, realisation: &Realisation) -> Result<(), String> {
    let answer = raw.ask(&words(realisation));
    raw.all_paths();
    answer
}

fn query(raw: &mut Raw, id: &OutputId) -> Option<Realisation> {
    let request = Words::op(op::QUERY_REALISATION);
    match id {
        OutputId::Hash { .. } => {
            raw.ask(&request.str(&id.to_string())).expect("an answer");
            (raw.u64() == 1).then(|| Realisation::parse(&raw.str()).expect("a realisation"))
        }
        OutputId::Path { drv_path, output } => {
            raw.ask(&request.str(&full(drv_path)).str(output)).expect("an answer");
            (raw.u64() == 1).then(|| Realisation {
                id: id.clone(),
                out_path: StoreDir::default().parse_path(raw.str().as_bytes()).expect("a path"),
                signatures: raw.strings().into_iter().collect(),
                dependent_realisations: BTreeMap::new(),
            })
        }
    }
}

/// A store with two outputs to speak of.
struct Scene {
    site: Site,
    hello: Package,
    other: Package,
}

impl Scene {
    fn new() -> Self {
        let site = Site::new(two_of_three());
        let hello = package("hello").signed_by(&[&bob(), &carol()]);
        let other = package("other").signed_by(&[&bob(), &carol()]);
        site.admit(&[&hello, &other]);
        Self { site, hello, other }
    }

    /// A realisation that must be refused, and leaves nothing behind.
    fn refused(&self, form: Form, realisation: &Realisation) -> String {
        let before = self.site.files();
        let mut raw = form.connect(&self.site);
        let said = register(&mut raw, realisation).expect_err("it must be refused");
        assert_eq!(self.site.files(), before, "nothing is left of it");
        assert!(!said.chars().any(char::is_control), "{said:?}");
        said
    }
}

#[test]
fn a_realisation_that_two_builders_signed_is_admitted_in_both_forms() {
    for form in FORMS {
        let scene = Scene::new();
        let good = signed(&form.realisation(scene.hello.path()), &[&alice(), &bob()]);
        let mut raw = form.connect(&scene.site);
        assert_eq!(query(&mut raw, &good.id), None);
        register(&mut raw, &good).expect("it is signed");
        assert_eq!(query(&mut raw, &good.id), Some(good.clone()), "{form:?}");
        // It is that output's and no other's, and of the form it was made in.
        assert_eq!(query(&mut raw, &form.id("dev")), None);
        // Where Nix looks for it in a binary cache.
        let name = match form {
            Form::Hash => format!("realisations/{}.doi", good.id),
            Form::Path => format!("build-trace-v2/{}/out.doi", package("hello.drv").info.path.to_basename()),
        };
        let text = std::fs::read_to_string(scene.site.store().join(name)).expect("it is there");
        let read = match form {
            Form::Hash => Realisation::parse(&text),
            Form::Path => Realisation::parse_unkeyed(good.id.clone(), &text),
        };
        assert_eq!(read.expect("as Nix lays it out"), good);
        let restarted = Site::over(scene.site.store(), two_of_three());
        assert_eq!(query(&mut form.connect(&restarted), &good.id), Some(good));
    }
}

#[test]
fn a_realisation_that_falls_short_is_refused() {
    for form in FORMS {
        let scene = Scene::new();
        let plain = form.realisation(scene.hello.path());
        let once = signed(&plain, &[&alice()]);
        let fingerprint = plain.fingerprint();
        let other = form.realisation(scene.other.path());
        let cases = [
            ("nobody signed", plain.clone(), "quorum-missing: 0 of 2"),
            ("one signed", once.clone(), "quorum-missing: 1 of 2"),
            ("one signed twice", with_signature(&once, sign_again("alice-1", 1, &fingerprint)), "duplicate-signer"),
            ("a key that nobody knows", with_signature(&once, mallory().sign(&fingerprint).to_string()), "unknown-key"),
            (
                "the signature of another realisation",
                with_signature(&once, bob().sign(&other.fingerprint()).to_string()),
                "bad-signature",
            ),
            (
                "the signature of the path itself",
                with_signature(&once, bob().sign(&scene.hello.fingerprint()).to_string()),
                "bad-signature",
            ),
            ("a malformed one", with_signature(&once, "bob-1:AAAA".into()), "malformed-signature"),
        ];
        for (what, attack, code) in cases {
            // The newer form's JSON can only say signatures that are ones; on the wire they are texts.
            let said = scene.refused(form, &attack);
            assert!(said.contains("quorum-missing") && said.contains(code), "{form:?}, {what}: {said}");
            assert_eq!(query(&mut form.connect(&scene.site), &plain.id), None, "{form:?}, {what}");
        }
        // Beside good ones, malformed and foreign ones take nothing.
        let twin = with_signature(&signed(&plain, &[&alice(), &bob()]), "junk".into());
        let twin = with_signature(&twin, mallory().sign(&fingerprint).to_string());
        let mut raw = form.connect(&scene.site);
        register(&mut raw, &twin).expect("two builders signed");
        assert_eq!(query(&mut raw, &plain.id), Some(signed(&plain, &[&alice(), &bob()])));
    }
}

#[test]
fn a_realisation_of_a_path_that_is_not_admitted_is_refused() {
    for form in FORMS {
        let scene = Scene::new();
        let absent = package("absent");
        let early = signed(&form.realisation(absent.path()), &[&alice(), &bob(), &carol()]);
        let said = scene.refused(form, &early);
        assert!(said.contains("missing-reference") && said.contains(&absent.full_path()), "{said}");
        scene.site.admit(&[&absent.signed_by(&[&alice(), &carol()])]);
        register(&mut form.connect(&scene.site), &early).expect("now it is there");
    }
}

#[test]
fn an_output_has_one_path() {
    for form in FORMS {
        let scene = Scene::new();
        let one = signed(&form.realisation(scene.hello.path()), &[&alice(), &bob()]);
        let two = signed(&form.realisation(scene.other.path()), &[&alice(), &bob(), &carol()]);
        let mut raw = form.connect(&scene.site);
        register(&mut raw, &one).expect("it is signed");
        let said = scene.refused(form, &two);
        assert!(said.contains("conflict") && said.contains(&scene.other.full_path()), "{said}");
        assert_eq!(query(&mut raw, &one.id), Some(one.clone()));
        // Once the policy no longer vouches for the first, the other may take its place.
        let revoked = Rules { revoked: &["alice"], ..Rules::default() };
        scene.site.gate.set_policy(revoked.policy()).expect("a policy");
        assert_eq!(query(&mut raw, &one.id), None);
        register(&mut raw, &two).expect("Bob and Carol signed it");
        assert_eq!(query(&mut raw, &one.id).expect("it is admitted").out_path, *scene.other.path());
    }
}

#[test]
fn signatures_of_a_realisation_merge() {
    for form in FORMS {
        let scene = Scene::new();
        let plain = form.realisation(scene.hello.path());
        let mut raw = form.connect(&scene.site);
        register(&mut raw, &signed(&plain, &[&alice(), &bob()])).expect("it is signed");
        register(&mut raw, &signed(&plain, &[&carol()])).expect("one more is enough for what is there");
        register(&mut raw, &plain).expect("none takes nothing away");
        assert_eq!(query(&mut raw, &plain.id), Some(signed(&plain, &[&alice(), &bob(), &carol()])));
        // A second nonce takes no room.
        let again = sign_again("alice-1", 1, &plain.fingerprint());
        register(&mut raw, &with_signature(&plain, again)).expect("it is there");
        assert_eq!(query(&mut raw, &plain.id).expect("it is there").signatures.len(), 3);
    }
}

#[test]
fn signatures_of_a_realisation_that_arrive_at_once_are_all_kept() {
    for form in FORMS {
        let scene = Scene::new();
        let plain = form.realisation(scene.hello.path());
        let pairs = [[alice(), bob()], [bob(), carol()], [alice(), carol()]];
        std::thread::scope(|scope| {
            for number in 0..12 {
                let (site, realisation) = (&scene.site, signed(&plain, &pairs[number % 3].each_ref()));
                scope.spawn(move || register(&mut form.connect(site), &realisation).expect("it is signed"));
            }
        });
        let found = query(&mut form.connect(&scene.site), &plain.id);
        assert_eq!(found, Some(signed(&plain, &[&alice(), &bob(), &carol()])));
    }
}

#[test]
fn what_rests_on_a_revoked_key_or_a_path_that_fell_is_not_told() {
    for form in FORMS {
        let scene = Scene::new();
        let plain = form.realisation(scene.hello.path());
        let mut raw = form.connect(&scene.site);
        register(&mut raw, &signed(&plain, &[&alice(), &bob()])).expect("it is signed");
        scene.site.gate.set_policy(Rules { revoked: &["alice"], ..Rules::default() }.policy()).expect("a policy");
        assert!(raw.is_valid(scene.hello.path()), "the path rests on others");
        assert_eq!(query(&mut raw, &plain.id), None);
        register(&mut raw, &signed(&plain, &[&carol()])).expect("Bob's signature is still there");
        assert!(query(&mut raw, &plain.id).is_some());
        // The path falls: so does what is said of it.
        scene.site.gate.set_policy(Rules { revoked: &["carol"], ..Rules::default() }.policy()).expect("a policy");
        assert!(!raw.is_valid(scene.hello.path()));
        assert_eq!(query(&mut raw, &plain.id), None);
        scene.site.gate.set_policy(two_of_three()).expect("a policy");
        assert_eq!(query(&mut raw, &plain.id).expect("it is back").signatures.len(), 3);
    }
}

#[test]
fn a_content_address_takes_nothing_from_what_a_realisation_needs() {
    for form in FORMS {
        let scene = Scene::new();
        let free = Package::addressed_file("free", b"x");
        scene.site.admit(&[&free]);
        let said = scene.refused(form, &form.realisation(free.path()));
        assert!(said.contains("quorum-missing: 0 of 2"), "{said}");
        register(&mut form.connect(&scene.site), &signed(&form.realisation(free.path()), &[&alice(), &bob()]))
            .expect("it is signed");
    }
}

/// What the older form says of other outputs is signed with the rest.
#[test]
fn dependent_realisations_are_part_of_what_is_signed() {
    let scene = Scene::new();
    let plain = Form::Hash.realisation(scene.hello.path());
    let mut more = signed(&plain, &[&alice(), &bob()]);
    more.dependent_realisations.insert(Form::Hash.id("dev").to_string(), scene.other.path().clone());
    let said = scene.refused(Form::Hash, &more);
    assert!(said.contains("bad-signature"), "{said}");
    more.signatures.clear();
    let good = signed(&more, &[&alice(), &bob()]);
    let mut raw = scene.site.raw();
    register(&mut raw, &good).expect("it is signed as it is");
    assert_eq!(query(&mut raw, &good.id), Some(good));
}

#[test]
fn realisations_have_limits() {
    for form in FORMS {
        let scene = Scene::new();
        let plain = signed(&form.realisation(scene.hello.path()), &[&alice(), &bob()]);
        let flood = (0..511).fold(plain.clone(), |flood, number| with_signature(&flood, format!("k-{number}:AAAA")));
        assert!(scene.refused(form, &flood).contains("513 signatures, over 512"));
    }
    // A name that is too long for a file is an error, and the session goes on.
    let scene = Scene::new();
    let mut long = Form::Hash.realisation(scene.hello.path());
    long.id = Form::Hash.id(&"o".repeat(211));
    let mut raw = scene.site.raw();
    register(&mut raw, &signed(&long, &[&alice(), &bob()])).expect_err("no file has such a name");
    assert!(raw.is_valid(scene.hello.path()));
}

#[test]
fn a_realisation_changed_on_disk_is_not_told() {
    for form in FORMS {
        let scene = Scene::new();
        let good = signed(&form.realisation(scene.hello.path()), &[&alice(), &bob()]);
        register(&mut form.connect(&scene.site), &good).expect("it is signed");
        let name = scene.site.files().into_keys().find(|name| name.ends_with(".doi")).expect("it is there");
        let file = scene.site.store().join(name);
        let text = std::fs::read_to_string(&file).expect("text");
        let moved = text.replace(&scene.hello.path().to_basename(), &scene.other.path().to_basename());
        assert_ne!(moved, text);
        for damage in [moved.as_str(), "", "{}", &text[..text.len() / 2]] {
            std::fs::write(&file, damage).expect("it can be written");
            let mut raw = form.connect(&scene.site);
            let request = Words::op(op::QUERY_REALISATION);
            let request = match &good.id {
                OutputId::Hash { .. } => request.str(&good.id.to_string()),
                OutputId::Path { drv_path, output } => request.str(&full(drv_path)).str(output),
            };
            if raw.ask(&request).is_ok() {
                assert_eq!(raw.u64(), 0, "{form:?}: {damage}");
            }
            assert!(raw.is_valid(scene.hello.path()), "the session goes on");
        }
        std::fs::write(&file, text).expect("it can be written");
        assert_eq!(query(&mut form.connect(&scene.site), &good.id), Some(good));
    }
}
