//! Catching up by a checkpoint, when the log no longer holds what a follower lacks.

use quorate_protocol::peer::{CheckpointAck, CheckpointChunk, CheckpointState, PeerMessage};
use quorate_protocol::response::Obstacle;

use super::super::{Flow, Message, Progress, Promise, ProposeError, Recovered, Tail, Terms};
use super::cluster::Cluster;
use super::*;

const NOW: Time = Duration::ZERO;

fn progress(cluster: &Cluster) -> &Progress {
    cluster.replica(1).follower(node(3)).unwrap()
}

/// Bytes of the checkpoint that node 3 has said to have.
fn acknowledged(cluster: &Cluster) -> u64 {
    progress(cluster).transfer.map_or(0, |transfer| transfer.acknowledged)
}

/// Node 3 was away while entries 2 to 21 were written, of which the leader has none any more.
fn with_a_follower_far_behind() -> Cluster {
    let mut cluster = Cluster::with(3, 2, |settings| settings.tail_bytes_max = 0);
    cluster.settle();
    cluster.isolate(3);
    for _ in 0..20 {
        cluster.propose(b"value").unwrap();
        cluster.settle();
    }
    cluster.take_checkpoint(1);
    cluster
}

/// Delivers, syncs and answers everything once, and lets a heartbeat pass.
fn round(cluster: &mut Cluster) {
    for (from, to) in cluster.pairs() {
        cluster.deliver(from, to);
    }
    for id in cluster.ids() {
        cluster.sync(id);
        cluster.answer_read(id, usize::MAX);
        cluster.work_transfer(id);
    }
    cluster.advance(HEARTBEAT);
}

/// Goes on until node 3 has acknowledged some of the checkpoint, but not all.
fn send_half(cluster: &mut Cluster) {
    for _ in 0..100 {
        round(cluster);
        let transfer = progress(cluster).transfer;
        let total = transfer.and_then(|transfer| transfer.checkpoint).map_or(u64::MAX, |sent| sent.bytes);
        if acknowledged(cluster) > total / 2 {
            return;
        }
    }
    panic!("nothing is sent: {:?}", progress(cluster));
}

fn heal(cluster: &mut Cluster) {
    cluster.connect_all();
    for _ in 0..30 {
        cluster.settle();
        cluster.advance(HEARTBEAT);
    }
    cluster.settle();
}

fn assert_whole(cluster: &mut Cluster) {
    assert_eq!(progress(cluster).flow, Flow::Streaming);
    assert_eq!(progress(cluster).transfer, None);
    assert_eq!(cluster.replica(3).applied(), cluster.replica(1).applied());
    let applied = cluster.member(1).applied.clone();
    assert_eq!(cluster.member(3).applied, applied);
    assert!(cluster.members().all(|member| member.reports.is_empty() && member.stopped.is_none()));
}

#[test]
fn a_follower_that_lacks_what_was_dropped_catches_up_by_a_checkpoint_and_goes_on_from_the_log() {
    let mut cluster = with_a_follower_far_behind();
    for _ in 0..3 {
        cluster.propose(b"in the log").unwrap();
        cluster.settle();
    }
    heal(&mut cluster);
    assert_whole(&mut cluster);
    let index = cluster.propose(b"from memory").unwrap();
    cluster.settle();
    assert_eq!(cluster.commits(), [index; 3]);
    assert_eq!(cluster.member(3).disk.checkpoint, 21, "its log begins behind the checkpoint");
}

#[test]
fn a_follower_that_is_sent_a_checkpoint_is_heard_and_does_not_count_as_reachable() {
    let mut cluster = with_a_follower_far_behind();
    cluster.connect_all();
    send_half(&mut cluster);
    cluster.isolate(2);
    round(&mut cluster);
    assert_eq!(progress(&cluster).flow, Flow::Checkpoint);
    assert!(progress(&cluster).is_heard(cluster.now, ELECTION_TIMEOUT));
    assert_eq!(cluster.propose(b"value"), Err(ProposeError::NoQuorum { have: 1, need: 2 }));
    heal(&mut cluster);
    assert_whole(&mut cluster);
}

#[test]
fn a_transfer_goes_on_after_a_broken_link_where_it_was() {
    let mut cluster = with_a_follower_far_behind();
    cluster.connect_all();
    send_half(&mut cluster);
    let had = acknowledged(&cluster);
    cluster.isolate(3);
    cluster.connect_all();
    for _ in 0..4 {
        round(&mut cluster);
        assert!(acknowledged(&cluster) >= had, "it was not begun anew");
        assert!(cluster.member(3).disk.part.1.len() as u64 >= had);
    }
    heal(&mut cluster);
    assert_whole(&mut cluster);
}

#[test]
fn a_transfer_goes_on_after_a_restart_of_either_side() {
    for victim in [1, 3] {
        let mut cluster = with_a_follower_far_behind();
        cluster.connect_all();
        send_half(&mut cluster);
        let had = cluster.member(3).disk.part.1.len();
        cluster.crash(victim);
        heal_with(&mut cluster, |cluster| {
            let installed = cluster.replica(3).applied() >= 21;
            assert!(
                installed || cluster.member(3).disk.part.1.len() >= had,
                "node {victim}: it was not begun anew"
            );
        });
        assert_whole(&mut cluster);
    }
}

fn heal_with(cluster: &mut Cluster, check: impl Fn(&mut Cluster)) {
    cluster.connect_all();
    for _ in 0..60 {
        round(cluster);
        check(cluster);
    }
    heal(cluster);
}

#[test]
fn what_was_received_damaged_is_asked_for_again() {
    let mut cluster = with_a_follower_far_behind();
    cluster.connect_all();
    send_half(&mut cluster);
    cluster.member(3).disk.part.1[9] ^= 1;
    heal(&mut cluster);
    let reports = std::mem::take(&mut cluster.member(1).reports);
    assert!(reports.len() == 1 && reports[0].contains("damaged"), "{reports:?}");
    assert_whole(&mut cluster);
}

#[test]
fn a_transfer_begins_anew_with_a_newer_checkpoint_when_the_log_no_longer_reaches_back_to_its_own() {
    let mut cluster = with_a_follower_far_behind();
    cluster.connect_all();
    send_half(&mut cluster);
    assert_eq!(progress(&cluster).transfer.unwrap().checkpoint.unwrap().index, 21);
    cluster.propose(b"value").unwrap();
    for _ in 0..3 {
        for (from, to) in [(1, 2), (2, 1)] {
            cluster.deliver(from, to);
        }
        [1, 2].into_iter().for_each(|id| cluster.sync(id));
    }
    cluster.take_checkpoint(1);
    assert_eq!(acknowledged(&cluster), 0);
    send_half(&mut cluster);
    assert_eq!(progress(&cluster).transfer.unwrap().checkpoint.unwrap().index, 22);
    heal(&mut cluster);
    assert_whole(&mut cluster);
}

#[test]
fn lost_pieces_and_answers_are_noticed_and_sent_again() {
    for (from, to) in [(1, 3), (3, 1)] {
        let mut cluster = with_a_follower_far_behind();
        cluster.connect_all();
        send_half(&mut cluster);
        let mut lost = 0;
        for _ in 0..3 {
            lost += cluster.link(from, to).queue.len();
            cluster.link(from, to).queue.clear();
            round(&mut cluster);
        }
        assert!(lost > 0);
        heal(&mut cluster);
        assert_whole(&mut cluster);
    }
}

#[test]
fn a_follower_without_room_says_so_and_goes_on_when_there_is_some() {
    let mut cluster = with_a_follower_far_behind();
    cluster.connect_all();
    send_half(&mut cluster);
    let had = cluster.member(3).disk.part.1.len();
    cluster.set_obstacle(3, Some(Obstacle::DiskFull));
    for _ in 0..100 {
        round(&mut cluster);
    }
    assert_eq!(progress(&cluster).obstacle, Some(Obstacle::DiskFull));
    assert!(cluster.member(3).disk.part.1.len() >= had);
    cluster.set_obstacle(3, None);
    heal(&mut cluster);
    assert_eq!(progress(&cluster).obstacle, None);
    assert_whole(&mut cluster);
}

/// Node 2 of 3 with entries of these terms, all durable, none known to be committed.
fn follower(log: &[Term]) -> Replica {
    let (mut terms, mut tail, mut bytes) = (Terms::default(), Tail::default(), Vec::new());
    for (index, term) in (1..).zip(log) {
        terms.push(index, *term);
        bytes.extend(entry(*term, index, b"value"));
    }
    if !log.is_empty() {
        tail.push(1, log.len() as Index, bytes.into());
    }
    let promise = Promise { term: log.last().copied().unwrap_or(0), voted_for: None };
    Replica::new(
        settings(2, 3, 2),
        Recovered { promise, terms, members: founders(3), held: None, applied: 0, tail },
    )
}

fn terms(log: &[Term]) -> Terms {
    let mut terms = Terms::default();
    (1..).zip(log).for_each(|(index, term)| terms.push(index, *term));
    terms
}

fn chunk(term: Term, index: Index, offset: u64, round: u64, bytes: &[u8]) -> PeerMessage<'_> {
    PeerMessage::CheckpointChunk(CheckpointChunk { term, index, total_bytes: 10, offset, round, bytes })
}

fn receive(replica: &mut Replica, from: u8, message: &PeerMessage<'_>) -> Vec<Output> {
    turn(replica, NOW, Input::Message { from: member(from), message })
}

fn answers(outputs: &[Output]) -> Vec<CheckpointState> {
    let answers = outputs.iter().filter_map(|output| match output {
        Output::Send { message: Message::Small(PeerMessage::CheckpointAck(ack)), .. } => Some(ack.state),
        _ => None,
    });
    answers.collect()
}

#[test]
fn a_log_that_differs_from_the_checkpoint_goes_and_its_syncs_no_longer_count() {
    let mut replica = follower(&[1, 1, 2, 2]);
    let outputs =
        turn(&mut replica, NOW, Input::PartInstalled { terms: terms(&[1, 1, 3]), members: founders(3) });
    assert!(outputs.contains(&Output::Restore { index: 3, generation: Some(1) }), "{outputs:?}");
    let indexes =
        |replica: &Replica| [replica.last(), replica.durable(), replica.commit(), replica.applied()];
    assert_eq!(indexes(&replica), [3; 4]);
    assert_eq!(replica.terms(), &terms(&[1, 1, 3]));
    let (disk, sync) = (Duration::ZERO, Duration::ZERO);
    turn(&mut replica, NOW, Input::Durable { generation: 0, index: 4, disk, sync });
    assert_eq!(indexes(&replica), [3; 4], "R12");
}

#[test]
fn a_log_that_goes_on_behind_the_checkpoint_stays_as_it_may_have_been_acknowledged() {
    let mut replica = follower(&[1, 1, 2, 2]);
    let outputs =
        turn(&mut replica, NOW, Input::PartInstalled { terms: terms(&[1, 1, 2]), members: founders(3) });
    assert!(outputs.contains(&Output::Restore { index: 3, generation: None }), "{outputs:?}");
    assert_eq!((replica.last(), replica.durable(), replica.commit(), replica.applied()), (4, 4, 3, 3));
}

#[test]
fn a_checkpoint_that_is_not_needed_any_more_changes_nothing() {
    let mut replica = follower(&[1, 1, 2, 2]);
    turn(&mut replica, NOW, Input::PartInstalled { terms: terms(&[1, 1, 2]), members: founders(3) });
    let outputs =
        turn(&mut replica, NOW, Input::PartInstalled { terms: terms(&[1, 1]), members: founders(3) });
    assert_eq!(outputs, []);
    assert_eq!((replica.last(), replica.commit()), (4, 3));
    let outputs = receive(&mut replica, 1, &chunk(2, 3, 0, 7, &[]));
    assert_eq!(answers(&outputs), [CheckpointState::Installed]);
}

#[test]
fn pieces_are_taken_in_order_from_the_leader_of_the_promised_term_alone() {
    let mut replica = follower(&[1, 1, 2]);
    for (from, term) in [(1, 1), (3, 2), (3, 3)] {
        let outputs = receive(&mut replica, from, &chunk(term, 9, 0, 1, &[]));
        assert!(!outputs.iter().any(|output| matches!(output, Output::OpenPart { .. })), "R7");
        assert_eq!(reports(&outputs), 1);
    }
    let outputs = receive(&mut replica, 1, &chunk(2, 9, 0, 1, &[]));
    assert_eq!(outputs, [Output::OpenPart { index: 9, total_bytes: 10 }]);
    let outputs = receive(&mut replica, 1, &chunk(2, 9, 0, 0, b"early"));
    assert_eq!(outputs, [], "what is there is not known yet");
    let outputs = turn(&mut replica, NOW, Input::PartStored { index: 9, bytes: 4 });
    assert_eq!(answers(&outputs), [CheckpointState::Received(4)]);
    for (offset, bytes) in [(3, &b"12345"[..]), (5, b"12345"), (4, b"1234567")] {
        let outputs = receive(&mut replica, 1, &chunk(2, 9, offset, 0, bytes));
        assert_eq!(outputs, [], "twice, out of order, or beyond the end");
    }
    let outputs = receive(&mut replica, 1, &chunk(2, 9, 4, 0, b"123456"));
    let [Output::StorePart { index: 9, offset: 4, bytes }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(&bytes[..], b"123456");
    let outputs = turn(&mut replica, NOW, Input::PartStored { index: 9, bytes: 10 });
    assert_eq!(answers(&outputs), [CheckpointState::Received(10)]);
    assert!(outputs.contains(&Output::InstallPart { index: 9 }), "{outputs:?}");
}

#[test]
fn a_chunk_of_a_newer_leader_is_promised_first() {
    let mut replica = follower(&[1, 1, 2]);
    let outputs = receive(&mut replica, 1, &chunk(5, 9, 0, 1, &[]));
    let promise = Promise { term: 5, voted_for: None };
    assert_eq!(outputs, [Output::Promise(promise), Output::OpenPart { index: 9, total_bytes: 10 }]);
}

#[test]
fn an_answer_of_another_term_or_checkpoint_moves_nothing() {
    let mut cluster = with_a_follower_far_behind();
    cluster.connect_all();
    send_half(&mut cluster);
    let before = progress(&cluster).transfer;
    for (term, index) in [(0, 21), (1, 20)] {
        let ack = CheckpointAck { term, index, round: u64::MAX, state: CheckpointState::Installed };
        cluster.receive(3, 1, &Message::Small(PeerMessage::CheckpointAck(ack)));
    }
    assert_eq!(progress(&cluster).flow, Flow::Checkpoint);
    assert_eq!(progress(&cluster).transfer.map(|now| now.checkpoint), before.map(|then| then.checkpoint));
}
