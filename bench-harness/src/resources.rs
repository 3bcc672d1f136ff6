//! Stand-in until resources are merged.
use serde::{Deserialize, Serialize};

/// What a process used.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds.
    pub cpu_s: f64,
    /// Memory at the end.
    pub rss_bytes: u64,
    /// Bytes to the disk.
    pub written_bytes: u64,
}

/// What the machine did.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MachineUsage {
    /// Part of all cores that was busy, 0 to 1.
    pub busy: f64,
}
