//! Frames: how messages are told apart on a byte stream.
//!
//! ```text
//!  0   4   body length   u32 LE   checked against the caller's limit before anything else
//!  4   4   CRC-32C       u32 LE   of the body
//!  8   …   body                   one postcard message, see `parse`
//! ```
//!
//! A frame whose length or checksum is wrong ends the connection: nothing after it can be trusted, so
//! nobody looks for the next one.

use serde::Serialize;
use thiserror::Error;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 8;

/// One whole frame at the start of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// The message's bytes; their checksum was right.
    pub body: &'a [u8],
    /// Bytes of the buffer that the frame takes, header included.
    pub bytes: usize,
}

/// A stream that cannot be read further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// The announced body is longer than the limit of this connection's role and state.
    #[error("a frame of {length} bytes is announced, the limit is {limit}")]
    TooLong {
        /// Announced bytes.
        length: usize,
        /// Allowed bytes.
        limit: usize,
    },
    /// The body is not what was sent.
    #[error("a frame's checksum is wrong")]
    Checksum,
}

/// Looks for one frame at the start of `buffer`; `None` means that more bytes are needed.
pub fn decode(buffer: &[u8], limit: usize) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    if crc32c::crc32c(body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum);
    }
    Ok(Some(Frame { body, bytes: HEADER_BYTES + length }))
}

/// Appends `message` to `out` as one frame, in one pass.
///
/// # Panics
///
/// If the message cannot be serialised, which none of this crate's messages can cause.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    postcard::to_io(message, &mut *out).expect("messages serialise, and a Vec takes every byte");
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).expect("messages are far below 4 GiB");
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}
