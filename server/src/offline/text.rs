//! Values as people read them.

use std::fmt::Write;

/// Bytes of a key or value that are shown unless all are asked for.
const SHOWN_BYTES: usize = 64;

/// A number of bytes with its unit.
pub fn bytes(count: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / unit as f64),
        None => format!("{count} B"),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // A String takes everything.
        text
    })
}

/// A key or value in quotes: its characters, what is not one as `\xNN`. Cut unless `full`.
pub(super) fn quoted(value: &[u8], full: bool) -> String {
    let shown = if full { value } else { &value[..value.len().min(SHOWN_BYTES)] };
    let mut text = String::from("\"");
    for chunk in shown.utf8_chunks() {
        chunk.valid().escape_debug().for_each(|character| text.push(character));
        chunk.invalid().iter().for_each(|byte| {
            let _ = write!(text, "\\x{byte:02x}"); // A String takes everything.
        });
    }
    text.push('"');
    if shown.len() < value.len() {
        let _ = write!(text, "… ({} bytes)", value.len());
    }
    text
}

/// A time as `YYYY-MM-DD hh:mm:ss UTC`.
pub fn time(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Howard Hinnant's civil_from_days: years that begin in March, in eras of 400.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(time(1_735_689_599), "2024-12-31 23:59:59 UTC");
    }

    #[test]
    fn what_is_no_text_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(quoted("a\"é\n".as_bytes(), false), r#""a\"é\n""#);
        assert_eq!(quoted(b"\xff\x00a", false), r#""\xff\0a""#);
        let long = [b'x'; 70];
        assert!(quoted(&long, false).ends_with("x\"… (70 bytes)"));
        assert_eq!(quoted(&long, true).len(), 72);
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!([0, 1023, 1536, 5 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]);
    }
}
