//! The command line `quorate`.
//!
//! Results go to standard output, one-line errors to standard error; the exit code says which kind of error
//! (`exit`). Text output escapes what a terminal would not show, except that `get` prints the value as it
//! is. In JSON a key or value that is no UTF-8 is null, and its bytes are in `key_hex` or `value_hex` (`lines`).

mod arguments;
mod exit;
mod import;
mod lines;
mod output;
mod reference;
mod signals;
mod status;
mod watch;
mod write;

use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Parser;

use self::arguments::{Arguments, Command, Format, Freshness, ReadConsistency};
use self::exit::{Exit, Failure, exit_of, printed, say};
use self::reference::Reference;
use crate::{Client, Consistency, Error, KeyValue, NodeId, SessionToken, prefix};

/// Items of one page of a scan.
const SCAN_PAGE_ITEMS: usize = 1000;

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
            say(&failure.message);
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
    let exactly_once = matches!(arguments.command, Command::Import { .. });
    let builder = Client::builder().servers(&arguments.servers).deadline(arguments.timeout);
    let client = builder.exactly_once(exactly_once).connect()?;
    let format = arguments.format;
    match &arguments.command {
        Command::Set { key, value, acknowledged, progress } => {
            let key = key.as_bytes();
            let call = client.set(key, write::input(value)?);
            match progress {
                true => write::run_with_progress(&client, key, call, format, out).await,
                false => write::run(&client, call, None, *acknowledged, format, out).await,
            }
        }
        Command::Delete { key, acknowledged } => {
            let call = client.delete(key.as_bytes());
            write::run(&client, call, None, *acknowledged, format, out).await
        }
        Command::Cas { key, value, revision, acknowledged } => {
            let call = client.compare_and_set(key.as_bytes(), *revision, write::input(value)?);
            write::run(&client, call, Some(*revision), *acknowledged, format, out).await
        }
        Command::Get { key, freshness } => {
            get(&reader(&client, *freshness)?, key.as_bytes(), format, out).await
        }
        Command::Scan { prefix, limit, freshness } => {
            let show = |out: &mut _, item: &_, token| output::item(out, format, item, Some(token));
            scan(&reader(&client, *freshness)?, prefix.as_bytes(), *limit, out, show).await.map(drop)
        }
        Command::Watch(arguments) => watch::run(&client, arguments, format, out).await,
        Command::Export { prefix, freshness } => {
            let show = |out: &mut _, item: &_, _| output::item(out, format, item, None);
            let keys = scan(&reader(&client, *freshness)?, prefix.as_bytes(), None, out, show).await?;
            out.flush()?;
            say(&format!("{keys} keys; no snapshot: each page of {SCAN_PAGE_ITEMS} was read for itself"));
            Ok(())
        }
        Command::Import { skip_bad } => {
            if io::stdin().is_terminal() {
                say("reads lines from the terminal, until Ctrl-D");
            }
            import::run(&client, *skip_bad, format, io::stdin(), out).await
        }
        Command::Admit { node: id } => {
            let node = node(Some(*id))?.expect("one was named");
            let written = client.admit(node).await.map_err(change_failure)?;
            printed(output::admitted(out, format, node, &written), out)
        }
        Command::HandOver { to } => {
            let term = client.hand_over(node(*to)?).await.map_err(change_failure)?;
            printed(output::handed_over(out, format, term), out)
        }
        Command::Status | Command::Reference(_) => unreachable!("done above"),
    }
}

fn print(reference: &Reference, out: &mut impl Write) -> Result<(), Failure> {
    let text = reference.render::<Arguments>();
    Ok(out.write_all(&text.map_err(|message| Failure::new(Exit::WrongUse, message))?)?)
}

/// A hand-over or an admission writes nothing that could be read: whether it has happened the nodes say.
fn change_failure(error: Error) -> Failure {
    match exit_of(&error) {
        Exit::Unknown => {
            let message = format!("{error}; `quorate status` says who leads, and who is not admitted");
            Failure::new(Exit::Unknown, message)
        }
        _ => error.into(),
    }
}

fn node(id: Option<u8>) -> Result<Option<NodeId>, Failure> {
    id.map(NodeId::try_from)
        .transpose()
        .map_err(|error| Failure::new(Exit::WrongUse, format!("--to: {error}")))
}

/// A client whose reads are this fresh.
fn reader(client: &Client, freshness: Freshness) -> Result<Client, Failure> {
    let consistency = match freshness.read {
        ReadConsistency::Linearizable => Consistency::Linearizable,
        ReadConsistency::Session => Consistency::Session,
        ReadConsistency::Local => Consistency::Local,
    };
    if let Some(token) = freshness.token {
        if consistency != Consistency::Session {
            let message =
                "--token makes a difference only to session reads: add --read session, or leave it out";
            return Err(Failure::new(Exit::WrongUse, message));
        }
        client.see(token);
    }
    Ok(client.with_consistency(consistency))
}

async fn get(client: &Client, key: &[u8], format: Format, out: &mut impl Write) -> Result<(), Failure> {
    let lookup = client.get(key).await?;
    output::lookup(out, format, key, &lookup)?;
    match lookup.value {
        Some(_) => Ok(()),
        None => Err(Failure::new(Exit::Absent, "the key is absent")),
    }
}

/// Shows the keys that begin with `start`, each with what its page has seen, and says how many there were.
async fn scan<W: Write>(
    client: &Client,
    start: &[u8],
    limit: Option<u64>,
    out: &mut W,
    show: impl Fn(&mut W, &KeyValue, SessionToken) -> io::Result<()>,
) -> Result<u64, Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let page_items = usize::try_from(left).unwrap_or(usize::MAX).min(SCAN_PAGE_ITEMS);
    let mut scan = client.scan(prefix(start)).items_per_page(page_items);
    let mut shown = 0;
    while left > 0
        && let Some(page) = scan.next_page().await
    {
        let page = page?;
        for item in page.items.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            show(out, item, page.token)?;
            left -= 1;
            shown += 1;
        }
    }
    Ok(shown)
}
