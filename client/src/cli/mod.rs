//! The command line `quorate`.
//!
//! Results go to standard output, one-line errors to standard error; the exit code says which kind of error
//! (`Exit`). Text output escapes what a terminal would not show, except that `get` prints the value as it
//! is. In JSON a key or value that is no UTF-8 is null, and its bytes are in `key_hex` or `value_hex`.

mod arguments;
mod output;
mod reference;
mod status;

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Parser;

use self::arguments::{Arguments, Command, Format, ReadConsistency};
use self::reference::Reference;
use crate::{
    Client, Consistency, Error, Expected, NodeId, Refusal, SessionToken, WriteResult, Written, prefix,
};

/// Items of one page of a scan.
const SCAN_PAGE_ITEMS: usize = 1000;

/// The exit codes; 2 (wrong use) is clap's too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exit {
    /// Whoever reads standard output has seen enough: no failure, and nothing to say.
    ReaderGone = 0,
    Refused = 1,
    WrongUse = 2,
    Absent = 3,
    Unreachable = 4,
    Unknown = 5,
}

/// Why a command did not do what was asked; the message is one line.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = exit_of(&error);
        let advice = match exit {
            Exit::Unknown => "; read the key before writing again",
            Exit::Unreachable if matches!(error, Error::Unreachable(_)) => {
                "; check --servers, and that the nodes run"
            }
            _ => "",
        };
        Self { exit, message: format!("{error}{advice}") }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Only a write can meet this: standard input ends instead.
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::ReaderGone,
            _ => Exit::Refused,
        };
        Self { exit, message: format!("cannot read or write the command's data: {error}") }
    }
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::NoServers | Error::Invalid(_) | Error::RequestTooLong(_) => Exit::WrongUse,
        Error::Unreachable(_) | Error::Deadline | Error::InFlight => Exit::Unreachable,
        Error::Refused(
            Refusal::NoQuorum { .. } | Refusal::NotReady(_) | Refusal::NotLeader { .. } | Refusal::Stopping,
        ) => Exit::Unreachable,
        Error::OutcomeUnknown(_) => Exit::Unknown,
        Error::Refused(_)
        | Error::HelloRefused { .. }
        | Error::Typed(_)
        | Error::BadAnswer
        | Error::Closed => Exit::Refused,
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = smol::block_on(run(&arguments, &mut out)).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) | Err(Failure { exit: Exit::ReaderGone, .. }) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was printed before the failure stands.
            let _ = out.flush();
            eprintln!("quorate: {}", failure.message);
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Failure> {
    match &arguments.command {
        Command::Status => return status::run(arguments, out).await,
        Command::Reference(reference) => return print(reference, out),
        _ => {}
    }
    // One write is not worth a session, which takes two more: what may have happened is said to be unknown.
    let builder =
        Client::builder().servers(&arguments.servers).deadline(arguments.timeout).exactly_once(false);
    let client = builder.connect()?;
    let format = arguments.format;
    match &arguments.command {
        Command::Set { key, value } => {
            let written = client.set(key.as_bytes(), input(value)?).await?;
            Ok(output::written(out, format, &written)?)
        }
        Command::Get { key, read, token } => {
            get(&reader(&client, *read, *token), key.as_bytes(), format, out).await
        }
        Command::Delete { key } => Ok(output::written(out, format, &client.delete(key.as_bytes()).await?)?),
        Command::Cas { key, value, revision } => {
            let written = client.compare_and_set(key.as_bytes(), *revision, input(value)?).await?;
            output::written(out, format, &written)?;
            condition(&written, *revision)
        }
        Command::Scan { prefix, limit, read, token } => {
            let client = reader(&client, *read, *token);
            scan(&client, prefix.as_bytes(), *limit, format, out).await
        }
        Command::Admit { node: id } => {
            let node = node(Some(*id))?.expect("one was named");
            let written = client.admit(node).await.map_err(change_failure)?;
            Ok(output::admitted(out, format, node, &written)?)
        }
        Command::HandOver { to } => {
            let term = client.hand_over(node(*to)?).await.map_err(change_failure)?;
            Ok(output::handed_over(out, format, term)?)
        }
        Command::Status | Command::Reference(_) => unreachable!("done above"),
    }
}

fn print(reference: &Reference, out: &mut impl Write) -> Result<(), Failure> {
    let text = reference.render::<Arguments>();
    Ok(out.write_all(&text.map_err(|message| Failure { exit: Exit::WrongUse, message })?)?)
}

/// A hand-over or an admission writes nothing that could be read: whether it has happened the nodes say.
fn change_failure(error: Error) -> Failure {
    match exit_of(&error) {
        Exit::Unknown => {
            let message = format!("{error}; `quorate status` says who leads, and who is not admitted");
            Failure { exit: Exit::Unknown, message }
        }
        _ => error.into(),
    }
}

fn node(id: Option<u8>) -> Result<Option<NodeId>, Failure> {
    id.map(NodeId::try_from)
        .transpose()
        .map_err(|error| Failure { exit: Exit::WrongUse, message: format!("--to: {error}") })
}

/// A value of the command line; `-` is all of standard input.
fn input(value: &OsStr) -> Result<Vec<u8>, Failure> {
    if value != "-" {
        return Ok(value.as_bytes().into());
    }
    let mut bytes = Vec::new();
    // One byte more than allowed: the client says what is wrong with it.
    io::stdin().lock().take(quorate_protocol::limits::VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A client whose reads are this fresh.
fn reader(client: &Client, read: ReadConsistency, token: Option<SessionToken>) -> Client {
    client.see(token.unwrap_or_default());
    client.with_consistency(match read {
        ReadConsistency::Linearizable => Consistency::Linearizable,
        ReadConsistency::Session => Consistency::Session,
        ReadConsistency::Local => Consistency::Local,
    })
}

async fn get(client: &Client, key: &[u8], format: Format, out: &mut impl Write) -> Result<(), Failure> {
    let value = client.get(key).await?.value;
    output::value(out, format, key, value.as_ref())?;
    match value {
        Some(_) => Ok(()),
        None => Err(Failure { exit: Exit::Absent, message: "the key is absent".into() }),
    }
}

fn condition(written: &Written, expected: Expected) -> Result<(), Failure> {
    let Some(WriteResult::ConditionFailed { revision, .. }) = written.result else { return Ok(()) };
    let present = match revision {
        Some(revision) => format!("is at revision {revision}"),
        None => "is absent".into(),
    };
    let expected = match expected {
        Expected::Absent => "absent".into(),
        Expected::Revision(revision) => format!("revision {revision}"),
    };
    let message = format!("not set: the key {present}, expected {expected}; read it and decide again");
    Err(Failure { exit: Exit::Refused, message })
}

async fn scan(
    client: &Client,
    start: &[u8],
    limit: Option<u64>,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let page_items = usize::try_from(left).unwrap_or(usize::MAX).min(SCAN_PAGE_ITEMS);
    let mut scan = client.scan(prefix(start)).items_per_page(page_items);
    while left > 0
        && let Some(page) = scan.next_page().await
    {
        for item in page?.items.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            output::item(out, format, &item)?;
            left -= 1;
        }
    }
    Ok(())
}
