//! Nix's own golden files: each `.bin` is read as the `.json` beside it says, and written again byte by byte.
//!
//! Not here, because this program has no codec for them: the forms of path infos, build results, derived paths and greetings
//! that only clients older than 1.32 exchange.

mod support;

use nix_derivation::DerivedPath;
use serde_json::{Value, json};
use store_backend::protocol::{
    BuildResult, BuildStatus, Features, NEWEST, Operation, ProtocolVersion, RawPathInfo, Request, RequestError, Trust,
    greet_server, read_output_id, read_realisation, write_output_id, write_path_info, write_realisation,
};
use store_backend::wire::{Reader, SocketSource, StringLimit, WireError, Writer};
use support::pieces::{Pieces, reader, run, written};
use support::vectors;
use support::words::{SERVER_MAGIC, Words};
use verifier::{ContentAddress, ContentAddressMethod, OutputId, PathInfo, Realisation, Signature, StoreDir, StorePath};

/// A golden file, its values read from both halves one after another.
struct Golden {
    name: String,
    bytes: Vec<u8>,
    json: Value,
}

/// What a codec makes of a value: its JSON as Nix writes it, and its bytes.
type Codec = fn(&mut Reader<Pieces>) -> Result<(Value, Vec<u8>), RequestError>;

fn golden(folder: &str, name: &str) -> Option<Golden> {
    let folder = vectors()?.join(folder);
    let read = |ending: &str| {
        let path = folder.join(format!("{name}.{ending}"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let json = serde_json::from_slice(&read("json")).expect("JSON");
    Some(Golden { name: name.to_owned(), bytes: read("bin"), json })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    None,
    Some,
}

/// Checks a golden file whose JSON is a list of what stands in the other one after another, or one value.
fn check(folder: &str, name: &str, codec: Codec) {
    check_but(folder, name, codec, Flags::None);
}

fn invalid(error: impl ToString) -> RequestError {
    RequestError::Invalid(error.to_string())
}

/// Checks such a file in which words that are 1 may be flags, which are yes whatever they are but 0.
fn check_but(folder: &str, name: &str, codec: Codec, flags: Flags) {
    let Some(golden) = golden(folder, name) else { return };
    let values = match &golden.json {
        Value::Array(values) => values.clone(),
        one => vec![one.clone()],
    };
    let mut reader = reader(&golden.bytes);
    let mut again = Vec::new();
    for (index, expected) in values.iter().enumerate() {
        let (found, bytes) = codec(&mut reader).expect("well formed");
        assert_eq!(found, *expected, "{folder}/{name}, value {index}");
        again.extend(bytes);
    }
    assert!(run(reader.is_at_end()).expect("memory can be read"), "{name}: nothing is left");
    assert_eq!(again, golden.bytes, "{}: written as Nix writes it", golden.name);
    for length in 0..golden.bytes.len() {
        let mut broken = support::pieces::reader(&golden.bytes[..length]);
        let failed = values.iter().find_map(|_| codec(&mut broken).err());
        let ended = matches!(failed, Some(RequestError::Wire(WireError::Ended(_))));
        assert!(ended, "{} broken off after {length} bytes: {failed:?}", golden.name);
    }
    // Zeros are padding or the upper bytes of words. (Letters may be spelled otherwise here and there, as Nix allows.)
    for bit in (0..golden.bytes.len() * 8).filter(|bit| golden.bytes[bit / 8] == 0) {
        let mut flipped = golden.bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let mut reader = support::pieces::reader(&flipped);
        let read: Result<Vec<_>, _> = values.iter().map(|_| codec(&mut reader)).collect();
        let same = read.is_ok_and(|read| read.into_iter().map(|(json, _)| json).eq(values.iter().cloned()));
        let word = &golden.bytes[bit / 64 * 8..][..8];
        let flag = flags == Flags::Some && *word == 1_u64.to_le_bytes();
        assert!(!same || flag, "{}: bit {bit} says nothing", golden.name);
    }
}

fn store_dir() -> StoreDir {
    StoreDir::default()
}

fn base(path: &StorePath) -> Value {
    path.to_basename().into()
}

fn text(reader: &mut Reader<Pieces>) -> Result<String, RequestError> {
    Ok(run(reader.string("a text", StringLimit::Long))?)
}

fn address_json(address: &ContentAddress) -> Value {
    let method = match address.method() {
        ContentAddressMethod::Text => "text",
        ContentAddressMethod::Flat => "flat",
        ContentAddressMethod::Nar => "nar",
        ContentAddressMethod::Git => "git",
    };
    json!({ "hash": address.hash().hash().to_sri_string(), "method": method })
}

fn signature_json(text: impl AsRef<str>) -> Result<Value, RequestError> {
    let signature: Signature = text.as_ref().parse().map_err(invalid)?;
    let text = signature.to_string();
    let (name, encoded) = text.split_once(':').expect("a colon");
    Ok(json!({ "keyName": name, "sig": encoded }))
}

#[test]
fn strings() {
    for folder in ["worker-protocol", "common-protocol"] {
        check(folder, "string", |reader| {
            let bytes = run(reader.bytes("a string", StringLimit::Short))?;
            Ok((String::from_utf8_lossy(&bytes).into(), written(|writer| writer.put_bytes(&bytes))))
        });
    }
}

#[test]
fn lists() {
    // The last value is a list of lists.
    for (folder, name) in ["worker-protocol", "common-protocol"].iter().flat_map(|f| [(*f, "set"), (*f, "vector")]) {
        let Some(golden) = golden(folder, name) else { return };
        let mut reader = reader(&golden.bytes);
        let mut read = || run(reader.strings("a text")).expect("a list");
        let flat = [read(), read(), read()];
        let nested = run(async {
            let mut lists = Vec::new();
            for _ in 0..reader.count("lists").await.expect("a number") {
                lists.push(reader.strings("a text").await.expect("a list"));
            }
            lists
        });
        assert!(run(reader.is_at_end()).expect("memory can be read"));
        assert_eq!(json!([flat[0], flat[1], flat[2], nested]), golden.json, "{folder}/{name}");
        let again = written(|writer| {
            flat.iter().for_each(|texts| writer.put_strings(texts.iter()));
            writer.put_u64(nested.len() as u64);
            nested.iter().for_each(|texts| writer.put_strings(texts.iter()));
        });
        assert_eq!(again, golden.bytes);
    }
}

#[test]
fn store_paths() {
    for folder in ["worker-protocol", "common-protocol"] {
        check(folder, "store-path", |reader| {
            let request = run(Request::read(Operation::IsValidPath, reader, &store_dir(), &Features::default()))?;
            let bytes = written(|writer| request.write(writer, &store_dir()));
            let Request::IsValidPath(path) = request else { panic!("{request:?}") };
            Ok((base(&path), bytes[8..].to_vec()))
        });
        check(folder, "optional-store-path", |reader| {
            let text = text(reader)?;
            let path =
                (!text.is_empty()).then(|| store_dir().parse_path(text.as_bytes()).map_err(invalid)).transpose()?;
            let again = path.as_ref().map_or(String::new(), |path| store_dir().render_path(path));
            Ok((path.as_ref().map_or(Value::Null, base), written(|writer| writer.put_str(&again))))
        });
    }
}

#[test]
fn content_addresses() {
    for (folder, name) in ["worker-protocol", "common-protocol"]
        .iter()
        .flat_map(|folder| [(*folder, "content-address"), (*folder, "optional-content-address")])
    {
        check(folder, name, |reader| {
            let address = ContentAddress::parse_optional(&text(reader)?).map_err(invalid)?;
            let again = address.as_ref().map_or(String::new(), ToString::to_string);
            Ok((address.as_ref().map_or(Value::Null, address_json), written(|writer| writer.put_str(&again))))
        });
    }
}

#[test]
fn derived_paths() {
    check("worker-protocol", "derived-path-1.30", |reader| {
        let target = DerivedPath::parse_legacy_in(&store_dir(), &text(reader)?).map_err(invalid)?;
        Ok((target_json(&target), written(|writer| writer.put_str(&target.render_legacy(&store_dir())))))
    });
}

fn target_json(target: &DerivedPath) -> Value {
    let DerivedPath::Built { outputs, .. } = target else { return base(target.base()) };
    let outputs: Vec<&String> = outputs.iter().collect();
    let outputs = if outputs.is_empty() { json!(["*"]) } else { json!(outputs) };
    json!({ "drvPath": base(target.base()), "outputs": outputs })
}

#[test]
fn build_modes() {
    check("worker-protocol", "build-mode", |reader| {
        let mode = run(reader.u64())?;
        let words = Words::new().u64(0).u64(mode).0;
        let request = run(Request::read(
            Operation::BuildPaths,
            &mut support::pieces::reader(&words),
            &store_dir(),
            &Features::default(),
        ))?;
        Ok((mode.into(), written(|writer| request.write(writer, &store_dir()))[16..].to_vec()))
    });
}

#[test]
fn path_infos() {
    let codec: Codec = |reader| {
        let info = run(RawPathInfo::read(reader))?.parse(&store_dir())?;
        Ok((info_json(&info)?, written(|writer| write_path_info(writer, &store_dir(), &info))))
    };
    check_but("worker-protocol", "valid-path-info-1.16", codec, Flags::Some);
}

fn info_json(info: &PathInfo) -> Result<Value, RequestError> {
    let sri = verifier::NixHash::Sha256(*info.nar_hash.as_bytes()).to_sri_string();
    Ok(json!({
        "ca": info.content_address.as_ref().map_or(Value::Null, address_json),
        "deriver": info.deriver.as_ref().map_or(Value::Null, base),
        "narHash": sri,
        "narSize": info.nar_size,
        "path": base(&info.path),
        "references": info.references.iter().map(base).collect::<Vec<_>>(),
        "registrationTime": info.registration_time,
        "signatures": info.signatures.iter().map(signature_json).collect::<Result<Vec<_>, _>>()?,
        "storeDir": "/nix/store",
        "ultimate": info.ultimate,
        "version": 3,
    }))
}

#[test]
fn output_ids() {
    for folder in ["worker-protocol", "common-protocol"] {
        check(folder, "drv-output", |reader| {
            let id = run(read_output_id(reader, &store_dir(), &Features::default()))?;
            Ok((id.to_string().into(), written(|writer| write_output_id(writer, &store_dir(), &id))))
        });
    }
    check("worker-protocol", "drv-output-realisation-with-path-not-hash", |reader| {
        let id = run(read_output_id(reader, &store_dir(), &Features::ours()))?;
        let OutputId::Path { drv_path, output } = &id else { panic!("{id}: expected a path") };
        let json = json!({ "drvPath": base(drv_path), "outputName": output });
        Ok((json, written(|writer| write_output_id(writer, &store_dir(), &id))))
    });
}

#[test]
fn realisations_with_signatures_as_texts() {
    for folder in ["worker-protocol", "common-protocol"] {
        check(folder, "realisation-with-deps", |reader| {
            let realisation = run(read_realisation(reader, &store_dir(), &Features::default()))?;
            let bytes = written(|writer| write_realisation(writer, &store_dir(), &realisation));
            Ok((realisation.to_json(), bytes))
        });
    }
}

/// Nix 2.36 writes signatures as objects into the older form as well, which Nix up to 2.34 cannot read; this program writes
/// texts there, which all can, so only what is read is compared.
#[test]
fn realisations_with_signatures_as_objects_are_read() {
    for folder in ["worker-protocol", "common-protocol"] {
        let Some(golden) = golden(folder, "realisation") else { return };
        let mut reader = reader(&golden.bytes);
        for expected in golden.json.as_array().expect("a list") {
            let read = run(read_realisation(&mut reader, &store_dir(), &Features::default())).expect("a realisation");
            let expected = Realisation::parse(&expected.to_string()).expect("a realisation");
            assert_eq!(read, expected);
            let rewritten = written(|writer| write_realisation(writer, &store_dir(), &read));
            let again =
                run(read_realisation(&mut support::pieces::reader(&rewritten), &store_dir(), &Features::default()));
            assert_eq!(again.expect("a realisation"), read);
        }
        assert!(run(reader.is_at_end()).expect("memory can be read"));
    }
}

#[test]
fn realisations_keyed_by_path() {
    check("worker-protocol", "realisation-realisation-with-path-not-hash", |reader| {
        let realisation = run(read_realisation(reader, &store_dir(), &Features::ours()))?;
        let bytes = written(|writer| write_realisation(writer, &store_dir(), &realisation));
        Ok((realisation.to_json(), bytes))
    });
}

fn read_result(reader: &mut Reader<Pieces>, minor: u8, features: &Features) -> BuildResult {
    let version = ProtocolVersion { minor, ..NEWEST };
    run(BuildResult::read(reader, &store_dir(), version, features)).unwrap_or_else(|error| panic!("{error:?}"))
}

/// A build result as Nix's JSON has it, but for the realisations, of which ours keeps path and signatures.
fn result_json(result: &BuildResult) -> Value {
    let mut json = json!({
        "startTime": result.start,
        "status": format!("{:?}", result.status),
        "stopTime": result.stop,
        "timesBuilt": result.times_built,
    });
    let success = result.status == BuildStatus::Built;
    json["success"] = success.into();
    if success {
        let outputs = result.outputs.iter().map(|built| {
            assert!(built.signatures.is_empty());
            (built.output.clone(), json!({ "outPath": base(&built.path), "signatures": [] }))
        });
        json["builtOutputs"] = Value::Object(outputs.collect());
    } else {
        json["errorMsg"] = result.error.clone().into();
        json["isNonDeterministic"] = result.non_deterministic.into();
    }
    for (name, time) in ["cpuUser", "cpuSystem"].iter().zip(result.cpu) {
        if let Some(microseconds) = time {
            // Nix's JSON has nanoseconds of them here.
            json[*name] = microseconds.into();
        }
    }
    json
}

fn without_ids(mut json: Value) -> Value {
    for outputs in json.as_array_mut().into_iter().flatten().filter_map(|result| result.get_mut("builtOutputs")) {
        for output in outputs.as_object_mut().into_iter().flatten().map(|(_, output)| output) {
            let members = output.as_object_mut().expect("an object");
            members.retain(|name, _| ["outPath", "signatures"].contains(&name.as_str()));
        }
    }
    json
}

/// This program states no derivation's hash in a result, so what it writes in the older form is compared by reading it.
#[test]
fn build_results() {
    let cases = [
        ("build-result-1.29", 29, Features::default()),
        ("build-result-1.37", 37, Features::default()),
        ("build-result-realisation-with-path-not-hash", 38, Features::ours()),
    ];
    for (name, minor, features) in cases {
        let Some(golden) = golden("worker-protocol", name) else { return };
        let mut reader = reader(&golden.bytes);
        let results: Vec<BuildResult> = (0..3).map(|_| read_result(&mut reader, minor, &features)).collect();
        assert!(run(reader.is_at_end()).expect("memory can be read"), "{name}");
        let json = Value::Array(results.iter().map(result_json).collect());
        assert_eq!(json, without_ids(golden.json.clone()), "{name}");
        let version = ProtocolVersion { minor, ..NEWEST };
        let again = written(|writer| {
            results.iter().for_each(|result| result.write(writer, &store_dir(), version, &features));
        });
        if features.realisation_with_path() {
            assert_eq!(again, golden.bytes, "{name}");
        }
        let mut reader = support::pieces::reader(&again);
        for result in &results {
            assert_eq!(read_result(&mut reader, minor, &features), *result, "{name}");
        }
    }
}

#[test]
fn keyed_build_results() {
    let Some(golden) = golden("worker-protocol", "keyed-build-result-1.29") else { return };
    let mut reader = reader(&golden.bytes);
    let mut again = Vec::new();
    for expected in golden.json.as_array().expect("a list") {
        let text = text(&mut reader).expect("a text");
        let target = DerivedPath::parse_legacy_in(&store_dir(), &text).expect("a derived path");
        let result = read_result(&mut reader, 29, &Features::default());
        let mut json = result_json(&result);
        json["path"] = target_json(&target);
        assert_eq!(json, *expected);
        again.extend(written(|writer| {
            writer.put_str(&target.render_legacy(&store_dir()));
            result.write(writer, &store_dir(), ProtocolVersion { minor: 29, ..NEWEST }, &Features::default());
        }));
    }
    assert!(run(reader.is_at_end()).expect("memory can be read"));
    assert_eq!(again, golden.bytes);
}

/// What a daemon says of itself after the versions, with the greeting around it that the golden file leaves out.
#[test]
fn greetings() {
    let cases: [(&str, u64, [(Option<&str>, Option<Trust>); 2]); 2] = [
        ("client-handshake-info_1_33", 33, [(Some("foo"), None), (Some("bar"), None)]),
        (
            "client-handshake-info_1_35",
            35,
            [(Some("foo"), Some(Trust::Untrusted)), (Some("bar"), Some(Trust::Trusted))],
        ),
    ];
    let Some(vectors) = vectors() else { return };
    for (name, minor, expected) in cases {
        let bytes = std::fs::read(vectors.join(format!("worker-protocol/{name}.bin"))).expect("a golden file");
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for (said, (daemon_version, trust)) in [first, second].into_iter().zip(expected) {
            let server = Words::new().u64(SERVER_MAGIC).u64(0x100 | minor).raw(said).u64(0x616c_7473).0;
            let mut reader = Reader::new(SocketSource::new(&server[..]));
            let greeting = run(greet_server(&mut reader, &mut Writer::new(Vec::new()))).expect("a greeting");
            assert_eq!(greeting.version, ProtocolVersion { minor: minor as u8, ..NEWEST });
            assert_eq!(greeting.daemon_version.as_deref(), daemon_version, "{name}");
            assert_eq!(greeting.trust, trust, "{name}");
        }
    }
    let flags = std::fs::read(vectors.join("worker-protocol/optional-trusted-flag.bin")).expect("a golden file");
    for (word, expected) in flags.chunks(8).zip([None, Some(Trust::Trusted), Some(Trust::Untrusted)]) {
        let server = Words::new().u64(SERVER_MAGIC).u64(0x123).str("2.12").raw(word).u64(0x616c_7473).0;
        let mut reader = Reader::new(SocketSource::new(&server[..]));
        assert_eq!(run(greet_server(&mut reader, &mut Writer::new(Vec::new()))).expect("a greeting").trust, expected);
    }
}

/// The magic number of Nix's own daemon, and its version word.
#[test]
fn the_servers_first_words() {
    let Some(vectors) = vectors() else { return };
    let bytes = std::fs::read(vectors.join("worker-protocol/handshake-to-client.bin")).expect("a golden file");
    assert_eq!(bytes[..8], SERVER_MAGIC.to_le_bytes());
    let version = u64::from_le_bytes(bytes[8..].try_into().expect("one word"));
    assert_eq!(ProtocolVersion::from_wire(version).to_string(), "1.10");
    assert_eq!(ProtocolVersion::from_wire(version).to_wire(), version);
}
