//! Disks that lose what they held: logs that rot, and disks that are replaced by empty ones.
//!
//! How much of that a cluster can bear is decided here, so that what a run claims stays true: nothing that was
//! acknowledged is lost, and a cluster that is healed goes on. A place is *harmed* from then on until it is whole again:
//! it votes, and would after a restart; its log is whole by its own account, and its disk holds everything that was
//! committed by then.
//!
//! - Everything committed is on n disks, so with at most n − 1 places harmed one intact disk is left that has it, and
//!   m − n + 1 that are whole say what was committed (R19). With n = 1, and with a configured leader, a damaged log is
//!   refused: there no log rots.
//! - One disk at a time is replaced, and never a configured leader's: an election needs its e votes of the others. At
//!   n = 1, and where two nodes elect, the others could not do without it.
//! - Whoever has never had the entry that admits another takes no denial of it, and one that was replaced votes and
//!   denies when it knows that it was admitted. All these are *mute*, and at most one place is.
//! - A copy of the vote may rot at any time, as the other one is whole.
//!
//! # Omissions
//!
//! - A disk rots while its node is down, so that the next start finds it: not under a node that reads it.
//! - Checkpoints do not rot: a damaged one is not got from others. The other tests have it gone back behind.
//! - In the newest segment single bits rot, no whole sectors: with the last batches whole sectors may be lost without a
//!   word (`log`, what stays ambiguous).

use std::path::{Path, PathBuf};

use quorate_protocol::request::{Operation, Request};
use quorate_protocol::{Incarnation, Index, Leadership, Term};

use super::Cluster;
use super::clients::OPERATOR;
use super::holdings::Mark;
use super::machine::{Machine, founder};
use super::oracle::Oracle;
use super::schedule::{Happening, MILLISECOND, Place};
use super::trace::Happened;
use crate::directory;
use crate::disk::simulated::{Images, SimDisk};
use crate::replica::Membership;
use crate::sim::Random;
use crate::sim::node::DATA;

const SECTOR_BYTES: usize = 512;

/// What a place has lost.
pub(super) struct Harm {
    /// What its earlier disks held, and this one before it was damaged: it may have been acknowledged.
    lost: Vec<(Incarnation, Vec<Mark>)>,
    /// What was committed when it was first a voting member again, with a log that is whole by its own account.
    whole_at: Option<Index>,
}

impl Machine {
    /// Whether its disk, with this incarnation, holds an entry, or has held it before it was harmed.
    pub(super) fn has_held(&self, incarnation: Incarnation, index: Index, mark: Option<Mark>) -> bool {
        let Some(mark) = mark else { return false };
        let holds = self.incarnation == incarnation && self.holdings.get(index) == Some(mark);
        let lost = self.harm.iter().flat_map(|harm| &harm.lost);
        let had = |marks: &[Mark]| marks.get(index as usize - 1) == Some(&mark);
        holds || lost.into_iter().any(|(of, marks)| *of == incarnation && had(marks))
    }

    /// The same, whether that counts or not.
    pub(super) fn has_ever_held(&self, index: Index, mark: Option<Mark>) -> bool {
        let disks = self.harm.iter().flat_map(|harm| &harm.lost).map(|(incarnation, _)| *incarnation);
        disks.chain([self.incarnation]).any(|disk| self.has_held(disk, index, mark))
    }

    /// Whether its disk has an entry of a term, or had it before it was harmed.
    pub(super) fn has_had(&self, index: Index, term: Option<Term>) -> bool {
        let lost = self.harm.iter().flat_map(|harm| &harm.lost);
        let mut lost = lost.filter(|(incarnation, _)| *incarnation == self.incarnation);
        let is_of_term = |mark: Option<&Mark>| mark.map(|(term, _)| *term) == term;
        is_of_term(self.holdings.get(index).as_ref())
            || lost.any(|(_, marks)| is_of_term(marks.get(index as usize - 1)))
    }

    /// The same of any disk that it had.
    pub(super) fn has_ever_had(&self, index: Index, term: Term) -> bool {
        let lost = self.harm.iter().flat_map(|harm| &harm.lost);
        let mut lost = lost.filter_map(|(_, marks)| marks.get(index as usize - 1));
        self.has_had(index, Some(term)) || lost.any(|(of, _)| *of == term)
    }

    fn harmed(&mut self) -> &mut Harm {
        let harm = self.harm.get_or_insert(Harm { lost: Vec::new(), whole_at: None });
        harm.whole_at = None;
        harm
    }

    /// Its newest checkpoint.
    fn newest_checkpoint(&self) -> Index {
        let directory = Path::new(DATA).join("checkpoint");
        let images = self.disk.images();
        let names = images.names().filter(|name| name.parent() == Some(&directory));
        let indexes =
            names.filter_map(|name| name.file_name()?.to_str()?.strip_suffix(".ckpt")?.parse().ok());
        indexes.max().unwrap_or(0)
    }

    /// Whether it knows, also without its log, that it is a member, and who else is.
    fn knows_members(&self, oracle: &Oracle) -> bool {
        if oracle.admitted_by(self.member()).is_none() {
            return false;
        }
        if self.newest_checkpoint() >= oracle.last_admission() {
            return true;
        }
        let knows_all = |noted: Membership| oracle.members().all(|member| noted.has(member));
        self.has_noted_its_admission() && self.noted().is_some_and(knows_all)
    }

    fn noted(&self) -> Option<Membership> {
        directory::load_members(&self.disk, Path::new(DATA)).unwrap()
    }

    /// Whether its disk says that what admits it is committed.
    pub(super) fn has_noted_its_admission(&self) -> bool {
        self.noted().is_some_and(|noted| noted.has_committed(0, self.member()))
    }

    /// Everything on its disk may be gone.
    pub(super) fn loses_what_it_held(&mut self) {
        let lost = (self.incarnation, self.holdings.everything());
        self.harmed().lost.push(lost);
    }

    /// Flips a bit of the log, or takes a sector of an older segment.
    fn rot_log(&mut self, random: &mut Random) {
        let mut images = self.disk.images();
        let log = Path::new(DATA).join("log");
        let is_segment = |name: &&Path| {
            name.parent() == Some(&log) && name.extension().is_some_and(|extension| extension == "log")
        };
        let segments: Vec<PathBuf> = images.names().filter(is_segment).map(Path::to_owned).collect();
        let Some(newest) = segments.last() else { return };
        let segment = match random.below(2) {
            0 => newest,
            _ => &segments[random.below(segments.len() as u64) as usize],
        };
        let takes_sector = segment != newest && random.below(3) == 0;
        rot(&mut images, segment, takes_sector, random);
        self.disk = SimDisk::with(images);
        self.has_rotted = true;
    }

    /// Flips a bit of one copy of the vote, if both are the same. Returns whether it did.
    fn rot_vote(&mut self, random: &mut Random) -> bool {
        let mut images = self.disk.images();
        let votes = ["vote-a", "vote-b"].map(|name| Path::new(DATA).join(name));
        let [one, other] = [&votes[0], &votes[1]].map(|vote| images.contents(vote));
        if one.is_none() || one != other {
            return false;
        }
        rot(&mut images, &votes[random.below(2) as usize], false, random);
        self.disk = SimDisk::with(images);
        true
    }
}

/// Flips a bit of something that was written, but not the last one of its sector: that would look as if it had never
/// been written. Or takes the whole sector.
fn rot(images: &mut Images, path: &Path, takes_sector: bool, random: &mut Random) {
    let mut bytes = images.contents(path).unwrap_or_default().to_vec();
    let is_written = |number: &usize| {
        let sector = bytes.chunks(SECTOR_BYTES).nth(*number).unwrap_or_default();
        sector.iter().map(|byte| byte.count_ones()).sum::<u32>() > 1
    };
    let written: Vec<usize> = (0..bytes.len().div_ceil(SECTOR_BYTES)).filter(is_written).collect();
    if written.is_empty() {
        return;
    }
    let start = SECTOR_BYTES * written[random.below(written.len() as u64) as usize];
    let end = bytes.len().min(start + SECTOR_BYTES);
    match takes_sector {
        true => bytes[start..end].fill(0),
        false => bytes[start + random.below((end - start) as u64) as usize] ^= 1 << random.below(8),
    }
    images.replace(path, bytes);
}

impl Cluster {
    /// Whether a place that was harmed may not vote, or may not know whose answers count: what says so may be in the
    /// log that it lacks.
    pub(super) fn is_mute(&self, place: Place) -> bool {
        let member = &self.members[place];
        member.harm.is_some() && !member.knows_members(&self.oracle)
    }

    /// Whether the cluster can bear that one more place is harmed, or one that is already.
    fn bears_harm(&self, place: Place, is_replaced: bool) -> bool {
        let others = || self.members.iter().filter(|member| member.place != place);
        let has_formed =
            others().all(|member| member.has_formed || member.incarnation != founder(member.place));
        if !has_formed || !self.members[place].has_formed {
            return false;
        }
        let harmed = 1 + others().filter(|other| other.harm.is_some()).count();
        let (n, m) = (self.plan.n, self.plan.m);
        let own = &self.members[place];
        // Of those that are no members, or may not know that they are.
        let becomes_mute = is_replaced || !own.knows_members(&self.oracle);
        let is_alone = !others().any(|other| self.is_mute(other.place));
        let bears_mute = is_alone && others().all(|other| other.has_formed);
        match self.plan.leadership {
            Leadership::Configured(leader) => is_replaced && leader != own.id() && bears_mute,
            Leadership::Elected => harmed < usize::from(n) && (!becomes_mute || m > 2 && bears_mute),
        }
    }

    /// A node that is down has a log that rots.
    pub(super) fn rot_log(&mut self, place: Place) {
        self.crash_to_rot(place);
        if self.members[place].life.is_some() || !self.bears_harm(place, false) {
            return;
        }
        self.counts.add(Happened::RottenLogs);
        self.members[place].harmed();
        self.members[place].rot_log(&mut self.random);
        self.node_note(place, || "has a log that rots".to_owned());
    }

    /// A node that is down has a vote of which one copy rots.
    pub(super) fn rot_vote(&mut self, place: Place) {
        self.crash_to_rot(place);
        if self.members[place].life.is_none() && self.members[place].rot_vote(&mut self.random) {
            self.counts.add(Happened::RottenVotes);
            self.node_note(place, || "has a vote of which one copy rots".to_owned());
        }
    }

    /// A node's disk is replaced by an empty one.
    pub(super) fn replace_disk(&mut self, place: Place) {
        if !self.bears_harm(place, true) {
            return;
        }
        self.crash_to_rot(place);
        self.counts.add(Happened::ReplacedDisks);
        let member = &mut self.members[place];
        member.loses_what_it_held();
        member.replace_disk();
        let incarnation = member.incarnation;
        self.node_note(place, || format!("has an empty disk: {incarnation}"));
    }

    /// A place that was harmed is whole once it votes, has a log that is whole by its own account, and holds what was
    /// committed then.
    pub(super) fn notice_whole(&mut self, place: Place) {
        let committed = self.oracle.last();
        let member = &mut self.members[place];
        let admitted = self.oracle.admitted_by(member.member());
        let has_noted = member.harm.is_some() && member.has_noted_its_admission();
        let (Some(harm), Some(life)) = (&mut member.harm, &member.life) else { return };
        let Some(replica) = life.node.replica() else { return };
        let knows = |admitted| has_noted || replica.commit() >= admitted;
        if member.held.is_some() || !admitted.is_some_and(knows) {
            return;
        }
        let wanted = *harm.whole_at.get_or_insert(committed);
        if wanted == 0 || self.oracle.mark(wanted) == member.holdings.get(wanted) {
            member.harm = None;
            self.counts.add(Happened::WholeAgain);
            self.node_note(place, || format!("is whole again, and holds entry {wanted}"));
        }
    }

    /// A damaged log counts up to another position than before; none if it is whole.
    pub(super) fn held(&mut self, place: Place, held: Option<(Term, Index)>) {
        let member = &self.members[place];
        let committed = (1..=self.oracle.last()).rev();
        let last = committed
            .map(|index| (self.oracle.term(index), index))
            .find(|(term, _)| *term < member.promise.term);
        let last = last.unwrap_or_default();
        let id = member.id();
        match held {
            Some(held) => {
                assert!(
                    held >= last,
                    "node {id} takes for never committed what lies behind entry {} of term {}, but entry {} of term \
                     {} is",
                    held.1,
                    held.0,
                    last.1,
                    last.0
                ); // R19
                self.counts.add(Happened::DeniedEntries);
            }
            None => self.check_needs_no_lost_copy(place),
        }
        self.members[place].held = held;
        self.node_note(place, || format!("counts as having held {held:?}"));
    }

    /// A damaged log counts as whole: then n others have, or are known to have had, whatever it lacks of what was
    /// committed.
    fn check_needs_no_lost_copy(&self, place: Place) {
        let member = &self.members[place];
        for index in 1..=self.oracle.last() {
            let mark = self.oracle.mark(index);
            if member.holdings.get(index) == mark || !member.has_held(member.incarnation, index, mark) {
                continue;
            }
            let counts = |other: &&Machine| {
                let is_missed = other.held.is_some() && other.has_held(other.incarnation, index, mark);
                other.place != place && (is_missed || other.holdings.get(index) == mark)
            };
            let copies = self.members.iter().filter(counts).count();
            assert!(
                copies >= usize::from(self.plan.n),
                "node {} counts as whole without entry {index}, which it had, and which only {copies} others have",
                member.id()
            );
        }
    }

    /// The operator looks after replaced disks: asks a leader to admit them.
    pub(super) fn operator_looks(&mut self) {
        let pause = 50 * MILLISECOND + self.random.below(300 * MILLISECOND);
        self.schedule.after(pause, Happening::Operator);
        let is_replaced =
            |member: &&Machine| member.harm.is_some() && member.incarnation != founder(member.place);
        let Some(node) = self.members.iter().find(is_replaced).map(Machine::id) else { return };
        let Some(asked) = self.leader() else { return };
        let request = Request { id: 0, deadline_ms: 0, operation: Operation::Admit { node } };
        let message = postcard::to_stdvec(&request).unwrap().into();
        self.request_arrives(OPERATOR, asked, message);
    }
}
