//! The report: one result, [`model`], and those who write it: [`table`] for the terminal, JSON, CSV, Markdown and a
//! page of HTML for everybody else.
//!
//! All files are written after each run, each whole or not at all, so that what was measured is there however the
//! harness ends.

mod distribution;
mod load;
mod model;
#[cfg(test)]
pub(crate) mod sample;
pub mod table;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;

pub use distribution::{Distribution, tenths};
pub use model::{
    Calls, CatchUp, Event, Follower, Generator, Goal, LagSample, LogUsage, Node, Report, Run, SCHEMA, Second,
    Stages, State, Trial,
};

use crate::environment::utc;
use crate::failure::Failure;

/// Name of the report in the output directory.
const FILE: &str = "report.json";

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
        let result = fs::create_dir_all(&directory).and_then(|()| tempfile::tempfile_in(&directory));
        match result {
            Ok(_) => Ok(Self { directory }),
            Err(error) => Err(Failure::WrongUse(format!(
                "no report can be written to {} ({error}): choose another --output",
                directory.display()
            ))),
        }
    }

    /// Where the report is.
    pub fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Where all files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the report, replacing the one that is there only when all of it is written.
    pub fn save(&self, report: &Report) -> anyhow::Result<()> {
        let file = self.file();
        let write = || {
            let mut temporary =
                tempfile::Builder::new().permissions(readable()).tempfile_in(&self.directory)?;
            temporary.write_all(report.json().as_bytes())?;
            temporary.persist(&file).map_err(std::io::Error::from)
        };
        write().with_context(|| format!("the report cannot be written to {}", file.display()))?;
        Ok(())
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
    use super::*;

    #[test]
    fn a_saved_report_replaces_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::prepare(Some(&directory.path().join("new"))).unwrap();
        let mut report = sample::report();
        output.save(&report).unwrap();
        report.close(Err(&Failure::Interrupted));
        output.save(&report).unwrap();
        let saved: Report = serde_json::from_str(&fs::read_to_string(output.file()).unwrap()).unwrap();
        assert_eq!(saved, report);
        assert_eq!((saved.state, saved.error.as_deref()), (State::Interrupted, Some("interrupted")));
    }
}
