//! What is where: the segments in memory, as the writer extends them and readers look them up.
//!
//! A segment's entries lie in [extents](Extent): runs of batches that no truncation has cut. Within an
//! extent indexes rise by one and the file is read forward; what a truncation took back lies between
//! extents and is never looked at again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_protocol::Index;

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::disk::DiskFile;

/// Bytes between the points at which an extent can be entered.
pub(super) const POINT_SPACING_BYTES: u64 = 64 << 10;

/// A place in an extent from which its entries can be read forward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Of the entry that begins here.
    pub(super) index: Index,
    /// Of that entry in the file.
    pub(super) offset: u64,
    /// Where the payload of its batch ends.
    pub(super) payload_end: u64,
}

/// A run of batches that no truncation has cut.
#[derive(Debug)]
pub(super) struct Extent {
    /// Never empty; the first is the extent's first entry.
    pub(super) points: Vec<Point>,
    /// Of its last entry. Entries that lie behind it were taken back.
    pub(super) last: Index,
    /// Where its last batch ends.
    pub(super) end: u64,
}

/// Where a segment's batches end, and what the next one is chained to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// Bytes after which the segment is full.
    pub(super) size: u64,
    /// Where the next batch goes.
    pub(super) offset: u64,
    /// The next batch's number.
    pub(super) sequence: u32,
    /// Checksum of the batch before.
    pub(super) chain: u32,
}

impl Tail {
    fn new(header: SegmentHeader) -> Self {
        let SegmentHeader { size, chain, .. } = header;
        Self { size, offset: SEGMENT_HEADER_BYTES as u64, sequence: 0, chain }
    }
}

/// A segment file and where its entries are.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) first: Index,
    pub(super) salt: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    pub(super) extents: Vec<Extent>,
    /// Of the newest segment as it was when the segment was opened: the writer has the current one.
    pub(super) tail: Tail,
    /// Whether the next batch continues the last extent.
    continues: bool,
}

impl Segment {
    /// A segment without entries yet; `bytes` is the file's length.
    pub(super) fn new(path: PathBuf, file: Arc<dyn DiskFile>, header: SegmentHeader, bytes: u64) -> Self {
        let SegmentHeader { first, salt, .. } = header;
        Self {
            path,
            file,
            first,
            salt,
            bytes,
            extents: Vec::new(),
            tail: Tail::new(header),
            continues: false,
        }
    }

    /// Adds a batch of entries up to `last` that ends at `end`. `points` has every point of it, the first
    /// entry's included; those too close to the one before are left out.
    pub(super) fn add(&mut self, points: &[Point], last: Index, end: u64) {
        if !self.continues {
            self.extents.push(Extent { points: Vec::new(), last, end });
            self.continues = true;
        }
        let extent = self.extents.last_mut().expect("an extent that continues is there");
        extent.last = last;
        extent.end = end;
        self.bytes = self.bytes.max(end);
        for point in points {
            if extent.points.last().is_none_or(|p| point.offset - p.offset >= POINT_SPACING_BYTES) {
                extent.points.push(*point);
            }
        }
    }

    /// Takes back every entry above `after`. The batch that says so ends at `end`.
    pub(super) fn truncate(&mut self, after: Index, end: u64) {
        self.extents.retain(|extent| extent.points[0].index <= after);
        if let Some(extent) = self.extents.last_mut()
            && extent.last > after
        {
            extent.last = after;
            extent.points.retain(|point| point.index <= after);
        }
        self.bytes = self.bytes.max(end);
        self.continues = false;
    }

    /// The extent that holds an entry, and the last point at or before it.
    pub(super) fn find(&self, index: Index) -> Option<(&Extent, Point)> {
        let extent = self.extents.iter().rev().find(|e| e.points[0].index <= index && index <= e.last)?;
        let after = extent.points.partition_point(|point| point.index <= index);
        Some((extent, extent.points[after - 1]))
    }
}

/// The whole log, oldest segment first. Never empty once the log is open.
pub(super) struct Segments {
    pub(super) list: VecDeque<Segment>,
    /// Of the last entry; one before the first segment's first if there is none.
    pub(super) last: Index,
}

impl Segments {
    pub(super) fn first(&self) -> Index {
        self.list.front().map_or(self.last + 1, |segment| segment.first)
    }

    /// How many segments hold only entries below `index` and are not the newest.
    pub(super) fn below(&self, index: Index) -> usize {
        self.list.iter().skip(1).take_while(|next| next.first <= index).count()
    }
}

/// The log's index, shared by its writer and its readers.
pub(super) struct Shared(Mutex<Segments>);

impl Shared {
    pub(super) fn new(segments: Segments) -> Self {
        Self(Mutex::new(segments))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Segments> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}
