//! Any value of each type that goes over the wire.

use std::collections::{BTreeMap, BTreeSet};

use nix_derivation::DerivedPath;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use store_backend::protocol::{
    AddToStore, BasicDerivation, BasicOutput, BuildMode, BuildOutcome, BuildResult, BuildStatus, GarbageAction,
    GarbageRequest, Operation, Options, Request, Substitutes,
};
use verifier::{
    CAHash, ContentAddress, ContentAddressMethod, HashAlgorithm, NarHash, NixHash, OutputId, PathInfo, Realisation,
    Signature, StoreDir, StorePath,
};

use super::keys::key;

pub fn any_path() -> impl Strategy<Value = StorePath> {
    let name = "[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,30}";
    (any::<[u8; 20]>(), name)
        .prop_filter_map("a name that Nix takes", |(digest, name)| StorePath::from_parts(digest, &name).ok())
}

pub fn any_drv_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-z]{1,20}")
        .prop_map(|(digest, name)| StorePath::from_parts(digest, &format!("{name}.drv")).expect("a derivation's path"))
}

fn any_algorithm() -> impl Strategy<Value = HashAlgorithm> {
    proptest::sample::select(vec![
        HashAlgorithm::Md5,
        HashAlgorithm::Sha1,
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha512,
        HashAlgorithm::Blake3,
    ])
}

fn any_method() -> impl Strategy<Value = (ContentAddressMethod, HashAlgorithm)> {
    prop_oneof![
        Just((ContentAddressMethod::Text, HashAlgorithm::Sha256)),
        any_algorithm().prop_map(|algorithm| (ContentAddressMethod::Flat, algorithm)),
        any_algorithm().prop_map(|algorithm| (ContentAddressMethod::Nar, algorithm)),
        Just((ContentAddressMethod::Git, HashAlgorithm::Sha1)),
        Just((ContentAddressMethod::Git, HashAlgorithm::Sha256)),
    ]
}

pub fn any_address() -> impl Strategy<Value = ContentAddress> {
    (any_method(), any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|((method, algorithm), first, second)| {
        let bytes = [first, second].concat();
        let length = match algorithm {
            HashAlgorithm::Md5 => 16,
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha512 => 64,
            _ => 32,
        };
        let hash = NixHash::from_algorithm_and_digest(algorithm, &bytes[..length]).expect("a digest's length");
        let hash = CAHash::from_parts(method, hash.algorithm(), hash.digest_as_bytes()).expect("they go together");
        ContentAddress::new(hash)
    })
}

pub fn any_info() -> impl Strategy<Value = PathInfo> {
    let said = (any::<u64>(), any::<u64>(), any::<bool>());
    let texts = btree_set(any::<String>(), 0..4);
    let paths = (any_path(), option::of(any_path()), btree_set(any_path(), 0..4));
    (paths, any::<[u8; 32]>(), said, texts, option::of(any_address())).prop_map(
        |((path, deriver, references), hash, (nar_size, registration_time, ultimate), signatures, address)| PathInfo {
            path,
            deriver,
            nar_hash: NarHash::from_sha256(hash),
            nar_size,
            references,
            registration_time,
            ultimate,
            signatures,
            content_address: address,
        },
    )
}

pub fn any_output_id(by_path: bool) -> BoxedStrategy<OutputId> {
    let name = "[a-z][a-z0-9-]{0,20}";
    if by_path {
        return (any_drv_path(), name).prop_map(|(drv, name)| OutputId::of_path(drv, &name).expect("an id")).boxed();
    }
    (any::<[u8; 32]>(), name)
        .prop_map(|(hash, name)| {
            let hash = NixHash::from_algorithm_and_digest(HashAlgorithm::Sha256, &hash).expect("32 bytes");
            OutputId::parse_hash(&format!("{}!{name}", hash.to_nix_base16_string())).expect("an id")
        })
        .boxed()
}

pub fn any_realisation(by_path: bool) -> impl Strategy<Value = Realisation> {
    let signature = (1..9_u8, any::<[u8; 32]>()).prop_map(|(seed, half)| {
        let bytes = [half, half].concat().try_into().expect("64 bytes");
        Signature::new(key(&format!("key-{seed}"), seed).name().clone(), bytes).to_string()
    });
    let most = if by_path { 0 } else { 3 };
    let dependent = btree_map(any_output_id(false).prop_map(|id| id.to_string()), any_path(), 0..=most);
    (any_output_id(by_path), any_path(), btree_set(signature, 0..4), dependent).prop_map(
        |(id, out_path, signatures, dependent_realisations)| Realisation {
            id,
            out_path,
            signatures,
            dependent_realisations,
        },
    )
}

fn any_target() -> impl Strategy<Value = DerivedPath> {
    let store_dir = StoreDir::default();
    let outputs = prop_oneof![
        Just("*".to_owned()),
        btree_set("[a-z]{1,8}", 1..4).prop_map(|names| names.into_iter().collect::<Vec<_>>().join(",")),
    ];
    let opaque = any_path().prop_map(|path| StoreDir::default().render_path(&path));
    let built =
        (any_drv_path(), outputs).prop_map(move |(drv, outputs)| format!("{}!{outputs}", store_dir.render_path(&drv)));
    prop_oneof![opaque, built]
        .prop_map(|text| DerivedPath::parse_legacy_in(&StoreDir::default(), &text).expect("a derived path"))
}

fn any_mode() -> impl Strategy<Value = BuildMode> {
    proptest::sample::select(vec![BuildMode::Normal, BuildMode::Repair, BuildMode::Check])
}

fn any_derivation() -> impl Strategy<Value = BasicDerivation> {
    let texts = || any::<[String; 4]>();
    let output =
        texts().prop_map(|[name, path, method_algorithm, hash]| BasicOutput { name, path, method_algorithm, hash });
    let bytes = || vec(any::<u8>(), 0..40);
    (vec(output, 0..3), vec(any::<String>(), 0..3), texts(), vec(bytes(), 0..3), vec((bytes(), bytes()), 0..3))
        .prop_map(|(outputs, input_sources, [platform, builder, ..], arguments, environment)| BasicDerivation {
            outputs,
            input_sources,
            platform,
            builder,
            arguments,
            environment,
        })
}

fn any_garbage_request() -> impl Strategy<Value = GarbageRequest> {
    let action = proptest::sample::select(vec![
        GarbageAction::ReturnLive,
        GarbageAction::ReturnDead,
        GarbageAction::DeleteDead,
        GarbageAction::DeleteSpecific,
    ]);
    (action, vec(any_path(), 0..4), any::<bool>(), any::<u64>()).prop_map(
        |(action, paths, ignore_liveness, max_freed)| GarbageRequest { action, paths, ignore_liveness, max_freed },
    )
}

/// Any request of one operation; `by_path` says which form realisations have.
pub fn any_request(operation: Operation, by_path: bool) -> BoxedStrategy<Request> {
    let path = any_path();
    let paths = vec(any_path(), 0..5);
    let targets = vec(any_target(), 0..4);
    match operation {
        Operation::IsValidPath => path.prop_map(Request::IsValidPath).boxed(),
        Operation::QueryReferrers => path.prop_map(Request::QueryReferrers).boxed(),
        Operation::AddToStore => (any::<String>(), any_method(), btree_set(any_path(), 0..4))
            .prop_map(|(name, (method, algorithm), references)| {
                Request::AddToStore(AddToStore { name, method, algorithm, references })
            })
            .boxed(),
        Operation::AddTextToStore => (any::<String>(), vec(any::<u8>(), 0..100), btree_set(any_path(), 0..4))
            .prop_map(|(name, text, references)| Request::AddTextToStore { name, text, references })
            .boxed(),
        Operation::BuildPaths => {
            (targets, any_mode()).prop_map(|(targets, mode)| Request::BuildPaths { targets, mode }).boxed()
        }
        Operation::EnsurePath => path.prop_map(Request::EnsurePath).boxed(),
        Operation::AddTempRoot => path.prop_map(Request::AddTempRoot).boxed(),
        Operation::AddIndirectRoot => any::<String>().prop_map(Request::AddIndirectRoot).boxed(),
        Operation::SyncWithGC => Just(Request::SyncWithGC).boxed(),
        Operation::FindRoots => Just(Request::FindRoots).boxed(),
        Operation::QueryDeriver => path.prop_map(Request::QueryDeriver).boxed(),
        Operation::SetOptions => (any::<u64>(), vec(any::<(String, String)>(), 0..4))
            .prop_map(|(verbosity, overrides)| Request::SetOptions(Options { verbosity, overrides }))
            .boxed(),
        Operation::CollectGarbage => any_garbage_request().prop_map(Request::CollectGarbage).boxed(),
        Operation::QuerySubstitutablePathInfo => path.prop_map(Request::QuerySubstitutablePathInfo).boxed(),
        Operation::QueryDerivationOutputs => path.prop_map(Request::QueryDerivationOutputs).boxed(),
        Operation::QueryAllValidPaths => Just(Request::QueryAllValidPaths).boxed(),
        Operation::QueryPathInfo => path.prop_map(Request::QueryPathInfo).boxed(),
        Operation::QueryDerivationOutputNames => path.prop_map(Request::QueryDerivationOutputNames).boxed(),
        Operation::QueryPathFromHashPart => any::<String>().prop_map(Request::QueryPathFromHashPart).boxed(),
        Operation::QuerySubstitutablePathInfos => {
            vec((any_path(), option::of(any_address())), 0..4).prop_map(Request::QuerySubstitutablePathInfos).boxed()
        }
        Operation::QueryValidPaths => (paths, any::<bool>())
            .prop_map(|(paths, allowed)| Request::QueryValidPaths {
                paths,
                substitutes: if allowed { Substitutes::Allowed } else { Substitutes::Forbidden },
            })
            .boxed(),
        Operation::QuerySubstitutablePaths => paths.prop_map(Request::QuerySubstitutablePaths).boxed(),
        Operation::QueryValidDerivers => path.prop_map(Request::QueryValidDerivers).boxed(),
        Operation::OptimiseStore => Just(Request::OptimiseStore).boxed(),
        Operation::VerifyStore => {
            any::<(bool, bool)>().prop_map(|(contents, repair)| Request::VerifyStore { contents, repair }).boxed()
        }
        Operation::BuildDerivation => (any_drv_path(), any_derivation(), any_mode())
            .prop_map(|(drv_path, derivation, mode)| Request::BuildDerivation { drv_path, derivation, mode })
            .boxed(),
        Operation::AddSignatures => (any_path(), vec(any::<String>(), 0..4))
            .prop_map(|(path, signatures)| Request::AddSignatures { path, signatures })
            .boxed(),
        Operation::NarFromPath => path.prop_map(Request::NarFromPath).boxed(),
        Operation::AddToStoreNar => any_info().prop_map(Request::AddToStoreNar).boxed(),
        Operation::QueryMissing => targets.prop_map(Request::QueryMissing).boxed(),
        Operation::QueryDerivationOutputMap => path.prop_map(Request::QueryDerivationOutputMap).boxed(),
        Operation::RegisterDrvOutput => any_realisation(by_path).prop_map(Request::RegisterDrvOutput).boxed(),
        Operation::QueryRealisation => any_output_id(by_path).prop_map(Request::QueryRealisation).boxed(),
        Operation::AddMultipleToStore => Just(Request::AddMultipleToStore).boxed(),
        Operation::AddBuildLog => any_drv_path().prop_map(Request::AddBuildLog).boxed(),
        Operation::BuildPathsWithResults => {
            (targets, any_mode()).prop_map(|(targets, mode)| Request::BuildPathsWithResults { targets, mode }).boxed()
        }
        Operation::AddPermRoot => {
            (any_path(), any::<String>()).prop_map(|(path, root)| Request::AddPermRoot { path, root }).boxed()
        }
    }
}

/// Any result of a build, as far as both forms can say it.
pub fn any_build_result(by_path: bool) -> impl Strategy<Value = BuildResult> {
    let status = proptest::sample::select(vec![
        BuildStatus::Built,
        BuildStatus::AlreadyValid,
        BuildStatus::TransientFailure,
        BuildStatus::NotDeterministic,
        BuildStatus::NoSubstituters,
    ]);
    let outputs = btree_map("[a-z]{1,8}", any_path(), 0..4);
    let signature = any_realisation(by_path).prop_map(|realisation| realisation.signatures);
    (status, any::<String>(), any::<([u64; 3], bool)>(), any::<[Option<u64>; 2]>(), outputs, signature).prop_map(
        |(status, error, ([times_built, start, stop], non_deterministic), cpu, outputs, signatures): (
            _,
            _,
            _,
            _,
            BTreeMap<String, StorePath>,
            BTreeSet<String>,
        )| BuildResult {
            status,
            error,
            times_built,
            non_deterministic,
            start,
            stop,
            cpu,
            outputs: outputs
                .into_iter()
                .map(|(output, path)| BuildOutcome { output, path, signatures: signatures.iter().cloned().collect() })
                .collect(),
        },
    )
}
