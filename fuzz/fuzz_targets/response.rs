//! A server's bytes, to a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::round_trip;
use quorate_protocol::response::{Outcome, Response};

fuzz_target!(|bytes: &[u8]| {
    round_trip!(Response<'_>, bytes);
    if let Ok(Response { outcome: Outcome::Refused(refusal), .. }) = quorate_protocol::parse(bytes) {
        let _ = refusal.to_string();
    }
});
