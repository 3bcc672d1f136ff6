//! Messages as people read them: keys and values as text, and not more of them than is needed to tell them apart.

use std::fmt::{self, Debug, Write as _};

use quorate_protocol::entry::{self, Entry, Payload};
use quorate_protocol::parse;
use quorate_protocol::peer::{Append, CheckpointChunk, PeerMessage};
use quorate_protocol::request::{Mutation, Operation, Range, RangeEnd, Request, SessionSequence, Write};
use quorate_protocol::response::{Item, Outcome, Response, Versioned};

/// Bytes of a key or a value that are shown.
const BYTES_MAX: usize = 24;

/// Characters of a message that are shown.
const CHARACTERS_MAX: usize = 300;

/// A key or a value.
#[derive(PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..BYTES_MAX) {
            Some(beginning) if self.0.len() > BYTES_MAX => {
                write!(f, "\"{}\"… of {} bytes", beginning.escape_ascii(), self.0.len())
            }
            _ => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

pub(super) fn shown_request(message: &[u8]) -> String {
    let Ok(Request { id, deadline_ms, operation }) = parse(message) else { return "not a request".into() };
    let operation = match &operation {
        Operation::Get { consistency, key } => format!("get {:?}, {consistency:?}", Text(key)),
        Operation::Scan { consistency, range, items_max } => {
            format!("scan {}, at most {items_max}, {consistency:?}", shown_range(range))
        }
        Operation::Write { options, write } => shown_in_session(options.session, write),
        other => format!("{other:?}"),
    };
    shortened(&format!("request {id}, {deadline_ms} ms: {operation}"))
}

pub(super) fn shown_response(message: &[u8]) -> String {
    let Ok(Response { id, outcome }) = parse(message) else { return "not a response".into() };
    let versioned =
        |versioned: &Versioned<'_>| format!("{:?} of {}", Text(versioned.value), versioned.revision);
    let outcome = match &outcome {
        Outcome::Value { token, value: None } => format!("absent, {token:?}"),
        Outcome::Value { token, value: Some(value) } => format!("{}, {token:?}", versioned(value)),
        Outcome::Page { token, items, .. } => {
            let items = items
                .iter()
                .map(|Item { key, versioned: value }| format!("{:?}: {}", Text(key), versioned(value)));
            format!("page, {token:?}: {}", items.collect::<Vec<_>>().join(", "))
        }
        other => format!("{other:?}"),
    };
    shortened(&format!("response {id}: {outcome}"))
}

pub(super) fn shown_payload(entry: &Entry<'_>) -> String {
    match entry.payload() {
        Ok(Payload::Write { session, write }) => shown_in_session(session, &write),
        other => format!("{other:?}"),
    }
}

pub(super) fn shown_peer_message(bytes: &[u8]) -> String {
    match parse::<PeerMessage<'_>>(bytes) {
        Ok(PeerMessage::Append(append)) => {
            let entries: Vec<_> = entry::iterate(append.entries).flatten().collect();
            let mut text = format!("{:?}", Append { entries: &[], ..append });
            if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
                let _ = write!(
                    text,
                    " with {} to {} of terms {} to {}",
                    first.index, last.index, first.term, last.term
                );
            }
            text
        }
        Ok(PeerMessage::CheckpointChunk(chunk)) => {
            let bytes = chunk.bytes.len();
            format!("{:?} with {bytes} bytes", CheckpointChunk { bytes: &[], ..chunk })
        }
        Ok(message) => shortened(&format!("{message:?}")),
        Err(error) => format!("{error}"),
    }
}

fn shown_range(range: &Range<'_>) -> String {
    let start = Text(range.start);
    match range.end {
        RangeEnd::Open => format!("from {start:?}"),
        RangeEnd::Before(end) => format!("from {start:?} to {:?}", Text(end)),
        RangeEnd::Prefix(prefix) => format!("{:?}", Text(prefix)),
    }
}

fn shown_in_session(session: Option<SessionSequence>, write: &Write<'_>) -> String {
    let write = shown_write(write);
    match session {
        None => write,
        Some(SessionSequence { session, sequence, lowest_open }) => {
            format!("session {session} no. {sequence} (from {lowest_open}): {write}")
        }
    }
}

fn shown_write(write: &Write<'_>) -> String {
    let mutations = write.mutations().iter().map(|mutation| match mutation {
        Mutation::Set { key, value } => format!("set {:?} to {:?}", Text(key), Text(value)),
        Mutation::Delete { key } => format!("delete {:?}", Text(key)),
        Mutation::CompareAndSet { key, expected, value } => {
            format!("set {:?} to {:?} if {expected:?}", Text(key), Text(value))
        }
    });
    mutations.collect::<Vec<_>>().join(", ")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
