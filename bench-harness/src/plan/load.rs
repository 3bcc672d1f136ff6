//! The load of a case, as it is written in plans and reports.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{counted, duration_text, format_bytes, parse_bytes, show_bytes, text};

/// What is asked of the cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Clients, each a TCP connection of its own.
    pub clients: u32,
    /// Calls that each client keeps unanswered, at most.
    pub in_flight: u32,
    /// When calls are made.
    pub arrivals: Arrivals,
    /// The part of all calls that are reads, 0 to 1.
    pub reads: f64,
    /// Who answers them.
    pub read_from: ReadFrom,
    /// Bytes of each value.
    #[serde(with = "text")]
    pub value_bytes: ValueBytes,
    /// Different keys.
    pub keys: u64,
    /// How keys are drawn.
    pub distribution: Distribution,
    /// How long a call may take before its outcome is called unknown.
    #[serde(with = "duration_text")]
    pub deadline: Duration,
    /// How long is measured.
    #[serde(with = "duration_text")]
    pub duration: Duration,
    /// How long the load runs before it is measured.
    #[serde(with = "duration_text")]
    pub warmup: Duration,
}

/// When calls are made.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// A client calls again as soon as it is answered: a slow server is asked less. Latency is from the call.
    Closed,
    /// Calls come at a rate, whether or not earlier ones are answered. Latency is from when a call was due.
    Open {
        /// Calls per second of all clients together.
        per_second: f64,
        /// How they are spaced.
        spacing: Spacing,
    },
}

/// How the calls of an open loop are spaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// At random, as of many independent callers
    Poisson,
    /// Evenly
    Constant,
}

/// Who answers reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReadFrom {
    /// The leader, linearizably
    Leader,
    /// The followers, from what they have applied
    Followers,
}

/// How keys are drawn.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// Few often, most rarely: the k-th most frequent key in proportion to 1/k^exponent.
    Zipfian {
        /// 0.99 is what most benchmarks take.
        exponent: f64,
    },
    /// One after the other.
    Sequential,
}

/// Sizes of values: each between these, uniformly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValueBytes {
    /// Least.
    pub min: u64,
    /// Most.
    pub max: u64,
}

impl ValueBytes {
    /// One size for all.
    pub fn fixed(bytes: u64) -> Self {
        Self { min: bytes, max: bytes }
    }
}

/// `100B`, or `100B-1KiB`.
impl FromStr for ValueBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((min, max)) = text.split_once('-') else { return parse_bytes(text).map(Self::fixed) };
        let (min, max) = (parse_bytes(min)?, parse_bytes(max)?);
        if min > max {
            return Err(format!("\"{text}\" has its larger size first: write the smaller one first"));
        }
        Ok(Self { min, max })
    }
}

impl fmt::Display for ValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_bytes(self.min))?;
        if self.min != self.max {
            write!(f, "-{}", format_bytes(self.max))?;
        }
        Ok(())
    }
}

/// `uniform`, `sequential`, `zipfian` or `zipfian:1.2`.
impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice = || {
            format!(
                "\"{text}\" is no distribution: write uniform, sequential, zipfian or, with an exponent from 0.01 to 10, zipfian:1.2"
            )
        };
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "sequential" => Ok(Self::Sequential),
            None if text == "zipfian" => Ok(Self::Zipfian { exponent: 0.99 }),
            Some(("zipfian", exponent)) => {
                let exponent = exponent.parse().ok().filter(|exponent| (0.01..=10.0).contains(exponent));
                exponent.map(|exponent| Self::Zipfian { exponent }).ok_or_else(advice)
            }
            _ => Err(advice()),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Sequential => f.write_str("sequential"),
            Self::Zipfian { exponent } => write!(f, "zipfian:{exponent}"),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, in_flight, arrivals, reads, read_from, value_bytes, keys, .. } = self;
        match arrivals {
            Arrivals::Closed => {
                write!(f, "{} × {in_flight} in flight", counted((*clients).into(), "client"))?
            }
            Arrivals::Open { per_second, spacing } => {
                let spacing = match spacing {
                    Spacing::Poisson => "Poisson",
                    Spacing::Constant => "constant",
                };
                let clients = counted((*clients).into(), "client");
                write!(f, "{per_second} calls/s ({spacing}) by {clients} × {in_flight} in flight")?;
            }
        }
        if *reads > 0.0 {
            let from = match read_from {
                ReadFrom::Leader => "the leader",
                ReadFrom::Followers => "followers",
            };
            write!(f, ", {} % reads from {from}", reads * 100.0)?;
        }
        write!(f, ", {}", show_bytes(value_bytes.min))?;
        if value_bytes.min != value_bytes.max {
            write!(f, "–{}", show_bytes(value_bytes.max))?;
        }
        write!(f, " values, {}", counted(*keys, "key"))?;
        match self.distribution {
            Distribution::Uniform => Ok(()),
            other => write!(f, " ({other})"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// 64 clients in a closed loop for 10 s.
    pub(crate) fn load() -> Load {
        Load {
            clients: 64,
            in_flight: 1,
            arrivals: Arrivals::Closed,
            reads: 0.0,
            read_from: ReadFrom::Leader,
            value_bytes: ValueBytes::fixed(100),
            keys: 100_000,
            distribution: Distribution::Uniform,
            deadline: Duration::from_secs(5),
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(2),
        }
    }

    #[test]
    fn sizes_are_one_or_a_range() {
        assert_eq!("100B".parse(), Ok(ValueBytes::fixed(100)));
        assert_eq!("100-1KiB".parse(), Ok(ValueBytes { min: 100, max: 1024 }));
        for text in ["2KiB-1KiB", "x", "1-2-3"] {
            assert!(text.parse::<ValueBytes>().is_err(), "{text}");
        }
        for shown in ["100B", "100B-1KiB", "12B-1MiB"] {
            assert_eq!(shown.parse::<ValueBytes>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_distribution_is_a_name_and_perhaps_an_exponent() {
        for shown in ["uniform", "sequential", "zipfian:0.99", "zipfian:1.2"] {
            assert_eq!(shown.parse::<Distribution>().unwrap().to_string(), shown);
        }
        for text in ["normal", "zipfian:", "zipfian:-1", "uniform:2", "zipfian:nan"] {
            assert!(text.parse::<Distribution>().unwrap_err().contains("write uniform"), "{text}");
        }
    }

    #[test]
    fn a_load_says_what_it_is() {
        let mut load = load();
        assert_eq!(load.to_string(), "64 clients × 1 in flight, 100 B values, 100000 keys");
        load.arrivals = Arrivals::Open { per_second: 2500.0, spacing: Spacing::Poisson };
        (load.reads, load.read_from) = (0.5, ReadFrom::Followers);
        load.value_bytes.max = 2048;
        load.distribution = Distribution::Zipfian { exponent: 0.99 };
        assert_eq!(
            load.to_string(),
            "2500 calls/s (Poisson) by 64 clients × 1 in flight, 50 % reads from followers, \
             100 B–2 KiB values, 100000 keys (zipfian:0.99)"
        );
    }
}
