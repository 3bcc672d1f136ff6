//! The report: one result, [`Report`], and those who write it: [`table`] for the terminal, JSON, [`csv`], [`markdown`]
//! and a page of [`html`] for everybody else.
//!
//! All files are written after each run, each whole or not at all, so that what was measured is there however the
//! harness ends. docs/REPORT.md explains every field.

pub mod csv;
mod distribution;
mod headline;
pub mod html;
pub mod markdown;
mod model;
mod plots;
mod remarks;
mod rows;
#[cfg(test)]
pub(crate) mod sample;
pub mod table;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::anyhow;
use serde::Deserialize;

pub use distribution::{Distribution, tenths};
pub use model::{
    Calls, CatchUp, Event, Follower, Generator, Goal, LagSample, LeaderSeen, LogUsage, Node, Report, Run,
    SCHEMA, Second, Stages, State, Trial,
};

use crate::environment::utc;
use crate::failure::Failure;

/// Name of the report in the output directory.
const FILE: &str = "report.json";

/// A way to write a report.
type Writer = fn(&Report) -> String;

/// What else is written beside it.
const OTHERS: [(&str, Writer); 5] = [
    ("report.csv", csv::runs),
    ("seconds.csv", csv::seconds),
    ("report.md", markdown::render),
    ("report.html", html::render),
    ("plan.json", |report| report.plan.json()),
];

/// Bytes that must find room before anything is measured: a small report in all formats.
const ROOM_BYTES: usize = 1 << 20;

/// Where results go unless told otherwise, one directory below it for each report.
const RESULTS: &str = "results";

/// Where reports are saved.
#[derive(Clone, Debug)]
pub struct Output {
    directory: PathBuf,
}

impl Output {
    /// Makes the directory, and makes sure that a report can be written there: before anything is measured.
    pub fn prepare(directory: Option<&Path>) -> Result<Self, Failure> {
        let directory = directory.map_or_else(default_directory, Path::to_owned);
        // Without anything written a full disk would be found after the first run only.
        let try_out = || {
            fs::create_dir_all(&directory)?;
            let mut temporary = tempfile::tempfile_in(&directory)?;
            temporary.write_all(&vec![0; ROOM_BYTES])?;
            temporary.sync_data()
        };
        match try_out() {
            Ok(()) => Ok(Self { directory }),
            Err(error) => {
                let advice = advice(&error);
                Err(Failure::WrongUse(format!(
                    "no report can be written to {} ({error}): {advice}",
                    directory.display()
                )))
            }
        }
    }

    /// Where the report is.
    pub fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Where the page is that people read.
    pub fn page(&self) -> PathBuf {
        self.directory.join("report.html")
    }

    /// Writes the report in every format; each file replaces the one that is there only when all of it is written.
    /// The JSON comes first: all others can be made of it again.
    pub fn save(&self, report: &Report) -> Result<(), Failure> {
        self.replace(FILE, &report.json())?;
        OTHERS.iter().try_for_each(|(name, write)| self.replace(name, &write(report)))
    }

    fn replace(&self, name: &str, text: &str) -> Result<(), Failure> {
        let file = self.directory.join(name);
        let write = || {
            let mut temporary =
                tempfile::Builder::new().permissions(readable()).tempfile_in(&self.directory)?;
            temporary.write_all(text.as_bytes())?;
            temporary.persist(&file).map_err(io::Error::from)
        };
        match write() {
            Ok(_) => Ok(()),
            Err(error) => {
                let what = format!("{} cannot be written ({error}): {}", file.display(), advice(&error));
                Err(if is_full(&error) { Failure::WrongUse(what) } else { anyhow!(what).into() })
            }
        }
    }
}

/// What to do about a directory that takes no file.
fn advice(error: &io::Error) -> &'static str {
    match is_full(error) {
        true => "free space there, or choose another --output",
        false => "choose another --output",
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The part of every report, of whatever schema, that says which it is.
#[derive(Deserialize)]
struct Schema {
    schema: Option<u32>,
}

impl Report {
    /// Reads a report from its file, or from the directory that it is in.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let wrong = |what: String| Failure::WrongUse(format!("{}: {what}", file.display()));
        let text = fs::read_to_string(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                wrong("there is no report: name a report.json, or the directory it is in".to_owned())
            }
            _ => wrong(format!("the report cannot be read: {error}")),
        })?;
        let read = serde_json::from_str::<Schema>(&text);
        let no_report = "this is no report of bench-harness: name a report.json, or the directory it is in";
        match read.map(|read| read.schema) {
            Ok(Some(SCHEMA)) => {}
            Ok(Some(other)) => {
                return Err(wrong(format!(
                    "the report has schema {other}, and this harness reads {SCHEMA}: take the harness that wrote it, \
                     or measure again"
                )));
            }
            Ok(None) | Err(_) => return Err(wrong(no_report.to_owned())),
        }
        serde_json::from_str(&text).map_err(|error| wrong(format!("the report is damaged: {error}")))
    }
}

/// Temporary files are for their owner alone; a report is for everybody whom the umask allows.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

/// Colons in names trouble other tools.
fn default_directory() -> PathBuf {
    Path::new(RESULTS).join(utc(SystemTime::now()).replace(':', "-"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_saved_report_replaces_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::prepare(Some(&directory.path().join("new"))).unwrap();
        let mut report = sample::report();
        output.save(&report).unwrap();
        report.close(Err(&Failure::Interrupted));
        output.save(&report).unwrap();
        let saved = Report::load(&output.file()).unwrap();
        assert_eq!(saved, report);
        assert_eq!((saved.state, saved.error.as_deref()), (State::Interrupted, Some("interrupted")));
        assert_eq!(Report::load(&directory.path().join("new")).unwrap(), report, "by its directory");
    }

    #[test]
    fn every_format_is_there_after_each_run_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::prepare(Some(directory.path())).unwrap();
        output.save(&sample::whole()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(
            names,
            ["plan.json", "report.csv", "report.html", "report.json", "report.md", "seconds.csv"]
        );
        let plan = fs::read_to_string(directory.path().join("plan.json")).unwrap();
        assert_eq!(serde_json::from_str::<crate::plan::Plan>(&plan).unwrap(), sample::whole().plan);
    }

    #[test]
    fn a_directory_that_takes_no_report_is_wrong_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let Err(Failure::WrongUse(advice)) = Output::prepare(Some(file.path())) else { panic!("it passed") };
        assert!(advice.contains("choose another --output"), "{advice}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::prepare(Some(directory.path())).unwrap();
        fs::create_dir(directory.path().join("report.md")).unwrap(); // no file can replace a directory
        let error = output.save(&sample::whole()).unwrap_err().to_string();
        assert!(error.contains("report.md cannot be written"), "{error}");
        assert_eq!(Report::load(directory.path()).unwrap().runs.len(), 3, "the JSON came first");
    }

    #[test]
    fn a_full_disk_is_told_with_what_to_do() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(advice(&full), "free space there, or choose another --output");
    }

    #[test]
    fn what_is_no_report_is_refused_with_advice() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("report.json");
        let refused = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(&file, text).unwrap();
            }
            Report::load(directory.path()).expect_err("it was read").to_string()
        };
        for (text, advice) in [
            (None, "there is no report: name a report.json"),
            (Some("hello"), "this is no report of bench-harness"),
            (Some("{\"runs\": []}"), "this is no report of bench-harness"),
            (Some("{\"schema\": 1}"), "the report has schema 1, and this harness reads 2"),
            (Some("{\"schema\": 2}"), "the report is damaged: missing field"),
        ] {
            let said = refused(text);
            assert!(said.contains(advice) && said.starts_with(&file.display().to_string()), "{said}");
        }
    }

    /// All names of fields, however deep.
    fn field_names(json: &serde_json::Value, names: &mut BTreeSet<String>) {
        match json {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    names.insert(name.clone());
                    field_names(value, names);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| field_names(value, names)),
            _ => {}
        }
    }

    #[test]
    fn every_field_and_column_is_explained() {
        let page = include_str!("../../../docs/REPORT.md");
        let mut names = BTreeSet::new();
        for mut report in [sample::large(), sample::whole()] {
            let trial = Trial { asked_per_second: 1.0, per_second: 1.0, latency_us: 1.0, kept: true };
            report.goal =
                Some(Goal { goal: "p99=5ms".to_owned(), per_second: Some(1.0), trials: vec![trial] });
            field_names(&serde_json::to_value(&report).unwrap(), &mut names);
            let columns = [csv::runs(&report), csv::seconds(&report)];
            let of_follower = |name: &str| name.strip_prefix("follower_").map(|name| name[2..].to_owned());
            let lines = columns.iter().filter_map(|text| text.lines().next());
            names.extend(
                lines
                    .flat_map(|line| line.split(','))
                    .map(|name| of_follower(name).unwrap_or(name.to_owned())),
            );
        }
        let known = |name: &&String| {
            ["`", "\"", "_"].iter().any(|before| {
                ["`", "\""].iter().any(|after| page.contains(&format!("{before}{name}{after}")))
            })
        };
        let missing: Vec<_> = names.iter().filter(|name| !known(name)).collect();
        assert!(names.len() > 120 && missing.is_empty(), "{missing:?} of {}", names.len());
    }
}
