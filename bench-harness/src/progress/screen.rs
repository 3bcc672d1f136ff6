//! The run on the whole screen: rate, latency and lag as they were over the last seconds.
//!
//! It is drawn only when something new is known, once a second. The terminal stays in its ordinary mode, so that
//! Ctrl-C interrupts the run as ever; it is left as it was found, also when the harness ends early.

use std::collections::VecDeque;
use std::io::{self, Stderr, stderr};
use std::time::Duration;

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal};

use super::Seen;
use crate::units::{show_count, show_us};

/// Seconds that are shown; a wider screen is not filled.
const SECONDS: usize = 300;

/// Events that are shown, the last ones.
const EVENTS: usize = 5;

/// What is drawn.
#[derive(Debug, Default)]
struct Picture {
    case: String,
    total: Duration,
    phase: String,
    seen: Seen,
    rates: VecDeque<u64>,
    p99s_us: VecDeque<u64>,
}

/// The screen, which is given back when dropped.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    picture: Picture,
}

impl Screen {
    /// Takes the screen over.
    pub(super) fn open(case: String, total: Duration) -> io::Result<Self> {
        execute!(stderr(), EnterAlternateScreen)?;
        let terminal = Terminal::new(CrosstermBackend::new(stderr()))?;
        Ok(Self { terminal, picture: Picture { case, total, ..Picture::default() } })
    }

    /// Says what is being done besides load.
    pub(super) fn phase(&mut self, phase: &str) {
        phase.clone_into(&mut self.picture.phase);
        self.draw();
    }

    /// Shows how the load is.
    pub(super) fn load(&mut self, seen: &Seen) {
        self.picture.add(seen);
        self.draw();
    }

    fn draw(&mut self) {
        let picture = &self.picture;
        // A screen that cannot be drawn on is no reason to end a measurement.
        let _ = self.terminal.draw(|frame| picture.draw(frame));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that does not obey.
        let _ = execute!(stderr(), LeaveAlternateScreen);
        let _ = self.terminal.backend_mut().show_cursor();
    }
}

impl Picture {
    fn add(&mut self, seen: &Seen) {
        self.phase = if seen.is_warmup { "warm-up" } else { "measuring" }.to_owned();
        for (series, value) in
            [(&mut self.rates, seen.live.per_second as u64), (&mut self.p99s_us, seen.live.p99_us)]
        {
            if series.len() == SECONDS {
                series.pop_front();
            }
            series.push_back(value);
        }
        self.seen = seen.clone();
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, rate, latency, lag] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(5),
            Constraint::Min(5),
            Constraint::Length(3 + (self.seen.lag.len() + self.seen.events.len().min(EVENTS)) as u16),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        let shown = format!(" {} acknowledged/s ", show_count(self.seen.live.per_second as u64));
        draw_series(frame, rate, shown, &self.rates);
        let live = self.seen.live;
        let shown = format!(" latency: p50 {}, p99 {} ", show_us(live.p50_us), show_us(live.p99_us));
        draw_series(frame, latency, shown, &self.p99s_us);
        self.draw_lag(frame, lag);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let part = self.seen.elapsed.as_secs_f64() / self.total.as_secs_f64().max(f64::MIN_POSITIVE);
        let title = format!(" {} ", self.case);
        let gauge = Gauge::default()
            .block(
                Block::bordered()
                    .title(title)
                    .title_bottom(" Ctrl-C ends the run and keeps what was measured "),
            )
            .label(format!("{}, {} s", self.phase, self.seen.elapsed.as_secs()))
            .ratio(part.clamp(0.0, 1.0));
        frame.render_widget(gauge, area);
    }

    fn draw_lag(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut lines: Vec<_> = self
            .seen
            .lag
            .iter()
            .map(|(node, entries, lag_us)| {
                format!("node {node}: {} entries behind, {}", show_count(*entries), show_us(*lag_us))
            })
            .collect();
        let events = &self.seen.events;
        lines.extend(events[events.len().saturating_sub(EVENTS)..].iter().cloned());
        let text = Paragraph::new(lines.join("\n")).block(Block::bordered().title(" followers "));
        frame.render_widget(text, area);
    }
}

/// The newest values at the right.
fn draw_series(frame: &mut Frame<'_>, area: Rect, title: String, series: &VecDeque<u64>) {
    let width = usize::from(area.width.saturating_sub(2));
    let newest: Vec<u64> = series.iter().copied().skip(series.len().saturating_sub(width)).collect();
    let sparkline = Sparkline::default().block(Block::bordered().title(title)).data(newest);
    frame.render_widget(sparkline, area);
}

#[cfg(test)]
mod tests {
    use quorate_client::load::Live;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_screen_shows_rate_latency_lag_and_events_at_any_size() {
        let mut picture = Picture {
            case: "quorum 2 of 3".to_owned(),
            total: Duration::from_secs(12),
            ..Picture::default()
        };
        for second in 0..2 * SECONDS as u64 {
            picture.add(&Seen {
                elapsed: Duration::from_secs(second),
                is_warmup: false,
                live: Live { per_second: 40_000.0 + second as f64, p50_us: 1_500, p99_us: 3_210 },
                lag: vec![(2, 64, 700), (3, 97_500, 2_400_000)],
                events: vec!["3s pause 3".to_owned()],
            });
        }
        assert_eq!(picture.rates.len(), SECONDS);
        for (width, height) in [(100, 30), (40, 12), (3, 2)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| picture.draw(frame)).unwrap();
            let shown = terminal.backend().to_string();
            if width == 100 {
                for words in
                    ["quorum 2 of 3", "40,599 acknowledged/s", "p99 3.21 ms", "node 3: 97,500", "pause 3"]
                {
                    assert!(shown.contains(words), "{words}: {shown}");
                }
            }
        }
    }
}
