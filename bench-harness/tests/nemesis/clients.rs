//! Clients that call all the time, and write down what they were told.
//!
//! Most are in a hurry: who gives them no answer is left. Some are patient readers, who now and then ask a node that
//! does not answer, and wait: a leader that was stopped finds what they asked after it had been followed by another, and
//! must not answer it from its memory.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate_client::{Client, Error, ErrorKind, Expected, Receipt, Refusal, WriteResult, Written};
use quorate_protocol::Index;
use smol::{LocalExecutor, Timer};

use super::history::{Action, Key, Outcome, Place, Recorder, Value, value_bytes, value_of};

/// Of one call: long enough for a write without faults, short enough that a client outlives many.
pub(crate) const CALL: Duration = Duration::from_millis(500);

/// Of one call of a patient reader: its first try, which takes half of it, is longer than a process is stopped.
const PATIENT_CALL: Duration = Duration::from_secs(8);

/// Up to so long after one call a patient reader makes the next.
const PATIENT_PAUSE: Duration = Duration::from_millis(1500);

/// Patient readers, on one connection for each server.
const PATIENT_READERS: usize = 8;

/// A server that accepts no connection is left after this.
const CONNECT: Duration = Duration::from_millis(200);

/// After a call that was refused.
const PAUSE: Duration = Duration::from_millis(10);

/// What is called, and by how many.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Each begins at another server.
    pub(crate) connections: usize,
    /// On each connection, one call each at a time.
    pub(crate) callers: usize,
    /// Keys 0 to this, less one.
    pub(crate) keys: Key,
    /// Between two calls of a caller.
    pub(crate) pause: Duration,
    /// Of each call.
    pub(crate) deadline: Duration,
    /// Whether there are patient readers, too.
    pub(crate) patient: bool,
    pub(crate) seed: u64,
}

/// The clients, in a thread of their own.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// An answer that no fault explains.
    trouble: Mutex<Option<String>>,
    counts: Mutex<Counts>,
}

/// How the calls ended that were not answered, and when.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    /// Nothing was done.
    pub(crate) refused: u64,
    /// Their outcome is unknown.
    pub(crate) unknown: u64,
    /// What the latest call of all, answered or not, took beyond its deadline.
    pub(crate) latest: Duration,
}

impl Clients {
    /// How calls ended so far.
    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts.lock().unwrap()
    }

    pub(crate) fn start(servers: Vec<String>, load: Load, recorder: Arc<Recorder>) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(&servers, &load, &recorder, &shared)
        });
        Self { shared, thread }
    }

    /// The first answer that no fault explains.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap().clone()
    }

    /// Ends the calling; all calls have ended then.
    pub(crate) fn stop(self) -> Option<String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.shared.trouble.lock().unwrap().take()
    }
}

/// A client of these servers, whose first choice is the one at this place.
fn connect(servers: &[String], first: usize, deadline: Duration, executor: &LocalExecutor<'_>) -> Client {
    let mut servers = servers.to_vec();
    let count = servers.len();
    servers.rotate_left(first % count);
    let builder = Client::builder().servers(servers).deadline(deadline).connect_timeout(CONNECT);
    let (client, driver) = builder.build().unwrap();
    executor.spawn(driver).detach();
    client
}

fn run(servers: &[String], load: &Load, recorder: &Recorder, shared: &Shared) {
    let executor = LocalExecutor::new();
    let known: Rc<[Cell<Option<Index>>]> = (0..load.keys).map(|_| Cell::new(None)).collect();
    let mut callers = Vec::new();
    let mut start = |client: &Client, patient| {
        let seed = load.seed.wrapping_add(callers.len() as u64);
        let caller = Caller {
            client: client.clone(),
            random: fastrand::Rng::with_seed(seed),
            known: Rc::clone(&known),
            pause: load.pause,
            deadline: if patient { PATIENT_CALL } else { load.deadline },
            patient,
        };
        callers.push(executor.spawn(caller.call_until_stopped(recorder, shared)));
    };
    for connection in 0..load.connections {
        let client = connect(servers, connection, load.deadline, &executor);
        (0..load.callers).for_each(|_| start(&client, false));
    }
    for server in (0..servers.len()).filter(|_| load.patient) {
        let client = connect(servers, server, PATIENT_CALL, &executor);
        (0..PATIENT_READERS).for_each(|_| start(&client, true));
    }
    smol::block_on(executor.run(async {
        for caller in callers {
            caller.await;
        }
    }));
}

/// One of them.
struct Caller {
    client: Client,
    random: fastrand::Rng,
    /// Revisions of the keys as somebody last saw them, which may be some time ago.
    known: Rc<[Cell<Option<Index>>]>,
    pause: Duration,
    deadline: Duration,
    /// Whether it only reads, seldom, and waits for its answers.
    patient: bool,
}

impl Caller {
    async fn call_until_stopped(mut self, recorder: &Recorder, shared: &Shared) {
        while !shared.stop.load(Ordering::Relaxed) {
            let key = self.random.u16(..self.known.len() as Key);
            let action = self.choose(key, recorder);
            let began = Instant::now();
            let called = call(&self.client, recorder, key, action).await;
            self.count(&called, began.elapsed(), shared);
            let pause = match called {
                Ok(outcome) => {
                    self.learn(key, action, outcome);
                    self.next_pause()
                }
                Err(error) if is_of_the_moment(&error) => self.pause.max(PAUSE),
                Err(error) => {
                    shared.trouble.lock().unwrap().get_or_insert(format!("{action:?}: {error:?}"));
                    return;
                }
            };
            if !pause.is_zero() {
                Timer::after(pause).await;
            }
        }
    }

    fn count(&self, called: &Result<Outcome, Error>, took: Duration, shared: &Shared) {
        let mut counts = shared.counts.lock().unwrap();
        counts.latest = counts.latest.max(took.saturating_sub(self.deadline));
        match called {
            Ok(Outcome::Open) => counts.unknown += 1,
            Ok(_) => {}
            Err(_) => counts.refused += 1,
        }
    }

    fn next_pause(&mut self) -> Duration {
        if self.patient { PATIENT_PAUSE.mul_f64(self.random.f64()) } else { self.pause }
    }

    fn choose(&mut self, key: Key, recorder: &Recorder) -> Action {
        match self.random.u8(..10) {
            _ if self.patient => Action::Get,
            0..4 => Action::Get,
            4..6 => Action::Set(recorder.new_value()),
            6 => Action::Delete,
            _ => Action::CompareAndSet {
                expected: self.known[usize::from(key)].get(),
                value: recorder.new_value(),
            },
        }
    }

    fn learn(&self, key: Key, action: Action, outcome: Outcome) {
        let revision = match (action, outcome) {
            (_, Outcome::Open) => return,
            (Action::Delete, Outcome::Applied(_)) => None,
            (_, Outcome::Applied(at)) => Some(at.index),
            (_, Outcome::Failed { found, .. }) => found,
            (_, Outcome::Read { found, .. }) => found.map(|(revision, _)| revision),
        };
        self.known[usize::from(key)].set(revision);
    }
}

/// Whether an error is what a client meets while something is broken: nothing was done.
pub(crate) fn is_of_the_moment(error: &Error) -> bool {
    error.kind() == ErrorKind::Retryable || matches!(error, Error::Refused(Refusal::Blocked(_)))
}

/// Makes one call, and writes it down unless nothing was done. An error: nothing was.
pub(crate) async fn call(
    client: &Client,
    recorder: &Recorder,
    key: Key,
    action: Action,
) -> Result<Outcome, Error> {
    let called = recorder.tick();
    match ask(client, key_name(key), action).await {
        Ok(outcome) => {
            recorder.record(key, action, called, outcome);
            Ok(outcome)
        }
        Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
            recorder.record(key, action, called, Outcome::Open);
            Ok(Outcome::Open)
        }
        Err(error) => Err(error),
    }
}

async fn ask(client: &Client, key: String, action: Action) -> Result<Outcome, Error> {
    match action {
        Action::Set(value) => client.set(key, value_bytes(value)).await.map(|written| outcome(&written)),
        Action::Delete => client.delete(key).await.map(|written| outcome(&written)),
        Action::CompareAndSet { expected, value } => {
            let expected = expected.map_or(Expected::Absent, Expected::Revision);
            let written = client.compare_and_set(key, expected, value_bytes(value)).await;
            written.map(|written| outcome(&written))
        }
        Action::Get => client.get(key).await.map(|lookup| Outcome::Read {
            at: Place { index: lookup.token.index(), term: lookup.token.term() },
            // What is no value at all is one that nobody wrote.
            found: lookup
                .value
                .map(|stored| (stored.revision, value_of(&stored.value).unwrap_or(Value::MAX))),
        }),
    }
}

fn outcome(written: &Written) -> Outcome {
    let Receipt { term, index, .. } = written.receipt;
    let at = Place { index, term };
    match written.result {
        Some(WriteResult::ConditionFailed { revision, .. }) => Outcome::Failed { at, found: revision },
        _ => Outcome::Applied(at),
    }
}

fn key_name(key: Key) -> String {
    format!("key/{key}")
}
