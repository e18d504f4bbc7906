//! Nix's daemon worker protocol: versions, the handshake, operations, and the codec of each type.
//!
//! Nothing here knows a store: what an operation does is the daemon's, what bytes are is the wire's.
//!
//! The protocol's only specification is Nix's source: `src/libstore/worker-protocol.cc`, `daemon.cc`, `remote-store.cc`.

mod addition;
mod build_result;
mod derivation;
mod garbage;
mod handshake;
mod operation;
mod options;
mod path_info;
mod realisation;
mod request;
mod version;

pub use addition::AddToStore;
pub use build_result::{BuildOutcome, BuildResult, BuildStatus};
pub use derivation::{BasicDerivation, BasicOutput};
pub use garbage::{GarbageAction, GarbageRequest};
pub use handshake::{Greeting, HandshakeError, Trust, greet_client, greet_server};
pub use operation::Operation;
pub use options::Options;
pub use path_info::{RawPathInfo, write_path_info, write_unkeyed_path_info};
pub use realisation::{read_output_id, read_realisation, write_output_id, write_realisation};
pub use request::{BuildMode, Request, RequestError, Substitutes};
pub use version::{Features, NEWEST, OLDEST, ProtocolVersion};
