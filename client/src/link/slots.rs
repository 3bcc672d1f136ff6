//! The calls in flight: a slab whose places are used again, so that a call costs no allocation.
//!
//! A call is *waiting* (no byte of it exists), *queued* (its frame is in the stream of the connection), or
//! *done*. A request's id is the place and a generation that rises with each use: an answer to a call that
//! was given up finds another generation and is dropped.
//!
//! A call that is answered in parts keeps them until they are taken, up to a bound: beyond it the call ends
//! ([`Answer::Overrun`]), as the connection, which all calls share, cannot wait for one of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::reply::Reply;

/// Bytes of parts that one call may leave untaken.
const PARTS_BYTES_MAX: usize = 4 << 20;

/// What ends the wait of a call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The server's.
    Reply(Reply),
    /// It was waiting, and may be sent now.
    Proceed,
    /// It has not begun: there was no place for it in its time.
    Full,
    /// The connection ended before a byte of it was given to the socket. Says how.
    Unsent(Arc<str>),
    /// The connection ended with (some of) it sent. Says how.
    Lost(Arc<str>),
    /// There was no connection in its time, or there will be none for a while. Says why.
    Unconnected(Arc<str>),
    /// The deadline passed after it was queued; with whether nothing at all was heard of the server meanwhile.
    LateSent { silent: bool },
    /// More parts came than it may leave untaken; no more will.
    Overrun,
    /// There is no driver any more; nothing was sent.
    Closed,
}

/// One of several answers.
#[derive(Debug)]
pub(crate) enum Part {
    /// More follow.
    Reply(Reply),
    /// It was the last.
    Last(Answer),
}

/// The parts that were not taken yet.
#[derive(Debug, Default)]
struct Parts {
    replies: VecDeque<(Reply, usize)>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum Phase {
    Free,
    Waiting,
    Queued {
        /// Position of the frame's first byte in all that was ever queued.
        start: u64,
        /// Responses that had been received by then.
        heard: u64,
    },
    Done(Answer),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    phase: Phase,
    deadline: Instant,
    /// Whether the call itself ends at the deadline, and not only this try of it.
    is_last: bool,
    waker: Option<Waker>,
    /// Only if it is answered in parts.
    parts: Option<Box<Parts>>,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    waiting: usize,
    queued: usize,
}

fn split(id: u64) -> (usize, u32) {
    (id as u32 as usize, (id >> 32) as u32)
}

impl Slots {
    /// Calls that have not taken their answer yet.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Adds a waiting call, and returns its id, which is never 0.
    pub(crate) fn insert(&mut self, deadline: Instant, is_last: bool) -> u64 {
        self.waiting += 1;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.phase = Phase::Waiting;
            (slot.deadline, slot.is_last) = (deadline, is_last);
            return u64::from(slot.generation) << 32 | u64::from(index);
        }
        let index = self.slots.len() as u64;
        self.slots.push(Slot {
            generation: 1,
            phase: Phase::Waiting,
            deadline,
            is_last,
            waker: None,
            parts: None,
        });
        1 << 32 | index
    }

    /// A waiting call is answered in parts.
    pub(crate) fn take_in_parts(&mut self, id: u64) {
        self.slots[split(id).0].parts = Some(Box::default());
    }

    /// Whether a call is sent, and not answered for the last time.
    pub(crate) fn is_queued(&self, id: u64) -> bool {
        matches!(self.slots[split(id).0].phase, Phase::Queued { .. })
    }

    /// A waiting call's frame is in the stream.
    pub(crate) fn queue(&mut self, id: u64, start: u64, heard: u64) {
        let slot = &mut self.slots[split(id).0];
        debug_assert!(matches!(slot.phase, Phase::Waiting));
        slot.phase = Phase::Queued { start, heard };
        self.waiting -= 1;
        self.queued += 1;
    }

    /// Frees a call's place, answered or not.
    pub(crate) fn remove(&mut self, id: u64) {
        let (index, generation) = split(id);
        let slot = &mut self.slots[index];
        debug_assert_eq!(slot.generation, generation);
        match slot.phase {
            Phase::Waiting => self.waiting -= 1,
            Phase::Queued { .. } => self.queued -= 1,
            Phase::Done(_) => {}
            Phase::Free => unreachable!("a call is removed once"),
        }
        slot.phase = Phase::Free;
        slot.waker = None;
        slot.parts = None;
        slot.generation = slot.generation.wrapping_add(1).max(1);
        self.free.push(index as u32);
    }

    /// The answer, if it is there; otherwise `waker` is woken when it is.
    pub(crate) fn take(&mut self, id: u64, waker: &Waker) -> Option<Answer> {
        let slot = &mut self.slots[split(id).0];
        if matches!(slot.phase, Phase::Done(_)) {
            let Phase::Done(answer) = std::mem::replace(&mut slot.phase, Phase::Done(Answer::Proceed)) else {
                unreachable!("just matched")
            };
            return Some(answer);
        }
        match &mut slot.waker {
            Some(present) => present.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        None
    }

    /// The next part, if it is there; otherwise `waker` is woken when it is.
    pub(crate) fn take_part(&mut self, id: u64, waker: &Waker) -> Option<Part> {
        let parts = self.slots[split(id).0].parts.as_mut().expect("it is answered in parts");
        match parts.replies.pop_front() {
            Some((reply, bytes)) => {
                parts.bytes -= bytes;
                Some(Part::Reply(reply))
            }
            None => self.take(id, waker).map(Part::Last),
        }
    }

    /// Gives a queued call a part of its answer, of so many bytes, unless it was given up. Says whether the call
    /// ends with it, as too much is untaken.
    pub(crate) fn answer_part(
        &mut self,
        id: u64,
        reply: Reply,
        bytes: usize,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let (index, generation) = split(id);
        let slot = &mut self.slots[index];
        let is_open = slot.generation == generation && matches!(slot.phase, Phase::Queued { .. });
        let Some(parts) = slot.parts.as_mut().filter(|_| is_open) else { return false };
        if parts.bytes + bytes > PARTS_BYTES_MAX && !parts.replies.is_empty() {
            self.finish(index, Answer::Overrun, wakers);
            return true;
        }
        parts.bytes += bytes;
        parts.replies.push_back((reply, bytes));
        wakers.extend(slot.waker.take());
        false
    }

    /// Whether this id was ever given out.
    pub(crate) fn is_known(&self, id: u64) -> bool {
        split(id).0 < self.slots.len()
    }

    /// Answers a queued call, unless it was given up. Whom to wake goes to `wakers`.
    pub(crate) fn answer(&mut self, id: u64, answer: Answer, wakers: &mut Vec<Waker>) {
        let (index, generation) = split(id);
        let slot = &self.slots[index];
        if slot.generation == generation && matches!(slot.phase, Phase::Queued { .. }) {
            self.finish(index, answer, wakers);
        }
    }

    /// Ends the wait of every open call for which `judge` has an answer.
    pub(crate) fn answer_all(
        &mut self,
        wakers: &mut Vec<Waker>,
        mut judge: impl FnMut(&Phase, Instant, bool) -> Option<Answer>,
    ) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if matches!(slot.phase, Phase::Free | Phase::Done(_)) {
                continue;
            }
            if let Some(answer) = judge(&slot.phase, slot.deadline, slot.is_last) {
                self.finish(index, answer, wakers);
            }
        }
    }

    fn finish(&mut self, index: usize, answer: Answer, wakers: &mut Vec<Waker>) {
        let slot = &mut self.slots[index];
        match slot.phase {
            Phase::Waiting => self.waiting -= 1,
            _ => self.queued -= 1,
        }
        slot.phase = Phase::Done(answer);
        wakers.extend(slot.waker.take());
    }

    /// The earliest deadline of the open calls.
    pub(crate) fn earliest_deadline(&self) -> Option<Instant> {
        let open = |slot: &&Slot| matches!(slot.phase, Phase::Waiting | Phase::Queued { .. });
        self.slots.iter().filter(open).map(|slot| slot.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_call_given_up_does_not_reach_the_next_in_its_place() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let first = slots.insert(Instant::now(), true);
        slots.queue(first, 0, 0);
        slots.remove(first);
        let second = slots.insert(Instant::now(), true);
        slots.queue(second, 10, 0);
        slots.answer(first, Answer::Closed, &mut wakers);
        assert!(slots.take(second, Waker::noop()).is_none());
        slots.answer(second, Answer::Closed, &mut wakers);
        assert!(matches!(slots.take(second, Waker::noop()), Some(Answer::Closed)));
        assert_eq!(wakers.len(), 1);
    }

    #[test]
    fn parts_come_in_order_before_the_last_answer() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let id = slots.insert(Instant::now(), true);
        slots.take_in_parts(id);
        slots.queue(id, 0, 0);
        assert!(slots.take_part(id, Waker::noop()).is_none());
        assert!(!slots.answer_part(id, Reply::Pong, 10, &mut wakers));
        assert_eq!(wakers.len(), 1);
        slots.answer(id, Answer::Closed, &mut wakers);
        assert!(matches!(slots.take_part(id, Waker::noop()), Some(Part::Reply(Reply::Pong))));
        assert!(matches!(slots.take_part(id, Waker::noop()), Some(Part::Last(Answer::Closed))));
    }

    #[test]
    fn a_call_that_leaves_too_much_untaken_ends_behind_what_it_has() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let id = slots.insert(Instant::now(), true);
        slots.take_in_parts(id);
        slots.queue(id, 0, 0);
        let half = PARTS_BYTES_MAX / 2;
        assert!(!slots.answer_part(id, Reply::Pong, half, &mut wakers));
        assert!(!slots.answer_part(id, Reply::Pong, half, &mut wakers));
        assert!(slots.answer_part(id, Reply::Pong, 1, &mut wakers), "it is one byte too many");
        for _ in 0..2 {
            assert!(matches!(slots.take_part(id, Waker::noop()), Some(Part::Reply(_))));
        }
        assert!(matches!(slots.take_part(id, Waker::noop()), Some(Part::Last(Answer::Overrun))));
    }

    #[test]
    fn counts_follow_every_way_a_call_can_end() {
        let (mut slots, mut wakers) = (Slots::default(), Vec::new());
        let [waiting, queued, answered] = [(); 3].map(|()| slots.insert(Instant::now(), true));
        slots.queue(queued, 0, 0);
        slots.queue(answered, 5, 0);
        slots.answer(answered, Answer::Closed, &mut wakers);
        assert_eq!((slots.len(), slots.waiting(), slots.queued()), (3, 1, 1));
        for id in [waiting, queued, answered] {
            slots.remove(id);
        }
        assert_eq!((slots.len(), slots.waiting(), slots.queued()), (0, 0, 0));
    }
}
