//! nix-quorum: a Nix store that holds only what a quorum of independent signers vouched for.
//!
//! This file parses the command line, calls, and exits. What commands do is in `command`, what they print in `render`.

mod command;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run() {
        Ok(exit) => exit,
        Err(error) => {
            render::failure(&error);
            error.exit()
        }
    }
}
