//! Keys and values as text and as JSON, there and back: what was printed is read again as the same bytes.
//!
//! ```text
//! text   key, tab, value; each with \t \n \r \\, and \xNN for other control characters and bytes that are no UTF-8
//!        (so a carriage return at the end of a line that is read belongs to the line's end, not to the value)
//! JSON   {"key":…,"value":…}; null, and the bytes in key_hex or value_hex, for what is no UTF-8
//! ```

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::arguments::Format;
use crate::Mutation;

/// A key and the value that it is to have.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Pair {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Pair {
    /// Gives the key the value.
    pub(super) fn set(&self) -> Mutation<'_> {
        Mutation::Set { key: &self.key, value: &self.value }
    }
}

/// Reads a line, without its newline. The error says what is wrong with it.
pub(super) fn parse(format: Format, line: &[u8]) -> Result<Pair, String> {
    match format {
        Format::Text => parse_text(line),
        Format::Json => parse_json(line),
    }
}

fn parse_text(line: &[u8]) -> Result<Pair, String> {
    let tab = line.iter().position(|byte| *byte == b'\t');
    let tab = tab.ok_or("there is no tab between key and value (or it is JSON: say --format json)")?;
    Ok(Pair { key: unescaped(&line[..tab])?, value: unescaped(&line[tab + 1..])? })
}

/// What a line may have; revision and token, which `scan` prints too, say nothing here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine {
    key: Option<String>,
    key_hex: Option<String>,
    value: Option<String>,
    value_hex: Option<String>,
    #[serde(rename = "revision")]
    _revision: Option<u64>,
    #[serde(rename = "token")]
    _token: Option<String>,
}

fn parse_json(line: &[u8]) -> Result<Pair, String> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(
            "it is no object, as {\"key\":\"a\",\"value\":\"b\"}: give one a line, and no list of them"
                .into(),
        );
    }
    let line: JsonLine = serde_json::from_slice(line).map_err(|error| {
        let reason = error.to_string();
        // It counts lines, too, in what is always one.
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
        format!("not as expected at column {}: {reason}", error.column())
    })?;
    Ok(Pair {
        key: either("key", line.key, line.key_hex)?,
        value: either("value", line.value, line.value_hex)?,
    })
}

fn either(name: &str, text: Option<String>, hex: Option<String>) -> Result<Vec<u8>, String> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(hex)) => from_hex(hex.as_bytes()).ok_or_else(|| format!("{name}_hex is no hex")),
        (Some(_), Some(_)) => Err(format!("it has {name} and {name}_hex: give one")),
        (None, None) => Err(format!("it has neither {name} nor {name}_hex")),
    }
}

fn from_hex(hex: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| byte_from_hex(pair)).collect()
}

fn byte_from_hex(digits: &[u8]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    match digits {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts bytes under a name into an object.
pub(super) fn insert_bytes(json: &mut Map<String, Json>, name: &str, bytes: Option<&[u8]>) {
    let text = bytes.map(str::from_utf8);
    json.insert(name.into(), text.and_then(Result::ok).into());
    if let (Some(Err(_)), Some(bytes)) = (text, bytes) {
        json.insert(format!("{name}_hex"), hex(bytes).into());
    }
}

/// Printable text as it is; control characters, backslashes and what is no UTF-8 as `\t`, `\n`, `\\`, `\xNN`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' | '\n' | '\r' | '\\' => text.extend(c.escape_default()),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    c.encode_utf8(&mut buffer).bytes().for_each(|byte| text += &format!("\\x{byte:02x}"));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    text
}

/// The bytes of [`escaped`] text.
fn unescaped(mut text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some(backslash) = text.iter().position(|byte| *byte == b'\\') {
        bytes.extend_from_slice(&text[..backslash]);
        let (byte, length) = escape(&text[backslash + 1..])?;
        bytes.push(byte);
        text = &text[backslash + 1 + length..];
    }
    bytes.extend_from_slice(text);
    Ok(bytes)
}

/// The byte that is meant by what follows a backslash, and how long that is.
fn escape(after: &[u8]) -> Result<(u8, usize), String> {
    let simple = match after.first() {
        Some(b't') => Some(b'\t'),
        Some(b'n') => Some(b'\n'),
        Some(b'r') => Some(b'\r'),
        Some(b'\\') => Some(b'\\'),
        _ => None,
    };
    match (simple, after) {
        (Some(byte), _) => Ok((byte, 1)),
        (None, [b'x', high, low, ..]) if let Some(byte) = byte_from_hex(&[*high, *low]) => Ok((byte, 3)),
        _ => Err(r"a backslash is not followed by t, n, r, \ or xNN: one that means itself is \\".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shows_what_a_terminal_would_not() {
        assert_eq!(escaped("grün".as_bytes()), "grün");
        assert_eq!(escaped(b"a\tb\n\\\xff\x00"), r"a\tb\n\\\xff\x00");
    }

    #[test]
    fn every_byte_comes_back_from_text_and_from_json() {
        let every: Vec<u8> = (0..=255).collect();
        for value in [&every[..], b"", "gr\u{85}ün \\x41 \u{1f600}".as_bytes(), b"\xc3", b"\\\\t\r"] {
            let pair = Pair { key: [b"k", value].concat(), value: value.into() };
            let text = format!("{}\t{}", escaped(&pair.key), escaped(&pair.value));
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(parse(Format::Text, text.as_bytes()).as_ref(), Ok(&pair));
            let mut json = Map::new();
            insert_bytes(&mut json, "key", Some(&pair.key));
            insert_bytes(&mut json, "value", Some(&pair.value));
            let json = Json::Object(json).to_string();
            assert_eq!(parse(Format::Json, json.as_bytes()), Ok(pair));
        }
    }

    #[test]
    fn what_is_no_pair_is_refused_with_the_reason() {
        let wrong = |format, line: &str, reason: &str| {
            let error = parse(format, line.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        };
        wrong(Format::Text, "", "no tab");
        wrong(Format::Text, "key value", "no tab");
        wrong(Format::Text, "{\"key\":\"a\"}", "--format json");
        for escape in ["\\", "\\q", "\\x", "\\xf", "\\xg0", "\\x+1"] {
            wrong(Format::Text, &format!("k\t{escape}"), "backslash");
        }
        wrong(Format::Json, "k\tv", "no object");
        wrong(Format::Json, r#"["a",null,"b",null,null,null]"#, "no object");
        wrong(
            Format::Json,
            r#"{"key":"a","value":1}"#,
            "not as expected at column 20: invalid type: integer `1`",
        );
        wrong(Format::Json, r#"{"key":"a"}"#, "neither value nor value_hex");
        wrong(Format::Json, r#"{"key":"a","value":null}"#, "neither value nor value_hex");
        wrong(Format::Json, r#"{"key":"a","key_hex":"61","value":"b"}"#, "give one");
        wrong(Format::Json, r#"{"key":"a","value_hex":"fff"}"#, "no hex");
        wrong(Format::Json, r#"{"key":"a","value":"b","change":"set"}"#, "unknown field");
        wrong(Format::Json, r#"{"key":"a","value":"b"} {}"#, "not as expected");
    }
}
