//! The watchers: each watches all keys, from one replica after the other, and everything that it is told is checked.
//!
//! A watcher knows one thing, the place up to which it was told everything. With every answer it must be told exactly
//! what the committed entries from there to the answer's place did: in order, nothing left out, nothing twice. It goes
//! away at any moment and goes on somewhere else; it does not read for a while, and may be cut off for that; and in
//! the end, when the cluster is at rest, it must have been told everything.

use std::rc::Rc;

use quorate_protocol::parse;
use quorate_protocol::request::{Operation, Range, RangeEnd, Request, Token};
use quorate_protocol::response::{Change, NewValue, Outcome, Refusal, Response};

use super::Cluster;
use super::machine::Arrived;
use super::schedule::{Happening, MICROSECOND, MILLISECOND, Moment, Place};
use super::text::Text;
use super::trace::{Happened, Line};

/// The connections of watchers are the clients from this one on, each with a number of its own.
pub(super) const FIRST_CONNECTION: usize = 1_000;

/// How long a watcher waits for a replica that has not applied what it knows.
const PATIENCE_MS: u32 = 500;

/// A watcher.
#[derive(Default)]
pub(super) struct Watcher {
    /// It has been told everything up to there; none if it begins anew.
    through: Option<Token>,
    connection: Option<Connection>,
    /// Where it was told something last.
    last_told_by: Option<Place>,
}

struct Connection {
    client: usize,
    node: Place,
    /// Whether it was told that the watch goes.
    has_begun: bool,
    reads_slowly: bool,
    /// When the last answer that is on its way arrives: none overtakes another.
    arrives: Moment,
}

impl Cluster {
    pub(super) fn add_watchers(&mut self) {
        for watcher in 0..self.plan.watchers {
            self.watchers.push(Watcher::default());
            let begins = self.random.below(200 * MILLISECOND);
            self.schedule.after(begins, Happening::Watcher(watcher));
        }
    }

    /// Whose connection a client is, if it still is.
    fn watcher_of(&mut self, client: usize) -> Option<(usize, &mut Watcher)> {
        let is_its = |watcher: &Watcher| watcher.connection.as_ref().is_some_and(|its| its.client == client);
        self.watchers.iter_mut().enumerate().find(|(_, watcher)| is_its(watcher))
    }

    /// A watcher looks for something to do.
    pub(super) fn watcher_acts(&mut self, watcher: usize) {
        let choice = self.random.below(20);
        match &mut self.watchers[watcher].connection {
            None => self.connect(watcher),
            Some(_) if choice == 0 && !self.is_quiet => self.leave(watcher),
            Some(connection) if (1..5).contains(&choice) || self.is_quiet => {
                connection.reads_slowly = !connection.reads_slowly && !self.is_quiet;
                let Connection { client, node, reads_slowly, .. } = *connection;
                self.members[node].client_reads(client as u64, !reads_slowly);
            }
            Some(_) => {}
        }
        let pause = MILLISECOND + self.random.below(200 * MILLISECOND);
        self.schedule.after(pause, Happening::Watcher(watcher));
    }

    fn connect(&mut self, watcher: usize) {
        self.connections += 1;
        let client = FIRST_CONNECTION + self.connections;
        let node = self.random.below(self.plan.members() as u64) as Place;
        let range = Range { start: b"", end: RangeEnd::Open };
        let operation = Operation::Watch { range, after: self.watchers[watcher].through };
        let request = Request { id: client as u64, deadline_ms: PATIENCE_MS, operation };
        let message = postcard::to_stdvec(&request).unwrap().into();
        let delay = self.plan.network.delay + self.random.below(MILLISECOND);
        self.schedule.after(delay, Happening::Request { client, to: node, message });
        let connection = Connection { client, node, has_begun: false, reads_slowly: false, arrives: 0 };
        self.watchers[watcher].connection = Some(connection);
    }

    /// It closes its connection, whatever is on its way to it.
    fn leave(&mut self, watcher: usize) {
        let Some(Connection { client, node, .. }) = self.watchers[watcher].connection.take() else { return };
        self.arrives(node, Arrived::ClientClosed(client as u64));
    }

    /// The connections of watchers to a node break.
    pub(super) fn break_watchers(&mut self, node: Place) {
        for watcher in &mut self.watchers {
            watcher.connection.take_if(|connection| connection.node == node);
        }
    }

    pub(super) fn watch_arrives(&mut self, client: usize, to: Place, message: Rc<[u8]>) {
        // What was sent on a connection that has ended never arrives.
        let Some((number, _)) = self.watcher_of(client) else { return };
        if self.members[to].life.is_none() {
            return self.watchers[number].connection = None;
        }
        self.trace.note(self.schedule.now, Line::Asked { client, to, message: message.clone() });
        self.arrives(to, Arrived::Request { client: client as u64, message });
    }

    /// A node answers a watcher: what it says arrives in that order.
    pub(super) fn answer_watcher(&mut self, client: usize, from: Place, at: Moment, message: Rc<[u8]>) {
        let delay = self.plan.network.delay + self.random.below(MILLISECOND);
        let Some((_, watcher)) = self.watcher_of(client) else { return };
        let Some(connection) = &mut watcher.connection else { return };
        connection.arrives = (connection.arrives + MICROSECOND).max(at + delay);
        let arrives = connection.arrives;
        self.schedule.at(arrives, Happening::Response { client, from, message });
    }

    pub(super) fn watcher_is_told(&mut self, client: usize, from: Place, message: &[u8]) {
        let Some((number, _)) = self.watcher_of(client) else { return };
        let response: Response<'_> = parse(message).expect("what a node answers can be read");
        match &response.outcome {
            Outcome::Changes { through, changes } => self.changed(number, from, *through, changes),
            Outcome::Refused(refusal) => {
                self.watch_ended(number, refusal);
                self.leave(number);
            }
            other => panic!("{other:?} is no answer to a watch"),
        }
    }

    fn changed(&mut self, number: usize, from: Place, through: Token, changes: &[Change<'_>]) {
        self.oracle.check_token(through);
        let watcher = &mut self.watchers[number];
        let Some(connection) = &mut watcher.connection else { return };
        let begins = !std::mem::replace(&mut connection.has_begun, true);
        let before = *watcher.through.get_or_insert(through);
        if begins {
            assert_eq!((through, changes), (before, &[][..]), "watcher {number} begins somewhere else");
            if watcher.last_told_by.is_some_and(|last| last != from) {
                self.counts.add(Happened::WatchesResumedElsewhere);
            }
        } else {
            assert!(through.index > before.index, "watcher {number} is told nothing behind {before:?}");
        }
        let is_of_term = |change: &Change<'_>| self.oracle.term(change.index) == through.term;
        assert!(changes.iter().all(is_of_term), "watcher {number} is told of another term than {through:?}");
        let shown = |change: &Change<'_>| {
            let value = change.value.map(|NewValue(value)| Text(value));
            format!("{} {:?} {value:?}", change.index, Text(change.key))
        };
        let told: Vec<_> = changes.iter().map(shown).collect();
        let wanted: Vec<_> = self.oracle.effects(before.index, through.index).map(|it| shown(&it)).collect();
        assert_eq!(told, wanted, "what watcher {number} is told of {before:?} to {through:?}");
        (watcher.through, watcher.last_told_by) = (Some(through), Some(from));
        if !changes.is_empty() {
            self.counts.add(Happened::WatchedPages);
        }
    }

    fn watch_ended(&mut self, number: usize, refusal: &Refusal) {
        let watcher = &mut self.watchers[number];
        match refusal {
            Refusal::HistoryLost { after, oldest } => {
                let known = watcher.through.take().map_or(0, |through| through.index);
                assert!(*after == known && oldest > after, "watcher {number} knows {known}: {refusal}");
                self.counts.add(Happened::HistoriesLost);
            }
            Refusal::Behind { applied } => {
                let known = watcher.through.map_or(0, |through| through.index);
                assert!(*applied < known, "watcher {number} knows {known}: {refusal}");
            }
            Refusal::Stopping | Refusal::NotReady(_) => {}
            _ => panic!("a good watch is refused: {refusal}"),
        }
    }

    /// Whether every watcher has been told everything.
    pub(super) fn watchers_know_everything(&self) -> bool {
        let last = self.oracle.last();
        self.watchers.iter().all(|watcher| watcher.through.is_some_and(|through| through.index == last))
    }
}
