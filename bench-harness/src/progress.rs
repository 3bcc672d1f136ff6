//! What a person sees while a run lasts: a bar on a terminal, otherwise a plain line now and then.
//!
//! All of it goes to standard error, about once a second: often enough to see that something happens,
//! too rarely to move the figures.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use quorate_client::load::Live;

use crate::units::{show_count, show_us};

/// How often the load's progress is shown.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Shows the progress of one case.
#[derive(Debug)]
pub struct Progress {
    case: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For a case with this name, whose load lasts `total`, warm-up included.
    pub fn new(case: String, total: Duration, _live: bool) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(total.as_millis() as u64),
                ProgressDrawTarget::stderr_with_hz(4),
            );
            let style = ProgressStyle::with_template("{prefix}  {bar:30} {msg}")
                .expect("the template is a constant that parses");
            bar.with_style(style).with_prefix(case.clone())
        });
        Self { case, bar }
    }

    /// Says what is being done besides load.
    pub fn phase(&self, phase: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(phase.to_owned()),
            None => eprintln!("{}: {phase}", self.case),
        }
    }

    /// Says how far the load is.
    pub fn load(&self, elapsed: Duration, is_warmup: bool, live: Live) {
        let phase = if is_warmup { "warm-up" } else { "measuring" };
        let rate = show_count(live.per_second as u64);
        let p99 = show_us(live.p99_us);
        let message = format!("{phase}, {} s, {rate} acknowledged/s, p99 {p99}", elapsed.as_secs());
        match &self.bar {
            Some(bar) => {
                bar.set_position(elapsed.as_millis() as u64);
                bar.set_message(message);
            }
            None => eprintln!("{}: {message}", self.case),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
