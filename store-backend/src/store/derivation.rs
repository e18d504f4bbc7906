//! Derivations as paths of a store: one file each, that says which outputs there will be.

use std::io::Read as _;

use nix_archive::nar::{CaseHack, Event, decode_events, encode_path};
use nix_derivation::Derivation;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use verifier::{OutputId, StoreDir, StorePath};

use super::StoreError;
use super::modulo::output_hash;
use super::reading::{Nar, Outputs, Statement, Store};
use crate::object::ObjectError;

/// Largest derivation that is read, in bytes.
const MAX_DERIVATION: u64 = 16 << 20;

/// Most outputs of one derivation; each may be asked for. Those that Nix builds have a handful.
const MOST_OUTPUTS: usize = 256;

/// Bytes of derivations whose outputs are looked for at the same time, in all stores together: what is made of a text can
/// take ten times as many.
const MOST_AT_ONCE: usize = 32 << 20;

static ROOM: Semaphore = Semaphore::const_new(MOST_AT_ONCE);

/// What a NAR of one file has besides its content, in bytes, at most.
const NAR_OVERHEAD: u64 = 256;

/// Largest NAR of a derivation that is read, in bytes.
pub(crate) const MAX_DERIVATION_NAR: u64 = MAX_DERIVATION + NAR_OVERHEAD;

/// A derivation that was read, with the room that it takes for as long as it is kept.
pub(super) struct InRoom {
    derivation: Derivation,
    _room: SemaphorePermit<'static>,
}

/// Parses the NAR of a derivation. The error says what is wrong with it.
pub(crate) fn parse_derivation(path: &StorePath, nar: &[u8], store_dir: &StoreDir) -> Result<Derivation, String> {
    let mut text = None;
    decode_events(nar, |event| {
        if let Event::Regular { name: None, contents, .. } = event {
            text = Some(contents);
        }
        Ok(())
    })
    .map_err(|error| error.to_string())?;
    parse_text(path, text.ok_or("expected a file, found a directory or a link")?, store_dir)
}

/// Parses the text of a derivation. The error says what is wrong with it.
pub(super) fn parse_text(path: &StorePath, text: &[u8], store_dir: &StoreDir) -> Result<Derivation, String> {
    let name = path.name().strip_suffix(".drv").unwrap_or(path.name());
    Derivation::from_aterm_bytes_in(text, name, store_dir.clone()).map_err(|error| error.to_string())
}

/// Reads from a store's derivation which outputs it has, and the paths of those that do not depend on their contents.
pub(super) async fn fixed_outputs(store: &dyn Store, statement: &Statement) -> Result<(Outputs, InRoom), StoreError> {
    let room = ROOM.acquire_many(u32::try_from(most_bytes(statement)).unwrap_or(u32::MAX)).await;
    let room = room.expect("nobody closes it");
    let derivation = derivation_of(store, statement).await?;
    let path_of = |name: &str| {
        let output = derivation.outputs().get(name)?;
        output.path_in(derivation.store_dir(), derivation.name(), name).ok().flatten()
    };
    let outputs = derivation.outputs().keys().map(|name| (name.clone(), path_of(name))).collect();
    Ok((outputs, InRoom { derivation, _room: room }))
}

/// Reads from a store's derivation which outputs it has, and their paths. Where these depend on their contents, the store says which
/// they turned out to be.
pub(super) async fn outputs(store: &dyn Store, statement: &Statement) -> Result<Outputs, StoreError> {
    let path = &statement.info.path;
    let (mut outputs, read) = fixed_outputs(store, statement).await?;
    if outputs.values().all(Option::is_some) {
        return Ok(outputs);
    }
    let hash = output_hash(store, path, &read.derivation).await?;
    for (name, known) in outputs.iter_mut().filter(|(_, known)| known.is_none()) {
        let by_hash = hash.as_ref().map(|hash| OutputId::parse_hash(&format!("sha256:{hash}!{name}")));
        // What is no name of an output has not been registered.
        for id in [Some(OutputId::of_path(path.clone(), name)), by_hash].into_iter().flatten().flatten() {
            if known.is_none() {
                *known = store.realised(&id).await?;
            }
        }
    }
    Ok(outputs)
}

/// Reads a derivation by its path; none if it is not in the store.
pub(super) async fn read_derivation(store: &dyn Store, path: &StorePath) -> Result<Option<Derivation>, StoreError> {
    match store.statements(vec![path.clone()]).await.pop() {
        Some((_, Ok(Some(statement)))) => derivation_of(store, &statement).await.map(Some),
        Some((_, Err(error))) => Err(error),
        Some((_, Ok(None))) | None => Ok(None),
    }
}

/// Reads a derivation. Its path is made of its text, so no store can pass another one off as it.
async fn derivation_of(store: &dyn Store, statement: &Statement) -> Result<Derivation, StoreError> {
    let path = &statement.info.path;
    let failed = |why: String| StoreError::Derivation { path: store.store_dir().render_path(path), why };
    if !path.is_derivation() || statement.info.nar_size > MAX_DERIVATION_NAR {
        return Err(failed("expected a derivation, found something else".into()));
    }
    let nar = store.open_nar(statement).await?.ok_or_else(|| failed("its contents are not there".into()))?;
    let most = most_bytes(statement);
    let bytes = spawn_blocking(move || bytes_of(nar, most)).await.map_err(ObjectError::from)?.map_err(failed)?;
    let derivation = parse_derivation(path, &bytes, store.store_dir()).map_err(failed)?;
    let outputs = derivation.outputs().len();
    if outputs > MOST_OUTPUTS {
        return Err(failed(format!("it has {outputs} outputs, more than the {MOST_OUTPUTS} that are looked for")));
    }
    match derivation.drv_path() {
        Ok(made) if made == *path => Ok(derivation),
        Ok(made) => Err(failed(format!("its text is that of {}", store.store_dir().render_path(&made)))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Returns how many bytes are read of a derivation's NAR at most; a size of 0 is an unknown one.
fn most_bytes(statement: &Statement) -> u64 {
    match statement.info.nar_size {
        0 => MAX_DERIVATION_NAR,
        size => size.min(MAX_DERIVATION_NAR),
    }
}

fn bytes_of(nar: Nar, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match nar {
        Nar::Bytes(mut reader) => {
            (&mut reader).take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            reader.was_whole();
        }
        Nar::AtHand(reader) => {
            reader.take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        }
        Nar::Files(place) => {
            let found = std::fs::symlink_metadata(&place).map_err(|error| error.to_string())?;
            if !found.is_file() || found.len() > most {
                return Err(format!("expected a file of at most {most} bytes"));
            }
            encode_path(&mut bytes, &place, CaseHack::Disabled).map_err(|error| error.to_string())?;
        }
    }
    Ok(bytes)
}
