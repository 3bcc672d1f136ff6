//! `bench-harness`: command line → plan → run → report.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bench_harness::environment::Environment;
use bench_harness::failure::Failure;
use bench_harness::interrupt::Interrupt;
use bench_harness::options::{Format, Options};
use bench_harness::peers::launcher;
use bench_harness::plan::Plan;
use bench_harness::report::{Output, Report, table};
use bench_harness::{node, session};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(arguments) = node::arguments(&arguments) {
        return node::run(arguments);
    }
    if let Some(arguments) = launcher::arguments(&arguments) {
        return launcher::run(arguments);
    }
    match harness(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-harness: {failure}");
            failure.exit_code()
        }
    }
}

fn harness(arguments: Vec<OsString>) -> Result<(), Failure> {
    let Some(options) = Options::read(arguments)? else { return Ok(()) };
    let plan = options.plan()?;
    let output = Output::prepare(options.output.as_deref())?;
    let data_dir = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let environment = look_around(&plan, &data_dir)?;

    let interrupt = Interrupt::listen()?;
    let mut report = Report::new(environment);
    let end = smol::block_on(session::measure(&plan, &data_dir, &output, &mut report, &interrupt));

    print(options.format, &report)?;
    eprintln!("saved as {}", output.file().display());
    end
}

/// The environment, with a warning if it makes the figures meaningless.
fn look_around(plan: &Plan, data_dir: &PathBuf) -> Result<Environment, Failure> {
    let prepared = std::fs::create_dir_all(data_dir).map_err(anyhow::Error::from);
    let environment = prepared
        .and_then(|()| Environment::gather(plan, Path::new(data_dir)))
        .map_err(|error| Failure::WrongUse(format!("--data-dir {}: {error:#}", data_dir.display())))?;
    if environment.data_is_in_memory() {
        eprintln!(
            "warning: {} is in memory ({}), where a sync costs nothing: choose a --data-dir on a disk",
            environment.data_dir, environment.file_system
        );
    }
    Ok(environment)
}

/// Prints the report to standard output.
fn print(format: Format, report: &Report) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table::render(report),
        Format::Json => report.json(),
    };
    std::io::stdout().write_all(text.as_bytes()).context("the report cannot be printed")
}
