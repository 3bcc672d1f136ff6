//! Power lost while a follower is sent a checkpoint, checks it and goes on behind it.
//!
//! The follower has run for a while, and then lacks what the leader's log no longer holds. Its own log may end before
//! the checkpoint, differ from it where it ends, or go on behind it. From the first piece to the first entry behind
//! the checkpoint power is lost after every change to the disk. What is found then is what was there before, or what
//! the checkpoint leads to; and from the acknowledgement on it is the latter.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::entry::{self, Entry, Payload};
use quorate_protocol::parse;
use quorate_protocol::peer::{Append, CheckpointChunk, CheckpointState, PeerMessage};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Index, Term};

use crate::checkpoint::{self, CheckpointHeader, CheckpointWriter};
use crate::disk::Disk;
use crate::disk::simulated::{Images, Kept, Replay, SimDisk};
use crate::node::Event;
use crate::store::Store;

use super::crash_points::FOLLOWER;
use super::history::{History, checksum_of, digest_of};
use super::node::{Act, Found, SimNode, peer, recover};
use super::script::Script;
use super::{Random, is_exhaustive};

/// Bytes of a piece: the checkpoint takes several.
const PIECE_BYTES: usize = 3000;

/// How the follower's log stands to the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Log {
    EndsBefore,
    Differs,
    GoesOnBehind,
}

/// A checkpoint, as another node has it.
struct Checkpoint {
    header: CheckpointHeader,
    bytes: Vec<u8>,
    /// Of the store.
    digest: u32,
}

/// What a follower was made to do.
struct Recording {
    log: Log,
    before: Images,
    found_before: Found,
    changes: Vec<crate::disk::simulated::Change>,
    /// From so many changes on it has said that it goes on behind the checkpoint.
    acknowledged: usize,
    /// From so many changes on its log may have what the leader sent next.
    went_on: usize,
    checkpoint: Checkpoint,
    /// The leader's.
    term: Term,
}

fn write_of(term: Term, index: Index) -> Bytes {
    let (key, value) = (format!("key {index}"), vec![index as u8; 500]);
    let write = Write::One(Mutation::Set { key: key.as_bytes(), value: &value });
    let mut bytes = Vec::new();
    entry::encode(term, index, &Payload::Write { session: None, write }, &mut bytes);
    bytes.into()
}

/// What a leader has committed whose follower holds `held`, of which the first `applied` are committed.
fn leaders_log(log: Log, held: &[Bytes], applied: Index, term: Term) -> Vec<Bytes> {
    let (same, end) = match log {
        Log::EndsBefore => (applied as usize, held.len() + 30),
        Log::Differs => (applied as usize, held.len() - 1),
        Log::GoesOnBehind => (held.len() - 1, held.len() - 1),
    };
    let own = (same..end).map(|place| write_of(term, place as Index + 1));
    held[..same].iter().cloned().chain(own).collect()
}

/// Writes a checkpoint of a log.
fn checkpoint_of(log: &[Bytes], node: &SimNode) -> Checkpoint {
    let (mut store, mut terms) = (Store::default(), Vec::new());
    for bytes in log {
        let entry = Entry::parse(bytes).unwrap();
        if terms.last().is_none_or(|(_, term)| *term < entry.term) {
            terms.push((entry.index, entry.term));
        }
        store.apply_entry(&entry).unwrap();
    }
    let cluster = node.node.introduction().stored.unwrap();
    let header = CheckpointHeader {
        index: log.len() as Index,
        term: terms.last().unwrap().1,
        cluster,
        terms,
        members: Vec::new(),
    };
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::default());
    let directory = Path::new("/other");
    disk.create_directory(directory).unwrap();
    let mut writer = CheckpointWriter::create(disk.clone(), directory, &header).unwrap();
    store.begin_snapshot();
    let mut is_last = false;
    while !is_last {
        let block;
        (block, is_last) = checkpoint::next_block(&mut store);
        if !block.is_empty() {
            writer.block(&block).unwrap();
        }
    }
    writer.finish().unwrap();
    let bytes =
        disk.open(&checkpoint::path(directory, header.index)).unwrap().read_all(usize::MAX / 2).unwrap();
    Checkpoint { digest: digest_of(&store), header, bytes }
}

/// Has a piece arrive, or with no bytes a question.
fn send(node: &mut SimNode, checkpoint: &Checkpoint, term: Term, offset: usize, bytes: &[u8]) {
    let chunk = CheckpointChunk {
        term,
        index: checkpoint.header.index,
        total_bytes: checkpoint.bytes.len() as u64,
        offset: offset as u64,
        round: u64::from(bytes.is_empty()),
        bytes,
    };
    node.handle(Event::Message { from: peer(1), message: PeerMessage::CheckpointChunk(chunk) }).unwrap();
}

/// What the follower has said of the checkpoint, last.
fn heard(node: &mut SimNode) -> Option<CheckpointState> {
    let mut states = node.take_acts().into_iter().filter_map(|act| match act {
        Act::Send(_, message) => match parse(&message).unwrap() {
            PeerMessage::CheckpointAck(ack) => Some(ack.state),
            _ => None,
        },
        Act::Respond(_) => None,
    });
    states.next_back()
}

/// Sends all of it that the follower lacks, until it goes on behind it.
fn transfer(node: &mut SimNode, checkpoint: &Checkpoint, term: Term) {
    send(node, checkpoint, term, 0, &[]);
    for _ in 0..1000 {
        node.work_transfer().unwrap();
        while node.work_log() || node.deliver().unwrap() {}
        match heard(node) {
            Some(CheckpointState::Installed) => return,
            Some(CheckpointState::Received(bytes)) if (bytes as usize) < checkpoint.bytes.len() => {
                let offset = bytes as usize;
                let end = (offset + PIECE_BYTES).min(checkpoint.bytes.len());
                send(node, checkpoint, term, offset, &checkpoint.bytes[offset..end]);
            }
            // What a crash has left of it is not what was sent: it is asked for from the beginning on.
            Some(CheckpointState::Damaged) => send(node, checkpoint, term, 0, &[]),
            _ => {}
        }
    }
    panic!("the checkpoint is never installed");
}

/// Sends the entry behind the checkpoint, and lets everything come to an end.
fn go_on(node: &mut SimNode, checkpoint: &Checkpoint, term: Term) {
    let CheckpointHeader { index, term: previous_term, .. } = checkpoint.header;
    let entries = write_of(term, index + 1);
    let append =
        Append { term, previous_index: index, previous_term, commit: index, round: 1, entries: &entries };
    node.handle(Event::Message { from: peer(1), message: PeerMessage::Append(append) }).unwrap();
    while node.work_log() || node.deliver().unwrap() {}
}

/// Has a leader send entries that are stored, and not known to be committed, and returns them.
fn append_uncommitted(disk: &SimDisk, held: &[Bytes]) -> Vec<Bytes> {
    let (mut node, found) = SimNode::open(disk, FOLLOWER, History::off()).unwrap();
    node.finish_turn().unwrap();
    let term = found.promise.term + 1;
    let last = held.len() as Index;
    let entries: Vec<_> = (last + 1..=last + 6).map(|index| write_of(term, index)).collect();
    let append = Append {
        term,
        previous_index: last,
        previous_term: Entry::parse(&held[held.len() - 1]).unwrap().term,
        commit: 0,
        round: 1,
        entries: &entries.concat(),
    };
    node.handle(Event::Message { from: peer(1), message: PeerMessage::Append(append) }).unwrap();
    while node.work_log() || node.deliver().unwrap() {}
    entries
}

fn record(log: Log, seed: u64) -> Recording {
    let disk = SimDisk::default();
    let (mut node, _) = SimNode::open(&disk, FOLLOWER, History::new()).unwrap();
    let mut script = Script::new(FOLLOWER, seed);
    script.begin(&mut node).unwrap();
    (0..250).for_each(|_| script.step(&mut node).unwrap());
    script.settle(&mut node).unwrap();
    let mut held = node.history().log().to_vec();
    drop(node);
    held.extend(append_uncommitted(&disk, &held));

    let (mut node, found) = SimNode::open(&disk, FOLLOWER, History::off()).unwrap();
    let term = found.promise.term + 1;
    assert_eq!(found.first as usize - 1 + found.log.len(), held.len());
    assert!(found.applied + 2 < held.len() as Index, "some of the log is not committed");
    let leaders = leaders_log(log, &held, found.applied, term);
    let checkpoint = checkpoint_of(&leaders, &node);
    assert!(checkpoint.bytes.len() > 3 * PIECE_BYTES);

    let before = disk.images();
    disk.record();
    node.finish_turn().unwrap();
    transfer(&mut node, &checkpoint, term);
    let acknowledged = disk.recorded();
    while node.work_log() || node.deliver().unwrap() {}
    let went_on = disk.recorded() + 1;
    go_on(&mut node, &checkpoint, term);
    let changes = disk.take_recorded();
    Recording { log, before, found_before: found, changes, acknowledged, went_on, checkpoint, term }
}

impl Recording {
    /// What is wrong with what was found after so many changes.
    fn judge(&self, found: &Found, changes: usize) -> Result<(), String> {
        let before = Found { promise: found.promise, ..self.found_before.clone() };
        if found.is_same(&before) && changes < self.acknowledged {
            return Ok(());
        }
        let index = self.checkpoint.header.index;
        if (found.applied, found.digest) != (index, self.checkpoint.digest) {
            return Err(format!("the store is not that of the checkpoint: applied {}", found.applied));
        }
        let behind: &[u32] = match self.log {
            Log::GoesOnBehind => &before.log[(index + 1 - before.first) as usize..],
            Log::EndsBefore | Log::Differs => &[],
        };
        let from = (index + 1).saturating_sub(found.first) as usize;
        let found_behind = found.log.get(from..).unwrap_or_default();
        let next = checksum_of(&write_of(self.term, index + 1));
        match found_behind {
            same if same == behind => Ok(()),
            [only] if *only == next && changes >= self.went_on => Ok(()),
            // The entry that the leader sent takes the place of what was there.
            [] if changes >= self.went_on => Ok(()),
            other => Err(format!("the log behind it has {} entries, not {}", other.len(), behind.len())),
        }
    }

    /// Loses power after every change, and returns how often.
    fn try_crashes(&self) -> u64 {
        let mut random = Random::new(5);
        let mut replay = Replay::new(self.before.clone(), &self.changes);
        let (combinations, torn_stride) = if is_exhaustive() { (64, 13) } else { (3, 997) };
        let mut states = 0;
        for changes in 0..=self.changes.len() {
            let now = replay.after(changes).clone();
            let mut crashed: Vec<Images> = vec![now.clone()];
            crashed.extend([Kept::Nothing, Kept::Everything].map(|kept| now.crashed(kept)));
            crashed.extend((0..combinations).map(|_| now.crashed(Kept::Random(random.next()))));
            let bytes = replay.next_write_bytes().unwrap_or(0);
            let torn = (0..bytes).step_by(torn_stride).filter_map(|bytes| replay.torn(bytes));
            crashed.extend(torn.map(|torn| torn.crashed(Kept::Everything)));
            for images in crashed {
                states += 1;
                self.check(images, changes, states % 7 == 0);
            }
        }
        states
    }

    fn check(&self, images: Images, changes: usize, goes_on: bool) {
        let wrong = |what: String| -> ! {
            panic!("{:?}: after {changes} of {} changes: {what}", self.log, self.changes.len())
        };
        let disk = SimDisk::with(images);
        let found = recover(&disk, FOLLOWER).unwrap_or_else(|error| wrong(format!("refused: {error}")));
        self.judge(&found, changes).unwrap_or_else(|what| wrong(what));
        let again = recover(&SimDisk::with(disk.images().crashed(Kept::Nothing)), FOLLOWER)
            .unwrap_or_else(|error| wrong(format!("refused when recovered again: {error}")));
        if !found.is_same(&again) {
            wrong("another state when recovered again".into());
        }
        if !goes_on {
            return;
        }
        let (mut node, _) = SimNode::open(&disk, FOLLOWER, History::off()).unwrap();
        node.finish_turn().unwrap();
        transfer(&mut node, &self.checkpoint, self.term);
        go_on(&mut node, &self.checkpoint, self.term);
        let found = recover(&SimDisk::with(disk.images().crashed(Kept::Nothing)), FOLLOWER)
            .unwrap_or_else(|error| wrong(format!("refused after going on: {error}")));
        let index = self.checkpoint.header.index;
        let last = found.first + found.log.len() as Index - 1;
        if found.applied < index || last <= index {
            wrong(format!("it went on, and has applied {} and ends at {last}", found.applied));
        }
    }
}

/// Tries crashes of the three kinds of logs.
pub(super) fn try_installs(seeds: std::ops::Range<u64>) {
    for log in [Log::EndsBefore, Log::Differs, Log::GoesOnBehind] {
        for seed in seeds.clone() {
            let recording = record(log, seed);
            let states = recording.try_crashes();
            println!("{log:?}, seed {seed}: {} changes, {states} crash states", recording.changes.len());
        }
    }
}

#[test]
fn a_crash_while_a_checkpoint_is_installed_leaves_what_was_there_or_what_it_leads_to() {
    try_installs(if is_exhaustive() { 1..20 } else { 1..3 });
}
