//! Who is connected, and who has to go.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use quorate_protocol::NodeId;

use super::stream::Stream;
use super::{FRAME_DEADLINE, HELLO_DEADLINE, OUTPUT_DEADLINE, STRANGERS_MAX};
use crate::replica::Time;

/// How often one address is complained about in the log.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Complaints that are remembered.
const COMPLAINTS_MAX: usize = 1024;

/// All accepted connections of a node, clients and peers.
pub(crate) struct Guard {
    connections_max: usize,
    next: Cell<u64>,
    /// Oldest first.
    guests: RefCell<BTreeMap<u64, Guest>>,
    complaints: RefCell<BTreeMap<(IpAddr, Option<NodeId>), Time>>,
}

struct Guest {
    stream: Rc<Stream>,
    since: Time,
    is_stranger: bool,
}

/// A connection's place; given back when dropped.
pub(crate) struct Place {
    guard: Rc<Guard>,
    id: u64,
}

impl Guard {
    pub(crate) fn new(connections_max: usize) -> Self {
        Self {
            connections_max,
            next: Cell::new(0),
            guests: RefCell::default(),
            complaints: RefCell::default(),
        }
    }

    /// Gives a connection a place; none if all are taken. Too many strangers, or more than half of all: the
    /// oldest has to go.
    pub(crate) fn admit(self: &Rc<Self>, stream: &Rc<Stream>, now: Time) -> Option<Place> {
        let mut guests = self.guests.borrow_mut();
        let strangers = guests.values().filter(|guest| guest.is_stranger).count();
        if strangers >= STRANGERS_MAX.min(self.connections_max / 2)
            && let Some(oldest) = guests.values_mut().find(|guest| guest.is_stranger)
        {
            oldest.stream.close();
            // Its task has yet to see that: the next one to go is another.
            oldest.is_stranger = false;
        }
        if guests.len() >= self.connections_max {
            return None;
        }
        let id = self.next.replace(self.next.get() + 1);
        guests.insert(id, Guest { stream: stream.clone(), since: now, is_stranger: true });
        Some(Place { guard: self.clone(), id })
    }

    /// Closes every connection that has missed a deadline.
    pub(crate) fn sweep(&self, now: Time) {
        let late =
            |since: Option<Time>, deadline| since.is_some_and(|since| now.saturating_sub(since) > deadline);
        for guest in self.guests.borrow().values() {
            if guest.is_stranger && late(Some(guest.since), HELLO_DEADLINE)
                || late(guest.stream.frame_began(), FRAME_DEADLINE)
                || late(guest.stream.output_moved(), OUTPUT_DEADLINE)
            {
                guest.stream.close();
            }
        }
    }

    /// Whether something about an address, or a node that is said to be there, is to be logged: once a minute.
    pub(crate) fn may_complain(&self, address: IpAddr, node: Option<NodeId>, now: Time) -> bool {
        let about = (address, node);
        let mut complaints = self.complaints.borrow_mut();
        complaints.retain(|_, last| now.saturating_sub(*last) < COMPLAINT_INTERVAL);
        let is_first = !complaints.contains_key(&about) && complaints.len() < COMPLAINTS_MAX;
        if is_first {
            complaints.insert(about, now);
        }
        is_first
    }
}

impl Place {
    /// The connection's number, never used again.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The connection has introduced itself.
    pub(crate) fn introduced(&self) {
        if let Some(guest) = self.guard.guests.borrow_mut().get_mut(&self.id) {
            guest.is_stranger = false;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guard.guests.borrow_mut().remove(&self.id);
    }
}
