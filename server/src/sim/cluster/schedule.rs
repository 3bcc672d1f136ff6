//! What happens when: simulated time, and everything that is due in it.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;

use quorate_protocol::handshake::ReplicaIdentity;
use quorate_protocol::{Index, Member};

use super::faults::Repair;

/// Nanoseconds since the beginning.
pub(super) type Moment = u64;

pub(super) const MICROSECOND: Moment = 1_000;
pub(super) const MILLISECOND: Moment = 1_000_000;
pub(super) const SECOND: Moment = 1_000_000_000;

/// A node's place among the members, from 0; its id is one more.
pub(super) type Place = usize;

/// Which of a node's lives: each restart begins another.
pub(super) type LifeNumber = u32;

/// Something that happens to one life of a node.
#[derive(Debug)]
pub(super) enum Doing {
    /// Time passes.
    Tick,
    /// The event loop runs.
    Turn,
    /// The log's step under way is done.
    LogDone,
    /// The log thread wakes: there may be room again, or it has rested for long enough.
    LogWake,
    /// The checkpoint thread does something.
    Checkpoint,
    /// Log was read for a follower.
    LogRead { to: Place, from: Index, bytes_max: usize },
    /// Something is done for a checkpoint that is sent or received.
    Transfer,
    /// It tries to reach another node.
    Dial(Place),
    /// The answer to its hello arrives, from this life of another node.
    Welcome(Place, LifeNumber, Box<ReplicaIdentity>),
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Happening {
    /// To a node, if it still is in this life.
    Node(Place, LifeNumber, Doing),
    /// A node's hello arrives at another, of this life, sent in this one.
    Hello { from: Place, life: LifeNumber, to: Place, identity: Box<ReplicaIdentity> },
    /// A message arrives, from whoever introduced itself as this; without a connection it is a late copy.
    Arrival { from: Member, to: Place, connection: Option<u64>, message: Rc<[u8]> },
    /// A connection ends, and whoever dialled it notices.
    Break { from: Place, to: Place, connection: u64 },
    /// A client looks for something to do.
    Client(usize),
    /// A watcher looks for something to do.
    Watcher(usize),
    /// A client's request arrives at a node.
    Request { client: usize, to: Place, message: Rc<[u8]> },
    /// An answer arrives at a client.
    Response { client: usize, from: Place, message: Rc<[u8]> },
    /// A client waits no longer for an answer to a request.
    GiveUp { client: usize, request: u64 },
    /// A client could not send a request.
    Unsent { client: usize, request: u64 },
    /// A client tries a call again.
    Again { client: usize, number: u64 },
    /// A client says that it has had the result of a call.
    EndLinger { client: usize, number: u64 },
    /// The operator looks after replaced disks.
    Operator,
    /// The next fault.
    Fault,
    /// A fault passes.
    Repair(Repair),
}

#[derive(Debug)]
struct Due {
    at: Moment,
    /// What is due at the same time happens in the order in which it was scheduled.
    number: u64,
    what: Happening,
}

impl Due {
    fn key(&self) -> (Moment, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Everything that is due.
#[derive(Default)]
pub(super) struct Schedule {
    pub(super) now: Moment,
    number: u64,
    due: BinaryHeap<Reverse<Due>>,
}

impl Schedule {
    /// Has something happen, so much later.
    pub(super) fn after(&mut self, delay: Moment, what: Happening) {
        self.at(self.now + delay, what);
    }

    /// Has something happen at a time, which is not past.
    pub(super) fn at(&mut self, at: Moment, what: Happening) {
        self.number += 1;
        self.due.push(Reverse(Due { at: at.max(self.now), number: self.number, what }));
    }

    /// The next thing, if it is due by `until`; time goes on to it, or to `until`.
    pub(super) fn next(&mut self, until: Moment) -> Option<Happening> {
        if self.due.peek().is_none_or(|Reverse(due)| due.at > until) {
            self.now = self.now.max(until);
            return None;
        }
        let Reverse(due) = self.due.pop()?;
        self.now = due.at;
        Some(due.what)
    }
}
