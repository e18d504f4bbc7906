//! `nix-quorum sweep`

use std::process::ExitCode;

use clap::Args;
use store_backend::gate::sweep::Sweep;
use store_backend::store::{BinaryCache, Place};
use verifier::Timestamp;

use super::load::{StoreArguments, open_existing};
use super::{CommandError, runtime};
use crate::render;

/// What is swept.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Leave alone what was written in the last so many hours: it may be somebody's who is still at it.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    older_than: u32,
    /// Delete what is found. Without this, it is only listed.
    #[arg(long)]
    delete: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(sweep(arguments))
}

async fn sweep(arguments: Arguments) -> Result<ExitCode, CommandError> {
    let Arguments { store, older_than, delete, json } = arguments;
    let place = Place::parse(&store.store)?;
    let mut cache = open_existing(&store.store, None).await?;
    if delete {
        // Only now that there is a store: nothing is made where there was none.
        let objects = place.open(store.writers()).await?;
        let failed = |source| CommandError::OpenStore { uri: store.store.clone(), source };
        cache = BinaryCache::open_existing(objects, None).await.map_err(failed)?;
    }
    let seconds = i64::from(older_than) * 60 * 60;
    let before = Timestamp::from_unix(render::now().as_unix() + 1 - seconds);
    let sweep = Sweep { cache, index: store.index(&place).await?, before, delete };
    let mut findings = Vec::new();
    let swept = sweep.run(|finding| findings.push(finding)).await;
    sweep.cache.objects().close().await;
    // What was deleted before something failed is gone, and said to be.
    let unreadable = swept.as_ref().ok().into_iter().flatten();
    let unreadable: Vec<&str> = unreadable.map(String::as_str).collect();
    render::swept(&findings, &unreadable, &store.store, delete, render::format(json))?;
    swept?;
    Ok(ExitCode::SUCCESS)
}
