//! What a link does to the bytes on it, as numbers and as people write it: `5ms±1ms,10MB/s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::{format_bytes, format_duration, parse_bytes, parse_duration};

/// Longest delay that is accepted.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Rates that are accepted, in bytes per second. Less than the least carries no heartbeats.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=4_000_000_000;

/// How bytes travel one way between two nodes. By default at once.
///
/// As text: a delay, a delay with jitter, a rate, or both with a comma, such as `5ms`, `5ms±1ms` (or
/// `5ms+-1ms`), `10MB/s` and `5ms±1ms,10MB/s`; `0s` is what is set by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkSettings {
    /// From sent to arrived, one way; at most 60 s.
    pub delay: Duration,
    /// The delay is longer or shorter by up to this, every value as likely; at most the delay.
    pub jitter: Duration,
    /// Bytes that are sent in a second, 1 kB to 4 GB; none for as many as come.
    pub bytes_per_second: Option<u64>,
}

impl LinkSettings {
    /// A delay without jitter, at any rate.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// An error says what is wrong, to the person who chose it.
    pub fn check(&self) -> Result<(), String> {
        let Self { delay, jitter, bytes_per_second } = *self;
        if delay > DELAY_MAX {
            let max = format_duration(DELAY_MAX);
            return Err(format!("the delay {} is too long: at most {max}", format_duration(delay)));
        }
        if jitter > delay {
            let (jitter, delay) = (format_duration(jitter), format_duration(delay));
            return Err(format!(
                "the jitter {jitter} is longer than the delay {delay}: nothing arrives before it is sent"
            ));
        }
        match bytes_per_second {
            Some(rate) if !RATES.contains(&rate) => {
                let (min, max) = (format_bytes(*RATES.start()), format_bytes(*RATES.end()));
                Err(format!("the rate {}/s is not between {min}/s and {max}/s", format_bytes(rate)))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for LinkSettings {
    type Err = String;

    /// The error is a sentence for the person who typed it.
    fn from_str(text: &str) -> Result<Self, String> {
        let advice = |reason| {
            format!(
                "\"{text}\" is no link ({reason}): write a delay, a rate or both, like 5ms, 5ms±1ms, 10MB/s or \
                 5ms±1ms,10MB/s"
            )
        };
        let (mut delay, mut bytes_per_second) = (None, None);
        for part in text.split(',').map(str::trim) {
            let is_new = match part.strip_suffix("/s") {
                Some(bytes) => bytes_per_second.replace(parse_bytes(bytes).map_err(advice)?).is_none(),
                None => delay.replace(parse_delay(part).map_err(advice)?).is_none(),
            };
            if !is_new {
                return Err(format!("\"{text}\" gives a delay or a rate twice: write it once"));
            }
        }
        let (delay, jitter) = delay.unwrap_or_default();
        let settings = Self { delay, jitter, bytes_per_second };
        settings.check()?;
        Ok(settings)
    }
}

/// A delay and its jitter.
fn parse_delay(text: &str) -> Result<(Duration, Duration), String> {
    match text.split_once('±').or_else(|| text.split_once("+-")) {
        Some((delay, jitter)) => Ok((parse_duration(delay)?, parse_duration(jitter)?)),
        None => Ok((parse_duration(text)?, Duration::ZERO)),
    }
}

impl fmt::Display for LinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, jitter, bytes_per_second } = *self;
        let mut text = format_duration(delay);
        if !jitter.is_zero() {
            text = format!("{text}±{}", format_duration(jitter));
        }
        match bytes_per_second.map(format_bytes) {
            Some(rate) if delay.is_zero() => write!(f, "{rate}/s"),
            Some(rate) => write!(f, "{text},{rate}/s"),
            None => f.write_str(&text),
        }
    }
}

impl Serialize for LinkSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LinkSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(delay_us: u64, jitter_us: u64, bytes_per_second: Option<u64>) -> LinkSettings {
        let [delay, jitter] = [delay_us, jitter_us].map(Duration::from_micros);
        LinkSettings { delay, jitter, bytes_per_second }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (settings, text) in [
            (link(0, 0, None), "0s"),
            (link(5_000, 0, None), "5ms"),
            (link(5_000, 1_000, None), "5ms±1ms"),
            (link(1_500, 250, None), "1500us±250us"),
            (link(0, 0, Some(10_000_000)), "10MB/s"),
            (link(5_000, 1_000, Some(64 << 10)), "5ms±1ms,64KiB/s"),
        ] {
            assert_eq!(settings.to_string(), text);
            assert_eq!(text.parse(), Ok(settings), "{text}");
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<LinkSettings>(&json).unwrap(), settings);
        }
    }

    #[test]
    fn a_link_may_be_typed_on_any_keyboard_and_in_any_order() {
        let settings = Ok(link(5_000, 1_000, Some(10_000_000)));
        for text in ["5ms±1ms,10MB/s", "5ms+-1ms,10MB/s", "10MB/s, 5ms +- 1ms", "0.005s±1000us,10000kB/s"] {
            assert_eq!(text.parse(), settings, "{text}");
        }
    }

    #[test]
    fn what_is_no_link_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "write a delay, a rate or both, like 5ms"),
            ("5", "\"5\" is no duration"),
            ("5ms,", "\"\" is no duration"),
            ("5ms±", "\"\" is no duration"),
            ("10MB", "\"10MB\" is no duration"),
            ("fast/s", "\"fast\" is no size"),
            ("5ms,6ms", "twice"),
            ("1MB/s,2MB/s", "twice"),
            ("5ms±6ms", "the jitter 6ms is longer than the delay 5ms"),
            ("2m", "the delay 120s is too long: at most 60s"),
            ("0B/s", "the rate 0B/s is not between 1kB/s and 4000MB/s"),
        ] {
            let refused = text.parse::<LinkSettings>().unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
