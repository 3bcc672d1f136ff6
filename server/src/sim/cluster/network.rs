//! The links between nodes: each node dials every other and sends on what it dialled.
//!
//! A connection keeps the order and loses nothing until it breaks; then what was on its way is lost, or arrives yet.
//! A link that is cut holds what is sent on it, as TCP does, until it is mended or the connection breaks. On top of
//! that, by plan, messages arrive for a second time, much later and whatever has become of their connection, or
//! overtake others: more than TCP may do, but no more than the core must survive (FAULTS 17).

use std::collections::VecDeque;
use std::rc::Rc;

use quorate_protocol::Member;

use super::plan::NetworkPlan;
use super::schedule::{Happening, LifeNumber, MILLISECOND, Moment, Place, SECOND, Schedule};
use crate::sim::Random;

/// Between two attempts: from the first to the last, doubling.
const REDIAL: (Moment, Moment) = (50 * MILLISECOND, SECOND);

/// A link from one node to another.
#[derive(Debug)]
pub(super) struct Link {
    /// The connection that is up.
    pub(super) connection: Option<u64>,
    /// Of the dialling and the listening node, when the connection was made.
    pub(super) lives: (LifeNumber, LifeNumber),
    /// As whom the dialling node introduced itself.
    dialler: Option<Member>,
    /// The connection before, if what was sent on it may arrive yet, and the life that listens to it.
    lingering: Option<(u64, LifeNumber)>,
    /// When the last message on it arrives.
    last_arrival: Moment,
    /// What is sent while it is cut.
    held: VecDeque<Rc<[u8]>>,
    /// How many faults cut it now.
    cuts: u32,
    slow_until: Moment,
    redial: Moment,
}

/// All links.
pub(super) struct Network {
    plan: NetworkPlan,
    members: usize,
    links: Vec<Link>,
    connections: u64,
    pub(super) is_faulty: bool,
}

/// What became of a message beside being sent.
#[derive(Clone, Copy, Default)]
pub(super) struct Fate {
    pub(super) is_copied: bool,
    pub(super) overtakes: bool,
}

impl Network {
    pub(super) fn new(plan: NetworkPlan, members: usize) -> Self {
        let link = |_| Link {
            connection: None,
            lives: (0, 0),
            dialler: None,
            lingering: None,
            last_arrival: 0,
            held: VecDeque::new(),
            cuts: 0,
            slow_until: 0,
            redial: REDIAL.0,
        };
        let links = (0..members * members).map(link).collect();
        Self { plan, members, links, connections: 0, is_faulty: true }
    }

    pub(super) fn link(&mut self, from: Place, to: Place) -> &mut Link {
        &mut self.links[from * self.members + to]
    }

    pub(super) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.links[from * self.members + to].cuts > 0
    }

    /// How long a message takes.
    pub(super) fn delay(&mut self, from: Place, to: Place, now: Moment, random: &mut Random) -> Moment {
        let NetworkPlan { delay, jitter, slow_in_1000, .. } = self.plan;
        let is_slow = self.link(from, to).slow_until > now;
        let mut delay = delay + random.below(jitter + 1);
        if is_slow || self.is_faulty && random.below(1000) < slow_in_1000 {
            delay += random.below(200 * MILLISECOND);
        }
        delay
    }

    /// Sends a message, if the link is up.
    pub(super) fn send(
        &mut self,
        (from, to): (Place, Place),
        at: Moment,
        message: Rc<[u8]>,
        schedule: &mut Schedule,
        random: &mut Random,
    ) -> Fate {
        let link = self.link(from, to);
        let (Some(connection), Some(dialler)) = (link.connection, link.dialler) else {
            return Fate::default();
        };
        if link.cuts > 0 {
            link.held.push_back(message);
            return Fate::default();
        }
        let mut fate = Fate::default();
        let delay = self.delay(from, to, at, random);
        let NetworkPlan { copied_in_1000, overtaking_in_1000, .. } = self.plan;
        let link = self.link(from, to);
        let mut arrival = at + delay;
        if arrival <= link.last_arrival {
            fate.overtakes = random.below(1000) < overtaking_in_1000;
            if !fate.overtakes {
                arrival = link.last_arrival + 1;
            }
        }
        link.last_arrival = link.last_arrival.max(arrival);
        if self.is_faulty && random.below(1000) < copied_in_1000 {
            fate.is_copied = true;
            let within = if random.below(4) == 0 { 3 * SECOND } else { 20 * MILLISECOND };
            let late = arrival + random.below(within);
            let message = message.clone();
            schedule.at(late, Happening::Arrival { from: dialler, to, connection: None, message });
        }
        schedule.at(arrival, Happening::Arrival { from: dialler, to, connection: Some(connection), message });
        fate
    }

    /// Cuts a link in one direction.
    pub(super) fn cut(&mut self, from: Place, to: Place) {
        self.link(from, to).cuts += 1;
    }

    /// Takes one cut back; what was held is sent.
    pub(super) fn mend(&mut self, from: Place, to: Place, schedule: &mut Schedule, random: &mut Random) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
        if link.cuts == 0 {
            for message in std::mem::take(&mut link.held) {
                self.send((from, to), schedule.now, message, schedule, random);
            }
        }
    }

    /// Takes all cuts of a link back.
    pub(super) fn mend_all(&mut self, from: Place, to: Place, schedule: &mut Schedule, random: &mut Random) {
        let link = self.link(from, to);
        link.cuts = link.cuts.min(1);
        link.slow_until = 0;
        self.mend(from, to, schedule, random);
    }

    pub(super) fn slow(&mut self, from: Place, to: Place, until: Moment) {
        self.link(from, to).slow_until = until;
    }

    /// A connection is made.
    pub(super) fn connect(
        &mut self,
        from: Place,
        to: Place,
        dialler: Member,
        lives: (LifeNumber, LifeNumber),
        now: Moment,
    ) -> u64 {
        self.connections += 1;
        let connection = self.connections;
        let link = self.link(from, to);
        link.connection = Some(connection);
        (link.lives, link.dialler) = (lives, Some(dialler));
        link.last_arrival = now;
        link.held.clear();
        link.redial = REDIAL.0;
        connection
    }

    /// A connection ends. What was on its way is lost, unless it `lingers`.
    pub(super) fn disconnect(&mut self, from: Place, to: Place, lingers: bool) {
        let link = self.link(from, to);
        let listening = link.lives.1;
        link.lingering = link.connection.take().filter(|_| lingers).map(|connection| (connection, listening));
        link.held.clear();
    }

    /// Whether a message on a connection reaches this life of the node that listens.
    pub(super) fn reaches(&mut self, from: Place, to: Place, connection: u64, life: LifeNumber) -> bool {
        let link = self.link(from, to);
        link.connection == Some(connection) && link.lives.1 == life
            || link.lingering == Some((connection, life))
    }

    /// How long to wait before the next attempt.
    pub(super) fn redial_after(&mut self, from: Place, to: Place) -> Moment {
        let link = self.link(from, to);
        let pause = link.redial;
        link.redial = (pause * 2).min(REDIAL.1);
        pause
    }
}
