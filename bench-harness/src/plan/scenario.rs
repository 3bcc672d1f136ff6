//! Scenarios with names: faults that are asked for often, fitted into the measured time.

use std::time::Duration;

use super::{Action, Case, Fault, When, Who};
use crate::proxy::LinkSettings;

/// What a slowed sync takes longer, and what a slow link delays each way.
const SLOW: Duration = Duration::from_millis(10);

/// A named scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Scenario {
    /// A follower stands still for the second quarter (SIGSTOP)
    FollowerPause,
    /// A follower is killed after a quarter and started again at the half
    FollowerRestart,
    /// A follower is cut off for the second quarter, both ways
    FollowerCut,
    /// A follower gets nothing for the second quarter, but is heard
    OneWayCut,
    /// A follower's syncs take 10 ms longer for the second quarter
    SlowDisk,
    /// A follower's links have 10 ms more each way for the second quarter
    SlowLink,
    /// A follower stands still until it lacks --backlog of log, and then has to catch up under load
    CatchUp,
    /// The leader is killed after a quarter and started again at the half
    LeaderKill,
    /// The leader stands still for the second quarter (SIGSTOP)
    LeaderPause,
}

impl Scenario {
    /// What is done to a case's cluster.
    pub fn faults(self, case: &Case, backlog_bytes: u64) -> Vec<Fault> {
        let (node, leader) = (Who::Follower, Who::Leader);
        let quarter = case.load.duration / 4;
        let from_to = |begin, end| {
            let at = |quarters, action| Fault { when: When::At(quarter * quarters), action };
            vec![at(1, begin), at(2, end)]
        };
        match self {
            Self::FollowerPause => from_to(Action::Pause(node), Action::Resume(node)),
            Self::FollowerRestart => from_to(Action::Kill(node), Action::Restart(node)),
            Self::FollowerCut => from_to(Action::Isolate(node), Action::Heal),
            Self::OneWayCut => from_to(Action::Cut { from: leader, to: node }, Action::Heal),
            Self::SlowDisk => from_to(Action::SlowSync(node, SLOW), Action::SlowSync(node, Duration::ZERO)),
            Self::SlowLink => from_to(Action::Link(node, LinkSettings::delay(SLOW)), Action::Heal),
            Self::LeaderKill => from_to(Action::Kill(leader), Action::Restart(leader)),
            Self::LeaderPause => from_to(Action::Pause(leader), Action::Resume(leader)),
            Self::CatchUp => {
                let pause = Fault { when: When::At(quarter / 2), action: Action::Pause(node) };
                let when = When::Behind { node, bytes: backlog_bytes };
                vec![pause, Fault { when, action: Action::Resume(node) }]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::super::tests::case;
    use super::*;

    #[test]
    fn every_scenario_ends_what_it_begins_within_the_measured_time() {
        for scenario in Scenario::value_variants() {
            let mut case = case(2);
            case.faults = scenario.faults(&case, 1 << 20);
            assert_eq!(case.faults.len(), 2, "{scenario:?}");
            case.check().unwrap_or_else(|error| panic!("{scenario:?}: {error}"));
        }
    }

    #[test]
    fn a_follower_pauses_for_the_second_quarter() {
        let faults = Scenario::FollowerPause.faults(&case(2), 0);
        assert_eq!(
            faults.iter().map(Fault::to_string).collect::<Vec<_>>(),
            ["2500ms pause follower", "5s resume follower"]
        );
    }
}
