//! The server: it accepts Nix clients and does what they ask, through the gate.
//!
//! An operation is one short function: it reads nothing but its request, asks the gate, and writes its answer. What it may do
//! is never decided here, except for what belongs to administrators alone.

mod add;
mod ahead;
mod build;
mod error;
mod handover;
mod maintain;
mod query;
mod relay;
mod server;
mod session;

pub use error::{OperationError, ServeError};
pub use relay::{Relayed, relay, serve_stdio};
pub use server::{Server, Settings};
pub use session::{Peer, serve_connection};

/// What the server calls itself where Nix asks for the daemon's version.
pub const DAEMON_VERSION: &str = concat!("nix-quorum ", env!("CARGO_PKG_VERSION"));
