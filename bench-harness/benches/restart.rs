//! How long a node takes from its directory to its state: a checkpoint of a million keys, and 64 MiB of log.
//!
//! The directory lies in the build's directory, so on that disk; its files are in the page cache, as after a restart
//! of the process, not of the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use quorate_client::load::{self, KeyPrefix};
use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Durability, Incarnation, Index, Leadership, NodeId, Quorums};
use quorate_server::checkpoint::{self, Block, CheckpointHeader, CheckpointWriter};
use quorate_server::directory::DirectorySettings;
use quorate_server::disk::{Disk, RealDisk};
use quorate_server::log::{Log, LogSettings};
use quorate_server::node::{self, NodeSettings, Opened};
use quorate_server::replica::Promise;
use tempfile::TempDir;

const KEYS: u64 = 1_000_000;
const LOG_BYTES: usize = 64 << 20;
const BATCH_ENTRIES: Index = 1000;
const VALUE: &[u8] = &[b'v'; 100];

/// No checkpoint is due while the log is replayed.
const CHECKPOINT_BYTES: u64 = 1 << 40;

/// A node's directory, with everything in it.
struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _temporary: TempDir,
}

impl Directory {
    fn new() -> Self {
        let temporary = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let new =
            Self { disk: Arc::new(RealDisk), path: temporary.path().join("data"), _temporary: temporary };
        new.promise();
        new.write_checkpoint();
        new.write_log();
        new
    }

    fn open(&self) -> Opened {
        let node = NodeId::try_from(1).unwrap();
        let settings = DirectorySettings {
            cluster: "benchmark".into(),
            node,
            quorums: Quorums::new(1, 1).unwrap(),
            leadership: Leadership::Configured(node),
            durability: Durability::Fsync,
        };
        let log = LogSettings::default();
        let node_settings = NodeSettings {
            checkpoint_interval_bytes: CHECKPOINT_BYTES,
            ..NodeSettings::new([node].into_iter().collect())
        };
        node::open(&self.disk, &self.path, &settings, Incarnation(1), log, &node_settings, None).unwrap()
    }

    /// No entry is of a later term than was promised.
    fn promise(&self) {
        let Opened { mut vote, state, .. } = self.open();
        vote.store(Promise { term: 1, voted_for: Some(state.identity.node) }).unwrap();
    }

    fn write_checkpoint(&self) {
        let cluster = self.open().state.identity.into_formed().cluster_id().unwrap();
        let header =
            CheckpointHeader { index: KEYS, term: 1, cluster, terms: vec![(1, 1)], members: Vec::new() };
        let mut writer =
            CheckpointWriter::create(self.disk.clone(), &self.path.join("checkpoint"), &header).unwrap();
        let mut records = Vec::new();
        for number in 0..KEYS {
            checkpoint::encode_record(
                &load::key(&KeyPrefix::DEFAULT, number),
                number + 1,
                VALUE,
                &mut records,
            );
            if records.len() >= checkpoint::BLOCK_BYTES {
                writer.block(&Block::Records(std::mem::take(&mut records))).unwrap();
            }
        }
        writer.block(&Block::Records(records)).unwrap();
        writer.finish().unwrap();
    }

    /// Writes keys that are there, far from each other.
    fn write_log(&self) {
        let (mut log, _) =
            Log::open(self.disk.clone(), self.path.join("log"), LogSettings::default(), KEYS).unwrap();
        let (mut written, mut entries) = (0, Vec::new());
        while written < LOG_BYTES {
            entries.clear();
            let first = log.last() + 1;
            for index in first..first + BATCH_ENTRIES {
                let key = load::key(&KeyPrefix::DEFAULT, index * 7919 % KEYS);
                let write = Write::One(Mutation::Set { key: &key, value: VALUE });
                entry::encode(1, index, &Payload::Write { session: None, write }, &mut entries);
            }
            written += entries.len();
            log.append([&entries], first, first + BATCH_ENTRIES - 1, first - 1).unwrap();
        }
        log.mark(log.last()).unwrap();
    }
}

fn restart(criterion: &mut Criterion) {
    let directory = std::cell::LazyCell::new(Directory::new);
    let mut group = criterion.benchmark_group("restart");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.bench_function("a-million-keys-and-64-MiB-of-log", |bencher| {
        let directory = &*directory;
        bencher.iter_with_large_drop(|| {
            let opened = directory.open();
            assert_eq!(opened.state.store.keys(), KEYS);
            opened
        });
    });
    group.finish();
}

criterion_group!(benches, restart);
criterion_main!(benches);
