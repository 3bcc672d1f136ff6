//! Writes that are sent again, and what must come of that (T13).
//!
//! Of the tries of a write in a session many are copied: the copy travels for a while, through failovers, restarts,
//! checkpoints and cuts of the log, and reaches some node or other when the call may long be over. Some calls **linger**:
//! the client has the result and does not say so yet, so that the session keeps it, and meanwhile copies are sent, with
//! what they wrote and with something else. Whatever is answered must be the first result, or that the session does not
//! know any more.
//!
//! # Counters
//!
//! Some writes count one up, from what their client has read. In the end every counter must stand where the answers say:
//! at the number of those that were told to be done, and of those of unknown outcome that are.

use std::collections::BTreeMap;

use quorate_protocol::Index;
use quorate_protocol::request::Request;
use quorate_protocol::response::{Outcome, Refusal, WriteResult};

use super::Cluster;
use super::clients::{COPY, Deed, TRIES};
use super::oracle::{count_of, value_of};
use super::schedule::{Happening, MILLISECOND, Moment, Place, SECOND};
use super::trace::Happened;

/// The try of a copy that writes something else.
pub(super) const OTHER_PAYLOAD: u64 = COPY + 1;

/// What has become of the writes that count.
#[derive(Default)]
pub(super) struct Counters(BTreeMap<u64, Counting>);

struct Counting {
    key: Vec<u8>,
    /// Whether it has counted, once the client was told.
    told: Option<bool>,
}

impl Counters {
    pub(super) fn begins(&mut self, deed: &Deed) {
        self.0.insert(deed.number, Counting { key: deed.key.clone(), told: None });
    }

    pub(super) fn told(&mut self, deed: &Deed, result: &WriteResult) {
        if let Some(counting) = self.0.get_mut(&deed.number) {
            counting.told = Some(matches!(result, WriteResult::Applied { .. }));
        }
    }
}

impl Cluster {
    /// Sends what a call sends once more, to arrive within `delay_max` at some node.
    pub(super) fn send_copy(&mut self, client: usize, deed: &Deed, delay_max: Moment) {
        self.repeated.insert(deed.number, deed.clone());
        self.send_aside(client, deed, deed.number * TRIES + COPY, delay_max);
    }

    fn send_aside(&mut self, client: usize, deed: &Deed, id: u64, delay_max: Moment) {
        let session = deed.stand.map(|stand| self.clients[client].sequences.stamp(stand));
        let request =
            Request { id, deadline_ms: self.plan.clients.deadline_ms(), operation: deed.operation(session) };
        let message = postcard::to_stdvec(&request).unwrap().into();
        let to = match self.random.below(3) {
            0 => self.random.below(self.plan.members() as u64) as Place,
            _ => self.clients[client].leader,
        };
        let delay = self.plan.network.delay + self.random.below(delay_max + 1);
        self.schedule.after(delay, Happening::Request { client, to, message });
        self.counts.add(Happened::Copies);
    }

    /// A client that has its result keeps the place of a write, and sends it again meanwhile.
    pub(super) fn linger(&mut self, client: usize, deed: &Deed) {
        let longest = self.random.of(&[50 * MILLISECOND, SECOND, 4 * SECOND]);
        for _ in 0..self.random.below(3) {
            self.send_copy(client, deed, longest);
        }
        if deed.is_marked() && self.random.below(3) == 0 {
            self.calls += 1;
            let other = deed.with_value(value_of(self.calls, 3));
            self.oracle.refused(self.calls);
            self.repeated.insert(deed.number, deed.clone());
            self.send_aside(client, &other, deed.number * TRIES + OTHER_PAYLOAD, longest);
        }
        self.schedule.after(longest, Happening::EndLinger { client, number: deed.number });
        self.lingering.insert(deed.number, deed.clone());
    }

    pub(super) fn end_linger(&mut self, client: usize, number: u64) {
        if let Some(stand) = self.lingering.remove(&number).and_then(|deed| deed.stand) {
            self.clients[client].sequences.end(stand);
        }
    }

    /// A copy is answered, which nobody waits for.
    pub(super) fn copy_answered(&mut self, number: u64, is_other: bool, from: Place, outcome: &Outcome<'_>) {
        let deed = self.repeated.get(&number).cloned().expect("a copy of it was sent");
        let stand = deed.stand.expect("only writes of sessions are copied");
        match outcome {
            Outcome::Written { receipt, result } => {
                assert!(!is_other, "number {stand:?} is answered although it is another write");
                self.check_written(&deed, receipt, result);
                self.count_repeat(from, receipt.index);
            }
            Outcome::Refused(Refusal::Session(error)) => {
                self.oracle.check_session_error(stand.session, stand.sequence, *error);
                self.counts.add(match is_other {
                    true => Happened::OtherPayloadsRefused,
                    false => Happened::CopiesRefused,
                });
            }
            // Of what was done before a new leader may not know yet: it is decided when the entry is applied.
            Outcome::Stored { receipt } => self.stored(deed.options, receipt),
            Outcome::Refused(_) | Outcome::Unknown { .. } => {}
            other => panic!("{other:?} is no answer to a write"),
        }
    }

    /// What was done before is answered by a node.
    pub(super) fn count_repeat(&mut self, from: Place, index: Index) {
        self.counts.add(Happened::Repeats);
        let Some(life) = &self.members[from].life else { return };
        if life.term > self.oracle.term(index) {
            self.counts.add(Happened::RepeatsAfterFailover);
        }
        if life.log_first() > index {
            self.counts.add(Happened::RepeatsOfLogThatIsGone);
        }
    }

    /// Every counter stands where the answers say.
    pub(super) fn check_counters(&mut self) {
        let last = self.oracle.last();
        let mut sums: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (number, counting) in &self.counters.0 {
            // Without an answer either is right.
            let has_counted = counting.told.unwrap_or_else(|| self.oracle.has_changed(*number));
            *sums.entry(&counting.key).or_default() += u64::from(has_counted);
        }
        for (key, sum) in sums {
            let stands = self.oracle.value(key, last).map_or(0, |(_, value)| count_of(value));
            assert_eq!(
                stands,
                sum,
                "{:?} does not stand where the answers say",
                String::from_utf8_lossy(key)
            );
        }
    }
}
