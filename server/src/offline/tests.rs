//! What cannot be arranged with a real server: what a reader sees while a node writes, and logs that were truncated.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use quorate_protocol::entry::Payload;
use quorate_protocol::request::{Mutation, SessionSequence, Write as Change};
use quorate_protocol::{Durability, Incarnation, Index, Leadership, NodeId, Quorums, Term};
use tempfile::TempDir;

use super::*;
use crate::directory::{DataDirectory, DirectorySettings};
use crate::disk::{DiskFile, RealDisk};
use crate::log::inspect::{Seen, inspect};
use crate::log::{Log, LogSettings};

/// The machine's disk, seen by a reader at unlucky moments.
#[derive(Clone, Debug, Default)]
struct RacingDisk {
    /// Bytes of segments that still read as zeros, and how many reads will see them so.
    hidden: Arc<Mutex<(Range<u64>, usize)>>,
    /// How many opened segments will have gone.
    gone: Arc<AtomicUsize>,
    /// How often that happened.
    happened: Arc<AtomicUsize>,
}

struct RacingFile {
    file: Arc<dyn DiskFile>,
    disk: RacingDisk,
}

impl RacingDisk {
    fn hiding(range: Range<u64>, times: usize) -> Self {
        Self { hidden: Arc::new(Mutex::new((range, times))), ..Self::default() }
    }

    fn without(segments: usize) -> Self {
        Self { gone: Arc::new(segments.into()), ..Self::default() }
    }

    fn happened(&self) -> usize {
        self.happened.load(Ordering::Relaxed)
    }
}

impl Disk for RacingDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        panic!("{} is opened for writing", path.display());
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open_read(path)?;
        if path.extension().is_none_or(|extension| extension != "log") {
            return Ok(file);
        }
        if self.gone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            self.happened.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Arc::new(RacingFile { file, disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        panic!("{} is locked", path.display());
    }
}

impl DiskFile for RacingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        let mut hidden = self.disk.hidden.lock().unwrap();
        let (range, times) = &mut *hidden;
        let from = range.start.max(offset);
        let to = range.end.min(offset + read as u64);
        if *times > 0 && from < to {
            *times -= 1;
            self.disk.happened.fetch_add(1, Ordering::Relaxed);
            buffer[(from - offset) as usize..(to - offset) as usize].fill(0);
        }
        Ok(read)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        panic!("a segment is written");
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        panic!("a segment is extended");
    }

    fn sync_data(&self) -> io::Result<()> {
        panic!("a segment is synced");
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, _: u64) -> io::Result<()> {
        panic!("a segment is cut");
    }
}

fn settings() -> DirectorySettings {
    let node = NodeId::try_from(1).unwrap();
    DirectorySettings {
        cluster: "test".into(),
        node,
        quorums: Quorums::new(1, 1).unwrap(),
        leadership: Leadership::Configured(node),
        durability: Durability::Fsync,
    }
}

fn append(log: &mut Log, term: Term, index: Index, value: &str) {
    let key = format!("key-{index}");
    let write = Change::One(Mutation::Set { key: key.as_bytes(), value: value.as_bytes() });
    append_entry(log, term, index, &Payload::Write { session: None, write });
}

fn append_entry(log: &mut Log, term: Term, index: Index, payload: &Payload<'_>) {
    let mut bytes = Vec::new();
    quorate_protocol::entry::encode(term, index, payload, &mut bytes);
    log.append([bytes], index, index, index.saturating_sub(1)).unwrap();
}

/// A data directory whose log `fill` has written.
fn node(fill: impl FnOnce(&mut Log)) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    drop(DataDirectory::open(&RealDisk, &data, &settings(), Incarnation(11), None).unwrap());
    let log = LogSettings { segment_bytes: 16 << 10, ..LogSettings::default() };
    let (mut log, _) = Log::open(Arc::new(RealDisk), data.join("log"), log, 0).unwrap();
    fill(&mut log);
    directory
}

fn five(log: &mut Log) {
    (1..=5).for_each(|index| append(log, 1, index, "value"));
}

/// Where the batch of an entry is.
fn batch_of(data: &Path, index: Index) -> Range<u64> {
    let mut found = None;
    inspect(&RealDisk, &log_of(data), 0, true, |seen| {
        if let Seen::Batch(batch) = seen
            && batch.what == (crate::log::inspect::SeenKind::Entries { first: index, count: 1 })
        {
            found = Some(batch.offset..batch.offset + batch.bytes);
        }
    })
    .unwrap();
    found.unwrap()
}

fn back_up(disk: &RacingDisk, directory: &TempDir) -> Result<Manifest, OfflineError> {
    let to = directory.path().join("backup");
    let _ = std::fs::remove_dir_all(&to);
    Ok(backup(disk, &directory.path().join("data"), &to)?.manifest)
}

#[test]
fn a_batch_that_becomes_visible_after_a_later_one_is_taken_whole() {
    let directory = node(five);
    let batch = batch_of(&directory.path().join("data"), 3);
    // Its header, its middle, its end, and all of it.
    for part in
        [batch.start..batch.start + 64, batch.start + 70..batch.end - 10, batch.end - 8..batch.end, batch]
    {
        for times in 1..4 {
            let disk = RacingDisk::hiding(part.clone(), times);
            assert_eq!(back_up(&disk, &directory).unwrap().last, 5, "{part:?} hidden {times} times");
            assert_eq!(disk.happened(), times);
        }
        let disk = RacingDisk::hiding(part, usize::MAX);
        let error = back_up(&disk, &directory).unwrap_err();
        assert!(error.to_string().contains("is damaged at offset"), "{error}");
        assert!(disk.happened() > 3);
    }
}

#[test]
fn a_last_batch_that_is_being_written_is_left_out() {
    let directory = node(five);
    let batch = batch_of(&directory.path().join("data"), 5);
    let disk = RacingDisk::hiding(batch.end - 20..batch.end, usize::MAX);
    assert_eq!(back_up(&disk, &directory).unwrap().last, 4);
    let checked = check(&RealDisk, &directory.path().join("backup")).unwrap();
    assert!(checked.ok, "{:?}", checked.findings);
}

#[test]
fn a_segment_that_has_gone_makes_a_backup_begin_again_a_bounded_number_of_times() {
    let directory = node(|log| (1..=40).for_each(|index| append(log, 1, index, &"v".repeat(1000))));
    for gone in [1, 3] {
        let disk = RacingDisk::without(gone);
        let manifest = back_up(&disk, &directory).unwrap();
        assert_eq!((manifest.last, disk.happened()), (40, gone));
        assert!(manifest.segments > 1);
        assert!(check(&RealDisk, &directory.path().join("backup")).unwrap().ok);
    }
    let error = back_up(&RacingDisk::without(usize::MAX), &directory).unwrap_err();
    assert!(error.to_string().starts_with("cannot open "), "{error}");
    let unfinished = directory.path().join("backup");
    assert!(matches!(
        restore(
            &(Arc::new(RealDisk) as Arc<dyn Disk>),
            &unfinished,
            &directory.path().join("new"),
            &settings(),
            Incarnation(12),
            16 << 10
        ),
        Err(OfflineError::WrongUse(_))
    ));
}

#[test]
fn what_a_truncation_took_back_is_neither_printed_nor_restored() {
    let directory = node(|log| {
        five(log);
        log.truncate(4).unwrap();
        append(log, 2, 5, "other");
        append(log, 2, 6, "last");
    });
    let data = directory.path().join("data");
    let dumped = |batches| {
        let mut out = Vec::new();
        let settings = DumpSettings { entries: 1..=Index::MAX, batches, full: false, checkpoint: None };
        assert_eq!(dump(&RacingDisk::default(), &data, &settings, &mut out).unwrap(), 0);
        String::from_utf8(out).unwrap()
    };
    let lines: Vec<_> = dumped(false).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(lines[4].trim(), "5  term 2  set \"key-5\" = \"other\"");
    let all = dumped(true);
    assert!(all.contains("set \"key-5\" = \"value\"  (taken back later)"), "{all}");
    assert!(all.contains("takes back every entry above 4"), "{all}");

    let manifest = back_up(&RacingDisk::default(), &directory).unwrap();
    assert_eq!((manifest.last, manifest.last_term), (6, 2));
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let restored = |name: &str| {
        let to = directory.path().join(name);
        restore(&real, &directory.path().join("backup"), &to, &settings(), Incarnation(12), 16 << 10).unwrap()
    };
    let (first, second) = (restored("first"), restored("second"));
    assert_eq!(first.checkpoint, second.checkpoint);
    let path = crate::checkpoint::path(&checkpoints_of(&directory.path().join("first")), 6);
    let mut records = Vec::new();
    crate::checkpoint::read_intact(&RealDisk, &path, 6, |item| {
        let crate::checkpoint::Item::Record(record) = item.unwrap() else { panic!("a session") };
        records.push((String::from_utf8_lossy(record.value).into_owned(), record.revision));
    });
    assert_eq!(records[4..], [("other".to_owned(), 5), ("last".to_owned(), 6)]);
}

#[test]
fn sessions_are_printed_in_a_checkpoint_and_end_with_their_cluster() {
    let session = SessionSequence { session: 1, sequence: 7, lowest_open: 7 };
    let write = Change::One(Mutation::Set { key: b"key", value: b"value" });
    let write = Payload::Write { session: Some(session), write };
    let entries = [Payload::OpenSession, write.clone(), write];
    let directory = node(|log| {
        for (index, payload) in (1..).zip(&entries) {
            append_entry(log, 1, index, payload);
        }
    });
    back_up(&RacingDisk::default(), &directory).unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let to = directory.path().join("restored");
    let from = directory.path().join("backup");
    let restored = restore(&real, &from, &to, &settings(), Incarnation(12), 16 << 10).unwrap();
    let crate::checkpoint::CheckpointInfo { index, sessions, keys, .. } = restored.checkpoint;
    assert_eq!((index, sessions, keys), (3, 0, 1));

    let mut store = crate::store::Store::default();
    for (index, payload) in (1..).zip(&entries) {
        let mut bytes = Vec::new();
        quorate_protocol::entry::encode(1, index, payload, &mut bytes);
        store.apply_entry(&quorate_protocol::entry::Entry::parse(&bytes).unwrap()).unwrap();
    }
    let header = crate::checkpoint::CheckpointHeader {
        index: 3,
        term: 1,
        cluster: quorate_protocol::ClusterId([1; 16]),
        terms: vec![(1, 1)],
        members: Vec::new(),
    };
    let checkpoints = checkpoints_of(&directory.path().join("data"));
    let mut writer = crate::checkpoint::CheckpointWriter::create(real, &checkpoints, &header).unwrap();
    store.begin_snapshot();
    for _ in 0..2 {
        writer.block(&crate::checkpoint::next_block(&mut store).0).unwrap();
    }
    writer.finish().unwrap();
    let mut out = Vec::new();
    let settings = DumpSettings { entries: 1..=3, batches: false, full: true, checkpoint: Some(None) };
    assert_eq!(dump(&RealDisk, &directory.path().join("data"), &settings, &mut out).unwrap(), 0);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<_> = text.lines().skip(1).map(str::trim).collect();
    let wanted = [
        "session 1: last used by entry 3, lowest open no. 7, 1 results",
        "no. 7, entry 2: done, 0 of its keys existed",
        "2  \"key\" = \"value\"",
    ];
    assert_eq!(lines, wanted, "{text}");
    assert!(text.contains("1 sessions, 1 keys"), "{text}");
}
