//! `bench-harness`: command line → plan → run → report.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use bench_harness::environment::Environment;
use bench_harness::failure::Failure;
use bench_harness::interrupt::Interrupt;
use bench_harness::options::{Format, Options};
use bench_harness::report::{Output, Report, csv, markdown, table};
use bench_harness::{node, session};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(arguments) = node::arguments(&arguments) {
        return node::run(arguments);
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
    let options = options.measure;
    let plan = options.plan()?;
    let options = options.place;
    let output = Output::prepare(options.output.as_deref())?;
    let data_dir = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let environment = look_around(&data_dir)?;

    let interrupt = Interrupt::listen()?;
    let mut report = Report::new(environment, plan.clone());
    let end = smol::block_on(session::measure(&plan, &data_dir, &output, &mut report, &interrupt));

    print(options.format, &report)?;
    eprintln!("saved as {}", output.file().display());
    end
}

/// The environment, with a warning if it makes the figures meaningless.
fn look_around(data_dir: &Path) -> Result<Environment, Failure> {
    std::fs::create_dir_all(data_dir)
        .map_err(|error| Failure::WrongUse(format!("--data-dir {}: {error}", data_dir.display())))?;
    let environment = Environment::gather(data_dir)?;
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
        Format::Markdown => markdown::render(report),
        Format::Csv => csv::runs(report),
    };
    std::io::stdout().write_all(text.as_bytes()).context("the report cannot be printed")
}
