//! `bench-harness`: command line → plan → run → report.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use bench_harness::environment::Environment;
use bench_harness::failure::Failure;
use bench_harness::interrupt::Interrupt;
use bench_harness::members::Found;
use bench_harness::options::{Command, Compare, Format, LatencyGoal, Measure, Merge, Options, Versus, Where};
use bench_harness::peers::launcher;
use bench_harness::place::check_space;
use bench_harness::plan::{Plan, System, check_open_files};
use bench_harness::report::{Output, Report, csv, markdown, table};
use bench_harness::session::Session;
use bench_harness::{compare, merge, node};
use rustix::process::{Resource, getrlimit};

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
    match &options.command {
        None => measure(&options.measure),
        Some(Command::Versus(options)) => versus(options),
        Some(Command::Compare(options)) => compare(options),
        Some(Command::Report(options)) => rewrite(options),
        Some(Command::Reference(reference)) => {
            print(reference.render::<Options>().map_err(Failure::WrongUse)?)
        }
    }
}

/// Measures what the command line asks for, or goes on with what an earlier one did.
fn measure(options: &Measure) -> Result<(), Failure> {
    if let Some(directory) = &options.resume {
        return resume(directory, &options.place);
    }
    let plan = options.plan()?;
    if options.dry_run {
        return print(plan.json());
    }
    run(plan, &options.place, options.slo)
}

/// Measures Quorate and others in turn.
fn versus(options: &Versus) -> Result<(), Failure> {
    let (plan, left_out) = options.plan()?;
    if options.dry_run {
        return print(plan.json());
    }
    left_out.iter().for_each(|reason| eprintln!("left out: {reason}"));
    run(plan, &options.place, None)
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
    eprintln!("saved, for people in {}", output.page().display());
    Ok(())
}

fn run(mut plan: Plan, place: &Where, goal: Option<LatencyGoal>) -> Result<(), Failure> {
    check_open_files(&plan, getrlimit(Resource::Nofile).current).map_err(Failure::WrongUse)?;
    smol::block_on(meet(&mut plan))?;
    let interrupt = Interrupt::listen()?;
    let environment = look_around(place, &plan)?;
    let output = Output::prepare(place.output.as_deref())?;
    let mut report = Report::new(environment, plan);
    carry_on(&mut report, &output, place, goal, &interrupt)
}

/// Lets clusters that run already say what they are, before anything is measured or written.
async fn meet(plan: &mut Plan) -> Result<(), Failure> {
    for case in &mut plan.cases {
        if let System::Connected(servers) = &case.system {
            let found = Found::ask(servers).await.map_err(|error| Failure::WrongUse(format!("{error:#}")))?;
            found.describe(case);
        }
    }
    Ok(())
}

/// Goes on with a report that lacks something.
fn resume(directory: &Path, place: &Where) -> Result<(), Failure> {
    let mut report = Report::load(directory)?;
    report.plan.check().map_err(Failure::WrongUse)?;
    let interrupt = Interrupt::listen()?;
    let output = Output::prepare(Some(directory))?;
    let now = look_around(place, &report.plan)?;
    if (&now.commit, &now.profile, &now.cpu)
        != (&report.environment.commit, &report.environment.profile, &report.environment.cpu)
    {
        eprintln!("warning: this is another build or machine than the report was begun with");
    }
    report.reopen();
    carry_on(&mut report, &output, place, None, &interrupt)
}

fn carry_on(
    report: &mut Report,
    output: &Output,
    place: &Where,
    goal: Option<LatencyGoal>,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let data_dir = place.data_dir();
    let session = Session { data_dir: &data_dir, output, report, interrupt, live: place.live };
    let end = match goal {
        Some(goal) => smol::block_on(session.search(goal)),
        None => smol::block_on(session.measure()),
    };
    show(place.format, report)?;
    if output.page().is_file() {
        eprintln!("saved, for people in {}", output.page().display());
    }
    end
}

/// The environment, with a warning if it makes the figures meaningless.
fn look_around(place: &Where, plan: &Plan) -> Result<Environment, Failure> {
    let data_dir = place.data_dir();
    std::fs::create_dir_all(&data_dir).map_err(|error| {
        let directory = data_dir.display();
        Failure::WrongUse(format!("--data-dir {directory} cannot be made ({error}): choose another"))
    })?;
    check_space(&data_dir, plan.replicas_max()).map_err(Failure::WrongUse)?;
    let environment = Environment::gather(&data_dir)?;
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
        Format::Json => report.json(),
        Format::Markdown => markdown::render(report),
        Format::Csv => csv::runs(report),
    })
}

/// Standard output has the result and nothing else.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_ref()).context("the result cannot be printed")?;
    Ok(())
}
