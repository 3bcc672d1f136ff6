//! What is counted for which entries. Times are below 256 µs where exact values matter: a histogram of two
//! decimal digits has a place for each of these.

use super::times::TIMES_MAX;
use super::*;

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

fn us(micros: u64) -> Time {
    Time::from_micros(micros)
}

/// The lag of node 2, from entry 11 on.
fn lag() -> Lag {
    Lag::new([node(2)].into_iter(), 10)
}

/// An ack that tells of a sync.
fn durable(durable: Index, disk_us: u32, sync_us: u32) -> Ack {
    Ack { term: 1, durable, applied: 0, applied_ago_us: 0, round: 0, disk_us, sync_us }
}

/// An ack that tells of entries applied.
fn applied(durable: Index, applied: Index, applied_ago_us: u32) -> Ack {
    Ack { term: 1, durable, applied, applied_ago_us, round: 1, disk_us: 0, sync_us: 0 }
}

impl Lag {
    /// Appended and sent in one turn, as most are.
    fn append_and_send(&mut self, first: Index, last: Index, now: Time) {
        self.appended(first, last, now);
        self.sent(node(2), first, now);
    }

    fn of(&self, id: u8) -> &Histograms {
        &self.followers[&node(id)].histograms
    }
}

/// (value, how often) in a histogram.
fn values(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

#[test]
fn every_entry_counts_once_in_every_stage_and_the_stages_add_up() {
    let mut lag = lag();
    lag.appended(11, 12, us(1000));
    lag.sent(node(2), 11, us(1010));
    lag.acknowledged(node(2), &durable(12, 60, 40), us(1100));
    lag.acknowledged(node(2), &durable(12, 60, 40), us(1150)); // Says nothing new.
    let of = lag.of(2);
    let stages = [&of.total, &of.queue, &of.network, &of.disk, &of.sync].map(values);
    assert_eq!(stages, [100, 10, 30, 60, 40].map(|value| vec![(value, 2)]));
    assert_eq!(values(&of.entries), [(2, 1)]);
}

#[test]
fn the_means_of_queue_network_and_disk_add_up_to_the_mean_of_the_lag() {
    let mut lag = lag();
    let mut index = 10;
    for turn in 1..100 {
        let now = us(200 * turn);
        let (first, last) = (index + 1, index + 1 + turn % 7);
        lag.appended(first, last, now);
        lag.sent(node(2), first, now + us(turn % 11));
        // Two appends for each ack; the disk's time as told is sometimes longer than there was.
        if turn % 2 == 0 {
            let told = (turn * 37 % 400) as u32;
            lag.acknowledged(node(2), &durable(last, told, told / 3), now + us(20 + turn % 30));
        }
        index = last;
    }
    let of = lag.of(2);
    let sum = |histogram| values(histogram).iter().map(|(value, count)| value * count).sum::<u64>();
    assert!([&of.total, &of.queue, &of.network, &of.disk, &of.sync].iter().all(|stage| stage.max() < 256));
    assert_eq!(sum(&of.queue) + sum(&of.network) + sum(&of.disk), sum(&of.total));
    let counts = [&of.queue, &of.network, &of.disk, &of.sync].map(Histogram::len);
    assert_eq!(counts, [of.total.len(); 4]);
    assert!(sum(&of.queue) > 0 && sum(&of.network) > 0 && sum(&of.disk) > sum(&of.sync));
}

#[test]
fn an_entry_counts_for_each_follower_by_its_own_acknowledgement() {
    let mut lag = Lag::new([node(2), node(3)].into_iter(), 10);
    lag.appended(11, 12, us(0));
    lag.appended(13, 15, us(5));
    lag.acknowledged(node(2), &durable(11, 0, 0), us(10));
    lag.acknowledged(node(2), &durable(15, 0, 0), us(20));
    assert_eq!(values(&lag.of(2).total), [(10, 1), (15, 3), (20, 1)]);
    assert_eq!(values(&lag.of(2).entries), [(4, 1), (5, 1)]);
    assert_eq!((lag.of(3).total.len(), lag.appended.len()), (0, 2), "node 3 has acknowledged nothing");
    lag.acknowledged(node(3), &durable(15, 0, 0), us(30));
    assert_eq!(values(&lag.of(3).total), [(25, 3), (30, 2)]);
    assert_eq!(lag.appended.len(), 1, "only what comes next is of interest");
}

#[test]
fn of_a_merged_batch_the_disk_time_is_told_for_the_oldest_and_estimated_for_the_rest() {
    let mut lag = lag();
    lag.append_and_send(11, 11, us(0));
    lag.append_and_send(12, 13, us(30));
    lag.append_and_send(14, 14, us(90));
    lag.acknowledged(node(2), &durable(14, 100, 25), us(130));
    let of = lag.of(2);
    assert_eq!(values(&of.disk), [(25, 1), (70, 2), (100, 1)], "at least the sync");
    assert_eq!(values(&of.network), [(15, 1), (30, 3)]);
    assert_eq!(values(&of.sync), [(25, 4)]);
}

#[test]
fn a_disk_time_that_is_longer_than_there_was_is_cut() {
    let mut lag = lag();
    lag.appended(11, 11, us(0));
    lag.sent(node(2), 11, us(40));
    lag.acknowledged(node(2), &durable(11, 200, 150), us(100));
    let of = lag.of(2);
    let stages = [&of.total, &of.queue, &of.network, &of.disk, &of.sync].map(values);
    assert_eq!(stages, [100, 40, 0, 60, 60].map(|value| vec![(value, 1)]));
}

#[test]
fn of_an_entry_that_was_sent_again_the_last_send_counts() {
    let mut lag = lag();
    lag.append_and_send(11, 12, us(0));
    lag.append_and_send(13, 14, us(10));
    lag.sent(node(2), 12, us(70)); // After a lost link, of which entry 11 had come through.
    lag.acknowledged(node(2), &durable(14, 0, 0), us(100));
    let of = lag.of(2);
    assert_eq!(values(&of.queue), [(0, 1), (60, 2), (70, 1)]);
    assert_eq!(values(&of.total), [(90, 2), (100, 2)]);
}

#[test]
fn an_entry_got_by_catching_up_counts_with_all_its_lag() {
    let mut lag = lag();
    for index in 11..=20 {
        lag.appended(index, index, us(index));
    }
    lag.sent(node(2), 11, us(150)); // One read of the log, or one long run from memory.
    lag.acknowledged(node(2), &durable(20, 20, 20), us(200));
    let of = lag.of(2);
    assert_eq!((of.total.len(), of.total.min(), of.total.max()), (10, 180, 189));
    assert_eq!((of.queue.min(), of.queue.max()), (130, 139));
    assert_eq!((values(&of.network), values(&of.disk)), (vec![(30, 10)], vec![(20, 10)]));
}

#[test]
fn an_entry_is_applied_when_the_ack_was_received_less_what_has_passed_since() {
    let mut lag = lag();
    lag.append_and_send(11, 12, us(0));
    lag.acknowledged(node(2), &applied(12, 10, 0), us(100));
    lag.append_and_send(13, 13, us(110));
    lag.acknowledged(node(2), &applied(13, 11, 50), us(200));
    assert_eq!(values(&lag.of(2).apply), [(50, 1)], "entry 11");
    lag.acknowledged(node(2), &applied(13, 13, 30), us(310));
    assert_eq!(values(&lag.of(2).apply), [(50, 1), (80, 1), (180, 1)]);
    lag.acknowledged(node(2), &applied(13, 13, 90), us(370));
    assert_eq!(lag.of(2).apply.len(), 3, "each once");
}

#[test]
fn what_was_applied_before_its_acknowledgement_took_no_time() {
    let mut lag = lag();
    lag.append_and_send(11, 12, us(0));
    lag.acknowledged(node(2), &applied(10, 12, 0), us(50));
    assert_eq!(lag.of(2).apply.len(), 0, "not acknowledged yet");
    lag.acknowledged(node(2), &applied(11, 12, 60), us(110));
    lag.acknowledged(node(2), &applied(12, 12, 70), us(120));
    assert_eq!(values(&lag.of(2).apply), [(0, 2)]);
}

#[test]
fn what_was_in_the_log_before_is_not_measured() {
    let mut lag = lag();
    lag.append_and_send(11, 11, us(100));
    lag.acknowledged(node(2), &applied(7, 7, 0), us(110));
    assert_eq!((lag.of(2).total.len(), lag.of(2).entries.len(), lag.of(2).apply.len()), (0, 0, 0));
    assert_eq!(lag.now_us(node(2), us(130)), 30, "but it is behind, since there is a leader");
    lag.acknowledged(node(2), &applied(11, 11, 0), us(140));
    assert_eq!(values(&lag.of(2).total), [(40, 1)]);
    assert_eq!(lag.of(2).apply.len(), 1);
}

#[test]
fn the_lag_of_the_moment_is_the_age_of_the_oldest_entry_that_is_not_acknowledged() {
    let mut lag = Lag::new([node(2), node(3)].into_iter(), 0);
    assert_eq!(lag.now_us(node(2), us(500)), 0);
    lag.append_and_send(1, 2, us(1000));
    lag.append_and_send(3, 3, us(1200));
    let now_us = |lag: &Lag| [2, 3].map(|id| lag.now_us(node(id), us(1500)));
    assert_eq!(now_us(&lag), [500, 500]);
    lag.acknowledged(node(2), &durable(2, 0, 0), us(1300));
    assert_eq!(now_us(&lag), [300, 500]);
    lag.acknowledged(node(2), &durable(3, 0, 0), us(1400));
    assert_eq!(now_us(&lag), [0, 500]);
    lag.acknowledged(node(3), &durable(3, 0, 0), us(1400));
    assert_eq!(now_us(&lag), [0, 0]);
}

#[test]
fn an_idle_cluster_has_no_lag_however_long_it_rests() {
    let mut lag = lag();
    lag.append_and_send(11, 11, us(0));
    lag.acknowledged(node(2), &applied(11, 11, 0), us(90));
    let before = [lag.of(2).total.len(), lag.of(2).apply.len()];
    for round in 1..1000 {
        lag.acknowledged(node(2), &applied(11, 11, 50_000 * round), us(90 + 50_000 * u64::from(round)));
    }
    assert_eq!([lag.of(2).total.len(), lag.of(2).apply.len()], before);
    assert_eq!(lag.now_us(node(2), us(60_000_000)), 0);
}

#[test]
fn a_follower_that_is_far_behind_costs_bounded_memory_and_loses_no_entry() {
    let mut lag = Lag::new([node(2), node(3)].into_iter(), 0);
    let entries = 3 * TIMES_MAX as u64;
    for index in 1..=entries {
        lag.append_and_send(index, index, us(index));
    }
    for index in 1..=entries {
        lag.acknowledged(node(2), &durable(index, 0, 0), us(entries + index)); // Nothing of it is applied.
    }
    let FollowerLag { sent, acknowledgements, .. } = &lag.followers[&node(2)];
    assert!(lag.appended.len() <= TIMES_MAX && acknowledgements.len() <= TIMES_MAX && sent.len() == 1);
    lag.acknowledged(node(2), &applied(entries, entries, 0), us(2 * entries));
    assert_eq!((lag.of(2).total.len(), lag.of(2).apply.len()), (entries, entries));
    lag.acknowledged(node(3), &durable(entries, 0, 0), us(2 * entries));
    assert_eq!(lag.of(3).total.len(), entries);
}

#[test]
fn an_ack_of_what_was_never_appended_or_sent_is_survived() {
    let mut lag = lag();
    lag.acknowledged(node(2), &durable(12, 10, 5), us(100));
    lag.acknowledged(node(2), &applied(12, Index::MAX, u32::MAX), us(110));
    lag.acknowledged(node(9), &durable(12, 10, 5), us(120));
    assert_eq!((values(&lag.of(2).total), values(&lag.of(2).apply)), (vec![(0, 2)], vec![(0, 2)]));
    assert_eq!(lag.now_us(node(2), us(200)), 0);
}
