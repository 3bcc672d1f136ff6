//! A range of keys that outlives the request that it came with.

use quorate_protocol::limits;
use quorate_protocol::request::{InvalidRequest, Range, RangeEnd};

/// A range of keys.
#[derive(Debug)]
pub(super) struct OwnedRange {
    start: Vec<u8>,
    end: End,
}

#[derive(Debug)]
enum End {
    Open,
    Before(Vec<u8>),
    Prefix(Vec<u8>),
}

impl From<&Range<'_>> for OwnedRange {
    fn from(range: &Range<'_>) -> Self {
        Self {
            start: range.start.to_vec(),
            end: match range.end {
                RangeEnd::Open => End::Open,
                RangeEnd::Before(end) => End::Before(end.to_vec()),
                RangeEnd::Prefix(prefix) => End::Prefix(prefix.to_vec()),
            },
        }
    }
}

impl OwnedRange {
    /// As it came.
    pub(super) fn borrowed(&self) -> Range<'_> {
        Range {
            start: &self.start,
            end: match &self.end {
                End::Open => RangeEnd::Open,
                End::Before(end) => RangeEnd::Before(end),
                End::Prefix(prefix) => RangeEnd::Prefix(prefix),
            },
        }
    }

    /// Whether a key is inside.
    pub(super) fn includes(&self, key: &[u8]) -> bool {
        key >= &*self.start && self.borrowed().end.includes(key)
    }
}

/// Checks the ends of a range that is to be kept against the limits.
pub(super) fn check(range: &Range<'_>) -> Result<(), InvalidRequest> {
    let end = match range.end {
        RangeEnd::Open => &[][..],
        RangeEnd::Before(end) | RangeEnd::Prefix(end) => end,
    };
    match range.start.len().max(end.len()) {
        // What follows directly on the longest key has one byte more.
        length if length > limits::KEY_BYTES_MAX + 1 => Err(InvalidRequest::KeyTooLong(length)),
        _ => Ok(()),
    }
}
