//! Exactly-once writes and sessions on real processes, while leaders are killed (T13, T14).
//!
//! Each client counts on a key of its own, which nobody else writes: the next value is set if the key has the revision
//! that the client's last write gave it. A write that was done twice, or one that was answered and is gone, meets
//! another revision than it expects, so that every single answer shows it; and in the end each key holds what its client
//! has counted. Between two writes the client reads its key in its session, from one replica after the other: it must
//! see its own last write, never less.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quorate_client::{Client, Consistency, Error, ErrorKind, Expected, ReadFrom};
use quorate_protocol::{Index, Quorums};

use super::clients::{CALL, Load};
use super::scene::{Scene, Setup};
use super::support::wait_for;
use super::{machine, seed, setting};

const COUNTERS: usize = 16;

/// Of each call: longer than a failover takes.
const DEADLINE: Duration = Duration::from_secs(5);

/// Leaders that are killed, unless `QUORATE_FAILOVERS` says otherwise.
const KILLS: u64 = 2;

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    counted: AtomicU64,
    reads: AtomicU64,
    unknown: AtomicU64,
}

/// One client and its key.
struct Counter {
    client: Client,
    key: String,
    value: u64,
    revision: Option<Index>,
}

impl Counter {
    async fn count(&mut self, tally: &Tally) {
        while !tally.stop.load(Ordering::Relaxed) {
            match self.step(tally).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Retryable => {}
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
                    tally.unknown.fetch_add(1, Ordering::Relaxed);
                    self.look().await;
                }
                Err(error) => panic!("{}: {error}", self.key),
            }
        }
    }

    async fn step(&mut self, tally: &Tally) -> Result<(), Error> {
        let next = self.value + 1;
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        let written = self.client.compare_and_set(&self.key, expected, next.to_string()).await?;
        assert!(written.applied(), "{}: {next} meets {:?}, not {expected:?}", self.key, written.result);
        (self.value, self.revision) = (next, Some(written.revision()));
        tally.counted.fetch_add(1, Ordering::Relaxed);
        let found = self.client.get(&self.key).consistency(Consistency::Session).await?.value;
        let found = found.map(|found| (found.value, found.revision));
        assert_eq!(found, Some((next.to_string().into_bytes(), written.revision())), "{}", self.key);
        tally.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What came of a write whose outcome is unknown: it has happened or not, and nothing else has.
    async fn look(&mut self) {
        let found = loop {
            match self.client.get(&self.key).await {
                Ok(lookup) => break lookup.value,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Retryable, "{error}"),
            }
        };
        let value = found.as_ref().map_or(0, |found| str::from_utf8(&found.value).unwrap().parse().unwrap());
        assert!(
            [self.value, self.value + 1].contains(&value),
            "{} is {value} after {}",
            self.key,
            self.value
        );
        (self.value, self.revision) = (value, found.map(|found| found.revision));
    }
}

/// Counts in a thread of its own until it is told to stop, and returns what was counted.
fn start(servers: &[String], tally: &Arc<Tally>) -> thread::JoinHandle<Vec<(String, u64)>> {
    let (servers, tally) = (servers.to_vec(), Arc::clone(tally));
    thread::spawn(move || {
        let executor = smol::LocalExecutor::new();
        let counters = (0..COUNTERS).map(|number| {
            let builder = Client::builder().servers(&servers).deadline(DEADLINE).read_from(ReadFrom::Spread);
            let client = builder.connect().unwrap();
            let mut counter = Counter { client, key: format!("counter/{number}"), value: 0, revision: None };
            let tally = &tally;
            executor.spawn(async move {
                counter.count(tally).await;
                counter.look().await;
                (counter.key, counter.value)
            })
        });
        let counters: Vec<_> = counters.collect();
        smol::block_on(executor.run(async {
            let mut counted = Vec::new();
            for counter in counters {
                counted.push(counter.await);
            }
            counted
        }))
    })
}

#[test]
fn what_is_counted_is_counted_once_and_seen_whoever_leads_and_whoever_is_asked() {
    let _machine = machine();
    let kills = setting("QUORATE_FAILOVERS").unwrap_or(KILLS);
    let load = Load {
        connections: 1,
        callers: 1,
        keys: 2,
        pause: Duration::from_millis(1),
        deadline: CALL,
        patient: false,
        seed: seed(),
    };
    let mut scene = Scene::start(Setup { quorums: Quorums::new(3, 2).unwrap(), load, checkpoint_mib: 1 });
    let tally = Arc::new(Tally::default());
    let servers: Vec<_> = scene.cluster.addresses().iter().map(ToString::to_string).collect();
    let counting = start(&servers, &tally);
    let began = Instant::now();
    for _ in 0..kills {
        let counted = tally.counted.load(Ordering::Relaxed);
        wait_for("counters that go on", || {
            (tally.counted.load(Ordering::Relaxed) > counted + 1000 || counting.is_finished()).then_some(())
        });
        let leader = wait_for("a leader", || scene.leader());
        scene.kill(leader);
        scene.wait_for_progress("after a leader was killed");
        scene.restart(leader);
    }
    tally.stop.store(true, Ordering::Relaxed);
    let counted = counting.join().unwrap();
    let sum: u64 = counted.iter().map(|(_, value)| value).sum();
    let [acknowledged, reads, unknown] =
        [&tally.counted, &tally.reads, &tally.unknown].map(|count| count.load(Ordering::Relaxed));
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&sum),
        "{sum} of {acknowledged} and {unknown} unknown"
    );
    println!(
        "{kills} leaders killed in {:.1?}: {acknowledged} counted once each, {unknown} unknown; {reads} reads in sessions \
         saw the last write",
        began.elapsed()
    );
    scene.finish();
}
