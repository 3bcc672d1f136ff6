//! What a client sees of a follower's lag: from the acknowledgement of a write to when a read at the follower
//! finds it.
//!
//! A thread of its own writes a key for each follower now and then, and from its acknowledgement on reads that key
//! at the follower until it is there. Few probes, and a read that finds nothing is followed by a pause that grows,
//! so that they cost nothing that shows. What a client cannot see is below one round trip to the follower, which
//! every figure contains.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use quorate_client::Client;
use quorate_client::load::KeyPrefix;
use smol::Timer;

use crate::members::Members;

/// Follows the prefix in a probe's key, before the follower's number.
const PROBE: &str = "-probe-";

/// How long a written key may take to appear at a follower before the probe has failed.
const VISIBLE_TIME_MAX: Duration = Duration::from_secs(2);

/// How long one call of a probe may take.
const CALL_TIME_MAX: Duration = Duration::from_millis(500);

/// A read that found nothing is followed by a pause of a part of what the probe has lasted.
const PAUSE_PART: u32 = 16;

/// How often a thread that has nothing to do looks whether it is to end.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// What the probes of one follower found.
#[derive(Clone, Debug)]
pub struct Visible {
    /// Nanoseconds from the acknowledgement to the end of the read that found it.
    pub times_ns: Histogram<u64>,
    /// Probes that did not find it in time, or could not read.
    pub failed: u64,
}

/// Probes of all followers, from start to stop.
#[derive(Debug)]
pub struct Probes {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<BTreeMap<u8, Visible>>>>,
}

/// Whether a key is one of a probe's, of a load whose keys have this prefix.
pub fn is_probe(prefix: &KeyPrefix, key: &[u8]) -> bool {
    key.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.starts_with(PROBE.as_bytes()))
}

/// The key that is written for a follower.
pub fn probe_key(prefix: &KeyPrefix, follower: u8) -> Vec<u8> {
    [prefix.as_bytes(), PROBE.as_bytes(), follower.to_string().as_bytes()].concat()
}

impl Probes {
    /// Begins to probe every node but the one that leads now, so often in a second each.
    pub fn start(members: Members, leader: u8, prefix: KeyPrefix, per_second: u32) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("probes".to_owned())
            .spawn(move || probe_all(&members, leader, &prefix, per_second, &stopped))
            .context("the thread of the probes cannot be started")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the probes and tells what they found; nothing is written after this.
    pub fn finish(mut self) -> anyhow::Result<BTreeMap<u8, Visible>> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(BTreeMap::new()) };
        thread.join().map_err(|_| anyhow::anyhow!("the probes panicked: this is a defect of the harness"))?
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn probe_all(
    members: &Members,
    leader: u8,
    prefix: &KeyPrefix,
    per_second: u32,
    stop: &AtomicBool,
) -> anyhow::Result<BTreeMap<u8, Visible>> {
    let writer = members.client_of_all()?.with_deadline(CALL_TIME_MAX);
    let interval = Duration::from_secs(1) / per_second.max(1);
    let probes = members.others(leader).map(|follower| {
        let reader = members.client(follower)?.with_deadline(CALL_TIME_MAX);
        let key = probe_key(prefix, follower);
        Ok((follower, Probe { writer: writer.clone(), reader, key }))
    });
    let probes = probes.collect::<anyhow::Result<Vec<_>>>()?;
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = probes
        .into_iter()
        .enumerate()
        .map(|(position, (follower, probe))| {
            // Not all at the same moment.
            let offset = interval * position as u32 / members.ids().count() as u32;
            executor.spawn(async move { (follower, probe.repeat(offset, interval, stop).await) })
        })
        .collect();
    let found = async {
        let mut found = BTreeMap::new();
        for task in tasks {
            let (follower, visible) = task.await;
            found.insert(follower, visible);
        }
        found
    };
    Ok(smol::block_on(executor.run(found)))
}

/// One follower's probe.
struct Probe {
    writer: Client,
    reader: Client,
    key: Vec<u8>,
}

impl Probe {
    async fn repeat(&self, offset: Duration, interval: Duration, stop: &AtomicBool) -> Visible {
        let longest = (VISIBLE_TIME_MAX + CALL_TIME_MAX).as_nanos() as u64;
        let times_ns = Histogram::new_with_bounds(1, longest, 3).expect("the bounds are in order");
        let mut visible = Visible { times_ns, failed: 0 };
        let mut next = Instant::now() + offset;
        loop {
            while Instant::now() < next {
                if stop.load(Ordering::Relaxed) {
                    return visible;
                }
                Timer::at(next.min(Instant::now() + STOP_CHECK)).await;
            }
            if stop.load(Ordering::Relaxed) {
                return visible;
            }
            // A write that fails is the load's business, which counts its own.
            if let Ok(written) = self.writer.set(&self.key, b"").await {
                match self.wait_visible(written.revision(), stop).await {
                    Some(time) => visible.times_ns.saturating_record(time.as_nanos() as u64),
                    None if stop.load(Ordering::Relaxed) => {}
                    None => visible.failed += 1,
                }
            }
            next = Instant::now().max(next + interval);
        }
    }

    async fn wait_visible(&self, revision: u64, stop: &AtomicBool) -> Option<Duration> {
        let acknowledged = Instant::now();
        loop {
            let found = self.reader.get(&self.key).await.ok().and_then(|lookup| lookup.value);
            let elapsed = acknowledged.elapsed();
            if found.is_some_and(|value| value.revision >= revision) {
                return Some(elapsed);
            }
            if elapsed >= VISIBLE_TIME_MAX || stop.load(Ordering::Relaxed) {
                return None;
            }
            Timer::after(elapsed / PAUSE_PART).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::load::key;

    use super::*;

    #[test]
    fn a_probes_key_is_told_from_the_loads() {
        let prefix = KeyPrefix::default();
        assert!(is_probe(&prefix, &probe_key(&prefix, 3)));
        assert!(!is_probe(&prefix, &key(&prefix, 3)));
        assert!(!is_probe(&prefix, b"other-probe-3"));
    }
}
