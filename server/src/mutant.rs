//! Known bugs, put in on purpose, one at a time: what finds them is a test that can fail.
//!
//! The numbers are those of the list of mutants that the tests are held to. A mutant is on in one thread of a
//! test, for as long as [`with`] runs; outside of tests [`is_on`] is a constant, and nothing of this remains.

/// A known bug.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Mutant {
    /// 1: a batch is called durable before it is synced.
    AckBeforeSync,
    /// 2: the directory is not synced after a segment was created.
    SegmentNameNotSynced,
    /// 3: the directory is not synced after a checkpoint was renamed.
    CheckpointNameNotSynced,
    /// 4: log goes before the checkpoint that replaces it is durable.
    LogDroppedEarly,
    /// 5: a checkpoint has no sessions.
    SessionsNotInCheckpoint,
    /// 6: log is applied again from the checkpoint's index on, not from the one behind it.
    ReplayFromCheckpoint,
    /// 7: a promise counts before it is synced.
    VoteNotSynced,
    /// 8: a vote is forgotten when the leader changes within a term.
    VoteClearedOnLeaderChange,
    /// 9: an entry of an older term is committed by counting.
    OldTermCommitted,
    /// 10: m − n + 1 votes are enough, although they are no majority.
    ElectionWithoutMajority,
    /// 11: one replica too few confirms a read.
    ReadConfirmedByTooFew,
    /// 12: a read is answered before the leader's no-op is committed.
    ReadBeforeNoop,
    /// 13: a replica whose own log is damaged answers that it does not have what it may have lost.
    CorruptCountedAsAbsent,
    /// 14: damage in the middle of the log is cut as if it were a torn tail.
    DamageCutAsTorn,
    /// 15: what a replica holds counts, although it is no member.
    LearnerCounted,
    /// 17: a replica votes, and its votes count, although its disk was wiped.
    WipedNodeVotes,
    /// 18: an acknowledgement of another term counts.
    AckWithoutTerm,
    /// 19: what a restart finds counts without being written and synced again.
    TailNotWrittenAgain,
    /// 20: a follower applies what it has, committed or not.
    FollowerAppliesAboveCommit,
    /// 21: what is durable is acknowledged, although it is not known to be the leader's.
    OldTailAcknowledged,
    /// 22: a sync counts that a truncation has overtaken.
    StaleSyncCounted,
    /// Not in the list: a damaged log is compared as it is, not as it was.
    DamagedLogForgotten,
    /// What the log holds behind a checkpoint that was installed goes, although the checkpoint leads to it.
    MatchingLogRestarted,
    /// 23: a configured leader commits without its own disk.
    CommitWithoutOwnDisk,
    /// Not in the list: a log that is missing is begun anew, whoever had it.
    MissingLogBegunAnew,
    /// Not in the list: batches go to a segment that would not be missed.
    NewestNotNoted,
    /// Not in the list: segments are removed from the log's end while they are noted to be there.
    NewestNotLowered,
    /// A session is answered without regard to its token (T14).
    TokenIgnored,
    /// A write of a session that is sent again is done again (T13).
    DoneAgain,
}

#[cfg(not(test))]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}

#[cfg(test)]
pub(crate) use switched::{is_on, with};

#[cfg(test)]
mod switched {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub(crate) fn is_on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Runs `test` with this bug in it, in this thread.
    pub(crate) fn with<T>(mutant: Mutant, test: impl FnOnce() -> T) -> T {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                ON.set(None);
            }
        }
        let _off = Off;
        ON.set(Some(mutant));
        test()
    }
}
