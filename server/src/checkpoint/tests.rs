use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tempfile::TempDir;

use quorate_protocol::response::WriteResult;
use quorate_protocol::{Incarnation, NodeId, SessionId};

use super::*;
use crate::directory::trace_disk::TraceDisk;
use crate::disk::RealDisk;
use crate::store::{Done, Session};

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Ends a test that would otherwise hang; generous, as it never passes when the code is right.
const DEADLINE: Duration = Duration::from_secs(60);

type State = BTreeMap<Vec<u8>, (Index, Vec<u8>)>;

fn members() -> Vec<Member> {
    let member = |id: u8| Member { node: NodeId::try_from(id).unwrap(), incarnation: Incarnation(id.into()) };
    [1, 2, 5].map(member).into()
}

fn header(index: Index) -> CheckpointHeader {
    CheckpointHeader { index, term: 3, cluster: CLUSTER, terms: vec![(1, 1), (5, 3)], members: members() }
}

fn small_state(revision: Index) -> State {
    [("a", "one"), ("b", ""), ("bb", "two")]
        .into_iter()
        .map(|(key, value)| (key.into(), (revision, value.into())))
        .collect()
}

/// `keys` keys of 16 bytes with values of 100 bytes.
fn large_state(keys: u64) -> State {
    (0..keys).map(|key| (format!("{key:016}").into_bytes(), (1 + key % 9, vec![key as u8; 100]))).collect()
}

/// In every checkpoint: one with a result of each kind, and one that was never used.
fn sessions() -> BTreeMap<SessionId, Session> {
    let done = |sequence, index, result| Done { sequence, index, checksum: 0x0102_0304, result };
    let results = [
        done(5, 2, WriteResult::Applied { existed: 1 }),
        done(6, 3, WriteResult::ConditionFailed { mutation: 0, revision: None }),
        done(9, 4, WriteResult::ConditionFailed { mutation: 2, revision: Some(3) }),
    ];
    [(1, Session::new(5, 5, results)), (6, Session::new(6, 0, []))].into()
}

fn session_block(sessions: &BTreeMap<SessionId, Session>) -> Block {
    let mut block = Vec::new();
    sessions.iter().for_each(|(id, session)| encode_session(*id, session, &mut block));
    Block::Sessions(block)
}

fn blocks(state: &State) -> Vec<Block> {
    let mut blocks = vec![Vec::new()];
    for (key, (revision, value)) in state {
        if blocks.last().unwrap().len() >= BLOCK_BYTES {
            blocks.push(Vec::new());
        }
        encode_record(key, *revision, value, blocks.last_mut().unwrap());
    }
    blocks.retain(|block| !block.is_empty());
    let records = blocks.into_iter().map(Block::Records);
    std::iter::once(session_block(&sessions())).chain(records).collect()
}

fn write(directory: &Path, index: Index, state: &State) -> CheckpointInfo {
    let mut writer = CheckpointWriter::create(Arc::new(RealDisk), directory, &header(index)).unwrap();
    blocks(state).iter().for_each(|block| writer.block(block).unwrap());
    writer.finish().unwrap()
}

fn load(directory: &Path) -> Result<Option<(Loaded, State)>, CheckpointError> {
    let (mut state, mut found) = (State::new(), BTreeMap::new());
    let loaded = load_newest(&RealDisk, directory, of(Some(CLUSTER)), |item| match item {
        Item::Session(id, session) => drop(found.insert(id, session)),
        Item::Record(Record { key, revision, value }) => {
            state.insert(key.into(), (revision, value.into()));
        }
    })?;
    match &loaded {
        Some(_) => assert_eq!(found, sessions()),
        None => assert!(state.is_empty() && found.is_empty()),
    }
    Ok(loaded.map(|loaded| (loaded, state)))
}

fn of(cluster: Option<ClusterId>) -> Owner {
    Owner { cluster, origin: None }
}

fn names(directory: &Path) -> Vec<String> {
    RealDisk.list(directory).unwrap()
}

#[test]
fn what_is_written_is_loaded() {
    let directory = TempDir::new().unwrap();
    let state = large_state(5000);
    let info = write(directory.path(), 10, &state);
    assert_eq!((info.index, info.term, info.sessions, info.keys), (10, 3, 2, 5000));
    assert_eq!(info.bytes, fs::metadata(path(directory.path(), 10)).unwrap().len());

    let (loaded, read) = load(directory.path()).unwrap().unwrap();
    assert_eq!((loaded.header, loaded.info), (header(10), info));
    assert!(loaded.skipped.is_empty());
    assert_eq!(read, state);
}

#[test]
fn an_empty_state_and_the_largest_record_are_written_and_loaded() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 9, &State::new());
    assert_eq!(load(directory.path()).unwrap().unwrap().1, State::new());

    let mut state = small_state(9);
    // The block is one byte short of its end when the largest record comes.
    let short = BLOCK_BYTES - 1 - blocks(&state)[1].bytes() - 14 - 1;
    state.insert(b"c".to_vec(), (9, vec![1; short]));
    assert_eq!(blocks(&state)[1].bytes(), BLOCK_BYTES - 1);
    state.insert(
        vec![b'd'; quorate_protocol::limits::KEY_BYTES_MAX],
        (9, vec![2; quorate_protocol::limits::VALUE_BYTES_MAX]),
    );
    write(directory.path(), 10, &state);
    assert_eq!(load(directory.path()).unwrap().unwrap().1, state);
}

#[test]
fn a_directory_without_checkpoints_loads_nothing() {
    let directory = TempDir::new().unwrap();
    assert!(load(directory.path()).unwrap().is_none());
}

#[test]
fn more_terms_than_one_block_holds_are_kept() {
    let directory = TempDir::new().unwrap();
    let terms: Vec<_> = (1..=10_000).map(|term| (2 * term, term)).collect();
    let header =
        CheckpointHeader { index: 20_000, term: 10_000, cluster: CLUSTER, terms, members: members() };
    CheckpointWriter::create(Arc::new(RealDisk), directory.path(), &header).unwrap().finish().unwrap();
    let loaded = load_newest(&RealDisk, directory.path(), of(Some(CLUSTER)), |_| {}).unwrap();
    assert_eq!(loaded.unwrap().header, header);
}

#[test]
fn the_same_state_gives_the_same_bytes_and_hash_in_every_directory() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let state = large_state(3000);
    assert_eq!(write(one.path(), 10, &state), write(other.path(), 10, &state));
    let bytes = |directory: &TempDir| fs::read(path(directory.path(), 10)).unwrap();
    assert_eq!(bytes(&one), bytes(&other));

    let mut changed = state;
    changed.first_entry().unwrap().get_mut().0 += 1;
    let different = TempDir::new().unwrap();
    assert_ne!(write(different.path(), 10, &changed).hash, write(one.path(), 10, &large_state(3000)).hash);
}

#[test]
fn the_format_is_as_it_was() {
    let directory = TempDir::new().unwrap();
    let info = write(directory.path(), 10, &small_state(9));
    let hash: String = info.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(info.bytes, GOLDEN_BYTES);
    assert_eq!(hash, GOLDEN_HASH);
}

const GOLDEN_BYTES: u64 = 438;
const GOLDEN_HASH: &str = "1dea02cf7442cecf9ddff3f9a4810e6e994c56eff8a3e22ed277414f09c54b28";

/// Asserts that the checkpoint at 20 is passed over, and that of 10 loaded as it was.
fn assert_falls_back(directory: &Path, what: &str) {
    let (loaded, state) = load(directory).unwrap().unwrap();
    assert_eq!(loaded.header.index, 10, "{what}");
    assert_eq!(state, small_state(9), "{what}");
    assert_eq!(loaded.skipped.len(), 1, "{what}");
    assert_eq!(loaded.skipped[0].file, path(directory, 20), "{what}");
}

#[test]
fn every_flipped_byte_is_found_and_the_previous_checkpoint_used() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 10, &small_state(9));
    write(directory.path(), 20, &small_state(19));
    let newest = path(directory.path(), 20);
    let whole = fs::read(&newest).unwrap();
    for at in 0..whole.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            fs::write(&newest, &bytes).unwrap();
            assert_falls_back(directory.path(), &format!("byte {at} ^ {mask:#x}"));
        }
    }
}

#[test]
fn every_truncation_and_extension_is_found_and_the_previous_checkpoint_used() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 10, &small_state(9));
    write(directory.path(), 20, &small_state(19));
    let newest = path(directory.path(), 20);
    let whole = fs::read(&newest).unwrap();
    for length in 0..whole.len() {
        fs::write(&newest, &whole[..length]).unwrap();
        assert_falls_back(directory.path(), &format!("cut to {length}"));
    }
    fs::write(&newest, [&whole[..], &[0]].concat()).unwrap();
    assert_falls_back(directory.path(), "a byte more");
}

#[test]
fn blocks_that_are_swapped_doubled_or_missing_are_found() {
    let directory = TempDir::new().unwrap();
    let state = large_state(2000);
    write(directory.path(), 10, &small_state(9));
    write(directory.path(), 20, &state);
    let newest = path(directory.path(), 20);
    let whole = fs::read(&newest).unwrap();
    let lengths: Vec<usize> = blocks(&state).iter().map(|block| block.bytes() + 12).collect();
    assert!(lengths.len() >= 4);
    let mut rest = &whole[..];
    let mut cut = |bytes| rest.split_off(..bytes).unwrap();
    let head = cut(48);
    let (terms, members, sessions) = (cut(12 + 2 * 16), cut(12 + 3 * 9), cut(lengths[0]));
    let (one, two) = (cut(lengths[1]), cut(lengths[2]));
    let tail = rest;
    for (what, bytes) in [
        ("swapped", [head, terms, members, sessions, two, one, tail].concat()),
        ("doubled", [head, terms, members, sessions, one, one, two, tail].concat()),
        ("first missing", [head, terms, members, sessions, two, tail].concat()),
        ("second missing", [head, terms, members, sessions, one, tail].concat()),
        ("sessions missing", [head, terms, members, one, two, tail].concat()),
        ("sessions doubled", [head, terms, members, sessions, sessions, one, two, tail].concat()),
        ("sessions before members", [head, terms, sessions, members, one, two, tail].concat()),
        ("sessions behind records", [head, terms, members, one, two, sessions, tail].concat()),
    ] {
        fs::write(&newest, bytes).unwrap();
        assert_falls_back(directory.path(), what);
    }
}

#[test]
fn a_checkpoint_under_another_ones_name_is_found() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 10, &small_state(9));
    fs::copy(path(directory.path(), 10), path(directory.path(), 20)).unwrap();
    assert_falls_back(directory.path(), "copied");
}

#[test]
fn damaged_checkpoints_alone_are_an_error_that_names_each() {
    let directory = TempDir::new().unwrap();
    for index in [10, 20] {
        write(directory.path(), index, &small_state(9));
        fs::write(path(directory.path(), index), b"rubbish").unwrap();
    }
    let message = load(directory.path()).unwrap_err().to_string();
    assert!(message.contains("00000000000000000010.ckpt: 7 bytes are too few"), "{message}");
    assert!(message.contains("00000000000000000020.ckpt: 7 bytes are too few"), "{message}");
}

#[test]
fn skipped_checkpoints_are_removed_on_request() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 10, &small_state(9));
    fs::write(path(directory.path(), 20), b"rubbish").unwrap();
    let (loaded, _) = load(directory.path()).unwrap().unwrap();
    remove_skipped(&RealDisk, directory.path(), &loaded.skipped).unwrap();
    assert_eq!(list(&RealDisk, directory.path()).unwrap(), [10]);
}

/// The newest checkpoint's header with another field, checksum right.
fn with_header(directory: &Path, change: impl FnOnce(&mut [u8])) {
    let newest = path(directory, 20);
    let mut bytes = fs::read(&newest).unwrap();
    change(&mut bytes);
    let checksum = crc32c::crc32c(&bytes[..44]);
    bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&newest, bytes).unwrap();
}

#[test]
fn another_version_is_refused_and_not_passed_over() {
    for version in [2, 4] {
        let directory = TempDir::new().unwrap();
        write(directory.path(), 10, &small_state(9));
        write(directory.path(), 20, &small_state(19));
        with_header(directory.path(), |bytes| bytes[8] = version);
        let message = load(directory.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("00000000000000000020.ckpt has version {version}")), "{message}");
    }
}

#[test]
fn a_checkpoint_of_another_cluster_is_refused_and_not_passed_over() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 20, &small_state(19));
    let other = of(Some(ClusterId([8; 16])));
    let error = load_newest(&RealDisk, directory.path(), other, |_| panic!("leaked")).unwrap_err();
    assert!(matches!(error, CheckpointError::OtherCluster { found: CLUSTER, .. }), "{error}");
    assert!(load_newest(&RealDisk, directory.path(), of(None), |_| {}).unwrap().is_some());
}

#[test]
fn a_checkpoint_of_no_cluster_is_taken_only_as_the_origin_of_its_directory() {
    let directory = TempDir::new().unwrap();
    let header = CheckpointHeader { cluster: NO_CLUSTER, ..header(20) };
    let mut writer = CheckpointWriter::create(Arc::new(RealDisk), directory.path(), &header).unwrap();
    blocks(&small_state(19)).iter().for_each(|block| writer.block(block).unwrap());
    let origin = writer.finish().unwrap().origin();
    let load = |owner| load_newest(&RealDisk, directory.path(), owner, |_| {});
    for cluster in [None, Some(CLUSTER)] {
        let loaded = load(Owner { cluster, origin: Some(origin) }).unwrap().unwrap();
        assert_eq!(loaded.info.origin(), origin);
        let others = [Origin { index: 21, ..origin }, Origin { hash: [0; 32], ..origin }].map(Some);
        for other in [None].into_iter().chain(others) {
            let error = load(Owner { cluster, origin: other }).unwrap_err();
            assert!(matches!(error, CheckpointError::OtherCluster { .. }), "{error}");
            assert!(error.to_string().contains("of the beginning of another cluster"), "{error}");
        }
    }
}

#[test]
fn a_temporary_file_is_ignored_and_removed() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), 10, &small_state(9));
    let mut unfinished = CheckpointWriter::create(Arc::new(RealDisk), directory.path(), &header(20)).unwrap();
    unfinished.block(&blocks(&small_state(9))[0]).unwrap();
    drop(unfinished);
    assert_eq!(names(directory.path()), ["00000000000000000010.ckpt", "00000000000000000020.tmp"]);

    let (loaded, state) = load(directory.path()).unwrap().unwrap();
    assert_eq!((loaded.header.index, state), (10, small_state(9)));
    assert_eq!(names(directory.path()), ["00000000000000000010.ckpt"]);
}

#[test]
fn a_temporary_file_in_the_way_is_replaced() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("00000000000000000010.tmp"), vec![1; 100_000]).unwrap();
    write(directory.path(), 10, &small_state(9));
    assert_eq!(load(directory.path()).unwrap().unwrap().1, small_state(9));
}

#[test]
fn all_but_the_newest_are_removed_and_other_files_left() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("notes.ckpt"), b"").unwrap();
    for index in [10, 20, 30, 40] {
        write(directory.path(), index, &small_state(9));
    }
    assert_eq!(remove_older(&RealDisk, directory.path(), 2).unwrap(), [10, 20]);
    assert_eq!(list(&RealDisk, directory.path()).unwrap(), [30, 40]);
    assert_eq!(remove_older(&RealDisk, directory.path(), 2).unwrap(), [0; 0]);
    assert!(names(directory.path()).contains(&"notes.ckpt".into()));
}

/// What the writer says to a block that breaks a rule, behind others that do not.
fn refusal_behind(before: &[Block], block: Block) -> BlockProblem {
    let directory = TempDir::new().unwrap();
    let mut writer = CheckpointWriter::create(Arc::new(RealDisk), directory.path(), &header(10)).unwrap();
    before.iter().for_each(|block| writer.block(block).unwrap());
    match writer.block(&block) {
        Err(CheckpointError::Refused { index: 10, problem }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_that_break_the_format_are_refused() {
    let block = |records: &[(&[u8], Index, usize)]| {
        let mut block = Vec::new();
        for (key, revision, bytes) in records {
            encode_record(key, *revision, &vec![0; *bytes], &mut block);
        }
        block
    };
    let first = Block::Records(block(&[(b"m", 1, BLOCK_BYTES)]));
    let refusal =
        |records: &[u8]| refusal_behind(std::slice::from_ref(&first), Block::Records(records.into()));
    assert_eq!(refusal(&[]), BlockProblem::Length(0));
    assert_eq!(refusal(&block(&[(b"n", 1, 0)])[..10]), BlockProblem::Record);
    assert_eq!(refusal(&block(&[(b"n", 0, 0)])), BlockProblem::Record);
    assert_eq!(refusal(&block(&[(b"n", 11, 0)])), BlockProblem::Record);
    assert_eq!(refusal(&block(&[(b"a", 1, 0)])), BlockProblem::Order);
    assert_eq!(refusal(&block(&[(b"m", 1, 0)])), BlockProblem::Order);
    assert_eq!(refusal(&block(&[(b"o", 1, 0), (b"n", 1, 0)])), BlockProblem::Order);
    assert_eq!(refusal(&block(&[(b"n", 1, BLOCK_BYTES), (b"o", 1, 0)])), BlockProblem::Boundary);
}

/// A session with so many results that it fills a block.
fn large_session() -> Session {
    let applied = WriteResult::Applied { existed: 0 };
    let done = |sequence| Done { sequence, index: 9, checksum: 0, result: applied };
    Session::new(9, 1, (1..=(BLOCK_BYTES as u64).div_ceil(33)).map(done))
}

#[test]
fn sessions_that_break_the_format_are_refused() {
    let refusal = |id, session: Session| refusal_behind(&[], session_block(&[(id, session)].into()));
    let done = |sequence, index, result| Done { sequence, index, checksum: 0, result };
    let with = |results: &[Done]| refusal(2, Session::new(7, 5, results.iter().copied()));
    let applied = WriteResult::Applied { existed: 0 };
    let failed = |mutation, revision| WriteResult::ConditionFailed { mutation, revision };
    let malformed = [
        refusal(0, Session::new(7, 0, [])),
        refusal(8, Session::new(7, 0, [])),
        refusal(2, Session::new(11, 0, [])),
        with(&[done(4, 3, applied)]),
        with(&[done(5 + quorate_protocol::limits::SESSION_WINDOW, 3, applied)]),
        with(&[done(5, 2, applied)]),
        with(&[done(5, 8, applied)]),
        with(&[done(6, 3, applied), done(5, 4, applied)]),
        with(&[done(6, 3, applied), done(6, 4, applied)]),
        with(&[done(5, 4, failed(0, Some(4)))]),
        with(&[done(5, 4, failed(0, Some(0)))]),
        with(&[done(5, 4, failed(quorate_protocol::limits::BATCH_MUTATIONS_MAX as u32, None))]),
        with(&[done(
            5,
            4,
            WriteResult::Applied { existed: 1 + quorate_protocol::limits::BATCH_MUTATIONS_MAX as u32 },
        )]),
    ];
    assert_eq!(malformed, [BlockProblem::Session; 13]);
    let Block::Sessions(whole) = session_block(&sessions()) else { unreachable!() };
    // What is left out is the second session as a whole.
    for length in (1..whole.len()).filter(|length| *length != whole.len() - 28) {
        let cut = Block::Sessions(whole[..length].into());
        assert_eq!(refusal_behind(&[], cut), BlockProblem::Session, "{length} bytes");
    }
    let what = 28 + 20;
    for (at, byte) in [(what, 3), (what + 5, 1), (what + 12, 1)] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        assert_eq!(refusal_behind(&[], Block::Sessions(bytes)), BlockProblem::Session, "byte {at}");
    }
}

#[test]
fn sessions_out_of_place_are_refused() {
    let block = |ids: &[SessionId]| {
        let mut bytes = Vec::new();
        ids.iter().for_each(|id| encode_session(*id, &large_session(), &mut bytes));
        Block::Sessions(bytes)
    };
    assert_eq!(refusal_behind(&[], Block::Sessions(Vec::new())), BlockProblem::Length(0));
    assert_eq!(refusal_behind(&[block(&[5])], block(&[5])), BlockProblem::Sessions);
    assert_eq!(refusal_behind(&[block(&[5])], block(&[4])), BlockProblem::Sessions);
    assert_eq!(refusal_behind(&[], block(&[5, 6])), BlockProblem::Boundary);
    assert_eq!(refusal_behind(&[session_block(&sessions())], block(&[7])), BlockProblem::Boundary);
    let records = &blocks(&small_state(9))[1];
    assert_eq!(refusal_behind(std::slice::from_ref(records), block(&[5])), BlockProblem::Sessions);
}

#[test]
fn a_session_with_as_many_results_as_there_may_be_fits_behind_a_block_that_is_a_byte_short() {
    let directory = TempDir::new().unwrap();
    let mut block = Vec::new();
    let mut id = 0;
    while block.len() < BLOCK_BYTES - 28 {
        id += 1;
        encode_session(id, &Session::new(1 << 20, 0, []), &mut block);
    }
    let applied = WriteResult::Applied { existed: 0 };
    let results = (0..quorate_protocol::limits::SESSION_WINDOW).map(|sequence| Done {
        sequence,
        index: 1 << 20,
        checksum: 0,
        result: applied,
    });
    let largest = Session::new(1 << 20, 0, results);
    encode_session(id + 1, &largest, &mut block);
    let header = CheckpointHeader { index: 1 << 20, ..header(10) };
    let mut writer = CheckpointWriter::create(Arc::new(RealDisk), directory.path(), &header).unwrap();
    writer.block(&Block::Sessions(block)).unwrap();
    writer.finish().unwrap();
    let mut last = None;
    load_newest(&RealDisk, directory.path(), of(None), |item| {
        if let Item::Session(id, session) = item {
            last = Some((id, session));
        }
    })
    .unwrap();
    assert_eq!(last, Some((id + 1, largest)));
}

#[test]
fn only_the_last_block_may_be_short() {
    let short = |key: &[u8]| {
        let mut block = Vec::new();
        encode_record(key, 1, b"", &mut block);
        Block::Records(block)
    };
    assert_eq!(refusal_behind(&[short(b"a")], short(b"b")), BlockProblem::Boundary);
}

#[test]
fn terms_that_do_not_lead_to_the_header_are_refused() {
    let directory = TempDir::new().unwrap();
    for terms in
        [vec![], vec![(0, 3)], vec![(1, 2)], vec![(11, 3)], vec![(5, 1), (5, 3)], vec![(1, 3), (5, 3)]]
    {
        let header = CheckpointHeader { terms: terms.clone(), ..header(10) };
        let result = CheckpointWriter::create(Arc::new(RealDisk), directory.path(), &header);
        let Err(CheckpointError::Refused { problem: BlockProblem::Terms, .. }) = result else {
            panic!("{terms:?} was taken");
        };
    }
}

#[test]
fn the_file_is_synced_before_its_name_and_the_name_before_it_counts() {
    let directory = TempDir::new().unwrap();
    let disk = TraceDisk::default();
    let writer = CheckpointWriter::create(Arc::new(disk.clone()), directory.path(), &header(10)).unwrap();
    disk.take_operations();
    writer.finish().unwrap();
    let temporary = "00000000000000000010.tmp";
    let directory = directory.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(
        disk.take_operations(),
        [
            format!("write {temporary}"),
            format!("sync {temporary}"),
            format!("rename {temporary}"),
            format!("sync directory {directory}")
        ]
    );
}

fn start(
    disk: impl Disk,
    directory: &Path,
    bytes_per_second: u64,
) -> (CheckpointThread, Receiver<CheckpointEvent>) {
    let (sender, events) = mpsc::channel();
    let on_event = move |event| sender.send(event).unwrap_or_default();
    let directory = directory.to_owned();
    let thread =
        CheckpointThread::start(Arc::new(disk), directory, header(10), bytes_per_second, on_event).unwrap();
    (thread, events)
}

/// Plays the event loop: hands over all blocks as they are wanted, and returns the last event.
fn feed(thread: &CheckpointThread, events: &Receiver<CheckpointEvent>, state: &State) -> CheckpointEvent {
    let mut blocks = blocks(state).into_iter();
    let mut complete = false;
    loop {
        while !complete && thread.wants_block() {
            match blocks.next() {
                Some(block) => thread.block(block),
                None => {
                    thread.complete();
                    complete = true;
                }
            }
        }
        match events.recv_timeout(DEADLINE).unwrap() {
            CheckpointEvent::WantsBlock => {}
            last => return last,
        }
    }
}

#[test]
fn the_thread_writes_what_the_writer_writes_and_removes_older_ones() {
    let (by_thread, by_hand) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let state = large_state(50_000);
    for index in [6, 7, 8] {
        write(by_thread.path(), index, &small_state(5));
    }
    let (thread, events) = start(RealDisk, by_thread.path(), 0);
    let CheckpointEvent::Written(info) = feed(&thread, &events, &state) else { panic!("not written") };
    assert_eq!(info, write(by_hand.path(), 10, &state));
    assert!(info.bytes > 5 << 20);
    assert_eq!(list(&RealDisk, by_thread.path()).unwrap(), [8, 10]);
    assert_eq!(load(by_thread.path()).unwrap().unwrap().1, state);
}

#[test]
fn an_empty_state_is_written_by_the_thread() {
    let directory = TempDir::new().unwrap();
    let (thread, events) = start(RealDisk, directory.path(), DEFAULT_BYTES_PER_SECOND);
    assert!(matches!(feed(&thread, &events, &State::new()), CheckpointEvent::Written(_)));
}

#[test]
fn the_thread_syncs_at_every_mebibyte() {
    let directory = TempDir::new().unwrap();
    let disk = TraceDisk::default();
    let (thread, events) = start(disk.clone(), directory.path(), 0);
    let state = large_state(50_000);
    let CheckpointEvent::Written(info) = feed(&thread, &events, &state) else { panic!("not written") };
    let operations = disk.take_operations();
    let syncs = operations.iter().filter(|operation| *operation == "sync 00000000000000000010.tmp").count();
    // A block beyond each mebibyte at most, and one sync at the end.
    let fewest = info.bytes as usize / ((1 << 20) + 2 * BLOCK_BYTES);
    assert!((fewest + 1..=info.bytes as usize / (1 << 20) + 1).contains(&syncs), "{syncs} syncs");
}

#[test]
fn a_dropped_thread_neither_waits_for_its_rate_nor_leaves_a_file() {
    let directory = TempDir::new().unwrap();
    // One byte per second: the first block alone would take 18 hours.
    let (thread, events) = start(RealDisk, directory.path(), 1);
    let mut blocks = blocks(&large_state(5000)).into_iter();
    thread.block(blocks.next().unwrap());
    assert!(matches!(events.recv_timeout(DEADLINE).unwrap(), CheckpointEvent::WantsBlock));
    thread.block(blocks.next().unwrap());
    thread.block(blocks.next().unwrap());
    assert!(!thread.wants_block());

    drop(thread);
    assert!(events.recv_timeout(DEADLINE).is_err(), "a checkpoint that was given up reports nothing");
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_full_disk_ends_the_thread_and_gives_the_space_back() {
    let directory = TempDir::new().unwrap();
    let disk = TraceDisk::default();
    let (thread, events) = start(disk.clone(), directory.path(), 0);
    // The writer is created before the first block is taken.
    thread.block(blocks(&large_state(5000))[0].clone());
    assert!(matches!(events.recv_timeout(DEADLINE).unwrap(), CheckpointEvent::WantsBlock));
    disk.fail("write 00000000000000000010.tmp", io::ErrorKind::StorageFull);
    thread.complete();
    let event = events.recv_timeout(DEADLINE).unwrap();
    let CheckpointEvent::Failed(CheckpointError::Io { source, .. }) = event else { panic!("{event:?}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(!thread.wants_block());
    thread.block(Block::Records(Vec::new()));
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_failed_sync_is_told_apart_from_a_full_disk() {
    let directory = TempDir::new().unwrap();
    let disk = TraceDisk::default();
    disk.fail("sync 00000000000000000010.tmp", io::ErrorKind::Other);
    let (thread, events) = start(disk, directory.path(), 0);
    let event = feed(&thread, &events, &large_state(5000));
    assert!(matches!(event, CheckpointEvent::Failed(CheckpointError::Sync { .. })), "{event:?}");
    drop(thread);
}
