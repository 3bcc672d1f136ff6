//! The log on a disk that stops after any operation and forgets what was not synced, sector by sector.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Durability, Index, Term};

use super::format::SECTOR_BYTES;
use super::*;

#[derive(Clone, Debug, Default)]
struct Image {
    durable: Vec<u8>,
    current: Vec<u8>,
}

type Names = BTreeMap<PathBuf, usize>;

#[derive(Debug, Default)]
struct State {
    files: Vec<Image>,
    /// What the names are after each change since the last sync; the first is what is durable.
    names: Vec<Names>,
    /// Operations until the disk stops.
    left: u64,
    random: u64,
}

impl State {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn spend(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("crashed"))?;
        Ok(())
    }

    fn names(&mut self) -> &mut Names {
        let names = self.names.last().unwrap().clone();
        self.names.push(names);
        self.names.last_mut().unwrap()
    }

    /// Loses a random part of everything that was not synced.
    fn crash(&mut self) {
        let kept = self.random() as usize % self.names.len();
        self.names = vec![self.names.swap_remove(kept)];
        for place in 0..self.files.len() {
            let Image { mut durable, current } = std::mem::take(&mut self.files[place]);
            // A new length may come with the file or not; the sectors come one by one.
            if self.random().is_multiple_of(2) {
                durable.resize(current.len(), 0);
            }
            let sector_bytes = SECTOR_BYTES as usize;
            for (old, new) in durable.chunks_mut(sector_bytes).zip(current.chunks(sector_bytes)) {
                if self.random().is_multiple_of(2) && old.len() == new.len() {
                    old.copy_from_slice(new);
                }
            }
            self.files[place] = Image { current: durable.clone(), durable };
        }
    }
}

#[derive(Clone, Debug)]
struct CrashDisk(Arc<Mutex<State>>);

struct CrashFile(CrashDisk, usize);

impl CrashDisk {
    fn new(seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self(Arc::new(Mutex::new(State { names: vec![Names::new()], random, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn spend(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.spend()?;
        Ok(state)
    }
}

impl Disk for CrashDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.spend()?;
        let file = state.files.len();
        state.files.push(Image::default());
        assert_eq!(state.names().insert(path.to_owned(), file), None, "it exists");
        Ok(Arc::new(CrashFile(self.clone(), file)))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = *self.lock().names.last().unwrap().get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(CrashFile(self.clone(), file)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.spend()?;
        let names = state.names();
        let file = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        assert_eq!(names.insert(to.to_owned(), file), None, "a segment would be replaced");
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.spend()?.names().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        let names = state.names.last().unwrap().keys();
        Ok(names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let mut state = self.spend()?;
        let last = state.names.len() - 1;
        state.names.drain(..last);
        Ok(())
    }
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }
}

impl DiskFile for CrashFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.0.lock();
        let bytes = state.files[self.1].current.get(offset as usize..).unwrap_or_default();
        let read = bytes.len().min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let done = state.spend();
        // The write that the crash interrupts stops at any byte.
        let written = if done.is_ok() { bytes.len() } else { state.random() as usize % (bytes.len() + 1) };
        let end = offset as usize + written;
        if done.is_ok() || state.random().is_multiple_of(2) {
            let current = &mut state.files[self.1].current;
            current.resize(current.len().max(end), 0);
            current[offset as usize..end].copy_from_slice(&bytes[..written]);
        }
        done
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.spend()?;
        let image = &mut state.files[self.1];
        image.durable.clone_from(&image.current);
        Ok(())
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().files[self.1].current.len() as u64)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.spend()?.files[self.1].current.resize(length as usize, 0);
        Ok(())
    }
}

const SETTINGS: LogSettings =
    LogSettings { segment_bytes: SEGMENT_BYTES_MIN, durability: Durability::Fsync, salt_seed: Some(1) };

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
    let disk = CrashDisk::new(seed);
    let mut before: Vec<(Term, Index)> = Vec::new();
    let mut after = before.clone();
    let mut base = 0;
    let mut term = 0;
    for _ in 0..12 {
        let limit = disk.lock().random() % 60;
        disk.lock().left = limit;
        let opened = Log::open(Arc::new(disk.clone()), PathBuf::from("/log"), SETTINGS, base);
        let Ok((mut log, _)) = opened else {
            let error = opened.err().unwrap();
            assert!(matches!(error, LogError::Io { .. }), "seed {seed}: {error}");
            disk.lock().crash();
            continue;
        };
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
            let choice = disk.lock().random();
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
        disk.lock().crash();
    }
}

#[test]
fn what_was_durable_survives_every_crash_and_nothing_else_appears() {
    for seed in 1..=1000 {
        run(seed);
    }
}
