//! A replica's bytes, with the entries that they carry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::round_trip;
use quorate_protocol::entry;
use quorate_protocol::peer::PeerMessage;

fuzz_target!(|bytes: &[u8]| {
    round_trip!(PeerMessage<'_>, bytes);
    if let Ok(PeerMessage::Append(append)) = quorate_protocol::parse(bytes) {
        entry::iterate(append.entries).flatten().for_each(|entry| drop(entry.payload()));
    }
});
