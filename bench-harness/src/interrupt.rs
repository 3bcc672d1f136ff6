//! Being asked to stop: Ctrl-C and SIGTERM.
//!
//! From the moment that [`Interrupt::listen`] returns, neither ends the process by itself. Whoever works
//! looks at [`Interrupt::requested`], or gives up what it waits for with [`Interrupt::or`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_signal::{Signal, Signals};
use futures_lite::{FutureExt, StreamExt};
use smol::Timer;

use crate::failure::Failure;

/// How often is looked whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// Whether somebody has asked the harness to stop. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes Ctrl-C and SIGTERM over, for the rest of the process's life.
    pub fn listen() -> anyhow::Result<Self> {
        let mut signals = Signals::new([Signal::Int, Signal::Term]).context("signals cannot be received")?;
        let interrupt = Self::default();
        let requested = interrupt.requested.clone();
        smol::spawn(async move {
            while signals.next().await.is_some() {
                requested.store(true, Ordering::Relaxed);
            }
        })
        .detach();
        Ok(interrupt)
    }

    /// Whether to stop.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// What `work` gives, or [`Failure::Interrupted`] if that is asked for first; `work` is dropped then.
    pub async fn or<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
        let work = async { work.await.map_err(Failure::Run) };
        let interrupted = async {
            while !self.requested() {
                Timer::after(POLL).await;
            }
            Err(Failure::Interrupted)
        };
        interrupted.or(work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_ends_what_would_wait_for_ever() {
        let interrupt = Interrupt::default();
        assert_eq!(smol::block_on(interrupt.or(async { Ok(7) })).unwrap(), 7);
        interrupt.requested.store(true, Ordering::Relaxed);
        let ended = smol::block_on(interrupt.or(futures_lite::future::pending::<anyhow::Result<()>>()));
        assert!(matches!(ended, Err(Failure::Interrupted)));
    }
}
