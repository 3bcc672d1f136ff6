//! Closed-loop load: tasks that each write, wait for the answer, and write again.
//!
//! Each client is a connection of its own; all of them, and their tasks, run on the calling thread, so
//! nothing crosses threads. What a task writes follows from (seed, client, sequence) alone, so that
//! [`Record::check`] can say of any stored value whether it was written, without keeping the writes.
//!
//! A closed loop sends less when the server is slow: its latencies are those of this many callers, not of a
//! given rate. Calls that time out are counted with the time that they took.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_io::Timer;
use hdrhistogram::Histogram;
use quorate_protocol::{Index, limits};
use smol::LocalExecutor;
use thiserror::Error;

use crate::{Client, Error, ErrorKind, prefix};

/// Bytes of a value's head: client (u32 LE), sequence (u64 LE).
pub const VALUE_BYTES_MIN: usize = 12;

/// Bytes of every key: `key` and 13 digits.
pub const KEY_BYTES: usize = 16;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// How long a task pauses after a call that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// How often the stop flag is looked at. So often because a thread that rarely wakes by itself loses the
/// reactor to the runtime's helper thread, and then every answer costs a hand-over between threads.
const STOP_CHECK: Duration = Duration::from_millis(5);

/// What to load with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `HOST:PORT` each, tried in turn; the leader first saves redirects.
    pub servers: Vec<String>,
    /// Connections, at least 1.
    pub clients: u32,
    /// Tasks on each connection, at least 1.
    pub in_flight: u32,
    /// Bytes of a value, at least [`VALUE_BYTES_MIN`].
    pub value_bytes: usize,
    /// Different keys, at least 1. The record takes 16 bytes for each.
    pub keys: u64,
    /// Decides all keys and values.
    pub seed: u64,
    /// Load before anything is measured.
    pub warmup: Duration,
    /// What is measured.
    pub duration: Duration,
    /// Of each call.
    pub deadline: Duration,
}

/// Settings that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SettingsError {
    /// A number is outside its limits.
    #[error("{name} is {value}, it must be from {min} to {max}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it was.
        value: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// The client refuses them.
    #[error(transparent)]
    Client(#[from] Error),
}

/// What a running load shows and obeys.
#[derive(Debug, Default)]
pub struct Control {
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Control {
    /// Writes acknowledged so far, warm-up included.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends the run early; what was measured until then is reported.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was measured. Counts and latencies are of the calls that began in the measured time, including
/// those that ended after it.
#[derive(Debug)]
pub struct Report {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes that did not happen.
    pub refused: u64,
    /// Writes whose outcome is unknown.
    pub unknown: u64,
    /// How long was measured; less than asked for if the run was stopped.
    pub elapsed: Duration,
    /// Latencies of acknowledged and unknown writes, in nanoseconds, to three digits.
    pub latency_ns: Histogram<u64>,
    /// The last error of a write that was not acknowledged, warm-up included.
    pub last_error: Option<Error>,
    /// What the store must hold now.
    pub record: Record,
}

impl Report {
    /// Acknowledged writes per second.
    pub fn per_second(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.acknowledged as f64 / self.elapsed.as_secs_f64() }
    }
}

/// One write, by who made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct WriteId {
    client: u32,
    sequence: u64,
}

/// Of a key's acknowledged writes, the one with the highest revision; revision 0 for none.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    revision: Index,
    client: u32,
    /// The low half is enough to tell apart the writes of one key: the value has all of it.
    sequence_low: u32,
}

/// What a run wrote, warm-up included: enough to check what the store holds afterwards.
#[derive(Debug)]
pub struct Record {
    seed: u64,
    value_bytes: usize,
    acknowledged: Vec<Acknowledged>,
    unknown: HashSet<WriteId>,
}

/// A key that does not hold what it must.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// An acknowledged write is gone.
    #[error("key {key}: the write acknowledged at revision {acknowledged} is lost, the store has {stored:?}")]
    Lost {
        /// The key's number.
        key: u64,
        /// The highest acknowledged revision.
        acknowledged: Index,
        /// What the store has instead.
        stored: Option<Index>,
    },
    /// The value is not that of the write that was acknowledged at this revision.
    #[error("key {key}: the value at revision {revision} is not the one that was acknowledged")]
    OtherValue {
        /// The key's number.
        key: u64,
        /// The stored revision.
        revision: Index,
    },
    /// The value is of no write that may stand here: one of another key, one that was acknowledged at
    /// another revision or refused, or none at all.
    #[error("key {key}: nothing that was written explains the value at revision {revision}")]
    Unexplained {
        /// The key's number.
        key: u64,
        /// The stored revision.
        revision: Index,
    },
}

impl Record {
    /// How many different keys were written to, at most: their numbers are below this.
    pub fn keys(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Checks what the store holds of key number `key`: its revision and value, none if it is absent.
    ///
    /// The revision must be at least the highest acknowledged; if equal, the value must be that write's; if
    /// higher, that of a write whose outcome is unknown.
    pub fn check(&self, key: u64, stored: Option<(Index, &[u8])>) -> Result<(), Violation> {
        let Some(acknowledged) = self.acknowledged.get(key as usize) else {
            return match stored {
                Some((revision, _)) => Err(Violation::Unexplained { key, revision }),
                None => Ok(()),
            };
        };
        let (revision, value) = match stored {
            None if acknowledged.revision == 0 => return Ok(()),
            Some((revision, value)) if revision >= acknowledged.revision => (revision, value),
            _ => {
                let stored = stored.map(|(revision, _)| revision);
                return Err(Violation::Lost { key, acknowledged: acknowledged.revision, stored });
            }
        };
        let write = self.writer(key, value);
        if revision == acknowledged.revision {
            return match write {
                Some(write) if acknowledged.is(write) => Ok(()),
                _ => Err(Violation::OtherValue { key, revision }),
            };
        }
        match write {
            Some(write) if self.unknown.contains(&write) => Ok(()),
            _ => Err(Violation::Unexplained { key, revision }),
        }
    }

    /// Checks all keys of the store, one linearizable scan after a run.
    pub async fn verify(&self, client: &Client) -> Result<Vec<Violation>, Error> {
        let mut violations = Vec::new();
        let mut expected = 0;
        let mut pages = client.scan_pages(prefix(b"key"), limits::SCAN_ITEMS_MAX);
        while let Some(page) = pages.next().await {
            for item in page?.items {
                let Some(key) = key_number(&item.key) else { continue };
                violations.extend((expected..key).filter_map(|absent| self.check(absent, None).err()));
                violations.extend(self.check(key, Some((item.revision, &item.value))).err());
                expected = key + 1;
            }
        }
        violations.extend((expected..self.keys()).filter_map(|absent| self.check(absent, None).err()));
        Ok(violations)
    }

    /// The write that gave key number `key` this value, whether or not it was sent.
    fn writer(&self, key: u64, value: &[u8]) -> Option<WriteId> {
        let (client, rest) = value.split_first_chunk::<4>()?;
        let sequence = rest.first_chunk::<8>()?;
        let write = WriteId { client: u32::from_le_bytes(*client), sequence: u64::from_le_bytes(*sequence) };
        let mut expected = vec![0; self.value_bytes];
        let expected_key = write.content(self.seed, self.keys(), &mut expected);
        (expected_key == key && expected == value).then_some(write)
    }

    fn acknowledge(&mut self, key: u64, revision: Index, write: WriteId) {
        let highest = &mut self.acknowledged[key as usize];
        if revision > highest.revision {
            let sequence_low = write.sequence as u32;
            *highest = Acknowledged { revision, client: write.client, sequence_low };
        }
    }
}

impl Acknowledged {
    fn is(self, write: WriteId) -> bool {
        self.client == write.client && self.sequence_low == write.sequence as u32
    }
}

impl WriteId {
    /// Fills in the value, and returns the number of the key.
    fn content(self, seed: u64, keys: u64, value: &mut [u8]) -> u64 {
        let who = (u64::from(self.client) << 40).wrapping_add(self.sequence);
        let mut random = fastrand::Rng::with_seed(seed ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let key = random.u64(0..keys);
        let (head, body) = value.split_at_mut(VALUE_BYTES_MIN);
        head[..4].copy_from_slice(&self.client.to_le_bytes());
        head[4..].copy_from_slice(&self.sequence.to_le_bytes());
        random.fill(body);
        key
    }
}

/// The key with this number.
pub fn key(mut number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key0000000000000";
    for digit in key[3..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// The number of a key; none if it is none of the load's.
pub fn key_number(bytes: &[u8]) -> Option<u64> {
    let number = str::from_utf8(bytes.strip_prefix(b"key")?).ok()?.parse().ok()?;
    (key(number) == bytes).then_some(number)
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        let range = |name, value, min, max| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(SettingsError::Range { name, value, min, max }),
        };
        range("clients", self.clients.into(), 1, 10_000)?;
        range("in flight", self.in_flight.into(), 1, 1 << 20)?;
        range(
            "value bytes",
            self.value_bytes as u64,
            VALUE_BYTES_MIN as u64,
            limits::VALUE_BYTES_MAX as u64,
        )?;
        range("keys", self.keys, 1, 1 << 30)
    }
}

/// Loads the cluster, and returns when it has been measured, or was stopped and all calls have ended.
///
/// Blocks the calling thread, which is the one that everything runs on.
pub fn run(settings: &Settings, control: &Control) -> Result<Report, SettingsError> {
    settings.check()?;
    let executor = LocalExecutor::new();
    let tally = Rc::new(Tally::new(settings));
    let mut tasks = Vec::new();
    for number in 0..settings.clients {
        let (client, driver) = Client::builder()
            .servers(settings.servers.iter().cloned())
            .deadline(settings.deadline)
            .in_flight_max(settings.in_flight as usize)
            .build()?;
        executor.spawn(driver).detach();
        let writer = Rc::new(Writer { number, client, sequence: Cell::new(0) });
        for _ in 0..settings.in_flight {
            tasks.push(executor.spawn(write(writer.clone(), tally.clone(), settings, control)));
        }
    }
    let clock = tally.clone();
    let main = executor.spawn(async move {
        keep_time(&clock, settings, control).await;
        for task in tasks {
            task.await;
        }
    });
    smol::block_on(executor.run(main));
    // The drivers hold nothing of the tally.
    drop(executor);
    let tally = Rc::into_inner(tally).expect("every task has ended");
    Ok(tally.report())
}

/// One connection.
struct Writer {
    number: u32,
    client: Client,
    sequence: Cell<u64>,
}

/// What all tasks share.
struct Tally {
    /// When measuring began and ended.
    began: Cell<Option<Instant>>,
    ended: Cell<Option<Instant>>,
    counts: RefCell<Counts>,
}

struct Counts {
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    latency_ns: Histogram<u64>,
    last_error: Option<Error>,
    record: Record,
}

impl Tally {
    fn new(settings: &Settings) -> Self {
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3)
            .expect("the bounds are constants that a histogram can have");
        let record = Record {
            seed: settings.seed,
            value_bytes: settings.value_bytes,
            acknowledged: vec![Acknowledged::default(); settings.keys as usize],
            unknown: HashSet::new(),
        };
        let counts = Counts { acknowledged: 0, refused: 0, unknown: 0, latency_ns, last_error: None, record };
        Self { began: Cell::new(None), ended: Cell::new(None), counts: RefCell::new(counts) }
    }

    fn report(self) -> Report {
        let elapsed = match (self.began.get(), self.ended.get()) {
            (Some(began), Some(ended)) => ended - began,
            _ => Duration::ZERO,
        };
        let Counts { acknowledged, refused, unknown, latency_ns, last_error, record } =
            self.counts.into_inner();
        Report { acknowledged, refused, unknown, elapsed, latency_ns, last_error, record }
    }
}

/// Says when measuring begins, and when it is over.
async fn keep_time(tally: &Tally, settings: &Settings, control: &Control) {
    let start = Instant::now();
    if wait_until(start + settings.warmup, control).await {
        let began = Instant::now();
        tally.began.set(Some(began));
        wait_until(began + settings.duration, control).await;
    }
    tally.ended.set(Some(Instant::now()));
    control.stop();
}

/// False if it was stopped before.
async fn wait_until(end: Instant, control: &Control) -> bool {
    loop {
        if control.stop.load(Ordering::Relaxed) {
            return false;
        }
        let now = Instant::now();
        if now >= end {
            return true;
        }
        Timer::at(end.min(now + STOP_CHECK)).await;
    }
}

async fn write(writer: Rc<Writer>, tally: Rc<Tally>, settings: &Settings, control: &Control) {
    let mut value = vec![0; settings.value_bytes];
    while !control.stop.load(Ordering::Relaxed) {
        let write = WriteId { client: writer.number, sequence: writer.sequence.get() };
        writer.sequence.set(write.sequence + 1);
        let number = write.content(settings.seed, settings.keys, &mut value);
        let key = key(number);
        let began = Instant::now();
        let result = writer.client.set(key, &value).await;
        let latency = began.elapsed();
        let measured = tally.began.get().is_some_and(|start| began >= start);
        let measured = measured.then_some(latency);
        let failed = tally.counts.borrow_mut().add(result, number, write, measured);
        if failed {
            Timer::after(FAILURE_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        } else {
            control.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counts {
    /// Takes in one result, with its latency if it is measured, and says whether it was a failure.
    fn add(
        &mut self,
        result: Result<crate::Written, Error>,
        key: u64,
        write: WriteId,
        latency: Option<Duration>,
    ) -> bool {
        let (count, timed) = match &result {
            Ok(written) => {
                self.record.acknowledge(key, written.revision(), write);
                (&mut self.acknowledged, true)
            }
            Err(error) if is_unknown(error) => {
                self.record.unknown.insert(write);
                (&mut self.unknown, true)
            }
            Err(_) => (&mut self.refused, false),
        };
        if let Some(latency) = latency {
            *count += 1;
            if timed {
                self.latency_ns.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        let failed = result.is_err();
        self.last_error = result.err().or(self.last_error.take());
        failed
    }
}

/// An answer that does not fit may belong to a write that happened.
fn is_unknown(error: &Error) -> bool {
    error.kind() == ErrorKind::OutcomeUnknown || *error == Error::BadAnswer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let acknowledged = vec![Acknowledged::default(); 1];
        Record { seed: 7, value_bytes: 40, acknowledged, unknown: HashSet::new() }
    }

    fn value(client: u32, sequence: u64) -> Vec<u8> {
        let mut value = vec![0; 40];
        WriteId { client, sequence }.content(7, 1, &mut value);
        value
    }

    #[test]
    fn keys_and_numbers_are_the_same() {
        assert_eq!(&key(42), b"key0000000000042");
        assert_eq!(key_number(b"key0000000000042"), Some(42));
        assert_eq!(key_number(b"key42"), None);
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        let mut record = record();
        record.acknowledge(0, 9, WriteId { client: 1, sequence: 2 });
        assert_eq!(record.check(0, Some((9, &value(1, 2)))), Ok(()));
        let lost = |stored| Err(Violation::Lost { key: 0, acknowledged: 9, stored });
        assert_eq!(record.check(0, None), lost(None));
        assert_eq!(record.check(0, Some((8, &value(1, 1)))), lost(Some(8)));
    }

    #[test]
    fn another_value_at_the_acknowledged_revision_is_found() {
        let mut record = record();
        record.acknowledge(0, 9, WriteId { client: 1, sequence: 2 });
        let other = Err(Violation::OtherValue { key: 0, revision: 9 });
        assert_eq!(record.check(0, Some((9, &value(1, 3)))), other);
        let mut damaged = value(1, 2);
        damaged[39] ^= 1;
        assert_eq!(record.check(0, Some((9, &damaged))), other);
    }

    #[test]
    fn a_later_revision_is_explained_only_by_an_unknown_write() {
        let mut record = record();
        record.acknowledge(0, 9, WriteId { client: 1, sequence: 2 });
        let unexplained = Err(Violation::Unexplained { key: 0, revision: 12 });
        assert_eq!(record.check(0, Some((12, &value(1, 3)))), unexplained);
        assert_eq!(record.check(0, Some((12, &value(1, 2)))), unexplained, "applied twice");
        record.unknown.insert(WriteId { client: 1, sequence: 3 });
        assert_eq!(record.check(0, Some((12, &value(1, 3)))), Ok(()));
    }
}
