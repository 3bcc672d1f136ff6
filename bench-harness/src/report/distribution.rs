//! A distribution in a report: the figures that people read, and the whole histogram for whoever wants more.

use std::io::Cursor;

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// How the numbers of something are spread. Without any, every figure is 0.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// How many numbers there were.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Least.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// 99.99th percentile.
    pub p99_99: f64,
    /// Greatest.
    pub max: f64,
    /// The HDR histogram: V2 serialisation, compressed, in base64, as all HDR tools read it. Its numbers are the
    /// ones above times `hdr_scale`.
    pub hdr: String,
    /// 1,000 if the histogram counts nanoseconds and the figures are microseconds, else 1.
    pub hdr_scale: u64,
}

impl Distribution {
    /// Of a histogram of nanoseconds, in microseconds.
    pub fn of_ns(histogram: &Histogram<u64>) -> Self {
        Self::scaled(histogram, 1_000)
    }

    /// Of a histogram, in its own unit.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self::scaled(histogram, 1)
    }

    fn scaled(histogram: &Histogram<u64>, scale: u64) -> Self {
        let shown = |number: f64| tenths(number / scale as f64);
        let at = |quantile| shown(histogram.value_at_quantile(quantile) as f64);
        if histogram.is_empty() {
            return Self { hdr: serialised(histogram), hdr_scale: scale, ..Self::default() };
        }
        Self {
            count: histogram.len(),
            mean: shown(histogram.mean()),
            min: shown(histogram.min() as f64),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: shown(histogram.max() as f64),
            hdr: serialised(histogram),
            hdr_scale: scale,
        }
    }

    /// The whole histogram; its numbers are `hdr_scale` times this distribution's.
    pub fn histogram(&self) -> anyhow::Result<Histogram<u64>> {
        let bytes = BASE64_STANDARD.decode(&self.hdr).context("a histogram is not base64")?;
        Deserializer::new()
            .deserialize(&mut Cursor::new(bytes))
            .map_err(|error| anyhow!("not an HDR histogram: {error:?}"))
    }

    /// The number below which a part of all lies, 0 to 1; from the histogram.
    pub fn at_quantile(&self, quantile: f64) -> anyhow::Result<f64> {
        Ok(tenths(self.histogram()?.value_at_quantile(quantile) as f64 / self.hdr_scale as f64))
    }

    /// Both together, as if their numbers had been counted in one.
    pub fn merged(&self, other: &Self) -> anyhow::Result<Self> {
        if self.count == 0 || other.count == 0 {
            return Ok(if self.count == 0 { other.clone() } else { self.clone() });
        }
        anyhow::ensure!(self.hdr_scale == other.hdr_scale, "two histograms have different units");
        let mut histogram = self.histogram()?;
        histogram.auto(true); // The other may hold greater numbers.
        histogram.add(other.histogram()?).map_err(|error| anyhow!("histograms cannot be added: {error}"))?;
        Ok(Self::scaled(&histogram, self.hdr_scale))
    }
}

fn serialised(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("a Vec takes every byte");
    BASE64_STANDARD.encode(bytes)
}

/// Rounds to a tenth, and makes 0 of what is no number.
pub fn tenths(number: f64) -> f64 {
    if number.is_finite() { (number * 10.0).round() / 10.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(micros: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        micros.into_iter().for_each(|us| histogram.record(us * 1_000).unwrap());
        histogram
    }

    #[test]
    fn percentiles_are_of_all_recorded_numbers() {
        let shown = Distribution::of_ns(&histogram(1..=1000));
        for (shown, expected) in [
            (shown.min, 1.0),
            (shown.p50, 500.0),
            (shown.p90, 900.0),
            (shown.p99, 990.0),
            (shown.p99_9, 999.0),
            (shown.max, 1000.0),
            (shown.mean, 500.5),
        ] {
            assert!((shown - expected).abs() <= 1.0, "{shown} is not {expected}");
        }
        assert_eq!(shown.count, 1000);
    }

    #[test]
    fn nothing_has_numbers_all_the_same() {
        let nothing = Distribution::of_ns(&histogram([]));
        assert_eq!((nothing.count, nothing.mean, nothing.min, nothing.max), (0, 0.0, 0.0, 0.0));
        assert_eq!([f64::NAN, f64::INFINITY, 1.26].map(tenths), [0.0, 0.0, 1.3]);
    }

    #[test]
    fn the_whole_histogram_comes_back() {
        let distribution = Distribution::of_ns(&histogram(1..=1000));
        let json = serde_json::to_string(&distribution).unwrap();
        let read: Distribution = serde_json::from_str(&json).unwrap();
        assert_eq!(read, distribution);
        assert_eq!(read.histogram().unwrap(), histogram(1..=1000));
        assert!((read.at_quantile(0.25).unwrap() - 250.0).abs() < 1.0);
    }

    #[test]
    fn merged_is_as_counted_together() {
        let (low, high) =
            (Distribution::of_ns(&histogram(1..=500)), Distribution::of_ns(&histogram(501..=1000)));
        let (merged, together) = (low.merged(&high).unwrap(), Distribution::of_ns(&histogram(1..=1000)));
        // The bytes of equal histograms differ with how far each has grown.
        assert_eq!(merged.histogram().unwrap(), together.histogram().unwrap());
        assert_eq!(Distribution { hdr: together.hdr.clone(), ..merged }, together);
        let nothing = Distribution::of_ns(&histogram([]));
        assert_eq!(nothing.merged(&low).unwrap(), low);
        assert_eq!(low.merged(&nothing).unwrap(), low);
    }
}
