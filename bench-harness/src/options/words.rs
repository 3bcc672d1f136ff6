//! Values that the command line has words of its own for: lists, percentages, links of a node, goals.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::plan::NodeLink;
use crate::report::Distribution;
use crate::units::{format_duration, parse_duration};

/// Values separated by commas, at least one, none twice.
#[derive(Clone, PartialEq, Debug)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr<Err: fmt::Display> + PartialEq> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, str::parse)
    }
}

impl<T: PartialEq> List<T> {
    /// Reads each value with `parse`.
    pub(super) fn parse<E: fmt::Display>(
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Self, String> {
        let mut values = Vec::new();
        for word in text.split(',').map(str::trim) {
            let value = parse(word).map_err(|error| match word {
                "" => format!("\"{text}\" has an empty place: write values separated by commas"),
                _ => format!("{error}"),
            })?;
            if values.contains(&value) {
                return Err(format!("{word} is there twice: name each value once"));
            }
            values.push(value);
        }
        Ok(Self(values))
    }
}

/// Which quorums are measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// These, in this order.
    List(Vec<u8>),
    /// From 1 to all replicas.
    All,
}

impl FromStr for Quorum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let numbers = text.split(',').map(|number| number.trim().parse::<u8>());
        if numbers.clone().any(|number| number.is_err()) {
            return Err(format!("\"{text}\" is no quorum: write a number, a list like 1,3, or all"));
        }
        Ok(Self::List(text.parse::<List<u8>>()?.0))
    }
}

/// A part of a whole, as `50%` or `0.5`.
pub(super) fn parse_percent(text: &str) -> Result<f64, String> {
    let advice = || format!("\"{text}\" is no percentage: write for example 50%");
    let part = match text.strip_suffix('%') {
        Some(number) => number.trim().parse::<f64>().map_err(|_| advice())? / 100.0,
        None => text.parse().map_err(|_| advice())?,
    };
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err(advice()) }
}

/// `NODE=LINK`.
pub(super) fn parse_node_link(text: &str) -> Result<NodeLink, String> {
    let advice = || format!("\"{text}\" is no link of a node: write for example 2=5ms±1ms");
    let (node, link) = text.split_once('=').ok_or_else(advice)?;
    let node = node.trim().parse().map_err(|_| advice())?;
    Ok(NodeLink { node, link: link.trim().parse()? })
}

/// A latency that is to be kept: `p99=5ms`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LatencyGoal {
    /// Of which calls.
    pub of: GoalOf,
    /// Their latency at most.
    pub at_most: Duration,
}

/// Which latency a goal is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GoalOf {
    /// Median.
    P50,
    /// 90th percentile.
    P90,
    /// 99th percentile.
    P99,
    /// 99.9th percentile.
    P99_9,
    /// Longest.
    Max,
}

/// Every name with what it means.
const GOALS: [(&str, GoalOf); 5] = [
    ("p50", GoalOf::P50),
    ("p90", GoalOf::P90),
    ("p99", GoalOf::P99),
    ("p99.9", GoalOf::P99_9),
    ("max", GoalOf::Max),
];

impl LatencyGoal {
    /// What it is about, of a distribution of microseconds.
    pub fn latency_us(&self, latency: &Distribution) -> f64 {
        match self.of {
            GoalOf::P50 => latency.p50,
            GoalOf::P90 => latency.p90,
            GoalOf::P99 => latency.p99,
            GoalOf::P99_9 => latency.p99_9,
            GoalOf::Max => latency.max,
        }
    }

    /// Whether a distribution of microseconds keeps it.
    pub fn is_kept(&self, latency: &Distribution) -> bool {
        self.latency_us(latency) <= self.at_most.as_secs_f64() * 1e6
    }
}

impl FromStr for LatencyGoal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice =
            || format!("\"{text}\" is no goal: write for example p99=5ms, with p50, p90, p99, p99.9 or max");
        let (name, at_most) = text.split_once('=').ok_or_else(advice)?;
        let (_, of) = GOALS.into_iter().find(|(known, _)| *known == name.trim()).ok_or_else(advice)?;
        let at_most = parse_duration(at_most.trim())?;
        if at_most.is_zero() {
            return Err(advice());
        }
        Ok(Self { of, at_most })
    }
}

impl fmt::Display for LatencyGoal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = GOALS.into_iter().find(|(_, of)| *of == self.of).expect("all are listed");
        write!(f, "{name}={}", format_duration(self.at_most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_each_value_once() {
        assert_eq!("1,3".parse::<List<u8>>().unwrap().0, [1, 3]);
        for text in ["", "1,,2", "1,1", "x"] {
            assert!(text.parse::<List<u8>>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_quorum_is_a_number_a_list_or_all() {
        assert_eq!("all".parse(), Ok(Quorum::All));
        assert_eq!("3, 1".parse(), Ok(Quorum::List(vec![3, 1])));
        for text in ["some", "1;2", "-1", ""] {
            assert!(text.parse::<Quorum>().unwrap_err().contains("or all"), "{text}");
        }
        assert!("2,2".parse::<Quorum>().unwrap_err().contains("twice"));
    }

    #[test]
    fn a_percentage_is_from_0_to_100() {
        assert_eq!((parse_percent("50%"), parse_percent("0.25")), (Ok(0.5), Ok(0.25)));
        for text in ["120%", "-1%", "half", "nan", "50"] {
            assert!(parse_percent(text).unwrap_err().contains("50%"), "{text}");
        }
    }

    #[test]
    fn a_goal_is_a_percentile_and_a_time() {
        for text in ["p99=5ms", "p99.9=20ms", "max=1s"] {
            assert_eq!(text.parse::<LatencyGoal>().unwrap().to_string(), text);
        }
        for text in ["p99", "p98=5ms", "p99=5", "p99=0s"] {
            assert!(text.parse::<LatencyGoal>().is_err(), "{text}");
        }
        let goal: LatencyGoal = "p99=5ms".parse().unwrap();
        assert!(goal.is_kept(&Distribution { p99: 5000.0, ..Distribution::default() }));
        assert!(!goal.is_kept(&Distribution { p99: 5000.1, ..Distribution::default() }));
    }
}
