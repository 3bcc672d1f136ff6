//! Reading a report that was saved.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{FILE, Report, SCHEMA};
use crate::failure::Failure;

impl Report {
    /// Reads a report from its file, or from the directory that it was saved in.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let file = if path.is_dir() { path.join(FILE) } else { PathBuf::from(path) };
        let wrong = |what: String| Failure::WrongUse(format!("{}: {what}", file.display()));
        let text = std::fs::read_to_string(&file)
            .map_err(|error| wrong(format!("no report can be read there: {error}")))?;
        let json: Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("is no report: {error}")))?;
        match json.get("schema").and_then(Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => {
                return Err(wrong(format!(
                    "has schema {schema}, and this harness reads {SCHEMA}: measure again, or use the harness that made it"
                )));
            }
            None => return Err(wrong("is no report: it has no schema".to_owned())),
        }
        serde_json::from_value(json).map_err(|error| wrong(format!("is no report: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Output, sample};
    use super::*;

    #[test]
    fn a_saved_report_is_read_from_its_file_or_directory() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::prepare(Some(directory.path())).unwrap();
        output.save(&sample::whole()).unwrap();
        assert_eq!(Report::load(directory.path()).unwrap(), sample::whole());
        assert_eq!(Report::load(&output.file()).unwrap(), sample::whole());
    }

    #[test]
    fn what_is_no_report_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.json");
        let refused = || Report::load(&file).unwrap_err().to_string();
        assert!(refused().contains("no report can be read there"));
        for (text, reason) in [
            ("hello", "is no report"),
            ("{}", "no schema"),
            (r#"{"schema":1}"#, "has schema 1"),
            (r#"{"schema":2}"#, "missing field"),
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(refused().contains(reason), "{text}: {}", refused());
        }
    }
}
