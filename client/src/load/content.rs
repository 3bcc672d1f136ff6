//! What is called: everything about a call follows from the seed and from who makes it.
//!
//! ```text
//! value   client     4  u32 LE
//!         sequence   8  u64 LE  of the client's calls, over all runs of one record
//!         random         as many bytes as the value's length asks for
//! ```

use std::ops::RangeInclusive;

use super::keys::Chooser;
use super::workload::Workload;

/// Bytes of a value's head: client (u32 LE), sequence (u64 LE).
pub const VALUE_BYTES_MIN: usize = 12;

/// One call, by who made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct CallId {
    pub(super) client: u32,
    pub(super) sequence: u64,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    /// Writes so many bytes.
    Write(usize),
}

/// A call's key, by number, and what is done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content {
    pub(super) number: u64,
    pub(super) kind: Kind,
}

/// How the calls of one run are made up.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    seed: u64,
    /// The first sequence number of every client.
    pub(super) first: u64,
    read_share: f64,
    pub(super) chooser: Chooser,
    value_bytes: RangeInclusive<usize>,
}

impl Recipe {
    /// Of a workload that was checked, whose clients count their calls from `first`.
    pub(super) fn new(workload: &Workload, first: u64) -> Self {
        Self {
            seed: workload.seed,
            first,
            read_share: workload.read_share,
            chooser: Chooser::new(workload),
            value_bytes: workload.value_bytes.clone(),
        }
    }

    /// Bytes of the longest value.
    pub(super) fn value_bytes_max(&self) -> usize {
        *self.value_bytes.end()
    }

    /// Makes up a call of this run; a write's value goes to the front of `value`, which has room for the
    /// longest.
    pub(super) fn content(&self, id: CallId, value: &mut [u8]) -> Content {
        let who = (u64::from(id.client) << 40).wrapping_add(id.sequence);
        let mut random = fastrand::Rng::with_seed(self.seed ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let is_read = self.read_share > 0.0 && random.f64() < self.read_share;
        let number = self.chooser.choose(id.client, id.sequence - self.first, &mut random);
        let kind = if is_read { Kind::Read } else { Kind::Write(self.fill(id, value, &mut random)) };
        Content { number, kind }
    }

    /// Makes up a value, and returns its length.
    fn fill(&self, id: CallId, value: &mut [u8], random: &mut fastrand::Rng) -> usize {
        let (least, most) = (*self.value_bytes.start(), *self.value_bytes.end());
        let length = if least == most { most } else { random.usize(least..=most) };
        let (head, body) = value[..length].split_at_mut(VALUE_BYTES_MIN);
        head[..4].copy_from_slice(&id.client.to_le_bytes());
        head[4..].copy_from_slice(&id.sequence.to_le_bytes());
        random.fill(body);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::Distribution;
    use super::*;

    fn workload() -> Workload {
        let distribution = Distribution::Zipfian { exponent: 0.99 };
        Workload { read_share: 0.25, value_bytes: 12..=40, distribution, ..Workload::default() }
    }

    /// What the calls of one client are, values included.
    fn calls(workload: &Workload, client: u32, calls: u64) -> Vec<(Content, Vec<u8>)> {
        let recipe = Recipe::new(workload, 0);
        let call = |sequence| {
            let mut value = vec![0; recipe.value_bytes_max()];
            let content = recipe.content(CallId { client, sequence }, &mut value);
            (content, value)
        };
        (0..calls).map(call).collect()
    }

    #[test]
    fn a_call_follows_from_seed_client_and_sequence() {
        let first = calls(&workload(), 3, 100);
        assert_eq!(calls(&workload(), 3, 100), first);
        assert_ne!(calls(&workload(), 4, 100), first);
        assert_ne!(calls(&Workload { seed: 2, ..workload() }, 3, 100), first);
    }

    #[test]
    fn reads_have_their_share_of_all_calls() {
        let reads = |read_share| {
            let calls = calls(&Workload { read_share, ..workload() }, 0, 40_000);
            calls.iter().filter(|(content, _)| content.kind == Kind::Read).count()
        };
        assert_eq!((reads(0.0), reads(1.0)), (0, 40_000));
        // Five standard deviations are 433.
        assert!(reads(0.25).abs_diff(10_000) < 433, "{}", reads(0.25));
    }

    #[test]
    fn values_have_every_length_of_their_range() {
        let calls = calls(&Workload { read_share: 0.0, ..workload() }, 0, 2_900);
        let mut found = [0_usize; 41];
        for (content, value) in calls {
            let Kind::Write(length) = content.kind else { panic!("no reads were asked for") };
            assert!(value[length..].iter().all(|byte| *byte == 0));
            found[length] += 1;
        }
        assert!(found[..12].iter().all(|count| *count == 0));
        assert!(found[12..].iter().all(|count| count.abs_diff(100) < 50), "{found:?}");
    }
}
