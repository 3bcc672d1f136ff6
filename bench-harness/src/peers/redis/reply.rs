//! Redis's wire format (RESP2), as far as a client of SET, GET, WAIT and INFO needs it.
//!
//! Reading is a pure function over a buffer; a reply that is not whole yet is a normal result.

use std::io::Write;

/// Longest value that is accepted in a reply.
const BULK_BYTES_MAX: usize = 64 << 20;

/// Longest first line of a reply.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Most numbers that are accepted in one reply.
const NUMBERS_MAX: usize = 16;

/// What the server answers to one command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply<'a> {
    /// Done.
    Status,
    /// Not done, and why.
    Error(&'a str),
    /// A number.
    Number(i64),
    /// Several numbers.
    Numbers(Vec<i64>),
    /// A value; none if the key is absent.
    Bulk(Option<&'a [u8]>),
}

/// The bytes are no reply that is known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// The reply at the beginning of a buffer and the bytes that it takes; none while it is not whole.
pub(super) fn read(buffer: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let Some((line, end)) = read_line(buffer)? else { return Ok(None) };
    let (kind, rest) = line.split_at_checked(1).ok_or(Malformed)?;
    match kind {
        "+" => Ok(Some((Reply::Status, end))),
        "-" => Ok(Some((Reply::Error(rest), end))),
        ":" => Ok(Some((Reply::Number(number(rest)?), end))),
        "$" => read_bulk(buffer, rest, end),
        "*" => read_numbers(buffer, rest, end),
        _ => Err(Malformed),
    }
}

/// The first line without its end, and where the next one begins.
fn read_line(buffer: &[u8]) -> Result<Option<(&str, usize)>, Malformed> {
    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
        return if buffer.len() > LINE_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    let line = buffer[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    Ok(Some((str::from_utf8(line).map_err(|_| Malformed)?, end + 1)))
}

fn read_bulk<'a>(
    buffer: &'a [u8],
    length: &str,
    start: usize,
) -> Result<Option<(Reply<'a>, usize)>, Malformed> {
    if length == "-1" {
        return Ok(Some((Reply::Bulk(None), start)));
    }
    let length: usize = number(length)?.try_into().map_err(|_| Malformed)?;
    if length > BULK_BYTES_MAX {
        return Err(Malformed);
    }
    let end = start + length + 2;
    Ok(buffer
        .get(start..start + length)
        .filter(|_| buffer.len() >= end)
        .map(|value| (Reply::Bulk(Some(value)), end)))
}

fn read_numbers<'a>(
    buffer: &'a [u8],
    count: &str,
    start: usize,
) -> Result<Option<(Reply<'a>, usize)>, Malformed> {
    let count: usize = number(count)?.try_into().map_err(|_| Malformed)?;
    if count > NUMBERS_MAX {
        return Err(Malformed);
    }
    let (mut numbers, mut end) = (Vec::with_capacity(count), start);
    for _ in 0..count {
        match read(&buffer[end..])? {
            Some((Reply::Number(number), bytes)) => {
                numbers.push(number);
                end += bytes;
            }
            Some(_) => return Err(Malformed),
            None => return Ok(None),
        }
    }
    Ok(Some((Reply::Numbers(numbers), end)))
}

fn number(text: &str) -> Result<i64, Malformed> {
    text.parse().map_err(|_| Malformed)
}

/// Appends a command to a buffer.
pub(super) fn write_command(buffer: &mut Vec<u8>, parts: &[&[u8]]) {
    write_length(buffer, b'*', parts.len());
    for part in parts {
        write_length(buffer, b'$', part.len());
        buffer.extend_from_slice(part);
        buffer.extend_from_slice(b"\r\n");
    }
}

fn write_length(buffer: &mut Vec<u8>, kind: u8, length: usize) {
    buffer.push(kind);
    let _ = write!(buffer, "{length}\r\n"); // a Vec takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_is_read_once_it_is_whole() {
        for (bytes, reply) in [
            (&b"+OK\r\n"[..], Reply::Status),
            (b"-READONLY no\r\n", Reply::Error("READONLY no")),
            (b":2\r\n", Reply::Number(2)),
            (b"$5\r\nva\nue\r\n", Reply::Bulk(Some(b"va\nue"))),
            (b"$0\r\n\r\n", Reply::Bulk(Some(b""))),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"*2\r\n:1\r\n:12\r\n", Reply::Numbers(vec![1, 12])),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{reply:?} cut to {cut} bytes");
            }
            let followed = [bytes, b"+OK\r\n"].concat();
            assert_eq!(read(&followed), Ok(Some((reply, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in
            [&b"\r\n"[..], b"OK\r\n", b"+OK\n", b":two\r\n", b"$-2\r\n", b"*99\r\n", b"*1\r\n+OK\r\n"]
        {
            assert_eq!(read(bytes), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(read(&[b'+'; LINE_BYTES_MAX + 1]), Err(Malformed));
    }

    #[test]
    fn a_command_is_an_array_of_its_parts() {
        let mut buffer = Vec::new();
        write_command(&mut buffer, &[b"SET", b"key", b""]);
        assert_eq!(buffer, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n");
    }
}
