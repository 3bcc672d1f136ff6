//! A replica of Quorate as a program. Everything is in the library: see [`quorate_server::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_server::cli::run(std::env::args_os())
}
