//! What a person sees while a run lasts: a bar on a terminal, otherwise a plain line now and then, or the whole
//! screen if that is asked for.
//!
//! All of it goes to standard error, once a second, from figures that the load keeps in any case: often enough to
//! see that something happens, too rarely to move what is measured.

mod screen;

use std::cell::RefCell;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_client::load::Live;

use crate::units::{show_count, show_us};
use screen::Screen;

/// How often the load's progress is shown.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a load at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Seen {
    /// Since the load began, warm-up included.
    pub elapsed: Duration,
    /// Whether it is not measured yet.
    pub is_warmup: bool,
    /// Its last second.
    pub live: Live,
    /// How far each follower is behind: entries, and microseconds.
    pub lag: Vec<(u8, u64, u64)>,
    /// What was done to the cluster so far.
    pub events: Vec<String>,
}

/// Shows the progress of one run.
#[derive(Debug)]
pub struct Progress {
    case: String,
    view: View,
}

#[derive(Debug)]
enum View {
    Bar(ProgressBar),
    Lines,
    Screen(Box<RefCell<Screen>>),
}

impl Progress {
    /// For a run with this name, whose load lasts `total`, warm-up included; on the whole screen if `live` is asked
    /// for and standard error is a terminal.
    pub fn new(case: String, total: Duration, live: bool) -> Self {
        let view = match (stderr().is_terminal(), live) {
            (false, _) => View::Lines,
            (true, false) => View::Bar(bar(case.clone(), total)),
            (true, true) => match Screen::open(case.clone(), total) {
                Ok(screen) => View::Screen(Box::new(RefCell::new(screen))),
                // A terminal that cannot do it can do a bar.
                Err(_) => View::Bar(bar(case.clone(), total)),
            },
        };
        Self { case, view }
    }

    /// Says what is being done besides load.
    pub fn phase(&self, phase: &str) {
        match &self.view {
            View::Bar(bar) => bar.set_message(phase.to_owned()),
            View::Lines => eprintln!("{}: {phase}", self.case),
            View::Screen(screen) => screen.borrow_mut().phase(phase),
        }
    }

    /// Says how the load is.
    pub fn load(&self, seen: &Seen) {
        match &self.view {
            View::Bar(bar) => {
                bar.set_position(seen.elapsed.as_millis() as u64);
                bar.set_message(words(seen));
            }
            View::Lines => eprintln!("{}: {}", self.case, words(seen)),
            View::Screen(screen) => screen.borrow_mut().load(seen),
        }
    }
}

fn bar(case: String, total: Duration) -> ProgressBar {
    let bar =
        ProgressBar::with_draw_target(Some(total.as_millis() as u64), ProgressDrawTarget::stderr_with_hz(4));
    let style = ProgressStyle::with_template("{prefix}  {bar:30} {msg}")
        .expect("the template is a constant that parses");
    bar.with_style(style).with_prefix(case)
}

fn words(seen: &Seen) -> String {
    let phase = if seen.is_warmup { "warm-up" } else { "measuring" };
    let rate = show_count(seen.live.per_second as u64);
    let p99 = show_us(seen.live.p99_us);
    format!("{phase}, {} s, {rate} acknowledged/s, p99 {p99}", seen.elapsed.as_secs())
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}
