//! The hash by which Nix up to 2.34 names the outputs of a derivation whose paths depend on their contents.
//!
//! It is taken over the derivation's own text, in which a hash stands for each derivation that it needs: so it needs the texts of all
//! of them.
//!
//! Source: Nix 2.34 `src/libstore/derivations.cc`, `hashDerivationModulo`, `staticOutputHashes`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use nix_derivation::Derivation;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use verifier::{StorePath, base16};

use super::StoreError;
use super::derivation::{parse_text, read_derivation};
use super::reading::Store;

/// Most derivations that are read for the hash of one.
const MOST_DERIVATIONS: usize = 100_000;

/// Most bytes of derivations that wait for those that they need: a system's take a few MB.
const MOST_WAITING: usize = 64 << 20;

/// Hashes that are made at the same time.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

/// A derivation's hash, in hexadecimal.
type Hash = String;

/// What stands for the derivations that one needs: their hashes, with the outputs that it needs of each.
type Inputs = BTreeMap<Hash, BTreeSet<String>>;

/// A derivation whose hash waits for those of others. It waits as a text, which takes much less than what is made of it.
struct Open {
    path: StorePath,
    text: Vec<u8>,
    needed: Vec<StorePath>,
}

impl Open {
    fn new(path: StorePath, derivation: &Derivation) -> Self {
        let needed = derivation.input_derivations().keys().cloned().collect();
        Self { path, text: derivation.to_aterm_bytes(), needed }
    }
}

/// Returns the hash that names a derivation's outputs; none where something is not in the store that it needs,
/// or there is too much of it.
pub(super) async fn output_hash(
    store: &dyn Store,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<Option<Hash>, StoreError> {
    let _turn = AT_ONCE.acquire().await.expect("nobody closes it");
    let mut known: HashMap<StorePath, Hash> = HashMap::new();
    let mut opened: HashSet<StorePath> = [path.clone()].into();
    let mut open = vec![Open::new(path.clone(), derivation)];
    let mut waiting = open[0].text.len();
    while let Some(last) = open.last_mut() {
        if let Some(next) = last.needed.pop() {
            if known.contains_key(&next) {
                continue;
            }
            // One that needs itself is none that Nix has made.
            if opened.len() >= MOST_DERIVATIONS || !opened.insert(next.clone()) {
                return Ok(None);
            }
            let Some(derivation) = read_derivation(store, &next).await? else {
                return Ok(None);
            };
            let next = Open::new(next, &derivation);
            waiting += next.text.len();
            if waiting > MOST_WAITING {
                return Ok(None);
            }
            open.push(next);
        } else if let Some(Open { path, text, .. }) = open.pop() {
            waiting -= text.len();
            let Ok(derivation) = parse_text(&path, &text, store.store_dir()) else {
                return Ok(None);
            };
            let Some(inputs) = inputs(&derivation, &known) else {
                return Ok(None);
            };
            if open.is_empty() {
                return Ok(hash(&derivation, &inputs, true));
            }
            let fixed = derivation.hash_input_derivation_modulo(|_| [0; 32]).ok();
            let fixed = fixed.and_then(|hash| hash.fixed_output_hash().map(|hash| base16::encode(hash.as_bytes())));
            let Some(hash) = fixed.or_else(|| hash(&derivation, &inputs, false)) else {
                return Ok(None);
            };
            known.insert(path, hash);
        }
    }
    Ok(None)
}

/// Returns what stands for the derivations that one needs; none where which these are depends on others' outputs.
fn inputs(derivation: &Derivation, known: &HashMap<StorePath, Hash>) -> Option<Inputs> {
    let mut inputs = Inputs::new();
    for (path, needed) in derivation.input_derivations() {
        if needed.is_dynamic() {
            return None;
        }
        inputs.entry(known.get(path)?.clone()).or_default().extend(needed.outputs().iter().cloned());
    }
    Some(inputs)
}

/// Hashes a derivation's text with hashes in place of what it needs, and perhaps without what it calls its outputs.
fn hash(derivation: &Derivation, inputs: &Inputs, masked: bool) -> Option<Hash> {
    let text = derivation.to_aterm_bytes();
    let fields = values(text.strip_prefix(b"Derive(")?.strip_suffix(b")")?)?;
    let [outputs, _, sources, system, builder, arguments, environment] = fields[..] else {
        return None;
    };
    let quoted = |text: &str| format!("\"{text}\"");
    let input = |(hash, outputs): (&Hash, &BTreeSet<String>)| {
        let outputs: Vec<String> = outputs.iter().map(|output| quoted(output)).collect();
        format!("(\"{hash}\",[{}])", outputs.join(","))
    };
    let inputs = inputs.iter().map(input).collect::<Vec<_>>().join(",");
    let names: HashSet<String> = derivation.outputs().keys().map(|output| quoted(output)).collect();
    let mut variables = Vec::new();
    for variable in values(environment.strip_prefix(b"[")?.strip_suffix(b"]")?)? {
        let pair = values(variable.strip_prefix(b"(")?.strip_suffix(b")")?)?;
        let [name, value] = pair[..] else { return None };
        let is_output = std::str::from_utf8(name).is_ok_and(|name| names.contains(name));
        let value: &[u8] = if masked && is_output { b"\"\"" } else { value };
        variables.push([b"(", name, b",", value, b")"].concat());
    }
    let mut sha256 = Sha256::new();
    sha256.update(b"Derive(");
    for field in [outputs, format!("[{inputs}]").as_bytes(), sources, system, builder, arguments] {
        sha256.update(field);
        sha256.update(b",");
    }
    sha256.update([b"[", &variables.join(&b","[..])[..], b"])"].concat());
    Some(base16::encode(&sha256.finalize()))
}

/// Takes apart what is separated by commas: strings, lists and tuples.
fn values(text: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut values, mut start, mut depth, mut in_string, mut escaped) = (Vec::new(), 0, 0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                values.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        values.push(&text[start..]);
    }
    (depth == 0 && !in_string).then_some(values)
}

#[cfg(test)]
mod tests {
    use verifier::StoreDir;

    use super::*;

    fn derivation(name: &str, text: &str) -> Derivation {
        Derivation::from_aterm_bytes_in(text.as_bytes(), name, StoreDir::default()).expect("a derivation")
    }

    const LEAF: &str = r#"Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",["-c","echo leaf > $out"],[("builder","/bin/sh"),("name","ca-leaf"),("out","/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"),("outputHashAlgo","sha256"),("outputHashMode","recursive"),("system","x86_64-linux")])"#;
    const TOP: &str = r#"Derive([("out","","r:sha256","")],[("/nix/store/mz3fplqhs7cmzp654g1ibf3afc3r2w79-ca-leaf.drv",["out"])],[],"x86_64-linux","/bin/sh",["-c","echo /0spbdchn8x8z0j7ifqxlrbiyd02b3dxp823nprrx9sn699a3wbmg > $out"],[("builder","/bin/sh"),("name","ca-top"),("out","/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"),("outputHashAlgo","sha256"),("outputHashMode","recursive"),("system","x86_64-linux")])"#;

    /// The hashes under which Nix 2.8, 2.26 and 2.34 registered what they had built of these.
    #[test]
    fn hashes_are_those_of_nix() {
        let (leaf, top) = (derivation("ca-leaf", LEAF), derivation("ca-top", TOP));
        let named = hash(&leaf, &Inputs::new(), true);
        assert_eq!(named.as_deref(), Some("9fcb7f76f1298b26d085e0e8e5565ddb6f541ff4a7536659454a5bcd262bc248"));
        let needed = hash(&leaf, &Inputs::new(), false).expect("it has one");
        let path = top.input_derivations().keys().next().expect("the leaf").clone();
        let known = HashMap::from([(path, needed)]);
        let named = hash(&top, &inputs(&top, &known).expect("all are known"), true);
        assert_eq!(named.as_deref(), Some("9a8f52184b2cd3c221e97a8c29dc30b2f443b1e131ba7e9d65461ec0a290b9ce"));
    }

    #[test]
    fn a_text_is_taken_apart_outside_of_its_strings() {
        let parts = |text: &'static str| values(text.as_bytes());
        assert_eq!(parts(r#""a,b",[(1,2)],"\",\\",x"#).expect("four").len(), 4);
        assert_eq!(parts("").expect("none").len(), 0);
        for text in ["\"", "[", ")", "(]\"", "\"\\\""] {
            assert!(parts(text).is_none(), "{text}");
        }
    }
}
