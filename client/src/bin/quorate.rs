//! The command line of Quorate: see `quorate --help`.

fn main() -> std::process::ExitCode {
    quorate_client::cli::main()
}
