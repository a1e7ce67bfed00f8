//! The program: everything it does is in the library, see [`websocket_bridge::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    websocket_bridge::cli::run(std::env::args_os())
}
