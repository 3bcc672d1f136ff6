//! Reads entries back, from any thread, while the writer appends.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::Index;
use quorate_protocol::entry::{Entry, EntryError};
use quorate_protocol::limits::ENTRY_BYTES_MAX;
use thiserror::Error;

use super::format::{ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, BatchKind};
use super::segment::{POINT_SPACING_BYTES, Point, Shared};
use crate::disk::DiskFile;

/// Reads entries back, from any thread, while the writer appends.
///
/// It sees a batch once [`append`](super::Log::append) has returned, and nothing of what was truncated.
#[derive(Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

/// Why no entry is returned.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The entry was dropped: a checkpoint holds its effect.
    #[error("the log begins at entry {first}")]
    Gone {
        /// The first entry there is.
        first: Index,
    },
    /// The log does not reach that far, or no longer does.
    #[error("the log ends at entry {last}")]
    Beyond {
        /// The last entry there is.
        last: Index,
    },
    /// What the disk holds is not what was written. Another replica may still have it.
    #[error("{file} is damaged at offset {offset}: {what}", file = file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Byte in it.
        offset: u64,
        /// What was expected there.
        what: String,
    },
    /// The disk refused.
    #[error("cannot read {file}: {source}", file = file.display())]
    Io {
        /// The segment.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Where a read begins and how far it may go: all that is taken from under the lock.
struct Place {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    salt: u64,
    point: Point,
    last: Index,
    end: u64,
}

impl LogReader {
    /// Whole entries from `from` on, one after the other, each checked: at least one, and further ones while
    /// they take no more than `bytes_max` in all. It may return fewer than there are; ask again for more.
    pub fn read(&self, from: Index, bytes_max: usize) -> Result<Bytes, ReadError> {
        let place = self.find(from)?;
        let mut walk = Walk { place: &place, index: place.point.index, entries: Vec::new(), bytes_max, from };
        // Most reads are served from one look at the file; one entry may need a second.
        let window = bytes_max.saturating_add(POINT_SPACING_BYTES as usize + BATCH_HEADER_BYTES);
        let mut window = window.min(WINDOW_BYTES_MAX) as u64;
        let mut offset = place.point.offset;
        let mut payload_end = place.point.payload_end;
        loop {
            let mut raw = vec![0; window.min(place.end - offset) as usize];
            place
                .file
                .read_exact_at(&mut raw, offset)
                .map_err(|source| ReadError::Io { file: place.path.clone(), source })?;
            let more = walk.entries(&raw, &mut offset, &mut payload_end)?;
            if !more || !walk.entries.is_empty() {
                return Ok(walk.entries.into());
            }
            window = window.max((ENTRY_BYTES_MAX + BATCH_HEADER_BYTES) as u64);
        }
    }

    /// Index of the first entry, or of the one that comes next if there is none.
    pub fn first(&self) -> Index {
        self.shared.lock().first()
    }

    /// Index of the last entry; one before [`first`](Self::first) if there is none.
    pub fn last(&self) -> Index {
        self.shared.lock().last
    }

    /// Bytes of all segment files.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().list.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of the segments that could be dropped if nothing below `index` were needed.
    pub fn bytes_below(&self, index: Index) -> u64 {
        let segments = self.shared.lock();
        segments.list.iter().take(segments.below(index)).map(|segment| segment.bytes).sum()
    }

    /// Where the log has to begin so that no more than `bytes_max` lie in segments of which all entries are below
    /// `index`: the first entry of a segment.
    pub fn first_within(&self, index: Index, bytes_max: u64) -> Index {
        let segments = self.shared.lock();
        let below = segments.below(index);
        let mut bytes = 0;
        let fits = segments.list.iter().take(below).rev().take_while(|segment| {
            bytes += segment.bytes;
            bytes <= bytes_max
        });
        let kept = fits.count();
        segments.list.get(below - kept).map_or(index, |segment| segment.first)
    }

    fn find(&self, index: Index) -> Result<Place, ReadError> {
        let segments = self.shared.lock();
        let (first, last) = (segments.first(), segments.last);
        if index < first {
            return Err(ReadError::Gone { first });
        }
        let holder = segments.list.partition_point(|segment| segment.first <= index);
        let segment = &segments.list[holder - 1];
        let Some((extent, point)) = segment.find(index).filter(|_| index <= last) else {
            return Err(ReadError::Beyond { last });
        };
        Ok(Place {
            path: segment.path.clone(),
            file: Arc::clone(&segment.file),
            salt: segment.salt,
            point,
            last: extent.last,
            end: extent.end,
        })
    }
}

/// Bytes read from a file at once.
const WINDOW_BYTES_MAX: usize = 8 << 20;

/// A walk forward over the batches of one extent.
struct Walk<'a> {
    place: &'a Place,
    /// Of the entry that comes next.
    index: Index,
    entries: Vec<u8>,
    from: Index,
    bytes_max: usize,
}

impl Walk<'_> {
    /// Goes on through `raw`, which begins at `offset`, and says whether there is more to take behind it.
    fn entries(&mut self, raw: &[u8], offset: &mut u64, payload_end: &mut u64) -> Result<bool, ReadError> {
        let start = *offset;
        loop {
            let rest = &raw[(*offset - start) as usize..];
            if self.index > self.place.last {
                return Ok(false);
            }
            if *offset == *payload_end {
                // The payload ends inside the last unit of its batch, so the next header follows that.
                let next = (*payload_end + 1).next_multiple_of(ALIGNMENT);
                let Some(bytes) = raw.get((next - start) as usize..) else { return Ok(true) };
                if bytes.len() < BATCH_HEADER_BYTES {
                    return if next + BATCH_HEADER_BYTES as u64 > self.place.end {
                        Err(self.damaged(next, "a batch is missing".to_owned()))
                    } else {
                        Ok(true)
                    };
                }
                let header = self.header(bytes, next)?;
                *offset = next + BATCH_HEADER_BYTES as u64;
                *payload_end = *offset + u64::from(header.payload_bytes);
                continue;
            }
            let in_batch = rest.len().min((*payload_end - *offset) as usize);
            let entry = match Entry::parse(&rest[..in_batch]) {
                Ok(entry) => entry,
                Err(EntryError::Incomplete)
                    if in_batch == rest.len() && self.ends_before_extent(raw, start) =>
                {
                    return Ok(true);
                }
                Err(error) => {
                    return Err(self.damaged(*offset, format!("entry {}: {error}", self.index)));
                }
            };
            if entry.index != self.index {
                let what = format!("entry {} is where {} should be", entry.index, self.index);
                return Err(self.damaged(*offset, what));
            }
            if self.index >= self.from {
                if !self.entries.is_empty() && self.entries.len() + entry.bytes.len() > self.bytes_max {
                    return Ok(false);
                }
                self.entries.extend_from_slice(entry.bytes);
            }
            self.index += 1;
            *offset += entry.bytes.len() as u64;
        }
    }

    fn ends_before_extent(&self, raw: &[u8], start: u64) -> bool {
        start + (raw.len() as u64) < self.place.end
    }

    fn header(&self, bytes: &[u8], offset: u64) -> Result<BatchHeader, ReadError> {
        match BatchHeader::decode(bytes) {
            Some((header, _))
                if header.salt == self.place.salt
                    && (header.kind == BatchKind::Mark
                        || header.kind == BatchKind::Entries && header.index == self.index) =>
            {
                Ok(header)
            }
            _ => Err(self.damaged(offset, format!("no batch with entry {}", self.index))),
        }
    }

    fn damaged(&self, offset: u64, what: String) -> ReadError {
        ReadError::Damaged { file: self.place.path.clone(), offset, what }
    }
}
