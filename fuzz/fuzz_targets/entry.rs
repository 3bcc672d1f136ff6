//! A log's bytes: entries as they stand, and the same bytes as the payload of one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::round_trip;
use quorate_protocol::entry::{self, Entry, Payload};

fuzz_target!(|bytes: &[u8]| {
    for entry in entry::iterate(bytes).flatten() {
        let _ = entry.payload();
    }
    round_trip!(Payload<'_>, bytes);
    if let Ok(payload) = quorate_protocol::parse::<Payload<'_>>(bytes) {
        let mut encoded = Vec::new();
        entry::encode(7, 300, &payload, &mut encoded);
        let entry = Entry::parse(&encoded).expect("an undamaged entry");
        assert_eq!((entry.term, entry.index, entry.payload()), (7, 300, Ok(payload)));
    }
});
