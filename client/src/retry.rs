//! What may be done after a try, as pure logic: no clock, no connection. The client drives it, and so does the
//! server's simulator, so that what is checked there is what applications run.
//!
//! - [`Sequences`] numbers the writes of a client within its session (R24), and says which are still open.
//! - [`Attempts`] is one call: it takes what came of each try, and says whether to try again.
//!
//! # Invariants
//!
//! - A write that may have happened is sent again only under its own session and number, so that it happens once.
//! - Once a try of a write may have done something, the call ends with the write's result or as unknown: never as
//!   refused.
//!
//! The session is that of RIFL (Lee et al., SOSP 2015), with the numbers' window of Raft's thesis, §6.3.

use std::collections::VecDeque;
use std::sync::Arc;

use quorate_protocol::request::SessionSequence;
use quorate_protocol::response::{Refusal, SessionError};
use quorate_protocol::{SequenceNumber, SessionId, limits};

use crate::error::{Appended, Error, Unknown, Why, passes};

/// A write's place: its session, and its number in it. It keeps both for as long as it is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The session.
    pub session: SessionId,
    /// The number.
    pub sequence: SequenceNumber,
}

/// Why there is no place for a write right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPlace {
    /// There is no session: one has to be opened first.
    NoSession,
    /// The lowest open write holds the others up: it has to end first.
    WindowFull,
}

/// The numbers of a client's writes.
#[derive(Debug)]
pub struct Sequences {
    session: Option<SessionId>,
    /// The lowest number whose write has not ended.
    lowest_open: SequenceNumber,
    /// Whether the write of each number from there on is open.
    open: VecDeque<bool>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { session: None, lowest_open: 1, open: VecDeque::new() }
    }
}

impl Sequences {
    /// The session, if there is one.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// A session has been opened: the next writes are numbered in it, from 1 on.
    pub fn opened(&mut self, session: SessionId) {
        *self = Self { session: Some(session), ..Self::default() };
    }

    /// A session is known to have ended. What is open in it keeps its places there.
    pub fn expired(&mut self, session: SessionId) {
        if self.session == Some(session) {
            *self = Self::default();
        }
    }

    /// A place for a write.
    pub fn begin(&mut self) -> Result<Place, NoPlace> {
        let session = self.session.ok_or(NoPlace::NoSession)?;
        if self.open.len() as u64 >= limits::SESSION_WINDOW {
            return Err(NoPlace::WindowFull);
        }
        let sequence = self.lowest_open + self.open.len() as u64;
        self.open.push_back(true);
        Ok(Place { session, sequence })
    }

    /// What a write sends along with its try.
    pub fn stamp(&self, place: Place) -> SessionSequence {
        let Place { session, sequence } = place;
        // Of an earlier session nothing else is known any more.
        let lowest_open = if self.session == Some(session) { self.lowest_open } else { 0 };
        SessionSequence { session, sequence, lowest_open }
    }

    /// A write has ended, with whatever result: its number is not used again. Says whether others that waited for
    /// it to end may begin.
    pub fn end(&mut self, place: Place) -> bool {
        if self.session != Some(place.session) {
            return false;
        }
        let was_full = self.open.len() as u64 >= limits::SESSION_WINDOW;
        self.open[(place.sequence - self.lowest_open) as usize] = false;
        while self.open.front() == Some(&false) {
            self.open.pop_front();
            self.lowest_open += 1;
        }
        was_full && (self.open.len() as u64) < limits::SESSION_WINDOW
    }
}

/// What a call may do when a try may have done something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// It does nothing that counts: it is tried again.
    Harmless,
    /// It has a place in a session: it is tried again, and happens once.
    InSession(Place),
    /// It is not tried again.
    Never,
}

/// What came of a try, other than the result.
#[derive(Clone, Debug)]
pub enum Failed {
    /// The server refused.
    Refused(Refusal),
    /// The leader has it in its log, and has not seen it committed in the try's time.
    Uncommitted(Appended),
    /// Nothing was sent. Says why.
    Unsent(Arc<str>),
    /// Nothing was sent: as many calls as may be are in flight there.
    Full,
    /// The connection ended after it was sent. Says how.
    Lost(Arc<str>),
    /// No answer came in the try's time.
    Late,
}

/// What to do after a try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// The call is over.
    End(Error),
    /// It is tried again, as it is.
    Again,
    /// Its session has ended, and it was not done: it is tried again with a place in another one.
    Anew,
}

/// One call: what its tries may have done.
#[derive(Debug)]
pub struct Attempts {
    repeat: Repeat,
    /// Why a try may have done something.
    unknown: Option<Why>,
    /// What the leader has last said of a try.
    appended: Option<Appended>,
    /// A leader has said that it reaches too few. The first may only not know that another leads; the second is believed.
    lacks_quorum: bool,
    /// Why there is no result: the last that was learnt, but for what says less than something before it.
    why: Option<Error>,
}

impl Attempts {
    /// A call that nothing was tried of.
    pub fn new(repeat: Repeat) -> Self {
        Self { repeat, unknown: None, appended: None, lacks_quorum: false, why: None }
    }

    /// It has a place in a session now; if it had one before, it was not done there.
    pub fn moved(&mut self, place: Place) {
        debug_assert!(self.unknown.is_none(), "it may have been done in the place before");
        self.repeat = Repeat::InSession(place);
    }

    /// The leader says that a try is in its log, and where.
    pub fn is_appended(&mut self, appended: Appended) {
        self.appended = Some(appended);
    }

    /// What to do after a try without a result.
    pub fn failed(&mut self, failed: Failed) -> Next {
        match failed {
            Failed::Refused(refusal) => self.refused(refusal),
            Failed::Unsent(how) => self.again(Error::Unreachable(how)),
            Failed::Full => self.again(Error::InFlight),
            Failed::Lost(how) => {
                self.may_have_happened(Why::ConnectionLost(how.clone()), Error::Unreachable(how))
            }
            Failed::Late => self.may_have_happened(Why::Deadline, Error::Deadline),
            Failed::Uncommitted(appended) => {
                self.appended = Some(appended);
                self.may_have_happened(Why::Deadline, Error::Deadline)
            }
        }
    }

    /// The error of a call that has no time left.
    pub fn out_of_time(&self) -> Error {
        self.or_unknown(self.why.clone().unwrap_or(Error::Deadline))
    }

    /// The error of a call that cannot go on: this one, if nothing was done.
    pub fn or_unknown(&self, error: Error) -> Error {
        match &self.unknown {
            Some(why) => Error::OutcomeUnknown(Unknown { why: why.clone(), appended: self.appended }),
            None => error,
        }
    }

    fn refused(&mut self, refusal: Refusal) -> Next {
        if let Refusal::Session(error) = refusal {
            return self.refused_by_session(error);
        }
        // What keeps a write from being done now says nothing of an earlier try.
        let is_first_without_quorum =
            matches!(refusal, Refusal::NoQuorum { .. }) && !std::mem::replace(&mut self.lacks_quorum, true);
        if passes(&refusal) || is_first_without_quorum || self.unknown.is_some() {
            return self.again(Error::Refused(refusal));
        }
        Next::End(Error::Refused(refusal))
    }

    fn refused_by_session(&mut self, error: SessionError) -> Next {
        match (error, &self.unknown) {
            (SessionError::Expired, None) => {
                self.why = Some(Error::Refused(error.into()));
                Next::Anew
            }
            (_, None) => Next::End(Error::Refused(error.into())),
            (_, Some(_)) => Next::End(Error::OutcomeUnknown(Unknown {
                why: Why::Session(error),
                appended: self.appended,
            })),
        }
    }

    fn may_have_happened(&mut self, why: Why, if_harmless: Error) -> Next {
        match self.repeat {
            Repeat::Harmless => self.again(if_harmless),
            Repeat::InSession(_) => {
                self.unknown = Some(why);
                Next::Again
            }
            Repeat::Never => Next::End(Error::OutcomeUnknown(Unknown { why, appended: self.appended })),
        }
    }

    fn again(&mut self, error: Error) -> Next {
        if self.why.as_ref().is_none_or(|why| says(why) <= says(&error)) {
            self.why = Some(error);
        }
        Next::Again
    }
}

/// How much an error says: an answer more than that none came, and that more than that somebody is not there.
fn says(error: &Error) -> u8 {
    match error {
        Error::Unreachable(_) => 0,
        Error::Deadline | Error::InFlight => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { session: 5, sequence: 1 };

    fn lost() -> Failed {
        Failed::Lost("it broke".into())
    }

    fn not_ready() -> Failed {
        Failed::Refused(Refusal::NotReady("not yet".into()))
    }

    fn is_unknown(error: &Error) -> bool {
        matches!(error, Error::OutcomeUnknown(_))
    }

    #[test]
    fn numbers_rise_and_the_lowest_open_one_follows_what_has_ended() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.begin(), Err(NoPlace::NoSession));
        sequences.opened(5);
        let places: Vec<_> = (0..3).map(|_| sequences.begin().unwrap()).collect();
        assert_eq!(places.iter().map(|place| place.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        sequences.end(places[1]);
        assert_eq!(sequences.stamp(places[2]).lowest_open, 1, "the first is open");
        sequences.end(places[0]);
        assert_eq!(sequences.stamp(places[2]).lowest_open, 3);
        assert_eq!(sequences.begin().unwrap().sequence, 4);
    }

    #[test]
    fn a_full_window_waits_for_its_lowest_number() {
        let mut sequences = Sequences::default();
        sequences.opened(5);
        let places: Vec<_> = (0..limits::SESSION_WINDOW).map(|_| sequences.begin().unwrap()).collect();
        assert_eq!(sequences.begin(), Err(NoPlace::WindowFull));
        assert!(!sequences.end(places[1]), "the lowest holds it up");
        assert_eq!(sequences.begin(), Err(NoPlace::WindowFull));
        assert!(sequences.end(places[0]));
        assert_eq!(sequences.begin().unwrap().sequence, limits::SESSION_WINDOW + 1);
    }

    #[test]
    fn what_is_open_in_an_expired_session_keeps_its_place_and_disturbs_no_other() {
        let mut sequences = Sequences::default();
        sequences.opened(5);
        let old = sequences.begin().unwrap();
        sequences.expired(5);
        assert_eq!(sequences.begin(), Err(NoPlace::NoSession));
        sequences.opened(9);
        let new = sequences.begin().unwrap();
        assert_eq!((old.sequence, new.sequence), (1, 1));
        assert_eq!(sequences.stamp(old).session, 5);
        sequences.end(old);
        assert_eq!(sequences.stamp(new).lowest_open, 1, "the other's number 1 is open");
    }

    #[test]
    fn a_write_in_a_session_is_repeated_and_ends_as_unknown_only() {
        let mut attempts = Attempts::new(Repeat::InSession(PLACE));
        assert_eq!(attempts.failed(lost()), Next::Again);
        assert_eq!(attempts.failed(not_ready()), Next::Again);
        let refused = Failed::Refused(Refusal::NoQuorum { have: 1, need: 2 });
        assert_eq!(attempts.failed(refused), Next::Again, "an earlier try may have been done");
        assert!(is_unknown(&attempts.out_of_time()));
    }

    #[test]
    fn what_was_only_refused_was_not_done() {
        let mut attempts = Attempts::new(Repeat::InSession(PLACE));
        assert_eq!(attempts.failed(not_ready()), Next::Again);
        let no_quorum = Refusal::NoQuorum { have: 1, need: 2 };
        let refused = || Failed::Refused(no_quorum.clone());
        assert_eq!(attempts.failed(refused()), Next::Again, "it may not know yet that another leads");
        assert_eq!(attempts.failed(refused()), Next::End(Error::Refused(no_quorum.clone())));
        let mut attempts = Attempts::new(Repeat::InSession(PLACE));
        attempts.failed(not_ready());
        assert!(matches!(attempts.out_of_time(), Error::Refused(Refusal::NotReady(_))));
    }

    #[test]
    fn an_expired_session_is_left_only_by_a_write_that_was_not_done_in_it() {
        let expired = || Failed::Refused(SessionError::Expired.into());
        let mut attempts = Attempts::new(Repeat::InSession(PLACE));
        assert_eq!(attempts.failed(expired()), Next::Anew);
        attempts.moved(Place { session: 9, sequence: 1 });
        assert_eq!(attempts.failed(lost()), Next::Again);
        let Next::End(error) = attempts.failed(expired()) else { panic!("it may have been done") };
        assert!(is_unknown(&error), "{error}");
    }

    #[test]
    fn a_write_without_a_session_is_sent_again_only_if_it_was_not_sent() {
        let mut attempts = Attempts::new(Repeat::Never);
        assert_eq!(attempts.failed(Failed::Unsent("no connection".into())), Next::Again);
        assert!(matches!(attempts.failed(lost()), Next::End(error) if is_unknown(&error)));
    }

    #[test]
    fn a_read_is_never_unknown() {
        let mut attempts = Attempts::new(Repeat::Harmless);
        assert_eq!(attempts.failed(lost()), Next::Again);
        assert_eq!(attempts.failed(Failed::Late), Next::Again);
        assert_eq!(attempts.out_of_time(), Error::Deadline);
    }

    #[test]
    fn an_answer_says_more_than_silence_and_that_more_than_that_nobody_is_there() {
        let refused = |reason: &str| Refusal::NotReady(reason.into());
        let unsent = || Failed::Unsent("it is not there".into());
        let mut attempts = Attempts::new(Repeat::InSession(PLACE));
        let mut then = |failed| {
            assert_eq!(attempts.failed(failed), Next::Again);
            attempts.out_of_time()
        };
        assert_eq!(then(unsent()), Error::Unreachable("it is not there".into()));
        assert_eq!(then(Failed::Full), Error::InFlight);
        assert_eq!(then(unsent()), Error::InFlight);
        for reason in ["forming", "starting"] {
            assert_eq!(then(Failed::Refused(refused(reason))), Error::Refused(refused(reason)), "the last");
            assert_eq!(then(unsent()), Error::Refused(refused(reason)));
        }
    }

    #[test]
    fn what_the_leader_said_of_a_write_is_in_its_error() {
        let mut attempts = Attempts::new(Repeat::Never);
        attempts.is_appended(Appended { index: 7, copies: 1 });
        let Next::End(error) = attempts.failed(lost()) else { panic!("it is not repeated") };
        let text = error.to_string();
        assert!(
            text.contains("index 7") && text.contains("1 replica") && text.contains("it broke"),
            "{text}"
        );
    }
}
