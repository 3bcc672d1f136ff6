//! Stand-in until the floor is merged.
use serde::{Deserialize, Serialize};

/// The least latency.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Floor {
    /// In microseconds.
    pub latency_us: u64,
    /// What it is made of.
    pub parts: Vec<(String, u64)>,
}
