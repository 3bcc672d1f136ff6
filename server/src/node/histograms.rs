//! Histograms as a status carries them.
//!
//! Two decimal digits are kept: a harness asks for all of them every second, and whoever reads them looks at
//! quantiles. A histogram is read as the difference of two states, so none is ever reset.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};

/// Decimal digits that are kept of a value.
const DIGITS: u8 = 2;

/// Longer times count as this one: an hour.
const MICROS_MAX: u64 = 3_600_000_000;

/// More entries, or bytes, count as this many.
const COUNT_MAX: u64 = 1 << 40;

/// A histogram of microseconds.
pub(super) fn of_micros() -> Histogram<u64> {
    up_to(MICROS_MAX)
}

/// A histogram of entries or bytes.
pub(super) fn of_counts() -> Histogram<u64> {
    up_to(COUNT_MAX)
}

fn up_to(max: u64) -> Histogram<u64> {
    Histogram::new_with_bounds(1, max, DIGITS).expect("the bounds are in order")
}

/// Whole microseconds, as histograms hold them.
pub(super) fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

/// Serialises the histograms of one status, with one buffer for all.
pub(super) struct Serialiser(V2Serializer);

impl Serialiser {
    pub(super) fn new() -> Self {
        Self(V2Serializer::new())
    }

    pub(super) fn bytes(&mut self, histogram: &Histogram<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.serialize(histogram, &mut bytes).expect("a Vec takes every byte");
        bytes
    }
}
