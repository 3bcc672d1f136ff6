//! `quorate watch`: changes as they are committed, until it is told to stop.
//!
//! Where it was is said on standard error when it ends, so that another one goes on there: behind everything that was
//! given to whoever reads standard output. What that one did not read any more it has to look up itself: in JSON every
//! line says from where to go on behind it.

use std::fs::File;
use std::future::pending;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use async_io::Async;
use futures_lite::{FutureExt, future};
use quorate_protocol::request::InvalidRequest;

use super::arguments::{Format, WatchArguments};
use super::exit::{Exit, Failure, say};
use super::output;
use super::signals::Stop;
use crate::{Client, Error, Refusal, SessionToken, Watch, prefix};

/// Prints changes until there were enough, somebody asks to stop, or nobody reads them any more.
pub(super) async fn run(
    client: &Client,
    arguments: &WatchArguments,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if arguments.key.as_ref().is_some_and(|key| key.is_empty()) {
        return Err(Error::Invalid(InvalidRequest::EmptyKey).into());
    }
    let mut watch = begin(client, arguments);
    let mut printed = arguments.after;
    let show = show(&mut watch, arguments.count, format, out, &mut printed);
    let ended = told_to_stop().or(reader_gone()).or(show).await;
    match ended {
        Ok(()) => said(watch.token(), ended),
        Err(Failure { exit: Exit::ReaderGone, .. }) => said(printed, ended),
        Err(failure) => Err(failure),
    }
}

fn begin(client: &Client, arguments: &WatchArguments) -> Watch {
    use std::os::unix::ffi::OsStrExt;
    let watch = match &arguments.key {
        Some(key) => client.watch_key(key.as_bytes()),
        None => client.watch(prefix(arguments.prefix.as_bytes())),
    };
    match arguments.after {
        Some(token) => watch.after(token),
        None => watch,
    }
}

/// Prints changes; everything of the watch up to `printed` has been given to the reader.
async fn show(
    watch: &mut Watch,
    count: Option<u64>,
    format: Format,
    out: &mut impl Write,
    printed: &mut Option<SessionToken>,
) -> Result<(), Failure> {
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = match future::poll_once(watch.next()).await {
            Some(next) => next,
            None => {
                // Nothing more is there at once, so the reader gets what there is.
                out.flush()?;
                *printed = watch.token();
                watch.next().await
            }
        };
        let Some(change) = next else { break };
        let change = change.map_err(|error| failure(error, watch.token()))?;
        output::change(out, format, &change, watch.token())?;
        left -= 1;
    }
    Ok(out.flush()?)
}

fn failure(error: Error, token: Option<SessionToken>) -> Failure {
    let is_useless = matches!(
        error,
        Error::Refused(Refusal::HistoryLost { .. } | Refusal::TokenLost | Refusal::Behind { .. })
    );
    let mut failure = Failure::from(error);
    if let Some(token) = token
        && !is_useless
    {
        failure.message += &format!("; go on with --after {token}");
    }
    failure
}

fn said(token: Option<SessionToken>, ended: Result<(), Failure>) -> Result<(), Failure> {
    match token {
        Some(token) => say(&format!("what comes next is had with --after {token}")),
        None => say("the watch had not begun"),
    }
    ended
}

async fn told_to_stop() -> Result<(), Failure> {
    Stop::new()?.asked().await;
    Ok(())
}

/// Ends when standard output is a pipe that nobody reads any more: without this, only the next change would show it.
async fn reader_gone() -> Result<(), Failure> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if !out.metadata()?.file_type().is_fifo() {
        return pending().await;
    }
    // Nothing can be read there: what wakes this is that the other end was closed.
    Async::new_nonblocking(out)?.readable().await?;
    Err(io::Error::from(io::ErrorKind::BrokenPipe).into())
}
