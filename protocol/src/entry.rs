//! One record of the replicated log: encoded once by the leader, and the same bytes on every wire and disk.
//!
//! ```text
//!  0   4   body length   u32 LE   of everything from byte 8 on
//!  4   4   CRC-32C       u32 LE   of the body
//!  8   8   term          u64 LE
//! 16   8   index         u64 LE
//! 24   …   payload                postcard `Payload`
//! ```
//!
//! Entries are not separated: the next begins where the body ends. The CRC travels with the entry from
//! the first leader to the last disk, so damage anywhere on the way is found by whoever reads it next.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::bounded;
use crate::request::{SessionSequence, Write};
use crate::{Index, Member, MessageError, SessionId, Term, limits, parse};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 24;

/// Bytes of the header that the length does not count.
const PREFIX_BYTES: usize = 8;

/// The payload's first byte in an entry that writes: its variant.
const WRITE: u8 = 1;

/// The same in an entry that admits a member.
const ADMIT: u8 = 2;

/// What an entry does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Payload<'a> {
    /// Nothing: a new leader's first entry (R15).
    Noop,
    /// Changes the store.
    Write {
        /// Where it stands in its session.
        session: Option<SessionSequence>,
        /// The change.
        #[serde(borrow)]
        write: Write<'a>,
    },
    /// Makes a replica a voting member in the place of an earlier incarnation of the same node (R27).
    Admit(Member),
    /// Opens a session, whose id is the entry's index.
    OpenSession,
    /// Ends sessions (R25).
    EndSessions(
        #[serde(deserialize_with = "bounded::<_, _, { limits::ENDED_SESSIONS_MAX }>")] Vec<EndedSession>,
    ),
}

/// A session that ends, unless it was used meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndedSession {
    /// Which.
    pub session: SessionId,
    /// The last entry that used it when its end was decided: a later one keeps it. The highest index if its owner
    /// has closed it.
    pub last_used: Index,
}

/// One entry, whose checksum was right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Of the leader that made it.
    pub term: Term,
    /// Its place in the log.
    pub index: Index,
    /// All its bytes.
    pub bytes: &'a [u8],
}

/// Bytes that are no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EntryError {
    /// The bytes end inside an entry.
    #[error("an entry is cut short")]
    Incomplete,
    /// The length is impossible.
    #[error("an entry's length of {0} bytes is impossible")]
    Length(usize),
    /// The body is not what was written.
    #[error("an entry's checksum is wrong")]
    Checksum,
}

impl<'a> Entry<'a> {
    /// What it does.
    pub fn payload(&self) -> Result<Payload<'a>, MessageError> {
        parse(&self.bytes[HEADER_BYTES..])
    }

    /// If it writes: where in a session, and the bytes of the [`Write`], which are alike for every repetition of it.
    pub fn write(&self) -> Option<(Option<SessionSequence>, &'a [u8])> {
        type Before = (u8, Option<SessionSequence>);
        if self.bytes.get(HEADER_BYTES) != Some(&WRITE) {
            return None;
        }
        let ((_, session), write) = postcard::take_from_bytes::<Before>(&self.bytes[HEADER_BYTES..]).ok()?;
        Some((session, write))
    }

    /// The member that it admits, if it does that. Costs a look at one byte for all other entries.
    pub fn admission(&self) -> Option<Member> {
        if self.bytes.get(HEADER_BYTES) != Some(&ADMIT) {
            return None;
        }
        match self.payload() {
            Ok(Payload::Admit(member)) => Some(member),
            _ => None,
        }
    }

    /// Reads the entry at the start of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EntryError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(EntryError::Incomplete) };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let length = word(0) as usize;
        if !(HEADER_BYTES - PREFIX_BYTES..=limits::ENTRY_BYTES_MAX - PREFIX_BYTES).contains(&length) {
            return Err(EntryError::Length(length));
        }
        let Some(bytes) = bytes.get(..PREFIX_BYTES + length) else { return Err(EntryError::Incomplete) };
        if crc32c::crc32c(&bytes[PREFIX_BYTES..]) != word(4) {
            return Err(EntryError::Checksum);
        }
        Ok(Self { term: long(8), index: long(16), bytes })
    }
}

/// Appends an entry to `out`, and returns how many bytes it took.
///
/// # Panics
///
/// If the payload cannot be serialised, which no [`Payload`] can cause.
pub fn encode(term: Term, index: Index, payload: &Payload<'_>, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    postcard::to_io(payload, &mut *out).expect("payloads serialise, and a Vec takes every byte");
    let (prefix, body) = out[start..].split_at_mut(PREFIX_BYTES);
    let length = u32::try_from(body.len()).expect("requests are far below 4 GiB");
    prefix[..4].copy_from_slice(&length.to_le_bytes());
    prefix[4..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.len() - start
}

/// The entries in a run of bytes, each checked; the first error ends it.
pub fn iterate(bytes: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, EntryError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = Entry::parse(rest);
        rest = match entry {
            Ok(entry) => &rest[entry.bytes.len()..],
            Err(_) => &[],
        };
        Some(entry)
    })
}
