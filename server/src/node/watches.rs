//! Watches: clients that are told of every change of a range of keys, in order, from any replica.
//!
//! A watch is a place in the store's history and a range; nothing is buffered for it. At the end of each turn it is
//! told of the changes behind its place, a page at a time, if its client reads them. One that does not read loses
//! its place when the history no longer reaches back to it, and is told so: that is how it is cut off.
//!
//! How far a watch has got is said with every page, and about once a second when nothing in its range changes, so
//! that its client can go on from there at any replica: it is a place in the log, and as only what is committed is
//! applied, the changes behind it are the same everywhere.
//!
//! # Invariants
//!
//! - A watch is told of every effect behind the token that it began with, once, in the order of the log.
//! - All changes of an entry are in one page, and all changes of a page are of one term.
//! - A turn looks at no more than [`TURN_BYTES`] of the history, and one entry; who did not get his turn has the next.

use std::time::Duration;

use quorate_protocol::request::{Range, Token};
use quorate_protocol::response::{Change, Outcome, Refusal};
use quorate_protocol::{Index, limits};

use super::acknowledge::Asker;
use super::range::{self, OwnedRange};
use super::{ClientId, Node, Outside};
use crate::replica::{Replica, Time};
use crate::store::{Cursor, History};

/// Watches of all clients.
const WATCHES_MAX: usize = 1024;

/// Bytes of history that are looked at for one watch in one turn, and one entry.
const LOOK_BYTES: usize = 256 << 10;

/// Bytes of history that are looked at in one turn, and one entry.
const TURN_BYTES: usize = 1 << 20;

/// Changes from which on a page takes no further entry.
const PAGE_CHANGES: usize = limits::SCAN_ITEMS_MAX - limits::BATCH_MUTATIONS_MAX;

/// How long a watch in whose range nothing changes is not told how far it is.
const SILENCE: Duration = Duration::from_secs(1);

const _: () = assert!(
    limits::RESPONSE_BYTES_MAX > LOOK_BYTES + limits::REQUEST_BYTES_MAX + limits::SCAN_ITEMS_MAX * 32
);

/// A range that a client watches.
#[derive(Debug)]
struct Watch {
    asker: Asker,
    range: OwnedRange,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It begins behind this entry once that is applied; none: behind the last one that is, at the end of the turn.
    Waits(Option<Token>),
    Goes(Place),
    /// It has been answered for the last time.
    Over,
}

/// How far a watch is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where its next change is; none if that has to be looked for.
    cursor: Option<Cursor>,
    /// All changes up to this entry have been looked at.
    through: Index,
    /// Up to where the client knows that.
    told: Index,
    told_at: Time,
}

impl Place {
    /// Whether it is time to say how far it is, although nothing has changed.
    fn is_silent(&self, now: Time) -> bool {
        self.through > self.told && now.saturating_sub(self.told_at) >= SILENCE
    }
}

/// The watches of all clients.
#[derive(Debug, Default)]
pub(super) struct Watches {
    list: Vec<Watch>,
    /// Whose turn it is first.
    next: usize,
}

impl Watches {
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// A client has gone.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.list.retain(|watch| watch.asker.client != client);
    }

    /// A client wants to hear no more under a request's id.
    pub(super) fn cancel(&mut self, client: ClientId, request: u64) {
        self.list.retain(|watch| (watch.asker.client, watch.asker.request) != (client, request));
    }

    /// The store is another one: nobody's place is where it was.
    pub(super) fn store_replaced(&mut self) {
        for watch in &mut self.list {
            if let State::Goes(place) = &mut watch.state {
                place.cursor = None;
            }
        }
    }

    fn check_bounds(&self, asker: &Asker) -> Result<(), Refusal> {
        let mut of_client = self.list.iter().filter(|watch| watch.asker.client == asker.client);
        if of_client.clone().any(|watch| watch.asker.request == asker.request) {
            return Err(Refusal::BadRequest(format!(
                "request {} of this connection is a watch already: give each an id of its own",
                asker.request
            )));
        }
        if of_client.nth(limits::WATCHES_MAX - 1).is_some() {
            let max = limits::WATCHES_MAX;
            return Err(Refusal::Overloaded(format!("a connection has up to {max} watches: cancel one")));
        }
        if self.list.len() >= WATCHES_MAX {
            return Err(Refusal::Overloaded(format!("it serves {WATCHES_MAX} watches: ask another replica")));
        }
        Ok(())
    }
}

impl Node {
    /// Takes a watch. It is answered for the first time at the end of the turn, if it can begin then.
    pub(super) fn watch(
        &mut self,
        asker: Asker,
        range: &Range<'_>,
        after: Option<Token>,
    ) -> Result<(), Refusal> {
        if self.replica.is_none() {
            return Err(self.not_formed());
        }
        range::check(range).map_err(|error| Refusal::BadRequest(error.to_string()))?;
        if !self.store.history().is_kept() {
            return Err(Refusal::Unsupported(
                "watches, as this node keeps no changes for them: ask another replica, or start this one with a \
                 --watch-history-mib above 0"
                    .into(),
            ));
        }
        self.watches.check_bounds(&asker)?;
        self.watches.list.push(Watch { asker, range: range.into(), state: State::Waits(after) });
        Ok(())
    }

    /// Tells every watch what there is for it.
    pub(super) fn tell_watches(&mut self, now: Time, outside: &mut impl Outside) {
        let Some(replica) = self.replica.as_ref().filter(|_| !self.watches.list.is_empty()) else { return };
        let turn = Turn { now, replica, history: self.store.history(), is_stopping: self.is_stopping };
        let Watches { list, next } = &mut self.watches;
        let first = std::mem::take(next).min(list.len());
        list.rotate_left(first);
        let mut bytes = TURN_BYTES;
        for (at, watch) in list.iter_mut().enumerate() {
            bytes = bytes.saturating_sub(turn.tell(watch, outside));
            if bytes == 0 {
                *next = at + 1;
                break;
            }
        }
        let is_over = |watch: &Watch| matches!(watch.state, State::Over);
        *next -= list[..*next].iter().filter(|watch| is_over(watch)).count();
        list.retain(|watch| !is_over(watch));
    }
}

/// What all watches see at the end of a turn.
struct Turn<'a> {
    now: Time,
    replica: &'a Replica,
    history: &'a History,
    is_stopping: bool,
}

impl Turn<'_> {
    /// Tells one watch what there is for it. Returns how many bytes were looked at for that.
    fn tell(&self, watch: &mut Watch, outside: &mut impl Outside) -> usize {
        self.go_on(watch, outside).unwrap_or_else(|refusal| {
            watch.state = State::Over;
            watch.asker.tell(Outcome::Refused(refusal), outside);
            0
        })
    }

    fn go_on(&self, watch: &mut Watch, outside: &mut impl Outside) -> Result<usize, Refusal> {
        if self.is_stopping {
            return Err(Refusal::Stopping);
        }
        let Watch { asker, range, state } = watch;
        if let State::Waits(after) = *state {
            let after = after.unwrap_or_else(|| token(self.replica, self.replica.applied()));
            match self.begin(after)? {
                Some(place) => {
                    *state = State::Goes(place);
                    asker.tell(Outcome::Changes { through: after, changes: Vec::new() }, outside);
                }
                None if asker.is_overdue(self.now) => {
                    return Err(Refusal::Behind { applied: self.replica.applied() });
                }
                None => {}
            }
        }
        let State::Goes(place) = state else { return Ok(0) };
        if place.through >= self.replica.applied() && !place.is_silent(self.now) {
            return Ok(0);
        }
        // Before it is asked whether there is room: who does not read is to learn what he has lost.
        let cursor = self.cursor(place)?;
        if !outside.has_room(asker.client) {
            return Ok(0);
        }
        let (changes, bytes) = self.look(range, place, cursor);
        if !changes.is_empty() || place.is_silent(self.now) {
            (place.told, place.told_at) = (place.through, self.now);
            asker.tell(Outcome::Changes { through: token(self.replica, place.through), changes }, outside);
        }
        Ok(bytes)
    }

    /// Where a watch begins; none if that is not applied yet.
    fn begin(&self, after: Token) -> Result<Option<Place>, Refusal> {
        let Token { term, index } = after;
        if index > self.replica.applied() {
            let is_lost = self.replica.terms().rule_out(term, index, self.replica.applied());
            return if is_lost { Err(Refusal::TokenLost) } else { Ok(None) };
        }
        if self.replica.terms().term(index) != Some(term) {
            return Err(Refusal::TokenLost); // R23
        }
        let mut place = Place { cursor: None, through: index, told: index, told_at: self.now };
        self.cursor(&mut place)?;
        Ok(Some(place))
    }

    /// Where the changes are that a watch has not seen, if they are still there.
    fn cursor(&self, place: &mut Place) -> Result<Cursor, Refusal> {
        let known = place.cursor.filter(|cursor| self.history.has(*cursor));
        place.cursor = known.or_else(|| self.history.seek(place.through));
        place.cursor.ok_or(Refusal::HistoryLost { after: place.told, oldest: self.history.oldest() })
    }

    /// The changes behind a place that are in a range, of as many entries of one term as one turn may look at; and the
    /// bytes of all that was looked at.
    fn look<'a>(
        &'a self,
        range: &OwnedRange,
        place: &mut Place,
        mut cursor: Cursor,
    ) -> (Vec<Change<'a>>, usize) {
        let (mut changes, mut bytes, mut entry) = (Vec::new(), 0, place.through);
        // So that a client knows the token of each change, not only of the page's end.
        let end = self.replica.applied().min(self.replica.terms().last_of_same_term(place.through + 1));
        place.through = loop {
            let Some((change, next)) = self.history.read(cursor).filter(|(change, _)| change.index <= end)
            else {
                break end;
            };
            if change.index > entry {
                // All of the one before has been seen.
                if bytes >= LOOK_BYTES || changes.len() >= PAGE_CHANGES {
                    break entry;
                }
                entry = change.index;
            }
            bytes +=
                size_of::<Change<'_>>() + change.key.len() + change.value.map_or(0, |value| value.0.len());
            if range.includes(change.key) {
                changes.push(change);
            }
            cursor = next;
        };
        place.cursor = Some(cursor);
        (changes, bytes)
    }
}

fn token(replica: &Replica, index: Index) -> Token {
    Token { term: replica.terms().term(index).unwrap_or(0), index }
}
