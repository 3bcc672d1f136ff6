//! The log on a disk that loses power after any operation and forgets what was not synced, sector by sector.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Durability, Index, Term};

use super::*;
use crate::disk::simulated::{Images, Kept, SimDisk, next_random};

const SETTINGS: LogSettings = LogSettings {
    segment_bytes: SEGMENT_BYTES_MIN,
    durability: Durability::Fsync,
    may_lag_base: true,
    may_be_absent: false,
    salt_seed: Some(1),
};

fn contents(log: &Log) -> Vec<(Term, Index)> {
    let reader = log.reader();
    let mut found = Vec::new();
    let mut next = reader.first();
    while next <= reader.last() {
        for entry in entry::iterate(&reader.read(next, 1 << 16).unwrap()) {
            let entry = entry.unwrap();
            found.push((entry.term, entry.index));
            next += 1;
        }
    }
    found
}

/// Works with a log until the disk stops, then checks what is left; several times over.
fn run(seed: u64) {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        random = next_random(random);
        random
    };
    let mut images = Images::default();
    let mut before: Vec<(Term, Index)> = Vec::new();
    let mut after = before.clone();
    let mut base = 0;
    let mut term = 0;
    let mut was_open = false;
    for _ in 0..12 {
        let disk = SimDisk::with(images);
        disk.cut_power_after(next() % 60);
        let settings = LogSettings { may_be_absent: !was_open, ..SETTINGS };
        let opened = Log::open(Arc::new(disk.clone()), PathBuf::from("/log"), settings, base);
        let Ok((mut log, _)) = opened else {
            let error = opened.err().unwrap();
            assert!(matches!(error, LogError::Io { .. }), "seed {seed}: {error}");
            images = disk.images().crashed(Kept::Random(next()));
            continue;
        };
        was_open = true;
        let found = contents(&log);
        let first = log.reader().first();
        assert!(first <= base + 1, "seed {seed}");
        let kept = |model: &[(Term, Index)], length: usize| found == model[first as usize - 1..length];
        let length = log.last() as usize;
        let shorter = before.len().min(after.len());
        assert!(
            (length == after.len() && kept(&after, length))
                || ((shorter..=before.len()).contains(&length) && kept(&before, length)),
            "seed {seed}: {length} entries of {} or {}",
            before.len(),
            after.len()
        );
        let source = if length == after.len() && kept(&after, length) { &after } else { &before };
        before = source[..length].to_vec();
        after.clone_from(&before);
        loop {
            term += 1;
            let choice = next();
            let last = before.len() as u64;
            let amount = (choice >> 8) % 40;
            let done = match choice % 8 {
                0 | 1 => {
                    after.truncate(last.saturating_sub(amount).max(base) as usize);
                    log.truncate(after.len() as u64)
                }
                2 => {
                    base = base.max(last.saturating_sub(amount));
                    log.drop_before(base + 1)
                }
                3 => log.mark(0),
                4 if choice >> 60 == 0 => {
                    base = last + amount; // A checkpoint that was sent holds what is not in this log.
                    after.resize(base as usize, (0, 0));
                    log.restart(base)
                }
                _ => {
                    let mut bytes = Vec::new();
                    for index in last + 1..=last + 1 + amount {
                        let value = &[index as u8; 700][..(choice >> 16) as usize % 700];
                        let write = Write::One(Mutation::Set { key: b"k", value });
                        entry::encode(term, index, &Payload::Write { session: None, write }, &mut bytes);
                        after.push((term, index));
                    }
                    log.append([&bytes], last + 1, last + 1 + amount, 0)
                }
            };
            if done.is_err() {
                break;
            }
            before.clone_from(&after);
        }
        drop(log);
        images = disk.images().crashed(Kept::Random(next()));
    }
}

#[test]
fn what_was_durable_survives_every_crash_and_nothing_else_appears() {
    for seed in 1..=1000 {
        run(seed);
    }
}
