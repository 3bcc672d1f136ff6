//! Ctrl-C and SIGTERM, for commands that say how far they have come before they end.

use std::io;

use async_signal::{Signal, Signals};
use futures_lite::StreamExt;

/// Who may ask the command to stop.
pub(super) struct Stop(Signals);

impl Stop {
    /// From now on the signals do not end the process by themselves.
    pub(super) fn new() -> io::Result<Self> {
        Signals::new([Signal::Int, Signal::Term]).map(Self)
    }

    /// Waits until the command is asked to stop: once more, if it was before.
    pub(super) async fn asked(&mut self) {
        self.0.next().await;
    }
}
