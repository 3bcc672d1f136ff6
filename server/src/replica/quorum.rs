//! Quorum arithmetic.

use quorate_protocol::{Index, limits};

/// The highest index that at least `quorum` of the given durable indexes have reached; 0 if there are fewer.
///
/// ```
/// use quorate_server::replica::nth_highest;
///
/// assert_eq!(nth_highest([7, 4, 9], 1), 9);
/// assert_eq!(nth_highest([7, 4, 9], 2), 7);
/// assert_eq!(nth_highest([7, 4, 9], 3), 4);
/// assert_eq!(nth_highest([7, 4, 9], 4), 0);
/// ```
///
/// # Panics
///
/// If `quorum` is 0, or there are more than [`limits::REPLICAS_MAX`] indexes.
pub fn nth_highest(durable: impl IntoIterator<Item = Index>, quorum: u8) -> Index {
    assert!(quorum > 0, "a quorum has at least one replica");
    let mut sorted = [0; limits::REPLICAS_MAX as usize];
    let mut count = 0;
    for index in durable {
        // Insertion from the highest: a handful of replicas, once a turn.
        let at = sorted[..count].partition_point(|held| *held >= index);
        sorted.copy_within(at..count, at + 1);
        sorted[at] = index;
        count += 1;
    }
    sorted[..count].get(usize::from(quorum) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_nth_of_the_sorted_indexes_for_every_order_and_quorum() {
        let mut seed = fastrand_like(7);
        for length in 1..=limits::REPLICAS_MAX as usize {
            for _ in 0..100 {
                let indexes: Vec<Index> = (0..length).map(|_| seed() % 5).collect();
                let mut sorted = indexes.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                for quorum in 1..=length {
                    let highest = nth_highest(indexes.iter().copied(), quorum as u8);
                    assert_eq!(highest, sorted[quorum - 1], "{indexes:?} {quorum}");
                }
            }
        }
    }

    /// A small deterministic generator (xorshift).
    fn fastrand_like(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }
}
