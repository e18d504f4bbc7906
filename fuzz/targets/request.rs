//! Requests: whatever comes is understood or refused, and either way the session stays in step; what is understood can be
//! written and is read as the same.
//!
//! Input: the operation's number in one byte, and its arguments as on the wire. Above 127, the number is 128 less, and the
//! arguments are taken apart into a beginning and what is repeated without end.
#![no_main]

use gauge::{Endless, Pieces, in_proportion, rarely, run, within};
use libfuzzer_sys::fuzz_target;
use store_backend::protocol::{Features, Operation, Request, RequestError};
use store_backend::wire::{ByteSource, Reader, StringLimit, WireError, Writer};
use verifier::{OutputId, StoreDir};

/// Most bytes of memory that one request of a peer who never stops may take: four times its budget. Lists grow by
/// doubling, and a text and what is understood of it are there at the same time.
const ENDLESS: usize = 4 * (24 << 20);

fuzz_target!(|input: &[u8]| {
    let Some((&number, arguments)) = input.split_first() else { return };
    let Some(operation) = Operation::from_number(u64::from(number % 128)) else { return };
    if number >= 128 {
        return rarely(|| endless(operation, arguments));
    }
    for features in [Features::default(), Features::ours()] {
        one(operation, arguments, &features);
    }
});

fn one(operation: Operation, arguments: &[u8], features: &Features) {
    let dir = StoreDir::default();
    let shape = shape(operation, features);
    let (read, rest) = in_proportion(arguments.len(), || decode(operation, arguments, &dir, features));
    match read {
        Err(RequestError::Wire(_)) => {}
        Err(RequestError::Invalid(why)) => {
            assert_eq!(rest, behind(shape, arguments), "{operation}: out of step after a refusal: {why}");
        }
        Ok(request) => {
            assert_eq!(rest, behind(shape, arguments), "{operation}: out of step after {request:?}");
            assert_eq!(request.operation(), operation);
            if !agreed(&request, features) {
                return;
            }
            let written = encode(&request, &dir);
            let (number, written) = written.split_first_chunk().expect("a number");
            assert_eq!(u64::from_le_bytes(*number), operation.number());
            assert_eq!(behind(shape, written), Some(0), "{operation}: {request:?} is written as something else");
            let (again, _) = decode(operation, written, &dir, features);
            assert_eq!(again.expect("what was understood once"), request, "{operation} changed on its way");
        }
    }
}

/// Whether a realisation is of the form that was agreed on. The JSON of the older protocol may hold the newer form, which
/// no client writes there.
fn agreed(request: &Request, features: &Features) -> bool {
    let id = match request {
        Request::RegisterDrvOutput(realisation) => &realisation.id,
        Request::QueryRealisation(id) => id,
        _ => return true,
    };
    features.realisation_with_path() == matches!(id, OutputId::Path { .. })
}

/// Reads a request; returns it with the number of bytes behind it.
fn decode(
    operation: Operation,
    arguments: &[u8],
    dir: &StoreDir,
    features: &Features,
) -> (Result<Request, RequestError>, Option<usize>) {
    run(async {
        let mut reader = Reader::new(Pieces::new(arguments, &[]));
        let read = Request::read(operation, &mut reader, dir, features).await;
        (read, rest(&mut reader).await.ok())
    })
}

fn encode(request: &Request, dir: &StoreDir) -> Vec<u8> {
    run(async {
        let mut writer = Writer::new(Vec::new());
        request.write(&mut writer, dir);
        writer.flush().await.expect("a vector takes everything");
        writer.into_inner()
    })
}

fn endless(operation: Operation, arguments: &[u8]) {
    if let Some(source) = Endless::new(arguments) {
        let (mut reader, dir, features) = (Reader::new(source), StoreDir::default(), Features::ours());
        within(ENDLESS, || drop(run(Request::read(operation, &mut reader, &dir, &features))));
    }
}

/// What an operation's arguments are on the wire, whatever they mean: `w` a word, `s` a string, `l` a list of strings, and
/// in brackets what is repeated as often as the word before it says.
///
/// Source: Nix `src/libstore/daemon.cc`, `performOp`. This is written down apart from the decoder to be compared with it.
fn shape(operation: Operation, features: &Features) -> &'static str {
    use Operation as O;
    match operation {
        O::IsValidPath
        | O::QueryReferrers
        | O::EnsurePath
        | O::AddTempRoot
        | O::AddIndirectRoot
        | O::QueryDeriver
        | O::QuerySubstitutablePathInfo
        | O::QueryDerivationOutputs
        | O::QueryPathInfo
        | O::QueryDerivationOutputNames
        | O::QueryPathFromHashPart
        | O::QueryValidDerivers
        | O::NarFromPath
        | O::QueryDerivationOutputMap
        | O::AddBuildLog => "s",
        O::SyncWithGC | O::FindRoots | O::QueryAllValidPaths | O::OptimiseStore => "",
        O::QuerySubstitutablePaths | O::QueryMissing => "l",
        O::BuildPaths | O::BuildPathsWithResults | O::QueryValidPaths => "lw",
        O::VerifyStore | O::AddMultipleToStore => "ww",
        O::AddSignatures => "sl",
        O::AddPermRoot => "ss",
        O::AddToStore => "sslw",
        O::AddTextToStore => "ssl",
        O::SetOptions => "wwwwwwwwwwww(ss)",
        O::CollectGarbage => "wlwwwww",
        O::QuerySubstitutablePathInfos => "(ss)",
        O::BuildDerivation => "s(ssss)lssl(ss)w",
        O::AddToStoreNar => "ssslwwwlsww",
        O::RegisterDrvOutput if features.realisation_with_path() => "sssl",
        O::QueryRealisation if features.realisation_with_path() => "ss",
        O::RegisterDrvOutput | O::QueryRealisation => "s",
    }
}

/// Returns how many bytes stand behind arguments of a shape; none where they are cut off.
fn behind(shape: &str, arguments: &[u8]) -> Option<usize> {
    run(async {
        let mut reader = Reader::new(Pieces::new(arguments, &[]));
        skip(shape, &mut reader).await.ok()?;
        rest(&mut reader).await.ok()
    })
}

async fn skip<S: ByteSource>(shape: &str, reader: &mut Reader<S>) -> Result<(), WireError> {
    let mut left = shape;
    while let Some(next) = left.chars().next() {
        left = &left[1..];
        let (item, count) = match next {
            'w' => ("", reader.u64().await?),
            's' => ("s", 1),
            'l' => ("s", reader.u64().await?),
            _ => {
                let (item, later) = left.split_once(')').expect("brackets close");
                left = later;
                (item, reader.u64().await?)
            }
        };
        for _ in 0..if item.is_empty() { 0 } else { count } {
            for _ in item.chars() {
                reader.bytes("a string", StringLimit::Long).await?;
            }
        }
    }
    Ok(())
}

async fn rest<S: ByteSource>(reader: &mut Reader<S>) -> Result<usize, WireError> {
    let mut count = 0;
    loop {
        match reader.take(u64::MAX).await?.len() {
            0 => return Ok(count),
            length => count += length,
        }
    }
}
