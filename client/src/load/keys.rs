//! The keys of a load: a prefix and 13 digits, so that their order is that of their numbers.

use std::fmt;
use std::ops::Deref;

use rand_distr::Zipf;
use thiserror::Error;

use super::workload::{Distribution, Workload};

/// Most bytes of a [`KeyPrefix`].
pub const KEY_PREFIX_BYTES_MAX: usize = 32;

/// Digits of a key's number.
const DIGITS: usize = 13;

/// What all keys of a load begin with; [`KeyPrefix::DEFAULT`] unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyPrefix {
    bytes: [u8; KEY_PREFIX_BYTES_MAX],
    length: usize,
}

/// The prefix is empty, too long, or not of visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0:?} is no key prefix: choose 1 to {KEY_PREFIX_BYTES_MAX} visible ASCII characters")]
pub struct InvalidPrefix(pub String);

impl KeyPrefix {
    /// `key`
    pub const DEFAULT: Self = {
        let mut bytes = [0; KEY_PREFIX_BYTES_MAX];
        [bytes[0], bytes[1], bytes[2]] = *b"key";
        Self { bytes, length: 3 }
    };

    /// A prefix of 1 to [`KEY_PREFIX_BYTES_MAX`] visible ASCII characters.
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let (length, mut bytes) = (prefix.len(), [0; KEY_PREFIX_BYTES_MAX]);
        let fits = (1..=KEY_PREFIX_BYTES_MAX).contains(&length);
        if !fits || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidPrefix(prefix.to_owned()));
        }
        bytes[..length].copy_from_slice(prefix.as_bytes());
        Ok(Self { bytes, length })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Default for KeyPrefix {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A key; its bytes are what it dereferences to.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    bytes: [u8; KEY_PREFIX_BYTES_MAX + DIGITS],
    length: usize,
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The key with this number. Of numbers above 13 digits, only the last 13 count.
pub fn key(prefix: &KeyPrefix, mut number: u64) -> Key {
    let length = prefix.length + DIGITS;
    let mut bytes = [b'0'; KEY_PREFIX_BYTES_MAX + DIGITS];
    bytes[..prefix.length].copy_from_slice(prefix.as_bytes());
    let mut digits = bytes[prefix.length..length].iter_mut().rev();
    while number > 0
        && let Some(digit) = digits.next()
    {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    Key { bytes, length }
}

/// The number of a key; none if it is none of the load's.
pub fn key_number(prefix: &KeyPrefix, bytes: &[u8]) -> Option<u64> {
    let digits = bytes.strip_prefix(prefix.as_bytes())?;
    let decimal = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit);
    decimal.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Draws key numbers.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    keys: u64,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    Uniform,
    Zipfian {
        ranks: Zipf<f64>,
        /// The distance between the keys of neighbouring ranks: coprime to the number of keys, so that each
        /// rank has a key of its own.
        stride: u64,
    },
    Sequential {
        clients: u64,
    },
}

impl Chooser {
    /// Of a workload that was checked.
    pub(super) fn new(workload: &Workload) -> Self {
        let keys = workload.keys;
        let rule = match workload.distribution {
            Distribution::Uniform => Rule::Uniform,
            Distribution::Zipfian { exponent } => Rule::Zipfian {
                ranks: Zipf::new(keys as f64, exponent).expect("keys and exponent were checked"),
                stride: stride(keys),
            },
            Distribution::Sequential => Rule::Sequential { clients: workload.clients.into() },
        };
        Self { keys, rule }
    }

    /// The key of one client's call number `call`, counted from 0.
    pub(super) fn choose(&self, client: u32, call: u64, random: &mut fastrand::Rng) -> u64 {
        match &self.rule {
            Rule::Uniform => random.u64(0..self.keys),
            Rule::Zipfian { ranks, stride } => {
                let rank = rand_distr::Distribution::sample(ranks, &mut Source(random)) as u64;
                (rank - 1) * stride % self.keys
            }
            Rule::Sequential { clients } => {
                call.wrapping_mul(*clients).wrapping_add(client.into()) % self.keys
            }
        }
    }
}

/// The least number from the golden section of `keys` on that shares no divisor with it: its multiples keep
/// far from each other.
fn stride(keys: u64) -> u64 {
    const GOLDEN_SECTION: f64 = 0.618_033_988_749_894_9;
    let section = (keys as f64 * GOLDEN_SECTION) as u64;
    let mut candidates = section.max(1)..;
    candidates.find(|stride| greatest_common_divisor(*stride, keys) == 1).expect("some prime is coprime")
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Lets one generator of random numbers feed the distributions of another crate.
struct Source<'a>(&'a mut fastrand::Rng);

impl rand_core::TryRng for Source<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.0.u32(..))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.u64(..))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_and_numbers_are_the_same() {
        let prefix = KeyPrefix::DEFAULT;
        assert_eq!(&*key(&prefix, 42), b"key0000000000042");
        assert_eq!(key_number(&prefix, b"key0000000000042"), Some(42));
        assert_eq!(key_number(&prefix, b"key42"), None);
        assert_eq!(key_number(&prefix, b"key+000000000042"), None);
        let other = KeyPrefix::new("load:1:").unwrap();
        assert_eq!(&*key(&other, 42), b"load:1:0000000000042");
        assert_eq!(key_number(&other, b"load:1:0000000000042"), Some(42));
        assert_eq!(key_number(&other, b"key0000000000042"), None);
    }

    #[test]
    fn a_prefix_that_cannot_be_is_refused() {
        let long = "k".repeat(KEY_PREFIX_BYTES_MAX + 1);
        for prefix in ["", "a b", "schlüssel", long.as_str()] {
            let refused = KeyPrefix::new(prefix).unwrap_err().to_string();
            assert!(refused.ends_with("choose 1 to 32 visible ASCII characters"), "{refused}");
        }
        assert!(KeyPrefix::new(&long[1..]).is_ok());
    }

    /// How often each key is chosen in so many calls of one client.
    fn frequencies(keys: u64, distribution: Distribution, calls: u64) -> Vec<u64> {
        let chooser = Chooser::new(&Workload { keys, distribution, ..Workload::default() });
        let mut random = fastrand::Rng::with_seed(1);
        let mut frequencies = vec![0; keys as usize];
        for call in 0..calls {
            frequencies[chooser.choose(0, call, &mut random) as usize] += 1;
        }
        frequencies
    }

    #[test]
    fn zipfian_frequencies_are_those_of_theory() {
        const CALLS: u64 = 500_000;
        for (keys, exponent) in [(1000, 0.99), (1000, 1.0), (50, 0.5), (1000, 1.5)] {
            let frequencies = frequencies(keys, Distribution::Zipfian { exponent }, CALLS);
            let weight = |rank: u64| (rank as f64).powf(-exponent);
            let all: f64 = (1..=keys).map(weight).sum();
            for rank in 1..=keys {
                let share = weight(rank) / all;
                let expected = CALLS as f64 * share;
                let deviation = (expected * (1.0 - share)).sqrt();
                let found = frequencies[((rank - 1) * stride(keys) % keys) as usize] as f64;
                let off = (found - expected).abs() / deviation;
                assert!(off < 5.0, "rank {rank} of {keys}, exponent {exponent}: {found} not {expected}");
            }
        }
    }

    #[test]
    fn every_rank_has_a_key_of_its_own_far_from_the_next() {
        for keys in [1, 2, 10, 1000, 99_991] {
            let stride = stride(keys);
            assert_eq!((0..keys).map(|rank| rank * stride % keys).collect::<HashSet<_>>().len() as u64, keys);
            let apart = (stride % keys).min(keys - stride % keys);
            assert!(apart * 4 >= keys || keys < 3, "{apart} of {keys}");
        }
    }

    #[test]
    fn uniform_frequencies_are_alike() {
        for found in frequencies(100, Distribution::Uniform, 1_000_000) {
            assert!(found.abs_diff(10_000) < 500, "{found}");
        }
    }

    #[test]
    fn sequential_calls_come_to_every_key_once_per_round() {
        assert_eq!(frequencies(7, Distribution::Sequential, 7 * 3), [3; 7]);
        let workload =
            Workload { clients: 3, keys: 10, distribution: Distribution::Sequential, ..Workload::default() };
        let chooser = Chooser::new(&workload);
        let mut random = fastrand::Rng::with_seed(1);
        let calls = (0..10).flat_map(|call| [0, 1, 2].map(|client| (client, call)));
        let keys: Vec<_> = calls.map(|(client, call)| chooser.choose(client, call, &mut random)).collect();
        assert_eq!(keys, (0..30).map(|position| position % 10).collect::<Vec<_>>());
    }
}
