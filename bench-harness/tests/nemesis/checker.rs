//! Whether a history is linearizable, decided exactly by the places in the log that the answers name.
//!
//! A committed write says at which index it is, and a read up to which index it has seen the log: so each answered
//! call has a **position**, 2·index for a write and 2·index + 1 for a read, and nothing has to be searched. Calls in
//! the order of their positions are a witness if
//!
//! 1. a call that was made after another had returned does not stand before it, over all keys;
//! 2. no two writes have one index, and terms rise with indexes;
//! 3. every call found in its key what stands before it there.
//!
//! A write of unknown outcome has no position until somebody reads its value, which is nobody else's; then it has
//! that one, and not before its call. Two things are seen without a value: that a key is gone, and the revision
//! which a failed compare-and-set found. They are explained by an open write that could stand there; each explains
//! one, and whether there are enough is Hall's condition on their earliest positions.
//!
//! More is asked than linearizability of each key: a token that says too much is a violation, too. It leaves out
//! whether an open compare-and-set that explains something without a value found what it expected.

use std::collections::{BTreeMap, HashMap};

use super::history::{Action, Call, Key, Outcome, Place, Value};
use quorate_protocol::Index;

/// Twice an index, plus one for a read.
type Position = u64;

/// What a history that is right consisted of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Summary {
    /// Calls that were answered.
    pub(crate) answered: u64,
    /// Of them, reads.
    pub(crate) reads: u64,
    /// Of them, compare-and-sets that found something else.
    pub(crate) failed: u64,
    /// Writes of unknown outcome.
    pub(crate) open: u64,
    /// Of them, those that were seen to have happened.
    pub(crate) open_seen: u64,
    /// Terms that answers were given in: one more than there were changes of the leader that clients saw.
    pub(crate) terms: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.reads += other.reads;
        self.failed += other.failed;
        self.open += other.open;
        self.open_seen += other.open_seen;
        self.terms += other.terms;
    }
}

/// Checks a history. The error says what is wrong, and which calls show it.
pub(crate) fn check(calls: &[Call]) -> Result<Summary, String> {
    let floors = check_times(calls)?;
    let terms = check_places(calls)?;
    let mut open_seen = 0;
    for (key, calls) in by_key(calls, &floors) {
        let seen = KeyCheck::new(calls).check();
        open_seen += seen.map_err(|violation| format!("key {key}: {violation}"))?;
    }
    let count =
        |wanted: fn(&Outcome) -> bool| calls.iter().filter(|call| wanted(&call.outcome)).count() as u64;
    let open = count(|outcome| matches!(outcome, Outcome::Open));
    Ok(Summary {
        answered: calls.len() as u64 - open,
        reads: count(|outcome| matches!(outcome, Outcome::Read { .. })),
        failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
        open,
        open_seen,
        terms,
    })
}

fn place(call: &Call) -> Option<Place> {
    match call.outcome {
        Outcome::Applied(at) | Outcome::Failed { at, .. } | Outcome::Read { at, .. } => Some(at),
        Outcome::Open => None,
    }
}

fn position(call: &Call) -> Option<Position> {
    let is_read = matches!(call.outcome, Outcome::Read { .. });
    place(call).map(|at| 2 * at.index + u64::from(is_read))
}

/// Condition 1. Returns the highest position that had returned before each call was made: it cannot stand lower.
fn check_times(calls: &[Call]) -> Result<Vec<Position>, String> {
    let begins = calls.iter().enumerate().map(|(at, call)| (call.called, at, None));
    let ends =
        calls.iter().enumerate().filter_map(|(at, call)| Some((call.returned, at, Some(position(call)?))));
    let mut events: Vec<_> = begins.chain(ends).collect();
    events.sort_unstable_by_key(|(tick, ..)| *tick);
    let mut floors = vec![0; calls.len()];
    let mut highest = (0, None);
    for (_, at, ended) in events {
        match ended {
            None => floors[at] = highest.0,
            Some(position) => {
                // Only reads may share a position.
                if position < floors[at] || (position == floors[at] && position % 2 == 0) {
                    let before = last_before(calls, &calls[at]);
                    return Err(format!("{:?} stands before {before:?}, which had returned", calls[at]));
                }
                if position > highest.0 {
                    highest = (position, Some(at));
                }
            }
        }
    }
    Ok(floors)
}

/// Of the calls that had returned before this one was made, the one of the highest position.
fn last_before<'a>(calls: &'a [Call], call: &Call) -> Option<&'a Call> {
    let before = calls.iter().filter(|other| position(other).is_some() && other.returned < call.called);
    before.max_by_key(|other| position(other))
}

/// Condition 2. Returns the number of terms.
fn check_places(calls: &[Call]) -> Result<u64, String> {
    let mut places: Vec<_> = calls
        .iter()
        .enumerate()
        .filter_map(|(at, call)| Some((place(call)?, !matches!(call.outcome, Outcome::Read { .. }), at)))
        .collect();
    places.sort_unstable();
    let mut terms = u64::from(!places.is_empty());
    // A write sorts after the reads of its index.
    for pair in places.windows(2) {
        let ((one, one_writes, one_at), (other, other_writes, other_at)) = (pair[0], pair[1]);
        let shown = || format!("{:?} and {:?}", calls[one_at], calls[other_at]);
        if one.index == other.index && one.term != other.term {
            return Err(format!("one index in two terms: {}", shown()));
        }
        if one.index == other.index && one_writes && other_writes {
            return Err(format!("one index for two writes: {}", shown()));
        }
        if other.term < one.term {
            return Err(format!("a term falls: {}", shown()));
        }
        terms += u64::from(other.term > one.term);
    }
    Ok(terms)
}

type KeyCalls<'a> = Vec<(&'a Call, Position)>;

/// The calls of each key, with their floors.
fn by_key<'a>(calls: &'a [Call], floors: &[Position]) -> BTreeMap<Key, KeyCalls<'a>> {
    let mut keys: BTreeMap<Key, KeyCalls<'a>> = BTreeMap::new();
    for (call, floor) in calls.iter().zip(floors) {
        keys.entry(call.key).or_default().push((call, *floor));
    }
    keys
}

fn written(action: &Action) -> Option<Value> {
    match action {
        Action::Set(value) | Action::CompareAndSet { value, .. } => Some(*value),
        Action::Delete | Action::Get => None,
    }
}

/// What is known of a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    Value(Value),
    Deleted,
    /// Somebody met the revision, nobody its value.
    Unseen,
}

/// Condition 3, for one key.
struct KeyCheck<'a> {
    calls: KeyCalls<'a>,
    /// Which call writes a value.
    writers: HashMap<Value, usize>,
    versions: BTreeMap<Index, Version>,
    /// Where open writes were seen to stand.
    seen: HashMap<usize, Index>,
    /// What was found just before a position: a revision, or nothing.
    found: Vec<(Position, Option<Index>)>,
}

impl<'a> KeyCheck<'a> {
    fn new(calls: KeyCalls<'a>) -> Self {
        let writers =
            calls.iter().enumerate().filter_map(|(at, (call, _))| Some((written(&call.action)?, at)));
        let writers = writers.collect();
        Self { calls, writers, versions: BTreeMap::new(), seen: HashMap::new(), found: Vec::new() }
    }

    /// Returns how many open writes were seen.
    fn check(mut self) -> Result<u64, String> {
        self.take_acknowledged();
        self.take_reads()?;
        self.take_expected()?;
        self.take_unseen();
        self.found.sort_unstable();
        let deletes = self.walk()?;
        let sets = self.versions.iter().filter(|(_, version)| **version == Version::Unseen);
        let sets: Vec<_> = sets.map(|(revision, _)| 2 * revision).collect();
        self.explain("a key that is gone", &deletes, |action| matches!(action, Action::Delete))?;
        self.explain("a revision", &sets, |action| written(action).is_some())?;
        Ok((self.seen.len() + deletes.len() + sets.len()) as u64)
    }

    /// The versions that acknowledged writes made.
    fn take_acknowledged(&mut self) {
        for (call, _) in &self.calls {
            if let Outcome::Applied(at) = call.outcome {
                let version = written(&call.action).map_or(Version::Deleted, Version::Value);
                self.versions.insert(at.index, version);
            }
        }
    }

    /// What reads found; with it the places of open writes.
    fn take_reads(&mut self) -> Result<(), String> {
        for (call, _) in self.calls.clone() {
            let Outcome::Read { at, found } = call.outcome else { continue };
            self.found.push((2 * at.index + 1, found.map(|(revision, _)| revision)));
            if let Some((revision, value)) = found {
                self.take_value(revision, value).map_err(|what| format!("{what}: {call:?}"))?;
            }
        }
        Ok(())
    }

    fn take_value(&mut self, revision: Index, value: Value) -> Result<(), String> {
        let Some(writer) = self.writers.get(&value).copied() else {
            return Err("a value from nowhere".to_owned());
        };
        let (call, floor) = self.calls[writer];
        let stands_at = match call.outcome {
            Outcome::Applied(at) => at.index,
            Outcome::Open if 2 * revision <= floor => {
                return Err(format!("a value before {call:?}, which wrote it"));
            }
            Outcome::Open => *self.seen.entry(writer).or_insert(revision),
            Outcome::Failed { .. } | Outcome::Read { .. } => {
                return Err(format!("a value that {call:?} did not write"));
            }
        };
        if stands_at != revision {
            return Err(format!("the value of revision {stands_at} at revision {revision}"));
        }
        match self.versions.insert(revision, Version::Value(value)) {
            Some(other) if other != Version::Value(value) => {
                Err(format!("revision {revision} was {other:?}"))
            }
            _ => Ok(()),
        }
    }

    /// What compare-and-sets found: what they expected, or something else.
    fn take_expected(&mut self) -> Result<(), String> {
        for (at, (call, _)) in self.calls.iter().enumerate() {
            let Action::CompareAndSet { expected, .. } = call.action else { continue };
            match call.outcome {
                Outcome::Applied(place) => self.found.push((2 * place.index, expected)),
                Outcome::Failed { found, .. } if found == expected => {
                    return Err(format!("a condition that held and failed: {call:?}"));
                }
                Outcome::Failed { at, found } => self.found.push((2 * at.index, found)),
                Outcome::Open | Outcome::Read { .. } => {
                    self.found.extend(self.seen.get(&at).map(|revision| (2 * revision, expected)));
                }
            }
        }
        Ok(())
    }

    /// Revisions that were found and that nothing known has.
    fn take_unseen(&mut self) {
        for revision in self.found.iter().filter_map(|(_, found)| *found) {
            self.versions.entry(revision).or_insert(Version::Unseen);
        }
    }

    /// Goes along the log: each finding must be the version before it. Returns before which positions an unknown
    /// delete must stand, one for each time that a value was gone.
    fn walk(&self) -> Result<Vec<Position>, String> {
        let mut deletes = Vec::new();
        let mut versions = self.versions.iter().peekable();
        let mut present = None;
        // Where the present version was last seen.
        let mut last_seen = 0;
        for (position, found) in &self.found {
            while let Some((revision, version)) = versions.next_if(|(revision, _)| 2 * **revision < *position)
            {
                present = (*version != Version::Deleted).then_some(*revision);
                last_seen = 2 * revision;
            }
            match (present, *found) {
                (present, found) if present == found => last_seen = *position,
                // Some index is between the two.
                (Some(_), None) if (last_seen / 2 + 1) * 2 < *position => {
                    deletes.push(*position);
                    present = None;
                }
                (present, found) => {
                    let (half, place) = (position % 2, position / 2);
                    let when = if half == 1 { "after" } else { "before" };
                    return Err(format!(
                        "revision {found:?} was found {when} index {place}, where it was {present:?}: {:?}",
                        self.calls_at(*position)
                    ));
                }
            }
        }
        Ok(deletes)
    }

    fn calls_at(&self, wanted: Position) -> Vec<&Call> {
        self.calls.iter().map(|(call, _)| *call).filter(|call| position(call) == Some(wanted)).collect()
    }

    /// Whether there is an open write for each of these, that was not seen elsewhere and was called in time.
    fn explain(&self, what: &str, wanted: &[Position], does: fn(&Action) -> bool) -> Result<(), String> {
        let unseen = self.calls.iter().enumerate().filter(|(at, (call, _))| {
            call.outcome == Outcome::Open && does(&call.action) && !self.seen.contains_key(at)
        });
        let mut floors: Vec<_> = unseen.map(|(_, (_, floor))| *floor).collect();
        floors.sort_unstable();
        // Both ascend, so the candidates of each include those of the one before.
        for (number, position) in wanted.iter().enumerate() {
            if floors.partition_point(|floor| floor < position) <= number {
                return Err(format!("{what} before position {position}, and no open write explains it"));
            }
        }
        Ok(())
    }
}
