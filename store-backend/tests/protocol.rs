//! The codecs: each request and each answer is read back as it was written, breaks off without a panic, and leaves the
//! stream in step when it says what cannot be.

mod support;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use store_backend::protocol::{
    BuildResult, Features, NEWEST, Operation, ProtocolVersion, RawPathInfo, Request, RequestError, read_output_id,
    read_realisation, write_output_id, write_path_info, write_realisation, write_unkeyed_path_info,
};
use store_backend::wire::{Reader, WireError};
use support::any::{any_build_result, any_info, any_output_id, any_realisation, any_request};
use support::cases;
use support::package::package;
use support::pieces::{any_sizes, pieces, reader, run, written};
use support::words::{Words, op};
use verifier::{OutputId, PathInfo, Realisation, StoreDir};

fn features(by_path: bool) -> Features {
    if by_path { Features::ours() } else { Features::default() }
}

/// Writes a request, and returns it without its number.
fn arguments(request: &Request, store_dir: &StoreDir) -> Vec<u8> {
    let bytes = written(|writer| request.write(writer, store_dir));
    let (number, arguments) = bytes.split_at(8);
    assert_eq!(number, request.operation().number().to_le_bytes());
    arguments.to_vec()
}

fn read(operation: Operation, bytes: &[u8], by_path: bool) -> Result<Request, RequestError> {
    run(Request::read(operation, &mut reader(bytes), &StoreDir::default(), &features(by_path)))
}

/// Tries a property of each operation with some of its requests.
fn for_each_request(how_many: u32, property: impl Fn(Operation, bool, Request)) {
    for by_path in [false, true] {
        for operation in Operation::ALL {
            let mut runner = TestRunner::new(cases(how_many));
            runner
                .run(&any_request(*operation, by_path), |request| {
                    property(*operation, by_path, request);
                    Ok(())
                })
                .unwrap_or_else(|error| panic!("{operation}: {error}"));
        }
    }
}

#[test]
fn every_request_is_read_back_in_its_own_store_directory() {
    let elsewhere = StoreDir::new("/home/me/nix/store").expect("a store directory");
    for_each_request(48, |operation, by_path, request| {
        assert_eq!(request.operation(), operation);
        assert_eq!(Operation::from_number(operation.number()), Some(operation));
        for store_dir in [&StoreDir::default(), &elsewhere] {
            // Derived paths were made in the default directory: their text says so.
            let bytes = arguments(&request, store_dir);
            for sizes in [&[1][..], &[7, 13], &[usize::MAX]] {
                let mut reader = Reader::new(pieces(&bytes, sizes));
                let read = run(Request::read(operation, &mut reader, store_dir, &features(by_path)));
                assert_eq!(read.expect("what was written is well formed"), request);
                assert!(run(reader.is_at_end()).expect("memory can be read"), "{operation} reads all of itself");
            }
        }
    });
}

#[test]
fn a_request_that_breaks_off_anywhere_closes_the_session() {
    for_each_request(8, |operation, by_path, request| {
        let bytes = arguments(&request, &StoreDir::default());
        for length in 0..bytes.len() {
            let read = read(operation, &bytes[..length], by_path);
            let ended = matches!(read, Err(RequestError::Wire(WireError::Ended(_))));
            assert!(ended, "{operation}, {length} of {}: {read:?}", bytes.len());
        }
    });
}

#[test]
fn whatever_stands_in_a_request_nothing_panics_and_nothing_is_allocated_for_it() {
    let words = [1 << 63, u64::MAX, (1 << 63) - 1, 1 << 32, 9];
    for_each_request(6, |operation, by_path, request| {
        let bytes = arguments(&request, &StoreDir::default());
        for at in (0..bytes.len()).step_by(8) {
            for word in words {
                let mut damaged = bytes.clone();
                damaged[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
                let _whatever = read(operation, &damaged, by_path);
            }
        }
        for bit in (0..bytes.len() * 8).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _whatever = read(operation, &damaged, by_path);
        }
    });
}

/// No zero is passed over: with padding that is not zero, a request is none.
#[test]
fn every_zero_of_a_request_has_to_be_zero() {
    // These have words that mean nothing, or that are yes whatever they are but 0.
    let with_idle_words = [
        Operation::AddToStore,
        Operation::AddToStoreNar,
        Operation::AddMultipleToStore,
        Operation::SetOptions,
        Operation::CollectGarbage,
        Operation::QueryValidPaths,
        Operation::VerifyStore,
    ];
    for_each_request(5, |operation, by_path, request| {
        if with_idle_words.contains(&operation) {
            return;
        }
        let bytes = arguments(&request, &StoreDir::default());
        // Zeros are padding or the upper bytes of words; letters may be spelled otherwise here and there, as Nix allows.
        for bit in (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] == 0) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(same) = read(operation, &flipped, by_path) {
                assert!(same != request, "{operation}: bit {bit} of {} says nothing", bytes.len() * 8);
            }
        }
    });
}

#[test]
fn a_request_that_says_what_cannot_be_is_read_to_its_end() {
    let good = package("good").full_path();
    let bad = "/elsewhere/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x";
    let empty_derivation = || Words::new().u64(0).u64(0).str("").str("").u64(0).u64(0);
    let by_path = Realisation {
        id: OutputId::of_path(package("good.drv").path().clone(), "out").expect("a name"),
        out_path: package("good").path().clone(),
        signatures: Default::default(),
        dependent_realisations: Default::default(),
    };
    let by_path = by_path.to_json().to_string();
    let cases: Vec<(&str, u64, Words)> = vec![
        ("another store's path", op::IS_VALID_PATH, Words::new().str(bad)),
        ("no path at all", op::QUERY_PATH_INFO, Words::new().str("")),
        ("a path with an escape sequence", op::ENSURE_PATH, Words::new().str("/nix/store/\u{1b}[2J")),
        ("one of several paths", op::QUERY_VALID_PATHS, Words::new().strings([good.as_str(), bad, &good]).u64(1)),
        ("one of several targets", op::BUILD_PATHS, Words::new().strings([bad, &good]).u64(0)),
        ("a build mode", op::BUILD_PATHS, Words::new().strings([&good]).u64(3)),
        (
            "a garbage action",
            op::COLLECT_GARBAGE,
            Words::new().u64(4).strings([&good]).u64(0).u64(0).u64(0).u64(0).u64(0),
        ),
        (
            "a path to delete",
            op::COLLECT_GARBAGE,
            Words::new().u64(3).strings([bad]).u64(0).u64(0).u64(0).u64(0).u64(0),
        ),
        ("a hash method", op::ADD_TO_STORE, Words::new().str("x").str("fixed:r:crc32").strings([&good]).u64(0)),
        ("a reference", op::ADD_TO_STORE, Words::new().str("x").str("text:sha256").strings([bad]).u64(0)),
        ("a derivation's path", op::BUILD_DERIVATION, Words::new().str(bad).raw(&empty_derivation().0).u64(0)),
        ("a build's mode", op::BUILD_DERIVATION, Words::new().str(&good).raw(&empty_derivation().0).u64(9)),
        ("a path to sign", op::ADD_SIGNATURES, Words::new().str(bad).strings(["a:b"])),
        ("a realisation", op::REGISTER_DRV_OUTPUT, Words::new().str("{")),
        ("a realisation of the form that was not agreed on", op::REGISTER_DRV_OUTPUT, Words::new().str(&by_path)),
        ("an output's id", op::QUERY_REALISATION, Words::new().str("sha256:00!out")),
        ("a log's name", op::ADD_BUILD_LOG, Words::new().str(&good)),
    ];
    for (what, number, words) in cases {
        let operation = Operation::from_number(number).expect("an operation");
        let bytes = words.u64(0xA5).0;
        let mut reader = reader(&bytes);
        let read = run(Request::read(operation, &mut reader, &StoreDir::default(), &Features::default()));
        let Err(RequestError::Invalid(why)) = read else { panic!("{what}: {read:?}") };
        assert!(!why.chars().any(char::is_control), "{what}: {why:?}");
        assert_eq!(run(reader.u64()).expect("a word"), 0xA5, "{what}: the next request is where it should be");
    }
}

#[test]
fn numbers_that_are_no_operations_are_none() {
    let known: Vec<u64> = Operation::ALL.iter().map(|operation| operation.number()).collect();
    for number in (0..2000).chain([1 << 32, 1 << 63, u64::MAX]) {
        assert_eq!(Operation::from_number(number).is_some(), known.contains(&number), "{number}");
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_path_info_is_read_back(info in any_info(), sizes in any_sizes()) {
        let store_dir = StoreDir::default();
        let bytes = written(|writer| write_path_info(writer, &store_dir, &info));
        prop_assert_eq!(&bytes, &Words::new().info(&info).0, "as another writer writes it");
        let mut reader = Reader::new(pieces(&bytes, &sizes));
        let raw = run(RawPathInfo::read(&mut reader)).expect("what was written is well formed");
        prop_assert_eq!(raw.parse(&store_dir).expect("what was written is understood"), info);
        prop_assert!(run(reader.is_at_end()).expect("memory can be read"));
    }

    #[test]
    fn a_path_info_without_its_path_is_read_back(info in any_info()) {
        let store_dir = StoreDir::default();
        let bytes = written(|writer| write_unkeyed_path_info(writer, &store_dir, &info));
        let raw = run(RawPathInfo::read_unkeyed(&mut reader(&bytes), store_dir.render_path(&info.path)));
        let read: PathInfo = raw.expect("well formed").parse(&store_dir).expect("understood");
        prop_assert_eq!(read, info);
        for length in 0..bytes.len() {
            prop_assert!(run(RawPathInfo::read_unkeyed(&mut reader(&bytes[..length]), String::new())).is_err());
        }
    }

    #[test]
    fn a_realisation_is_read_back_in_both_forms(
        by_hash in any_realisation(false),
        by_path in any_realisation(true),
    ) {
        let store_dir = StoreDir::default();
        for (realisation, features) in [(by_hash, features(false)), (by_path, features(true))] {
            let bytes = written(|writer| write_realisation(writer, &store_dir, &realisation));
            let mut whole = reader(&bytes);
            let read = run(read_realisation(&mut whole, &store_dir, &features)).expect("well formed");
            prop_assert_eq!(read, realisation);
            prop_assert!(run(whole.is_at_end()).expect("memory can be read"));
            for length in 0..bytes.len() {
                prop_assert!(run(read_realisation(&mut reader(&bytes[..length]), &store_dir, &features)).is_err());
            }
        }
    }

    #[test]
    fn an_output_id_is_read_back_in_both_forms(by_hash in any_output_id(false), by_path in any_output_id(true)) {
        let store_dir = StoreDir::default();
        for (id, features) in [(by_hash, features(false)), (by_path, features(true))] {
            let bytes = written(|writer| write_output_id(writer, &store_dir, &id));
            prop_assert_eq!(run(read_output_id(&mut reader(&bytes), &store_dir, &features)).expect("well formed"), id);
        }
    }

    #[test]
    fn a_build_result_is_read_back_in_each_version(
        by_hash in any_build_result(false),
        by_path in any_build_result(true),
        minor in 32..=38_u8,
    ) {
        let store_dir = StoreDir::default();
        let version = ProtocolVersion { minor, ..NEWEST };
        for (mut result, features) in [(by_hash, features(false)), (by_path, features(true))] {
            if minor < 37 {
                result.cpu = [None, None];
            }
            let bytes = written(|writer| result.write(writer, &store_dir, version, &features));
            let mut whole = reader(&bytes);
            let read = run(BuildResult::read(&mut whole, &store_dir, version, &features)).expect("well formed");
            prop_assert_eq!(&read, &result);
            prop_assert!(run(whole.is_at_end()).expect("memory can be read"));
            for length in (0..bytes.len()).step_by(5) {
                let read = run(BuildResult::read(&mut reader(&bytes[..length]), &store_dir, version, &features));
                prop_assert!(read.is_err());
            }
        }
    }
}
