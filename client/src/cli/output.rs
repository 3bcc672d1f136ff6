//! How results are printed.

use std::io::{self, Write};

use serde_json::{Map, Value as Json, json};

use super::arguments::Format;
use crate::{KeyValue, NodeId, Value, WriteResult, Written};

/// A committed write. As text, nothing if its condition failed: the error message says all about that.
pub(super) fn written(out: &mut impl Write, format: Format, written: &Written) -> io::Result<()> {
    match format {
        Format::Text => {
            let receipt = &written.receipt;
            let holders: Vec<_> = receipt.holders.iter().map(|node| node.to_string()).collect();
            let what = match written.result {
                Some(WriteResult::Applied { existed: 0 }) => "done, the key was absent",
                Some(WriteResult::Applied { .. }) => "done, the key was present",
                Some(WriteResult::ConditionFailed { .. }) => return Ok(()),
                None => "stored, not committed yet",
            };
            let failover = if receipt.survives_failover { "survives" } else { "may not survive" };
            writeln!(
                out,
                "{what}: index {}, {} on nodes {}, {failover} a failover, {} may be lost",
                receipt.index,
                receipt.durability,
                holders.join(" "),
                receipt.survivable_losses,
            )
        }
        Format::Json => writeln!(out, "{}", written_json(written)),
    }
}

/// A replica that is a voting member again.
pub(super) fn admitted(
    out: &mut impl Write,
    format: Format,
    node: NodeId,
    written: &Written,
) -> io::Result<()> {
    match format {
        Format::Text => {
            writeln!(out, "admitted: node {node} votes and counts from index {} on", written.receipt.index)
        }
        Format::Json => writeln!(out, "{}", written_json(written)),
    }
}

/// A hand-over that is done.
pub(super) fn handed_over(out: &mut impl Write, format: Format, term: u64) -> io::Result<()> {
    match format {
        Format::Text => writeln!(out, "handed over: term {term} has begun"),
        Format::Json => writeln!(out, "{}", json!({ "term": term })),
    }
}

fn written_json(written: &Written) -> Json {
    let receipt = &written.receipt;
    let mut json = json!({
        "applied": written.applied(),
        "term": receipt.term,
        "index": receipt.index,
        "token": written.token().to_string(),
        "holders": receipt.holders.iter().map(NodeId::get).collect::<Vec<_>>(),
        "durability": receipt.durability.to_string(),
        "survives_failover": receipt.survives_failover,
        "survivable_losses": receipt.survivable_losses,
    });
    match written.result {
        Some(WriteResult::Applied { existed }) => {
            json["revision"] = receipt.index.into();
            json["existed"] = (existed > 0).into();
        }
        Some(WriteResult::ConditionFailed { revision, .. }) => json["revision"] = revision.into(),
        None => json["revision"] = receipt.index.into(),
    }
    json
}

/// What a get found.
pub(super) fn value(
    out: &mut impl Write,
    format: Format,
    key: &[u8],
    value: Option<&Value>,
) -> io::Result<()> {
    match (format, value) {
        (Format::Text, None) => Ok(()),
        (Format::Text, Some(value)) => {
            out.write_all(&value.value)?;
            out.write_all(b"\n")
        }
        (Format::Json, value) => {
            let mut json = Map::new();
            insert_bytes(&mut json, "key", Some(key));
            insert_bytes(&mut json, "value", value.map(|value| value.value.as_slice()));
            json.insert("revision".into(), value.map(|value| value.revision).into());
            writeln!(out, "{}", Json::Object(json))
        }
    }
}

/// One item of a scan.
pub(super) fn item(out: &mut impl Write, format: Format, item: &KeyValue) -> io::Result<()> {
    match format {
        Format::Text => writeln!(out, "{}\t{}", escaped(&item.key), escaped(&item.value)),
        Format::Json => {
            let mut json = Map::new();
            insert_bytes(&mut json, "key", Some(&item.key));
            insert_bytes(&mut json, "value", Some(&item.value));
            json.insert("revision".into(), item.revision.into());
            writeln!(out, "{}", Json::Object(json))
        }
    }
}

fn insert_bytes(json: &mut Map<String, Json>, name: &str, bytes: Option<&[u8]>) {
    let text = bytes.map(str::from_utf8);
    json.insert(name.into(), text.and_then(Result::ok).into());
    if let (Some(Err(_)), Some(bytes)) = (text, bytes) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        json.insert(format!("{name}_hex"), hex.into());
    }
}

/// Printable text as it is; control characters, backslashes and what is no UTF-8 as `\t`, `\n`, `\\`, `\xNN`.
fn escaped(bytes: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shows_what_a_terminal_would_not() {
        assert_eq!(escaped("grün".as_bytes()), "grün");
        assert_eq!(escaped(b"a\tb\n\\\xff\x00"), r"a\tb\n\\\xff\x00");
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let mut out = Vec::new();
        let value = KeyValue { key: b"k".into(), revision: 3, value: b"\xff\x01".into() };
        item(&mut out, Format::Json, &value).unwrap();
        let json: Json = serde_json::from_slice(&out).unwrap();
        assert_eq!(json, json!({"key": "k", "value": null, "value_hex": "ff01", "revision": 3}));
    }
}
