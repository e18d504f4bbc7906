//! All of nix-quorum's input and output: the wire, the protocol, the store, the gate and the daemon.

pub mod audit;
pub mod client;
mod clock;
pub mod daemon;
mod decompress;
pub mod gate;
mod nonce;
pub mod object;
mod process;
pub mod protocol;
mod rate;
pub mod store;
pub mod wire;
