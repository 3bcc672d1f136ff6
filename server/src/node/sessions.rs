//! Sessions of clients: what is answered without an entry, and when the leader has sessions ended (R24, R25).
//!
//! A write of a session that is known to be done is answered at once with its first result, and one that can never be
//! done any more is refused at once. Both follow from what is committed, so nothing can change them. Whatever else is sent
//! again becomes an entry again, and is settled when that is applied.
//!
//! # Expiry
//!
//! A session that was not used for [`NodeSettings::session_timeout`](super::NodeSettings::session_timeout) ends. The
//! leader notes now and then how far it has applied the log, by its own clock. Once a note is as old as the timeout, the
//! sessions that no later entry has used are ended by an entry, which names for each the last entry that had used it: who
//! is used meanwhile stays (R25). So no clock is kept for a session, and none is looked at for a write.
//!
//! Notes begin anew with a leader, and whenever sessions could not be used: while too few replicas are reached for a
//! write, and after ticks that were away for longer than a note's time, as those of a machine that slept. Sessions then
//! live longer, never shorter.

use std::collections::VecDeque;

use quorate_protocol::entry::Payload;
use quorate_protocol::request::{Write, WriteOptions};
use quorate_protocol::response::{Outcome, Refusal};
use quorate_protocol::{Index, limits};

use super::acknowledge::{Wish, wish};
use super::{Node, Replica, Term, Time};

/// Notes in the time of a timeout.
const NOTES: u32 = 8;

/// What a leader knows of the age of sessions.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// The term that it leads in.
    term: Term,
    /// When it last looked.
    looked: Time,
    /// When which entry was the last one applied, oldest first.
    notes: VecDeque<(Time, Index)>,
    /// Sessions that no later entry has used have expired.
    expired: Index,
    /// Those that have expired by then were ended.
    ended: Index,
    /// The last entry that ends some: what it does is not known before it is applied.
    ending: Index,
}

impl Expiry {
    /// A leader of `term` has applied the log up to `applied`. Returns up to which entry sessions may have been used
    /// last that are to be ended now, if there may be any.
    fn tick(&mut self, now: Time, timeout: Time, term: Term, applied: Index) -> Option<Index> {
        let pace = timeout / NOTES;
        if term != self.term || now.saturating_sub(self.looked) > pace {
            *self = Self { term, ..Self::default() };
        }
        self.looked = now;
        if self.notes.back().is_none_or(|(noted, _)| now.saturating_sub(*noted) >= pace) {
            self.notes.push_back((now, applied));
        }
        while let Some((_, index)) =
            self.notes.pop_front_if(|(noted, _)| now.saturating_sub(*noted) >= timeout)
        {
            self.expired = index;
        }
        (self.expired > self.ended && applied >= self.ending).then_some(self.expired)
    }
}

impl Node {
    /// The answer to a write of a session, if it is known without an entry. Only a leader says it: whoever asks another
    /// has to go there in any case.
    pub(super) fn known_in_session(
        &self,
        options: &WriteOptions,
        write: &Write<'_>,
    ) -> Option<Outcome<'static>> {
        let at = options.session.as_ref()?;
        let replica = self.replica.as_ref().filter(|replica| replica.is_leader())?;
        let done = match self.store.known(at, write)? {
            Ok(done) => done,
            Err(error) => return Some(Outcome::Refused(error.into())),
        };
        let has_copies = match wish(options, write, self.formation.identity().quorums).ok()? {
            Wish::Commit => true,
            Wish::Copies { copies, .. } => replica.holders(done.index).len() >= usize::from(copies),
        };
        // If not it waits for them, like any other: as an entry.
        has_copies.then(|| self.done_before(&done))
    }

    /// Appends an entry that opens or ends sessions.
    pub(super) fn propose_session(&mut self, now: Time, payload: &Payload<'_>) -> Result<Index, Refusal> {
        let Some(replica) = &mut self.replica else { return Err(self.not_formed()) };
        if replica.is_leader()
            && let Some(obstacle) = self.disk_watch.obstacle()
        {
            return Err(obstacle.into());
        }
        let index = replica.propose(now, payload).map_err(|error| self.not_proposed(error))?;
        match payload {
            Payload::OpenSession => self.memory.opens_session(index),
            _ => self.sessions_end = index,
        }
        Ok(index)
    }

    /// A write that is answered before it is applied must not come to nothing then: its session may be ended by an
    /// entry before it. So while one that may do that is not applied, such writes wait.
    pub(super) fn sessions_are_certain(&self) -> Result<(), Refusal> {
        let is_certain = |replica: &Replica| replica.is_settled() && replica.applied() >= self.sessions_end;
        match &self.replica {
            Some(replica) if !is_certain(replica) => {
                Err(Refusal::NotReady("sessions are being ended".into()))
            }
            _ => Ok(()),
        }
    }

    /// A leader has sessions ended that were not used for too long.
    pub(super) fn end_unused_sessions(&mut self, now: Time) {
        let Some(replica) = self.replica.as_ref().filter(|replica| replica.leads_quorum(now)) else {
            return self.expiry = Expiry::default();
        };
        let (term, applied) = (replica.term(), replica.applied());
        let Some(since) = self.expiry.tick(now, self.settings.session_timeout, term, applied) else { return };
        let unused = self.store.unused_sessions(since, limits::ENDED_SESSIONS_MAX);
        let (count, are_all) = (unused.len(), unused.len() < limits::ENDED_SESSIONS_MAX);
        if count > 0 {
            let Ok(index) = self.propose_session(now, &Payload::EndSessions(unused)) else { return }; // Later, then.
            self.expiry.ending = index;
            tracing::info!(count, "sessions of clients have expired");
        }
        if are_all {
            self.expiry.ended = since;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Time = Duration::from_secs(8);

    /// Ticks four times a second with a log that grows by one entry each time. What expires, and when.
    fn expired(ticks: impl IntoIterator<Item = (u32, Term)>) -> Vec<(u32, Index)> {
        let mut expiry = Expiry::default();
        let mut found = Vec::new();
        for (tick, term) in ticks {
            let now = tick * Duration::from_millis(250);
            if let Some(since) = expiry.tick(now, TIMEOUT, term, tick.into()) {
                expiry.ended = since;
                found.push((tick, since));
            }
        }
        found
    }

    #[test]
    fn a_session_expires_when_it_was_not_used_for_the_timeout_and_an_eighth_of_it_later_at_most() {
        let found = expired((100..150).map(|tick| (tick, 1)));
        assert_eq!(found, [(132, 100), (136, 104), (140, 108), (144, 112), (148, 116)]);
    }

    #[test]
    fn the_clock_begins_anew_with_a_term_and_after_ticks_that_were_away() {
        let change = expired((100..164).map(|tick| (tick, 1 + u64::from(tick / 120))));
        assert_eq!(change.first(), Some(&(152, 120)));
        let gap = expired((100..125).chain(130..163).map(|tick| (tick, 1)));
        assert_eq!(gap.first(), Some(&(162, 130)));
        let short_gap = expired((100..125).chain(128..135).map(|tick| (tick, 1)));
        assert_eq!(short_gap.first(), Some(&(132, 100)));
    }

    #[test]
    fn nothing_more_is_ended_before_the_last_end_is_applied() {
        let mut expiry = Expiry::default();
        let mut tick = |second: u64, applied, ending: Option<Index>| {
            expiry.ending = ending.unwrap_or(expiry.ending);
            expiry.tick(Duration::from_secs(second), TIMEOUT, 1, applied)
        };
        (1..9).for_each(|second| assert_eq!(tick(second, 10, None), None));
        assert_eq!(tick(9, 10, None), Some(10));
        assert_eq!(tick(10, 10, Some(11)), None);
        assert_eq!(tick(11, 11, None), Some(10), "there may be more than one entry ends");
    }
}
