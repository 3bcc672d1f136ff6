//! Who votes and counts: of each node one incarnation, changed through the log (R26, R27).
//!
//! A node also notes it durably beside its log, whenever it changes: a log that is found damaged does not say any more
//! whom it had admitted, and without that nobody could be told from the disk that was replaced.

use std::collections::BTreeMap;

use quorate_protocol::{Incarnation, Index, Member, NodeId};
use serde::{Deserialize, Serialize};

/// Admissions that are remembered with their index. Only of the latest it ever matters from where on it holds.
const ADMISSIONS_MAX: usize = 32;

/// The members at every index that may still be cut: those that the log began with, and each admission.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    base: BTreeMap<NodeId, Incarnation>,
    /// (index, who was admitted), ascending.
    admissions: Vec<(Index, Member)>,
    /// Admissions up to here are known to be committed, whatever the log has.
    committed: Index,
}

impl Membership {
    /// The members before any of the entries that follow.
    pub fn new(base: impl IntoIterator<Item = Member>) -> Self {
        let base = base.into_iter().map(|member| (member.node, member.incarnation)).collect();
        Self { base, admissions: Vec::new(), committed: 0 }
    }

    /// What the entry at an index says of it; returns whether that changes anything. What is known to be committed
    /// stays, as an entry that says otherwise is about to be cut.
    pub fn set(&mut self, index: Index, admitted: Option<Member>) -> bool {
        if self.admissions.is_empty() && admitted.is_none() || index <= self.committed {
            return false;
        }
        let place = self.admissions.partition_point(|(at, _)| *at < index);
        let before = self.admissions.get(place).filter(|(at, _)| *at == index).map(|(_, member)| *member);
        if before == admitted {
            return false;
        }
        if before.is_some() {
            self.admissions.remove(place);
        }
        if let Some(member) = admitted {
            self.admissions.insert(place, (index, member));
        }
        self.forget_the_oldest();
        true
    }

    fn forget_the_oldest(&mut self) {
        let is_old = |admissions: &[(Index, Member)]| admissions.len() > ADMISSIONS_MAX;
        while is_old(&self.admissions) && self.admissions[0].0 <= self.committed {
            let (_, member) = self.admissions.remove(0);
            self.base.insert(member.node, member.incarnation);
        }
    }

    /// Removes what comes after an index, and is not known to be committed; returns whether that changes anything.
    pub fn truncate(&mut self, after: Index) -> bool {
        let before = self.admissions.len();
        let last = after.max(self.committed);
        self.admissions.retain(|(index, _)| *index <= last);
        self.admissions.len() < before
    }

    /// All entries up to an index are committed; returns whether an admission is among them that was not known to be.
    pub fn commit(&mut self, index: Index) -> bool {
        let newest = self.admissions.iter().rev().find(|(at, _)| *at <= index);
        let Some((at, _)) = newest.filter(|(at, _)| *at > self.committed) else { return false };
        self.committed = *at;
        true
    }

    /// Those of a checkpoint at an index, with what was noted since of admissions that are known to be committed.
    pub fn of_checkpoint(base: Self, index: Index, noted: Option<&Self>) -> Self {
        let Some(noted) = noted else { return base };
        let since = noted.admissions.iter().filter(|(at, _)| *at > index && *at <= noted.committed);
        Self { admissions: since.copied().collect(), committed: noted.committed, ..base }
    }

    /// Adds what was noted of entries after an index: the log has lost them, and may get them again.
    pub fn add_lost(&mut self, noted: &Self, after: Index) {
        let lost = noted.admissions.iter().filter(|(at, _)| *at > after && *at > self.committed);
        self.admissions.extend(lost);
    }

    /// Whether a member is one as of an index.
    pub fn has_at(&self, index: Index, member: Member) -> bool {
        let admitted = self.admissions.iter().rev().filter(|(at, _)| *at <= index);
        let latest = admitted.map(|(_, admitted)| *admitted).find(|admitted| admitted.node == member.node);
        match latest {
            Some(latest) => latest == member,
            None => self.base.get(&member.node) == Some(&member.incarnation),
        }
    }

    /// Whether a member is known to be one, if all up to an index is committed.
    pub fn has_committed(&self, index: Index, member: Member) -> bool {
        self.has_at(index.max(self.committed), member)
    }

    /// Whether a member is one as of the last entry.
    pub fn has(&self, member: Member) -> bool {
        self.has_at(Index::MAX, member)
    }

    /// Which incarnation of a node is a member as of the last entry.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        let admitted = self.admissions.iter().rev().find(|(_, member)| member.node == node);
        admitted.map(|(_, member)| member.incarnation).or_else(|| self.base.get(&node).copied())
    }

    /// Which entry admits a member, as far as that is remembered.
    #[cfg(test)]
    pub(super) fn admission_of(&self, member: Member) -> Option<Index> {
        self.admissions.iter().find(|(_, admitted)| *admitted == member).map(|(index, _)| *index)
    }

    /// The members as of an index: what a checkpoint at that index carries.
    pub fn at(&self, index: Index) -> Vec<Member> {
        let mut members = self.base.clone();
        for (_, member) in self.admissions.iter().take_while(|(at, _)| *at <= index) {
            members.insert(member.node, member.incarnation);
        }
        members.into_iter().map(|(node, incarnation)| Member { node, incarnation }).collect()
    }

    /// The last admission after an index, unless it is known to be committed. All that are not are of one node.
    pub fn admission_after(&self, index: Index) -> Option<(Index, Member)> {
        self.admissions.last().copied().filter(|(at, _)| *at > index.max(self.committed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u8, incarnation: u64) -> Member {
        Member { node: NodeId::try_from(node).unwrap(), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn an_admission_takes_the_place_of_an_earlier_incarnation_from_its_index_on() {
        let mut membership = Membership::new([member(1, 11), member(2, 22)]);
        assert!(!membership.set(4, None) && membership.set(5, Some(member(2, 99))));
        assert!(membership.has_at(4, member(2, 22)) && !membership.has_at(4, member(2, 99)));
        assert!(!membership.has_at(5, member(2, 22)) && membership.has_at(5, member(2, 99)));
        assert!(membership.has(member(1, 11)) && !membership.has(member(3, 33)));
        assert_eq!(membership.at(4), [member(1, 11), member(2, 22)]);
        assert_eq!(membership.at(5), [member(1, 11), member(2, 99)]);
        assert_eq!(membership.admission_after(4), Some((5, member(2, 99))));
        assert_eq!(membership.admission_after(5), None);
        assert!(membership.truncate(4) && !membership.truncate(4));
        assert!(membership.has(member(2, 22)));
    }

    #[test]
    fn another_entry_in_its_place_takes_an_admission_back_unless_it_is_committed() {
        let mut membership = Membership::new([member(1, 11), member(2, 22)]);
        membership.set(5, Some(member(2, 99)));
        assert!(!membership.has_committed(4, member(2, 99)));
        assert!(membership.set(5, None) && membership.has(member(2, 22)));
        membership.set(5, Some(member(2, 99)));
        assert!(membership.commit(7) && !membership.commit(8));
        assert!(membership.has_committed(0, member(2, 99)));
        assert!(!membership.set(5, None) && !membership.truncate(4));
    }

    #[test]
    fn a_note_tells_what_a_damaged_log_had_and_what_is_committed() {
        let mut noted = Membership::new([member(1, 11), member(2, 22), member(3, 33)]);
        noted.set(5, Some(member(2, 99)));
        noted.commit(5);
        noted.set(9, Some(member(3, 98)));
        let base = || Membership::new([member(1, 11), member(2, 22), member(3, 33)]);
        let mut members = Membership::of_checkpoint(base(), 2, Some(&noted));
        assert!(
            members.has(member(2, 99)) && members.has(member(3, 33)),
            "the log says what is not committed"
        );
        members.add_lost(&noted, 7);
        assert_eq!(members, noted);
        let newer = Membership::new([member(1, 11), member(2, 99), member(3, 33)]);
        assert_eq!(Membership::of_checkpoint(newer, 8, Some(&noted)).admission_after(0), None);
    }

    #[test]
    fn old_admissions_are_forgotten_and_what_they_did_is_not() {
        let mut membership = Membership::new([member(1, 11), member(2, 22)]);
        for incarnation in 1..=100 {
            membership.set(incarnation, Some(member(2, incarnation)));
            membership.commit(incarnation);
        }
        assert_eq!(membership.admissions.len(), ADMISSIONS_MAX);
        assert!(membership.has(member(2, 100)) && membership.has(member(1, 11)));
    }
}
