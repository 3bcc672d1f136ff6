//! The bytes of segment and batch headers: pure functions, drawn in the [module's header](super).

use crc32c::{crc32c, crc32c_append};
use quorate_protocol::Index;

/// The format that this code writes, and the newest that it reads.
pub(super) const VERSION: u16 = 3;

/// Bytes of a segment's header: a block of its own, so that no batch shares a sector with it.
pub(super) const SEGMENT_HEADER_BYTES: usize = 4096;

/// Bytes of a batch's header.
pub(super) const BATCH_HEADER_BYTES: usize = 64;

/// The unit that a disk writes, and loses, whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Batches begin at multiples of this: no sector has parts of two, so none that is lost takes both a batch and the
/// mark that says it was durable.
pub(super) const ALIGNMENT: u64 = SECTOR_BYTES;

/// What batches are padded with, at least one byte. Not zero, so that a batch whose end was not written
/// shows it, and several bits away from zero, so that a flipped bit does not look like that.
pub(super) const PADDING: u8 = 0xA5;

const SEGMENT_MAGIC: [u8; 8] = *b"QRTLOGSG";
const SEGMENT_CHECKED_BYTES: usize = 60;
const BATCH_MAGIC: [u8; 4] = *b"BtQ\xA5";

const _: () = assert!(ALIGNMENT.is_multiple_of(SECTOR_BYTES));
const _: () = assert!((SEGMENT_HEADER_BYTES as u64).is_multiple_of(SECTOR_BYTES));

/// What a segment says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    /// Bytes of the file, after which the next segment begins.
    pub(super) size: u64,
    /// Index of its first entry.
    pub(super) first: Index,
    /// Random: tells this segment's batches from all others.
    pub(super) salt: u64,
    /// Checksum of the batch before this segment's first; 0 if there was none.
    pub(super) chain: u32,
}

/// Bytes that are no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SegmentHeaderError {
    Damaged,
    Version(u16),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; SEGMENT_HEADER_BYTES];
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.size.to_le_bytes());
        block[24..32].copy_from_slice(&self.first.to_le_bytes());
        block[32..40].copy_from_slice(&self.salt.to_le_bytes());
        block[40..44].copy_from_slice(&self.chain.to_le_bytes());
        let checksum = crc32c(&block[..SEGMENT_CHECKED_BYTES]);
        block[SEGMENT_CHECKED_BYTES..SEGMENT_CHECKED_BYTES + 4].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the header at the start of `bytes`. Magic, version and checksum stay where they are in every
    /// version, so that a newer one is told from damage.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SegmentHeaderError> {
        let whole = bytes.len() >= SEGMENT_HEADER_BYTES && bytes[..8] == SEGMENT_MAGIC;
        if !whole || crc32c(&bytes[..SEGMENT_CHECKED_BYTES]) != word(bytes, SEGMENT_CHECKED_BYTES) {
            return Err(SegmentHeaderError::Damaged);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(SegmentHeaderError::Version(version));
        }
        Ok(Self {
            size: long(bytes, 16),
            first: long(bytes, 24),
            salt: long(bytes, 32),
            chain: word(bytes, 40),
        })
    }
}

/// What a batch does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BatchKind {
    /// Appends entries.
    Entries,
    /// Carries a mark, and nothing else.
    Mark,
    /// Takes back every entry above an index.
    Truncate,
}

/// A batch's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    pub(super) kind: BatchKind,
    /// Of its segment.
    pub(super) salt: u64,
    /// Checksum of the batch before.
    pub(super) chain: u32,
    /// Its place in its segment, from 0.
    pub(super) sequence: u32,
    /// Index of the first entry; of a mark or a truncation, the last index that stays.
    pub(super) index: Index,
    /// How many entries.
    pub(super) count: u32,
    /// The highest index known to be durable before this batch was written.
    pub(super) mark: Index,
    /// The highest commit index known when it was written.
    pub(super) commit: Index,
    pub(super) payload_bytes: u32,
    pub(super) payload_checksum: u32,
}

impl BatchHeader {
    /// Writes the header, and returns its checksum: what the next batch is chained to. It covers the
    /// payload through the payload's own checksum.
    pub(super) fn encode(&self, out: &mut [u8]) -> u32 {
        let out = &mut out[..BATCH_HEADER_BYTES];
        out[4..8].copy_from_slice(&self.payload_checksum.to_le_bytes());
        out[8..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..20].copy_from_slice(&self.chain.to_le_bytes());
        out[20..24].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[24..32].copy_from_slice(&self.index.to_le_bytes());
        out[32..36].copy_from_slice(&self.count.to_le_bytes());
        out[36..40].copy_from_slice(&self.sequence.to_le_bytes());
        out[40..48].copy_from_slice(&self.mark.to_le_bytes());
        out[48..56].copy_from_slice(&self.commit.to_le_bytes());
        let kind: u32 = match self.kind {
            BatchKind::Entries => 1,
            BatchKind::Mark => 2,
            BatchKind::Truncate => 3,
        };
        out[56..60].copy_from_slice(&kind.to_le_bytes());
        out[60..].copy_from_slice(&BATCH_MAGIC);
        let checksum = crc32c(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// Reads the header at the start of `bytes`, and its checksum; `None` if there is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let checksum = word(bytes, 0);
        if bytes[60..] != BATCH_MAGIC || crc32c(&bytes[4..]) != checksum {
            return None;
        }
        let kind = match word(bytes, 56) {
            1 => BatchKind::Entries,
            2 => BatchKind::Mark,
            3 => BatchKind::Truncate,
            _ => return None,
        };
        let header = Self {
            kind,
            salt: long(bytes, 8),
            chain: word(bytes, 16),
            sequence: word(bytes, 36),
            index: long(bytes, 24),
            count: word(bytes, 32),
            mark: long(bytes, 40),
            commit: long(bytes, 48),
            payload_bytes: word(bytes, 20),
            payload_checksum: word(bytes, 4),
        };
        Some((header, checksum))
    }

    /// Bytes of the whole batch in the file.
    pub(super) fn batch_bytes(&self) -> u64 {
        batch_bytes(self.payload_bytes as usize)
    }
}

/// Bytes of a batch with such a payload in the file: header, payload, at least one byte of padding.
pub(super) fn batch_bytes(payload_bytes: usize) -> u64 {
    (BATCH_HEADER_BYTES as u64 + payload_bytes as u64 + 1).next_multiple_of(ALIGNMENT)
}

/// A checksum continued over one more piece.
pub(super) fn checksum_append(checksum: u32, bytes: &[u8]) -> u32 {
    crc32c_append(checksum, bytes)
}

/// The length and the index that an entry's header claims; `None` if `bytes` ends inside the header.
pub(super) fn entry_claim(bytes: &[u8]) -> Option<(u64, Index)> {
    let header = bytes.get(..quorate_protocol::entry::HEADER_BYTES)?;
    Some((u64::from(word(header, 0)) + 8, long(header, 16)))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_with_any_bit_flipped_is_refused() {
        let header = SegmentHeader { size: 1 << 26, first: 7, salt: 9, chain: 11 };
        let mut block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for bit in 0..64 * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&block), Err(SegmentHeaderError::Damaged), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_batch_header_with_any_bit_flipped_is_none() {
        let header = BatchHeader {
            kind: BatchKind::Entries,
            salt: 1,
            chain: 2,
            sequence: 3,
            index: 4,
            count: 5,
            mark: 6,
            commit: 7,
            payload_bytes: 8,
            payload_checksum: 9,
        };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let checksum = header.encode(&mut bytes);
        assert_eq!(BatchHeader::decode(&bytes), Some((header, checksum)));
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn every_batch_ends_with_padding() {
        for payload in 0..2000 {
            let padding = batch_bytes(payload) - (BATCH_HEADER_BYTES + payload) as u64;
            assert!((1..=ALIGNMENT).contains(&padding));
        }
    }
}
