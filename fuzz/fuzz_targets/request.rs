//! A client's bytes: frames as they stand, and the same bytes as the body of a request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::round_trip;
use quorate_protocol::request::{Operation, Request};
use quorate_protocol::{frame, limits, parse};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(frame)) = frame::decode(rest, limits::REQUEST_BYTES_MAX) {
        let _ = parse::<Request<'_>>(frame.body);
        rest = &rest[frame.bytes..];
    }
    round_trip!(Request<'_>, bytes);
    if let Ok(Request { operation: Operation::Write { write, .. }, .. }) = parse(bytes) {
        let _ = write.check();
    }
});
