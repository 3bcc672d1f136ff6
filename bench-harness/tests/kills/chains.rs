//! An oracle that knows exactly what each of its keys must hold: chains of compare-and-set.
//!
//! Every key has one writer, which expects the revision that it last wrote. What the store answers is then
//! decided by what was acknowledged before:
//!
//! - a write that was lost, applied a second time, or done though it had been refused moves the revision, and
//!   the next one finds that nothing explains it;
//! - a write of unknown outcome stays open. All open writes of a key expect the same revision, so at most one
//!   of them was applied, and once another write follows it none ever will be;
//! - no index is acknowledged twice, whichever keys it was for.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quorate_client::{Client, Error, ErrorKind, Expected, WriteResult};
use quorate_protocol::Index;
use smol::Timer;

/// What the keys of all chains begin with.
pub(crate) const PREFIX: &str = "chain/";

/// Between two tries of a call that was refused for the moment.
const PAUSE: Duration = Duration::from_millis(5);

/// A write, and where it was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Link {
    revision: Index,
    attempt: u64,
}

/// One key, its writer, and all that the writer knows.
#[derive(Debug)]
pub(crate) struct Chain {
    number: u64,
    /// Writes tried so far. What a write wrote follows from its number.
    attempts: u64,
    /// The last that is known to have been applied.
    known: Option<Link>,
    /// Tried since, of unknown outcome.
    open: Vec<u64>,
    counts: Counts,
}

/// What became of the writes of all chains.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    /// Acknowledged as applied.
    pub(crate) applied: u64,
    /// Acknowledged as not applied, as an open write had been: an entry all the same.
    pub(crate) failed: u64,
    /// Of unknown outcome.
    pub(crate) unknown: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.failed += other.failed;
        self.unknown += other.unknown;
    }
}

impl Chain {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, attempts: 0, known: None, open: Vec::new(), counts: Counts::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn key(&self) -> String {
        format!("{PREFIX}{}", self.number)
    }

    /// What a try writes: of any length up to some pages.
    fn value(&self, attempt: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed((self.number << 40) ^ attempt);
        let mut value = format!("chain {} attempt {attempt} ", self.number).into_bytes();
        let head = value.len();
        value.resize(head + random.usize(..8000), 0);
        random.fill(&mut value[head..]);
        value
    }

    /// Tries one write. The error is a broken promise of the store.
    async fn step(&mut self, client: &Client) -> Result<Option<Index>, String> {
        let attempt = self.attempts;
        self.attempts += 1;
        let expected = self.known.map_or(Expected::Absent, |link| Expected::Revision(link.revision));
        match client.compare_and_set(self.key(), expected, self.value(attempt)).await {
            Ok(written) => {
                match written.result {
                    Some(WriteResult::ConditionFailed { revision, .. }) => {
                        self.resolve(client, revision).await?
                    }
                    _ => self.applied(written.revision(), attempt)?,
                }
                Ok(Some(written.revision()))
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::OutcomeUnknown => {
                        self.open.push(attempt);
                        self.counts.unknown += 1;
                    }
                    ErrorKind::Retryable => {}
                    ErrorKind::Refused => return Err(format!("{}: refused for good: {error}", self.key())),
                }
                Timer::after(PAUSE).await;
                Ok(None)
            }
        }
    }

    fn applied(&mut self, revision: Index, attempt: u64) -> Result<(), String> {
        self.counts.applied += 1;
        self.advance(Link { revision, attempt })
    }

    /// The store has another revision than expected: an open write must have been applied.
    async fn resolve(&mut self, client: &Client, revision: Option<Index>) -> Result<(), String> {
        self.counts.failed += 1;
        let stored = loop {
            match client.get(self.key()).await {
                Ok(lookup) => break lookup.value,
                Err(error) if error.kind() == ErrorKind::Retryable => drop(Timer::after(PAUSE).await),
                Err(error) => return Err(format!("{} cannot be read: {error}", self.key())),
            }
        };
        let stored = stored.as_ref().map(|stored| (stored.revision, stored.value.as_slice()));
        if revision != stored.map(|(revision, _)| revision) {
            let read = stored.map(|(revision, _)| revision);
            return Err(self.violation(&format!("a write met revision {revision:?}, a later read {read:?}")));
        }
        let before = self.known;
        match self.explain(stored)? {
            Some(link) if Some(link) != before => self.advance(link),
            _ => Err(self.violation("a write was told that its revision is wrong, and it is right")),
        }
    }

    fn advance(&mut self, link: Link) -> Result<(), String> {
        if self.known.is_some_and(|known| known.revision >= link.revision) {
            return Err(self.violation(&format!("{link:?} was applied before the write that it follows")));
        }
        self.known = Some(link);
        self.open.clear();
        Ok(())
    }

    /// Which write left what is stored: the last one known, or an open one.
    fn explain(&self, stored: Option<(Index, &[u8])>) -> Result<Option<Link>, String> {
        let Some((revision, value)) = stored else {
            return match self.known {
                None => Ok(None),
                Some(_) => Err(self.violation("the key is gone")),
            };
        };
        let known = self.known.map_or(0, |known| known.revision);
        let attempt = match self.known {
            Some(link) if link.revision == revision => {
                (self.value(link.attempt) == value).then_some(link.attempt)
            }
            _ if revision > known => self.open.iter().copied().find(|open| self.value(*open) == value),
            _ => None,
        };
        match attempt {
            Some(attempt) => Ok(Some(Link { revision, attempt })),
            None => {
                let head = value.split(|byte| *byte == b' ').take(4).collect::<Vec<_>>().join(&b' ');
                let head = head.escape_ascii();
                Err(self.violation(&format!("nothing explains revision {revision}, \"{head}\"")))
            }
        }
    }

    fn violation(&self, what: &str) -> String {
        format!("{}: {what}; last applied {:?}, open {:?}", self.key(), self.known, self.open)
    }
}

/// The writers of all chains, in a thread of their own.
pub(crate) struct Writers {
    shared: Arc<Shared>,
    thread: JoinHandle<Vec<Chain>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    violation: Mutex<Option<String>>,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Only the first counts: what follows may be its consequence.
    fn report(&self, violation: String) {
        self.violation.lock().unwrap().get_or_insert(violation);
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Writers {
    /// Begins to write, each chain where it was left.
    pub(crate) fn start(client: Client, chains: Vec<Chain>) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || write(&client, chains, &shared)
        });
        Self { shared, thread }
    }

    /// The first broken promise.
    pub(crate) fn violation(&self) -> Option<String> {
        self.shared.violation.lock().unwrap().clone()
    }

    /// Ends the writing; all calls have ended then. An error is a broken promise.
    pub(crate) fn stop(self) -> Result<Vec<Chain>, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let chains = self.thread.join().unwrap();
        match self.shared.violation.lock().unwrap().take() {
            Some(violation) => Err(violation),
            None => Ok(chains),
        }
    }
}

fn write(client: &Client, chains: Vec<Chain>, shared: &Shared) -> Vec<Chain> {
    let indexes = std::cell::RefCell::new(HashSet::new());
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = chains
        .into_iter()
        .map(|mut chain| {
            let indexes = &indexes;
            executor.spawn(async move {
                while !shared.is_stopped() {
                    match chain.step(client).await {
                        Ok(Some(index)) if !indexes.borrow_mut().insert(index) => {
                            shared.report(format!("index {index} was acknowledged twice"));
                        }
                        Ok(_) => {}
                        Err(violation) => shared.report(violation),
                    }
                }
                chain
            })
        })
        .collect();
    smol::block_on(executor.run(async move {
        let mut chains = Vec::new();
        for task in tasks {
            chains.push(task.await);
        }
        chains
    }))
}

/// Checks one node's copy of all chains, and returns it for comparison.
pub(crate) async fn check(
    client: &Client,
    chains: &[Chain],
) -> Result<Vec<Option<(Index, Vec<u8>)>>, String> {
    let mut copy = Vec::new();
    for chain in chains {
        let stored = client.get(chain.key()).await.map_err(|error: Error| error.to_string())?.value;
        let stored = stored.map(|stored| (stored.revision, stored.value));
        chain.explain(stored.as_ref().map(|(revision, value)| (*revision, value.as_slice())))?;
        copy.push(stored);
    }
    Ok(copy)
}
