//! `bench-harness`: command line → plan → run → report.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use bench_harness::environment::Environment;
use bench_harness::failure::Failure;
use bench_harness::interrupt::Interrupt;
use bench_harness::options::{Command, Compare, Format, Measure, Merge, Options};
use bench_harness::report::{Output, Report, table};
use bench_harness::{compare, merge, node, session};

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
    match &options.command {
        Some(Command::Compare(options)) => compare(options),
        Some(Command::Report(options)) => rewrite(options),
        Some(Command::Versus(_)) | None => measure(&options.measure),
    }
}

/// Tells what changed from one report to another.
fn compare(options: &Compare) -> Result<(), Failure> {
    let answer = compare::compare(options)?;
    print(&answer.text)?;
    answer.warning.iter().for_each(|warning| eprintln!("warning: {warning}"));
    answer.end
}

/// Writes a report again, or several as one.
fn rewrite(options: &Merge) -> Result<(), Failure> {
    let (report, output) = merge::read(options)?;
    output.save(&report)?;
    show(options.format, &report)?;
    eprintln!("saved as {}", output.file().display());
    Ok(())
}

fn measure(options: &Measure) -> Result<(), Failure> {
    let plan = options.plan()?;
    let options = &options.place;
    let output = Output::prepare(options.output.as_deref())?;
    let data_dir = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    let environment = look_around(&data_dir)?;

    let interrupt = Interrupt::listen()?;
    let mut report = Report::new(environment, plan.clone());
    let end = smol::block_on(session::measure(&plan, &data_dir, &output, &mut report, &interrupt));

    show(options.format, &report)?;
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

fn show(format: Format, report: &Report) -> Result<(), Failure> {
    print(&match format {
        Format::Table => table::render(report),
        Format::Json | Format::Markdown | Format::Csv => report.json(),
    })
}

/// Standard output has the result and nothing else.
fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).context("the result cannot be printed")?;
    Ok(())
}
