//! What this node's own log thread did, batch by batch.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::histograms::{self, Serialiser, micros};

/// Histograms of the batches written since the node started, one value for each batch.
#[derive(Debug)]
pub(super) struct Batches {
    sync_us: Histogram<u64>,
    entries: Histogram<u64>,
    bytes: Histogram<u64>,
}

/// The histograms, serialised; all empty if nobody asked for them.
#[derive(Default)]
pub(super) struct BatchesSerialised {
    pub(super) sync_us: Vec<u8>,
    pub(super) entries: Vec<u8>,
    pub(super) bytes: Vec<u8>,
}

impl Batches {
    pub(super) fn new() -> Self {
        Self {
            sync_us: histograms::of_micros(),
            entries: histograms::of_counts(),
            bytes: histograms::of_counts(),
        }
    }

    /// A batch of so many entries, of so many bytes, was written and synced in this time.
    pub(super) fn written(&mut self, sync: Duration, entries: u64, bytes: u64) {
        self.sync_us.saturating_record(micros(sync));
        self.entries.saturating_record(entries);
        self.bytes.saturating_record(bytes);
    }

    pub(super) fn serialised(&self, serialiser: &mut Serialiser) -> BatchesSerialised {
        BatchesSerialised {
            sync_us: serialiser.bytes(&self.sync_us),
            entries: serialiser.bytes(&self.entries),
            bytes: serialiser.bytes(&self.bytes),
        }
    }
}
