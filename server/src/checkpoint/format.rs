//! The bytes of a checkpoint, as drawn in the parent module, and the rules for what is in them.
//!
//! Pure: bytes in, values out. Writer and reader apply the same [`Contents`], so that nothing is written
//! that would be refused later.

use quorate_protocol::response::WriteResult;
use quorate_protocol::{ClusterId, Incarnation, Index, Member, NodeId, SessionId, Term, limits};
use thiserror::Error;

use super::CheckpointHeader;
use crate::store::{Done, Session};

/// Bytes after which a block of sessions or of records ends, with the one that reaches it. Every such block but the
/// last of its kind reaches it.
pub const BLOCK_BYTES: usize = 64 << 10;

pub(super) const VERSION: u32 = 3;
pub(super) const HEADER_BYTES: usize = 48;
pub(super) const BLOCK_HEADER_BYTES: usize = 12;
pub(super) const FOOTER_BYTES: usize = 76;
/// Bytes of the footer that the hash covers.
pub(super) const FOOTER_HASHED_BYTES: usize = 32;

/// Bytes of a payload: a block that was one byte short, and then took the largest record.
pub(super) const PAYLOAD_BYTES_MAX: usize =
    BLOCK_BYTES - 1 + RECORD_HEADER_BYTES + limits::KEY_BYTES_MAX + limits::VALUE_BYTES_MAX;

const MAGIC: [u8; 8] = *b"QRMCKPT\n";
const END_MAGIC: [u8; 8] = *b"QRMCKEND";
const RECORD_HEADER_BYTES: usize = 14;
const SESSION_HEADER_BYTES: usize = 28;
const RESULT_BYTES: usize = 33;
const TERM_BYTES: usize = 16;
const MEMBER_BYTES: usize = 9;
const TERMS_PER_BLOCK: usize = 4096;

const _: () = assert!(limits::KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(PAYLOAD_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(
    BLOCK_BYTES - 1 + SESSION_HEADER_BYTES + limits::SESSION_WINDOW as usize * RESULT_BYTES
        <= PAYLOAD_BYTES_MAX
);
const _: () = assert!(TERMS_PER_BLOCK * TERM_BYTES <= PAYLOAD_BYTES_MAX);

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Terms = 1,
    Records = 2,
    Sessions = 3,
    Members = 4,
}

/// A rule of the format that a block breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BlockProblem {
    /// More than any block can have, more than the file has left, or nothing.
    #[error("a block of {0} bytes is impossible")]
    Length(usize),
    /// Unknown to this version.
    #[error("a block of the unknown kind {0}")]
    Kind(u32),
    /// The block is not what was written.
    #[error("a block's checksum is wrong")]
    Checksum,
    /// A record's lengths, or its revision, are impossible.
    #[error("a record is malformed")]
    Record,
    /// A key is not above the one before it.
    #[error("keys are out of order")]
    Order,
    /// Not where a block ends.
    #[error("a block does not end with the session or record that reaches {BLOCK_BYTES} bytes")]
    Boundary,
    /// One is malformed, or has results that it cannot have.
    #[error("a session is malformed")]
    Session,
    /// Their ids do not rise, there are too many, or they come after records.
    #[error("the sessions are out of order")]
    Sessions,
    /// They do not rise, do not lead to the header's term, or come after records.
    #[error("the terms' first indexes are out of order, or do not lead to the last term")]
    Terms,
    /// They do not rise, or are not where they belong.
    #[error("the members are out of order")]
    Members,
}

/// The header's fields, without the terms: those are in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) index: Index,
    pub(super) term: Term,
    pub(super) cluster: ClusterId,
}

/// The footer's fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    pub(super) index: Index,
    pub(super) term: Term,
    pub(super) keys: u64,
    pub(super) blocks: u64,
    pub(super) hash: [u8; 32],
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

impl Header {
    pub(super) fn of(header: &CheckpointHeader) -> Self {
        Self { version: VERSION, index: header.index, term: header.term, cluster: header.cluster }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.index.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.term.to_le_bytes());
        bytes[28..44].copy_from_slice(&self.cluster.0);
        let checksum = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are no header, or damaged.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let whole = bytes[..8] == MAGIC && crc32c::crc32c(&bytes[..44]) == u32_at(bytes, 44);
        whole.then(|| Self {
            version: u32_at(bytes, 8),
            index: u64_at(bytes, 12),
            term: u64_at(bytes, 20),
            cluster: ClusterId(bytes[28..44].try_into().expect("a slice of sixteen bytes")),
        })
    }
}

impl Footer {
    /// The part that the hash covers.
    pub(super) fn encode_hashed(&self) -> [u8; FOOTER_HASHED_BYTES] {
        let mut bytes = [0; FOOTER_HASHED_BYTES];
        let fields = [self.index, self.term, self.keys, self.blocks];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..32].copy_from_slice(&self.encode_hashed());
        bytes[32..64].copy_from_slice(&self.hash);
        let checksum = crc32c::crc32c(&bytes[..64]);
        bytes[64..68].copy_from_slice(&checksum.to_le_bytes());
        bytes[68..].copy_from_slice(&END_MAGIC);
        bytes
    }

    /// `None` if the bytes are no footer, or damaged.
    pub(super) fn parse(bytes: &[u8; FOOTER_BYTES]) -> Option<Self> {
        let whole = bytes[68..] == END_MAGIC && crc32c::crc32c(&bytes[..64]) == u32_at(bytes, 64);
        whole.then(|| Self {
            index: u64_at(bytes, 0),
            term: u64_at(bytes, 8),
            keys: u64_at(bytes, 16),
            blocks: u64_at(bytes, 24),
            hash: bytes[32..64].try_into().expect("a slice of thirty-two bytes"),
        })
    }
}

/// Replaces `frame` with a block: header and payload.
pub(super) fn encode_block(kind: Kind, payload: &[u8], frame: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("the writer has checked it against PAYLOAD_BYTES_MAX");
    frame.clear();
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&(kind as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(frame), payload);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.extend_from_slice(payload);
}

/// The length of the payload that follows a block's header, not checked.
pub(super) fn payload_bytes(header: &[u8]) -> usize {
    u32_at(header, 0) as usize
}

/// Checks a block against its checksum.
pub(super) fn parse_block(frame: &[u8]) -> Result<(Kind, &[u8]), BlockProblem> {
    let payload = &frame[BLOCK_HEADER_BYTES..];
    if crc32c::crc32c_append(crc32c::crc32c(&frame[..8]), payload) != u32_at(frame, 8) {
        return Err(BlockProblem::Checksum);
    }
    match u32_at(frame, 4) {
        1 => Ok((Kind::Terms, payload)),
        2 => Ok((Kind::Records, payload)),
        3 => Ok((Kind::Sessions, payload)),
        4 => Ok((Kind::Members, payload)),
        other => Err(BlockProblem::Kind(other)),
    }
}

/// The payloads of the blocks of terms.
pub(super) fn encode_terms(terms: &[(Index, Term)]) -> impl Iterator<Item = Vec<u8>> {
    terms.chunks(TERMS_PER_BLOCK).map(|chunk| {
        chunk.iter().flat_map(|(first, term)| [first.to_le_bytes(), term.to_le_bytes()]).flatten().collect()
    })
}

/// The payload of the block of members; none if there are none.
pub(super) fn encode_members(members: &[Member]) -> Option<Vec<u8>> {
    let bytes = members
        .iter()
        .flat_map(|member| std::iter::once(member.node.get()).chain(member.incarnation.0.to_le_bytes()));
    (!members.is_empty()).then(|| bytes.collect())
}

/// Appends one record to a block. A block ends with the record that reaches [`BLOCK_BYTES`].
///
/// # Panics
///
/// If key or value are beyond the protocol's limits, which the store never holds.
pub fn encode_record(key: &[u8], revision: Index, value: &[u8], block: &mut Vec<u8>) {
    assert!((1..=limits::KEY_BYTES_MAX).contains(&key.len()) && value.len() <= limits::VALUE_BYTES_MAX);
    block.extend_from_slice(&(key.len() as u16).to_le_bytes());
    block.extend_from_slice(&(value.len() as u32).to_le_bytes());
    block.extend_from_slice(&revision.to_le_bytes());
    block.extend_from_slice(key);
    block.extend_from_slice(value);
}

/// One key of the state.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The entry that last wrote it.
    pub revision: Index,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`, and what follows it.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let key_bytes = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let value_bytes = u32_at(header, 2) as usize;
        if !(1..=limits::KEY_BYTES_MAX).contains(&key_bytes) || value_bytes > limits::VALUE_BYTES_MAX {
            return None;
        }
        let (key, rest) = rest.split_at_checked(key_bytes)?;
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        Some((Self { key, revision: u64_at(header, 6), value }, rest))
    }
}

/// The records of a block; the first that is malformed ends it.
pub(super) fn records(mut payload: &[u8]) -> impl Iterator<Item = Result<Record<'_>, BlockProblem>> {
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let Some((record, rest)) = Record::parse(payload) else {
            payload = &[];
            return Some(Err(BlockProblem::Record));
        };
        payload = rest;
        Some(Ok(record))
    })
}

/// Appends one session to a block. A block ends with the session that reaches [`BLOCK_BYTES`].
pub fn encode_session(id: SessionId, session: &Session, block: &mut Vec<u8>) {
    block.extend_from_slice(&id.to_le_bytes());
    block.extend_from_slice(&session.last_used.to_le_bytes());
    block.extend_from_slice(&session.lowest.to_le_bytes());
    block.extend_from_slice(&(session.results().len() as u32).to_le_bytes());
    for Done { sequence, index, checksum, result } in session.results() {
        let (what, number, revision) = match *result {
            WriteResult::Applied { existed } => (0, existed, 0),
            WriteResult::ConditionFailed { mutation, revision: None } => (1, mutation, 0),
            WriteResult::ConditionFailed { mutation, revision: Some(revision) } => (2, mutation, revision),
        };
        block.extend_from_slice(&sequence.to_le_bytes());
        block.extend_from_slice(&index.to_le_bytes());
        block.extend_from_slice(&checksum.to_le_bytes());
        block.push(what);
        block.extend_from_slice(&u32::to_le_bytes(number));
        block.extend_from_slice(&Index::to_le_bytes(revision));
    }
}

/// The session at the start of `bytes`, and what follows it. Every rule about one session alone is checked here.
fn parse_session(bytes: &[u8]) -> Option<((SessionId, Session), &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<SESSION_HEADER_BYTES>()?;
    let (id, last_used, lowest) = (u64_at(header, 0), u64_at(header, 8), u64_at(header, 16));
    let count = u32_at(header, 24) as usize;
    if id == 0 || last_used < id || count as u64 > limits::SESSION_WINDOW {
        return None;
    }
    let (results, rest) = rest.split_at_checked(count * RESULT_BYTES)?;
    let mut done: Vec<Done> = Vec::with_capacity(count);
    for bytes in results.chunks_exact(RESULT_BYTES) {
        let result = parse_result(bytes)?;
        let rises = done.last().is_none_or(|before| before.sequence < result.sequence);
        let place = result.sequence.checked_sub(lowest)?;
        if !rises || place >= limits::SESSION_WINDOW || !(id + 1..=last_used).contains(&result.index) {
            return None;
        }
        done.push(result);
    }
    Some(((id, Session::new(last_used, lowest, done)), rest))
}

fn parse_result(bytes: &[u8]) -> Option<Done> {
    let (index, number, revision) = (u64_at(bytes, 8), u32_at(bytes, 21), u64_at(bytes, 25));
    let is_count = number as usize <= limits::BATCH_MUTATIONS_MAX;
    let is_place = (number as usize) < limits::BATCH_MUTATIONS_MAX;
    let result = match bytes[20] {
        0 if is_count && revision == 0 => WriteResult::Applied { existed: number },
        1 if is_place && revision == 0 => WriteResult::ConditionFailed { mutation: number, revision: None },
        2 if is_place && (1..index).contains(&revision) => {
            WriteResult::ConditionFailed { mutation: number, revision: Some(revision) }
        }
        _ => return None,
    };
    Some(Done { sequence: u64_at(bytes, 0), index, checksum: u32_at(bytes, 16), result })
}

/// The sessions of a block; the first that is malformed ends it.
pub(super) fn sessions(
    mut payload: &[u8],
) -> impl Iterator<Item = Result<(SessionId, Session), BlockProblem>> {
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let Some((session, rest)) = parse_session(payload) else {
            payload = &[];
            return Some(Err(BlockProblem::Session));
        };
        payload = rest;
        Some(Ok(session))
    })
}

/// What the blocks so far hold, and the rules for the next one.
pub(super) struct Contents {
    index: Index,
    term: Term,
    pub(super) terms: Vec<(Index, Term)>,
    pub(super) members: Vec<Member>,
    pub(super) sessions: u64,
    pub(super) keys: u64,
    pub(super) blocks: u64,
    last_session: SessionId,
    last_key: Vec<u8>,
    /// A block of sessions fell short of [`BLOCK_BYTES`]: no other may follow.
    sessions_ended: bool,
    /// The same of records.
    ended: bool,
}

impl Contents {
    pub(super) fn new(index: Index, term: Term) -> Self {
        Self {
            index,
            term,
            terms: Vec::new(),
            members: Vec::new(),
            sessions: 0,
            keys: 0,
            blocks: 0,
            last_session: 0,
            last_key: Vec::new(),
            sessions_ended: false,
            ended: false,
        }
    }

    /// Takes the next block.
    pub(super) fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<(), BlockProblem> {
        match kind {
            Kind::Terms => self.take_terms(payload)?,
            Kind::Members => self.take_members(payload)?,
            Kind::Sessions => self.take_sessions(payload)?,
            Kind::Records => self.take_records(payload)?,
        }
        self.blocks += 1;
        Ok(())
    }

    /// Whether the terms lead to the header's: before records, and at the end.
    pub(super) fn check_terms(&self) -> Result<(), BlockProblem> {
        let leads = self.terms.last().is_some_and(|(first, term)| *first <= self.index && *term == self.term);
        if leads { Ok(()) } else { Err(BlockProblem::Terms) }
    }

    fn take_terms(&mut self, payload: &[u8]) -> Result<(), BlockProblem> {
        let full = self.terms.len().is_multiple_of(TERMS_PER_BLOCK);
        let length = 1..=TERMS_PER_BLOCK * TERM_BYTES;
        if !length.contains(&payload.len()) || !payload.len().is_multiple_of(TERM_BYTES) {
            return Err(BlockProblem::Length(payload.len()));
        }
        for pair in payload.chunks_exact(TERM_BYTES) {
            let (first, term) = (u64_at(pair, 0), u64_at(pair, 8));
            let (first_before, term_before) = self.terms.last().copied().unwrap_or((0, 0));
            if first <= first_before || term <= term_before {
                return Err(BlockProblem::Terms);
            }
            self.terms.push((first, term));
        }
        let is_first = self.keys == 0 && self.sessions == 0 && self.members.is_empty();
        if full && is_first { Ok(()) } else { Err(BlockProblem::Terms) }
    }

    fn take_members(&mut self, payload: &[u8]) -> Result<(), BlockProblem> {
        self.check_terms()?;
        if payload.is_empty() || !payload.len().is_multiple_of(MEMBER_BYTES) {
            return Err(BlockProblem::Length(payload.len()));
        }
        if self.keys > 0 || self.sessions > 0 || !self.members.is_empty() {
            return Err(BlockProblem::Members);
        }
        for member in payload.chunks_exact(MEMBER_BYTES) {
            let node = NodeId::try_from(member[0]).map_err(|_| BlockProblem::Members)?;
            if self.members.last().is_some_and(|last| last.node >= node) {
                return Err(BlockProblem::Members);
            }
            self.members.push(Member { node, incarnation: Incarnation(u64_at(member, 1)) });
        }
        Ok(())
    }

    fn take_sessions(&mut self, payload: &[u8]) -> Result<(), BlockProblem> {
        self.check_terms()?;
        if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BlockProblem::Length(payload.len()));
        }
        if self.keys > 0 {
            return Err(BlockProblem::Sessions);
        }
        if self.sessions_ended {
            return Err(BlockProblem::Boundary);
        }
        let (mut last_start, mut end) = (0, 0);
        for session in sessions(payload) {
            let (id, session) = session?;
            if session.last_used > self.index {
                return Err(BlockProblem::Session);
            }
            if id <= self.last_session || self.sessions == limits::SESSIONS_MAX as u64 {
                return Err(BlockProblem::Sessions);
            }
            self.last_session = id;
            self.sessions += 1;
            last_start = end;
            end += SESSION_HEADER_BYTES + session.results().len() * RESULT_BYTES;
        }
        if last_start >= BLOCK_BYTES {
            return Err(BlockProblem::Boundary);
        }
        self.sessions_ended = payload.len() < BLOCK_BYTES;
        Ok(())
    }

    fn take_records(&mut self, payload: &[u8]) -> Result<(), BlockProblem> {
        if self.keys == 0 {
            self.check_terms()?;
        }
        if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BlockProblem::Length(payload.len()));
        }
        if self.ended {
            return Err(BlockProblem::Boundary);
        }
        let mut last_key = self.last_key.as_slice();
        let mut last_start = 0;
        let mut end = 0;
        for record in records(payload) {
            let record = record?;
            if !(1..=self.index).contains(&record.revision) {
                return Err(BlockProblem::Record);
            }
            // No key is empty, so the first is above the empty one that stands before it.
            if record.key <= last_key {
                return Err(BlockProblem::Order);
            }
            last_key = record.key;
            last_start = end;
            end += RECORD_HEADER_BYTES + record.key.len() + record.value.len();
            self.keys += 1;
        }
        if last_start >= BLOCK_BYTES {
            return Err(BlockProblem::Boundary);
        }
        self.last_key = last_key.to_vec();
        self.ended = payload.len() < BLOCK_BYTES;
        Ok(())
    }
}
