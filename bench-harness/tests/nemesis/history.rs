//! What clients called and what they were told, in the order of one clock.
//!
//! The clock counts events and nothing else: a call that returned before another was made has the smaller number,
//! which is all that linearizability asks. Values are unique, so a value that is read tells which call wrote it. A
//! call that was refused did nothing, and is left out: what it wrote, if it is ever read, comes from nowhere.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_protocol::{Index, Term};

/// An event's number.
pub(crate) type Tick = u64;

/// A value's number; its bytes follow from it.
pub(crate) type Value = u64;

/// A key's number.
pub(crate) type Key = u16;

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) index: Index,
    pub(crate) term: Term,
}

/// What was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Set(Value),
    Delete,
    CompareAndSet {
        /// The revision that the key must have; none: it must be absent.
        expected: Option<Index>,
        value: Value,
    },
    Get,
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// A write was committed there, and did what it said.
    Applied(Place),
    /// A compare-and-set was committed there, and did nothing, as the key had this revision.
    Failed { at: Place, found: Option<Index> },
    /// A read saw the log up to there, and found this revision and value.
    Read { at: Place, found: Option<(Index, Value)> },
    /// A write may have happened, may happen yet, or never.
    Open,
}

/// One call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) key: Key,
    pub(crate) action: Action,
    pub(crate) called: Tick,
    /// Means nothing if the outcome is open.
    pub(crate) returned: Tick,
    pub(crate) outcome: Outcome,
}

/// Where all clients write down their calls.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    clock: AtomicU64,
    values: AtomicU64,
    acknowledged: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// A number greater than all before.
    pub(crate) fn tick(&self) -> Tick {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A value that nobody has written yet.
    pub(crate) fn new_value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes down a call that has just ended.
    pub(crate) fn record(&self, key: Key, action: Action, called: Tick, outcome: Outcome) {
        let returned = self.tick();
        if outcome != Outcome::Open {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.calls.lock().unwrap().push(Call { key, action, called, returned, outcome });
    }

    /// Calls that were answered, so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Everything written down; nobody else may be writing.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

/// What a value's bytes begin with.
const VALUE_HEAD: &str = "value";

/// Length of a value that has more than its number: up to about this.
const VALUE_BYTES: u64 = 600;

/// The bytes of a value: its number, and as much after it as follows from the number.
pub(crate) fn value_bytes(value: Value) -> Vec<u8> {
    let mut bytes = format!("{VALUE_HEAD} {value} ").into_bytes();
    let filler = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    bytes.extend((0..filler % VALUE_BYTES).map(|at| b'a' + ((filler ^ at) % 26) as u8));
    bytes
}

/// Which value these bytes are; none if they are none that was ever written.
pub(crate) fn value_of(bytes: &[u8]) -> Option<Value> {
    let mut words = bytes.splitn(3, |byte| *byte == b' ');
    if words.next()? != VALUE_HEAD.as_bytes() {
        return None;
    }
    let value = str::from_utf8(words.next()?).ok()?.parse().ok()?;
    (value_bytes(value) == bytes).then_some(value)
}

#[test]
fn a_value_is_known_by_its_bytes_and_only_whole() {
    for value in [0, 1, 7, 1_000_000] {
        let mut bytes = value_bytes(value);
        assert_eq!(value_of(&bytes), Some(value));
        bytes.push(b'a');
        assert_eq!(value_of(&bytes), None);
    }
}
