//! Who votes and counts: of each node one incarnation, changed through the log (R26, R27).

use std::collections::BTreeMap;

use quorate_protocol::{Incarnation, Index, Member, NodeId};

/// The members at every index that may still be cut: those that the log began with, and each admission.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Membership {
    base: BTreeMap<NodeId, Incarnation>,
    /// (index, who was admitted), ascending.
    admissions: Vec<(Index, Member)>,
}

impl Membership {
    /// The members before any of the entries that follow.
    pub fn new(base: impl IntoIterator<Item = Member>) -> Self {
        let base = base.into_iter().map(|member| (member.node, member.incarnation)).collect();
        Self { base, admissions: Vec::new() }
    }

    /// An entry admits a member.
    pub fn push(&mut self, index: Index, member: Member) {
        debug_assert!(self.admissions.last().is_none_or(|(last, _)| *last < index));
        self.admissions.push((index, member));
    }

    /// Removes what comes after an index.
    pub fn truncate(&mut self, after: Index) {
        self.admissions.retain(|(index, _)| *index <= after);
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

    /// Whether a member is one as of the last entry.
    pub fn has(&self, member: Member) -> bool {
        self.has_at(Index::MAX, member)
    }

    /// Which incarnation of a node is a member as of the last entry.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        let admitted = self.admissions.iter().rev().find(|(_, member)| member.node == node);
        admitted.map(|(_, member)| member.incarnation).or_else(|| self.base.get(&node).copied())
    }

    /// The members as of an index: what a checkpoint at that index carries.
    pub fn at(&self, index: Index) -> Vec<Member> {
        let mut members = self.base.clone();
        for (_, member) in self.admissions.iter().take_while(|(at, _)| *at <= index) {
            members.insert(member.node, member.incarnation);
        }
        members.into_iter().map(|(node, incarnation)| Member { node, incarnation }).collect()
    }

    /// The last admission after an index. There is at most one that is not committed.
    pub fn admission_after(&self, index: Index) -> Option<(Index, Member)> {
        self.admissions.last().copied().filter(|(at, _)| *at > index)
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
        membership.push(5, member(2, 99));
        assert!(membership.has_at(4, member(2, 22)) && !membership.has_at(4, member(2, 99)));
        assert!(!membership.has_at(5, member(2, 22)) && membership.has_at(5, member(2, 99)));
        assert!(membership.has(member(1, 11)) && !membership.has(member(3, 33)));
        assert_eq!(membership.at(4), [member(1, 11), member(2, 22)]);
        assert_eq!(membership.at(5), [member(1, 11), member(2, 99)]);
        assert_eq!(membership.admission_after(4), Some((5, member(2, 99))));
        assert_eq!(membership.admission_after(5), None);
        membership.truncate(4);
        assert!(membership.has(member(2, 22)));
    }
}
