//! What to load with: plain data, checked once before anything is sent.

use std::ops::RangeInclusive;
use std::time::Duration;

use quorate_protocol::limits;
use thiserror::Error;

use super::content::VALUE_BYTES_MIN;
use super::keys::KeyPrefix;
use super::target::CallError;

/// Most connections of one load.
pub const CLIENTS_MAX: u32 = 10_000;

/// Most calls of one load that are open at once, over all its connections.
pub const OPEN_CALLS_MAX: u32 = 1 << 20;

/// Most keys of one load: the record takes 16 bytes for each.
pub const KEYS_MAX: u64 = 1 << 30;

/// Most arrivals per second of an open loop.
pub const PER_SECOND_MAX: f64 = 10e6;

/// Fewest arrivals per second of an open loop: one in a thousand seconds.
pub const PER_SECOND_MIN: f64 = 1e-3;

/// Steepest Zipf distribution: half of all calls already go to one key at 2.
pub const EXPONENT_MAX: f64 = 10.0;

/// Longest warm-up, and longest measured time.
pub const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What to load with.
#[derive(Clone, PartialEq, Debug)]
pub struct Workload {
    /// Connections, from 1 to [`CLIENTS_MAX`].
    pub clients: u32,
    /// Calls that each connection may have open at once, at least 1; with all connections together at most
    /// [`OPEN_CALLS_MAX`].
    pub in_flight: u32,
    /// When calls are made.
    pub arrivals: Arrivals,
    /// The share of all calls that read, from 0 to 1; the others write.
    pub read_share: f64,
    /// Different keys, from 1 to [`KEYS_MAX`].
    pub keys: u64,
    /// Which of them is called how often.
    pub distribution: Distribution,
    /// What all keys begin with.
    pub key_prefix: KeyPrefix,
    /// Bytes of a value, drawn uniformly; at least [`VALUE_BYTES_MIN`], at most what the protocol allows.
    pub value_bytes: RangeInclusive<usize>,
    /// Decides everything that is drawn: calls, keys, values, and the times of Poisson arrivals.
    pub seed: u64,
    /// Load before anything is measured, at most [`DURATION_MAX`].
    pub warmup: Duration,
    /// What is measured, at most [`DURATION_MAX`].
    pub duration: Duration,
}

/// When calls are made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arrivals {
    /// Each task calls again as soon as it is answered. A slow store is then called less: latencies are those
    /// of this many callers, not of a given rate.
    Closed,
    /// Calls come at times of their own, however long the answers take.
    Open {
        /// Arrivals per second, all clients together, from [`PER_SECOND_MIN`] to [`PER_SECOND_MAX`].
        per_second: f64,
        /// How they are spaced.
        spacing: Spacing,
    },
}

/// How the arrivals of an open loop are spaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spacing {
    /// Evenly, the first at the start.
    Constant,
    /// As of many callers that know nothing of each other: the gaps are exponentially distributed, the one
    /// before the first arrival too.
    Poisson,
}

/// Which keys are called how often.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The key of rank `r` with a frequency that is proportional to `r ^ -exponent`. Ranks are scattered over
    /// the key space, alike for every seed: keys of neighbouring ranks are no neighbours.
    Zipfian {
        /// From 0, which is uniform, to [`EXPONENT_MAX`]. YCSB has made 0.99 customary.
        exponent: f64,
    },
    /// One after the other, and again from the first. Each client takes every `clients`-th, in its own time:
    /// every key comes exactly once per round as long as the clients make equally many calls, so with one
    /// client always.
    Sequential,
}

impl Default for Workload {
    /// A closed loop of one client that writes 128 bytes to 100,000 keys for 10 s, after one of warm-up.
    fn default() -> Self {
        Self {
            clients: 1,
            in_flight: 1,
            arrivals: Arrivals::Closed,
            read_share: 0.0,
            keys: 100_000,
            distribution: Distribution::Uniform,
            key_prefix: KeyPrefix::default(),
            value_bytes: 128..=128,
            seed: 1,
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(10),
        }
    }
}

/// Why a load cannot be.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum WorkloadError {
    /// A number is outside its limits.
    #[error("{name} is {value}, it must be from {min} to {max}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it was.
        value: f64,
        /// Least allowed.
        min: f64,
        /// Most allowed.
        max: f64,
    },
    /// The record that is to be continued is of keys with another prefix.
    #[error("the record is of keys that begin with {record}, the workload's begin with {workload}")]
    OtherKeys {
        /// The record's.
        record: KeyPrefix,
        /// The workload's.
        workload: KeyPrefix,
    },
    /// A connection could not be opened.
    #[error("connection {client} cannot be opened: {error}")]
    Connect {
        /// Its number.
        client: u32,
        /// Why.
        error: CallError,
    },
}

impl Workload {
    /// Whether a load with this can be run.
    pub fn check(&self) -> Result<(), WorkloadError> {
        range("clients", self.clients.into(), 1.0, CLIENTS_MAX.into())?;
        range("in flight", self.in_flight.into(), 1.0, OPEN_CALLS_MAX.into())?;
        let open_calls = f64::from(self.clients) * f64::from(self.in_flight);
        range("clients times in flight", open_calls, 1.0, OPEN_CALLS_MAX.into())?;
        if let Arrivals::Open { per_second, .. } = self.arrivals {
            range("arrivals per second", per_second, PER_SECOND_MIN, PER_SECOND_MAX)?;
        }
        range("read share", self.read_share, 0.0, 1.0)?;
        range("keys", self.keys as f64, 1.0, KEYS_MAX as f64)?;
        if let Distribution::Zipfian { exponent } = self.distribution {
            range("exponent", exponent, 0.0, EXPONENT_MAX)?;
        }
        let (least, most) = (*self.value_bytes.start() as f64, *self.value_bytes.end() as f64);
        range("value bytes", most, VALUE_BYTES_MIN as f64, limits::VALUE_BYTES_MAX as f64)?;
        range("least value bytes", least, VALUE_BYTES_MIN as f64, most)?;
        range("warm-up in seconds", self.warmup.as_secs_f64(), 0.0, DURATION_MAX.as_secs_f64())?;
        range("duration in seconds", self.duration.as_secs_f64(), 0.0, DURATION_MAX.as_secs_f64())
    }
}

/// No number is in no range.
fn range(name: &'static str, value: f64, min: f64, max: f64) -> Result<(), WorkloadError> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(WorkloadError::Range { name, value, min, max }),
    }
}
