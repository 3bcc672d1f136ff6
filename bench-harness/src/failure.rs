//! How the harness ends when it does not end well, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// Why the harness stopped. Each tells its reader what to do.
#[derive(Debug)]
pub enum Failure {
    /// The command line cannot be followed; change it. Nothing was started.
    WrongUse(String),
    /// A case could not be measured. What was measured before is saved.
    Run(anyhow::Error),
    /// Acknowledged writes were lost, or replicas differ: a defect of the server. Data and logs are kept.
    Lost(String),
    /// Figures of one report are worse than those of another.
    Worse(String),
    /// Somebody asked the harness to stop, by Ctrl-C or SIGTERM. What was measured before is saved.
    Interrupted,
}

impl Failure {
    /// The exit code: 1 for a failed run, lost writes or worse figures, 2 for wrong use, 130 when interrupted.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Run(_) | Self::Lost(_) | Self::Worse(_) => 1,
            Self::WrongUse(_) => 2,
            Self::Interrupted => 130,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongUse(advice) => f.write_str(advice),
            Self::Run(error) => write!(f, "{error:#}"),
            Self::Lost(what) | Self::Worse(what) => f.write_str(what),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}
