//! What the program exits with, and what it says then.

use std::io::{self, Write};

use crate::{Error, ErrorKind, Refusal};

/// The exit codes, and the two formats of lines, as `--help` and the page for man(1) show them. A line that begins with a
/// space is a line of its own in both.
pub(super) const HELP: &str = "\
Exit codes:
  0  done
  1  refused, nothing was done: change what the message names
  2  wrong use, or a wrong line of the input
  3  the key is absent
  4  nothing was done, try later: not reachable, no quorum, overloaded
  5  the outcome is unknown, or could not be printed: it may have been done, or may be yet
  6  committed, but on fewer copies than --acks asked for
  130  an import was told to stop by Ctrl-C or SIGTERM: it says with which line to go on

Bytes in text; `get` alone prints a value as it is:
  \\t \\n \\r \\\\  tab, newline, carriage return, backslash
  \\xNN         other control characters, and bytes that are no UTF-8

Bytes in JSON:
  key, value          null if they are no UTF-8
  key_hex, value_hex  the bytes then

Token in JSON, of every command on keys but export:
  token               what the command has seen: a later get, scan or export with --read session --token TOKEN sees no
                      less, and a watch with --after TOKEN begins behind it
";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    /// Whoever reads standard output has seen enough: no failure, and nothing to say.
    ReaderGone = 0,
    Refused = 1,
    /// Clap's too.
    WrongUse = 2,
    Absent = 3,
    Later = 4,
    Unknown = 5,
    FewerCopies = 6,
    /// As shells have it for a program that Ctrl-C has ended.
    Stopped = 130,
}

/// Why a command did not do what was asked; the message is one line.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let advice = match &error {
            Error::OutcomeUnknown(_) => "; read the key before writing again",
            Error::Refused(Refusal::Behind { .. }) => {
                "; allow more with --timeout, or ask another replica: if none ever gets there, the token is not of this cluster"
            }
            Error::Unreachable(_) => "; check --servers, and that the nodes run",
            Error::Deadline => "; allow more with --timeout, or ask `quorate status` who leads",
            _ => "",
        };
        Self { exit: exit_of(&error), message: format!("{error}{advice}") }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::ReaderGone,
            _ => Exit::Refused,
        };
        Self { exit, message: format!("cannot read or write the command's data: {error}") }
    }
}

/// Has what came of a write that is done printed, now: that this cannot be does not undo it.
pub(super) fn printed(result: io::Result<()>, out: &mut impl Write) -> Result<(), Failure> {
    result.and_then(|()| out.flush()).map_err(|error| match Failure::from(error) {
        Failure { exit: Exit::Refused, message } => {
            Failure::new(Exit::Unknown, format!("{message}; what was asked for is done all the same"))
        }
        failure => failure,
    })
}

/// As the client tells errors apart, and besides who has to put it right: whoever called this program, or somebody else.
pub(super) fn exit_of(error: &Error) -> Exit {
    match (error, error.kind()) {
        (Error::NoServers | Error::InvalidServer(_) | Error::Invalid(_) | Error::RequestTooLong(_), _) => {
            Exit::WrongUse
        }
        (_, ErrorKind::Retryable) => Exit::Later,
        (_, ErrorKind::Refused) => Exit::Refused,
        (_, ErrorKind::OutcomeUnknown) => Exit::Unknown,
    }
}

/// A line on standard error; whether somebody reads it makes no difference.
pub(super) fn say(message: &str) {
    let _ = writeln!(io::stderr(), "quorate: {message}");
}
