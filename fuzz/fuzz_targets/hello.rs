//! The first bytes of a connection, and of its answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::round_trip;
use quorate_protocol::handshake::{Hello, MAGIC, Reply};
use quorate_protocol::{VERSION, frame};

fuzz_target!(|bytes: &[u8]| {
    let _ = Hello::parse(bytes);
    round_trip!(Reply, bytes);

    // Behind the magic, which a fuzzer may not guess.
    let mut body = quorate_fuzz::body_of(&(MAGIC, VERSION));
    body.extend_from_slice(bytes);
    if let Ok(hello) = Hello::parse(&body) {
        let mut again = Vec::new();
        hello.encode(&mut again);
        assert_eq!(Hello::parse(&again[frame::HEADER_BYTES..]), Ok(hello));
    }
});
