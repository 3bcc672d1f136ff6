//! How results are printed.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::arguments::Format;
use super::lines::{escaped, insert_bytes};
use crate::{Change, KeyValue, Lookup, NodeId, Receipt, SessionToken, WriteResult, Written};

/// A committed write. As text, nothing if its condition failed: the error message says all about that.
pub(super) fn written(out: &mut impl Write, format: Format, written: &Written) -> io::Result<()> {
    match format {
        Format::Text => {
            let receipt = &written.receipt;
            let what = match written.result {
                Some(WriteResult::Applied { existed: 0 }) => "done, the key was absent",
                Some(WriteResult::Applied { .. }) => "done, the key was present",
                Some(WriteResult::ConditionFailed { .. }) => return Ok(()),
                None => "stored, not committed yet",
            };
            writeln!(out, "{what}: index {}, {}", receipt.index, safety(receipt))
        }
        Format::Json => writeln!(out, "{}", written_json(written)),
    }
}

/// How safe a write is, in words.
fn safety(receipt: &Receipt) -> String {
    let holders: Vec<_> = receipt.holders.iter().map(|node| node.to_string()).collect();
    let failover = if receipt.survives_failover { "survives" } else { "may not survive" };
    format!(
        "{} on nodes {}, {failover} a failover, {} may be lost",
        receipt.durability,
        holders.join(" "),
        receipt.survivable_losses,
    )
}

/// One more copy of a write, so long after it was sent.
pub(super) fn progress(
    out: &mut impl Write,
    format: Format,
    receipt: &Receipt,
    elapsed: Duration,
) -> io::Result<()> {
    let copies = receipt.holders.len();
    match format {
        Format::Text => {
            let noun = if copies == 1 { "copy" } else { "copies" };
            let ms = elapsed.as_secs_f64() * 1e3;
            writeln!(out, "{copies} {noun} after {ms:.3} ms: {}", safety(receipt))
        }
        Format::Json => {
            let mut json = receipt_json(receipt);
            json["copies"] = copies.into();
            json["elapsed_us"] = (elapsed.as_micros() as u64).into();
            writeln!(out, "{json}")
        }
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
    let mut json = receipt_json(receipt);
    json["applied"] = written.applied().into();
    json["token"] = written.token().to_string().into();
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

fn receipt_json(receipt: &Receipt) -> Json {
    json!({
        "term": receipt.term,
        "index": receipt.index,
        "holders": receipt.holders.iter().map(NodeId::get).collect::<Vec<_>>(),
        "durability": receipt.durability.to_string(),
        "survives_failover": receipt.survives_failover,
        "survivable_losses": receipt.survivable_losses,
    })
}

/// What a get found, if anything.
pub(super) fn lookup(out: &mut impl Write, format: Format, key: &[u8], lookup: &Lookup) -> io::Result<()> {
    match (format, &lookup.value) {
        (Format::Text, None) => Ok(()),
        (Format::Text, Some(value)) => {
            out.write_all(&value.value)?;
            out.write_all(b"\n")
        }
        (Format::Json, value) => {
            let mut json = Map::new();
            insert_bytes(&mut json, "key", Some(key));
            insert_bytes(&mut json, "value", value.as_ref().map(|value| value.value.as_slice()));
            json.insert("revision".into(), value.as_ref().map(|value| value.revision).into());
            json.insert("token".into(), lookup.token.to_string().into());
            writeln!(out, "{}", Json::Object(json))
        }
    }
}

/// One item of a scan; with its revision and what its page has seen, if that is wanted.
pub(super) fn item(
    out: &mut impl Write,
    format: Format,
    item: &KeyValue,
    seen: Option<SessionToken>,
) -> io::Result<()> {
    match format {
        Format::Text => writeln!(out, "{}\t{}", escaped(&item.key), escaped(&item.value)),
        Format::Json => {
            let mut json = Map::new();
            insert_bytes(&mut json, "key", Some(&item.key));
            insert_bytes(&mut json, "value", Some(&item.value));
            if let Some(token) = seen {
                json.insert("revision".into(), item.revision.into());
                json.insert("token".into(), token.to_string().into());
            }
            writeln!(out, "{}", Json::Object(json))
        }
    }
}

/// A change; another watch goes on behind it with the token.
pub(super) fn change(
    out: &mut impl Write,
    format: Format,
    change: &Change,
    token: Option<SessionToken>,
) -> io::Result<()> {
    let Change { index, key, value } = change;
    match (format, value) {
        (Format::Text, Some(value)) => {
            writeln!(out, "set\t{index}\t{}\t{}", escaped(key), escaped(value))
        }
        (Format::Text, None) => writeln!(out, "delete\t{index}\t{}", escaped(key)),
        (Format::Json, value) => {
            let mut json = Map::new();
            json.insert("change".into(), if value.is_some() { "set" } else { "delete" }.into());
            json.insert("index".into(), (*index).into());
            insert_bytes(&mut json, "key", Some(key));
            insert_bytes(&mut json, "value", value.as_deref());
            json.insert("token".into(), token.map(|token| token.to_string()).into());
            writeln!(out, "{}", Json::Object(json))
        }
    }
}

/// How many lines were written.
pub(super) fn imported(
    out: &mut impl Write,
    format: Format,
    written: u64,
    skipped: u64,
    token: SessionToken,
) -> io::Result<()> {
    match format {
        Format::Text => writeln!(out, "{written} lines written, {skipped} skipped"),
        Format::Json => {
            let json = json!({ "written": written, "skipped": skipped, "token": token.to_string() });
            writeln!(out, "{json}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let mut out = Vec::new();
        let value = KeyValue { key: b"k".into(), revision: 3, value: b"\xff\x01".into() };
        let seen = "q1-2-4".parse().unwrap();
        item(&mut out, Format::Json, &value, Some(seen)).unwrap();
        let json: Json = serde_json::from_slice(&out).unwrap();
        let expected =
            json!({"key": "k", "value": null, "value_hex": "ff01", "revision": 3, "token": "q1-2-4"});
        assert_eq!(json, expected);
    }
}
