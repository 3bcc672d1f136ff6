//! Whether two samples of a few repeats differ by more than chance, and by how much.
//!
//! - **The test** is the two-sided Mann–Whitney U test (H. B. Mann, D. R. Whitney, "On a test of whether one of two
//!   random variables is stochastically larger than the other", Annals of Mathematical Statistics 18, 1947). It
//!   compares ranks alone, so one outlier counts as one run, and it takes no shape of noise for granted: all that
//!   it asks is that runs are independent and, if nothing changed, exchangeable. Up to 64 runs
//!   p-values are counted over all ways to divide them, ties included; beyond, they are a normal approximation.
//! - **The change** is the Hodges–Lehmann estimate (J. L. Hodges, E. L. Lehmann, "Estimates of location based on rank
//!   tests", Annals of Mathematical Statistics 34, 1963): the median over all pairs of a run before and a run after.
//!   It is taken of logarithms, so it is a ratio; its confidence interval comes from the same test.
//!
//! Few repeats bound what can be shown: 5 against 5 give p = 0.0079 when every run of one side lies above every
//! run of the other, and more otherwise; 4 against 4 never less than 0.029.
//!
//! What it leaves out: a drift of the machine. Runs of two reports that were made one after the other are not
//! exchangeable if the machine changed meanwhile; [`EqualRuns`](super::EqualRuns) shows whether it does.

/// Most runs, of both sides together, whose divisions are counted. 64 things have at most 1.8 × 10¹⁸ divisions,
/// which fits a u64.
const EXACT_RUNS_MAX: usize = 64;

/// A change from one sample to another.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shift {
    /// After over before: 1.1 is a tenth more.
    pub ratio: f64,
    /// From where to where the ratio lies, with a confidence of at least one minus alpha; none if the samples are
    /// too few for it.
    pub interval: Option<(f64, f64)>,
}

/// The middle one, or the mean of the two in the middle; none of nothing.
pub fn median(numbers: &[f64]) -> Option<f64> {
    middle(&sorted(numbers.to_vec()))
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// How much equal runs differ: the greatest less the least, as a part of the median. None of a single run, or if the
/// median is 0.
///
/// Of all measures of spread it is the one that a change can be held against at a glance, as the test also asks, of
/// five repeats, whether the ranges overlap. It grows with the number of runs.
pub fn spread(numbers: &[f64]) -> Option<f64> {
    let sorted = sorted(numbers.to_vec());
    let [least, .., greatest] = sorted.as_slice() else { return None };
    let median = middle(&sorted)?;
    (median > 0.0).then(|| (greatest - least) / median)
}

/// How likely samples that differ as much as these are, or more, if nothing changed: the p-value of the
/// two-sided test. 1 if one of them is empty.
pub fn mann_whitney_p(before: &[f64], after: &[f64]) -> f64 {
    if before.is_empty() || after.is_empty() {
        return 1.0;
    }
    // The rank sum of either sample tells the same; the smaller one is less to count.
    let (small, large) = if before.len() <= after.len() { (before, after) } else { (after, before) };
    let ranks = doubled_ranks(small, large);
    let total = small.len() + large.len();
    let mean = small.len() * (total + 1);
    let distance = ranks[..small.len()].iter().sum::<usize>().abs_diff(mean);
    if total > EXACT_RUNS_MAX {
        return approximate_p(&ranks, small.len(), distance as f64 / 2.0);
    }
    let ways = ways_by_rank_sum(&ranks, small.len());
    let as_far: u64 =
        ways.iter().enumerate().filter(|(sum, _)| sum.abs_diff(mean) >= distance).map(|(_, ways)| ways).sum();
    as_far as f64 / ways.iter().sum::<u64>() as f64
}

/// Twice the rank that each number has among all, in their order: equal ones share the mean of their ranks, which may
/// be a half.
fn doubled_ranks(small: &[f64], large: &[f64]) -> Vec<usize> {
    let all: Vec<f64> = small.iter().chain(large).copied().collect();
    let sorted = sorted(all.clone());
    let rank = |number: &f64| {
        let less = sorted.partition_point(|other| other < number);
        let not_greater = sorted.partition_point(|other| other <= number);
        less + not_greater + 1
    };
    all.iter().map(rank).collect()
}

/// In how many ways `size` of the runs can be chosen so that their doubled ranks add up to each sum.
fn ways_by_rank_sum(doubled_ranks: &[usize], size: usize) -> Vec<u64> {
    let greatest: usize = doubled_ranks.iter().sum();
    let mut ways = vec![vec![0; greatest + 1]; size + 1];
    ways[0][0] = 1;
    for rank in doubled_ranks {
        for chosen in (1..=size).rev() {
            for sum in *rank..=greatest {
                ways[chosen][sum] += ways[chosen - 1][sum - rank];
            }
        }
    }
    ways.swap_remove(size)
}

/// By the normal distribution that rank sums of many runs have, corrected for ties and for being whole numbers.
fn approximate_p(doubled_ranks: &[usize], size: usize, distance: f64) -> f64 {
    let total = doubled_ranks.len() as f64;
    let mut ranks = doubled_ranks.to_vec();
    ranks.sort_unstable();
    let ties: f64 = ranks
        .chunk_by(|one, next| one == next)
        .map(|tied| (tied.len() as f64).powi(3) - tied.len() as f64)
        .sum();
    let (size, others) = (size as f64, total - size as f64);
    let variance = size * others / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0; // All are equal.
    }
    libm::erfc((distance - 0.5).max(0.0) / (2.0 * variance).sqrt())
}

/// The change from one sample to the other. None if one is empty, or a number is not above 0: then there is no ratio.
pub fn shift(before: &[f64], after: &[f64], alpha: f64) -> Option<Shift> {
    if before.iter().chain(after).any(|number| *number <= 0.0) {
        return None;
    }
    let pairs = after.iter().flat_map(|after| before.iter().map(move |before| (after / before).ln()));
    let pairs = sorted(pairs.collect());
    let ratio = middle(&pairs)?.exp();
    let interval = Critical::of(before.len(), after.len(), alpha)
        .map(|critical| (pairs[critical.rank - 1].exp(), pairs[pairs.len() - critical.rank].exp()));
    Some(Shift { ratio, interval })
}

/// How often the test calls a difference where there is none: at most alpha, and less by how few p-values these
/// numbers of runs can give. 0 if they are too few to ever show one.
pub fn false_alarms(before: usize, after: usize, alpha: f64) -> f64 {
    Critical::of(before, after, alpha).map_or(0.0, |critical| critical.alpha)
}

/// Whether these numbers of runs can show a difference at all.
pub fn can_show(before: usize, after: usize, alpha: f64) -> bool {
    before > 0 && after > 0 && 2.0 / divisions(before, after) <= alpha
}

/// The least number of runs on each side that can show a difference: five at 1 %.
pub fn runs_needed(alpha: f64) -> usize {
    (1..).find(|runs| can_show(*runs, *runs, alpha)).expect("alpha is above 0")
}

/// In how many ways so many runs can be divided into two samples.
fn divisions(before: usize, after: usize) -> f64 {
    (1..=before).map(|run| (after + run) as f64 / run as f64).product()
}

/// Where the test of samples without ties draws the line.
#[derive(Clone, Copy, Debug)]
struct Critical {
    /// The confidence interval goes from this of all sorted pairs, counted from 1, to the same from the end.
    rank: usize,
    /// How often equal samples are beyond the line.
    alpha: f64,
}

impl Critical {
    /// The line nearest to `alpha` from below; none if so few runs never get there.
    fn of(before: usize, after: usize, alpha: f64) -> Option<Self> {
        // U counts the pairs in which the run before is the greater one.
        let below = tail(before, after);
        let rank = (0..before * after).take_while(|pairs| 2.0 * below(*pairs) <= alpha).count();
        (rank > 0 && can_show(before, after, alpha)).then(|| Self { rank, alpha: 2.0 * below(rank - 1) })
    }
}

/// How likely U is to be at most so much if nothing changed and no two runs are equal.
fn tail(before: usize, after: usize) -> Box<dyn Fn(usize) -> f64> {
    let total = before + after;
    if total > EXACT_RUNS_MAX {
        let pairs = (before * after) as f64;
        let deviation = (pairs * (total as f64 + 1.0) / 12.0).sqrt();
        return Box::new(move |u| {
            0.5 * libm::erfc((pairs / 2.0 - u as f64 - 0.5) / (deviation * std::f64::consts::SQRT_2))
        });
    }
    let doubled: Vec<_> = (1..=total).map(|rank| 2 * rank).collect();
    let ways = ways_by_rank_sum(&doubled, before);
    let all: u64 = ways.iter().sum();
    let least = before * (before + 1);
    Box::new(move |u| ways[..=least + 2 * u].iter().sum::<u64>() as f64 / all as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Noise of runs, as a part of the figure.
    const NOISE: f64 = 0.03;

    /// Log-normal numbers around a median.
    pub(crate) fn noisy(random: &mut fastrand::Rng, median: f64, noise: f64) -> f64 {
        let (radius, angle) =
            ((-2.0 * (1.0 - random.f64()).ln()).sqrt(), std::f64::consts::TAU * random.f64());
        median * (noise * radius * angle.cos()).exp()
    }

    fn runs(random: &mut fastrand::Rng, count: usize, median: f64) -> Vec<f64> {
        (0..count).map(|_| noisy(random, median, NOISE)).collect()
    }

    fn assert_near(number: f64, expected: f64, by: f64) {
        assert!((number - expected).abs() <= by, "{number} is not {expected}");
    }

    /// By the definition: over every way to choose one sample of all.
    fn p_by_permutation(before: &[f64], after: &[f64]) -> f64 {
        let all: Vec<f64> = before.iter().chain(after).copied().collect();
        let u = |mask: u32| -> f64 {
            let is_in = |place: usize| mask >> place & 1 == 1;
            let mut u = 0.0;
            for one in (0..all.len()).filter(|place| is_in(*place)) {
                for other in (0..all.len()).filter(|place| !is_in(*place)) {
                    u += match all[one].total_cmp(&all[other]) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }
            u
        };
        let mean = (before.len() * after.len()) as f64 / 2.0;
        let distance = (u((1 << before.len()) - 1) - mean).abs();
        let masks = (0..1u32 << all.len()).filter(|mask| mask.count_ones() as usize == before.len());
        let (as_far, total) = masks.fold((0, 0), |(as_far, total), mask| {
            (as_far + u32::from((u(mask) - mean).abs() >= distance), total + 1)
        });
        f64::from(as_far) / f64::from(total)
    }

    #[test]
    fn separated_samples_have_the_least_p_that_their_number_allows() {
        let p = |before: usize, after: usize| {
            let before: Vec<f64> = (0..before).map(|run| run as f64).collect();
            let after: Vec<f64> = (0..after).map(|run| 100.0 + run as f64).collect();
            assert_eq!(mann_whitney_p(&before, &after), mann_whitney_p(&after, &before));
            mann_whitney_p(&before, &after)
        };
        assert_eq!(p(5, 5), 2.0 / 252.0);
        assert_eq!(p(4, 4), 2.0 / 70.0);
        assert_eq!(p(3, 3), 0.1);
        assert_eq!(p(1, 1), 1.0);
        assert_near(p(20, 20), 2.0 / 137_846_528_820.0, 1e-24);
    }

    #[test]
    fn p_is_that_of_all_permutations_with_and_without_ties() {
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..200 {
            let distinct = if round % 2 == 0 { 4 } else { 1_000_000 };
            let mut sample = |count| (0..count).map(|_| random.u32(0..distinct) as f64).collect::<Vec<_>>();
            let (before, after) = (sample(3 + round % 3), sample(4));
            assert_near(mann_whitney_p(&before, &after), p_by_permutation(&before, &after), 1e-12);
        }
        assert_eq!(mann_whitney_p(&[7.0; 5], &[7.0; 5]), 1.0);
        assert_eq!(mann_whitney_p(&[], &[7.0; 5]), 1.0);
    }

    #[test]
    fn the_approximation_continues_the_exact_numbers() {
        let mut random = fastrand::Rng::with_seed(2);
        for round in 0..20 {
            let (before, after) =
                (runs(&mut random, 32, 100.0), runs(&mut random, 32, 100.0 + round as f64 * 0.1));
            let (before, after): (Vec<_>, Vec<_>) =
                before.iter().zip(&after).map(|(one, other)| (one.round(), other.round())).unzip();
            let ranks = doubled_ranks(&before, &after);
            let distance = ranks[..32].iter().sum::<usize>().abs_diff(32 * 65);
            assert_near(
                approximate_p(&ranks, 32, distance as f64 / 2.0),
                mann_whitney_p(&before, &after),
                0.005,
            );
        }
        assert_eq!(mann_whitney_p(&[1.0; 40], &[1.0; 40]), 1.0);
        assert!(mann_whitney_p(&runs(&mut random, 50, 100.0), &runs(&mut random, 50, 110.0)) < 1e-6);
    }

    #[test]
    fn a_shift_is_the_ratio_of_typical_pairs_and_does_not_see_an_outlier() {
        let before = [100.0, 101.0, 99.0, 100.5, 99.5];
        let after = before.map(|number| number * 1.1);
        let shift_of = |after: &[f64]| shift(&before, after, 0.01).unwrap();
        assert_near(shift_of(&after).ratio, 1.1, 1e-9);
        let mut with_outlier = after;
        with_outlier[0] = 1_000.0;
        assert_near(shift_of(&with_outlier).ratio, 1.1, 0.01);
        let (low, high) = shift_of(&after).interval.unwrap();
        assert_near(low, 99.0 * 1.1 / 101.0, 1e-9);
        assert_near(high, 101.0 * 1.1 / 99.0, 1e-9);
        assert_eq!(shift(&[0.0], &[1.0], 0.01), None);
        assert_eq!(shift(&[], &[1.0], 0.01), None);
    }

    #[test]
    fn an_interval_needs_as_many_runs_as_a_verdict() {
        let interval = |runs: usize| shift(&vec![1.0; runs], &vec![2.0; runs], 0.01).unwrap().interval;
        assert_eq!([1, 3, 4].map(interval), [None; 3]);
        assert!(interval(5).is_some());
        assert_eq!([0.05, 0.01, 0.001].map(runs_needed), [4, 5, 7]);
        assert!(can_show(40, 2, 0.01) && !can_show(40, 1, 0.01) && !can_show(40, 0, 0.01));
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut random = fastrand::Rng::with_seed(3);
        for (count, alpha) in [(5, 0.01), (10, 0.05), (40, 0.05)] {
            let missed = (0..1_000)
                .filter(|_| {
                    let (before, after) = (runs(&mut random, count, 100.0), runs(&mut random, count, 120.0));
                    let (low, high) = shift(&before, &after, alpha).unwrap().interval.unwrap();
                    !(low..=high).contains(&1.2)
                })
                .count();
            // Half as much again as expected is beyond what 1,000 draws make likely.
            assert!((missed as f64) < 1_000.0 * alpha * 1.5, "{missed} of 1000 intervals miss at {alpha}");
        }
    }

    #[test]
    fn a_fifth_more_is_always_found_in_noise_of_three_hundredths() {
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..1_000 {
            let (before, after) = (runs(&mut random, 5, 100.0), runs(&mut random, 5, 120.0));
            assert!(mann_whitney_p(&before, &after) <= 0.01, "{before:?} {after:?}");
        }
    }

    #[test]
    fn false_alarms_are_as_frequent_as_the_number_of_runs_allows() {
        assert_near(false_alarms(5, 5, 0.01), 2.0 / 252.0, 1e-12);
        assert_near(false_alarms(5, 5, 0.05), 8.0 / 252.0, 1e-12);
        assert_near(false_alarms(40, 40, 0.05), 0.05, 0.002);
        assert_eq!(false_alarms(4, 4, 0.01), 0.0);
    }

    #[test]
    fn spread_and_median_are_of_all_runs() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(spread(&[110.0, 100.0, 90.0]), Some(0.2));
        assert_eq!((spread(&[1.0]), spread(&[0.0, 0.0])), (None, None));
    }
}
