//! What the fuzz targets share.

use quorate_protocol::frame;
use serde::Serialize;

/// `message` as the body of a frame, which went through the frame decoder.
pub fn body_of<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(message, &mut bytes);
    let frame = frame::decode(&bytes, usize::MAX).expect("an undamaged frame").expect("a whole frame");
    assert_eq!(frame.bytes, bytes.len());
    frame.body.to_vec()
}

/// Checks that `$body`, if it decodes as `$message`, decodes to the same after it was encoded again.
#[macro_export]
macro_rules! round_trip {
    ($message:ty, $body:expr) => {
        if let Ok(message) = quorate_protocol::parse::<$message>($body) {
            let again = $crate::body_of(&message);
            assert_eq!(quorate_protocol::parse::<$message>(&again), Ok(message));
        }
    };
}
