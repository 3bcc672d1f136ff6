//! The search for the highest rate that keeps a latency goal.
//!
//! Rates double from `FIRST` until one does not keep it (or halve until one does), then the gap is halved until it
//! is small. Latency grows with the rate, so this finds the edge; noise moves it, which the trials in the report
//! show.

/// The first rate that is tried, in calls per second.
const FIRST: f64 = 1_000.0;

/// The search is over when the best rate and the worst one that failed are this close.
const CLOSE: f64 = 1.05;

/// Rates that are tried at most.
const TRIALS_MAX: u32 = 24;

/// Rates beyond which nothing is tried.
const RATES: (f64, f64) = (1.0, 5_000_000.0);

/// What is known so far.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Search {
    kept: Option<f64>,
    broken: Option<f64>,
    trials: u32,
}

impl Search {
    /// The rate to try next, to three digits; none when the search is over.
    pub fn next(&self) -> Option<f64> {
        let rate = match (self.kept, self.broken) {
            (None, None) => FIRST,
            (Some(kept), None) => kept * 2.0,
            (None, Some(broken)) => broken / 2.0,
            (Some(kept), Some(broken)) if broken / kept <= CLOSE => return None,
            (Some(kept), Some(broken)) => (kept * broken).sqrt(),
        };
        let rate = three_digits(rate.clamp(RATES.0, RATES.1));
        // At the end of the range there may be nothing new to try.
        let is_new = Some(rate) != self.kept && Some(rate) != self.broken;
        (is_new && self.trials < TRIALS_MAX).then_some(rate)
    }

    /// Takes in whether a rate kept the goal.
    pub fn tried(&mut self, rate: f64, kept: bool) {
        self.trials += 1;
        match kept {
            true => self.kept = Some(self.kept.map_or(rate, |best| best.max(rate))),
            false => self.broken = Some(self.broken.map_or(rate, |worst| worst.min(rate))),
        }
    }

    /// The highest rate that kept it.
    pub fn best(&self) -> Option<f64> {
        self.kept
    }
}

fn three_digits(rate: f64) -> f64 {
    let unit = 10_f64.powi(rate.log10().floor() as i32 - 2);
    // Not rate / unit * unit, which leaves crumbs.
    if unit < 1.0 { (rate / unit).round() * unit } else { (rate / unit).round() * unit.round() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a cluster that keeps every rate up to `limit`.
    fn search(limit: f64) -> (Option<f64>, u32) {
        let mut search = Search::default();
        while let Some(rate) = search.next() {
            search.tried(rate, rate <= limit);
        }
        (search.best(), search.trials)
    }

    #[test]
    fn the_edge_is_found_wherever_it_is() {
        for limit in [1.0, 1.5, 17.0, 999.0, 1_000.0, 1_001.0, 37_123.0, 900_000.0, 9e6] {
            let (best, trials) = search(limit);
            let best = best.expect("some rate keeps it");
            assert!(best <= limit && best * 1.06 >= limit.min(RATES.1), "{best} of {limit}");
            assert!(trials <= TRIALS_MAX, "{trials}");
        }
    }

    #[test]
    fn a_goal_that_no_rate_keeps_is_given_up() {
        let (best, trials) = search(0.5);
        assert_eq!(best, None);
        assert!(trials < TRIALS_MAX);
    }

    #[test]
    fn rates_are_round() {
        assert_eq!([1234.0, 37_123.0, 12.0].map(three_digits), [1230.0, 37_100.0, 12.0]);
    }
}
