//! What a follower takes, from whom, and what it says about it.

use bytes::Bytes;
use quorate_protocol::peer::{Ack, Append, PeerMessage, Reject, RejectReason, RequestVote, Vote};

use super::super::{Message, Promise, Recovered, Tail, Terms};
use super::*;

const NOW: Time = Duration::ZERO;

/// Node 2 of 3, whose log has entries of these terms, all durable, the first `applied` of them committed.
fn follower(log: &[Term], applied: Index) -> Replica {
    let (mut terms, mut bytes) = (Terms::default(), Vec::new());
    for (index, term) in (1..).zip(log) {
        terms.push(index, *term);
        if index > applied {
            bytes.extend(entry(*term, index, b"value"));
        }
    }
    let mut tail = Tail::default();
    let last = log.len() as Index;
    if last > applied {
        tail.push(applied + 1, last, bytes.into());
    }
    let promise = Promise { term: log.last().copied().unwrap_or(0), voted_for: None };
    Replica::new(
        settings(2, 3, 2),
        Recovered { promise, terms, members: founders(3), held: None, applied, tail },
    )
}

/// Entries after (index, term), in `term`; asks for an answer.
fn append<'a>(term: Term, previous: (Index, Term), commit: Index, entries: &'a [u8]) -> Append<'a> {
    Append { term, previous_index: previous.0, previous_term: previous.1, commit, round: 1, entries }
}

fn receive(replica: &mut Replica, from: u8, append: &Append<'_>) -> Vec<Output> {
    let message = PeerMessage::Append(append.clone());
    turn(replica, NOW, Input::Message { from: member(from), message: &message })
}

fn synced(replica: &mut Replica, generation: u64, index: Index) -> Vec<Output> {
    turn(replica, NOW, Input::Durable { generation, index, disk: Duration::ZERO, sync: Duration::ZERO })
}

fn sent(outputs: &[Output]) -> Vec<PeerMessage<'static>> {
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Send { message: Message::Small(message), .. } => Some(message.clone()),
        _ => None,
    });
    sent.collect()
}

/// The one ack's durable index.
fn acked(outputs: &[Output]) -> Option<Index> {
    match &sent(outputs)[..] {
        [] => None,
        [PeerMessage::Ack(Ack { durable, .. })] => Some(*durable),
        other => panic!("not one ack: {other:?}"),
    }
}

fn rejected(outputs: &[Output]) -> Option<Reject> {
    match &sent(outputs)[..] {
        [PeerMessage::Reject(reject)] => Some(*reject),
        _ => None,
    }
}

/// The part of the state that a refused message must leave alone.
fn state(replica: &Replica) -> impl PartialEq + std::fmt::Debug + use<> {
    let indexes = [replica.last(), replica.durable(), replica.commit(), replica.applied()];
    (replica.term(), indexes, replica.terms().clone())
}

fn stores_nothing(outputs: &[Output]) -> bool {
    !outputs.iter().any(|output| {
        matches!(
            output,
            Output::Promise(_) | Output::Append { .. } | Output::Truncate { .. } | Output::Apply(_)
        )
    })
}

#[test]
fn an_entry_is_acknowledged_only_once_it_is_durable() {
    let mut replica = follower(&[1], 1);
    let outputs = receive(&mut replica, 1, &append(1, (1, 1), 1, &entries(1, 2..=4)));
    assert_eq!(acked(&outputs), Some(1), "R12: not before the sync");
    assert_eq!(acked(&synced(&mut replica, 0, 3)), Some(3));
    assert_eq!(acked(&synced(&mut replica, 0, 4)), Some(4));
}

#[test]
fn a_tail_of_an_older_term_is_acknowledged_only_as_far_as_it_is_known_to_match() {
    let mut replica = follower(&[1, 1, 1, 1], 0);
    let outputs = receive(&mut replica, 1, &append(2, (2, 1), 0, &[]));
    assert_eq!(acked(&outputs), Some(2), "R12: entries 3 and 4 are durable, but maybe not the leader's");
    let outputs = receive(&mut replica, 1, &append(2, (2, 1), 0, &entries(1, [3])));
    assert_eq!((acked(&outputs), replica.last()), (Some(3), 4), "sent again, it is known");
    let outputs = receive(&mut replica, 1, &append(2, (3, 1), 0, &entries(2, [4])));
    assert_eq!(acked(&outputs), Some(3), "entry 4 was replaced");
}

#[test]
fn what_matched_in_one_term_need_not_match_in_the_next() {
    let mut replica = follower(&[1], 1);
    receive(&mut replica, 1, &append(1, (1, 1), 1, &entries(1, 2..=4)));
    assert_eq!(acked(&synced(&mut replica, 0, 4)), Some(4));
    assert_eq!(acked(&receive(&mut replica, 1, &append(2, (2, 1), 1, &[]))), Some(2));
}

#[test]
fn a_sync_of_entries_that_were_cut_since_does_not_count() {
    let mut replica = follower(&[1], 1);
    receive(&mut replica, 1, &append(1, (1, 1), 1, &entries(1, 2..=4)));
    let outputs = receive(&mut replica, 1, &append(2, (1, 1), 1, &entries(2, 2..=4)));
    assert!(outputs.contains(&Output::Truncate { generation: 1, after: 1 }));
    assert_eq!(acked(&synced(&mut replica, 0, 4)), None, "R12: of the old entries");
    assert_eq!(replica.durable(), 1);
    assert_eq!(acked(&synced(&mut replica, 1, 4)), Some(4));
}

#[test]
fn entries_replaced_within_one_turn_go_to_the_log_in_order() {
    let mut replica = follower(&[1], 1);
    for append in [append(1, (1, 1), 1, &entries(1, 2..=3)), append(2, (2, 1), 1, &entries(2, 3..=4))] {
        let message = PeerMessage::Append(append);
        replica.step(NOW, Input::Message { from: member(1), message: &message });
    }
    let outputs = finish(&mut replica, NOW);
    let log: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Append { generation, first, last, .. } => Some((*generation, *first, *last)),
            Output::Truncate { generation, after } => Some((*generation, *after, 0)),
            _ => None,
        })
        .collect();
    assert_eq!(log, [(0, 2, 3), (1, 2, 0), (1, 3, 4)]);
}

#[test]
fn an_append_that_would_cut_committed_entries_stops_the_node_and_leaves_everything() {
    let mut replica = follower(&[1, 1, 1], 3);
    let outputs = receive(&mut replica, 1, &append(2, (2, 1), 3, &entries(2, 3..=4)));
    assert!(matches!(outputs.as_slice(), [Output::Promise(_), Output::Stop(_), ..]), "R16: {outputs:?}");
    assert!(stores_nothing(&outputs[1..]));
    assert_eq!((replica.last(), replica.commit(), replica.terms().term(3)), (3, 3, Some(1)));
}

#[test]
fn nothing_is_applied_above_what_the_leader_has_committed_or_what_matches() {
    let mut replica = follower(&[1, 1, 1, 1], 0);
    receive(&mut replica, 1, &append(2, (2, 1), 4, &[]));
    assert_eq!((replica.commit(), replica.applied()), (2, 2), "R16: 3 and 4 may be others than the leader's");
    receive(&mut replica, 1, &append(2, (2, 1), 2, &entries(1, 3..=4)));
    assert_eq!(replica.applied(), 2, "they match now, but that append knew of no later commit");
    let outputs = receive(&mut replica, 1, &append(2, (4, 1), 3, &[]));
    assert!(outputs.contains(&Output::Apply(entries(1, [3]).into())));
    assert_eq!((replica.commit(), replica.applied()), (3, 3));
}

#[test]
fn the_commit_index_never_goes_back() {
    let mut replica = follower(&[1, 1, 1], 0);
    receive(&mut replica, 1, &append(1, (3, 1), 3, &[]));
    receive(&mut replica, 1, &append(1, (3, 1), 1, &[]));
    receive(&mut replica, 1, &append(2, (1, 1), 1, &[]));
    assert_eq!((replica.commit(), replica.applied()), (3, 3));
}

#[test]
fn an_append_of_a_node_that_does_not_lead_is_refused_reported_and_changes_nothing() {
    for (log, term) in [(vec![1, 1], 1), (vec![1, 1], 9), (vec![], 1)] {
        let mut replica = follower(&log, 0);
        let before = state(&replica);
        let outputs = receive(&mut replica, 3, &append(term, (0, 0), 2, &entries(term, 1..=3)));
        let own = log.last().copied().unwrap_or(0);
        let reject = Reject { term: own, previous_index: 0, round: 1, reason: RejectReason::NotLeader };
        assert_eq!(rejected(&outputs), Some(reject), "R7");
        assert_eq!(reports(&outputs), 1);
        assert!(stores_nothing(&outputs));
        assert_eq!(state(&replica), before);
    }
}

#[test]
fn a_leader_takes_no_entries() {
    let mut leader = Replica::new(settings(1, 3, 2), fresh(3));
    finish(&mut leader, NOW);
    for from in [1, 2] {
        let outputs = receive(&mut leader, from, &append(7, (0, 0), 1, &entries(7, [1])));
        assert_eq!(rejected(&outputs).unwrap().reason, RejectReason::NotLeader);
        assert_eq!((leader.term(), leader.last(), reports(&outputs)), (1, 1, 1));
    }
}

#[test]
fn an_append_of_a_lower_term_is_refused_with_the_own_term() {
    let mut replica = follower(&[1, 3], 1);
    let before = state(&replica);
    let outputs = receive(&mut replica, 1, &append(2, (1, 1), 2, &entries(2, 2..=3)));
    let reject = Reject { term: 3, previous_index: 1, round: 1, reason: RejectReason::StaleTerm };
    assert_eq!(rejected(&outputs), Some(reject), "R7");
    assert_eq!((reports(&outputs), stores_nothing(&outputs)), (1, true));
    assert_eq!(state(&replica), before);
}

#[test]
fn appends_that_come_twice_or_late_change_nothing() {
    let runs = [entries(1, 2..=3), entries(1, 4..=4), entries(1, 5..=7)];
    let appends =
        [append(1, (1, 1), 1, &runs[0]), append(1, (3, 1), 2, &runs[1]), append(1, (4, 1), 4, &runs[2])];
    let mut replica = follower(&[1], 1);
    for append in &appends {
        receive(&mut replica, 1, append);
    }
    synced(&mut replica, 0, 7);
    let before = state(&replica);
    for append in appends.iter().rev().chain(&appends) {
        let outputs = receive(&mut replica, 1, append);
        assert!(stores_nothing(&outputs), "FAULTS 17");
        assert_eq!(acked(&outputs), Some(7));
    }
    assert_eq!(state(&replica), before);
}

#[test]
fn a_gap_is_refused_with_the_last_index_that_can_match() {
    let mut replica = follower(&[1, 1], 1);
    let before = state(&replica);
    let outputs = receive(&mut replica, 1, &append(1, (5, 1), 5, &entries(1, 6..=7)));
    let reason = RejectReason::Mismatch { hint: 2 };
    assert_eq!(
        rejected(&outputs),
        Some(Reject { term: 1, previous_index: 5, round: 1, reason }),
        "FAULTS 18"
    );
    assert!(stores_nothing(&outputs));
    assert_eq!(state(&replica), before);
}

#[test]
fn a_mismatch_skips_a_whole_term_but_never_below_the_commit_index() {
    for (applied, hint) in [(0, 2), (1, 2), (3, 3)] {
        let mut replica = follower(&[1, 1, 2, 2, 2], applied);
        let outputs = receive(&mut replica, 1, &append(3, (5, 3), 0, &entries(3, [6])));
        assert_eq!(rejected(&outputs).unwrap().reason, RejectReason::Mismatch { hint }, "applied={applied}");
        assert_eq!(replica.last(), 5, "nothing is cut on a mismatch alone");
    }
}

#[test]
fn a_previous_entry_that_cannot_exist_is_a_mismatch() {
    let mut replica = follower(&[1, 1], 1);
    for previous in [(0, 1), (Index::MAX, 1), (2, 0), (1, 7)] {
        let outputs = receive(&mut replica, 1, &append(1, previous, 2, &[]));
        let Some(Reject { reason: RejectReason::Mismatch { hint }, .. }) = rejected(&outputs) else {
            panic!("{previous:?}: {outputs:?}")
        };
        assert!(hint <= 2, "{previous:?}");
        assert_eq!(replica.commit(), 1);
    }
}

#[test]
fn entries_that_are_damaged_or_out_of_place_are_not_taken() {
    let good = entries(2, [3]);
    let mut flipped = entries(2, [4]);
    *flipped.last_mut().unwrap() ^= 1;
    let mut cut_short = entries(2, [4]);
    cut_short.pop();
    let cases = [
        ("damaged", flipped),
        ("cut short", cut_short),
        ("skips an index", entries(2, [5])),
        ("repeats an index", entries(2, [3])),
        ("of a term above the leader's", entries(3, [4])),
        ("of a term below the one before", entries(1, [4])),
        ("garbage", vec![0xff; 100]),
    ];
    for (name, bad) in cases {
        let mut replica = follower(&[1, 1], 2);
        let run = [good.clone(), bad, entries(2, [5])].concat();
        let outputs = receive(&mut replica, 1, &append(2, (2, 1), 9, &run));
        assert_eq!((replica.last(), replica.commit(), reports(&outputs)), (3, 2, 1), "{name}");
        assert_eq!(acked(&outputs), None, "{name}");
        let outputs = receive(&mut replica, 1, &append(2, (2, 1), 2, &entries(2, 3..=4)));
        assert_eq!((replica.last(), reports(&outputs)), (4, 0), "{name}: sent whole, they are taken");
    }
}

#[test]
fn the_promise_of_a_new_term_comes_before_everything_that_it_allows() {
    let mut replica = follower(&[1], 1);
    let outputs = receive(&mut replica, 1, &append(4, (1, 1), 1, &entries(4, [2])));
    assert_eq!(outputs[0], Output::Promise(Promise { term: 4, voted_for: None }), "R5");
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Promise(_))).count(), 1);
    let outputs = receive(&mut replica, 1, &append(5, (9, 4), 1, &[]));
    assert!(matches!(outputs[..], [Output::Promise(_), Output::Send { .. }]), "a refusal depends on it, too");
}

#[test]
fn a_vote_is_given_to_nobody() {
    for pre_vote in [false, true] {
        let mut replica = follower(&[1], 1);
        let before = state(&replica);
        let request = RequestVote { term: 9, pre_vote, hand_over: false, last_index: 99, last_term: 9 };
        let message = PeerMessage::RequestVote(request);
        let outputs = turn(&mut replica, NOW, Input::Message { from: member(3), message: &message });
        assert_eq!(sent(&outputs), [PeerMessage::Vote(Vote { term: 1, pre_vote, granted: false })]);
        assert_eq!((state(&replica), outputs.len()), (before, 1));
        let message = PeerMessage::Vote(Vote { term: 9, pre_vote, granted: true });
        assert_eq!(turn(&mut replica, NOW, Input::Message { from: member(3), message: &message }), []);
    }
}

#[test]
fn an_append_that_asks_for_no_answer_gets_none_until_something_is_synced() {
    let mut replica = follower(&[1], 1);
    let silent = Append { round: 0, ..append(1, (1, 1), 1, &[]) };
    assert_eq!(receive(&mut replica, 1, &silent), []);
    let run = entries(1, [2]);
    let outputs = receive(&mut replica, 1, &Append { entries: &run, ..silent });
    let expected = Output::Append { generation: 0, first: 2, last: 2, commit: 1, entries: Bytes::from(run) };
    assert_eq!(outputs, [expected]);
    assert_eq!(acked(&synced(&mut replica, 0, 2)), Some(2));
}

/// The one ack in full.
fn ack(outputs: &[Output]) -> Ack {
    match &sent(outputs)[..] {
        [PeerMessage::Ack(ack)] => *ack,
        other => panic!("not one ack: {other:?}"),
    }
}

#[test]
fn an_ack_says_how_long_ago_the_last_entry_was_applied() {
    let ms = Time::from_millis;
    let mut replica = follower(&[1], 1);
    let heartbeat = |replica: &mut Replica, now, commit, round| {
        let append = Append { round, ..append(1, (3, 1), commit, &[]) };
        turn(replica, now, Input::Message { from: member(1), message: &PeerMessage::Append(append) })
    };
    receive(&mut replica, 1, &append(1, (1, 1), 1, &entries(1, 2..=3)));
    synced(&mut replica, 0, 3);
    assert_eq!(ack(&heartbeat(&mut replica, ms(100), 2, 2)).applied_ago_us, 0, "in this very turn");
    let later = ack(&heartbeat(&mut replica, ms(150), 2, 3));
    assert_eq!((later.applied, later.applied_ago_us), (2, 50_000), "nothing new: the time goes on");
    assert_eq!(sent(&heartbeat(&mut replica, ms(170), 3, 0)), [], "a commit index asks for no ack");
    let later = ack(&heartbeat(&mut replica, ms(200), 3, 4));
    assert_eq!((later.applied, later.applied_ago_us), (3, 30_000));
    assert_eq!(ack(&heartbeat(&mut replica, Time::from_secs(1 << 20), 3, 5)).applied_ago_us, u32::MAX);
}

#[test]
fn an_ack_of_several_batches_tells_the_disk_time_of_the_oldest_entry() {
    let ms = Time::from_millis;
    let mut replica = follower(&[1], 1);
    receive(&mut replica, 1, &append(1, (1, 1), 1, &entries(1, 2..=5)));
    let batch = |index, disk, sync| Input::Durable { generation: 0, index, disk: ms(disk), sync: ms(sync) };
    let told = |outputs: &[Output]| (ack(outputs).durable, ack(outputs).disk_us, ack(outputs).sync_us);
    assert_eq!(told(&turn(&mut replica, NOW, batch(2, 9, 4))), (2, 9000, 4000));
    replica.step(NOW, batch(3, 7, 2));
    replica.step(NOW, batch(4, 6, 3));
    assert_eq!(told(&finish(&mut replica, NOW)), (4, 7000, 3000));
    assert_eq!(told(&receive(&mut replica, 1, &append(1, (5, 1), 1, &[]))), (4, 7000, 3000), "nothing new");
    assert_eq!(told(&turn(&mut replica, NOW, batch(5, 1, 1))), (5, 1000, 1000));
}
