//! What goes wrong, and how it is set right.

use quorate_protocol::request::{Operation, Request};

use super::Cluster;
use super::clients::OPERATOR;
use super::schedule::{Happening, LifeNumber, MILLISECOND, Moment, Place, SECOND};
use super::trace::{Happened, Line};
use crate::disk::simulated::Kept;
use crate::sim::Random;
use crate::sim::node::node_id;

/// What may go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A process is killed; the machine goes on.
    Kill,
    /// A machine loses power.
    PowerLoss,
    /// All do.
    PowerLossOfAll,
    /// A machine loses power while a promise or an identity is stored.
    TearPromise,
    /// A process is stopped for a while.
    Pause,
    /// A process is stopped for longer than an election takes, and hears of nobody when it goes on: who led then does
    /// not know that another does.
    Freeze,
    /// A link carries nothing, in both directions.
    CutLink,
    /// A link carries nothing in one direction.
    OneWay,
    /// The nodes are split in two.
    Split,
    /// One node reaches nobody, or nobody reaches it, or both.
    Isolate,
    /// A connection breaks.
    Break,
    /// A link gets slow.
    SlowLink,
    /// A disk does not answer for a while.
    StallDisk,
    /// A sync fails.
    FailSync,
    /// A disk is full for a while.
    FillDisk,
    /// A node is told to stop, and starts again later.
    Stop,
    /// A leader is asked to hand over, to some other or to whoever is fit.
    HandOver,
    /// A node's disk gets slow when it is next asked for something, and then its power goes: others have what it was
    /// writing, and it has not (R11).
    CrashAheadOfDisk,
    /// A machine loses power, and its log rots before it starts again.
    RotLog,
    /// A machine loses power, and one of the two copies of its vote rots.
    RotVote,
    /// A machine loses power, and gets an empty disk.
    ReplaceDisk,
}

/// How a fault passes; those that last until some time pass by themselves.
#[derive(Debug)]
pub(super) enum Repair {
    Restart(Place),
    Mend(Vec<(Place, Place)>),
    /// What was told to stop has had its time.
    End(Place, LifeNumber),
    /// What has a slow disk loses its power.
    Crash(Place, LifeNumber),
}

impl Fault {
    const ALL: [Self; 21] = [
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::TearPromise,
        Self::Pause,
        Self::Freeze,
        Self::CutLink,
        Self::OneWay,
        Self::Split,
        Self::Isolate,
        Self::Break,
        Self::SlowLink,
        Self::StallDisk,
        Self::FailSync,
        Self::FillDisk,
        Self::Stop,
        Self::HandOver,
        Self::CrashAheadOfDisk,
        Self::RotLog,
        Self::RotVote,
        Self::ReplaceDisk,
    ];

    /// Some of them.
    pub(super) fn some(random: &mut Random) -> Vec<Self> {
        let share = random.of(&[20, 50, 80]);
        let mut some: Vec<Self> = Self::ALL.into_iter().filter(|_| random.below(100) < share).collect();
        if some.is_empty() {
            some.push(random.of(&Self::ALL));
        }
        some
    }
}

impl Cluster {
    /// The next fault; if `again`, one more follows.
    pub(super) fn fault(&mut self) {
        if !self.is_faulty {
            return;
        }
        let fault = self.random.of(&self.plan.faults);
        self.cause(fault);
        let pause = self.random.below(2 * self.plan.fault_pause + 1);
        self.schedule.after(pause, Happening::Fault);
    }

    /// How long a fault lasts.
    fn fault_length(&mut self) -> Moment {
        MILLISECOND + self.random.below(2 * self.plan.fault_length)
    }

    /// Whom it happens to: the leader more often than others.
    fn victim(&mut self) -> Place {
        match self.leader() {
            Some(leader) if self.random.below(2) == 0 => leader,
            _ => self.random.below(self.plan.members() as u64) as Place,
        }
    }

    fn cause(&mut self, fault: Fault) {
        let victim = self.victim();
        match fault {
            Fault::Kill => self.crash(victim, None, "is killed"),
            Fault::PowerLoss => {
                let kept = self.kept();
                self.crash(victim, Some(kept), "loses power");
            }
            Fault::PowerLossOfAll => {
                if self.members.iter().filter(|member| member.life.is_some()).count() > 1 {
                    self.counts.add(Happened::PowerLossesOfAll);
                }
                for place in 0..self.plan.members() {
                    let kept = self.kept();
                    self.crash(place, Some(kept), "loses power, as all do");
                }
            }
            Fault::TearPromise => {
                let changes = self.random.below(5);
                self.members[victim].tear_next_promise(changes);
            }
            Fault::Pause => {
                // Often for long enough that another is elected meanwhile.
                let longer = self.random.below(2) * self.random.below(1500 * MILLISECOND);
                let until = self.schedule.now + self.fault_length() + longer;
                self.counts.add(Happened::Pauses);
                self.members[victim].paused_until = until;
                self.node_note(victim, || "stops".to_owned());
            }
            Fault::Freeze => {
                let length = 300 * MILLISECOND + self.random.below(1200 * MILLISECOND);
                self.counts.add(Happened::Freezes);
                self.members[victim].paused_until = self.schedule.now + length;
                let links = (0..self.plan.members()).filter(|other| *other != victim);
                let links = links.flat_map(|other| [(victim, other), (other, victim)]).collect();
                let longer = self.random.below(200 * MILLISECOND);
                self.cut_links(fault, links, length + longer);
            }
            Fault::CutLink | Fault::OneWay | Fault::Split | Fault::Isolate => self.cut(fault, victim),
            Fault::Break => {
                let (from, to) = self.any_link(victim);
                if let Some(connection) = self.network.link(from, to).connection {
                    self.schedule.after(0, Happening::Break { from, to, connection });
                }
            }
            Fault::SlowLink => {
                let (from, to) = self.any_link(victim);
                let until = self.schedule.now + self.fault_length();
                self.network.slow(from, to, until);
                self.counts.add(Happened::SlowLinks);
            }
            Fault::StallDisk => {
                let until = self.schedule.now + 2 * self.fault_length();
                self.members[victim].stalled_until = until;
                self.counts.add(Happened::DiskStalls);
                self.node_note(victim, || "has a disk that does not answer".to_owned());
            }
            Fault::FailSync => self.members[victim].fails_sync = true,
            Fault::FillDisk => {
                let until = self.schedule.now + self.fault_length();
                self.members[victim].full_until = until;
                self.counts.add(Happened::FullDisks);
                self.node_note(victim, || "has a disk that is full".to_owned());
            }
            Fault::Stop => {
                let now = self.schedule.now;
                self.members[victim].stop(now);
                let Some(life) = &self.members[victim].life else { return };
                let end = Repair::End(victim, life.number);
                self.counts.add(Happened::Stops);
                self.node_note(victim, || "is told to stop".to_owned());
                let after = self.random.below(SECOND);
                self.schedule.after(after, Happening::Repair(end));
                self.want_turn(victim);
            }
            Fault::CrashAheadOfDisk => self.members[victim].crashes_ahead_of_disk = true,
            Fault::RotLog => self.rot_log(victim),
            Fault::RotVote => self.rot_vote(victim),
            Fault::ReplaceDisk => self.replace_disk(victim),
            Fault::HandOver => {
                let to = self.random.below(u64::from(self.plan.m) + 1) as u8;
                let operation = Operation::HandOver { to: (to > 0).then(|| node_id(to)) };
                let request = Request { id: 0, deadline_ms: 0, operation };
                let message = postcard::to_stdvec(&request).unwrap().into();
                self.request_arrives(OPERATOR, victim, message);
            }
        }
    }

    fn kept(&mut self) -> Kept {
        match self.random.below(6) {
            0 => Kept::Nothing,
            1 => Kept::Everything,
            _ => Kept::Random(self.random.next()),
        }
    }

    /// A link of a node, or of any if it has none.
    fn any_link(&mut self, victim: Place) -> (Place, Place) {
        let other = self.random.below(self.plan.members() as u64) as Place;
        if self.random.below(2) == 0 { (victim, other) } else { (other, victim) }
    }

    fn cut(&mut self, fault: Fault, victim: Place) {
        let (happened, links) = self.links_of(fault, victim);
        if links.is_empty() {
            return;
        }
        self.counts.add(happened);
        let length = self.fault_length();
        self.cut_links(fault, links, length);
    }

    fn cut_links(&mut self, fault: Fault, links: Vec<(Place, Place)>, length: Moment) {
        let now = self.schedule.now;
        let shown: Vec<_> = links.iter().map(|(from, to)| format!("{}→{}", from + 1, to + 1)).collect();
        self.trace.note(now, Line::World(format!("{fault:?}: {}", shown.join(" "))));
        for (from, to) in &links {
            self.network.cut(*from, *to);
            // Some time after nothing has come back, a connection is given up.
            if let Some(connection) = self.network.link(*from, *to).connection
                && self.random.below(2) == 0
            {
                let after = self.random.below(2 * SECOND);
                self.schedule.after(after, Happening::Break { from: *from, to: *to, connection });
            }
        }
        self.schedule.after(length, Happening::Repair(Repair::Mend(links)));
    }

    fn links_of(&mut self, fault: Fault, victim: Place) -> (Happened, Vec<(Place, Place)>) {
        let members = self.plan.members();
        let (one, other) = self.any_link(victim);
        let others = || (0..members).filter(move |place| *place != victim);
        match fault {
            _ if members == 1 => (Happened::LinkCuts, Vec::new()),
            Fault::CutLink if one != other => (Happened::LinkCuts, vec![(one, other), (other, one)]),
            Fault::OneWay if one != other => (Happened::OneWayCuts, vec![(one, other)]),
            Fault::Split => {
                let side = self.random.below(1 << members);
                let on_side = |place: &Place| side & 1 << *place != 0;
                let pairs = (0..members).flat_map(|from| (0..members).map(move |to| (from, to)));
                let cut = pairs.filter(|(from, to)| on_side(from) != on_side(to));
                (Happened::Splits, cut.collect())
            }
            Fault::Isolate => {
                let (inward, outward) = self.random.of(&[(true, true), (true, false), (false, true)]);
                let inward = others().filter(|_| inward).map(|other| (other, victim));
                let outward = others().filter(|_| outward).map(|other| (victim, other));
                (Happened::Isolations, inward.chain(outward).collect())
            }
            _ => (Happened::LinkCuts, Vec::new()),
        }
    }

    /// A node dies, and is started again some time later.
    fn crash(&mut self, place: Place, kept: Option<Kept>, why: &str) {
        if self.members[place].life.is_none() {
            return;
        }
        self.counts.add(if kept.is_some() { Happened::PowerLosses } else { Happened::Kills });
        self.end_life(place, kept, why);
        let after = self.fault_length();
        self.schedule.after(after, Happening::Repair(Repair::Restart(place)));
    }

    /// A machine loses power, also one that runs no process: nothing on its disk is still to become durable.
    pub(super) fn crash_to_rot(&mut self, place: Place) {
        let kept = self.kept();
        match self.members[place].life.is_some() {
            true => self.crash(place, Some(kept), "loses power, and its disk suffers"),
            false => self.members[place].loses_power(kept),
        }
    }

    /// A node has stopped by itself: its process is started again, on the same machine or after its power went.
    pub(super) fn stopped(&mut self, place: Place, why: &str, is_power_lost: bool) {
        let kept = is_power_lost.then(|| Kept::Random(self.random.next()));
        self.end_life(place, kept, why);
        let after = self.fault_length();
        self.schedule.after(after, Happening::Repair(Repair::Restart(place)));
    }

    pub(super) fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Restart(place) => {
                if self.may_live(place) {
                    self.start(place);
                }
            }
            Repair::End(place, life) => {
                if self.members[place].life.as_ref().is_some_and(|living| living.number == life) {
                    self.stopped(place, "has stopped", false);
                }
            }
            Repair::Crash(..) if !self.is_faulty => {}
            Repair::Crash(place, life) => {
                if self.members[place].life.as_ref().is_some_and(|living| living.number == life) {
                    self.counts.add(Happened::CrashesAheadOfTheDisk);
                    let kept = self.kept();
                    self.end_life(place, Some(kept), "loses power while others have what it was writing");
                    let after = self.random.below(20 * MILLISECOND);
                    self.schedule.after(after, Happening::Repair(Repair::Restart(place)));
                }
            }
            Repair::Mend(links) => {
                if self.is_faulty {
                    for (from, to) in links {
                        self.network.mend(from, to, &mut self.schedule, &mut self.random);
                    }
                }
            }
        }
    }
}
