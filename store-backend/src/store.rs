//! Stores: what is kept where, and how it is read. Whether it may be read is the gate's affair.

mod binary_cache;
mod nar;
mod record;

pub use binary_cache::{BinaryCache, Narinfo, StoreError, hash_part_of};
pub(crate) use binary_cache::{listing_key, log_key, nar_key, narinfo_key, realisation_key, record_key};
pub use nar::{NarRead, NarReadError, NarStream};
pub use record::{AddressProof, FileFacts, NarRecord, Record, RecordError, SignatureRecord, State};
