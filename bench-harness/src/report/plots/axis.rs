//! An axis: from numbers to places on the paper, and which numbers are written beside it.

/// How numbers lie along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    /// Evenly, from 0 to a little above the greatest.
    Linear,
    /// Evenly, from 0 to the last moment.
    Time,
    /// By their order of magnitude. What is below the least number lies on it, zero too.
    Log,
    /// Quantiles from 0 to 0.9999, by how few lie above: 0 %, 90 %, 99 %, 99.9 % are equally far apart.
    Quantile,
}

/// An axis with its range.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// What it shows, with the unit if the ticks have none.
    pub(super) label: &'static str,
    scale: Scale,
    min: f64,
    max: f64,
    shown: fn(f64) -> String,
}

/// Orders of magnitude that a logarithmic axis has at least: less would make noise look like news.
const DECADES_MIN: f64 = 0.6;

/// Orders of magnitude up to which 2 and 5 are written too.
const DECADES_FINE: f64 = 2.4;

/// The highest quantile.
const QUANTILE_MAX: f64 = 0.9999;

impl Axis {
    /// An axis on which all these numbers have a place.
    pub(super) fn fitted(
        label: &'static str,
        scale: Scale,
        shown: fn(f64) -> String,
        numbers: impl Iterator<Item = f64>,
    ) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.filter(|number| number.is_finite()) {
            if scale != Scale::Log || number > 0.0 {
                (least, most) = (least.min(number), most.max(number));
            }
        }
        let (min, max) = match scale {
            Scale::Quantile => (0.0, QUANTILE_MAX),
            _ if most < least => (if scale == Scale::Log { 1.0 } else { 0.0 }, 10.0),
            Scale::Linear | Scale::Time if most <= 0.0 => (0.0, 1.0),
            Scale::Linear => (0.0, most * 1.05),
            Scale::Time => (0.0, most),
            Scale::Log => wide_enough(least / 1.12, most * 1.12),
        };
        Self { label, scale, min, max, shown }
    }

    /// Where a number lies: 0 at the beginning of the axis, 1 at its end.
    pub(super) fn place(&self, number: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear | Scale::Time => number / self.max,
            Scale::Log => (number.max(self.min) / self.min).log10() / (self.max / self.min).log10(),
            Scale::Quantile => nines(number) / nines(QUANTILE_MAX),
        };
        place.clamp(0.0, 1.0)
    }

    /// Numbers that are written beside the axis, ascending, and how.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let numbers = match self.scale {
            Scale::Linear | Scale::Time => self.even(),
            Scale::Log => self.round(),
            Scale::Quantile => vec![0.5, 0.9, 0.99, 0.999, 0.9999],
        };
        numbers.into_iter().map(|number| (number, (self.shown)(number))).collect()
    }

    /// From 0 in steps of 1, 2 or 5: three to six of them.
    fn even(&self) -> Vec<f64> {
        let rough = self.max / 6.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * magnitude).find(|step| *step >= rough);
        let step = step.unwrap_or(self.max);
        (0..).map(|tick| f64::from(tick) * step).take_while(|number| *number <= self.max).collect()
    }

    /// Powers of ten, with 2 and 5 where few powers would be left alone, and every second where there are many.
    fn round(&self) -> Vec<f64> {
        let decades = (self.max / self.min).log10();
        let factors: &[f64] = if decades <= DECADES_FINE { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (decades / 6.0).ceil().max(1.0) as i32;
        let (first, last) = (self.min.log10().floor() as i32, self.max.log10().ceil() as i32);
        (first..=last)
            .filter(|power| power % every == 0)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
            .filter(|number| (self.min..=self.max).contains(number))
            .collect()
    }
}

/// How many nines a quantile has.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile.clamp(0.0, QUANTILE_MAX)).log10()
}

fn wide_enough(min: f64, max: f64) -> (f64, f64) {
    let missing = (DECADES_MIN - (max / min).log10()).max(0.0);
    let factor = 10f64.powf(missing / 2.0);
    (min / factor, max * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, numbers: &[f64]) -> Axis {
        Axis::fitted("x", scale, |number| number.to_string(), numbers.iter().copied())
    }

    fn ticks(scale: Scale, numbers: &[f64]) -> Vec<f64> {
        axis(scale, numbers).ticks().into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn places_are_between_the_ends_whatever_comes() {
        for scale in [Scale::Linear, Scale::Time, Scale::Log, Scale::Quantile] {
            for numbers in [&[][..], &[0.0], &[7.0], &[0.0, 1e9], &[f64::NAN, 3.0]] {
                let axis = axis(scale, numbers);
                for number in [0.0, 0.5, 7.0, 1e12] {
                    let place = axis.place(number);
                    assert!((0.0..=1.0).contains(&place), "{scale:?} {numbers:?}: {number} at {place}");
                }
                assert!(axis.ticks().len() <= 8, "{:?}", axis.ticks());
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(Scale::Linear, &[41_000.0]), [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]);
        assert_eq!(ticks(Scale::Time, &[10.0]), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(Scale::Log, &[800.0, 9_000.0]), [1_000.0, 2_000.0, 5_000.0, 10_000.0]);
        assert_eq!(ticks(Scale::Log, &[50.0, 2e6]), [100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0]);
    }

    #[test]
    fn each_nine_takes_as_much_room() {
        let axis = axis(Scale::Quantile, &[]);
        let places: Vec<_> = [0.9, 0.99, 0.999, 0.9999].map(|quantile| axis.place(quantile)).into();
        for (place, expected) in places.iter().zip([0.25, 0.5, 0.75, 1.0]) {
            assert!((place - expected).abs() < 1e-6, "{places:?}");
        }
    }
}
