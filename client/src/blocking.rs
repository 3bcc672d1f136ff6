//! For programs without async: what is awaited elsewhere is waited for here.
//!
//! The connections of a client that [`Client::connect`](crate::Client::connect) made run on a thread of their own, so
//! that nothing else is needed.
//!
//! ```no_run
//! use quorate_client::Client;
//! use quorate_client::blocking::{Wait, iter};
//!
//! fn main() -> Result<(), quorate_client::Error> {
//!     let client = Client::connect(["127.0.0.1:7401"])?;
//!     client.set("greeting", "hello").wait()?;
//!     for item in iter(client.scan(quorate_client::prefix(b""))) {
//!         println!("{}", String::from_utf8_lossy(&item?.key));
//!     }
//!     client.close().wait();
//!     Ok(())
//! }
//! ```

use futures_lite::{Stream, stream};

/// Waits for what would be awaited. Not for use inside async code: it blocks the thread.
pub trait Wait: Future + Sized {
    /// Blocks the thread until the result is there, which a call's deadline bounds.
    fn wait(self) -> Self::Output {
        async_io::block_on(self)
    }
}

impl<F: Future> Wait for F {}

/// The items of a scan, a watch, or a write's progress, each of which blocks the thread until it is there.
pub fn iter<S: Stream + Unpin>(stream: S) -> impl Iterator<Item = S::Item> {
    stream::block_on(stream)
}
