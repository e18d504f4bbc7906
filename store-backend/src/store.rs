//! Stores: what is kept where, and how it is read. Whether it may be read is the gate's affair.

mod any_cache;
mod argument;
mod binary_cache;
mod daemon;
mod database;
mod derivation;
mod directories;
mod installable;
mod local;
mod modulo;
mod nar;
mod netrc;
mod place;
mod reading;
mod record;
mod remote;
mod uri;
mod web;
mod web_cache;

pub use argument::{ArgumentError, store_path_of};
pub use binary_cache::{BinaryCache, Narinfo, StoreError, hash_part_of};
pub(crate) use binary_cache::{
    EVIDENCE, MAX_NARINFO, MAX_RECORD, NOTES, listing_key, log_key, nar_key, nar_of_name, narinfo_key, realisation_key,
    record_key,
};
pub use daemon::Daemon;
pub(crate) use derivation::{MAX_DERIVATION_NAR, parse_derivation};
pub use installable::{Installable, InstallableError, Meaning};
pub use nar::{BlockingNar, NarReadError, NarStream};
pub use place::{Place, PlaceError};
pub use reading::{
    History, Listed, MAX_PATHS, Nar, NarFile, Outputs, Pace, ReadNar, StatedSignature, Statement, Statements, Store,
};
pub(crate) use record::describe_info;
pub use record::{FileFacts, NarRecord, Record, RecordError, SignatureRecord, State};
pub use remote::{Remote, Ssh};
pub use uri::{StoreUri, StoreUriError};
pub use web::without_password;

pub use crate::decompress::UnknownCompression;
