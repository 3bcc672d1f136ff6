//! Humane units: how durations and sizes are read from a command line or a plan, and shown in a table.
//!
//! Durations have a resolution of one microsecond; sizes are whole bytes. What is read back from
//! [`format_duration`] or [`format_bytes`] is what was written.

use std::time::Duration;

/// Units of time, longest first, each with its microseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Units of size, each with its bytes.
const SIZE_UNITS: [(&str, u64); 6] =
    [("", 1), ("B", 1), ("kB", 1_000), ("KiB", 1 << 10), ("MB", 1_000_000), ("MiB", 1 << 20)];

/// Longest duration that is accepted: 1,000 hours.
const DURATION_HOURS_MAX: f64 = 1_000.0;

/// Reads a duration such as `10s`, `100ms`, `1.5m` or `0s`; a number alone is refused, as nobody agrees on
/// its unit. The error is a sentence for the person who typed it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let advice = || format!("\"{text}\" is no duration: write a number and a unit, like 10s, 100ms or 2m");
    let (number, unit) = split(text).ok_or_else(advice)?;
    let (_, unit_us) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(advice)?;
    let micros = number * *unit_us as f64;
    if micros > DURATION_HOURS_MAX * 3.6e9 {
        return Err(format!("\"{text}\" is too long: at most {DURATION_HOURS_MAX}h"));
    }
    Ok(Duration::from_micros(micros.round() as u64))
}

/// Writes a duration in the longest unit that shows it without a fraction, cut to whole microseconds.
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        return "0s".to_owned();
    }
    let (name, unit_us) = TIME_UNITS
        .iter()
        .skip(1) // nobody reads 36h as one and a half days
        .find(|(name, unit_us)| micros.is_multiple_of(u128::from(*unit_us)) && *name != "m")
        .expect("every number of microseconds is a multiple of one");
    format!("{}{name}", micros / u128::from(*unit_us))
}

/// Reads a size such as `100`, `100B`, `1KiB`, `1.5KiB` or `1MB`, in bytes. The error is a sentence for the
/// person who typed it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let advice = || format!("\"{text}\" is no size: write a number and a unit, like 100B, 1KiB or 1MB");
    let (number, unit) = split(text).ok_or_else(advice)?;
    let (_, unit_bytes) =
        SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(advice)?;
    let bytes = number * *unit_bytes as f64;
    if bytes > u32::MAX.into() {
        return Err(format!("\"{text}\" is too large: less than 4096MiB"));
    }
    if bytes.fract() != 0.0 {
        return Err(advice());
    }
    Ok(bytes as u64)
}

/// Writes bytes in the largest unit that shows them without a fraction.
pub fn format_bytes(bytes: u64) -> String {
    let (name, unit_bytes) = SIZE_UNITS
        .iter()
        .rev()
        .find(|(name, unit_bytes)| bytes.is_multiple_of(*unit_bytes) && (bytes > 0 || *name == "B"))
        .expect("every number of bytes is a multiple of one");
    format!("{}{name}", bytes / unit_bytes)
}

/// A number without sign, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start()))
}

/// Shows microseconds with three digits and their unit: `87 µs`, `1.15 ms`, `2.40 s`.
pub fn show_us(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", three_digits(micros as f64 / 1e3)),
        _ => format!("{} s", three_digits(micros as f64 / 1e6)),
    }
}

fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Shows a count with its thousands apart: `53,214`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Shows bytes in binary units: `100 B`, `1 KiB`, `7.8 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(number.fract() >= 0.05);
    format!("{number:.decimals$} {}", UNITS[unit])
}

/// Durations in a plan or report, as [`format_duration`] writes them.
pub mod duration_text {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a duration.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*duration))
    }

    /// Reads a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The same for a duration that may be missing.
pub mod optional_duration {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(super::format_duration).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_duration(&text)).transpose().map_err(D::Error::custom)
    }
}

/// Anything in a plan or report that is written as text, as its `Display` and `FromStr` have it.
pub mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads it.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A number and what it counts, whose plural takes an s: `1 client`, `2 clients`.
pub fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("100 ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "10", "s", "-1s", "1.2.3s", "10 parsecs", "1e3s", "2000h", "nan"] {
            let refused = parse_duration(text).unwrap_err();
            assert!(refused.contains(&format!("\"{text}\" is")), "{refused}");
        }
    }

    #[test]
    fn a_written_duration_reads_back_as_itself() {
        for (micros, text) in
            [(0, "0s"), (10_000_000, "10s"), (90_000_000, "90s"), (1_500_000, "1500ms"), (250, "250us")]
        {
            let duration = Duration::from_micros(micros);
            assert_eq!(format_duration(duration), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
    }

    #[test]
    fn sizes_are_read_with_or_without_a_unit() {
        for (text, bytes) in
            [("100", 100), ("100B", 100), ("1KiB", 1024), ("1.5 kib", 1536), ("1kB", 1000), ("1MiB", 1 << 20)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "0.3B", "1 GiBi", "99999999MiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_back_as_they_were_written() {
        let sizes = [0, 1, 1000, 1024, 1536, 10_000_000, 10 << 20];
        assert_eq!(sizes.map(format_bytes), ["0B", "1B", "1kB", "1KiB", "1536B", "10MB", "10MiB"]);
        assert_eq!(sizes.map(|bytes| parse_bytes(&format_bytes(bytes))), sizes.map(Ok));
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "client")), ["0 clients", "1 client", "2 clients"]);
    }

    #[test]
    fn figures_are_shown_with_three_digits() {
        let shown = [0, 999, 1_000, 1_154, 9_994, 9_996, 12_345, 99_960, 2_400_000].map(show_us);
        assert_eq!(
            shown,
            ["0 µs", "999 µs", "1.00 ms", "1.15 ms", "9.99 ms", "10.0 ms", "12.3 ms", "100 ms", "2.40 s"]
        );
        assert_eq!([0, 999, 1_000, 1_234_567].map(show_count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([100, 1024, 8_375_000_000].map(show_bytes), ["100 B", "1 KiB", "7.8 GiB"]);
    }
}
