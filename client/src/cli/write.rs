//! `quorate set`, `delete` and `cas`: one write, and how safe it is.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use super::arguments::{Acknowledged, Format};
use super::exit::{Exit, Failure, printed};
use super::output;
use crate::{Acks, Client, Error, Expected, Progress, Receipt, WriteCall, WriteResult, Written};

/// A value of the command line; `-` is all of standard input.
pub(super) fn input(value: &OsStr) -> Result<Vec<u8>, Failure> {
    if value != "-" {
        return Ok(value.as_bytes().into());
    }
    let mut bytes = Vec::new();
    // One byte more than allowed: the client says what is wrong with it.
    io::stdin().lock().take(quorate_protocol::limits::VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes, and prints what came of it; a compare-and-set says what it expects.
pub(super) async fn run(
    client: &Client,
    call: WriteCall<'_>,
    expected: Option<Expected>,
    acknowledged: Acknowledged,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let written = call.acks(acknowledged.acks).await?;
    let printed = printed(output::written(out, format, &written), out);
    if let Some(expected) = expected {
        condition(&written, expected)?;
    }
    match missing(client, acknowledged.acks, &written).await {
        Some(asked) => Err(fewer_copies(&written, asked)),
        None => printed,
    }
}

/// How many copies were asked for, if there are fewer.
async fn missing(client: &Client, acks: Acks, written: &Written) -> Option<usize> {
    let asked = match acks {
        Acks::Quorum => return None,
        Acks::Copies(copies) => copies.into(),
        // Only the nodes know how many they are. If they do not say it, the receipt has been printed all the same.
        Acks::All => client.status(false).await.ok()?.view().quorums.replicas().into(),
    };
    (written.receipt.holders.len() < asked).then_some(asked)
}

fn fewer_copies(written: &Written, asked: usize) -> Failure {
    let message = format!(
        "committed, but known on {} of the {asked} replicas that were asked for: `quorate status` says which are behind",
        written.receipt.holders.len()
    );
    Failure::new(Exit::FewerCopies, message)
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
    Err(Failure::new(Exit::Refused, message))
}

/// Writes, and prints a line for every copy at once when it is known, and the result last.
pub(super) async fn run_with_progress(
    client: &Client,
    key: &[u8],
    call: WriteCall<'_>,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Failure> {
    // Finds and connects to the leader, which is no part of the time that a write takes.
    client.get(key).await?;
    let mut progress = call.progress();
    let (last, shown) = show_copies(&mut progress, format, out).await?;
    match (last, progress.result()) {
        (Some(receipt), Some(result)) => {
            let written = Written { receipt, result: Some(result) };
            shown.and_then(|()| printed(output::written(out, format, &written), out))
        }
        _ => Err(Error::BadAnswer.into()),
    }
}

/// Returns the last receipt, and whether all could be printed: if not, what comes of the write is waited for all the same.
async fn show_copies(
    progress: &mut Progress<'_>,
    format: Format,
    out: &mut impl Write,
) -> Result<(Option<Receipt>, Result<(), Failure>), Failure> {
    let began = Instant::now();
    let (mut last, mut shown): (Option<Receipt>, _) = (None, Ok(()));
    while let Some(receipt) = progress.next().await {
        let receipt = receipt?;
        if shown.is_ok() && last.is_none_or(|last| receipt.holders.len() > last.holders.len()) {
            shown = printed(output::progress(out, format, &receipt, began.elapsed()), out);
        }
        last = Some(receipt);
    }
    Ok((last, shown))
}
