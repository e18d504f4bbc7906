//! What the end-to-end tests share: real Nix clients, closures that these have built, servers, and tables of commands.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod adding;
mod audit;
mod building;
mod case;
mod client;
mod closure;
mod copying;
mod document;
mod hosts;
mod reading;
#[path = "../../store-backend/tests/support/s3.rs"]
pub mod s3;
mod server;
mod shell;
mod table;
mod upkeep;

pub use adding::adding;
pub use audit::{EachKind, verdicts};
pub use building::building;
pub use case::{Case, Like, fails, works};
pub use client::{Client, Version, only_as_root, skip, with_client};
pub use closure::{Closure, Keys, keys};
pub use copying::{copying, refusing};
pub use document::table_of_commands;
pub use hosts::{SshServer, WebServer};
pub use reading::reading;
pub use server::{Gate, NixDaemon, PROGRAM, Storage, Transport, policy};
pub use shell::{Ran, Scratch, Shell};
pub use table::compare;
pub use upkeep::upkeep;

/// Makes a test of each function for each Nix client that may be there.
#[macro_export]
macro_rules! with_each_client {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn oldest() {
                $crate::support::with_client(0, super::$name);
            }
            #[test]
            fn middle() {
                $crate::support::with_client(1, super::$name);
            }
            #[test]
            fn newest() {
                $crate::support::with_client(2, super::$name);
            }
        }
    )*};
}

/// Makes a test of each table of commands for each Nix client that may be there, over each transport.
#[macro_export]
macro_rules! compare_each_table {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use $crate::support::{Transport, compare, with_client};

            #[test]
            fn oldest_over_unix() {
                with_client(0, |client| compare(client, Transport::Unix, $crate::support::$name()));
            }
            #[test]
            fn oldest_over_ssh_ng() {
                with_client(0, |client| compare(client, Transport::SshNg, $crate::support::$name()));
            }
            #[test]
            fn middle_over_unix() {
                with_client(1, |client| compare(client, Transport::Unix, $crate::support::$name()));
            }
            #[test]
            fn middle_over_ssh_ng() {
                with_client(1, |client| compare(client, Transport::SshNg, $crate::support::$name()));
            }
            #[test]
            fn newest_over_unix() {
                with_client(2, |client| compare(client, Transport::Unix, $crate::support::$name()));
            }
            #[test]
            fn newest_over_ssh_ng() {
                with_client(2, |client| compare(client, Transport::SshNg, $crate::support::$name()));
            }
        }
    )*};
}
